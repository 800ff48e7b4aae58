//! Settings that had another name.

use std::fmt;

/// A setting that had another name, under which it is still taken.
pub(super) struct Renamed {
    /// What it was called in the file.
    pub(super) before: &'static str,
    /// Its variable then.
    pub(super) variable_before: &'static str,
    /// What it is called in the file.
    pub(super) now: &'static str,
    /// Its variable.
    pub(super) variable_now: &'static str,
}

/// All of them, each for one minor version.
pub(super) const RENAMED: &[Renamed] = &[Renamed {
    before: "cache_bytes",
    variable_before: "DYNAKV_CACHE_BYTES",
    now: "memory_bytes",
    variable_now: "DYNAKV_MEMORY_BYTES",
}];

impl fmt::Display for Renamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is called {} now ({}), and the former name will be refused by the next minor version",
            self.before, self.now, self.variable_now
        )
    }
}
