//! Which of several proposed rings becomes the next version.
//!
//! Single-decree Paxos (Lamport, "Paxos Made Simple", 2001), one instance per ring version: the
//! instance that decides version v + 1 is called slot v + 1, and its acceptors are the voters of
//! version v: its members, without those that are only being taken in. There is no leader: any member that
//! wishes a change runs a [`Proposer`], and any member can finish what a dead one began, because phase 1 hands
//! it whatever may have been chosen already.
//!
//! ```text
//!   proposer                      every member's acceptor
//!      │  Prepare(slot, ballot)      │
//!      ├────────────────────────────▶│  promises, durably, to take nothing older
//!      │◀────────────────────────────┤  Vote: granted, and what it had accepted before
//!      │   a majority granted        │
//!      │  Accept(ballot, document)   │  document: the accepted one of the highest ballot, else one's own
//!      ├────────────────────────────▶│  accepts, durably
//!      │◀────────────────────────────┤  Vote: granted
//!      │   a majority granted: decided, adopted durably, and gossiped
//! ```
//!
//! Two majorities of the voters of v share a voter, so a second document can't be chosen for a slot
//! behind the back of the first; and version v itself is one document everywhere, by the same argument
//! one slot earlier. [`Acceptor`] keeps the three conditions that this rests on: a promise is durable
//! before it is given, a ballot is promised once, and whoever lost its promises is silent.

mod acceptor;
mod proposer;
#[cfg(test)]
mod simulation;

pub use acceptor::{Acceptor, Answer, ImpossibleBallot};
pub use proposer::{Effect, Phase, Proposer};
