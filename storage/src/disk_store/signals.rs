//! What the threads of a store tell each other.

use super::lack::Lack;

/// What threads wait for.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The store is being closed.
    pub(super) closing: bool,
    /// How many callers wait for a checkpoint.
    pub(super) waiting: usize,
    /// What the checkpoint waits for, and so must nobody wait for it.
    pub(super) starved: Option<Lack>,
    /// How many generations were frozen, and how many of these the tree has.
    pub(super) frozen: u64,
    pub(super) completed: u64,
    /// How many of these have had their log looked after: it is gone, or stays until the next one goes.
    pub(super) tidied: u64,
}
