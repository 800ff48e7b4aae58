//! Reads, from their start to their answer.
//!
//! | File | What it decides |
//! |---|---|
//! | [`get`] | one read, and what is mended after it |
//! | [`pace`], [`hedge`] | which owners to read from, and when to ask one more |
//! | [`answer`] | what a client sees of what the replicas have |
//! | [`explain`] | asking all owners what they have |

pub mod answer;
pub mod explain;
pub mod get;
pub mod hedge;
pub mod pace;
