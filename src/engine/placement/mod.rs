//! Where a key belongs.
//!
//! | File | What it decides |
//! |---|---|
//! | [`ring`] | who owns a segment |
//! | [`preference`] | which owner coordinates, and which others take part |

pub mod preference;
pub mod ring;
