//! What the control task remembers between its steps, and what its calls come to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::change_ring::ChangeRing;
use dynakv_protocol::client::{OTHER_CLUSTERS_MAX, OtherCluster};
use dynakv_protocol::gossip::{Gossip, Join, MemberEntry, Vote};
use dynakv_protocol::handshake::Welcome;
use dynakv_protocol::message::Response;
use dynakv_protocol::ring_document::{Member, RingDocument};
use dynakv_protocol::{DirectoryId, ErrorReply, NodeId, RingVersion};
use tokio::time::Instant;

use crate::engine::layout::steps::Due;
use crate::engine::layout::{Acceptor, Phase, Proposer};
use crate::runtime::net::confirming::There;
use crate::runtime::net::link::DialError;
use crate::runtime::shared::events::Responder;

/// The pause of a member after a round that missed somebody; doubled up to the longest, and jittered.
pub(super) const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The longest text about what seeds have said, in bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// Every so many attempts in vain are worth a line in the log.
const ATTEMPTS_PER_LINE: usize = 20;

/// What a call came to.
pub(super) enum CallEnd {
    Gossip(NodeId, Option<Gossip>),
    /// Another node knows a newer process of this node.
    Outdated(ErrorReply),
    /// What somebody told of a member, when the member says so, too.
    Confirmed(Option<Box<MemberEntry>>),
    /// Another node, who was asked, knows none.
    NotOutdated,
    Pinged(NodeId, bool),
    ProbedVia {
        via: NodeId,
        target: NodeId,
        alive: bool,
    },
    Ring(Option<RingDocument>),
    /// The store follows this ring.
    Fenced(RingVersion),
    Vote(VoteFrom),
    Join(JoinTried),
    /// What the seeds of a node say that may found a cluster.
    Founding(Vec<Asked>),
    /// What the seeds of a member say.
    Seeds(Vec<Asked>),
    /// Who answers where the holder of a name is known to be.
    Holder(HolderTried),
}

/// A node that wants to be let in.
pub(super) struct JoinWish {
    pub(super) join: Join,
    pub(super) nonce: u64,
    pub(super) responder: Responder,
    pub(super) came_at: Instant,
    pub(super) until: Instant,
    /// The directory of the former holder of its name, if that was called and found gone.
    pub(super) gone: Option<DirectoryId>,
}

/// An operator's wish, until the ring that fulfils it is decided.
pub(super) struct ChangeWish {
    pub(super) change: ChangeRing,
    pub(super) responder: Responder,
    pub(super) until: Instant,
    /// The ring that was proposed for it last.
    pub(super) proposed: Option<RingDocument>,
}

impl ChangeWish {
    /// Whether this is the ring that was proposed, or one that went on from there.
    pub(super) fn is_fulfilled_by(&self, current: &RingDocument) -> bool {
        let Some(proposed) = &self.proposed else {
            return false;
        };
        let goes_on = || {
            let (now, then) = (current.change(), proposed.change());
            let is_same = now.zip(then).is_some_and(|(now, then)| {
                let are_stopped = then.stopped.iter().all(|id| now.stopped.contains(id));
                (now.begun_at, &now.target) == (then.begun_at, &then.target) && are_stopped
            });
            is_same && current.version > proposed.version
        };
        current == proposed || goes_on()
    }
}

/// A ring that does without this node.
pub(super) struct Removal {
    pub(super) document: RingDocument,
    /// Which of those that decide about the ring after it are known to follow it, or one after it.
    pub(super) followed_by: BTreeSet<NodeId>,
    pub(super) announce_due: Instant,
}

/// A node that wants in and waits for an operator.
pub(super) struct Waiting {
    pub(super) member: Member,
    pub(super) asked_at: Instant,
}

/// What was found where the holder of a name is known to be.
pub(super) struct HolderTried {
    pub(super) holder: Member,
    pub(super) there: Vec<There>,
}

/// A vote, and what it is about.
pub(super) struct VoteFrom {
    pub(super) attempt: u64,
    pub(super) from: NodeId,
    pub(super) phase: Phase,
    /// Nothing when the node could not be asked.
    pub(super) vote: Option<Vote>,
}

/// Everything about the next ring.
pub(super) struct Decisions {
    pub(super) acceptor: Acceptor,
    /// What it has accepted for the next version, for the view.
    pub(super) next: Option<Arc<RingDocument>>,
    /// Whether it has promised what is not durable, so that no vote of it may leave.
    pub(super) is_unsaved: bool,
    pub(super) joins: VecDeque<JoinWish>,
    pub(super) wishes: VecDeque<ChangeWish>,
    pub(super) waiting: BTreeMap<NodeId, Waiting>,
    /// Wishes for names whose holders are being called: one for each name.
    pub(super) trying: BTreeMap<NodeId, JoinWish>,
    pub(super) seal_until: Option<Instant>,
    pub(super) proposer: Option<Proposer>,
    /// Tells late votes of an earlier attempt from votes.
    pub(super) attempt: u64,
    pub(super) phase_deadline: Instant,
    /// No attempt before this.
    pub(super) pause_until: Option<Instant>,
    pub(super) next_round: u64,
    /// What is known of the change of the ring that is under way.
    pub(super) changing: Changing,
}

