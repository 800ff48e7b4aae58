//! The locks and atomics of the table: those of the standard library, or of shuttle, which runs threads in many orders
//! (`make interleavings`).

#[cfg(not(dynakv_interleavings))]
pub(super) use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};

#[cfg(dynakv_interleavings)]
pub(super) use shuttle::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
