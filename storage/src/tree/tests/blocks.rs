//! Records in blocks: against a model, through cuts that are cut short, and with damage below the checksums.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;
use crate::tree::arrangements::Arrangement;
use dynakv_protocol::hash::versions_hash;

use crate::disk_store::{DiskOptions, DiskStore};
use crate::footprint::Footprint;
use crate::items::{Mutation, PageLimit};
use crate::store::Store;
use crate::tree::block::{Block, Builder, Raw, spilled};
use crate::tree::content::keys_of_depth;
use crate::tree::scratch::BLOCK_BYTES_MAX;

/// Keys by their place, as a tree has to have them.
type Model = BTreeMap<(Position, Vec<u8>), Vec<u8>>;

fn entry(position: u64, key: &[u8], versions: &[u8]) -> Entry {
    Entry {
        position: Position(position),
        pair: Pair::copy(&[key, versions].concat(), key.len()),
    }
}

fn write_all(tree: &Tree, entries: &[Entry]) -> Result<(), StoreError> {
    let mut entries = entries.to_vec();
    entries.sort_by(|a, b| a.place().cmp(&b.place()));
    // As a checkpoint does it.
    let mut scratch = Scratch::default();
    entries
        .chunks(128)
        .try_for_each(|batch| tree.write(batch, &mut scratch))
}

fn note(model: &mut Model, entries: &[Entry]) {
    for entry in entries {
        let (position, key) = entry.place();
        let place = (position, key.to_vec());
        match entry.pair.versions() {
            // It is removed.
            [] => model.remove(&place),
            versions => model.insert(place, versions.to_vec()),
        };
    }
}

/// Everything that a walk gives.
fn all_of(cursor: &mut TreeCursor<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((key, versions)) = cursor.next().unwrap() {
        all.push((key.to_vec(), versions.unwrap().to_vec()));
    }
    all
}

fn assert_holds(tree: &Tree, model: &Model, what: &str) {
    for ((position, key), versions) in model {
        let found = tree.get(*position, key).unwrap();
        let found = found.unwrap_or_else(|| panic!("{what}: {key:?} is absent"));
        assert_eq!(found, versions[..], "{what}: {key:?}");
    }
    let expected: Vec<_> = model
        .iter()
        .map(|((_, key), versions)| (key.clone(), versions.clone()))
        .collect();
    assert_eq!(all_of(&mut walk(tree)), expected, "{what}: the walk");
}

/// Each record lies in its block at the depth in force, no block is too large, and no item is there twice.
fn assert_sound(tree: &Tree) {
    let content = &tree.content;
    let mut spilled = BTreeSet::new();
    for item in &content.blocks {
        let (key, stored) = item.unwrap();
        let key = BlockKey::from_bytes(&key).unwrap();
        assert_eq!(
            content.arrangements.of(key.segment),
            Arrangement::Blocks(key.depth),
            "a block of another arrangement is left"
        );
        assert!(stored.len() <= BLOCK_BYTES_MAX);
        let block = Block::decode(key, &stored).unwrap();
        assert_eq!(block.loss(), None);
        if block.is_spilled() {
            spilled.insert(key);
        }
    }
    for item in &content.records {
        let position = crate::format::position_of_record(&item.unwrap().0);
        match content.arrangements.of(position.segment()) {
            Arrangement::Records => {}
            Arrangement::Blocks(depth) => {
                assert!(spilled.contains(&BlockKey::of(position, depth)));
            }
        }
    }
}

fn depth_of(tree: &Tree, position: u64) -> Option<u8> {
    match tree.content.arrangements.of(Position(position).segment()) {
        Arrangement::Records => None,
        Arrangement::Blocks(depth) => Some(depth),
    }
}

/// The positions of a segment, spread evenly.
fn spread(segment: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| (segment << 48) | (at * ((1 << 48) / count)))
}

fn key_of(position: u64) -> Vec<u8> {
    format!("k{position:x}").into_bytes()
}

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

