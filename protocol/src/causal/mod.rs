//! Versions and causality: dotted version vectors (Preguiça, Baquero, Almeida, Fonte, Gonçalves,
//! "Dotted Version Vectors: Logical Clocks for Optimistic Replication", 2012).
//!
//! A key's state is a [`Versions`]: one [`Clock`] that says which writes have been seen, and the
//! siblings that survived, each under the [`Dot`] of the write that made it. Merging two states is
//! commutative, associative and idempotent, so replicas may exchange them in any order and as often as
//! they like. A client holds a [`context`]: the clock it read, bound to its key and cluster.

mod clock;
pub mod context;
mod dot;
mod marks;
mod sibling_head;
mod versions;

pub use crate::limits::RETIRED_MAX;
pub use clock::Clock;
pub use dot::Dot;
pub use marks::{Mark, RetiredIds};
pub(crate) use sibling_head::SiblingHead;
pub use versions::{Incoming, Sibling, Value, Versions};
