//! Trees held against a model, and what tests of them need.

use std::collections::BTreeMap;

use super::*;
use crate::tree::arrangements::Arrangement;
use crate::tree::block::{Block, Raw};
use crate::tree::scratch::BLOCK_BYTES_MAX;
/// Keys by their place, as a tree has to have them.
pub(super) type Model = BTreeMap<(Position, Vec<u8>), Vec<u8>>;

pub(super) fn entry(position: u64, key: &[u8], versions: &[u8]) -> Entry {
    Entry {
        position: Position(position),
        pair: Pair::copy(&[key, versions].concat(), key.len()),
    }
}

pub(super) fn write_all(tree: &Tree, entries: &[Entry]) -> Result<(), StoreError> {
    let mut entries = entries.to_vec();
    entries.sort_by(|a, b| a.place().cmp(&b.place()));
    // As a checkpoint does it.
    let mut scratch = Scratch::default();
    entries
        .chunks(128)
        .try_for_each(|batch| tree.write(batch, &mut scratch))
}

pub(super) fn note(model: &mut Model, entries: &[Entry]) {
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
pub(super) fn all_of(cursor: &mut TreeCursor<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((key, versions)) = cursor.next().unwrap() {
        all.push((key.to_vec(), versions.unwrap().to_vec()));
    }
    all
}

pub(super) fn assert_holds(tree: &Tree, model: &Model, what: &str) {
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
pub(super) fn assert_sound(tree: &Tree) {
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
        let position = position_of_record(&item.unwrap().0);
        match content.arrangements.of(position.segment()) {
            Arrangement::Records => {}
            Arrangement::Blocks(depth) => {
                assert!(spilled.contains(&BlockKey::of(position, depth)));
            }
        }
    }
}

pub(super) fn depth_of(tree: &Tree, position: u64) -> Option<u8> {
    match tree.content.arrangements.of(Position(position).segment()) {
        Arrangement::Records => None,
        Arrangement::Blocks(depth) => Some(depth),
    }
}

/// The positions of a segment, spread evenly.
pub(super) fn spread(segment: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| (segment << 48) | (at * ((1 << 48) / count)))
}

pub(super) fn key_of(position: u64) -> Vec<u8> {
    format!("k{position:x}").into_bytes()
}

/// Puts a record where format 1 has it.
pub(super) fn put_item(tree: &Tree, entry: &Entry) {
    let (position, key) = entry.place();
    let body = tree.content.put_large(entry).unwrap();
    let raw = match &body {
        Some(body) => Raw::chunked(position, key, body),
        None => Raw::inline(position, key, entry.pair.versions()),
    };
    let mut scratch = Scratch::default();
    tree.content.write_record(&raw, &mut scratch).unwrap();
}