/// Puts a record where format 1 has it.
fn put_item(tree: &Tree, entry: &Entry) {
    let (position, key) = entry.place();
    let body = tree.content.put_large(entry).unwrap();
    let raw = match &body {
        Some(body) => Raw::chunked(position, key, body),
        None => Raw::inline(position, key, entry.pair.versions()),
    };
    let mut scratch = Scratch::default();
    tree.content.write_record(&raw, &mut scratch).unwrap();
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

/// A checkpoint that dies at any of its changes undoes nothing and loses nothing, and the next one is whole.
#[test]
fn a_cut_that_is_cut_short_loses_nothing() {
    // Some of them are large, so that their chunks go along.
    let versions = |position: u64, state: u8| {
        let is_large = position.is_multiple_of(9);
        vec![
            state;
            if is_large {
                5000
            } else {
                100 + usize::from(state)
            }
        ]
    };
    let entries = |count, state| -> Vec<_> {
        spread(3, count)
            .chain((0..count).map(|at| (3 << 48) | 0x8000_0000 | at))
            .map(|position| entry(position, &key_of(position), &versions(position, state)))
            .collect()
    };
    let (before, after) = (entries(20, 1), entries(90, 2));
    for as_items in [false, true] {
        let mut deaths = 0;
        for changes in 0.. {
            let directory = tempfile::tempdir().unwrap();
            let mut model = Model::new();
            {
                let tree = open(&directory);
                match as_items {
                    true => before.iter().for_each(|entry| put_item(&tree, entry)),
                    false => write_all(&tree, &before).unwrap(),
                }
                complete(&tree);
            }
            note(&mut model, &before);
            let tree = open(&directory);
            let depth = depth_of(&tree, 3 << 48);
            tree.content.fuse.0.store(changes, Relaxed);
            let died = write_all(&tree, &after).is_err();
            tree.content.fuse.0.store(usize::MAX, Relaxed);
            assert!(died || depth_of(&tree, 3 << 48) > depth, "nothing was cut");
            let check = |tree: &Tree, what: &str| {
                let mut there = 0;
                for entry in &before {
                    let (position, key) = entry.place();
                    let found = tree.get(position, key).unwrap();
                    there += usize::from(found.is_some());
                    let found = found.unwrap_or_default();
                    let is_one = [1, 2].iter().any(|&it| found == versions(position.0, it));
                    assert!(is_one, "{changes}: {what}: {key:?}");
                }
                let walked = all_of(&mut walk(tree)).len();
                assert!(walked >= there, "{changes}: {what}: {walked}");
            };
            check(&tree, "as it died");
            tree.write_out().unwrap();
            drop(tree);
            let tree = open(&directory);
            check(&tree, "opened again");
            write_all(&tree, &after).unwrap();
            note(&mut model, &after);
            complete(&tree);
            assert_holds(&tree, &model, &format!("{changes}: written again"));
            drop(tree);
            let tree = open(&directory);
            assert_holds(&tree, &model, &format!("{changes}: opened at last"));
            // Growth finds nothing that was left behind, and takes nothing along that is in use.
            let more: Vec<_> = spread(3, 100)
                .chain((100..200).map(|at| (3 << 48) | 0x8000_0000 | at))
                .map(|position| entry(position + 11, &key_of(position + 11), &[3; 130]))
                .collect();
            write_all(&tree, &more).unwrap();
            note(&mut model, &more);
            complete(&tree);
            assert_holds(&tree, &model, &format!("{changes}: grown"));
            let large = model.values().filter(|versions| versions.len() > 4096);
            assert_eq!(chunk_sets(&tree).len(), large.count(), "{changes}: chunks");
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 20, "{deaths}");
    }
}

/// A reader that knows the arrangement of a segment, and comes to it when it has another one already.
#[test]
fn a_reader_that_is_overtaken_by_a_cut_looks_again() {
    for as_items in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let few: Vec<_> = spread(8, 10)
            .map(|position| entry(position, &key_of(position), &[1; 100]))
            .collect();
        {
            let tree = open(&directory);
            match as_items {
                true => few.iter().for_each(|entry| put_item(&tree, entry)),
                false => write_all(&tree, &few).unwrap(),
            }
            complete(&tree);
        }
        let tree = Arc::new(open(&directory));
        // A walk that has begun sees all that was there, and each once.
        let mut cursor = walk(&tree);
        let (first, _) = cursor.next().unwrap().unwrap();
        let before = depth_of(&tree, 8 << 48);
        let more: Vec<_> = spread(8, 90)
            .map(|position| entry(position + 1, &key_of(position + 1), &[2; 100]))
            .collect();
        let writer = tree.clone();
        tree.content
            .pause
            .once(move || write_all(&writer, &more).unwrap());
        let (position, key) = few[4].place();
        assert_eq!(tree.get(position, key).unwrap().unwrap(), [1; 100][..]);
        assert!(depth_of(&tree, 8 << 48) > before, "nothing was cut");
        let mut seen = vec![first.to_vec()];
        seen.extend(all_of(&mut cursor).into_iter().map(|(key, _)| key));
        let keys: Vec<_> = few.iter().map(|entry| entry.pair.key().to_vec()).collect();
        seen.retain(|key| keys.contains(key));
        assert_eq!(seen, keys, "as items: {as_items}");
    }
}

