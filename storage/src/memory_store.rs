//! A store, small files and hints in memory, behind a power switch, for simulation.
//!
//! A [`MemoryDisk`] is what outlives a node: take a [`MemoryStore`] and [`MemoryFiles`] from it, drop
//! them, take others, and the content is there. What was applied but not synced is *pending*: it can be
//! read, and a [crash](MemoryDisk::crash) undoes it. Handles taken before a crash are dead afterwards,
//! so that no task of a node that was killed can write on the disk of the one that came after it.

mod content;
mod hints;

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};

use crate::disk::{SmallFiles, check_file_name};
use crate::error::{Damage, StoreError};
use crate::footprint::{Footprint, Totals};
use crate::hint_log::AppendFile;
use crate::items::{HOT_BYTES_MAX, Item, Mutation, Page, PageBuilder, PageLimit, PositionRange};
use crate::recount::Recounted;
use crate::store::{Store, past_losses};
use crate::totals::Counters;
use crate::tree::Loss;

pub use hints::MemoryHints;

/// Ring order: by position, then by key.
type Place = (Position, Bytes);

/// A disk that exists in memory only. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Place, Bytes>,
    /// How to undo what was applied since the last sync, in the order in which it was applied.
    pending: Vec<Undo>,
    files: BTreeMap<String, Bytes>,
    hints: content::Content,
    /// What cannot be read until it is written anew.
    damaged: BTreeMap<Place, u32>,
    /// Where something was lost, nobody can say what, and where nobody waits for it any more.
    lost: BTreeMap<u16, u32>,
    forgiven: BTreeMap<u16, u32>,
    /// How often that was.
    losses: u32,
    counters: Counters,
    stored_bytes: u64,
    /// How many crashes there were: a handle of an earlier life is dead.
    life: u64,
    /// Set by a test: every write fails until the next crash.
    broken: bool,
}

#[derive(Debug)]
struct Undo {
    place: Place,
    previous: Option<Bytes>,
    before: Footprint,
    after: Footprint,
}

impl State {
    /// Puts a value in, or takes it out; returns the one that was there.
    fn put(&mut self, place: Place, versions: Option<Bytes>) -> Option<Bytes> {
        let size = |key: &Bytes, versions: &Bytes| (key.len() + versions.len()) as u64;
        let key = place.1.clone();
        let added = versions.as_ref().map_or(0, |new| size(&key, new));
        let previous = match versions {
            Some(versions) => self.records.insert(place, versions),
            None => self.records.remove(&place),
        };
        let removed = previous.as_ref().map_or(0, |old| size(&key, old));
        self.stored_bytes = self.stored_bytes + added - removed;
        previous
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        let start = (range.start, Bytes::new());
        let after_position = after_key.map_or(range.start, Position::of_key);
        let begin = after_position.max(range.start).segment();
        let from = match after_key {
            Some(key) => {
                let place = (Position::of_key(key), Bytes::copy_from_slice(key));
                if place < start {
                    Bound::Included(start)
                } else {
                    Bound::Excluded(place)
                }
            }
            None => Bound::Included(start),
        };
        let mut page = PageBuilder::new(limit);
        for (place, versions) in self.records.range((from, Bound::Unbounded)) {
            let (position, key) = place;
            if !range.contains(*position) {
                break;
            }
            if let Some(segment) = self.lost_from(begin)
                && segment < position.segment()
            {
                return lost(segment, range, page);
            }
            if self.damaged.contains_key(place) {
                // As on a disk: the page ends before it, and the next one begins with it and says so.
                return match page.is_empty() {
                    true => Err(damaged(key)),
                    false => Ok(page.with_more()),
                };
            }
            let item = Item {
                key: key.clone(),
                versions: versions.clone(),
            };
            if page.push(item).is_err() {
                return Ok(page.with_more());
            }
        }
        match self.lost_from(begin) {
            Some(segment) if range.contains(segment.start()) || segment == begin => {
                lost(segment, range, page)
            }
            _ => Ok(page.last()),
        }
    }

    /// The first segment from this one on in which keys may be lost.
    fn lost_from(&self, begin: Segment) -> Option<Segment> {
        let mut lost = self.lost.range(begin.0..);
        let is_open = |&(number, loss): &(&u16, &u32)| self.forgiven.get(number) != Some(loss);
        lost.find(is_open).map(|(&number, _)| Segment(number))
    }

    /// Refuses a handle of an earlier life.
    fn check_life(&self, life: u64) -> Result<(), StoreError> {
        if life == self.life {
            Ok(())
        } else {
            Err(stopped("the power went"))
        }
    }

