//! What a blind write did not see.
//!
//! A write without a context replaces what its coordinator has. Whether that is all there is only the
//! other owners can say, and they say it with the answer that they have merged the write: "beside it I
//! have this". No node has to judge for itself whether it is behind; it learns that later than a client
//! may. With what N − W + 1 owners had, the versions of every acknowledged write before are seen.

use dynakv_protocol::causal::{Sibling, Versions};

/// Whether an owner has something that a write, as it was sent to it, has not seen.
///
/// Where the write stands, that is what stands beside it and was not sent. Where nothing of what was sent is
/// left, other writes have replaced it here, and *they* have seen what this owner had, which its clock alone now
/// tells. The coordinator has not: what it acknowledges could still stand beside an older write elsewhere. So
/// whatever is written here counts then.
pub fn stands_beside(sent: &Versions, merged: &Versions) -> bool {
    let was_sent = |sibling: &Sibling| sent.siblings().iter().any(|it| it.dot == sibling.dot);
    let (mut is_there, mut is_other) = (false, false);
    for sibling in merged.siblings() {
        match was_sent(sibling) {
            // Marks outlive the write that they came with.
            true => is_there |= sibling.mark().is_none(),
            false => is_other = true,
        }
    }
    match is_there {
        true => is_other,
        false => merged.written().next().is_some(),
    }
}

/// How many owners must have said what they had before a blind write is acknowledged, the coordinator
/// among them: so many that one of them has each write that was acknowledged before.
///
/// None, where nothing is promised: with W + R ≤ N a read need not see such a write either, and a request
/// that asks for a smaller w than the ring promises is content with less.
pub fn votes_needed(n: u8, (ring_w, ring_r): (u8, u8), w: u8) -> u8 {
    let (ring_w, ring_r) = (ring_w.min(n), ring_r.min(n));
    if ring_w + ring_r <= n || w < ring_w {
        return 0;
    }
    n - ring_w + 1
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dynakv_protocol::causal::{Clock, Dot, Incoming, Value};
    use dynakv_protocol::{Actor, WriteId};

    use super::*;

    fn write(versions: &mut Versions, context: &Clock, actor: u64) {
        let dot = Dot {
            actor: Actor(actor),
            counter: versions.clock().counter(Actor(actor)) + 1,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(actor)),
            timestamp: 0,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from_static(b"v")),
        };
        versions.write(context, dot, incoming);
    }

    #[test]
    fn only_what_the_write_has_not_seen_stands_beside_it() {
        let mut old = Versions::new();
        write(&mut old, &Clock::new(), 1);
        // Minted over nothing.
        let mut sent = Versions::new();
        write(&mut sent, &Clock::new(), 2);
        let mut merged = old.clone();
        merged.merge(&sent);
        assert!(stands_beside(&sent, &merged));
        // Minted over the old one.
        let mut sent = old.clone();
        write(&mut sent, &old.clock().clone(), 2);
        let mut merged = old.clone();
        merged.merge(&sent);
        assert!(!stands_beside(&sent, &merged));
        assert!(!stands_beside(&sent, &Versions::new()));
    }

    /// An owner had an acknowledged write, got this one by anti-entropy, and then minted a third over both.
    /// That one alone is left, and nobody but its clock knows of the first.
    #[test]
    fn what_has_replaced_a_write_before_it_was_merged_stands_beside_it() {
        let mut acknowledged = Versions::new();
        write(&mut acknowledged, &Clock::new(), 1);
        let mut sent = Versions::new();
        write(&mut sent, &Clock::new(), 2);
        let mut merged = acknowledged.clone();
        merged.merge(&sent);
        let both = merged.clock().clone();
        write(&mut merged, &both, 3);
        merged.merge(&sent);
        assert_eq!(merged.siblings().len(), 1);
        assert!(stands_beside(&sent, &merged));
        // With it the coordinator knows what must not stand.
        let mut coordinator = sent.clone();
        coordinator.merge(&merged);
        coordinator.merge(&acknowledged);
        assert_eq!(coordinator.siblings(), merged.siblings());
    }

    #[test]
    fn every_acknowledged_write_is_known_to_one_of_those_that_vote() {
        for n in 1..=7_u8 {
            for (ring_w, ring_r, w) in
                (1..=n).flat_map(|w| (1..=n).flat_map(move |r| (1..=n).map(move |it| (w, r, it))))
            {
                let votes = votes_needed(n, (ring_w, ring_r), w);
                let promised = ring_w + ring_r > n && w >= ring_w;
                assert_eq!(votes > 0, promised, "{n} {ring_w} {ring_r} {w}");
                // A set of that size and one of W have an owner in common, and no smaller one would do.
                assert!(!promised || votes + ring_w == n + 1);
            }
        }
        // More than there are owners.
        assert_eq!(votes_needed(1, (2, 2), 1), 1);
        assert_eq!(votes_needed(2, (2, 2), 2), 1);
    }
}
