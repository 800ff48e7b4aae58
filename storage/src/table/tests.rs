use std::collections::BTreeMap;

use dynakv_protocol::hash::Position;

use super::record::GRAIN_BYTES;
use super::*;
use crate::items::{Cut, PositionRange};

/// More than any test here puts in.
const PLENTY: usize = 1 << 30;

fn put(table: &Table, key: &[u8], versions: &[u8]) {
    put_at(table, Position::of_key(key), key, versions);
}

fn put_at(table: &Table, position: Position, key: &[u8], versions: &[u8]) {
    table.put(position, &[key, versions].concat(), key.len());
}

fn look(table: &Table, key: &[u8]) -> Look {
    table.get(Position::of_key(key), key)
}

fn found(table: &Table, key: &[u8]) -> Option<Vec<u8>> {
    match look(table, key) {
        Look::Hit(versions) => Some(versions.to_vec()),
        Look::Miss(_) => None,
    }
}

fn missed(table: &Table, key: &[u8]) -> Missed {
    match look(table, key) {
        Look::Miss(missed) => missed,
        Look::Hit(_) => panic!("it is there"),
    }
}

fn fill(table: &Table, key: &[u8], versions: &[u8], missed: Missed) {
    table.fill(Position::of_key(key), key, versions, missed);
}

/// Drops all that may be dropped, however hot it is.
fn drop_all(table: &Table) {
    for _ in 0..8 {
        (0..SHARDS).for_each(|shard| table.sweep(shard));
    }
}

fn frozen(table: &Table) -> Vec<(Position, Vec<u8>, Vec<u8>)> {
    let mut cursor = FrozenCursor::new(table);
    let mut all = Vec::new();
    while let Some(entries) = cursor.next() {
        all.extend(entries.iter().map(plain));
    }
    all
}

fn dirty(
    table: &Table,
    range: PositionRange,
    after: Option<&[u8]>,
) -> Vec<(Position, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut from = Some(Cut::beginning(range, after));
    while let Some(at) = from {
        let stretch = DirtyStretch::take(table, &at, range.end);
        all.extend(stretch.entries.iter().map(plain));
        from = stretch.up_to;
    }
    all
}

fn plain(entry: &Entry) -> (Position, Vec<u8>, Vec<u8>) {
    let (key, versions) = (entry.pair.key(), entry.pair.versions());
    (entry.position, key.to_vec(), versions.to_vec())
}

/// What memory the records take, counted one by one.
fn counted(table: &Table) -> usize {
    let of_shard = |shard: usize| {
        let mut bytes = 0;
        table.write(shard).retain(|record| {
            bytes += record.memory_bytes();
            true
        });
        bytes
    };
    (0..SHARDS).map(of_shard).sum()
}

#[test]
fn keys_are_found_replaced_counted_and_walked_in_ring_order() {
    let table = Table::new(PLENTY);
    let mut model = BTreeMap::new();
    for number in 0..20_000_u32 {
        let key = format!("key-{}", number % 15_000).into_bytes();
        let versions = number.to_be_bytes().to_vec();
        put(&table, &key, &versions);
        model.insert((Position::of_key(&key), key), versions);
    }
    assert_eq!(table.active().entries, 15_000);
    let exact: usize = model
        .keys()
        .map(|(_, key)| (key.len() + 4).next_multiple_of(GRAIN_BYTES) + OVERHEAD_BYTES)
        .sum();
    assert_eq!(table.active().bytes, exact);
    assert_eq!(counted(&table), exact);
    for ((_, key), versions) in &model {
        assert_eq!(found(&table, key).as_ref(), Some(versions));
    }
    assert_eq!(found(&table, b"other"), None);
    let expected: Vec<_> = model
        .into_iter()
        .map(|((at, key), it)| (at, key, it))
        .collect();
    assert_eq!(dirty(&table, PositionRange::ALL, None), expected);
    for at in [0, 1, 7_777, 14_998] {
        let range = PositionRange {
            start: expected[at / 2].0,
            end: Some(expected[14_999].0),
        };
        let rest = dirty(&table, range, Some(&expected[at].1));
        assert_eq!(rest, expected[at + 1..14_999]);
        let all = dirty(&table, range, None);
        assert_eq!(all, expected[at / 2..14_999]);
    }
    table.freeze();
    assert_eq!(frozen(&table), expected);
}

