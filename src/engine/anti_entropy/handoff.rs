//! Hinted handoff: what a node keeps for owners that could not be reached, and when it may forget it
//! (DeCandia et al., "Dynamo", 2007, § 4.6).
//!
//! | Hint | Kept by | Contents | Ends |
//! |---|---|---|---|
//! | that counted | a stand-in of a sloppy write | the whole versions: it is a replica | once W owners have it durably at one moment, and while the ring changes W of the old and W of the new ones; until then it is neither dropped nor expired |
//! | that counts for nothing | an owner, of a write that another owner missed | a reminder: the owner's own store has the versions | once the other owner has it, or by age, or never begun at the bound: anti-entropy takes over |
//!
//! A stand-in owes its hint to *all* owners, because it does not know which of them have the write. So
//! "W owners have it" is what they say themselves, and a hint outlives the death of the node that it was
//! first meant for. Handing over is a merge: it may happen twice, late, or in any order.
//!
//! **At one moment**, because owners lose disks. A says that it has the hint, loses its disk and is rebuilt from
//! B and C, who have not; B says that it has it. Two have said so and one has it: were the hint dropped now,
//! B's disk would be the only one. So once W owners have said so each is asked again, and counts if the process
//! that answers is the one that said so before. All of them then had it when the last of them first said so,
//! and from that moment on it is like any write with W copies: whoever is rebuilt gets it from another.
//! One whose process is another one is handed the hint again.

mod book;
mod following;
mod hint;

pub use self::book::{Confirmed, HintBook, Revision, Rewritten, Word};
pub use self::hint::Hint;

/// Whether a hint of so many bytes still fits, where what the same key has there already takes
/// `replaced_bytes`. What counts for nothing may take half of the room, so that it never stands in the way
/// of what counts: a hint that does not fit is refused rather than another one dropped.
pub fn fits(
    counts: bool,
    bytes: u64,
    replaced_bytes: u64,
    kept_bytes: u64,
    bytes_max: u64,
) -> bool {
    let room = match counts {
        true => bytes_max,
        false => bytes_max / 2,
    };
    let beside = kept_bytes.saturating_sub(replaced_bytes);
    beside.saturating_add(bytes) <= room
}

#[cfg(test)]
mod tests;
