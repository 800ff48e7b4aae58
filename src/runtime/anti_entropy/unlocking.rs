//! Mends keys that are locked, one after the other: asks all owners for all they have, lets the engine decide what
//! stays, and has each owner put that in the place of exactly what it had answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::{TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{Digest, ReadVersions};
use dynakv_protocol::unlock::{Replace, Unlock, Unlocked};
use dynakv_protocol::{ErrorCode, ErrorReply};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::engine::anti_entropy::unlock::unlock;
use crate::runtime::net::replica_rpc::Asker;
use crate::runtime::shared::events::Responder;
use crate::runtime::shared::view::{MemberView, View};

/// How many may wait for their turn. Each holds a key and no more.
pub const WAITING_MAX: usize = 16;

/// How often it is begun again because a copy has changed meanwhile, or something that was on its way has made it
/// long again.
const ROUNDS_MAX: u32 = 5;

/// One that waits.
#[derive(Debug)]
pub struct UnlockJob {
    /// What is wanted.
    pub unlock: Unlock,
    /// When it came.
    pub arrived: Instant,
    /// Who wants it.
    pub responder: Responder,
}

/// What the task is given.
pub struct Parts {
    /// How it asks this node and the others.
    pub asker: Arc<Asker>,
    /// Who is there, and who owns what.
    pub view: watch::Receiver<Arc<View>>,
    /// The largest value, in bytes.
    pub value_bytes_max: usize,
    /// What is wanted.
    pub jobs: mpsc::Receiver<UnlockJob>,
}

/// Mends until it is told to stop.
pub async fn run(mut parts: Parts, stop: CancellationToken) {
    loop {
        let job = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            job = parts.jobs.recv() => job,
        };
        let Some(UnlockJob {
            unlock,
            arrived,
            responder,
        }) = job
        else {
            return;
        };
        let timeout_ms = match unlock.timeout_ms {
            0 => TIMEOUT_MS_DEFAULT,
            timeout_ms => timeout_ms.min(TIMEOUT_MS_MAX),
        };
        let deadline = arrived + Duration::from_millis(timeout_ms.into());
        let mended = tokio::select! {
            biased;
            () = stop.cancelled() => Err(in_doubt(ErrorCode::NotReady, "this node is shutting down")),
            mended = timeout_at(deadline, parts.mend(&unlock.key)) => mended.unwrap_or_else(|_elapsed| {
                Err(in_doubt(ErrorCode::Timeout, "time is up; give it longer with --timeout"))
            }),
        };
        responder.respond(&match mended {
            Ok(unlocked) => Response::Unlocked(unlocked),
            Err(error) => Response::Error(error),
        });
    }
}

/// The end of an attempt after which some owners may have the new state.
fn in_doubt(code: ErrorCode, message: &str) -> ErrorReply {
    let refusal = ErrorReply::new(code, message);
    refusal.maybe_applied(true).retryable()
}

