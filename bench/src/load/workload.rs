//! What a workload does: which steps in which shares, and which keys, sizes and callers are its defaults.

use std::fmt;
use std::str::FromStr;

/// A workload, by its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// Blind puts only.
    Write,
    /// Gets only.
    Read,
    /// YCSB's A: half reads, half updates.
    A,
    /// YCSB's B: 95 % reads, 5 % updates.
    B,
    /// YCSB's C: reads only.
    C,
    /// YCSB's D: 95 % reads of the newest keys, 5 % inserts.
    D,
    /// YCSB's F: half reads, half read-modify-writes.
    F,
    /// Writers with stale contexts, and readers who merge the siblings that come of it.
    Siblings,
    /// Everybody on one key: half reads, half blind puts.
    HotKey,
    /// Half reads, half blind puts of values between 64 KiB and 1 MiB.
    Large,
}

/// What one turn of a caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One get.
    Read,
    /// One blind put of a key that was loaded.
    Update,
    /// One blind put of a new key.
    Insert,
    /// A get, then a put with its context.
    ReadModifyWrite,
    /// A put with the context of a read that others have written after.
    StaleWrite,
    /// A get, and when it shows siblings a put that replaces them all.
    ReadAndMerge,
}

/// What a workload assumes when the command line does not say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Defaults {
    /// How many keys.
    pub(super) keys: u64,
    /// The smallest and the largest value, in bytes.
    pub(super) value_bytes: (usize, usize),
    /// Callers.
    pub(super) clients: usize,
    /// Requests that each caller keeps in flight.
    pub(super) pipeline: usize,
}

impl Workload {
    /// All of them, in the order of the help text.
    pub(super) const ALL: [Self; 10] = [
        Self::Write,
        Self::Read,
        Self::A,
        Self::B,
        Self::C,
        Self::D,
        Self::F,
        Self::Siblings,
        Self::HotKey,
        Self::Large,
    ];

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::F => "f",
            Self::Siblings => "siblings",
            Self::HotKey => "hot-key",
            Self::Large => "large",
        }
    }

    /// Its steps with their shares in percent; they add up to 100.
    pub(super) fn mix(self) -> &'static [(Step, u32)] {
        match self {
            Self::Write => &[(Step::Update, 100)],
            Self::Read | Self::C => &[(Step::Read, 100)],
            Self::A | Self::HotKey | Self::Large => &[(Step::Read, 50), (Step::Update, 50)],
            Self::B => &[(Step::Read, 95), (Step::Update, 5)],
            Self::D => &[(Step::Read, 95), (Step::Insert, 5)],
            Self::F => &[(Step::Read, 50), (Step::ReadModifyWrite, 50)],
            Self::Siblings => &[(Step::ReadAndMerge, 50), (Step::StaleWrite, 50)],
        }
    }

    /// What it assumes.
    pub(super) fn defaults(self) -> Defaults {
        let standard = Defaults {
            keys: 1_000_000,
            value_bytes: (100, 100),
            clients: 100,
            pipeline: 4,
        };
        match self {
            Self::Siblings => Defaults {
                keys: 1000,
                clients: 50,
                pipeline: 1,
                ..standard
            },
            Self::HotKey => Defaults {
                keys: 1,
                clients: 100,
                pipeline: 1,
                ..standard
            },
            Self::Large => Defaults {
                keys: 200,
                value_bytes: (64 * 1024, 1024 * 1024),
                clients: 16,
                pipeline: 1,
            },
            _ => standard,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(workload) = Self::ALL.into_iter().find(|known| known.name() == name) {
            return Ok(workload);
        }
        if name == "e" {
            return Err(
                "YCSB's E scans ranges of keys, and a store that places keys by their hash has \
                 no order to scan: take a, b, c, d or f"
                    .to_owned(),
            );
        }
        let names: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
        Err(format!("there are {}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for workload in Workload::ALL {
            let sum: u32 = workload.mix().iter().map(|(_, percent)| percent).sum();
            assert_eq!(sum, 100, "{workload}");
        }
    }

    #[test]
    fn names_are_read_back_and_e_is_explained() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        assert!("e".parse::<Workload>().unwrap_err().contains("scan"));
        assert!("A".parse::<Workload>().unwrap_err().contains("hot-key"));
    }
}
