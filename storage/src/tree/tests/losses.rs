//! What is damaged below sled's checksums: what is lost, and when it counts as absent.

use dynakv_protocol::hash::versions_hash;

use super::model::*;
use super::*;
use crate::disk_store::{DiskOptions, DiskStore};
use crate::footprint::Footprint;
use crate::items::{Mutation, PageLimit};
use crate::store::Store;
use crate::tree::block::{Builder, Raw};
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
        start: first.arc().start,
        end: first.arc().end,
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
    assert!(is_lost(
        &tree,
        first.arc().end.unwrap().0 - 1,
        b"never there"
    ));
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
        tree.content.damages.settle(PositionRange::ALL);
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
