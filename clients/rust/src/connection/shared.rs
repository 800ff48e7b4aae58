//! What the callers of a connection share with the task that owns its socket: who waits, and what is to be written.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use dynakv_protocol::DecodeError;
use dynakv_protocol::frame::{BatchWriter, Frame, Header};
use dynakv_protocol::handshake::GoAway;
use dynakv_protocol::message::Request;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, Semaphore, oneshot};

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) struct CallError {
    /// Whether the request may have reached the node.
    pub(crate) sent: bool,
    /// What happened.
    pub(crate) cause: Cause,
}

/// What happened to a call.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The connection is gone.
    Closed(Arc<str>),
    /// The deadline passed.
    TimedOut,
    /// The answer could not be decoded.
    Undecodable(DecodeError),
}

impl CallError {
    /// The deadline passed before the request was written anywhere.
    pub(super) const NOT_SENT_IN_TIME: Self = Self {
        sent: false,
        cause: Cause::TimedOut,
    };
}

/// What callers and the task that owns the socket share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) to_write: Notify,
    /// Places for requests in flight; callers beyond it wait.
    pub(super) window: Semaphore,
    pub(super) window_places: u32,
    /// How many reads have brought something: tells a slow node from a dead one.
    pub(super) reads: AtomicU64,
    /// Bytes written since the last read.
    pub(super) unanswered_bytes: AtomicU64,
    /// Set together with the reason in the state, to be looked at without the lock.
    pub(super) closed: AtomicBool,
    /// Somebody waits again, so the connection is to be watched again.
    pub(super) to_watch: Notify,
}

/// What is behind its lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) waiting: FxHashMap<u64, oneshot::Sender<Result<Frame, CallError>>>,
    pub(super) outgoing: BytesMut,
    /// The frame at the end of `outgoing` that still takes requests.
    pub(super) batch: BatchWriter,
    pub(super) next_id: u64,
    /// Requests below this id have been handed to the socket. Ids are given in the order of the
    /// outgoing buffer, so this one number says for each request whether it was sent.
    pub(super) sent_before: u64,
    /// Nobody waited when the connection was looked at last: whoever comes next starts the watch.
    pub(super) unwatched: bool,
    /// The node takes no more requests here, and still answers those that it took: why.
    pub(super) leaving: Option<Arc<str>>,
    pub(super) closed: Option<Arc<str>>,
}

impl State {
    /// Appends a request to what is to be written; gives its id.
    pub(super) fn push(&mut self, request: &Request) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let header = Header::new(request.kind(), id);
        self.batch
            .push(&mut self.outgoing, header, |out| request.encode(out));
        id
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and every step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enqueue(
        &self,
        request: &Request,
    ) -> Result<(u64, oneshot::Receiver<Result<Frame, CallError>>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let mut locked = self.lock();
        let state = &mut *locked;
        if let Some(reason) = state.closed.as_ref().or(state.leaving.as_ref()) {
            return Err(CallError {
                sent: false,
                cause: Cause::Closed(Arc::clone(reason)),
            });
        }
        let id = state.push(request);
        state.waiting.insert(id, sender);
        let was_unwatched = std::mem::take(&mut state.unwatched);
        drop(locked);
        self.to_write.notify_one();
        if was_unwatched {
            self.to_watch.notify_one();
        }
        Ok((id, receiver))
    }

    /// Asks for a sign of life. Nobody waits for the answer: that bytes come is enough.
    pub(super) fn ping(&self) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.push(&Request::Ping);
        }
        drop(state);
        self.to_write.notify_one();
    }

    /// Whether somebody waits; if not, the next one says so.
    pub(super) fn is_watched(&self) -> bool {
        let mut state = self.lock();
        state.unwatched = state.waiting.is_empty();
        !state.unwatched
    }

    /// Swaps what is to be written against an empty buffer; false when there is nothing.
    pub(super) fn take_outgoing(&self, spare: &mut BytesMut) -> bool {
        let mut locked = self.lock();
        let state = &mut *locked;
        if state.outgoing.is_empty() {
            return false;
        }
        state.batch.finish(&mut state.outgoing);
        std::mem::swap(&mut state.outgoing, spare);
        state.sent_before = state.next_id;
        true
    }

    pub(super) fn complete(&self, answers: &mut Vec<Frame>) {
        let mut state = self.lock();
        for frame in answers.drain(..) {
            // An unknown id is an answer whose caller has gone.
            if let Some(sender) = state.waiting.remove(&frame.header.request_id) {
                let _gone = sender.send(Ok(frame));
            }
        }
    }

    /// The node takes no requests behind this one: they were certainly not carried out, and go elsewhere. The others
    /// wait on for their answers.
    pub(super) fn leave(&self, goaway: &GoAway) {
        let reason: Arc<str> = goaway.reason.as_str().into();
        let mut state = self.lock();
        state.leaving = Some(Arc::clone(&reason));
        // Of no use for what is new, and so dialled anew.
        self.closed.store(true, Ordering::Release);
        // What waits to be written is behind it, too.
        state.outgoing = BytesMut::new();
        state.batch = BatchWriter::default();
        let is_behind = |id: &u64| *id > goaway.last_id;
        let ids: Vec<u64> = state.waiting.keys().copied().filter(is_behind).collect();
        let behind: Vec<_> = ids
            .iter()
            .filter_map(|id| state.waiting.remove(id))
            .collect();
        drop(state);
        for sender in behind {
            let cause = Cause::Closed(Arc::clone(&reason));
            let _gone = sender.send(Err(CallError { sent: false, cause }));
        }
    }

    /// Ends the connection for every caller, once.
    pub(super) fn close(&self, reason: Arc<str>) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(Arc::clone(&reason));
        self.closed.store(true, Ordering::Release);
        state.outgoing = BytesMut::new();
        state.batch = BatchWriter::default();
        let sent_before = state.sent_before;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (id, sender) in waiting {
            let cause = Cause::Closed(Arc::clone(&reason));
            let sent = id < sent_before;
            let _gone = sender.send(Err(CallError { sent, cause }));
        }
        self.window.close();
        self.to_write.notify_one();
    }

    pub(super) fn closed_error(&self) -> CallError {
        let reason = self.lock().closed.clone();
        CallError {
            sent: false,
            cause: Cause::Closed(reason.unwrap_or_else(|| "closed".into())),
        }
    }

    pub(super) fn closed_error_sent(&self) -> CallError {
        CallError {
            sent: true,
            ..self.closed_error()
        }
    }
}
