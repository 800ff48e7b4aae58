//! Where a ratio lies.

/// An interval of the logarithm of a ratio: where it begins, and where it ends.
pub(super) type LogInterval = (f64, f64);
