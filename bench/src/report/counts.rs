//! Latencies that can be added up: how many operations took how long.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// So many leading bits of a latency are kept: what is told apart differs by 1.6 % at most.
const BITS_KEPT: u32 = 7;

/// How many operations took how long. In JSON it is one string of `MICROSECONDS:COUNT`, apart by spaces, by rising
/// latency: as lists these would be most lines of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyCounts(BTreeMap<u64, u64>);

impl LatencyCounts {
    /// Adds what others have counted.
    pub fn add(&mut self, other: &Self) {
        for (latency_us, count) in &other.0 {
            *self.0.entry(*latency_us).or_default() += count;
        }
    }

    /// By rising latency in microseconds.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0
            .iter()
            .map(|(latency_us, count)| (*latency_us, *count))
    }

    /// How many operations these are.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }
}

impl FromIterator<(u64, u64)> for LatencyCounts {
    /// From microseconds and counts. Latencies that hardly differ are put together.
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(counts: T) -> Self {
        let mut counted = BTreeMap::new();
        for (latency_us, count) in counts {
            *counted.entry(rounded(latency_us)).or_default() += count;
        }
        Self(counted)
    }
}

/// The middle of those that begin with the same bits.
fn rounded(latency_us: u64) -> u64 {
    let bits = u64::BITS - latency_us.leading_zeros();
    let dropped = bits.saturating_sub(BITS_KEPT);
    let half = (1_u64 << dropped) >> 1;
    (latency_us >> dropped << dropped) | half
}

impl Serialize for LatencyCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for (latency_us, count) in &self.0 {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{space}{latency_us}:{count}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for LatencyCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pair = |pair: &str| {
            let (latency_us, count) = pair.split_once(':')?;
            Some((latency_us.parse().ok()?, count.parse().ok()?))
        };
        let pairs = text.split_whitespace().map(|text| {
            pair(text).ok_or_else(|| D::Error::custom(format!("{text} is not MICROSECONDS:COUNT")))
        });
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_differs_by_little() {
        let mut last = 0;
        for latency_us in [0, 1, 127, 128, 129, 1_000, 98_765, 3_600_000_000, u64::MAX] {
            let kept = rounded(latency_us);
            let off = latency_us.abs_diff(kept) as f64;
            assert!(off <= latency_us as f64 * 0.008, "{latency_us}: {kept}");
            assert!(kept >= last, "{latency_us}: {kept} after {last}");
            // What is read again and rounded again stays the same.
            assert_eq!(rounded(kept), kept);
            last = kept;
        }
        assert_eq!([1, 127].map(rounded), [1, 127]);
    }

    #[test]
    fn it_is_one_string_and_comes_back() {
        let mut counts: LatencyCounts = [(5, 1), (20_000, 2), (20_001, 3)].into_iter().collect();
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(text, "\"5:1 20096:5\"");
        let back: LatencyCounts = serde_json::from_str(&text).unwrap();
        assert_eq!(back, counts);
        counts.add(&back);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(5, 2), (20_096, 10)]);
        assert_eq!(counts.count(), 12);
        for text in ["\"5\"", "\"5:x\"", "\"-1:3\"", "7"] {
            assert!(
                serde_json::from_str::<LatencyCounts>(text).is_err(),
                "{text}"
            );
        }
        assert_eq!(
            serde_json::from_str::<LatencyCounts>("\"\"")
                .unwrap()
                .count(),
            0
        );
    }
}
