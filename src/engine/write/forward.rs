//! Handing a request on to an owner of its key.
//!
//! One owner after the other is tried until one answers: those in reach first, this node itself when it
//! is an owner, the doubtful ones last. A write keeps its id on the way, so an owner that had taken it
//! without being able to say so does no harm.

use dynakv_protocol::{ErrorCode, ErrorReply};
use smallvec::SmallVec;

use crate::engine::placement::preference::{NodeSlot, Preference, Reach, SELF};
use crate::engine::quorum::Place;

/// What the coordinator is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the request to this owner.
    Send(NodeSlot),
    /// Coordinate it here after all.
    TakeOver,
    /// Stand in for an owner: none can be reached, and the quorum may be sloppy.
    StandIn,
    /// Nobody could be reached.
    Answer(ErrorReply),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The owner is lost, and may have acted on the request before.
    Failed(NodeSlot),
    /// The owner has certainly not acted on it: it could not be reached at all, or says so.
    NotTaken(NodeSlot),
    /// The owner has no room on its disk.
    Full(NodeSlot),
    /// It takes longer than it should: the next owner is tried.
    Slow,
    /// Time is up.
    Deadline,
}

/// How a request is handed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// How many owners the request needs, for the error: the W or R that was asked for.
    pub needed: u8,
    /// Whether it is a write.
    pub is_write: bool,
    /// Whether this node has no room on its disk for it, and so does not coordinate it in the end.
    pub is_full: bool,
    /// Whether this node's disk hangs, so that it does not coordinate it either.
    pub is_hanging: bool,
    /// Whether this node, which owns no copy, stands in for an owner when none in reach takes it: it is a
    /// sloppy write.
    pub may_stand_in: bool,
    /// Whether stand-ins may count for it.
    pub is_sloppy: bool,
}

/// One request on its way to an owner.
#[derive(Debug)]
pub struct Forward {
    needed: u8,
    is_write: bool,
    is_sloppy: bool,
    /// Whether this node, which owns no copy, may stand in at the end.
    may_stand_in: bool,
    /// Whether this node, or an owner, has no room for it.
    is_full: bool,
    /// Whether some owner before the present one was sent the request and may have acted on it.
    was_sent: bool,
    current: Option<NodeSlot>,
    /// Whether that one has not been sent it yet: there is no link to it.
    waits: bool,
    /// Whom to try next, the best last.
    spares: SmallVec<[NodeSlot; 4]>,
}

