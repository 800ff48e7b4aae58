//! Records in blocks: how segments are cut, and that a tree is a sorted map.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::model::*;
use super::*;
#[test]
fn a_segment_is_cut_deeper_as_it_grows() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let mut model = Model::new();
    let mut depths = BTreeSet::new();
    for round in 0..40_u64 {
        let entries: Vec<_> = spread(7, 20)
            .map(|position| position + round * ((1 << 48) / 800))
            .map(|position| entry(position, &key_of(position), &[round as u8; 100]))
            .collect();
        write_all(&tree, &entries).unwrap();
        note(&mut model, &entries);
        depths.insert(depth_of(&tree, 7 << 48).unwrap());
    }
    assert_holds(&tree, &model, "written");
    assert_sound(&tree);
    assert!(depths.len() >= 4 && depths.contains(&0), "{depths:?}");
    let bytes: usize = model.values().map(|versions| versions.len() + 40).sum();
    let blocks = tree.content.blocks.len();
    assert!((bytes / 4096..bytes / 512).contains(&blocks), "{blocks}");
    drop(tree);
    assert_holds(&open(&directory), &model, "opened again");
}

/// Keys that somebody made to lie together cost what they would cost as items, and neither memory nor a cut.
#[test]
fn keys_that_lie_close_together_are_items_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let mut model = Model::new();
    let place = 9 << 48 | 0x1234_5678;
    let same: Vec<_> = (0..10_000)
        .map(|number| entry(place, format!("same-{number:05}").as_bytes(), &[1; 50]))
        .collect();
    let close: Vec<_> = (0..10_000)
        .map(|number| entry(place + number, &key_of(number), &[2; 50]))
        .collect();
    for entries in [same, close] {
        write_all(&tree, &entries).unwrap();
        note(&mut model, &entries);
    }
    let some: Vec<_> = spread(9, 50)
        .map(|position| entry(position, &key_of(position), &[3; 100]))
        .collect();
    write_all(&tree, &some).unwrap();
    note(&mut model, &some);
    assert!(
        depth_of(&tree, place).unwrap() <= 4,
        "{:?}",
        depth_of(&tree, place)
    );
    assert_sound(&tree);
    assert_holds(&tree, &model, "written");
    // Later growth takes what can be taken back into blocks.
    let many: Vec<_> = spread(9, 3000)
        .map(|position| entry(position + 5, &key_of(position + 5), &[4; 100]))
        .collect();
    write_all(&tree, &many).unwrap();
    note(&mut model, &many);
    assert_sound(&tree);
    assert_holds(&tree, &model, "grown");
    assert!(tree.content.records.len() >= 20_000);
    drop(tree);
    assert_holds(&open(&directory), &model, "opened again");
}

#[test]
fn a_tree_of_format_1_is_taken_over_segment_by_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    {
        let tree = open(&directory);
        for segment in [0, 5, 6, 65_535] {
            for position in spread(segment, 200) {
                let entry = entry(position, &key_of(position), &[segment as u8; 150]);
                put_item(&tree, &entry);
                note(&mut model, &[entry]);
            }
        }
        // Damage stays damage.
        let damaged = entry(5 << 48 | 77, b"damaged", &[1; 10]);
        put_item(&tree, &damaged);
        let key = record_key(damaged.position, b"damaged");
        let mut bad = tree.content.records.get(&key).unwrap().unwrap().to_vec();
        bad[9] ^= 1;
        tree.content.records.insert(&key, bad).unwrap();
        complete(&tree);
    }
    let tree = open(&directory);
    let is_damaged = |tree: &Tree| {
        let found = tree.get(Position(5 << 48 | 77), b"damaged");
        assert!(
            matches!(found, Err(StoreError::Corrupt { .. })),
            "{found:?}"
        );
    };
    is_damaged(&tree);
    let news: Vec<_> = [3 << 48 | 1, 5 << 48 | 2, 65_535 << 48 | 3]
        .map(|position| entry(position, b"new", b"new"))
        .to_vec();
    write_all(&tree, &news).unwrap();
    note(&mut model, &news);
    is_damaged(&tree);
    assert_eq!(depth_of(&tree, 6 << 48), None, "nothing of it was written");
    assert!(depth_of(&tree, 5 << 48).unwrap() > 2);
    assert_sound(&tree);
    let mended = entry(5 << 48 | 77, b"damaged", b"mended");
    write_all(&tree, std::slice::from_ref(&mended)).unwrap();
    note(&mut model, &[mended]);
    assert_holds(&tree, &model, "taken over");
    assert_eq!(tree.damaged_keys(), 0);
    drop(tree);
    assert_holds(&open(&directory), &model, "opened again");
}

