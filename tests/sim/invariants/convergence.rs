//! **convergence**: once all is healed, all owners of a key hold the same bytes and the same hash of its
//! segment, within a bounded time and without anybody reading.

use bytes::Bytes;

pub(crate) const NAME: &str = "convergence";

/// One owner's copy of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) machine: String,
    pub(crate) versions: Option<Bytes>,
    /// Nothing where hashes are not compared: what replaces a damaged value leaves its segment's wrong.
    pub(crate) segment_hash: Option<u128>,
}

/// How the copies of a key differ, if they do.
pub(crate) fn check(key: &str, copies: &[Copy]) -> Option<String> {
    let (first, others) = copies.split_first()?;
    others.iter().find_map(|other| {
        let what = if first.versions != other.versions {
            "versions"
        } else if first.segment_hash != other.segment_hash {
            "a segment hash"
        } else {
            return None;
        };
        let (one, two) = (&first.machine, &other.machine);
        Some(format!("{key}: {one} and {two} differ in {what}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(versions: &'static str, hash: u128) -> Copy {
        Copy {
            machine: "somewhere".to_owned(),
            versions: Some(Bytes::from_static(versions.as_bytes())),
            segment_hash: Some(hash),
        }
    }

    #[test]
    fn owners_hold_the_same() {
        let same = [copy("a", 1), copy("a", 1), copy("a", 1)];
        assert_eq!(check("k", &same), None);
        assert!(check("k", &[copy("a", 1), copy("a", 1), copy("b", 1)]).is_some());
        assert!(check("k", &[copy("a", 1), copy("a", 2)]).is_some());
        let mut absent = copy("a", 1);
        absent.versions = None;
        assert!(check("k", &[copy("a", 1), absent]).is_some());
    }
}
