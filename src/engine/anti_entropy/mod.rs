//! How copies become the same again without a read.
//!
//! | File | What it decides |
//! |---|---|
//! | [`handoff`] | what is kept for owners that cannot be reached, and when it may be forgotten |
//! | [`repairs`] | when a node compares its copies with which other one |
//! | [`mending`] | where two replicas differ |
//! | [`rebuilding`] | which segments a node has lost, where its reads do not count |
//! | [`rebuild_sources`] | who has given what was lost, and when a segment is whole again |
//! | [`leftovers`] | what a node has left of what it owned once, and when that may go |
//! | [`pace`] | how fast what a change of the ring moves does so |
//! | [`unlock`] | what becomes of a state that is beyond a limit |

pub mod handoff;
pub mod leftovers;
pub mod mending;
pub mod pace;
pub mod rebuild_sources;
pub mod rebuilding;
pub mod repairs;
pub mod unlock;
