//! Answers that a node takes for those of another one: an owner that was given up may answer a forwarded
//! write, because what it says arrives over the link of the owner that has the write at present
//! ([`Flaw::HearsWhoWasGivenUp`]).
//!
//! And answers that arrive without what they said ([`Flaw::MintsWhileBehind`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use dynakv::runtime::shared::environment::ReadHalf;
use dynakv_protocol::causal::{Sibling, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{
    BatchWriter, Frame, FrameDecoder, KIND_BATCH, put_frame, split_batch,
};
use dynakv_protocol::message::kind;
use dynakv_protocol::peer::{ReadVersions, VersionsReply};
use tokio::io::{AsyncRead, ReadBuf};

use crate::machine::Flaw;

/// What the first byte of the number of a request is when an operation reads versions.
const OPERATION_READS: u64 = 2;

/// How much is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the links of one node share, in one of its lives.
pub(crate) struct Rerouting {
    state: Arc<Mutex<State>>,
    flaw: Flaw,
}

#[derive(Default)]
struct State {
    /// To whom each write was handed on last, by the number of the request.
    handed_on: BTreeMap<u64, String>,
    /// Requests that read versions and take no digest: those of a write, before or after it is minted.
    reads_of_writes: BTreeSet<u64>,
    /// Answers of others that are to arrive over the link to this address.
    arriving: BTreeMap<String, Vec<Frame>>,
    /// Who waits for something to arrive over that link.
    waiting: BTreeMap<String, Waker>,
}

impl Rerouting {
    /// Nothing for a flaw that is made elsewhere.
    pub(crate) fn of(flaw: Flaw) -> Option<Self> {
        let is_made_here = matches!(flaw, Flaw::HearsWhoWasGivenUp | Flaw::MintsWhileBehind);
        is_made_here.then(|| Self {
            state: Arc::default(),
            flaw,
        })
    }

    /// What is written to a link, and what is read from it.
    pub(crate) fn link(&self, to: &str, read: ReadHalf) -> (Outgoing, Incoming) {
        let outgoing = Outgoing {
            to: to.to_owned(),
            flaw: self.flaw,
            frames: Frames::default(),
            state: self.state.clone(),
        };
        let incoming = Incoming {
            to: to.to_owned(),
            read,
            frames: Frames::default(),
            out: BytesMut::new(),
            state: self.state.clone(),
        };
        (outgoing, incoming)
    }
}

/// Cuts a stream into messages.
struct Frames {
    decoder: FrameDecoder,
    seen: BytesMut,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            // The largest frame that nodes accept is smaller.
            decoder: FrameDecoder::new(u32::MAX as usize),
            seen: BytesMut::new(),
        }
    }
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.seen.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = self
            .decoder
            .next(&mut self.seen)
            .expect("a node sends frames")
        {
            match frame.header.kind {
                KIND_BATCH => {
                    split_batch(frame, |item| frames.push(item)).expect("a node sends batches");
                }
                _ => frames.push(frame),
            }
        }
        frames
    }
}

/// Takes note of what is handed on.
pub(crate) struct Outgoing {
    to: String,
    flaw: Flaw,
    frames: Frames,
    state: Arc<Mutex<State>>,
}

impl Outgoing {
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        for Frame { header, body } in self.frames.take(bytes) {
            let (id, mut state) = (header.request_id, lock(&self.state));
            match self.flaw {
                Flaw::HearsWhoWasGivenUp if header.is_forwarded() => {
                    state.handed_on.insert(id, self.to.clone());
                }
                Flaw::MintsWhileBehind
                    if header.kind == kind::READ && id >> 56 == OPERATION_READS =>
                {
                    let read = ReadVersions::from_bytes(&body);
                    let read = read.expect("a node sends what can be read");
                    match read.digest_above.is_none() && !read.tell_actor {
                        true => state.reads_of_writes.insert(id),
                        false => state.reads_of_writes.remove(&id),
                    };
                }
                _ => {}
            }
        }
    }
}

/// Hears answers of others.
pub(crate) struct Incoming {
    to: String,
    read: ReadHalf,
    frames: Frames,
    out: BytesMut,
    state: Arc<Mutex<State>>,
}

impl Incoming {
    fn sort(&mut self, bytes: &[u8]) {
        const PUT: u8 = kind::PUT | kind::ANSWER;
        const DELETED: u8 = kind::DELETE | kind::ANSWER;
        const VERSIONS: u8 = kind::READ | kind::ANSWER;
        for mut frame in self.frames.take(bytes) {
            let mut state = lock(&self.state);
            let id = frame.header.request_id;
            if frame.header.kind == VERSIONS && state.reads_of_writes.contains(&id) {
                frame.body = without_marks(&frame.body);
            }
            let is_write = matches!(frame.header.kind, PUT | DELETED);
            let has_it_now = state.handed_on.get(&frame.header.request_id).cloned();
            match has_it_now.filter(|it| is_write && *it != self.to) {
                Some(other) => {
                    let waker = state.waiting.remove(&other);
                    state.arriving.entry(other).or_default().push(frame);
                    waker.into_iter().for_each(Waker::wake);
                }
                None => put_frame(&mut self.out, frame.header, |out| {
                    out.extend_from_slice(&frame.body);
                }),
            }
        }
    }

    fn take_arriving(&mut self) {
        let arriving = lock(&self.state).arriving.remove(&self.to);
        let mut batch = BatchWriter::default();
        for Frame { header, body } in arriving.into_iter().flatten() {
            batch.push(&mut self.out, header, |out| out.extend_from_slice(&body));
        }
        batch.finish(&mut self.out);
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.take_arriving();
            if !self.out.is_empty() {
                let length = self.out.len().min(buffer.remaining());
                buffer.put_slice(&self.out[..length]);
                self.out.advance(length);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut read = ReadBuf::new(&mut chunk);
            if Pin::new(&mut self.read)
                .poll_read(context, &mut read)?
                .is_pending()
            {
                let (to, waker) = (self.to.clone(), context.waker().clone());
                lock(&self.state).waiting.insert(to, waker);
                return Poll::Pending;
            }
            let bytes = read.filled().to_vec();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.sort(&bytes);
        }
    }
}

/// An answer to a read without the marks in its versions.
fn without_marks(body: &Bytes) -> Bytes {
    let reply = VersionsReply::from_bytes(body);
    let mut reply = reply.expect("a node sends what can be read");
    if !reply.versions.is_empty() {
        let versions = Versions::from_bytes(&reply.versions);
        let mut versions = versions.expect("a node sends what can be read");
        versions.retain(|sibling: &Sibling| sibling.mark().is_none());
        reply.versions = versions.to_bytes();
    }
    reply.to_bytes()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