/// Readers that come by while segments are cut find every key, and a walk all of them, each once.
#[test]
fn readers_meet_no_gap_while_segments_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    {
        let tree = open(&directory);
        for segment in [1, 2] {
            for position in spread(segment, 40) {
                put_item(&tree, &entry(position, &key_of(position), &[1; 100]));
            }
        }
        complete(&tree);
    }
    let tree = open(&directory);
    let keys: Vec<_> = [1, 2].into_iter().flat_map(|it| spread(it, 40)).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60_u64 {
                for segment in [1, 2] {
                    let entries: Vec<_> = spread(segment, 40)
                        .map(|position| position + 1 + round)
                        .map(|position| entry(position, &key_of(position), &[2; 100]))
                        .collect();
                    write_all(&tree, &entries).unwrap();
                }
            }
            done.store(true, Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    for &position in &keys {
                        let found = tree.get(Position(position), &key_of(position));
                        assert_eq!(found.unwrap().unwrap(), [1; 100][..]);
                    }
                    let seen = all_of(&mut walk(&tree));
                    let distinct: BTreeSet<_> = seen.iter().map(|(key, _)| key).collect();
                    assert_eq!(distinct.len(), seen.len(), "seen twice");
                    for &position in &keys {
                        assert!(distinct.contains(&key_of(position)), "not seen");
                    }
                }
            });
        }
    });
    assert!(depth_of(&tree, 1 << 48).unwrap() >= 5);
    assert_sound(&tree);
}