/// Some keys of a few segments, many of them close together, with values of all sizes.
fn some_entries() -> impl Strategy<Value = Vec<Entry>> {
    let position = (
        0..3_u64,
        prop_oneof![0..40_u64, (0..40_u64).prop_map(|at| at << 43)],
    );
    let length = prop_oneof![1 => Just(0), 5 => 1..200_usize, 1 => 200..5000_usize];
    let one = (position, 0..3_u8, length, any::<u8>());
    let one = one.prop_map(|((segment, within), name, length, content)| {
        entry(
            segment << 48 | within,
            &[b'k', name],
            &vec![content; length],
        )
    });
    prop::collection::vec(one, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_tree_is_a_sorted_map(rounds in prop::collection::vec(some_entries(), 1..6), cut in any::<(u8, u8)>()) {
        let directory = tempfile::tempdir().unwrap();
        let mut tree = open(&directory);
        let mut model = Model::new();
        for entries in rounds {
            // The last of those of one key counts.
            let mut batch = BTreeMap::new();
            for entry in entries {
                let (position, key) = entry.place();
                batch.insert((position, key.to_vec()), entry);
            }
            let distinct: Vec<_> = batch.into_values().collect();
            write_all(&tree, &distinct).unwrap();
            note(&mut model, &distinct);
            assert_holds(&tree, &model, "written");
            complete(&tree);
            assert_sound(&tree);
            let large = model.values().filter(|versions| versions.len() > 4096);
            prop_assert_eq!(chunk_sets(&tree).len(), large.count());
            drop(tree);
            tree = open(&directory);
        }
        if model.is_empty() {
            return Ok(());
        }
        assert_holds(&tree, &model, "opened again");
        // Any part of it, from behind one key up to behind another.
        let places: Vec<_> = model.keys().collect();
        let place = |at: u8| {
            let (position, key) = places[usize::from(at) % places.len()];
            Cut { position: *position, behind: Some(Box::from(&key[..])) }
        };
        let (from, up_to) = (place(cut.0), place(cut.1));
        let found = all_of(&mut tree.cursor(&from, Some(&up_to), true));
        let is_within = |place: &(Position, Vec<u8>)| {
            let place = (place.0, &place.1[..]);
            let at = |cut: &Cut| (cut.position, cut.behind.clone().unwrap());
            let (from, up_to) = (at(&from), at(&up_to));
            place > (from.0, &from.1[..]) && place <= (up_to.0, &up_to.1[..])
        };
        let expected: Vec<_> = model
            .iter()
            .filter(|(place, _)| is_within(place))
            .map(|((_, key), versions)| (key.clone(), versions.clone()))
            .collect();
        prop_assert_eq!(found, expected);
    }
}

/// One large record among small ones is no reason for many blocks.
#[test]
fn how_deep_a_segment_is_cut_follows_from_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let small: Vec<_> = spread(3, 20)
        .map(|at| entry(at + 9, &key_of(at), &[1; 80]))
        .collect();
    write_all(&tree, &small).unwrap();
    let mut batch: Vec<_> = spread(3, 100)
        .map(|at| entry(at + 10, &key_of(at), &[1; 20]))
        .collect();
    batch[0] = entry((3 << 48) | 10, b"big", &[1; 4000]);
    write_all(&tree, &batch).unwrap();
    let all = small.iter().chain(&batch);
    let bytes: usize = all.map(|it| it.pair.versions().len() + 32).sum();
    let depth = depth_of(&tree, 3 << 48).unwrap();
    assert!(bytes >> depth > 500, "{bytes} bytes, cut {depth} deep");
}

/// Where two records make a large block at any depth, not every write of one looks at the whole segment.
#[test]
fn a_segment_of_large_records_is_not_looked_at_with_every_write() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let entries: Vec<_> = (0..400_u64)
        .map(|at| (3 << 48) | (Position::of_key(&at.to_be_bytes()).0 >> 16))
        .map(|position| entry(position, &key_of(position), &[1; 2500]))
        .collect();
    write_all(&tree, &entries).unwrap();
    let before = tree.content.hooks.looks.load(Relaxed);
    for round in 2..4 {
        for one in &entries {
            let (position, key) = one.place();
            write_all(&tree, &[entry(position.0, key, &[round; 2500])]).unwrap();
        }
    }
    let looks = tree.content.hooks.looks.load(Relaxed) - before;
    assert!(looks <= 2, "{looks} looks at 800 writes");
    let mut model = Model::new();
    for one in &entries {
        let (position, key) = one.place();
        note(&mut model, &[entry(position.0, key, &[3; 2500])]);
    }
    assert_holds(&tree, &model, "written over");
    assert_sound(&tree);
}

/// Whatever they lay in, nothing of them is left.
#[test]
fn what_is_removed_goes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let length = |at: u64| if at.is_multiple_of(10) { 20_000 } else { 200 };
    let close = (0..200).map(|at| (3 << 48) | at);
    let entries: Vec<_> = close
        .chain(spread(4, 50))
        .map(|position| entry(position, &key_of(position), &vec![1; length(position)]))
        .collect();
    write_all(&tree, &entries).unwrap();
    complete(&tree);
    assert!(
        tree.content.records.len() >= 200,
        "the close ones are items"
    );
    assert!(chunk_sets(&tree).len() >= 20);
    let removals: Vec<_> = entries
        .iter()
        .map(|it| entry(it.position.0, it.pair.key(), b""))
        .collect();
    write_all(&tree, &removals).unwrap();
    complete(&tree);
    assert_holds(&tree, &Model::new(), "removed");
    assert_eq!(chunk_sets(&tree).len(), 0);
    assert!(tree.content.records.is_empty());
    // What is left of the close ones is that they were too many.
    assert!(tree.content.blocks.len() <= 1);
    // Once more does nothing.
    write_all(&tree, &removals).unwrap();
    write_all(&tree, &entries).unwrap();
    complete(&tree);
    let mut model = Model::new();
    note(&mut model, &entries);
    assert_holds(&tree, &model, "written again");
    assert_sound(&tree);
}
