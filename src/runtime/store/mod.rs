//! The store and the hint log on their threads, and what becomes of a damaged store.
//!
//! | File | What it carries out |
//! |---|---|
//! | [`store_worker`] | the store's writer, reader and scanner |
//! | [`hint_worker`] | the keeper of hints |
//! | [`fences`] | which ring both of them follow |
//! | [`quarantine`], [`power`] | a store that is damaged or lost its end |
//! | [`rebuilding`] | what the node then does not know |
//! | [`snapshots`], [`restoring`] | copies of the store that is in use, and starts in them |

pub mod fences;
pub mod hint_worker;
pub mod power;
pub mod quarantine;
pub mod rebuilding;
pub mod restoring;
pub mod snapshots;
pub mod store_worker;
