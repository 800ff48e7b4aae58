//! Calls of the program against a coordinator that the test plays.

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
