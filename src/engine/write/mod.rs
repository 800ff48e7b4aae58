//! Writes, from their start to their answer.
//!
//! | File | What it decides |
//! |---|---|
//! | [`put`] | one write: its copies, its stand-ins and its answer |
//! | [`mint`], [`hybrid_clock`] | how a write becomes a version |
//! | [`apply`] | what a job makes of a key: minted or merged, what is stored, and what is told when |
//! | [`replace`] | the same for versions that take the place of others |
//! | [`beside`] | what the owners have beside a new version |
//! | [`plausible`] | what a clock from outside may claim |
//! | [`forward`], [`attempts`] | which owner a request is handed on to, and who may have acted on it |
//! | [`lateness`] | which attempts come too late to be begun |
//! | [`outcome`] | what is told of a job of the store |
//! | [`import`] | merging given versions into a key |

pub mod apply;
pub mod attempts;
pub mod beside;
pub mod forward;
pub mod hybrid_clock;
pub mod import;
pub mod lateness;
pub mod mint;
pub mod outcome;
pub mod plausible;
pub mod put;
pub mod replace;
