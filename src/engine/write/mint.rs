//! Minting dots: a client's write becomes a version of its key.
//!
//! Reading the present state, minting the dot and merging are one step, done for one key after the
//! other by the store's only writer. So what is replicated under a dot always contains everything
//! that this node had minted for the key before.

use dynakv_protocol::causal::{Clock, Dot, Incoming, Mark, RETIRED_MAX, Sibling, Value, Versions};
use dynakv_protocol::limits::{SIBLINGS_MAX, versions_bytes_soft_max};
use dynakv_protocol::{Actor, ErrorCode, ErrorReply, WriteId};
use smallvec::SmallVec;

use super::hybrid_clock::HybridClock;
use super::plausible;
use super::put::{Beside, Replaced};
use crate::engine::limits::check_write;

#[cfg(test)]
mod tests;

/// A client's write, checked, before it has a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The client's id for it; a retry has the same one.
    pub write_id: WriteId,
    /// Whether it is not the first attempt: other nodes may have copies under dots that nobody here knows.
    pub again: bool,
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
    /// The write was there already, and has been replaced since. It is done once the state that replaced it
    /// is durable.
    Retired,
    /// Nothing happened: the context names writes that have not been seen here.
    Behind {
        /// The newest of them, of each actor.
        lacks: Clock,
    },
}

impl Minted {
    /// The values that a blind write replaced.
    pub fn replaced(self) -> Replaced {
        match self {
            Self::New { replaced, .. } => replaced,
            Self::Already | Self::Retired | Self::Behind { .. } => Replaced::new(),
        }
    }
}

