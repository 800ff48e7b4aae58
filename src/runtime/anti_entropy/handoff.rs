//! Hands over what is kept here for other nodes, once they are there again.
//!
//! It merges at the owner, which answers when the versions are durable there; only then is the hint
//! confirmed. A hint goes over twice rather than not at all. The owner paces it: so many keys are under way
//! at a time, and whoever says that it has too much to do is left alone for a while. It is asked under the ring by which
//! the hint is owed to it; where it follows another one the rings are about to become the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::limits::TIMEOUT_MS_DEFAULT;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{MergeVersions, ReadVersions, VersionsReply};
use dynakv_protocol::{ErrorCode, NodeId};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::engine::anti_entropy::handoff::{Revision, Word};
use crate::runtime::net::replica_rpc::{Asker, Unreachable};
use crate::runtime::shared::view::{MemberView, View};
use crate::runtime::store::hint_worker::{Batch, Confirmation, Due, HintHandle, HintJob, Owed};

/// How often it looks whether somebody is there again.
const TICK: Duration = Duration::from_millis(500);

/// How many keys are on their way to one node at a time, and about how many bytes of hints.
const KEYS_AT_ONCE: usize = 32;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

/// The first and the longest pause after a node did not take something.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What the task is given.
pub struct Parts {
    /// What is kept.
    pub hints: HintHandle,
    /// How it asks this node and the others.
    pub asker: Arc<Asker>,
    /// Who is there.
    pub view: watch::Receiver<Arc<View>>,
}

struct Handoff(Parts);

/// A hint that is on its way to an owner.
struct Given {
    key: Bytes,
    revision: Revision,
}

impl Given {
    fn has(self, run: u64) -> Confirmation {
        self.says(Word::Has { run })
    }

    fn says(self, word: Word) -> Confirmation {
        Confirmation {
            key: self.key,
            revision: self.revision,
            word,
        }
    }
}

/// What an owner has said of the hints that it was given.
#[derive(Debug, Default)]
struct Answers {
    confirmations: Vec<Confirmation>,
    /// How many it refuses as none of its own.
    not_owned: u64,
    /// Why it is given no more for now.
    trouble: Option<HandoffError>,
}

impl Answers {
    /// It did not take one, or this node's own copy could not be read.
    fn hear(&mut self, response: &Response) {
        let is_not_owned =
            matches!(response, Response::Error(error) if error.code == ErrorCode::NotOwner);
        self.not_owned += u64::from(is_not_owned);
        self.trouble = refused(response).or(self.trouble.take());
    }
}

/// Why a node is not given more for now.
#[derive(Debug, thiserror::Error)]
enum HandoffError {
    /// It could not be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// It does not take it now.
    #[error("it refused: {0}")]
    Refused(String),
    /// Some of it cannot go over as things are: it is too large, or the own copy is being rebuilt.
    #[error("{0} hints could not be handed over")]
    NotTaken(u64),
    /// It follows another ring: soon it follows this node's, or whoever owns the keys is worked out anew here.
    #[error("it follows another ring than this node's hints")]
    OtherRing,
}

/// Since when, and for how long, a node is left alone.
#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    pause: Duration,
}

/// Hands over until it is told to stop.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let handoff = Arc::new(Handoff(parts));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way: JoinSet<(NodeId, Result<u64, HandoffError>)> = JoinSet::new();
    let mut busy: Vec<NodeId> = Vec::new();
    let mut resting: BTreeMap<NodeId, Rest> = BTreeMap::new();
    let mut there: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(ended) = under_way.join_next() => match ended {
                Ok((node, result)) => {
                    busy.retain(|it| *it != node);
                    on_end(node, result, &mut resting);
                }
                // As if it had run here.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            _ = ticks.tick() => {
                handoff.0.hints.send(vec![HintJob::Tick]);
                let there_now = handoff.there();
                // What it did not take before it went away says nothing of now.
                resting.retain(|node, _| there.contains(node) || !there_now.contains(node));
                there = there_now;
                for member in handoff.takers(&resting) {
                    if busy.contains(&member.id) {
                        continue;
                    }
                    busy.push(member.id.clone());
                    let handoff = handoff.clone();
                    under_way.spawn(async move {
                        let result = handoff.hand_over(&member).await;
                        (member.id, result)
                    });
                }
            }
        }
    }
}

fn on_end(node: NodeId, result: Result<u64, HandoffError>, resting: &mut BTreeMap<NodeId, Rest>) {
    match result {
        Ok(keys) => {
            resting.remove(&node);
            if keys > 0 {
                tracing::info!(%node, keys, "what was kept for this node is handed over");
            }
        }
        Err(error) => {
            tracing::debug!(%node, %error, "handing over stopped early");
            let longer = |rest: &Rest| (rest.pause * 2).min(BACKOFF_MAX);
            let pause = match error {
                HandoffError::OtherRing => BACKOFF_FIRST,
                _ => resting.get(&node).map_or(BACKOFF_FIRST, longer),
            };
            let until = Instant::now() + pause;
            resting.insert(node, Rest { until, pause });
        }
    }
}

