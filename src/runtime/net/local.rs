//! The connection of the program that the node runs in: a connection like any other, without a socket.
//!
//! Requests become frames and go to the coordinator and the control task as if they had come in over
//! the network, so that checks, bounds and metrics are the same ones. Answers come out of an outbox that
//! a task of the node empties, instead of a writer with a socket.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::DecodeError;
use dynakv_protocol::frame::{Frame, FrameDecoder, Header, split_batch};
use dynakv_protocol::limits::FRAME_BYTES_MAX;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::traffic::TrafficClass;
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::runtime::shared::events::{
    ConnectionId, ControlEvent, ControlSender, CoordinatorEvent, CoordinatorSender, Responder,
};
use crate::runtime::shared::ledger::{Charge, Kind, Ledger};
use crate::runtime::shared::outbox::Outbox;

/// How long after its deadline a request still waits for the node to say so. The node's answer tells
/// more than silence, and it has always come by then unless the runtime is stuck.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// Why the node has ended, told once, by whoever knows first.
#[derive(Debug, Clone, Default)]
pub struct EndReason(Arc<OnceLock<String>>);

impl EndReason {
    /// Keeps the reason, unless there is one already.
    pub fn tell(&self, reason: impl Into<String>) {
        // The first reason is the one that explains the others.
        let _ = self.0.set(reason.into());
    }

    /// What is known of it.
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// Why a local request has no answer.
#[derive(Debug)]
pub struct LocalError {
    /// Whether the node may have begun with it.
    pub begun: bool,
    /// What happened.
    pub cause: LocalCause,
}

/// What happened to a local request.
#[derive(Debug)]
pub enum LocalCause {
    /// The node has ended, or is about to.
    Ended(String),
    /// The deadline passed.
    TimedOut,
    /// The answer could not be decoded: a defect.
    Undecodable(DecodeError),
}

/// How much the program's own requests may take of a node.
#[derive(Debug, Clone, Copy)]
pub struct LocalBounds {
    /// The most requests that the node takes in hand.
    pub requests_max: usize,
    /// The most bytes of requests that it takes in hand.
    pub bytes_max: usize,
}

/// The program's side of its connection to the node.
#[derive(Debug)]
pub struct Local {
    connection: ConnectionId,
    coordinator: CoordinatorSender,
    control: ControlSender,
    outbox: Arc<Outbox>,
    ledger: Arc<Ledger>,
    state: Mutex<State>,
    /// Requests beyond it wait here, and are not refused.
    window: Semaphore,
    window_units: usize,
    window_unit_bytes: usize,
    end: EndReason,
}

#[derive(Debug, Default)]
struct State {
    waiting: FxHashMap<u64, oneshot::Sender<Frame>>,
    next_id: u64,
    has_ended: bool,
}

impl Local {
    /// Opens a connection to these tasks. Its answers arrive only while [`run`](Self::run) does. That of
    /// anti-entropy may ask what nodes ask of each other.
    pub async fn open(
        connection: ConnectionId,
        coordinator: CoordinatorSender,
        control: ControlSender,
        (bounds, ledger): (LocalBounds, Arc<Ledger>),
        end: EndReason,
    ) -> Arc<Self> {
        // Half of what the node takes: the other half stays for those that come over the network.
        let window_units = (bounds.requests_max / 2).clamp(1, u32::MAX as usize);
        let window_units = window_units.min(Semaphore::MAX_PERMITS);
        let outbox = Arc::<Outbox>::default();
        let opened = CoordinatorEvent::Opened {
            connection,
            outbox: outbox.clone(),
            is_peer: connection == ConnectionId::ANTI_ENTROPY,
            caller: None,
            since: Instant::now(),
        };
        // Before any request: answers to a connection that is not open are dropped. If the coordinator
        // has ended already, so will `run`.
        let _ = coordinator.send(opened).await;
        Arc::new(Self {
            connection,
            coordinator,
            control,
            outbox,
            ledger,
            state: Mutex::default(),
            window: Semaphore::new(window_units),
            window_units,
            window_unit_bytes: (bounds.bytes_max / 2 / window_units).max(1),
            end,
        })
    }

    /// Hands answers to those who wait for them, until the coordinator has ended.
    pub async fn run(self: Arc<Self>) {
        // However this ends, nobody is left waiting.
        let _end = EndOnDrop(&self);
        let mut is_over = false;
        loop {
            tokio::select! {
                biased;
                taken = self.outbox.taken() => match taken {
                    Some(chunks) => chunks.into_iter().for_each(|chunk| self.hand_out(chunk)),
                    None => return,
                },
                // Its last answers are in the outbox by now.
                () = self.coordinator.closed(), if !is_over => {
                    is_over = true;
                    self.outbox.close();
                }
            }
        }
    }

    /// The most requests that are under way at once; whoever comes beyond it waits.
    pub fn requests_in_flight_max(&self) -> usize {
        self.window_units
    }

