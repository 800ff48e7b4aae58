//! The attempts of a request: to the one node, and again while it has too much in hand.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynakv_client::transport::begin_attempt;
use dynakv_client::{Error, Transport};
use dynakv_protocol::limits::TIMEOUT_MS_DEFAULT;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{ErrorCode, WriteId};
use tokio::time::{Instant, sleep_until};

use super::LocalClient;
use crate::runtime::net::local::LocalCause;

/// The pause before the first retry of a request that the node was too busy for; doubled each time.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The longest such pause.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(100);

/// To the node of this process, without a socket. A request that finds the node too busy is sent again
/// within its deadline; any other error is the caller's at once.
impl Transport for LocalClient {
    fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(TIMEOUT_MS_DEFAULT))
    }

    fn next_write_id(&self) -> WriteId {
        let number = self.inner.writes.fetch_add(1, Ordering::Relaxed);
        WriteId::new(self.inner.writer, number)
    }

    fn requests_in_flight_max(&self) -> usize {
        self.inner.local.requests_in_flight_max()
    }

    async fn execute<A>(
        &self,
        mut request: Request,
        deadline: Instant,
        extract: impl Fn(Response) -> Option<A> + Send,
    ) -> Result<A, Error> {
        let started = Instant::now();
        let mut pause = BUSY_PAUSE;
        let mut maybe_applied = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            begin_attempt(&mut request, timeout_ms.max(1), maybe_applied);
            let error = match self.attempt(&request, started, deadline).await {
                Ok(response) => match extract(response) {
                    Some(answer) => return Ok(answer),
                    None => Error::Protocol {
                        address: self.inner.address.clone(),
                        reason: "an answer to another kind of request".to_owned(),
                        maybe_applied: is_write(&request),
                    },
                },
                Err(error) => error,
            };
            maybe_applied |= error.maybe_applied();
            let is_busy = error.code() == Some(ErrorCode::Overloaded) && error.is_retryable();
            let next = Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if !is_busy || next >= deadline {
                return Err(error.or_maybe_applied(maybe_applied));
            }
            sleep_until(next).await;
            // The timer is late. What the node said tells more than that the time is up.
            if Instant::now() >= deadline {
                return Err(error.or_maybe_applied(maybe_applied));
            }
            pause = (pause * 2).min(BUSY_PAUSE_MAX);
        }
    }
}