impl Handoff {
    /// Who is alive.
    fn there(&self) -> BTreeSet<NodeId> {
        let view = self.0.view.borrow();
        let members = view.members.iter();
        let alive = members.filter(|member| member.state == MemberState::Alive);
        alive.map(|member| member.id.clone()).collect()
    }

    /// Who is there, is owed something, and may be asked.
    fn takers(&self, resting: &BTreeMap<NodeId, Rest>) -> Vec<MemberView> {
        let view = self.0.view.borrow().clone();
        let now = Instant::now();
        let taker = |Owed { node, .. }: Owed| {
            let member = view.members.iter().find(|member| member.id == node)?;
            let is_there = member.state == MemberState::Alive || member.id == self.0.asker.me;
            let rests = resting.get(&node).is_some_and(|rest| rest.until > now);
            (is_there && !rests).then(|| member.clone())
        };
        self.0.hints.owed().into_iter().filter_map(taker).collect()
    }

    /// Hands over all that is owed to one node. How many keys it took.
    async fn hand_over(&self, member: &MemberView) -> Result<u64, HandoffError> {
        let mut after = None;
        let (mut keys, mut not_taken, mut not_owned) = (0, 0, 0);
        loop {
            let batch = self.next(&member.id, after.take()).await;
            let Some(last) = batch.hints.last() else {
                // What it does not take is not tried again at once.
                return match (not_taken, not_owned) {
                    (0, 0) => Ok(keys),
                    (0, _) => Err(HandoffError::OtherRing),
                    (not_taken, _) => Err(HandoffError::NotTaken(not_taken)),
                };
            };
            after = Some(last.key.clone());
            let given = batch.hints.len() as u64;
            let ring_version = batch.ring_version;
            let Answers {
                confirmations,
                not_owned: refused,
                trouble,
            } = self.give(member, batch).await;
            let taken = confirmations
                .iter()
                .filter(|it| matches!(it.word, Word::Has { .. }));
            keys += taken.count() as u64;
            not_owned += refused;
            if trouble.is_none() {
                not_taken += given - confirmations.len() as u64 - refused;
            }
            if !confirmations.is_empty() {
                let by = member.id.clone();
                self.0.hints.send(vec![HintJob::Confirm {
                    by,
                    ring_version,
                    confirmations,
                }]);
            }
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
        }
    }

    async fn next(&self, node: &NodeId, after: Option<Bytes>) -> Batch {
        let (reply, answer) = oneshot::channel();
        self.0.hints.send(vec![HintJob::Next {
            node: node.clone(),
            after,
            keys_max: KEYS_AT_ONCE,
            bytes_max: BYTES_AT_ONCE,
            reply,
        }]);
        // A worker that is gone has nothing more to hand over.
        answer.await.unwrap_or_default()
    }

    /// Gives hints to an owner.
    async fn give(&self, member: &MemberView, batch: Batch) -> Answers {
        let Batch {
            ring_version,
            hints,
        } = batch;
        let mut answers = Answers::default();
        let mut given = Vec::new();
        let mut merges = Vec::new();
        let mut give = |hint: Given, versions| {
            merges.push(Request::Merge(MergeVersions {
                ring_version,
                timeout_ms: TIMEOUT_MS_DEFAULT,
                key: hint.key.clone(),
                versions,
                tell_beside: false,
            }));
            given.push(hint);
        };
        let read = |hint: &Given, digest_above| {
            Request::Read(ReadVersions {
                ring_version,
                timeout_ms: TIMEOUT_MS_DEFAULT,
                key: hint.key.clone(),
                tell_actor: false,
                digest_above,
            })
        };
        let (mut reminders, mut said) = (Vec::new(), Vec::new());
        for Due {
            key,
            revision,
            versions,
            is_said,
        } in hints
        {
            let hint = Given { key, revision };
            match versions {
                Some(versions) if is_said => said.push((hint, versions)),
                Some(versions) => give(hint, versions),
                None => reminders.push(hint),
            }
        }
        let reads = reminders.iter().map(|hint| read(hint, None)).collect();
        let own = self.0.asker.ask(None, reads).await;
        for (hint, own) in reminders.into_iter().zip(own) {
            match own {
                // Until it is rebuilt it says nothing.
                Ok(Response::Versions(own)) if own.rebuilding => {}
                Ok(Response::Versions(own)) if own.versions.is_empty() => {
                    // There is nothing to hand over, so whoever was to have it has it.
                    answers.confirmations.push(hint.has(self.0.asker.run));
                }
                Ok(Response::Versions(own)) => give(hint, own.versions),
                Ok(other) => answers.hear(&other),
                Err(error) => answers.trouble = Some(error.into()),
            }
        }
        // In full: that something is there says nothing of what.
        let still = said.iter().map(|(hint, _)| read(hint, None));
        let requests = merges.into_iter().chain(still).collect();
        let (said_now, run) = self.0.asker.ask_in_run(Some(member), requests).await;
        let given = given.into_iter().map(|hint| (hint, Bytes::new()));
        for ((hint, kept), answer) in given.chain(said).zip(said_now) {
            match answer {
                Ok(Response::Merged(_)) => answers.confirmations.push(hint.has(run)),
                Ok(Response::Versions(own)) => {
                    let word = word_of(&own, &kept, run);
                    let confirmation = word.map(|word| hint.says(word));
                    answers.confirmations.extend(confirmation);
                }
                Ok(other) => answers.hear(&other),
                Err(error) => answers.trouble = Some(error.into()),
            }
        }
        answers
    }
}