impl Forward {
    /// Begins with the owner at place `first`.
    pub fn start(
        owners: &Preference,
        first: Place,
        terms: Terms,
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let Terms {
            needed,
            is_write,
            is_full,
            is_hanging,
            may_stand_in,
            is_sloppy,
        } = terms;
        let is_able = !is_full && !is_hanging;
        let first = owners.at(first);
        let mut spares: SmallVec<[NodeSlot; 4]> = (0..owners.len())
            .filter_map(|place| owners.at(place))
            .filter(|&node| Some(node) != first && (is_able || node != SELF))
            // Who may stand in does not wait for those that cannot be reached.
            .filter(|&node| !may_stand_in || reach(node) == Reach::Usable)
            .collect();
        spares.sort_by_key(|&node| {
            if node == SELF || reach(node) == Reach::Usable {
                0
            } else {
                1
            }
        });
        spares.reverse();
        let mut forward = Self {
            needed,
            is_write,
            is_sloppy,
            may_stand_in,
            is_full,
            was_sent: false,
            current: None,
            waits: false,
            spares,
        };
        match first {
            Some(first) => forward.send(first, effects),
            None => forward.next(effects),
        }
        forward
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Failed(node) if self.current == Some(node) => {
                self.was_sent = true;
                self.next(effects);
            }
            Event::NotTaken(node) if self.current == Some(node) => self.next(effects),
            Event::Full(node) if self.current == Some(node) => {
                self.is_full = true;
                self.next(effects);
            }
            Event::Failed(_) | Event::NotTaken(_) | Event::Full(_) => {}
            Event::Slow if !self.may_go_elsewhere() => {}
            Event::Slow => {
                self.was_sent |= !self.waits;
                self.next(effects);
            }
            Event::Deadline => {
                self.was_sent |= self.current.is_some() && !self.waits;
                let message = "time is up: no owner of the key answered. See `dynakv status`, or give \
                               it longer with --timeout";
                self.fail(ErrorCode::Timeout, message, effects);
            }
        }
    }

    /// Whether what this owner answers is the answer. Of a write only the last one asked counts: that an
    /// owner which was given up has it says nothing of what the next one writes over. Any owner may answer a
    /// read.
    pub fn hears(&self, node: NodeSlot) -> bool {
        !self.is_write || self.awaits(node)
    }

    /// Whether this owner has the request at present.
    pub fn awaits(&self, node: NodeSlot) -> bool {
        self.current == Some(node)
    }

    /// Whether somebody else is given it when this owner is slow.
    pub fn may_go_elsewhere(&self) -> bool {
        !self.spares.is_empty() || self.may_stand_in
    }

    /// Whether it is left with an owner that has fallen silent, until that is slow: the owner may yet begin it, for as long as
    /// it was told. Others that took a sloppy write meanwhile may be out of its sight, and so may what replaced it. (Those
    /// of a strict one are not.)
    pub fn outlasts_silence(&self) -> bool {
        self.is_write && self.is_sloppy && self.may_go_elsewhere()
    }

    /// There is no link to the owner that it is to be sent to. It is sent once there is, if nobody else has it by then:
    /// what was given up is better not sent at all.
    pub fn wait(&mut self) {
        self.waits = true;
    }

    /// Whether it waits for the link to this owner.
    pub fn waits_for(&self, node: NodeSlot) -> bool {
        self.waits && self.awaits(node)
    }

    /// There is a link to this owner. Whether it has waited for that: then it is to be sent now.
    pub fn take_up(&mut self, node: NodeSlot) -> bool {
        let has_waited = self.waits_for(node);
        self.waits &= !has_waited;
        has_waited
    }

    fn next(&mut self, effects: &mut Vec<Effect>) {
        match self.spares.pop() {
            Some(SELF) => {
                self.current = None;
                effects.push(Effect::TakeOver);
            }
            Some(node) => self.send(node, effects),
            None if self.may_stand_in => {
                self.current = None;
                self.may_stand_in = false;
                effects.push(Effect::StandIn);
            }
            None if self.is_full => {
                let message = "no owner of the key that can be reached has room on its disk: free some \
                               space there; reads go on";
                self.fail(ErrorCode::DiskFull, message, effects);
            }
            None => {
                let message = match self.is_write && !self.was_sent {
                    true => {
                        "no owner of the key can be reached; nothing was written. See `dynakv status`"
                    }
                    false => "no owner of the key can be reached. See `dynakv status`",
                };
                self.fail(ErrorCode::QuorumUnavailable, message, effects);
            }
        }
    }

    fn send(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        self.current = Some(node);
        self.waits = false;
        effects.push(Effect::Send(node));
    }

    fn fail(&mut self, code: ErrorCode, message: &str, effects: &mut Vec<Effect>) {
        let error = ErrorReply::new(code, message)
            .with_quorum(self.needed, 0)
            .maybe_applied(self.is_write && self.was_sent)
            .retryable();
        effects.push(Effect::Answer(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeSlot = NodeSlot(1);
    const B: NodeSlot = NodeSlot(2);

    fn write() -> Terms {
        Terms {
            needed: 2,
            is_write: true,
            ..Terms::default()
        }
    }

    fn start(owners: &[NodeSlot], reach: fn(NodeSlot) -> Reach) -> (Forward, Vec<Effect>) {
        let mut effects = Vec::new();
        let owners = Preference::new(owners.iter().copied());
        let forward = Forward::start(&owners, 0, write(), reach, &mut effects);
        (forward, effects)
    }

    fn step(forward: &mut Forward, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        forward.step(event, &mut effects);
        effects
    }

    #[test]
    fn the_next_owner_is_tried_and_only_once() {
        let (mut forward, effects) = start(&[A, B], |_| Reach::Usable);
        assert_eq!(effects, [Effect::Send(A)]);
        assert_eq!(step(&mut forward, Event::Failed(A)), [Effect::Send(B)]);
        assert_eq!(step(&mut forward, Event::Failed(A)), []);
        let effects = step(&mut forward, Event::Failed(B));
        let [Effect::Answer(error)] = &effects[..] else {
            panic!("expected an error, got {effects:?}");
        };
        assert_eq!(error.code, ErrorCode::QuorumUnavailable);
        assert!(error.maybe_applied);
    }

    #[test]
    fn what_nobody_took_is_not_applied() {
        let (mut forward, _) = start(&[A, B], |_| Reach::Doubtful);
        assert_eq!(step(&mut forward, Event::NotTaken(A)), [Effect::Send(B)]);
        let effects = step(&mut forward, Event::NotTaken(B));
        let [Effect::Answer(error)] = &effects[..] else {
            panic!("expected an error, got {effects:?}");
        };
        assert!(!error.maybe_applied, "{error}");
        assert!(error.message.contains("nothing was written"), "{error}");

        // One that was lost with the request counts, whoever comes after it.
        for lost in [Event::Failed(A), Event::Slow] {
            let (mut forward, _) = start(&[A, B], |_| Reach::Usable);
            assert_eq!(step(&mut forward, lost), [Effect::Send(B)]);
            let effects = step(&mut forward, Event::NotTaken(B));
            let [Effect::Answer(error)] = &effects[..] else {
                panic!("expected an error, got {effects:?}");
            };
            assert!(error.maybe_applied, "{lost:?}: {error}");
        }
        let (mut forward, _) = start(&[A], |_| Reach::Usable);
        let effects = step(&mut forward, Event::Deadline);
        assert!(
            matches!(&effects[..], [Effect::Answer(error)] if error.maybe_applied),
            "{effects:?}"
        );
    }

    #[test]
    fn what_waits_for_a_link_was_not_sent() {
        let (mut forward, _) = start(&[A, B], |_| Reach::Usable);
        forward.wait();
        assert!(forward.waits_for(A) && !forward.waits_for(B));
        assert_eq!(step(&mut forward, Event::Slow), [Effect::Send(B)]);
        assert!(!forward.take_up(A) && !forward.take_up(B));
        forward.wait();
        assert!(forward.take_up(B) && !forward.take_up(B));
        forward.wait();
        let effects = step(&mut forward, Event::Deadline);
        assert!(
            matches!(&effects[..], [Effect::Answer(error)] if !error.maybe_applied),
            "{effects:?}"
        );
    }

    #[test]
    fn owners_without_room_are_passed_by_and_named_in_the_end() {
        let (mut forward, _) = start(&[A, B], |_| Reach::Usable);
        assert_eq!(step(&mut forward, Event::Full(B)), []);
        assert_eq!(step(&mut forward, Event::Full(A)), [Effect::Send(B)]);
        let effects = step(&mut forward, Event::Full(B));
        let [Effect::Answer(error)] = &effects[..] else {
            panic!("expected an error, got {effects:?}");
        };
        assert_eq!(error.code, ErrorCode::DiskFull);
    }

    #[test]
    fn a_node_without_room_or_whose_disk_hangs_does_not_take_over() {
        let full = Terms {
            is_full: true,
            ..write()
        };
        let hanging = Terms {
            is_hanging: true,
            ..write()
        };
        for (terms, code) in [
            (full, ErrorCode::DiskFull),
            (hanging, ErrorCode::QuorumUnavailable),
        ] {
            let mut effects = Vec::new();
            let owners = Preference::new([SELF, A]);
            let mut forward = Forward::start(&owners, 1, terms, |_| Reach::Usable, &mut effects);
            assert_eq!(effects, [Effect::Send(A)]);
            let effects = step(&mut forward, Event::Failed(A));
            assert!(
                matches!(&effects[..], [Effect::Answer(error)] if error.code == code),
                "{effects:?}"
            );
        }
    }

    #[test]
    fn a_slow_owner_is_passed_by_while_there_is_another() {
        let (mut forward, _) = start(&[A, SELF], |_| Reach::Usable);
        assert_eq!(step(&mut forward, Event::Slow), [Effect::TakeOver]);
        let (mut forward, _) = start(&[A], |_| Reach::Usable);
        assert_eq!(step(&mut forward, Event::Slow), []);
    }

    #[test]
    fn a_sloppy_write_is_stood_in_for_when_no_owner_in_reach_takes_it() {
        let reach = |node| {
            if node == A {
                Reach::Usable
            } else {
                Reach::Doubtful
            }
        };
        let terms = Terms {
            may_stand_in: true,
            ..write()
        };
        for end in [Event::Failed(A), Event::Slow, Event::Full(A)] {
            let mut effects = Vec::new();
            let owners = Preference::new([A, B]);
            let mut forward = Forward::start(&owners, 0, terms, reach, &mut effects);
            assert_eq!(effects, [Effect::Send(A)]);
            // B is not waited for.
            assert_eq!(step(&mut forward, end), [Effect::StandIn]);
        }
    }

    #[test]
    fn doubtful_owners_come_last() {
        let reach = |node| {
            if node == A {
                Reach::Usable
            } else {
                Reach::Doubtful
            }
        };
        let (mut forward, _) = start(&[A, B, SELF], reach);
        assert_eq!(step(&mut forward, Event::Failed(A)), [Effect::TakeOver]);
    }
}