/// What a write is minted over.
#[derive(Clone, Copy)]
enum Over<'a> {
    /// What is here, and only if its context names nothing else.
    WhatIsKnown,
    /// What is here.
    Anything,
    /// That and what other owners had beside it.
    Beside(&'a Beside),
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

    /// Adds a write to a key's present state, if all that its context names has been seen there.
    ///
    /// Else it would take over that clock without what stands under it elsewhere: marks of writes that are done
    /// with would be dropped wherever the two meet.
    ///
    /// # Errors
    /// As [`mint`](Self::mint).
    pub fn mint_if_known(
        &mut self,
        current: &mut Versions,
        intent: Intent,
        now_unix_ms: u64,
    ) -> Result<Minted, ErrorReply> {
        self.mint_over(current, intent, Over::WhatIsKnown, now_unix_ms)
    }

    /// Adds a write to a key's present state, whatever its context names: who stands in has none but hints, and who
    /// has read the other owners knows what there is to know.
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
        self.mint_over(current, intent, Over::Anything, now_unix_ms)
    }

    /// The same for a blind write that is minted once more, over what other owners had beside it.
    ///
    /// Who has replaced the first dot meanwhile came after it: minted over that, the write would undo a later
    /// one, perhaps an acknowledged one. So it is not minted; it is done once what replaced it is durable. Only
    /// the ids of one client tell better: an attempt of an earlier write that comes late is replaced.
    ///
    /// # Errors
    /// As [`mint`](Self::mint); and when it was replaced by something that may not have seen all that it should
    /// have replaced. What was seen is merged all the same, and worth keeping.
    pub fn mint_again(
        &mut self,
        current: &mut Versions,
        intent: Intent,
        seen: &Beside,
        now_unix_ms: u64,
    ) -> Result<Minted, ErrorReply> {
        current.merge(&seen.beside);
        // Under that very dot, and after what was seen: another copy of the write is none that a later one has
        // seen, and what was seen may itself have replaced the first dot.
        let is_here = |dot: &Dot| current.written().any(|sibling| sibling.dot == *dot);
        // An early attempt of an earlier write of the same client may come that late. It has not replaced this one,
        // whatever it was minted over.
        let is_there = seen.first.iter().all(is_here);
        match is_there || stands_after_all(current, intent.write_id) {
            true => self.mint_over(current, intent, Over::Beside(seen), now_unix_ms),
            false => replaced_since(current, &intent),
        }
    }

    fn mint_over(
        &mut self,
        current: &mut Versions,
        intent: Intent,
        over: Over<'_>,
        now_unix_ms: u64,
    ) -> Result<Minted, ErrorReply> {
        let seen = match over {
            Over::Beside(seen) => Some(seen),
            Over::WhatIsKnown | Over::Anything => None,
        };
        check_id(current, &intent)?;
        if current.is_retired(intent.write_id) {
            return retired(current, &intent);
        }
        if !intent.again && is_there(current, &intent, seen) {
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
        if let Some(context) = &intent.context {
            plausible::check(context, current.clock())?;
        }
        // The counter is node-wide. A store that knows more of our actor than we do proves that we
        // have forgotten something: that actor is not ours any more.
        let has_forgotten = current.clock().counter(self.actor) > self.counter;
        if has_forgotten || self.counter >= plausible::COUNTER_MAX {
            self.renew();
        }
        check_write(current.clock(), intent.context.as_ref(), self.actor)?;
        // What is refused whatever others have need not be read for.
        let known = current.clock();
        if let (Over::WhatIsKnown, Some(context)) = (over, &intent.context)
            && !known.dominates(context)
        {
            let lacks = context.iter().filter(|&dot| !known.covers(dot)).collect();
            return Ok(Minted::Behind { lacks });
        }
        check_limits(current, &intent)?;
        for sibling in current.written() {
            self.clock.observe(sibling.timestamp, now_unix_ms);
        }
        let timestamp = self.clock.tick(now_unix_ms);
        let is_again = intent.again || current.was_sent_again(intent.write_id);
        let mut marks = self.take_marks(current, &intent);
        if is_again {
            marks.push(Mark::Again.sibling(self.next_dot(), intent.write_id, timestamp));
            // The earlier attempts' copies: this one stands for them.
            current.retain(|sibling| sibling.write_id != intent.write_id);
        }
        let dot = self.next_dot();
        let incoming = Incoming {
            write_id: intent.write_id,
            timestamp,
            expires_at_ms: match &intent.value {
                // A mark of deletion never expires: dates are what tells other marks from it.
                Value::Tombstone => None,
                Value::Bytes(_) => intent.ttl_ms.map(|ttl| now_unix_ms.saturating_add(ttl)),
            },
            value: intent.value,
        };
        match intent.context {
            Some(context) => current.write(&context, dot, incoming),
            None => {
                let seen_here = current.clock().clone();
                current.write(&seen_here, dot, incoming);
            }
        }
        for mark in marks {
            current.add(mark);
        }
        Ok(Minted::New { dot, replaced })
    }

    fn next_dot(&mut self) -> Dot {
        self.counter += 1;
        Dot {
            actor: self.actor,
            counter: self.counter,
        }
    }

    /// Takes out the marks that are to stand beside a write: of what was retired before, and of what this
    /// write retires. Only the newest are kept.
    ///
    /// Whoever writes with a context has read what it replaces, so that comes before it, under whichever dot it was
    /// read: the other copies that are here go with it. A blind write replaces what its coordinator has, which may
    /// be the *later* of the two, when an early attempt comes late; so only the ids of one client are compared,
    /// which say what came first.
    fn take_marks(&mut self, current: &mut Versions, intent: &Intent) -> SmallVec<[Sibling; 1]> {
        let mut marks: SmallVec<[Sibling; 1]> = SmallVec::new();
        let mut replaced: SmallVec<[(WriteId, u64); 1]> = SmallVec::new();
        let read = ids_read(current, intent);
        let is_read = |id: WriteId| read.binary_search(&id).is_ok();
        for sibling in current.siblings() {
            let id = sibling.write_id;
            let is_replaced = match &intent.context {
                Some(context) => {
                    (context.covers(sibling.dot) || is_read(id)) && id != intent.write_id
                }
                None => id.precedes(intent.write_id),
            };
            match sibling.mark() {
                Some(Mark::Retired) => marks.push(sibling.clone()),
                Some(Mark::Again) if is_replaced => replaced.push((id, sibling.timestamp)),
                Some(Mark::Again) | None => {}
            }
        }
        if !replaced.is_empty() {
            let retired = current.retired();
            replaced.retain(|(id, _)| !retired.contains(*id));
            // Two copies of one write are retired once.
            replaced.sort_unstable();
            replaced.dedup_by_key(|(id, _)| *id);
        }
        for (id, timestamp) in replaced {
            marks.push(Mark::Retired.sibling(self.next_dot(), id, timestamp));
        }
        if !marks.is_empty() {
            current.retain(|sibling| sibling.mark() != Some(Mark::Retired));
        }
        current.retain(|sibling| !is_read(sibling.write_id));
        if marks.len() > RETIRED_MAX {
            marks.sort_unstable_by_key(|mark| (mark.timestamp, mark.dot));
            marks.drain(..marks.len() - RETIRED_MAX);
        }
        marks
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

/// Refuses the id of a write with another value. It would be taken for that write and acknowledged, and
/// nobody would store it.
fn check_id(current: &Versions, intent: &Intent) -> Result<(), ErrorReply> {
    let expires = |value: &Value, expires: bool| expires && *value != Value::Tombstone;
    let is_other = |sibling: &Sibling| {
        sibling.write_id == intent.write_id
            && (sibling.value != intent.value
                || expires(&sibling.value, sibling.expires_at_ms.is_some())
                    != expires(&intent.value, intent.ttl_ms.is_some()))
    };
    if current.written().any(is_other) {
        let message = "this write id is that of another write to the key, with another value: give each write an \
                       id of its own, and send it again under the same id only unchanged";
        return Err(ErrorReply::new(ErrorCode::BadRequest, message));
    }
    Ok(())
}

/// What becomes of a write that was sent more than once and has been replaced.
///
/// Its sender has given up the first attempt long ago and listens to a later one. So who says that this is
/// the first has either given it up too, or uses the id for something else, which must not be acknowledged.
fn retired(current: &Versions, intent: &Intent) -> Result<Minted, ErrorReply> {
    if intent.again {
        return replaced_since(current, intent);
    }
    let message = "the write of this id was sent again since and has been replaced: give each write an id of its \
                   own, and say of a later attempt that it is one";
    Err(ErrorReply::new(ErrorCode::BadRequest, message).maybe_applied(true))
}

/// Which other writes a context covers a copy of, in order.
fn ids_read(current: &Versions, intent: &Intent) -> SmallVec<[WriteId; 1]> {
    let Some(context) = &intent.context else {
        return SmallVec::new();
    };
    let covered = current
        .written()
        .filter(|sibling| context.covers(sibling.dot) && sibling.write_id != intent.write_id);
    let mut ids: SmallVec<_> = covered.map(|sibling| sibling.write_id).collect();
    ids.sort_unstable();
    ids
}

/// Whether all other writes that stand are earlier ones of the same client, and there is one.
fn stands_after_all(current: &Versions, write_id: WriteId) -> bool {
    let mut others = current
        .standing()
        .map(|sibling| sibling.write_id)
        .filter(|other| *other != write_id)
        .peekable();
    others.peek().is_some() && others.all(|other| other.precedes(write_id))
}

/// What becomes of a write that another one has replaced: it is done once that one is durable.
///
/// A blind one was to replace whatever there was, and so was what replaced it, which has seen some of it for
/// both. Where more than that one stands, the two may have missed the same acknowledged write, and nobody may be
/// told that it is gone. A write with a context promises nothing of what it has not read.
fn replaced_since(current: &Versions, intent: &Intent) -> Result<Minted, ErrorReply> {
    let is_other = |sibling: &&Sibling| sibling.write_id != intent.write_id;
    let mut others = current.standing().filter(is_other);
    let later = others.next().map(|sibling| sibling.write_id);
    let is_alone = others.all(|sibling| Some(sibling.write_id) == later);
    if is_alone || intent.context.is_some() {
        return Ok(Minted::Retired);
    }
    let message = "another write replaced this one, and may not have seen all that this one was to replace: write \
                   it again, under a new id";
    let error = ErrorReply::new(ErrorCode::QuorumUnavailable, message);
    Err(error.maybe_applied(true).retryable())
}

/// Whether there is nothing to do: it is a retry of a write that is here. A blind one must stand alone, for
/// it replaces whatever else there is.
fn is_there(current: &Versions, intent: &Intent, seen: Option<&Beside>) -> bool {
    let is_it = |sibling: &Sibling| sibling.write_id == intent.write_id;
    let mut written = current.written();
    match intent.context {
        Some(_) => written.any(is_it),
        None => seen.is_none() && written.next().is_some_and(is_it) && written.all(is_it),
    }
}

/// The values that a blind write replaces, as a reader counts them: neither deleted nor expired, equal
/// ones once. Those of a first round count where they were not older versions of what was seen since.
fn replaced(
    current: &Versions,
    write_id: WriteId,
    seen: Option<&Beside>,
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
    for sibling in current.standing() {
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
    // A blind write replaces all that is stored here.
    let Some(context) = &intent.context else {
        return Ok(());
    };
    let is_removal = intent.value == Value::Tombstone;
    let kept = current
        .written()
        .filter(|sibling| !context.covers(sibling.dot) && sibling.write_id != intent.write_id);
    let (count, bytes) = kept.fold((0, 0), |(count, bytes), sibling| {
        (count + 1, bytes + sibling.value.len())
    });
    // A tombstone that takes the place of something only helps; one with an old context is a sibling more.
    if is_removal && count < current.written().count() {
        return Ok(());
    }
    if count >= SIBLINGS_MAX {
        return Err(ErrorReply::new(
            ErrorCode::TooManySiblings,
            format!(
                "the key has {count} concurrent values already; read it, reconcile them, and write \
                 with the context of that read"
            ),
        ));
    }
    let bytes_max = versions_bytes_soft_max(intent.value_bytes_max);
    let value_bytes = intent.value.len();
    if !is_removal && bytes + value_bytes > bytes_max {
        return Err(ErrorReply::new(
            ErrorCode::TooLarge,
            format!(
                "the key's concurrent values would hold {} bytes, the limit is {bytes_max}; read \
                 it, reconcile them, and write with the context of that read",
                bytes + value_bytes
            ),
        ));
    }
    Ok(())
}
