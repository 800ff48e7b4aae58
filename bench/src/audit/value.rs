//! Values that name their write.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use dynakv_protocol::causal::Dot;

/// Tells one audit from another, in keys, values and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunId(pub(super) u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RunId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// A write of a key: the how manieth.
pub(super) type WriteNumber = u32;

/// One write of the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WriteName {
    /// The number of its key.
    pub(super) key: u32,
    /// Its number among the writes of the key.
    pub(super) write: WriteNumber,
}

impl fmt::Display for WriteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.write)
    }
}

/// A write as a read showed it. A write that was sent twice may have been taken twice, by two nodes that
/// did not know of each other: it then has two dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shown {
    pub(super) write: WriteNumber,
    pub(super) dot: Dot,
}

/// What a client had read when it began a write; `None` makes the write a blind one.
pub(super) type Before = Option<Vec<Shown>>;

/// The name of a key in the store.
pub(super) fn key_name(run: RunId, key: u32) -> String {
    format!("audit-{run}-{key}")
}

/// What a write stores: its name, and `padding` bytes more, so that values of all sizes are tried.
pub(super) fn encode(run: RunId, name: WriteName, padding: usize) -> Bytes {
    let mut value = format!("audit {run} write {name} and {padding}\n").into_bytes();
    value.extend(pad(name).take(padding));
    value.into()
}

/// The write that a value stands for; `None` when no write of this audit has stored just that.
pub(super) fn decode(run: RunId, key: u32, value: &[u8]) -> Option<WriteNumber> {
    let end = value.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&value[..end]).ok()?;
    let name = head.strip_prefix(&format!("audit {run} write {key}/"))?;
    let (write, padding) = name.split_once(" and ")?;
    let write = write.parse().ok()?;
    let name = WriteName { key, write };
    let rest = &value[end + 1..];
    let is_whole =
        padding.parse() == Ok(rest.len()) && pad(name).take(rest.len()).eq(rest.iter().copied());
    is_whole.then_some(write)
}

/// Bytes without end that differ from write to write.
fn pad(name: WriteName) -> impl Iterator<Item = u8> {
    let seed = u64::from(name.key) << 32 | u64::from(name.write);
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || random.u8(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_write_and_no_other() {
        let (run, name) = (RunId(7), WriteName { key: 42, write: 9 });
        for padding in [0, 1, 5000] {
            let value = encode(run, name, padding);
            assert_eq!(decode(run, 42, &value), Some(9));
            assert_eq!(decode(run, 4, &value), None, "another key");
            assert_eq!(decode(RunId(8), 42, &value), None, "another audit");
            assert_eq!(
                decode(run, 42, &value[..value.len() - 1]),
                None,
                "cut short"
            );
            let mut longer = value.to_vec();
            longer.push(b'x');
            assert_eq!(decode(run, 42, &longer), None, "too long");
        }
        let mut damaged = encode(run, name, 100).to_vec();
        damaged[70] ^= 1;
        assert_eq!(decode(run, 42, &damaged), None);
        assert_eq!(decode(run, 42, b"hello"), None);
    }
}
