//! Decisions, pure: no sockets, no disk, no clock, no randomness that was not handed in.
//!
//! | Room | What it decides |
//! |---|---|
//! | [`ring`] | who owns a segment |
//! | [`preference`] | which owner coordinates, and which others take part |
//! | [`quorum`] | when enough have answered |
//! | [`put`], [`get`] | one write, one read, from its start to its answer |
//! | [`handoff`] | what is kept for owners that cannot be reached, and when it may be forgotten |
//! | [`hang`] | whether this node's disk answers |
//! | [`pace`], [`hedge`] | which owners to read from, and when to ask one more |
//! | [`forward`] | which owner a request is handed on to |
//! | [`explain`], [`import`] | asking all owners what they have; merging given versions into a key |
//! | [`answer`] | what a client sees of what the replicas have |
//! | [`counters`] | how far other nodes' counters can have counted |
//! | [`generations`] | which run of a node is the newest; who runs on an old copy of a directory |
//! | [`mint`], [`hybrid_clock`] | how a write becomes a version |
//! | [`plausible`] | what a clock from outside may claim |
//! | [`rebuilding`] | which segments a node has lost, where its reads do not count |
//! | [`mending`] | where two replicas differ |
//! | [`sources`] | who has given what was lost, and when a segment is whole again |
//! | [`repairs`] | when a node compares its copies with which other one |
//! | [`membership`] | who is alive: gossip, probes, suspicion |
//! | [`limits`], [`unlock`] | whether a state may be stored; what becomes of one that should never have been |
//! | [`log_pace`] | how many lines a place of the program may log |
//! | [`layout`] | the next ring document, and how a majority agrees on it |

pub mod answer;
pub mod beside;
pub mod counters;
pub mod explain;
pub mod forward;
pub mod founding;
pub mod generations;
pub mod get;
pub mod handoff;
pub mod hang;
pub mod hedge;
pub mod hybrid_clock;
pub mod import;
pub mod key_words;
pub mod lateness;
pub mod layout;
pub mod limits;
pub mod log_pace;
pub mod membership;
pub mod mending;
pub mod mint;
pub mod pace;
pub mod plausible;
pub mod preference;
pub mod put;
pub mod quorum;
pub mod rebuilding;
pub mod repairs;
pub mod ring;
pub mod sources;
pub mod unlock;
