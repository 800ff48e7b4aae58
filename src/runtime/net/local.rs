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
        match request {
            Request::Get(_)
            | Request::Put(_)
            | Request::Delete(_)
            | Request::Merge(_)
            | Request::Read(_)
            | Request::Compare(_)
            | Request::List(_)
            | Request::Replace(_) => {
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
            _ => {
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
mod tests {
    use dynakv_protocol::client::{Fetched, Get};
    use dynakv_protocol::frame::put_frame;
    use tokio::sync::mpsc;

    use super::*;

    const BOUNDS: LocalBounds = LocalBounds {
        requests_max: 8,
        bytes_max: 8000,
    };

    /// A local connection whose coordinator and control task are the test.
    struct Desk {
        local: Arc<Local>,
        requests: mpsc::Receiver<CoordinatorEvent>,
        control: mpsc::Receiver<ControlEvent>,
        end: EndReason,
        pump: tokio::task::JoinHandle<()>,
    }

    async fn desk() -> Desk {
        let (coordinator, mut requests) = mpsc::channel(64);
        let (control_in, control) = mpsc::channel(64);
        let end = EndReason::default();
        let local = Local::open(
            ConnectionId::LOCAL,
            coordinator,
            control_in,
            (BOUNDS, Arc::new(Ledger::new(BOUNDS.bytes_max))),
            end.clone(),
        )
        .await;
        let opened = requests.recv().await;
        assert!(matches!(opened, Some(CoordinatorEvent::Opened { .. })));
        let pump = tokio::spawn(local.clone().run());
        Desk {
            local,
            requests,
            control,
            end,
            pump,
        }
    }

    impl Desk {
        /// The ids of all requests that have arrived.
        fn arrived(&mut self) -> Vec<u64> {
            let mut ids = Vec::new();
            while let Ok(CoordinatorEvent::Requests { frames, .. }) = self.requests.try_recv() {
                ids.extend(frames.iter().map(|frame| frame.header.request_id));
            }
            ids
        }

        /// Answers all of them in one piece, as a turn of the coordinator does.
        fn answer(&self, ids: &[u64]) {
            let mut out = BytesMut::new();
            for &id in ids {
                let response = Response::Fetched(Fetched {
                    siblings: Vec::new(),
                    context: Bytes::new(),
                    effective_r: id as u8,
                });
                put_frame(&mut out, Header::new(response.kind(), id), |out| {
                    response.encode(out);
                });
            }
            self.local.outbox.push(out.freeze());
        }
    }

    fn get(key: &[u8]) -> Request {
        Request::Get(Get {
            timeout_ms: 1000,
            key: Bytes::copy_from_slice(key),
            r: None,
            repair_first: false,
        })
    }

    fn call(
        desk: &Desk,
        key: &'static [u8],
        limit: Duration,
    ) -> tokio::task::JoinHandle<Result<Response, LocalError>> {
        let local = desk.local.clone();
        tokio::spawn(async move { local.call(&get(key), Instant::now() + limit).await })
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn callers_beyond_the_window_wait_for_a_place() {
        let mut desk = desk().await;
        let calls: Vec<_> = (0..8).map(|_| call(&desk, b"k", LONG)).collect();
        settle().await;
        let first = desk.arrived();
        assert_eq!(first.len(), BOUNDS.requests_max / 2);
        desk.answer(&first[..2]);
        settle().await;
        let next = desk.arrived();
        assert_eq!(next.len(), 2, "a place for each that was answered");
        desk.answer(&first[2..]);
        settle().await;
        let last = desk.arrived();
        desk.answer(&next);
        desk.answer(&last);
        for call in calls {
            assert!(matches!(call.await.unwrap(), Ok(Response::Fetched(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_take_several_places_and_never_more_than_all() {
        let mut desk = desk().await;
        // Half of 8000 bytes in 4 places: 1000 bytes each.
        let large = call(&desk, &[b'k'; 3500], LONG);
        let small = call(&desk, b"k", LONG);
        settle().await;
        let first = desk.arrived();
        assert_eq!(first.len(), 1, "there is no place for the second");
        desk.answer(&first);
        settle().await;
        let second = desk.arrived();
        desk.answer(&second);
        assert!(large.await.unwrap().is_ok() && small.await.unwrap().is_ok());
        let huge = call(&desk, &[b'k'; 4096], LONG);
        settle().await;
        let third = desk.arrived();
        assert_eq!(third.len(), 1, "larger than the window, it goes alone");
        desk.answer(&third);
        assert!(huge.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_gives_its_place_back_and_its_answer_hurts_nobody() {
        let mut desk = desk().await;
        let calls: Vec<_> = (0..4).map(|_| call(&desk, b"k", LONG)).collect();
        settle().await;
        let gone = desk.arrived();
        for call in &calls {
            call.abort();
        }
        let stays = call(&desk, b"k", LONG);
        settle().await;
        let arrived = desk.arrived();
        assert_eq!(arrived.len(), 1);
        assert_eq!(desk.local.lock().waiting.len(), 1);
        desk.answer(&[&gone[..], &arrived].concat());
        match stays.await.unwrap() {
            Ok(Response::Fetched(fetched)) => assert_eq!(fetched.effective_r, arrived[0] as u8),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_kept_whether_the_request_was_sent_or_not() {
        let mut desk = desk().await;
        let calls: Vec<_> = (0..5)
            .map(|_| call(&desk, b"k", Duration::from_secs(3)))
            .collect();
        let mut begun = Vec::new();
        for call in calls {
            match call.await.unwrap() {
                Err(LocalError {
                    begun: was_begun,
                    cause: LocalCause::TimedOut,
                }) => begun.push(was_begun),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(begun, [true, true, true, true, false]);
        assert_eq!(desk.arrived().len(), 4);
        assert!(desk.local.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_once_the_deadline_has_passed() {
        let mut desk = desk().await;
        let late = call(&desk, b"k", Duration::ZERO).await.unwrap();
        match late {
            Err(LocalError {
                begun: false,
                cause: LocalCause::TimedOut,
            }) => {}
            other => panic!("{other:?}"),
        }
        assert!(desk.arrived().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_coordinator_ends_its_last_answers_arrive_and_the_others_hear_why() {
        let mut desk = desk().await;
        let calls: Vec<_> = (0..5).map(|_| call(&desk, b"k", LONG)).collect();
        settle().await;
        let arrived = desk.arrived();
        desk.end.tell("enough");
        desk.end.tell("too late to be the reason");
        desk.answer(&arrived[..1]);
        desk.requests = mpsc::channel(1).1;
        let mut ends = Vec::new();
        for call in calls {
            ends.push(match call.await.unwrap() {
                Ok(_) => "answered".to_owned(),
                Err(LocalError {
                    begun,
                    cause: LocalCause::Ended(reason),
                }) => format!("{begun} {reason}"),
                Err(other) => panic!("{other:?}"),
            });
        }
        let lost = "true enough";
        assert_eq!(ends, ["answered", lost, lost, lost, "false enough"]);
        desk.pump.await.unwrap();
        let late = desk.local.call(&get(b"k"), Instant::now() + LONG).await;
        assert!(matches!(late, Err(LocalError { begun: false, .. })));
    }

    /// The runtime that the node lives on may end while another one still asks.
    #[tokio::test(start_paused = true)]
    async fn when_the_pump_is_dropped_nobody_is_left_waiting() {
        let desk = desk().await;
        let waiting = call(&desk, b"k", LONG);
        settle().await;
        desk.pump.abort();
        let started = Instant::now();
        let end = waiting.await.unwrap();
        assert!(
            matches!(end, Err(LocalError { begun: true, .. })),
            "{end:?}"
        );
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_about_nodes_go_to_the_control_task() {
        let mut desk = desk().await;
        let local = desk.local.clone();
        let asked =
            tokio::spawn(async move { local.call(&Request::Health, Instant::now() + LONG).await });
        match desk.control.recv().await {
            Some(ControlEvent::Request {
                request,
                body: _,
                peer: None,
                responder,
            }) => {
                assert_eq!(*request, Request::Health);
                responder.respond(&Response::Pong);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(asked.await.unwrap(), Ok(Response::Pong)));
    }
}
