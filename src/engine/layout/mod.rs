//! The numbered ring document: how the next one is made, and how a majority decides on it.
//!
//! | Room | What it decides |
//! |---|---|
//! | [`document`] | which ring may follow which: founding, joining, sealing |
//! | [`change`] | which ring may follow one that holds data: from one list of members to another |
//! | [`steps`] | when a change may take its next step |
//! | [`force`] | the ring that one node decides by itself, where no majority is left to decide |
//! | [`wish`] | which change an operator's wish is |
//! | `entry` | what holds for every ring and every entry in it |
//! | [`decide`] | which of several proposed rings becomes the next version |
//! | [`copies`] | whether a copy of a directory may be a member in its place |
//! | [`founding`] | whether a node that finds no cluster may found one |
//!
//! The first two are apart from the third on purpose. They know nothing of votes: they are functions from one ring
//! to the next. [`decide`] hardly looks into a ring: it would decide on any value.

pub mod change;
pub mod copies;
pub mod decide;
pub mod document;
mod entry;
pub mod force;
pub mod founding;
#[cfg(test)]
mod made_up;
pub mod steps;
pub mod wish;

pub use decide::{Acceptor, Answer, Effect, ImpossibleBallot, Phase, Proposer};
pub use document::{InvalidStep, JoinRefusal, admit, check_later, check_next, found, seal};
