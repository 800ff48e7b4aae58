//! Probing: when to try a silent member, and the probes made for others.
//!
//! As in SWIM (Das, Gupta, Motivala 2002, section 3.1) a member is tried through others before it is
//! suspected, so that one bad link between two nodes makes nobody suspect anybody.

use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::ids::NodeId;

use super::config::MembershipConfig;

/// The most probes for others that are under way at once; more are answered with "not reached",
/// which changes nobody's mind.
const ERRANDS_MAX: usize = 256;

/// When one member was tried and will be tried again.
#[derive(Debug, Default)]
pub(super) struct ProbeSchedule {
    /// Attempts since there was evidence.
    attempts: u32,
    last_ms: Option<u64>,
    /// Something hints at trouble: try without waiting for silence.
    hurried: bool,
}

impl ProbeSchedule {
    /// Asks for an attempt as soon as one is allowed.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
    }

    pub(super) fn succeeded(&mut self) {
        self.attempts = 0;
        self.hurried = false;
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether an attempt is due for a member that has been quiet so long.
    pub(super) fn is_due(
        &self,
        config: &MembershipConfig,
        state: MemberState,
        quiet_ms: u64,
        now_ms: u64,
    ) -> bool {
        let rested = |pause_ms| {
            self.last_ms
                .is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= pause_ms)
        };
        if self.hurried && rested(config.gossip_interval_ms) {
            return true;
        }
        match state {
            // Four attempts fit between half of the time and all of it.
            MemberState::Alive => {
                quiet_ms >= config.suspect_after_ms / 2 && rested(config.suspect_after_ms / 8)
            }
            MemberState::Suspected => rested(config.suspect_after_ms / 2),
            // The occasional gossip to dead members is enough.
            MemberState::Dead => false,
        }
    }

    /// Notes an attempt. True when others should be asked too: from the second on, as the first
    /// often finds nothing but a lost message.
    pub(super) fn attempt(&mut self, now_ms: u64) -> bool {
        self.attempts = self.attempts.saturating_add(1);
        self.last_ms = Some(now_ms);
        self.hurried = false;
        self.attempts > 1
    }
}

/// A probe made because another node asked for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Errand {
    pub(super) token: u64,
    pub(super) target: NodeId,
    pub(super) to: NodeId,
    deadline_ms: u64,
}

/// The probes for others that are under way.
#[derive(Debug, Default)]
pub(super) struct Errands {
    under_way: Vec<Errand>,
}

/// What to do about a new errand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Try the target.
    Ping,
    /// It is being tried already.
    Wait,
    /// There are too many: answer "not reached".
    Refused,
}

impl Errands {
    pub(super) fn accept(
        &mut self,
        token: u64,
        target: NodeId,
        to: NodeId,
        deadline_ms: u64,
    ) -> Accepted {
        if self.under_way.len() >= ERRANDS_MAX {
            return Accepted::Refused;
        }
        let tried_already = self.under_way.iter().any(|errand| errand.target == target);
        self.under_way.push(Errand {
            token,
            target,
            to,
            deadline_ms,
        });
        if tried_already {
            Accepted::Wait
        } else {
            Accepted::Ping
        }
    }

    /// Takes out those that wait for this target.
    pub(super) fn take_answered(&mut self, target: &NodeId) -> Vec<Errand> {
        self.take(|errand| errand.target == *target)
    }

    /// Takes out those that no answer came for.
    pub(super) fn take_expired(&mut self, now_ms: u64) -> Vec<Errand> {
        self.take(|errand| errand.deadline_ms <= now_ms)
    }

    fn take(&mut self, which: impl Fn(&Errand) -> bool) -> Vec<Errand> {
        self.under_way
            .extract_if(.., |errand| which(errand))
            .collect()
    }
}
