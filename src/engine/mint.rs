//! Minting dots: a client's write becomes a version of its key.
//!
//! Reading the present state, minting the dot and merging are one step, done for one key after the
//! other by the store's only writer. So what is replicated under a dot always contains everything
//! that this node had minted for the key before.

use dynakv_protocol::causal::{Clock, Dot, Incoming, Sibling, Value, Versions};
use dynakv_protocol::limits::{SIBLINGS_MAX, VERSIONS_BYTES_FACTOR};
use dynakv_protocol::{Actor, ErrorCode, ErrorReply, WriteId};
use smallvec::SmallVec;

use super::hybrid_clock::HybridClock;
use super::put::{Replaced, Seen};

/// A client's write, checked, before it has a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The client's random id; a retry has the same one.
    pub write_id: WriteId,
    /// What to store.
    pub value: Value,
    /// What the client had read. Without it the write replaces all that is stored here.
    pub context: Option<Clock>,
    /// After how many milliseconds the value expires.
    pub ttl_ms: Option<u64>,
    /// The limit of one value, in bytes; four times this is the limit of all a key's versions.
    pub value_bytes_max: usize,
    /// Whether a blind write that would replace more than one value is to be refused.
    pub if_no_conflict: bool,
}

/// Whether the state changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Minted {
    /// The write is a new sibling.
    New {
        /// Under this dot.
        dot: Dot,
        /// The values that a blind write replaced, one dot for each that a reader would have seen.
        replaced: Replaced,
    },
    /// The write was there already: it is a retry.
    Already,
}

impl Minted {
    /// The values that a blind write replaced.
    pub fn replaced(self) -> Replaced {
        match self {
            Self::New { replaced, .. } => replaced,
            Self::Already => Replaced::new(),
        }
    }
}

/// Who mints, and with what counter. One per node, owned by the store's writer.
#[derive(Debug)]
pub struct Minter {
    actor: Actor,
    counter: u64,
    clock: HybridClock,
    random: fastrand::Rng,
}

impl Minter {
    /// Goes on minting under this actor after this counter (0 for a fresh actor).
    pub fn new(actor: Actor, counter: u64, random: fastrand::Rng) -> Self {
        Self {
            actor,
            counter,
            clock: HybridClock::default(),
            random,
        }
    }

    /// The actor and the last counter minted: what a clean shutdown keeps.
    pub fn position(&self) -> (Actor, u64) {
        (self.actor, self.counter)
    }

    /// Adds a write to a key's present state.
    ///
    /// # Errors
    /// Leaves `current` as it was and says why: the context knows more of this actor than the actor
    /// itself, the key would exceed its limits, or it is in conflict and the write does not want to
    /// replace that.
    pub fn mint(
        &mut self,
        current: &mut Versions,
        intent: Intent,
        now_unix_ms: u64,
    ) -> Result<Minted, ErrorReply> {
        self.mint_over(current, intent, None, now_unix_ms)
    }

    /// The same for a blind write that is minted once more, over what other owners had beside it.
    ///
    /// # Errors
    /// As [`mint`](Self::mint). What was seen is merged all the same.
    pub fn mint_again(
        &mut self,
        current: &mut Versions,
        intent: Intent,
        seen: &Seen,
        now_unix_ms: u64,
    ) -> Result<Minted, ErrorReply> {
        current.merge(&seen.beside);
        self.mint_over(current, intent, Some(seen), now_unix_ms)
    }