impl LocalClient {
    async fn attempt(
        &self,
        request: &Request,
        started: Instant,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let is_write = is_write(request);
        let address = || self.inner.address.clone();
        let error = match self.inner.local.call(request, deadline).await {
            Ok(Response::Error(mut reply)) => {
                // Whatever a node says, a read applies nothing.
                reply.maybe_applied &= is_write;
                return Err(Error::from_reply(&self.inner.address, reply));
            }
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let maybe_applied = error.begun && is_write;
        Err(match error.cause {
            LocalCause::Ended(reason) if error.begun => Error::ConnectionLost {
                address: address(),
                reason: reason.into(),
                maybe_applied,
            },
            LocalCause::Ended(reason) => Error::Unreachable {
                address: address(),
                reason: reason.into(),
                maybe_applied,
            },
            LocalCause::TimedOut => Error::Timeout {
                address: address(),
                waited: started.elapsed(),
                maybe_applied,
            },
            LocalCause::Undecodable(error) => Error::Protocol {
                address: address(),
                reason: error.to_string(),
                maybe_applied,
            },
        })
    }
}

fn is_write(request: &Request) -> bool {
    matches!(request, Request::Put(_) | Request::Delete(_))
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;
    use std::sync::Arc;

    use bytes::{Bytes, BytesMut};
    use dynakv_protocol::ErrorReply;
    use dynakv_protocol::client::{Fetched, Write, Written};
    use dynakv_protocol::frame::{Header, put_frame};
    use tokio::sync::mpsc;
    use tokio::task::yield_now;

    use super::*;
    use crate::runtime::net::local::{EndReason, Local, LocalBounds};
    use crate::runtime::shared::events::{ConnectionId, CoordinatorEvent};
    use crate::runtime::shared::ledger::Ledger;
    use crate::runtime::shared::outbox::Outbox;

    const BOUNDS: LocalBounds = LocalBounds {
        requests_max: 8,
        bytes_max: 8000,
    };

    /// The coordinator's side of a client's connection, in the hands of the test.
    struct Desk {
        requests: mpsc::Receiver<CoordinatorEvent>,
        outbox: Arc<Outbox>,
    }

    async fn desk() -> (LocalClient, Desk) {
        let (coordinator, mut requests) = mpsc::channel(64);
        let local = Local::open(
            ConnectionId::LOCAL,
            coordinator,
            mpsc::channel(1).0,
            (BOUNDS, Arc::new(Ledger::new(BOUNDS.bytes_max))),
            EndReason::default(),
        )
        .await;
        let Some(CoordinatorEvent::Opened { outbox, .. }) = requests.recv().await else {
            panic!("it is not open");
        };
        tokio::spawn(local.clone().run());
        let client = LocalClient::new(local, "here:1".to_owned(), 7);
        (client, Desk { requests, outbox })
    }

    impl Desk {
        /// The requests that have arrived, once everybody waits.
        async fn arrived(&mut self) -> Vec<(u64, Request)> {
            for _ in 0..1000 {
                yield_now().await;
            }
            let mut requests = Vec::new();
            while let Ok(CoordinatorEvent::Requests { frames, .. }) = self.requests.try_recv() {
                requests.extend(frames.iter().map(|frame| {
                    let request = Request::decode(frame.header.kind, &frame.body).unwrap();
                    (frame.header.request_id, request)
                }));
            }
            requests
        }

        /// Waits for the one write that is under way.
        async fn write(&mut self) -> (u64, Write) {
            let Some(CoordinatorEvent::Requests { frames, .. }) = self.requests.recv().await else {
                panic!("no request");
            };
            match Request::decode(frames[0].header.kind, &frames[0].body) {
                Ok(Request::Put(write)) => (frames[0].header.request_id, write),
                other => panic!("{other:?}"),
            }
        }

        fn answer(&self, id: u64, response: &Response) {
            let mut out = BytesMut::new();
            put_frame(&mut out, Header::new(response.kind(), id), |out| {
                response.encode(out);
            });
            self.outbox.push(out.freeze());
        }

        fn refuse(&self, id: u64, code: ErrorCode, maybe_applied: bool) {
            let mut reply = ErrorReply::new(code, "for the test");
            reply.retryable = true;
            reply.maybe_applied = maybe_applied;
            self.answer(id, &Response::Error(reply));
        }
    }

    fn absent() -> Response {
        Response::Fetched(Fetched {
            siblings: Vec::new(),
            context: Bytes::new(),
            effective_r: 1,
        })
    }

    /// One write however often it is sent, and the node hears that there may be copies of it.
    #[tokio::test(start_paused = true)]
    async fn a_busy_node_is_asked_again_and_told_what_an_earlier_attempt_may_have_done() {
        let (client, mut desk) = desk().await;
        let put = client.put("k", "v").timeout(Duration::from_secs(1));
        let put = tokio::spawn(put.into_future());
        let (id, first) = desk.write().await;
        assert_eq!((first.again, first.timeout_ms), (false, 1000));
        desk.refuse(id, ErrorCode::Overloaded, false);
        let (id, second) = desk.write().await;
        assert!(!second.again && second.timeout_ms < 1000);
        desk.refuse(id, ErrorCode::Overloaded, true);
        let (id, third) = desk.write().await;
        assert!(third.again && third.timeout_ms < second.timeout_ms);
        assert_eq!(third.write_id, first.write_id);
        let written = Written {
            context: Bytes::new(),
            effective_w: 1,
            sloppy: false,
            replaced: 0,
        };
        desk.answer(id, &Response::Put(written));
        assert_eq!(put.await.unwrap().unwrap().effective_w, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_the_callers_at_once_with_what_may_have_been_applied() {
        let (client, mut desk) = desk().await;
        let put = tokio::spawn(client.put("k", "v").into_future());
        let (id, _) = desk.write().await;
        desk.refuse(id, ErrorCode::Overloaded, true);
        let (id, _) = desk.write().await;
        desk.refuse(id, ErrorCode::QuorumUnavailable, false);
        let error = put.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::QuorumUnavailable));
        assert!(error.maybe_applied(), "the first attempt: {error:?}");
        assert!(desk.arrived().await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stays_busy_is_asked_until_the_deadline() {
        let (client, mut desk) = desk().await;
        let started = Instant::now();
        let put = client.put("k", "v").timeout(Duration::from_secs(1));
        let put = tokio::spawn(put.into_future());
        let mut attempts = 0;
        while !put.is_finished() {
            for (id, _) in desk.arrived().await {
                attempts += 1;
                desk.refuse(id, ErrorCode::Overloaded, false);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = put.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Overloaded));
        assert!(started.elapsed() <= Duration::from_secs(1));
        // Pauses of at most 5, 10, 20, 40, 80 and from then on 100 ms, and the test looks once in a while.
        assert!((12..=30).contains(&attempts), "{attempts} attempts");
    }

    /// A call for many keys has no more of them wait for a place than there are places.
    #[tokio::test(start_paused = true)]
    async fn a_call_for_many_keys_lets_others_have_their_turn() {
        let (client, mut desk) = desk().await;
        let keys = (0..100).map(|number| format!("{number}"));
        let many = tokio::spawn(client.get_many(keys).into_future());
        let first = desk.arrived().await;
        assert_eq!(first.len(), BOUNDS.requests_max / 2);
        let other = tokio::spawn(client.get("other").into_future());
        let mut waiting = first;
        let mut turns = 0;
        while !other.is_finished() {
            turns += 1;
            for (id, _) in &waiting {
                desk.answer(*id, &absent());
            }
            waiting = desk.arrived().await;
            assert!(waiting.len() <= BOUNDS.requests_max / 2);
        }
        assert!(turns <= 2, "it waited for {turns} turns");
        many.abort();
    }
}
