//! Cuts of segments: those that are cut short, and readers that come by meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::model::*;
use super::*;
use crate::tree::block::spilled;
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
            tree.content.hooks.fuse.0.store(changes, Relaxed);
            let died = write_all(&tree, &after).is_err();
            tree.content.hooks.fuse.0.store(usize::MAX, Relaxed);
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
            .hooks
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
    let mut cursor = tree.cursor(&Cut::before(arc.arc().start), None, true);
    assert!(cursor.next().unwrap().is_some());
    assert!(matches!(cursor.peek().unwrap(), Some(Next::Loss(_))));
    write_all(&tree, &[entry((5 << 48) | 20, b"d", &[2; 10])]).unwrap();
    assert!(matches!(cursor.peek().unwrap(), Some(Next::Loss(_))));
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
        tree.content.hooks.fuse.0.store(changes, Relaxed);
        let more: Vec<_> = spread(3, 40)
            .map(|position| entry(position + 7, &key_of(position + 7), &[2; 100]))
            .collect();
        let died = write_all(&tree, &more).is_err();
        tree.content.hooks.fuse.0.store(usize::MAX, Relaxed);
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