/// What is known of the change that is under way.
#[derive(Debug, Default)]
pub(super) struct Changing {
    pub(super) look_due: Option<Instant>,
    /// Since when the step after this ring is due.
    pub(super) due_since: Option<(RingVersion, Instant)>,
    /// When the members were looked at last, and since when those are dead that were at each look since.
    pub(super) watched_at: Option<Instant>,
    pub(super) dead_since: BTreeMap<NodeId, Instant>,
    /// What it was seen to wait for last, and when the log said so.
    pub(super) waits_for: Option<Due>,
    pub(super) told: Option<Instant>,
}

impl Decisions {
    pub(super) fn new(acceptor: Acceptor) -> Self {
        Self {
            next: None,
            acceptor,
            is_unsaved: false,
            joins: VecDeque::new(),
            wishes: VecDeque::new(),
            waiting: BTreeMap::new(),
            trying: BTreeMap::new(),
            seal_until: None,
            proposer: None,
            attempt: 0,
            phase_deadline: Instant::now(),
            pause_until: None,
            next_round: 1,
            changing: Changing::default(),
        }
    }

    /// What was accepted for the version after the present one.
    pub(super) fn next(&self) -> Option<Arc<RingDocument>> {
        self.next.clone()
    }
}

/// Where a node without a ring stands with its seeds.
pub(super) struct Joining {
    pub(super) attempts: usize,
    pub(super) is_asking: bool,
    pub(super) due: Instant,
    /// What each seed has said last, for people.
    pub(super) troubles: BTreeMap<String, Trouble>,
    /// Why it does not found a cluster, if it may.
    pub(super) founds_not: String,
}

/// Why a seed did not let this node in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) text: String,
    /// It is of another cluster, and so will not let it in later, either.
    pub(super) is_strange: bool,
}

/// What came of asking a seed to be let in, at each of its addresses that was tried.
pub(super) struct JoinTried {
    pub(super) seed: String,
    pub(super) ends: Vec<(String, Result<Response, DialError>)>,
}

impl Joining {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            attempts: 0,
            is_asking: false,
            due: now,
            troubles: BTreeMap::new(),
            founds_not: String::new(),
        }
    }

    /// What keeps the node from joining, for people.
    pub(super) fn trouble(&self) -> String {
        let seeds = self.troubles.iter();
        let seeds = seeds.map(|(seed, trouble)| format!("the seed {seed}: {}", trouble.text));
        let mut parts: Vec<String> = seeds.collect();
        if !self.founds_not.is_empty() {
            parts.insert(0, self.founds_not.clone());
        }
        match parts.is_empty() {
            true => "joining".to_owned(),
            false => shortened(parts.join("; ")),
        }
    }

    /// Notes what a seed has said. True when it is another thing than before.
    pub(super) fn note(&mut self, seed: &str, trouble: Trouble) -> bool {
        let before = self.troubles.insert(seed.to_owned(), trouble.clone());
        before.as_ref() != Some(&trouble)
    }

    pub(super) fn is_line_due(&self) -> bool {
        self.attempts.is_multiple_of(ATTEMPTS_PER_LINE)
    }
}

/// What came of asking one address of a seed.
pub(super) struct Asked {
    /// Which of the seeds.
    pub(super) seed: usize,
    /// As it was given, or one address of that name.
    pub(super) address: String,
    /// What was answered.
    pub(super) end: AskedEnd,
}

pub(super) enum AskedEnd {
    /// It is this node's own address.
    Own,
    /// There is an answer, if anything was asked, and who gave it.
    Answered(Option<Response>, Box<Welcome>),
    /// There is none.
    Failed(DialError),
}

/// What a node knows of its seeds.
pub(super) struct Seeds {
    /// As they were given.
    pub(super) names: Vec<String>,
    /// Those that are in other clusters, and what they have said.
    pub(super) strange: BTreeMap<String, String>,
    pub(super) is_asking: bool,
    pub(super) due: Instant,
    pub(super) pause: Duration,
    /// How many members were not heard of at the last look.
    pub(super) missed: usize,
}

impl Seeds {
    pub(super) fn new(names: &[String], now: Instant) -> Self {
        Self {
            names: names.to_vec(),
            strange: BTreeMap::new(),
            is_asking: false,
            due: now,
            pause: PAUSE_FIRST,
            missed: 0,
        }
    }

    /// A seed refuses this node as one of another cluster. It is said once.
    pub(super) fn note_strange(&mut self, seed: &str, reason: &str) {
        let reason = shortened(reason.to_owned());
        let known = self.strange.insert(seed.to_owned(), reason.clone());
        if known.is_none() {
            tracing::error!(seed, "the seed {seed} is in another cluster: {reason}");
        }
    }

    /// A seed has said something else.
    pub(super) fn note_usual(&mut self, seed: &str) {
        if self.strange.remove(seed).is_some() {
            tracing::info!(seed, "the seed is in another cluster no more");
        }
    }

    /// Those that are in other clusters, for `status`.
    pub(super) fn strange(&self) -> Vec<OtherCluster> {
        let told = self.strange.iter().take(OTHER_CLUSTERS_MAX / 2);
        let told = told.map(|(seed, reason)| OtherCluster {
            is_seed: true,
            address: seed.clone(),
            reason: format!(
                "{reason}. Take it out of --seed to stay in this cluster; to join the other one, start with an \
                 empty --data-dir"
            ),
        });
        told.collect()
    }
}

/// What others have said goes into logs and answers in bounds.
pub(super) fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// A seed, for people: with the address, where the name has others, too.
pub(super) fn label(name: &str, address: &str) -> String {
    match name == address {
        true => name.to_owned(),
        false => format!("{name} ({address})"),
    }
}