    fn mint_over(
        &mut self,
        current: &mut Versions,
        intent: Intent,
        seen: Option<&Seen>,
        now_unix_ms: u64,
    ) -> Result<Minted, ErrorReply> {
        if is_there(current, &intent, seen) {
            return Ok(Minted::Already);
        }
        let replaced = match intent.context {
            Some(_) => Replaced::new(),
            None => replaced(current, intent.write_id, seen, now_unix_ms),
        };
        if intent.if_no_conflict && replaced.len() > 1 {
            return Err(conflict(replaced.len()));
        }
        if let Some(context) = &intent.context
            && context.counter(self.actor) > self.counter
        {
            return Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "the context names writes of this node that it never made; read the key again",
            ));
        }
        check_limits(current, &intent)?;
        // The counter is node-wide. A store that knows more of our actor than we do proves that we
        // have forgotten something: that actor is not ours any more.
        if current.clock().counter(self.actor) > self.counter {
            self.renew();
        }
        self.counter += 1;
        let dot = Dot {
            actor: self.actor,
            counter: self.counter,
        };
        for sibling in current.siblings() {
            self.clock.observe(sibling.timestamp, now_unix_ms);
        }
        let incoming = Incoming {
            write_id: intent.write_id,
            timestamp: self.clock.tick(now_unix_ms),
            expires_at_ms: intent.ttl_ms.map(|ttl| now_unix_ms.saturating_add(ttl)),
            value: intent.value,
        };
        match intent.context {
            Some(context) => current.write(&context, dot, incoming),
            None => {
                let seen_here = current.clock().clone();
                current.write(&seen_here, dot, incoming);
            }
        }
        Ok(Minted::New { dot, replaced })
    }

    /// Takes note of what another node, or an import, brings. If it names writes of the present actor
    /// that were never made here, that actor is given up at once: its next write would otherwise be
    /// taken for one of them and dropped wherever this state is known.
    pub fn heed(&mut self, clock: &Clock) {
        if clock.counter(self.actor) > self.counter {
            self.renew();
        }
    }

    /// Takes a new actor: whenever this node can't be sure of its own past.
    pub fn renew(&mut self) {
        self.actor = Actor(self.random.u64(1..));
        self.counter = 0;
    }
}

/// Whether there is nothing to do: it is a retry of a write that is here. A blind one must stand alone, for
/// it replaces whatever else there is.
fn is_there(current: &Versions, intent: &Intent, seen: Option<&Seen>) -> bool {
    let is_it = |sibling: &Sibling| sibling.write_id == intent.write_id;
    match intent.context {
        Some(_) => current.contains_write(intent.write_id),
        None => {
            seen.is_none() && !current.siblings().is_empty() && current.siblings().iter().all(is_it)
        }
    }
}

/// The values that a blind write replaces, as a reader counts them: neither deleted nor expired, equal
/// ones once. Those of a first round count where they were not older versions of what was seen since.
fn replaced(
    current: &Versions,
    write_id: WriteId,
    seen: Option<&Seen>,
    now_unix_ms: u64,
) -> Replaced {
    let mut replaced: Replaced = match seen {
        Some(seen) => {
            let is_older = |dot: &Dot| seen.beside.clock().covers(*dot);
            let before = seen.replaced.iter().copied();
            before.filter(|dot| !is_older(dot)).collect()
        }
        None => Replaced::new(),
    };
    let mut values: SmallVec<[&Value; 1]> = SmallVec::new();
    for sibling in current.siblings() {
        let counts = sibling.write_id != write_id && sibling.is_live(now_unix_ms);
        if counts && !values.contains(&&sibling.value) {
            values.push(&sibling.value);
            replaced.push(sibling.dot);
        }
    }
    replaced
}

fn conflict(values: usize) -> ErrorReply {
    let message = format!(
        "the key has {values} concurrent values, and this write was to replace one at most: read it, \
         reconcile them, and write with the context of that read"
    );
    ErrorReply::new(ErrorCode::Conflict, message)
}

