//! Decisions, pure: no sockets, no disk, no clock, no randomness that was not handed in.
//!
//! | Room | What it decides |
//! |---|---|
//! | [`placement`] | who owns a key, and which owners take part |
//! | [`mod@write`] | one write, from its start to its answer: versions, copies, stand-ins |
//! | [`read`] | one read, from its start to its answer: whom to ask, when to ask one more |
//! | [`anti_entropy`] | how copies become the same again: hints, comparing, rebuilding |
//! | [`operation`] | one request in hand, whatever it is: what the coordinator speaks with |
//! | [`membership`] | who is alive, and which run of a node is the newest |
//! | [`layout`] | founding, the next ring document, and how a majority agrees on it |
//!
//! All of them may use the files beside them:
//!
//! | File | What it decides |
//! |---|---|
//! | [`quorum`] | when enough have answered |
//! | [`counters`] | how far other nodes' counters can have counted |
//! | [`limits`], [`key_words`] | whether a state may be stored, and how a key is named to people |
//! | [`hang`] | whether this node's disk answers |
//! | [`log_pace`] | how many lines a place of the program may log |

pub mod anti_entropy;
pub mod counters;
pub mod hang;
pub mod key_words;
pub mod layout;
pub mod limits;
pub mod log_pace;
pub mod membership;
pub mod operation;
pub mod placement;
pub mod quorum;
pub mod read;
pub mod write;