/// A block whose directory is damaged: nobody can say what was in it, so nothing there counts as absent, until nobody
/// waits for it any more.
#[test]
fn what_a_damaged_block_held_is_lost_and_not_absent() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let entries: Vec<_> = spread(4, 60)
        .map(|position| entry(position, &key_of(position), &[1; 100]))
        .collect();
    write_all(&tree, &entries).unwrap();
    let depth = depth_of(&tree, 4 << 48).unwrap();
    assert!(depth >= 1);
    let first = BlockKey::of(Position(4 << 48), depth);
    let mut bad = tree
        .content
        .blocks
        .get(first.to_bytes())
        .unwrap()
        .unwrap()
        .to_vec();
    bad[9] ^= 1;
    tree.content.blocks.insert(first.to_bytes(), bad).unwrap();
    let is_lost = |tree: &Tree, position: u64, key: &[u8]| {
        matches!(
            tree.get(Position(position), key),
            Err(StoreError::Corrupt { .. })
        )
    };
    let losses = |tree: &Tree| {
        let (mut cursor, mut losses, mut seen) = (walk(tree), Vec::new(), 0);
        loop {
            match cursor.next() {
                Ok(Some(_)) => seen += 1,
                Ok(None) => return (losses, seen),
                Err(StoreError::CorruptRange { range, .. }) => losses.push(range),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let arc = PositionRange {
        start: first.start(),
        end: first.end(),
    };
    let within = |position: &Position| first.contains(*position);
    let inside = entries
        .iter()
        .filter(|entry| within(&entry.position))
        .count();
    for _ in 0..2 {
        assert!(is_lost(&tree, 4 << 48, &key_of(4 << 48)));
        assert!(is_lost(&tree, 4 << 48 | 5, b"never there"));
        assert_eq!(losses(&tree), (vec![arc], entries.len() - inside));
        // A part of the ring that ends within it, and one that begins there.
        let middle = Position(4 << 48 | 1000);
        let mut cursor = tree.cursor(&Cut::before(Position(0)), Some(&Cut::before(middle)), true);
        let part = PositionRange {
            end: Some(middle),
            ..arc
        };
        let error = cursor.next().unwrap_err();
        assert!(matches!(error, StoreError::CorruptRange { range, .. } if range == part));
        assert!(cursor.next().unwrap().is_none());
        let mut cursor = tree.cursor(&Cut::before(Position(0)), Some(&Cut::before(middle)), false);
        assert!(cursor.next().unwrap().is_none(), "who walks on meets it");
    }
    // What is written there is there; the rest stays lost, also when it is cut and opened again.
    let some: Vec<_> = spread(4, 300)
        .map(|position| entry(position + 3, &key_of(position + 3), &[2; 120]))
        .collect();
    write_all(&tree, &some[..1]).unwrap();
    assert_eq!(
        tree.get(some[0].position, some[0].pair.key())
            .unwrap()
            .unwrap(),
        [2; 120][..]
    );
    assert!(is_lost(&tree, 4 << 48, &key_of(4 << 48)));
    assert_eq!(losses(&tree), (vec![arc], entries.len() - inside + 1));
    write_all(&tree, &some).unwrap();
    complete(&tree);
    drop(tree);
    let tree = open(&directory);
    assert!(depth_of(&tree, 4 << 48).unwrap() > depth);
    assert!(is_lost(&tree, 4 << 48, &key_of(4 << 48)));
    assert!(is_lost(&tree, first.end().unwrap().0 - 1, b"never there"));
    let (parts, seen) = losses(&tree);
    assert_eq!(seen, entries.len() - inside + some.len());
    assert!(parts.len() > 1 && parts[0].start == arc.start);
    assert_eq!(parts.last().unwrap().end, arc.end);
    // Nobody waits for it any more.
    let told = tree.losses(&[Position(4 << 48).segment()]).unwrap();
    assert_eq!(told.len(), parts.len());
    tree.forgive(&told);
    assert_eq!(tree.losses(&[Position(4 << 48).segment()]).unwrap(), []);
    assert_eq!(tree.damaged_keys(), 0);
    assert_eq!(tree.get(Position(4 << 48), &key_of(4 << 48)).unwrap(), None);
    assert_eq!(losses(&tree), (vec![], seen));
    // Until it is written, a start knows nothing of that.
    write_all(&tree, &some[..1]).unwrap();
    complete(&tree);
    drop(tree);
    let tree = open(&directory);
    assert_eq!(tree.get(Position(4 << 48), &key_of(4 << 48)).unwrap(), None);
    let (parts_left, _) = losses(&tree);
    assert_eq!(parts_left.len(), parts.len() - 1);
    // What is lost from then on is lost anew.
    let block = BlockKey::of(some[0].position, depth_of(&tree, 4 << 48).unwrap());
    tree.content
        .blocks
        .insert(block.to_bytes(), b"bad")
        .unwrap();
    assert!(is_lost(&tree, some[0].position.0, some[0].pair.key()));
}

/// Whatever bit of a block is wrong, below sled's checksum: no key is served wrong, and none is absent, before or after
/// the block is written again.
#[test]
fn a_flipped_bit_in_a_block_makes_nothing_wrong_and_nothing_absent() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let entries: Vec<_> = spread(2, 3)
        .map(|position| entry(position, &key_of(position), &[position as u8 ^ 3; 20]))
        .collect();
    write_all(&tree, &entries).unwrap();
    let key = BlockKey::of(Position(2 << 48), 0).to_bytes();
    let good = tree.content.blocks.get(key).unwrap().unwrap().to_vec();
    let new = entry(2 << 48 | 99, b"new", b"new");
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        tree.content.blocks.insert(key, bad).unwrap();
        for is_written in [false, true] {
            if is_written {
                write_all(&tree, std::slice::from_ref(&new)).unwrap();
                assert_eq!(tree.get(new.position, b"new").unwrap().unwrap(), "new");
            }
            let mut damaged = 0;
            for entry in &entries {
                match tree.get(entry.position, entry.pair.key()) {
                    Ok(Some(found)) => assert_eq!(found, entry.pair.versions(), "bit {bit}"),
                    Ok(None) => panic!("bit {bit}: absent, written: {is_written}"),
                    Err(StoreError::Corrupt { .. }) => damaged += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(damaged > 0, "bit {bit}");
        }
        tree.content.blocks.insert(key, &good[..]).unwrap();
        tree.content.damages.settle(Segment(2), Position(0), None);
    }
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
        let (start, end) = keys_of_depth(Segment(1), 3).into_inner();
        prop_assert!(start < end);
    }
}

fn forgiven(tree: &Tree, losses: &[Loss]) -> usize {
    tree.forgive(losses);
    losses.len()
}

/// A block with a loss, and these records.
fn set_lost(tree: &Tree, key: BlockKey, entries: &[Entry]) {
    let mut builder = Builder::default();
    for entry in entries {
        let (position, key) = entry.place();
        builder.push(&Raw::inline(position, key, entry.pair.versions()));
    }
    let mut out = Vec::new();
    builder.finish(key, Some(1), &mut out);
    tree.content.blocks.insert(key.to_bytes(), out).unwrap();
}

fn damage(tree: &Tree, key: BlockKey) {
    let stored = tree.content.blocks.get(key.to_bytes()).unwrap().unwrap();
    let mut bad = stored.to_vec();
    bad[9] ^= 1;
    tree.content.blocks.insert(key.to_bytes(), bad).unwrap();
}

/// Only the loss that was told is forgiven, and not one that came after it, whatever was done to the block.
#[test]
fn another_loss_of_a_block_is_not_forgiven_with_the_first() {
    let one = entry((3 << 48) | 10, b"k", &[1; 10]);
    let key = BlockKey::of(one.position, 0);
    for is_written in [false, true] {
        for is_told_before in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let tree = open(&directory);
            write_all(&tree, std::slice::from_ref(&one)).unwrap();
            set_lost(&tree, key, std::slice::from_ref(&one));
            let losses = tree.losses(&[Segment(3)]).unwrap();
            if is_told_before {
                assert_eq!(forgiven(&tree, &losses), 1);
                assert!(tree.get(one.position, b"k").unwrap().is_some());
                assert_eq!(tree.get(one.position, b"other").unwrap(), None);
            }
            damage(&tree, key);
            if is_written {
                write_all(&tree, &[entry((3 << 48) | 11, b"l", &[1; 10])]).unwrap();
            }
            assert_eq!(forgiven(&tree, &losses), 1);
            let found = tree.get(one.position, b"k");
            assert!(found.is_err(), "{is_written}, {is_told_before}: {found:?}");
        }
    }
}

