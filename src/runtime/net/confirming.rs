//! Asks members whether what is said of them is so: a run that is newer than the one that is known, or another
//! address.
//!
//! Whoever knows a member's name and directory could say so, and a node that believed it would keep the member
//! itself out from then on, or be sent to any address. So the member is called where it is known to be. It is
//! asked as a client asks, because a node would be held against what is known of *it*, and two that meet after a
//! restart would wait for each other.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynakv_protocol::gossip::{MemberEntry, MemberState};
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::{ErrorCode, NodeId};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::link::{DialError, greet};
use super::outgoing::Outgoing;
use crate::engine::membership::generations::{Finding, Judgement, Process};

/// How long a member may take to say that it is still there. Shorter than a dial, so that whoever waits for the
/// outcome hears it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many members are asked at once. A cluster that starts as a whole is through in moments, and whoever tells
/// of all members at once makes no more calls than this.
const ASKED_AT_ONCE_MAX: usize = 16;

/// How long after something was said of a member that was not so, or that was believed as nobody is there, the next
/// such claim is looked at.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// Asks members about themselves.
pub struct Confirmer {
    outgoing: Outgoing,
    cluster_name: String,
    at_once: Semaphore,
    /// One question at a time about each member of the ring; until when no other is looked at.
    members: Mutex<BTreeMap<NodeId, Arc<tokio::sync::Mutex<Option<Instant>>>>>,
}

impl std::fmt::Debug for Confirmer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Confirmer").finish_non_exhaustive()
    }
}

/// Who is where a member is known to be.
#[derive(Debug)]
pub enum There {
    /// This process.
    Process(Process),
    /// Nobody of this cluster: nothing listens there, or a node of another cluster does.
    Nobody,
    /// That cannot be told: no answer came, or there is no way there, or nothing to call with.
    Silent,
    /// Somebody who has no time to say who.
    Busy,
}

/// It cannot be told yet who is there.
struct Unclear;

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was looked at.
    Found(Finding),
    /// It needs no looking at, or not any more: what was seen says what is to be made of it.
    Settled,
    /// Something else has just been said of this member, or it lives and does not answer.
    Later,
}

impl Confirmer {
    /// Calls members this way, as a client of this cluster.
    pub fn new(outgoing: Outgoing, cluster_name: String) -> Self {
        Self {
            outgoing,
            cluster_name,
            at_once: Semaphore::new(ASKED_AT_ONCE_MAX),
            members: Mutex::default(),
        }
    }

    /// A process that says it is this run of a member has called. Nothing is kept of it yet.
    pub async fn look_at(&self, claimed: &Process) -> Outcome {
        let judge = || self.outgoing.seen.judge(claimed) == Judgement::ToConfirm;
        if !judge() {
            return Outcome::Settled;
        }
        let place = self.place_of(&claimed.node_id);
        let mut quiet_until = place.lock().await;
        // Another connection of it may have waited before this one.
        if !judge() {
            return Outcome::Settled;
        }
        if quiet_until.is_some_and(|until| Instant::now() < until) {
            return Outcome::Later;
        }
        let known = self.address_of(&claimed.node_id);
        let Ok(there) = self.ask_member(&claimed.node_id, known.as_deref()).await else {
            return Outcome::Later;
        };
        let finding = self.outgoing.seen.weigh(claimed, there.as_ref());
        *quiet_until = match finding {
            Finding::Confirmed | Finding::Unopposed => {
                // Before the next of its connections is looked at. Whoever lets it in sees it again, and hears then
                // if that could not be noted.
                let _ = self.outgoing.seen.see(claimed);
                // It goes to disk, and while nobody contradicts anybody could say the next higher one.
                (finding == Finding::Unopposed).then(|| Instant::now() + DOUBT_PAUSE)
            }
            Finding::Contradicted | Finding::Outdated | Finding::Impossible(_) => {
                Some(Instant::now() + DOUBT_PAUSE)
            }
        };
        Outcome::Found(finding)
    }

    /// Somebody tells of a member what is not known of it. Gives the address at which the member itself says the
    /// same; where it was known to be is asked first.
    pub async fn look_for(&self, told: &MemberEntry) -> Option<String> {
        let place = self.place_of(&told.id);
        // It is said again with the next gossip.
        let mut quiet_until = place.try_lock().ok()?;
        if quiet_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let claimed = Process::of_entry(told);
        let known = self.address_of(&told.id);
        let there = self.ask_member(&told.id, known.as_deref()).await.ok()?;
        let found = match self.outgoing.seen.weigh(&claimed, there.as_ref()) {
            Finding::Confirmed => known,
            // It is not where it was. Where it is said to be it may say so.
            Finding::Unopposed if known.as_ref() != Some(&told.address) => {
                match self.who_is_at(&told.address).await {
                    There::Process(there)
                        if self.outgoing.seen.weigh(&claimed, Some(&there))
                            == Finding::Confirmed =>
                    {
                        Some(told.address.clone())
                    }
                    There::Process(_) | There::Nobody | There::Silent => None,
                    There::Busy => return None,
                }
            }
            Finding::Unopposed
            | Finding::Contradicted
            | Finding::Outdated
            | Finding::Impossible(_) => None,
        };
        *quiet_until = match found {
            Some(_) => None,
            None => Some(Instant::now() + DOUBT_PAUSE),
        };
        found
    }

    fn address_of(&self, id: &NodeId) -> Option<String> {
        self.outgoing.view.borrow().address_of(id)
    }

    /// Only members of the ring come so far, so there are never more than it has had.
    fn place_of(&self, id: &NodeId) -> Arc<tokio::sync::Mutex<Option<Instant>>> {
        // The map is whole between any two operations.
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.entry(id.clone()).or_default().clone()
    }

    /// Who is where a member is known to be, if anybody is. That nobody answers says that it is gone only if nothing
    /// else was heard of it lately either: whoever is overloaded, stopped for a moment or cut off from this node alone
    /// is silent, too, and lives.
    async fn ask_member(
        &self,
        id: &NodeId,
        address: Option<&str>,
    ) -> Result<Option<Process>, Unclear> {
        let Some(address) = address else {
            return Ok(None);
        };
        let there = self.who_is_at(address).await;
        let view = self.outgoing.view.borrow();
        // What was heard of it while it was asked counts.
        let member = view.member(id);
        match there {
            There::Process(process) => Ok(Some(process)),
            There::Nobody => Ok(None),
            There::Silent if !member.is_some_and(|member| member.is_heard) => Ok(None),
            There::Busy if member.is_some_and(|member| member.state == MemberState::Dead) => {
                Ok(None)
            }
            There::Silent | There::Busy => Err(Unclear),
        }
    }

    /// Who answers at this address, asked as a client asks.
    pub async fn who_is_at(&self, address: &str) -> There {
        // It is never closed.
        let Ok(_place) = self.at_once.acquire().await else {
            return There::Busy;
        };
        let hello = Hello::client(&self.cluster_name, None);
        let greeted = greet(
            &*self.outgoing.network,
            address,
            &hello,
            &self.outgoing.intake,
        );
        match timeout(ANSWER_TIMEOUT, greeted).await {
            Ok(Ok(greeted)) => There::Process(Process::from(&greeted.welcome)),
            Ok(Err(DialError::Refused(error))) => match error.code {
                ErrorCode::WrongCluster => There::Nobody,
                _ => There::Busy,
            },
            Ok(Err(DialError::Io(error))) if error.kind() == io::ErrorKind::ConnectionRefused => {
                There::Nobody
            }
            Ok(Err(_)) | Err(_) => There::Silent,
        }
    }
}
