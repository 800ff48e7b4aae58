//! Decisions, pure: no sockets, no disk, no clock, no randomness that was not handed in.
//!
//! | Room | What it decides |
//! |---|---|
//! | [`ring`] | who owns a segment |
//! | [`membership`] | who is alive: gossip, probes, suspicion |
//! | [`layout`] | the next ring document, and how a majority agrees on it |

pub mod layout;
pub mod membership;
pub mod ring;