/// Questions for what may be lost are counted, and not kept.
#[test]
fn absent_keys_of_an_arc_with_a_loss_take_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let one = entry((3 << 48) | 10, b"k", &[1; 10]);
    write_all(&tree, std::slice::from_ref(&one)).unwrap();
    set_lost(
        &tree,
        BlockKey::of(one.position, 0),
        std::slice::from_ref(&one),
    );
    for number in 0..100_u64 {
        let found = tree.get(Position((3 << 48) | number), &number.to_be_bytes());
        assert!(found.is_err());
    }
    assert_eq!((tree.damaged_keys(), tree.damaged_reads()), (0, 100));
}

/// What a walk has shown stays until it is passed: its caller has given all that lies before it.
#[test]
fn what_a_walk_shows_next_never_moves_back() {
    let directory = tempfile::tempdir().unwrap();
    {
        let tree = open(&directory);
        for at in [10, 30] {
            put_item(&tree, &entry((3 << 48) | at, &key_of(at), &[1; 10]));
        }
        complete(&tree);
    }
    let tree = open(&directory);
    let mut cursor = walk(&tree);
    assert!(cursor.next().unwrap().is_some());
    let last = Position((3 << 48) | 30);
    let is_last = |next: Option<Next<'_>>| matches!(next, Some(Next::Record(position, _)) if position == last);
    assert!(is_last(cursor.peek().unwrap()));
    write_all(&tree, &[entry((3 << 48) | 20, &key_of(20), &[2; 10])]).unwrap();
    assert!(is_last(cursor.peek().unwrap()));
    assert_eq!(all_of(&mut cursor).len(), 1);

    // The end of an arc with a loss, whose records are items.
    let arc = BlockKey::of(Position(5 << 48), 0);
    let first = entry((5 << 48) | 10, b"a", &[1; 10]);
    write_all(&tree, std::slice::from_ref(&first)).unwrap();
    put_item(&tree, &first);
    let block = spilled(arc, Some(1));
    tree.content.blocks.insert(arc.to_bytes(), block).unwrap();
    let mut cursor = tree.cursor(&Cut::before(arc.start()), None, true);
    assert!(cursor.next().unwrap().is_some());
    assert!(matches!(cursor.peek().unwrap(), Some(Next::Loss(_))));
    write_all(&tree, &[entry((5 << 48) | 20, b"d", &[2; 10])]).unwrap();
    assert!(matches!(cursor.peek().unwrap(), Some(Next::Loss(_))));
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
    let before = tree.content.looks.load(Relaxed);
    for round in 2..4 {
        for one in &entries {
            let (position, key) = one.place();
            write_all(&tree, &[entry(position.0, key, &[round; 2500])]).unwrap();
        }
    }
    let looks = tree.content.looks.load(Relaxed) - before;
    assert!(looks <= 2, "{looks} looks at 800 writes");
    let mut model = Model::new();
    for one in &entries {
        let (position, key) = one.place();
        note(&mut model, &[entry(position.0, key, &[3; 2500])]);
    }
    assert_holds(&tree, &model, "written over");
    assert_sound(&tree);
}