/// Repair may exceed these bounds, client writes may not: a key that grows past them is used wrongly.
fn check_limits(current: &Versions, intent: &Intent) -> Result<(), ErrorReply> {
    // A tombstone only ever helps.
    let Value::Bytes(value) = &intent.value else {
        return Ok(());
    };
    // A blind write replaces all that is stored here.
    let Some(context) = &intent.context else {
        return Ok(());
    };
    let kept = current
        .siblings()
        .iter()
        .filter(|sibling| !context.covers(sibling.dot));
    let (count, bytes) = kept.fold((0, 0), |(count, bytes), sibling| {
        (count + 1, bytes + sibling.value.len())
    });
    if count >= SIBLINGS_MAX {
        return Err(ErrorReply::new(
            ErrorCode::TooManySiblings,
            format!(
                "the key has {count} concurrent values already; read it, reconcile them, and write \
                 with the context of that read"
            ),
        ));
    }
    let bytes_max = intent.value_bytes_max.saturating_mul(VERSIONS_BYTES_FACTOR);
    if bytes + value.len() > bytes_max {
        return Err(ErrorReply::new(
            ErrorCode::TooLarge,
            format!(
                "the key's concurrent values would hold {} bytes, the limit is {bytes_max}; read \
                 it, reconcile them, and write with the context of that read",
                bytes + value.len()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn minter() -> Minter {
        Minter::new(Actor(7), 0, fastrand::Rng::with_seed(1))
    }

    fn intent(id: u128, value: &str, context: Option<&Clock>) -> Intent {
        Intent {
            write_id: WriteId(id),
            value: Value::Bytes(Bytes::copy_from_slice(value.as_bytes())),
            context: context.cloned(),
            ttl_ms: None,
            value_bytes_max: 1024,
            if_no_conflict: false,
        }
    }

    #[test]
    fn a_blind_write_replaces_what_is_stored_here() {
        let (mut minter, mut key) = (minter(), Versions::new());
        minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
        minter.mint(&mut key, intent(2, "b", None), 2).unwrap();
        assert_eq!(key.siblings().len(), 1);
        assert_eq!(key.siblings()[0].write_id, WriteId(2));
    }

    #[test]
    fn the_counter_is_node_wide() {
        let mut minter = minter();
        let (mut one, mut two) = (Versions::new(), Versions::new());
        minter.mint(&mut one, intent(1, "a", None), 1).unwrap();
        minter.mint(&mut two, intent(2, "b", None), 1).unwrap();
        let minted = minter.mint(&mut one, intent(3, "c", None), 1).unwrap();
        let dot = Dot {
            actor: Actor(7),
            counter: 3,
        };
        assert!(matches!(minted, Minted::New { dot: it, .. } if it == dot));
        assert_eq!(minter.position(), (Actor(7), 3));
    }

    #[test]
    fn a_write_with_an_old_context_becomes_a_sibling() {
        let (mut minter, mut key) = (minter(), Versions::new());
        minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
        let read = key.clock().clone();
        minter
            .mint(&mut key, intent(2, "b", Some(&read)), 1)
            .unwrap();
        minter
            .mint(&mut key, intent(3, "c", Some(&read)), 1)
            .unwrap();
        assert_eq!(key.siblings().len(), 2);
        let read = key.clock().clone();
        minter
            .mint(&mut key, intent(4, "d", Some(&read)), 1)
            .unwrap();
        assert_eq!(key.siblings().len(), 1);
    }

    #[test]
    fn a_retry_is_no_second_sibling() {
        let (mut minter, mut key) = (minter(), Versions::new());
        let empty = Clock::new();
        minter
            .mint(&mut key, intent(1, "a", Some(&empty)), 1)
            .unwrap();
        let before = key.clone();
        let minted = minter.mint(&mut key, intent(1, "a", Some(&empty)), 1);
        assert_eq!(minted, Ok(Minted::Already));
        assert_eq!(key, before);
    }

    #[test]
    fn a_blind_retry_replaces_what_came_beside_it() {
        let (mut minter, mut key) = (minter(), Versions::new());
        let empty = Clock::new();
        minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
        // Alone it is done.
        let minted = minter.mint(&mut key, intent(1, "a", None), 1);
        assert_eq!(minted, Ok(Minted::Already));
        minter
            .mint(&mut key, intent(2, "b", Some(&empty)), 1)
            .unwrap();
        assert_eq!(key.siblings().len(), 2);
        minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
        assert_eq!(key.siblings().len(), 1);
        assert_eq!(key.siblings()[0].write_id, WriteId(1));
    }

    fn replaced(minted: Result<Minted, ErrorReply>) -> usize {
        minted.unwrap().replaced().len()
    }

    #[test]
    fn a_blind_write_says_how_many_values_a_reader_would_have_seen() {
        let (mut minter, mut key) = (minter(), Versions::new());
        let empty = Clock::new();
        assert_eq!(replaced(minter.mint(&mut key, intent(1, "a", None), 1)), 0);
        assert_eq!(replaced(minter.mint(&mut key, intent(2, "b", None), 1)), 1);
        for (id, value) in [(3, "b"), (4, "c")] {
            let minted = minter.mint(&mut key, intent(id, value, Some(&empty)), 1);
            assert_eq!(replaced(minted), 0);
        }
        // Equal ones are one, and what is deleted is none.
        let gone = Intent {
            value: Value::Tombstone,
            ..intent(5, "", Some(&empty))
        };
        minter.mint(&mut key, gone, 1).unwrap();
        assert_eq!(key.siblings().len(), 4);
        let careful = || Intent {
            if_no_conflict: true,
            ..intent(6, "d", None)
        };
        let error = minter.mint(&mut key, careful(), 1).unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        assert_eq!(key.siblings().len(), 4);
        assert_eq!(replaced(minter.mint(&mut key, intent(7, "e", None), 1)), 2);
        assert_eq!(replaced(minter.mint(&mut key, careful(), 1)), 1);
    }

    #[test]
    fn a_second_round_counts_what_both_replaced_and_no_older_version_of_it() {
        let other = |key: &Versions, id| {
            let (mut minter, mut key) = (
                Minter::new(Actor(8), 0, fastrand::Rng::with_seed(2)),
                key.clone(),
            );
            minter
                .mint(&mut key, intent(id, "theirs", None), 1)
                .unwrap();
            key
        };
        let (mut minter, mut key) = (minter(), Versions::new());
        minter.mint(&mut key, intent(1, "old", None), 1).unwrap();
        for (beside, expected) in [
            // The other owner has replaced what this one had.
            (other(&key, 2), 1),
            // Or has never seen it.
            (other(&Versions::new(), 3), 2),
        ] {
            let mut key = key.clone();
            let first = minter.mint(&mut key, intent(4, "new", None), 1).unwrap();
            let seen = Seen {
                beside,
                replaced: first.replaced(),
            };
            let second = minter.mint_again(&mut key, intent(4, "new", None), &seen, 1);
            assert_eq!(replaced(second), expected);
            assert_eq!(key.siblings().len(), 1);
            assert_eq!(key.siblings()[0].write_id, WriteId(4));
        }
    }

    #[test]
    fn a_context_from_the_future_is_refused() {
        let (mut minter, mut key) = (minter(), Versions::new());
        let future: Clock = [Dot {
            actor: Actor(7),
            counter: u64::MAX,
        }]
        .into_iter()
        .collect();
        let error = minter
            .mint(&mut key, intent(1, "a", Some(&future)), 1)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(key.is_empty());
    }

    #[test]
    fn an_actor_that_forgot_its_past_is_given_up() {
        let mut key = Versions::new();
        Minter::new(Actor(7), 40, fastrand::Rng::with_seed(1))
            .mint(&mut key, intent(1, "a", None), 1)
            .unwrap();
        let mut forgetful = Minter::new(Actor(7), 3, fastrand::Rng::with_seed(2));
        forgetful.mint(&mut key, intent(2, "b", None), 1).unwrap();
        assert_ne!(forgetful.position().0, Actor(7));
        assert_eq!(key.siblings()[0].write_id, WriteId(2));
        assert_eq!(key.clock().counter(Actor(7)), 41);
    }

    #[test]
    fn a_merged_clock_that_knows_more_than_was_minted_costs_the_actor() {
        let seen = |counter| -> Clock {
            let actor = Actor(7);
            [Dot { actor, counter }].into_iter().collect()
        };
        let mut minter = Minter::new(Actor(7), 3, fastrand::Rng::with_seed(3));
        minter.heed(&seen(3));
        assert_eq!(minter.position(), (Actor(7), 3));
        minter.heed(&seen(4));
        assert_ne!(minter.position().0, Actor(7));
        // Whoever reads that state can write with it here, also to a key that this node never had.
        let mut key = Versions::new();
        minter
            .mint(&mut key, intent(1, "a", Some(&seen(4))), 1)
            .unwrap();
        assert_eq!(key.siblings().len(), 1);
    }

    #[test]
    fn siblings_are_bounded_for_clients_but_tombstones_pass() {
        let (mut minter, mut key) = (minter(), Versions::new());
        let empty = Clock::new();
        for id in 0..SIBLINGS_MAX as u128 {
            minter
                .mint(&mut key, intent(id, "x", Some(&empty)), 1)
                .unwrap();
        }
        let error = minter
            .mint(&mut key, intent(1_000, "x", Some(&empty)), 1)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::TooManySiblings);
        let all = key.clock().clone();
        minter
            .mint(&mut key, intent(1_001, "x", Some(&all)), 1)
            .unwrap();
        assert_eq!(key.siblings().len(), 1);
    }

    #[test]
    fn bytes_of_all_siblings_are_bounded() {
        let (mut minter, mut key) = (minter(), Versions::new());
        let empty = Clock::new();
        let kilobyte = "x".repeat(1024);
        for id in 0..4 {
            minter
                .mint(&mut key, intent(id, &kilobyte, Some(&empty)), 1)
                .unwrap();
        }
        let error = minter
            .mint(&mut key, intent(9, "x", Some(&empty)), 1)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
    }
}
