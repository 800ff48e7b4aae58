//! **hints_drain**: once all is healed, whatever a node keeps for others is handed over and forgotten within
//! a bounded time: hints that counted towards W, and reminders, which count for nothing.

use dynakv::engine::anti_entropy::handoff::Hint;

pub(crate) const NAME: &str = "hints_drain";

/// What a machine still keeps for others, if it keeps anything.
pub(crate) fn check(machine: &str, kept: &[(String, Hint)]) -> Option<String> {
    let (key, first) = kept.first()?;
    let kind = if first.counts() {
        "a hint that counts"
    } else {
        "a hint that counts for nothing"
    };
    let owed: Vec<_> = first.owed.iter().map(|node| node.as_str()).collect();
    let (count, owed) = (kept.len(), owed.join(", "));
    Some(format!(
        "{machine} keeps {count} hints, the first of {key}: {kind}, owed to {owed}"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dynakv_protocol::NodeId;
    use dynakv_protocol::causal::Versions;

    use super::*;

    fn hint(needed: u8) -> (String, Hint) {
        let owed = BTreeSet::from([NodeId::new("node-2").unwrap()]);
        let hint = Hint {
            versions: (needed > 0).then(Versions::new),
            owed,
            needed,
            kept_at_ms: 1,
        };
        ("k".to_owned(), hint)
    }

    #[test]
    fn nothing_is_kept_in_the_end() {
        assert_eq!(check("node-1", &[]), None);
        let what = check("node-1", &[hint(2), hint(0)]).unwrap();
        assert!(what.contains("keeps 2 hints") && what.contains("that counts, owed to node-2"));
    }

    #[test]
    fn a_reminder_that_stays_is_noticed_too() {
        let what = check("node-1", &[hint(0)]).unwrap();
        assert!(what.contains("counts for nothing"));
    }
}
