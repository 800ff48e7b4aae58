//! Making copies the same again without a read.
//!
//! | File | What it carries out |
//! |---|---|
//! | [`mender`] | comparing and mending copies, and bringing back what was lost |
//! | [`repairs`] | what operators want of that |
//! | [`handoff`] | handing hints over |
//! | [`unlocking`] | mending keys that are beyond a limit |

pub mod handoff;
pub mod mender;
pub mod repairs;
pub mod unlocking;
