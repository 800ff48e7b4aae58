//! **change_ends**: once all is healed, the ring is final and has the members that it is to have: a change that has begun
//! comes to its end by itself. Whoever was taken out of it has ended, too.

pub(crate) const NAME: &str = "change_ends";

/// The ring that a machine follows.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) machine: String,
    pub(crate) step: &'static str,
    pub(crate) version: u64,
    pub(crate) members: Vec<String>,
}

/// What is wrong with the rings that machines follow, if none is final with these members, and of this version or later.
pub(crate) fn check(rings: &[Followed], members: &[String], since: u64) -> Option<String> {
    let is_whole =
        |ring: &Followed| ring.step == "final" && ring.members == members && ring.version >= since;
    if rings.iter().any(is_whole) {
        return None;
    }
    let rings = rings.iter().map(|ring| {
        let Followed {
            machine,
            step,
            version,
            members,
        } = ring;
        format!("{machine}: ring {version}, {step}, {}", members.join(" "))
    });
    let since = match since {
        u64::MAX => "it was not seen to".to_owned(),
        since => format!("from version {since} on"),
    };
    Some(format!(
        "no ring is final with {} ({since}): {}",
        members.join(" "),
        rings.collect::<Vec<_>>().join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(members: &str) -> Vec<String> {
        members.split(' ').map(str::to_owned).collect()
    }

    fn ring(step: &'static str, version: u64, members: &str) -> Followed {
        Followed {
            machine: "node-1".to_owned(),
            step,
            version,
            members: named(members),
        }
    }

    #[test]
    fn a_change_that_is_left_half_way_is_told() {
        let rings = [ring("read-new", 8, "a b c"), ring("final", 9, "a b")];
        assert_eq!(check(&rings, &named("a b"), 9), None);
        for left in [
            ring("write-both", 9, "a b"),
            ring("final", 9, "a b c"),
            ring("final", 9, "a c"),
            ring("final", 8, "a b"),
        ] {
            assert!(check(&[left], &named("a b"), 9).unwrap().contains("node-1"));
        }
        assert!(check(&[], &named("a b"), 0).is_some());
    }
}
