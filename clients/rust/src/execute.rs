//! The attempts of one data operation: [`retry`] says when there is another, [`Routing`] says where.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::message::{Request, Response};
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::node::Node;
use crate::retry::{self, Decision};
use crate::routing::{Access, Routing, attempt_deadline};
use crate::transport::begin_attempt;

/// How long before the client's own deadline a coordinator has to give up, so that its answer (which
/// says more than silence) still arrives. At most this, and at most a tenth of the time left.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// Asks the owners of the key, then whoever else there is, until one answers or the time is up.
///
/// The request is encoded once per attempt, straight into the connection's buffer.
pub(crate) async fn execute<T>(
    routing: &Routing,
    mut request: Request,
    deadline: Instant,
    extract: impl Fn(Response) -> Option<T>,
) -> Result<T, Error> {
    let mut failures = Failures::new();
    let segment = segment_of(&request);
    let access = if is_read(&request) {
        Access::AnyOwner
    } else {
        Access::FirstOwner
    };
    routing.fetch_missing(deadline).await;
    for pass in 0_u32.. {
        let mut nodes = routing.pass(segment, access);
        let mut again = Again::No;
        while let Some((node, others)) = nodes.next() {
            let attempt = attempt_deadline(deadline, others);
            let timeout_ms = coordinator_timeout_ms(attempt);
            begin_attempt(&mut request, timeout_ms, failures.maybe_applied);
            let error = match node.call(&request, attempt).await {
                Ok(response) => match extract(response) {
                    Some(answer) => return Ok(answer),
                    None => unexpected(&node, !is_read(&request)),
                },
                Err(error) => error,
            };
            let decision = retry::decide(&error);
            let newer = newer_ring(&error);
            failures.add(error);
            match decision {
                Decision::GiveUp => return Err(failures.finish()),
                Decision::NextNode => {}
                Decision::Reconnect => again = again.max(Again::AFewTimes),
                Decision::BackOff => again = Again::UntilTheDeadline,
                Decision::RefreshRing => {
                    again = again.max(Again::AFewTimes);
                    if routing.refresh(&node, newer, deadline).await {
                        again = Again::AtOnce;
                        break;
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(failures.finish());
            }
        }
        let pause = match again {
            Again::No => break,
            Again::AFewTimes | Again::AtOnce if pass + 1 >= retry::PASSES_MAX => break,
            Again::AtOnce => continue,
            Again::AFewTimes | Again::UntilTheDeadline => retry::backoff(pass),
        };
        let next = Instant::now() + pause;
        if next >= deadline {
            break;
        }
        sleep_until(next).await;
    }
    Err(failures.finish())
}

/// Whether to go through the nodes once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Again {
    No,
    AFewTimes,
    UntilTheDeadline,
    /// There is a newer ring, which names other nodes.
    AtOnce,
}

/// What all attempts so far have come to.
struct Failures {
    started: Instant,
    maybe_applied: bool,
    told: Option<Error>,
}

impl Failures {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            maybe_applied: false,
            told: None,
        }
    }

    fn add(&mut self, error: Error) {
        self.maybe_applied |= error.maybe_applied();
        // What a node said is worth more to the caller than a connection that failed later.
        if error.is_answer() || !self.told.as_ref().is_some_and(Error::is_answer) {
            self.told = Some(error);
        }
    }

    /// The error for the caller: the whole wait counts, and every attempt.
    fn finish(self) -> Error {
        let told = self.told;
        let told = told.unwrap_or_else(|| Error::invalid("there is no node to ask"));
        let told = match told {
            Error::Timeout {
                address,
                maybe_applied,
                ..
            } => Error::Timeout {
                address,
                waited: self.started.elapsed(),
                maybe_applied,
            },
            other => other,
        };
        told.or_maybe_applied(self.maybe_applied)
    }
}

fn segment_of(request: &Request) -> Segment {
    match request {
        Request::Get(get) => Segment::of_key(&get.key),
        Request::Put(write) | Request::Delete(write) => Segment::of_key(&write.key),
        Request::Explain(explain) => Segment::of_key(&explain.key),
        Request::Import(import) => Segment::of_key(&import.key),
        // No other request is executed here; any node answers those.
        _ => Segment(0),
    }
}

/// Whether it changes nothing.
fn is_read(request: &Request) -> bool {
    matches!(request, Request::Get(_) | Request::Explain(_))
}

/// What the coordinator is told.
fn coordinator_timeout_ms(attempt: Instant) -> u32 {
    let left = attempt.saturating_duration_since(Instant::now());
    let for_it = left - ANSWER_MARGIN.min(left / 10);
    u32::try_from(for_it.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn newer_ring(error: &Error) -> Option<RingVersion> {
    match error {
        Error::Refused { reply, .. } => reply.ring_version,
        _ => None,
    }
}

/// The node answered something else than it was asked.
pub(crate) fn unexpected(node: &Arc<Node>, maybe_applied: bool) -> Error {
    Error::Protocol {
        address: node.address().to_owned(),
        reason: "an answer to another kind of request".to_owned(),
        maybe_applied,
    }
}