#[test]
fn keys_made_to_share_a_position_are_kept_apart() {
    let table = Table::new(PLENTY);
    let place = Position(u64::MAX);
    let key = |number: u32| number.to_be_bytes();
    for number in 0..10_000_u32 {
        put_at(&table, place, &key(number), b"old");
        put_at(&table, place, &key(number), b"new!");
    }
    assert_eq!(table.active().entries, 10_000);
    assert_eq!(table.active().bytes, counted(&table));
    for number in 0..10_000_u32 {
        let Look::Hit(versions) = table.get(place, &key(number)) else {
            panic!("key {number} is not there");
        };
        assert_eq!(versions, "new!");
    }
    assert!(matches!(table.get(place, b"other"), Look::Miss(_)));
    let walked = dirty(&table, PositionRange::ALL, None);
    let expected: Vec<_> = (0..10_000)
        .map(|number| (place, key(number).to_vec(), b"new!".to_vec()))
        .collect();
    assert_eq!(walked, expected);
    table.freeze();
    assert_eq!(frozen(&table), expected);
    table.complete();
    drop_all(&table);
    assert_eq!(table.bytes.load(Ordering::Relaxed), 0);
    assert!(matches!(table.get(place, &key(7)), Look::Miss(_)));
}

#[test]
fn only_what_the_tree_has_is_dropped() {
    let table = Table::new(PLENTY);
    put(&table, b"first", b"1");
    drop_all(&table);
    assert!(found(&table, b"first").is_some(), "it is active");
    table.freeze();
    put(&table, b"second", b"2");
    drop_all(&table);
    assert!(found(&table, b"first").is_some(), "it is frozen");
    table.complete();
    assert!(
        found(&table, b"first").is_some(),
        "it stays until there is need"
    );
    drop_all(&table);
    assert_eq!(
        (found(&table, b"first"), found(&table, b"second")),
        (None, Some(b"2".to_vec()))
    );
    assert_eq!(table.bytes.load(Ordering::Relaxed), counted(&table));
}

#[test]
fn a_checkpoint_carries_what_was_frozen_and_says_what_it_leaves_out() {
    let table = Table::new(PLENTY);
    for key in [b"a", b"b", b"c"] {
        put(&table, key, b"1");
    }
    let volume = table.freeze();
    assert_eq!((volume.entries, table.active().entries), (3, 0));
    assert!(!table.has_overwritten());
    put(&table, b"new", b"2");
    assert!(!table.has_overwritten());
    put(&table, b"b", b"2");
    assert!(table.has_overwritten());
    let mut carried: Vec<_> = frozen(&table).into_iter().map(|it| it.1).collect();
    carried.sort();
    assert_eq!(carried, [b"a", b"c"]);
    assert_eq!(table.active().entries, 2);
    // A scan sees all that is not in the tree for good, the newest of each.
    let mut dirty = dirty(&table, PositionRange::ALL, None);
    dirty.sort_by(|a, b| a.1.cmp(&b.1));
    let dirty: Vec<_> = dirty.iter().map(|it| (&it.1[..], &it.2[..])).collect();
    assert_eq!(
        dirty,
        [
            (&b"a"[..], &b"1"[..]),
            (b"b", b"2"),
            (b"c", b"1"),
            (b"new", b"2")
        ]
    );
    table.complete();
    assert_eq!(frozen_after(&table), 2);
    assert!(!table.has_overwritten());
    put(&table, b"a", b"3");
    assert!(!table.has_overwritten(), "that one was in the tree");
}

fn frozen_after(table: &Table) -> usize {
    table.freeze();
    frozen(table).len()
}

#[test]
fn what_was_read_is_added_unless_it_may_be_old() {
    let table = Table::new(PLENTY);
    let before = missed(&table, b"k");
    fill(&table, b"k", b"from the tree", before);
    assert_eq!(found(&table, b"k").unwrap(), b"from the tree");
    assert_eq!(table.active().entries, 0, "it is clean");
    // The same look again, after a write: what it brings is older.
    put(&table, b"k", b"written");
    fill(&table, b"k", b"from the tree", before);
    assert_eq!(found(&table, b"k").unwrap(), b"written");
    // And after that was carried and dropped.
    table.freeze();
    table.complete();
    drop_all(&table);
    fill(&table, b"k", b"from the tree", before);
    assert_eq!(found(&table, b"k"), None);
    let now = missed(&table, b"k");
    fill(&table, b"k", b"written", now);
    assert_eq!(found(&table, b"k").unwrap(), b"written");
    // What is large is left to the tree.
    let other = missed(&table, b"large");
    fill(&table, b"large", &vec![0; FILL_BYTES_MAX], other);
    assert_eq!(found(&table, b"large"), None);
}