    /// Refuses what writes, on a broken disk also that of a living handle.
    fn check_write(&self, life: u64) -> Result<(), StoreError> {
        self.check_life(life)?;
        if self.broken {
            Err(stopped("the disk broke"))
        } else {
            Ok(())
        }
    }
}

fn damaged(key: &Bytes) -> StoreError {
    StoreError::Corrupt {
        key: key.clone(),
        damage: Damage::NotOurs,
    }
}

/// As on a disk: the page ends before it, and the next one begins with it and says so.
fn lost(segment: Segment, range: PositionRange, page: PageBuilder) -> Result<Page, StoreError> {
    if !page.is_empty() {
        return Ok(page.with_more());
    }
    let mut lost = PositionRange::of_segment(segment);
    if lost.end.is_none_or(|end| !range.contains(end)) {
        lost.end = range.end;
    }
    Err(StoreError::CorruptRange {
        range: lost,
        damage: Damage::Lost,
    })
}

fn stopped(reason: &str) -> StoreError {
    StoreError::Stopped {
        reason: reason.to_owned(),
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The store on this disk, for one life of a node. Take one at a time.
    pub fn store(&self) -> MemoryStore {
        MemoryStore(self.handle())
    }

    /// The small files on this disk, for one life of a node.
    pub fn files(&self) -> MemoryFiles {
        MemoryFiles(self.handle())
    }

    /// The file of hints on this disk, for one life of a node. Take one at a time.
    pub fn hints(&self) -> Arc<dyn AppendFile> {
        Arc::new(MemoryHints(self.handle()))
    }

    fn handle(&self) -> Handle {
        Handle {
            disk: self.clone(),
            life: self.state().life,
        }
    }

    /// Cuts the power: everything since the last sync is gone, and every handle is dead. Small files
    /// were durable when they were written, and stay.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Cuts the power when the disk had got further than it had promised: the first `kept` mutations
    /// since the last sync stay, in the order of their application, and the others are gone. Of the hints
    /// that were not synced a beginning stays that depends on `kept` and may end anywhere; with 0 nothing.
    pub fn crash_keeping(&self, kept: usize) {
        let mut state = self.state();
        state.life += 1;
        state.broken = false;
        state.hints.lose_unsynced(kept);
        let first_lost = kept.min(state.pending.len());
        for undo in state.pending.split_off(first_lost).into_iter().rev() {
            let segment = undo.place.0.segment();
            let (before, after) = (undo.before, undo.after);
            state.put(undo.place, undo.previous);
            let hash_change = before.hash ^ after.hash;
            let counters = &state.counters;
            counters.change(segment, after.tally, before.tally, hash_change);
        }
        state.counters.forget_recount();
        // After a power cut what is there is there: the next life reads it from the disk.
        state.pending.clear();
        state.forgiven.clear();
    }

    /// The disk is replaced by an empty one. Cut the power before.
    pub fn wipe(&self) {
        self.wipe_store();
        let mut state = self.state();
        state.files.clear();
        state.hints = content::Content::default();
    }

    /// All data vanish, and the small files and the hints stay: as if somebody had emptied the store beside them, and
    /// nobody had noticed.
    pub fn wipe_store(&self) {
        let mut state = self.state();
        state.records.clear();
        state.damaged.clear();
        state.lost.clear();
        state.forgiven.clear();
        state.pending.clear();
        state.counters = Counters::default();
        state.stored_bytes = 0;
    }

    /// All values that are there cannot be read any more, each until it is written anew. The totals and the
    /// segments' hashes do not notice, as those of a disk would not.
    pub fn damage_values(&self) {
        let mut state = self.state();
        state.losses += 1;
        let loss = state.losses;
        state.damaged = state.records.keys().map(|it| (it.clone(), loss)).collect();
    }

    /// All values that are there are lost, and of their segments nobody can say any more what was in them. The totals
    /// and the segments' hashes do not notice.
    pub fn lose_segments(&self) {
        let mut state = self.state();
        let records = std::mem::take(&mut state.records);
        state.losses += 1;
        let loss = state.losses;
        let segments = records.keys().map(|(position, _)| position.segment().0);
        state.lost.extend(segments.map(|number| (number, loss)));
        state.stored_bytes = 0;
    }

    /// In how many segments something is lost that may still come back.
    pub fn lost_segments(&self) -> usize {
        let state = self.state();
        let is_open = |(number, loss): &(&u16, &u32)| state.forgiven.get(*number) != Some(*loss);
        state.lost.iter().filter(is_open).count()
    }

    /// How many mutations the next [`crash`](Self::crash) would undo.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Breaks the disk: every write and sync fails until the next crash, as after a failed `fsync`.
    pub fn break_writes(&self) {
        self.state().broken = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of ours panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a node holds of its disk, for as long as the power lasts.
#[derive(Debug, Clone)]
struct Handle {
    disk: MemoryDisk,
    life: u64,
}

impl Handle {
    fn living(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.disk.state();
        state.check_life(self.life)?;
        Ok(state)
    }

    fn writable(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.disk.state();
        state.check_write(self.life)?;
        Ok(state)
    }
}

/// The [`Store`] on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryStore(Handle);

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let place = (Position::of_key(key), Bytes::copy_from_slice(key));
        let state = self.0.living()?;
        if state.damaged.contains_key(&place) {
            return Err(damaged(&place.1));
        }
        let found = state.records.get(&place).cloned();
        let segment = place.0.segment();
        match found.is_none() && state.lost_from(segment) == Some(segment) {
            true => Err(StoreError::Corrupt {
                key: place.1,
                damage: Damage::Lost,
            }),
            false => Ok(found),
        }
    }

    /// Half of the keys are never hot, so that a simulation goes both ways.
    fn get_hot(&self, key: &[u8]) -> Option<Bytes> {
        let is_hot = Position::of_key(key).0 % 2 == 1;
        let versions = is_hot.then(|| self.get(key).ok().flatten()).flatten();
        versions.filter(|versions| versions.len() <= HOT_BYTES_MAX)
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        let mut state = self.0.writable()?;
        for mutation in mutations {
            // Copied, as onto a disk: both are slices of what a request came in.
            let key = Bytes::copy_from_slice(&mutation.key);
            let versions = Bytes::copy_from_slice(&mutation.versions);
            let place = (Position::of_key(&key), key);
            let versions = Some(versions).filter(|it| !it.is_empty());
            let previous = state.put(place.clone(), versions);
            state.damaged.remove(&place);
            state.counters.note(place.0, mutation);
            state.pending.push(Undo {
                place,
                previous,
                before: mutation.before,
                after: mutation.after,
            });
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.0.writable()?;
        state.pending.clear();
        Ok(())
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.0.living()?.scan(range, after_key, limit)
    }

    fn losses(&self, segments: &[Segment]) -> Result<Vec<Loss>, StoreError> {
        let state = self.0.living()?;
        let mut found = Vec::new();
        for &segment in segments {
            if let Some(&loss) = state.lost.get(&segment.0)
                && state.lost_from(segment) == Some(segment)
            {
                found.push(Loss::of_segment(segment, loss));
            }
            let damaged = state.damaged.range((segment.start(), Bytes::new())..);
            let damaged = damaged.take_while(|((position, _), _)| position.segment() == segment);
            found.extend(damaged.map(|((at, key), &number)| Loss::of_key(*at, key, number)));
        }
        Ok(found)
    }

    fn forgive(&self, losses: &[Loss]) -> Result<(), StoreError> {
        let mut state = self.0.writable()?;
        for loss in losses {
            let Some(key) = loss.key() else {
                state.forgiven.insert(loss.segment().0, loss.number());
                continue;
            };
            let place = (Position::of_key(key), Bytes::copy_from_slice(key));
            if state.damaged.get(&place) == Some(&loss.number()) {
                state.damaged.remove(&place);
                // Durable at once: what a crash brought back would be met as damaged again.
                state.put(place, None);
            }
        }
        Ok(())
    }

    fn recount(&self, after_key: Option<&[u8]>, limit: PageLimit) -> Result<Recounted, StoreError> {
        let state = self.0.writable()?;
        let mut lost = Vec::new();
        let scan = || {
            let scan = |range, after_key: Option<&[u8]>| state.scan(range, after_key, limit);
            past_losses(scan, PositionRange::ALL, after_key, &mut lost)
        };
        let (mut recounted, corrections) = state.counters.recount(after_key, scan)?;
        recounted.lost_segments = lost.iter().map(|part| part.start.segment()).collect();
        // Durable earlier than promised.
        for correction in &corrections {
            state.counters.correct(correction);
        }
        Ok(recounted)
    }

    fn totals(&self) -> Totals {
        let state = self.0.disk.state();
        state.counters.totals(state.stored_bytes, 0)
    }

    fn segment_hash(&self, segment: Segment) -> u128 {
        self.0.disk.state().counters.hashes().get(segment)
    }

    fn segment_hashes(&self, segments: RangeInclusive<u16>) -> Vec<u128> {
        let state = self.0.disk.state();
        let hashes = state.counters.hashes();
        segments.map(|number| hashes.get(Segment(number))).collect()
    }
}

/// The [`SmallFiles`] on a [`MemoryDisk`].
#[derive(Debug, Clone)]
pub struct MemoryFiles(Handle);

impl MemoryFiles {
    fn writable(&self, name: &str) -> Result<MutexGuard<'_, State>, StoreError> {
        check_name(name)?;
        self.0.writable()
    }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    check_file_name(name).map_err(StoreError::io("use", Path::new(name)))
}

impl SmallFiles for MemoryFiles {
    fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        check_name(name)?;
        Ok(self.0.living()?.files.get(name).cloned())
    }

    fn write_durable(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let content = Bytes::copy_from_slice(content);
        self.writable(name)?.files.insert(name.to_owned(), content);
        Ok(())
    }

    fn remove_durable(&self, name: &str) -> Result<(), StoreError> {
        self.writable(name)?.files.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::Tally;

    const ALL: PageLimit = PageLimit {
        items_max: usize::MAX,
        bytes_max: usize::MAX,
    };

    fn mutation(key: &str, versions: &str, before: u64, after: u64) -> Mutation {
        let tally = |versions| Footprint {
            tally: Tally {
                versions,
                value_bytes: 10 * versions,
            },
            hash: 0,
        };
        Mutation {
            key: Bytes::copy_from_slice(key.as_bytes()),
            versions: Bytes::copy_from_slice(versions.as_bytes()),
            before: tally(before),
            after: tally(after),
        }
    }

    fn get(store: &MemoryStore, key: &str) -> Option<Bytes> {
        store.get(key.as_bytes()).unwrap()
    }

    #[test]
    fn a_crash_undoes_what_was_not_synced() {
        let disk = MemoryDisk::new();
        let store = disk.store();
        let first = [mutation("a", "a1", 0, 1), mutation("b", "b1", 0, 2)];
        store.apply(&first).unwrap();
        store.sync().unwrap();
        let synced = store.totals();
        let second = [mutation("a", "a2", 1, 0), mutation("c", "c1", 0, 1)];
        store.apply(&second).unwrap();
        store.apply(&[mutation("a", "a3", 0, 3)]).unwrap();
        assert_eq!(get(&store, "a").unwrap(), "a3");
        assert_eq!(disk.pending(), 3);
        disk.crash();

        let store = disk.store();
        assert_eq!(get(&store, "a").unwrap(), "a1");
        assert_eq!(get(&store, "b").unwrap(), "b1");
        assert_eq!(get(&store, "c"), None);
        assert_eq!(store.totals(), synced);
        assert_eq!(
            store
                .scan(PositionRange::ALL, None, ALL)
                .unwrap()
                .items
                .len(),
            2
        );
    }

    #[test]
    fn a_crash_may_keep_more_than_was_promised_but_only_a_beginning() {
        let disk = MemoryDisk::new();
        let mutations = [
            mutation("a", "a1", 0, 1),
            mutation("a", "a2", 1, 2),
            mutation("b", "b1", 0, 1),
        ];
        disk.store().apply(&mutations).unwrap();
        disk.crash_keeping(2);
        let store = disk.store();
        assert_eq!(get(&store, "a").unwrap(), "a2");
        assert_eq!(get(&store, "b"), None);
        assert_eq!((store.totals().keys, store.totals().versions), (1, 2));
        // What survived a power cut survives the next one.
        disk.crash();
        assert_eq!(get(&disk.store(), "a").unwrap(), "a2");
    }

    #[test]
    fn handles_of_an_earlier_life_are_dead() {
        let disk = MemoryDisk::new();
        let (store, files) = (disk.store(), disk.files());
        files.write_durable("x", b"kept").unwrap();
        disk.crash();
        assert!(store.apply(&[mutation("a", "a1", 0, 1)]).is_err());
        assert!(store.sync().is_err());
        assert!(store.get(b"a").is_err());
        assert!(files.write_durable("x", b"late").is_err());
        assert!(files.remove_durable("x").is_err());
        assert_eq!(disk.files().read("x").unwrap().unwrap(), "kept");
        assert_eq!(get(&disk.store(), "a"), None);
    }

    #[test]
    fn a_broken_disk_writes_nothing_until_the_power_went() {
        let disk = MemoryDisk::new();
        let store = disk.store();
        store.apply(&[mutation("a", "a1", 0, 1)]).unwrap();
        disk.break_writes();
        let error = store.sync().unwrap_err();
        assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
        assert_eq!(get(&store, "a").unwrap(), "a1");
        disk.crash();
        let store = disk.store();
        assert_eq!(get(&store, "a"), None);
        store.sync().unwrap();
    }
}
