//! Stores and hints that break a rule of safety on purpose: see [`Flaw`](crate::machine::Flaw).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;
use dynakv_storage::{
    AppendFile, Footprint, MemoryStore, Mutation, Page, PageLimit, PositionRange, Store,
    StoreError, Totals,
};

/// A store whose `sync` keeps nothing.
pub(crate) struct LyingStore(pub(crate) MemoryStore);

impl Store for LyingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(key)
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        self.0.apply(mutations)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.0.scan(range, after_key, limit)
    }

    fn totals(&self) -> Totals {
        self.0.totals()
    }

    fn segment_hash(&self, segment: Segment) -> u128 {
        self.0.segment_hash(segment)
    }
}

/// A file of hints whose `sync` keeps nothing.
pub(crate) struct LyingHints(pub(crate) Arc<dyn AppendFile>);

impl AppendFile for LyingHints {
    fn path(&self) -> PathBuf {
        self.0.path()
    }

    fn len(&self) -> Result<u64, StoreError> {
        self.0.len()
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        self.0.read(at, length)
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.append(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        self.0.truncate(length)
    }

    fn replace(
        &self,
        pieces: &mut dyn FnMut() -> Result<Option<Bytes>, StoreError>,
    ) -> Result<(), StoreError> {
        self.0.replace(pieces)
    }
}

/// A store that shows what was written only once it is synced: two writes of one batch do not meet.
pub(crate) struct RacingStore {
    store: MemoryStore,
    /// What was there before the last sync, of each key that was written since.
    before: Mutex<BTreeMap<Bytes, Option<Bytes>>>,
}

impl RacingStore {
    pub(crate) fn new(store: MemoryStore) -> Self {
        let before = Mutex::default();
        Self { store, before }
    }

    fn before(&self) -> MutexGuard<'_, BTreeMap<Bytes, Option<Bytes>>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for RacingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.before().get(key) {
            Some(before) => Ok(before.clone()),
            None => self.store.get(key),
        }
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        for mutation in mutations {
            let present = self.store.get(&mutation.key)?;
            let mut mutation = mutation.clone();
            // The totals would be wrong otherwise, and that is not the flaw that is looked for.
            mutation.before = present.as_ref().map_or_else(Footprint::default, |present| {
                let versions = Versions::from_bytes(present).expect("stored versions");
                Footprint::of_encoded(&mutation.key, &versions, present)
            });
            let key = mutation.key.clone();
            self.before().entry(key).or_insert(present);
            self.store.apply(&[mutation])?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.before().clear();
        self.store.sync()
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.store.scan(range, after_key, limit)
    }

    fn totals(&self) -> Totals {
        self.store.totals()
    }

    fn segment_hash(&self, segment: Segment) -> u128 {
        self.store.segment_hash(segment)
    }
}