#[test]
fn memory_stays_within_its_bound_and_what_is_hot_stays_longest() {
    let bytes_max = 2_000_000;
    let table = Table::new(bytes_max);
    let key = |number: u32| format!("key-{number}").into_bytes();
    let hot: Vec<_> = (0..200).map(key).collect();
    for number in 0..100_000 {
        let cold = key(number);
        if let Look::Miss(missed) = look(&table, &cold) {
            fill(&table, &cold, &[1; 100], missed);
        }
        let wanted = &hot[number as usize % hot.len()];
        if let Look::Miss(missed) = look(&table, wanted) {
            fill(&table, wanted, &[1; 100], missed);
        }
        assert!(table.bytes.load(Ordering::Relaxed) <= bytes_max);
    }
    let mut status = StoreStatus::default();
    table.fill_status(&mut status);
    assert_eq!(status.table_bytes as usize, counted(&table));
    assert!(status.table_evictions > 80_000, "{status:?}");
    let there = hot
        .iter()
        .filter(|key| found(&table, key).is_some())
        .count();
    assert!(there > 190, "{there} of the hot ones");
    assert!(status.table_hits > 95_000, "{status:?}");
}

#[test]
fn dirty_records_go_beyond_the_bound_and_nothing_is_read_into_it_then() {
    let table = Table::new(10_000);
    for number in 0..1_000_u32 {
        put(&table, &number.to_be_bytes(), &[1; 100]);
    }
    assert_eq!(table.active().entries, 1_000);
    assert_eq!(dirty(&table, PositionRange::ALL, None).len(), 1_000);
    let other = missed(&table, b"other");
    fill(&table, b"other", b"value", other);
    assert_eq!(found(&table, b"other"), None);
    table.freeze();
    table.complete();
    // Once they may, they go with what is put.
    for number in 0..2_000_u32 {
        put(&table, &(number % 3).to_be_bytes(), &[1; 100]);
    }
    assert!(table.bytes.load(Ordering::Relaxed) <= 10_000);
}

#[test]
fn random_histories_never_show_an_old_state() {
    // The tree gets what a checkpoint carries; everything else is as in a store.
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let table = Table::new([3_000, 20_000, PLENTY][round % 3]);
        let mut tree: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut under_way = false;
        // Looks that found nothing, and what the tree said then.
        let mut looks = Vec::new();
        for step in 0..4_000_u32 {
            let key = vec![b'k', random.u8(..60)];
            match random.u8(..10) {
                0..=3 => {
                    let versions = vec![step as u8; random.usize(1..300)];
                    put(&table, &key, &versions);
                    model.insert(key, versions);
                }
                4..=6 => match look(&table, &key) {
                    Look::Hit(versions) => {
                        assert_eq!(Some(&versions[..]), model.get(&key).map(|it| &it[..]))
                    }
                    Look::Miss(missed) => {
                        assert_eq!(
                            tree.get(&key),
                            model.get(&key),
                            "round {round}, step {step}"
                        );
                        looks.push((key.clone(), tree.get(&key).cloned(), missed));
                    }
                },
                7 if !looks.is_empty() => {
                    let (key, versions, missed) = looks.swap_remove(random.usize(..looks.len()));
                    if let Some(versions) = versions {
                        fill(&table, &key, &versions, missed);
                    }
                }
                8 if !under_way => {
                    table.freeze();
                    under_way = true;
                }
                9 if under_way => {
                    let carried = frozen(&table).into_iter().map(|(_, key, it)| (key, it));
                    tree.extend(carried);
                    // Some are cut short, and begin again.
                    if random.bool() {
                        table.complete();
                        under_way = false;
                    }
                }
                _ => drop_all(&table),
            }
            if step % 500 == 0 {
                let mut all = tree.clone();
                let dirty = dirty(&table, PositionRange::ALL, None);
                all.extend(dirty.into_iter().map(|(_, key, it)| (key, it)));
                assert_eq!(all, model, "round {round}, step {step}");
                assert_eq!(table.bytes.load(Ordering::Relaxed), counted(&table));
            }
        }
    }
}