/// A cut that did not come about leaves blocks behind. The next one to the same depth takes nothing out of them.
#[test]
fn what_a_cut_left_does_not_come_back() {
    let mut left = 0;
    for changes in 1..12 {
        let directory = tempfile::tempdir().unwrap();
        let few: Vec<_> = spread(3, 20)
            .map(|position| entry(position, &key_of(position), &[1; 100]))
            .collect();
        let tree = open(&directory);
        write_all(&tree, &few).unwrap();
        complete(&tree);
        tree.content.fuse.0.store(changes, Relaxed);
        let more: Vec<_> = spread(3, 40)
            .map(|position| entry(position + 7, &key_of(position + 7), &[2; 100]))
            .collect();
        let died = write_all(&tree, &more).is_err();
        tree.content.fuse.0.store(usize::MAX, Relaxed);
        tree.write_out().unwrap();
        drop(tree);
        let tree = open(&directory);
        if !died || depth_of(&tree, 3 << 48) != Some(0) {
            continue;
        }
        let blocks = tree.content.blocks.iter().keys();
        let depths: BTreeSet<u8> = blocks.map(|key| key.unwrap()[2]).collect();
        // What lay behind goes, and what lies in front grows.
        let (front, behind) = few.split_at(5);
        let removals: Vec<_> = behind
            .iter()
            .map(|it| entry(it.position.0, it.pair.key(), b""))
            .collect();
        write_all(&tree, &removals).unwrap();
        let growth: Vec<_> = (0..55)
            .map(|at| (3 << 48) | (at << 38))
            .map(|position| entry(position + 9, &key_of(position + 9), &[3; 60]))
            .collect();
        write_all(&tree, &growth).unwrap();
        let depth = depth_of(&tree, 3 << 48).unwrap();
        left += usize::from(depth > 0 && depths.contains(&depth));
        let mut model = Model::new();
        note(&mut model, front);
        note(&mut model, &growth);
        assert_holds(&tree, &model, &format!("{changes}"));
        assert_sound(&tree);
    }
    assert!(left > 0, "nothing was left");
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

/// A flipped bit in a key, below sled's checksum: a walk of the store ends, and puts nothing right that was right.
#[test]
fn a_damaged_key_leads_no_walk_astray() {
    let limit = PageLimit {
        items_max: 10,
        bytes_max: 1 << 20,
    };
    for number in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let keys: Vec<_> = (0..100).map(|it| format!("key-{it:04}")).collect();
        let open_store = || DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
        {
            let store = open_store();
            for key in &keys {
                let hash = versions_hash(key.as_bytes(), b"v");
                let mutation = Mutation {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    versions: Bytes::from_static(b"v"),
                    before: Footprint::default(),
                    after: Footprint {
                        hash,
                        ..Footprint::default()
                    },
                };
                store.apply(&[mutation]).unwrap();
            }
            store.checkpoint().unwrap();
        }
        {
            let tree = Tree::open(&directory.path().join("sled"), CACHE_BYTES).unwrap();
            let (tree, key) = (tree.0, keys[number * 7].as_bytes());
            let block = BlockKey::of(Position::of_key(key), 0).to_bytes();
            let mut stored = tree.content.blocks.get(block).unwrap().unwrap().to_vec();
            let at = stored.windows(key.len()).position(|it| it == key).unwrap();
            stored[at + 2] ^= 1;
            tree.content.blocks.insert(block, stored).unwrap();
            tree.write_out().unwrap();
        }
        let store = open_store();
        let (mut after, mut parts, mut corrected, mut lost) = (None::<Bytes>, 0, 0, Vec::new());
        loop {
            let recounted = store.recount(after.as_deref(), limit).unwrap();
            corrected += recounted.corrected_segments;
            lost.extend(recounted.lost_segments);
            parts += 1;
            assert!(parts < 100, "it never ends");
            after = recounted.next;
            if after.is_none() {
                break;
            }
        }
        let segment = Position::of_key(keys[number * 7].as_bytes()).segment();
        assert_eq!((corrected, lost), (1, vec![segment]));
    }
}
