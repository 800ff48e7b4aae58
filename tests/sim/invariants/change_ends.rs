//! **change_ends**: once all is healed, the ring is final and has every machine: a change that has begun comes to its
//! end by itself.

pub(crate) const NAME: &str = "change_ends";

/// What is wrong with the rings that machines follow, by their steps and numbers of members, if none is whole.
pub(crate) fn check(rings: &[(String, String, usize)], machines: usize) -> Option<String> {
    let is_whole = |(_, step, members): &(String, String, usize)| {
        step.as_str() == "final" && *members == machines
    };
    if rings.iter().any(is_whole) {
        return None;
    }
    let rings = rings.iter();
    let rings = rings.map(|(machine, step, members)| format!("{machine}: {step}, {members}"));
    Some(format!(
        "no ring is final with {machines} members: {}",
        rings.collect::<Vec<_>>().join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_is_left_half_way_is_told() {
        let ring = |step: &str, members| ("node-1".to_owned(), step.to_owned(), members);
        assert_eq!(check(&[ring("read-new", 3), ring("final", 3)], 3), None);
        for left in [ring("write-both", 3), ring("final", 2)] {
            assert!(check(&[left], 3).unwrap().contains("node-1"));
        }
        assert!(check(&[], 3).is_some());
    }
}
