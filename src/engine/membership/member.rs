//! What is known of one other member, and which news about it is newer.

use dynakv_protocol::gossip::{MemberEntry, MemberState};
use dynakv_protocol::ids::{DirectoryId, Generation, NodeId, RingVersion};
use dynakv_protocol::moving::Moving;

use super::RingMember;
use super::config::MembershipConfig;
use super::probe::ProbeSchedule;

/// The order of news about one member; only that member itself raises any of the three.
///
/// A restart raises the generation, refuting a suspicion the incarnation, each round of gossip the
/// heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct News {
    pub(super) generation: Generation,
    pub(super) incarnation: u64,
    pub(super) heartbeat: u64,
}

impl News {
    pub(super) fn of(entry: &MemberEntry) -> Self {
        Self {
            generation: entry.generation,
            incarnation: entry.incarnation,
            heartbeat: entry.heartbeat,
        }
    }

    /// Whether it tells of a restart or a refutation, not only of another heartbeat.
    pub(super) fn is_new_life_after(self, older: Self) -> bool {
        (self.generation, self.incarnation) > (older.generation, older.incarnation)
    }
}

/// One other member.
#[derive(Debug)]
pub(super) struct Peer {
    /// The newest news, but with this node's own judgement as the state.
    pub(super) entry: MemberEntry,
    /// Since when the state is what it is.
    pub(super) since_ms: u64,
    /// Whether any news has come at all; without, the entry is a placeholder that isn't passed on.
    pub(super) has_news: bool,
    /// Whether this node has ever had evidence that the member lives.
    pub(super) was_witnessed: bool,
    /// When that last was; when the member became known if it never was.
    evidence_ms: u64,
    /// When it was last heard of where it is known to be, as the run that is known: by its heartbeat, or because
    /// it answered this node. That it answers others says nothing of where it does.
    heard_ms: Option<u64>,
    pub(super) probes: ProbeSchedule,
    /// In how many more messages its last change goes first.
    pub(super) sends_left: usize,
}

impl Peer {
    /// A member of which only the ring has told. It counts as alive until it has been silent for
    /// as long as any other.
    pub(super) fn new(member: RingMember, now_ms: u64) -> Self {
        Self {
            entry: MemberEntry::new(member.id, member.address, member.directory_id),
            since_ms: now_ms,
            has_news: false,
            was_witnessed: false,
            evidence_ms: now_ms,
            heard_ms: None,
            probes: ProbeSchedule::default(),
            sends_left: 0,
        }
    }

    /// The ring has another directory for the member than before: it lost that one, and begins anew with
    /// low counters. What is thought of it stays.
    pub(super) fn move_to(&mut self, directory_id: DirectoryId) {
        self.entry = MemberEntry {
            generation: Generation(0),
            incarnation: 0,
            heartbeat: 0,
            directory_id,
            nonce: 0,
            ring_version: RingVersion(0),
            complete_since: RingVersion(0),
            settled_at: RingVersion(0),
            hints_counted: 0,
            moving: None,
            ..self.entry.clone()
        };
        self.has_news = false;
        self.heard_ms = None;
    }

    pub(super) fn state(&self) -> MemberState {
        self.entry.state
    }

    pub(super) fn news(&self) -> News {
        News::of(&self.entry)
    }

    /// Takes over newer news, all but the judgement.
    pub(super) fn learn(&mut self, entry: MemberEntry) {
        let state = self.entry.state;
        let address = std::mem::take(&mut self.entry.address);
        self.entry = MemberEntry {
            state,
            // That of the ring, also where the news does not say.
            directory_id: self.entry.directory_id,
            ..entry
        };
        if self.entry.address.is_empty() {
            self.entry.address = address;
        }
        self.has_news = true;
    }

    /// Notes that the member was alive just now.
    pub(super) fn witness(&mut self, now_ms: u64) {
        self.evidence_ms = now_ms;
        self.was_witnessed = true;
        self.probes.succeeded();
    }

    /// Notes that the run that is known was heard of just now.
    pub(super) fn hear(&mut self, now_ms: u64) {
        self.heard_ms = Some(now_ms);
    }

    /// Whether that is less long ago than one may be silent without being suspected.
    pub(super) fn is_heard(&self, config: &MembershipConfig, now_ms: u64) -> bool {
        let quiet_ms = self.heard_ms.map(|at| now_ms.saturating_sub(at));
        quiet_ms.is_some_and(|quiet_ms| quiet_ms < config.suspect_after_ms)
    }

    /// How long there has been no evidence.
    pub(super) fn quiet_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.evidence_ms)
    }

    /// Leaves out of account a time in which this node itself did not run.
    pub(super) fn forgive(&mut self, pause_ms: u64) {
        self.evidence_ms = self.evidence_ms.saturating_add(pause_ms);
        self.heard_ms = self.heard_ms.map(|at| at.saturating_add(pause_ms));
    }

    /// The judgement by silence alone. It never gets better by itself: only evidence does that.
    pub(super) fn judged(&self, config: &MembershipConfig, now_ms: u64) -> MemberState {
        let quiet_ms = self.quiet_ms(now_ms);
        let by_silence = if quiet_ms >= config.dead_after_ms {
            MemberState::Dead
        } else if quiet_ms >= config.suspect_after_ms {
            MemberState::Suspected
        } else {
            MemberState::Alive
        };
        by_silence.max(self.state())
    }
}

/// One member as this node sees it: for status and for the published view of who is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// What this node thinks of it.
    pub state: MemberState,
    /// Since when, on the clock of `now_ms`.
    pub since_ms: u64,
    /// How often its directory has been started; 0 before any news.
    pub generation: Generation,
    /// Live keys in its store, as it last said.
    pub keys: u64,
    /// Bytes on its disk, as it last said.
    pub disk_bytes: u64,
    /// The version of dynakv it runs; empty before any news.
    pub software: String,
    /// In how many segments it has not got back what it lost, as it last said.
    pub rebuilding_segments: u32,
    /// How many keys it keeps for other nodes, as it last said.
    pub hints_waiting: u64,
    /// Whether its disk hangs, as it last said.
    pub disk_hangs: bool,
    /// Whether its disk has no room beside its reserve, as it last said.
    pub disk_full: bool,
    /// The ring that it follows, as it last said; 0 for a version that knows no changes, and before any news.
    pub ring_version: RingVersion,
    /// By which change of the ring it has all that it gained, as it last said.
    pub complete_since: RingVersion,
    /// By which ring it is to go and has handed on what it has, as it last said.
    pub settled_at: RingVersion,
    /// How many keys it keeps for other nodes that an acknowledged write counts on, as it last said.
    pub hints_counted: u64,
    /// What a change of the ring still has it move, as it last said.
    pub moving: Option<Moving>,
    /// Whether the run that is known was heard of lately, by its heartbeat or directly.
    pub is_heard: bool,
}

impl MemberView {
    pub(super) fn of(entry: &MemberEntry, since_ms: u64, is_heard: bool) -> Self {
        Self {
            id: entry.id.clone(),
            address: entry.address.clone(),
            state: entry.state,
            since_ms,
            generation: entry.generation,
            keys: entry.keys,
            disk_bytes: entry.disk_bytes,
            software: entry.software.clone(),
            rebuilding_segments: entry.rebuilding_segments,
            hints_waiting: entry.hints_waiting,
            disk_hangs: entry.disk_hangs,
            disk_full: entry.disk_full,
            ring_version: entry.ring_version,
            complete_since: entry.complete_since,
            settled_at: entry.settled_at,
            hints_counted: entry.hints_counted,
            moving: entry.moving,
            is_heard,
        }
    }
}