impl Parts {
    async fn mend(&self, key: &Bytes) -> Result<Unlocked, ErrorReply> {
        if key.is_empty() {
            return Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "a key has at least one byte",
            ));
        }
        let mut done: Option<Unlocked> = None;
        let mut last_refusal = None;
        for _ in 0..ROUNDS_MAX {
            let view = self.view.borrow().clone();
            let owners = owners(&view, key).map_err(|error| error.maybe_applied(done.is_some()))?;
            let states = self.read(&view, &owners, key).await;
            let states = states.map_err(|error| error.maybe_applied(done.is_some()))?;
            let outcome = unlock(&states, self.value_bytes_max).map_err(|error| {
                let message = format!("an owner has something that are no versions: {error}");
                ErrorReply::new(ErrorCode::Storage, message).maybe_applied(done.is_some())
            })?;
            if !outcome.was_locked {
                return done.ok_or_else(|| {
                    let message =
                        "the key is not locked: nothing has to be given up, and nothing was";
                    ErrorReply::new(ErrorCode::BadRequest, message)
                });
            }
            let before = done.as_ref();
            done = Some(Unlocked {
                node_id: self.asker.me.clone(),
                // N is at most 32.
                owners: owners.len() as u8,
                clock_entries_before: before.map_or(outcome.clock_entries_before as u64, |it| {
                    it.clock_entries_before
                }),
                clock_entries: outcome.versions.clock().len() as u64,
                siblings: outcome.versions.siblings().len() as u64,
                siblings_given_up: before.map_or(0, |it| it.siblings_given_up)
                    + outcome.siblings_given_up as u64,
            });
            let versions = outcome.versions.to_bytes();
            last_refusal = self.replace(&view, &owners, key, states, &versions).await;
            if let Some(error) = last_refusal.as_ref().filter(|error| !error.retryable) {
                return Err(error.clone());
            }
            // The next round sees whether that was all.
        }
        let message = match last_refusal {
            Some(error) => error.message,
            None => "its copies grow long again and again: some node, or a hint, still has the old state".to_owned(),
        };
        Err(in_doubt(ErrorCode::QuorumUnavailable, &message))
    }

    /// What each owner has, however large it is.
    async fn read(
        &self,
        view: &View,
        owners: &[MemberView],
        key: &Bytes,
    ) -> Result<Vec<Bytes>, ErrorReply> {
        let read = Request::Read(ReadVersions {
            ring_version: view.ring_version(),
            timeout_ms: TIMEOUT_MS_DEFAULT,
            key: key.clone(),
            tell_actor: false,
            digest_above: None,
        });
        let requests = owners.iter().map(|owner| (owner.clone(), read.clone()));
        let answers = self.ask_each(requests.collect()).await;
        let mut states = Vec::with_capacity(owners.len());
        for (owner, answer) in owners.iter().zip(answers) {
            match answer {
                Ok(Response::Versions(reply)) if reply.digest.is_none() => {
                    states.push(reply.versions)
                }
                Ok(Response::Error(error)) => return Err(no_answer(owner, owners, &error.message)),
                Ok(_) => return Err(no_answer(owner, owners, "it answered something else")),
                Err(reason) => return Err(no_answer(owner, owners, &reason)),
            }
        }
        Ok(states)
    }

    /// Has all owners take the new state. Why one has not.
    async fn replace(
        &self,
        view: &View,
        owners: &[MemberView],
        key: &Bytes,
        states: Vec<Bytes>,
        versions: &Bytes,
    ) -> Option<ErrorReply> {
        let replace = |(owner, state): (&MemberView, Bytes)| {
            let replace = Request::Replace(Replace {
                ring_version: view.ring_version(),
                timeout_ms: TIMEOUT_MS_DEFAULT,
                key: key.clone(),
                expected: (!state.is_empty()).then(|| Digest::of(&state)),
                versions: versions.clone(),
            });
            (owner.clone(), replace)
        };
        let requests = owners.iter().zip(states).map(replace).collect();
        let answers = self.ask_each(requests).await;
        let mut refusal = None;
        for (owner, answer) in owners.iter().zip(answers) {
            match answer {
                Ok(Response::Replaced) => {}
                Ok(Response::Error(mut error)) => {
                    if error.code == ErrorCode::UnknownKind {
                        error.message = "it runs an older version of dynakv, which cannot do this: upgrade it first"
                            .to_owned();
                    }
                    let message = format!("{}: {}", owner.id, error.message);
                    let error = ErrorReply { message, ..error }.maybe_applied(true);
                    // What ends it is told before what only delays it.
                    let delays = |known: &ErrorReply| known.retryable;
                    if refusal.as_ref().is_none_or(delays) {
                        refusal = Some(error);
                    }
                }
                Ok(_) => {
                    refusal =
                        refusal.or(Some(no_answer(owner, owners, "it answered something else")))
                }
                Err(reason) => refusal = refusal.or(Some(no_answer(owner, owners, &reason))),
            }
        }
        refusal
    }

    /// Asks several nodes one thing each, all at once. The answers are in the order of the requests.
    async fn ask_each(
        &self,
        requests: Vec<(MemberView, Request)>,
    ) -> Vec<Result<Response, String>> {
        let mut answers = vec![Err("it was not asked".to_owned()); requests.len()];
        let mut under_way = JoinSet::new();
        for (at, (member, request)) in requests.into_iter().enumerate() {
            let asker = self.asker.clone();
            under_way.spawn(async move {
                let answer = asker.ask(Some(&member), vec![request]).await.pop();
                (at, answer)
            });
        }
        while let Some(joined) = under_way.join_next().await {
            match joined {
                Ok((at, Some(answer))) => answers[at] = answer.map_err(|error| error.reason),
                Ok((_, None)) => {}
                // It takes this task with it, as if it had run here.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        answers
    }
}

/// All owners of the key, if all are there.
fn owners(view: &View, key: &[u8]) -> Result<Vec<MemberView>, ErrorReply> {
    let Some(ring) = &view.ring else {
        let message = "this node has not joined its cluster yet; ask another one";
        return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
    };
    let ids = ring.owners(Segment::of_key(key)).iter();
    let ids: Vec<_> = ids.map(|&owner| &ring.member(owner).id).collect();
    let alive = |id| {
        let mut members = view.members.iter();
        members.find(|member| &member.id == id && member.state == MemberState::Alive)
    };
    let there: Vec<MemberView> = ids.iter().filter_map(|&id| alive(id).cloned()).collect();
    if there.len() == ids.len() {
        return Ok(there);
    }
    let away = ids.iter().filter(|&&id| alive(id).is_none());
    let away: Vec<&str> = away.map(|id| id.as_str()).collect();
    let message = format!(
        "a locked key is mended only with all its owners alive, and these are not: {}; start them, see \
         `dynakv status`",
        away.join(", ")
    );
    // At most 32 of each.
    let quorum = (ids.len() as u8, there.len() as u8);
    let refusal = ErrorReply::new(ErrorCode::QuorumUnavailable, message);
    Err(refusal.with_quorum(quorum.0, quorum.1).retryable())
}

fn no_answer(owner: &MemberView, owners: &[MemberView], reason: &str) -> ErrorReply {
    let message = format!(
        "a locked key is mended only with all its owners ({}): {} does not answer: {reason}; see `dynakv \
         status`",
        owners.len(),
        owner.id
    );
    ErrorReply::new(ErrorCode::QuorumUnavailable, message).retryable()
}