    /// Sends a request and waits for its answer. May be dropped at any time.
    ///
    /// # Errors
    /// [`LocalError`]. What the node refuses is an answer, and no error here.
    pub async fn call(&self, request: &Request, deadline: Instant) -> Result<Response, LocalError> {
        let unsent = |cause| LocalError {
            begun: false,
            cause,
        };
        let units = 1 + request_bytes(request) / self.window_unit_bytes;
        // At most the window's, which fits.
        let units = units.min(self.window_units) as u32;
        let _permit = match timeout_at(deadline, self.window.acquire_many(units)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(unsent(self.ended())),
            Err(_elapsed) => return Err(unsent(LocalCause::TimedOut)),
        };
        // A place that is free at once is given whatever the time is.
        if Instant::now() >= deadline {
            return Err(unsent(LocalCause::TimedOut));
        }
        let (sender, answer) = oneshot::channel();
        let Some(id) = self.enter(sender) else {
            return Err(unsent(self.ended()));
        };
        let _waiting = Waiting { local: self, id };
        match timeout_at(deadline, self.send(id, request)).await {
            Ok(true) => {}
            Ok(false) => return Err(unsent(self.ended())),
            Err(_elapsed) => return Err(unsent(LocalCause::TimedOut)),
        }
        let begun = |cause| LocalError { begun: true, cause };
        match timeout_at(deadline + ANSWER_GRACE, answer).await {
            Ok(Ok(frame)) => Response::decode(frame.header.kind, &frame.body)
                .map_err(|error| begun(LocalCause::Undecodable(error))),
            Ok(Err(_dropped)) => Err(begun(self.ended())),
            Err(_elapsed) => Err(begun(LocalCause::TimedOut)),
        }
    }

    /// Hands the request to the task that it is for; false when that has ended.
    async fn send(&self, id: u64, request: &Request) -> bool {
        match TrafficClass::of(request.kind()) {
            Some(
                TrafficClass::Client
                | TrafficClass::Export
                | TrafficClass::Replica
                | TrafficClass::Mending,
            ) => {
                let mut body = BytesMut::new();
                request.encode(&mut body);
                let kind = match self.connection {
                    ConnectionId::ANTI_ENTROPY => Kind::PeerRequests,
                    _ => Kind::ClientRequests,
                };
                let frame = Frame {
                    header: Header::new(request.kind(), id),
                    body: Charge::of(&self.ledger, kind, body.freeze()),
                };
                let requests = CoordinatorEvent::Requests {
                    connection: self.connection,
                    frames: vec![frame],
                };
                self.coordinator.send(requests).await.is_ok()
            }
            // Whoever has no socket needs no greeting; the control task says so.
            Some(TrafficClass::Control | TrafficClass::Handshake | TrafficClass::Liveness)
            | None => {
                let event = ControlEvent::Request {
                    request: Box::new(request.clone()),
                    body: Bytes::new(),
                    peer: None,
                    responder: Responder {
                        outbox: self.outbox.clone(),
                        request_id: id,
                    },
                };
                self.control.send(event).await.is_ok()
            }
        }
    }

    /// Enters somebody who waits; nothing once the node has ended.
    fn enter(&self, sender: oneshot::Sender<Frame>) -> Option<u64> {
        let mut state = self.lock();
        if state.has_ended {
            return None;
        }
        state.next_id += 1;
        let id = state.next_id;
        state.waiting.insert(id, sender);
        Some(id)
    }

    /// Gives each answer of a chunk of whole frames to whoever waits for it.
    fn hand_out(&self, chunk: Bytes) {
        let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        let mut buffer = BytesMut::from(chunk);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => {
                    let split = split_batch(frame, |frame| {
                        let waiting = self.lock().waiting.remove(&frame.header.request_id);
                        // Whoever has gone needs no answer.
                        let _ = waiting.map(|sender| sender.send(frame));
                    });
                    if let Err(error) = split {
                        tracing::error!(%error, "answers of this node are no batch");
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    // The node made these bytes itself, so this is a defect; those whose answer it
                    // was run into their deadlines.
                    tracing::error!(%error, "an answer of this node is no frame");
                    return;
                }
            }
        }
    }

    fn ended(&self) -> LocalCause {
        let reason = self.end.get();
        LocalCause::Ended(reason.unwrap_or("the node has ended").to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and every step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a request out of the table when its caller stops waiting.
struct Waiting<'a> {
    local: &'a Local,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.local.lock().waiting.remove(&self.id);
    }
}

/// Tells everybody who waits that no answer will come.
struct EndOnDrop<'a>(&'a Local);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.outbox.close();
        let waiting = {
            let mut state = self.0.lock();
            state.has_ended = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
        self.0.window.close();
    }
}

/// About how many bytes a request has.
fn request_bytes(request: &Request) -> usize {
    match request {
        Request::Put(write) | Request::Delete(write) => {
            let value = write.value.as_ref().map_or(0, Bytes::len);
            let context = write.context.as_ref().map_or(0, Bytes::len);
            write.key.len() + value + context
        }
        Request::Get(get) => get.key.len(),
        Request::Merge(merge) => merge.key.len() + merge.versions.len(),
        Request::Replace(replace) => replace.key.len() + replace.versions.len(),
        // The others are small.
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