/// What an owner says of what it once said it has: whether it has seen all of that. One that has lost data and is
/// fetching it back says nothing.
fn word_of(own: &VersionsReply, kept: &Bytes, run: u64) -> Option<Word> {
    if own.rebuilding {
        return None;
    }
    let versions = (!own.versions.is_empty()).then(|| Versions::from_bytes(&own.versions));
    let has_all = match (versions, Versions::from_bytes(kept)) {
        (Some(Ok(own)), Ok(kept)) => own.clock().dominates(kept.clock()),
        (_, _) => false,
    };
    match has_all {
        true => Some(Word::Still { run }),
        false => Some(Word::Lost),
    }
}

/// Whether a refusal is a reason to stop here. What cannot be taken ever (it is too large for a frame, say)
/// must not keep the rest from going over.
fn refused(response: &Response) -> Option<HandoffError> {
    match response {
        // Its copy would be one of N for nobody: the hint stays, and counts on.
        Response::Error(error) if error.code == ErrorCode::NotOwner => {
            tracing::debug!(%error, "a hint is owed to a node that owns its key no more");
            None
        }
        Response::Error(error) if error.code == ErrorCode::StaleRing => {
            Some(HandoffError::OtherRing)
        }
        Response::Error(error) if !error.retryable => {
            tracing::warn!(%error, "a hint is not taken");
            None
        }
        Response::Error(error) => Some(HandoffError::Refused(error.message.clone())),
        _ => Some(HandoffError::Refused(
            "it answered something else".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::causal::Dot;
    use dynakv_protocol::{Actor, ErrorReply};

    use super::*;

    fn versions(actors: &[u64]) -> Bytes {
        let dots = actors.iter().map(|&actor| Dot {
            actor: Actor(actor),
            counter: 1,
        });
        let versions = Versions::from_parts(dots.collect(), []);
        versions.unwrap().to_bytes()
    }

    fn heard(code: ErrorCode) -> Answers {
        let mut answers = Answers::default();
        answers.hear(&Response::Error(ErrorReply::new(code, "no").retryable()));
        answers
    }

    /// One that may never be taken does not hold up the others; one that has too much to do does.
    #[test]
    fn a_former_owner_takes_nothing_and_holds_up_nothing() {
        let answers = heard(ErrorCode::NotOwner);
        assert!(answers.trouble.is_none() && answers.not_owned == 1);
        let answers = heard(ErrorCode::Overloaded);
        assert!(answers.trouble.is_some() && answers.not_owned == 0);
    }

    /// The rings are about to become the same: however often that comes, the pause stays short.
    #[test]
    fn a_node_that_follows_another_ring_rests_for_a_moment_only() {
        let node = NodeId::new("b").unwrap();
        let mut resting = BTreeMap::new();
        for _ in 0..3 {
            let trouble = heard(ErrorCode::StaleRing).trouble.unwrap();
            on_end(node.clone(), Err(trouble), &mut resting);
            assert_eq!(resting[&node].pause, BACKOFF_FIRST);
        }
        for _ in 0..3 {
            let trouble = heard(ErrorCode::Overloaded).trouble.unwrap();
            on_end(node.clone(), Err(trouble), &mut resting);
        }
        assert_eq!(resting[&node].pause, BACKOFF_FIRST * 8);
    }

    #[test]
    fn an_owner_still_has_what_it_has_seen_all_of() {
        let kept = versions(&[1, 2]);
        let word = |versions, rebuilding| {
            let reply = VersionsReply {
                rebuilding,
                versions,
                actor: None,
                digest: None,
            };
            word_of(&reply, &kept, 7)
        };
        let still = Some(Word::Still { run: 7 });
        assert_eq!(word(versions(&[1, 2]), false), still);
        assert_eq!(word(versions(&[1, 2, 3]), false), still);
        // Something is there, and it is not that.
        assert_eq!(word(versions(&[1, 3]), false), Some(Word::Lost));
        assert_eq!(word(Bytes::new(), false), Some(Word::Lost));
        for own in [versions(&[1, 2]), Bytes::new()] {
            assert_eq!(word(own, true), None);
        }
    }
}
