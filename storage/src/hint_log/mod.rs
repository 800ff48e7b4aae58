//! A durable map from keys to small documents, in one file beside the store: hints, writes that this node
//! keeps for another one. A hint that counted towards W is a replica, so it must survive a store that is
//! set aside; therefore it is not in the store.
//!
//! The file grows at its end, by records with a checksum each, and is written anew when less than half of
//! it is live. In memory are the keys and where their documents lie; documents are read when they are
//! asked for. What was put or removed waits in memory until [`HintLog::sync`], which writes and syncs it
//! in one go.
//!
//! | Room | |
//! |---|---|
//! | `record` | the bytes of the file |
//! | `file` | [`AppendFile`], the one on disk; that in memory is with [`MemoryDisk`](crate::MemoryDisk) |
//! | `opening` | takes up what an earlier process left |
//! | `scan` | reads a file from end to end, also a damaged one |
//! | `compact` | writes it anew |
//! | `inspect` | names all damage, for a report |

mod compact;
mod entry;
mod file;
mod inspect;
mod opening;
mod record;
mod scan;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use self::compact::Compaction;
use self::entry::Entry;
use self::record::{FILE_HEADER_BYTES, Kind, put_record, record_bytes};
use self::scan::Window;
use crate::error::{Damage, StoreError};

pub use file::{AppendFile, DiskAppendFile, Pieces};
pub use inspect::{HintsChecked, check_hints};
pub use opening::Opened;
pub use record::{HINT_BYTES_MAX, HINT_KEY_BYTES_MAX};

/// What the file of hints is called in a data directory.
pub const HINTS_FILE: &str = "hints.log";

/// When so much waits to be written, in bytes, the next put syncs it first.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A file of at most this many bytes is not written anew while something in it is live.
const COMPACT_ABOVE_BYTES: u64 = 16 * 1024 * 1024;

/// A file of at most this many bytes is not written anew when nothing in it is live.
const EMPTY_ABOVE_BYTES: u64 = 64 * 1024;

/// By how many bytes a file grows before it is tried again to write it anew.
const RETRY_GROWTH_BYTES: u64 = 16 * 1024 * 1024;

/// The log of hints. It belongs to one thread.
///
/// A failed sync, and a failed write that could not be cut off again, are final: everything but reading is
/// refused from then on. After any error the log holds what it held after the last sync that went well.
pub struct HintLog {
    file: Arc<dyn AppendFile>,
    index: BTreeMap<Bytes, Entry>,
    /// The size of the records of `index`.
    live_bytes: u64,
    /// How long the file is, all of it durable.
    written: u64,
    /// Whether the file says so at its end.
    ends_marked: bool,
    /// What goes with each mark: who writes the file. Empty for nobody.
    note: Bytes,
    /// Records that wait for the next sync.
    waiting: Vec<u8>,
    /// What the index had before each of them, in their order.
    undo: Vec<(Bytes, Option<Entry>)>,
    /// Places of damage that nobody has taken note of.
    damaged: u64,
    /// Below this size it is not tried to write the file anew, because that has failed.
    retry_above_bytes: u64,
    /// Why nothing is written any more.
    stopped: Option<String>,
}

impl fmt::Debug for HintLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HintLog")
            .field("path", &self.file.path())
            .field("len", &self.len())
            .field("file_bytes", &self.file_bytes())
            .finish_non_exhaustive()
    }
}

impl HintLog {
    /// Gives a key this document, in place of the one it has. Durable after the next [`sync`](Self::sync).
    /// The key is kept in memory, with all that it is a slice of.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] beyond [`HINT_KEY_BYTES_MAX`] and [`HINT_BYTES_MAX`]; once much waits, those
    /// of [`sync`](Self::sync). Nothing was put then.
    pub fn put(&mut self, key: Bytes, document: &[u8]) -> Result<(), StoreError> {
        for (bytes, bytes_max) in [
            (key.len(), HINT_KEY_BYTES_MAX),
            (document.len(), HINT_BYTES_MAX),
        ] {
            if bytes > bytes_max {
                return Err(StoreError::TooLarge { bytes, bytes_max });
            }
        }
        self.record(Kind::Put, key, document)
    }

    /// Takes a key's document away; whether there was one. Durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// Once much waits, those of [`sync`](Self::sync). Nothing was removed then.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        self.check_running()?;
        let Some((key, _)) = self.index.get_key_value(key) else {
            return Ok(false);
        };
        let key = key.clone();
        self.record(Kind::Remove, key, &[])?;
        Ok(true)
    }

    fn record(&mut self, kind: Kind, key: Bytes, document: &[u8]) -> Result<(), StoreError> {
        self.check_running()?;
        if self.waiting.len() >= WAITING_BYTES_MAX {
            self.sync()?;
        }
        let offset = self.written + self.waiting.len() as u64;
        put_record(
            &mut self.waiting,
            kind,
            offset,
            self.written,
            &key,
            document,
        );
        let entry = (kind == Kind::Put).then(|| Entry::new(offset, document.len(), false));
        let previous = self.set(key.clone(), entry);
        self.undo.push((key, previous));
        Ok(())
    }

    /// Changes the index, and returns what was there.
    fn set(&mut self, key: Bytes, entry: Option<Entry>) -> Option<Entry> {
        let key_bytes = key.len();
        let previous = match entry {
            Some(entry) => self.index.insert(key, entry),
            None => self.index.remove(&key),
        };
        let added = entry.map_or(0, |entry| entry.record_bytes(key_bytes));
        let removed = previous.map_or(0, |entry| entry.record_bytes(key_bytes));
        self.live_bytes = self.live_bytes + added - removed;
        previous
    }

    /// The document of a key.
    ///
    /// # Errors
    /// [`StoreError::CorruptHint`] when it is damaged; otherwise what the disk says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some((key, &entry)) = self.index.get_key_value(key) else {
            return Ok(None);
        };
        let length = entry.record_bytes(key.len());
        let bytes = match entry.offset.checked_sub(self.written) {
            Some(at) => {
                let (at, end) = (at as usize, at as usize + length as usize);
                Bytes::copy_from_slice(self.waiting.get(at..end).unwrap_or_default())
            }
            None => self.file.read(entry.offset, length as usize)?,
        };
        self.document(key, entry, &bytes).map(Some)
    }

    /// Verifies what was read.
    fn document(&self, key: &Bytes, entry: Entry, bytes: &Bytes) -> Result<Bytes, StoreError> {
        let damage = match record::decode(bytes, entry.offset) {
            Ok(record) if record.kind == Kind::Put && record.key == *key => {
                return Ok(record.document);
            }
            Ok(record) if record.kind == Kind::Lost => Damage::MissingChunk,
            Ok(_) => Damage::Misplaced,
            Err(damage) => damage,
        };
        Err(StoreError::CorruptHint {
            path: self.file.path(),
            offset: entry.offset,
            key: key.clone(),
            damage,
        })
    }

    /// Whether a key has a document, be it damaged.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.index.contains_key(key)
    }

    /// The keys in their order, and how many bytes their documents have; 0 for one that is lost.
    pub fn entries(&self) -> impl Iterator<Item = (&Bytes, usize)> {
        let entries = self.index.iter();
        entries.map(|(key, entry)| (key, entry.document_bytes as usize))
    }

    /// Hands on every key with its document, in the order of the file and not of the keys: reads the file
    /// once, in large pieces. A damaged document is handed on as [`StoreError::CorruptHint`].
    ///
    /// # Errors
    /// What the disk says, and what `each` returns.
    pub fn for_each(
        &self,
        mut each: impl FnMut(&Bytes, Result<Bytes, StoreError>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut window = Window::new(&*self.file, self.written);
        for (key, entry) in self.in_file_order() {
            let document = match entry.offset < self.written {
                true => {
                    let bytes = window.read(entry.offset, entry.record_bytes(key.len()))?;
                    self.document(key, entry, &bytes)
                }
                // It waits, and its key has it.
                false => self.get(key).map(Option::unwrap_or_default),
            };
            each(key, document)?;
        }
        Ok(())
    }

    fn in_file_order(&self) -> Vec<(&Bytes, Entry)> {
        let entries = self.index.iter().map(|(key, &entry)| (key, entry));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.offset);
        entries
    }

    /// How many keys have a document.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The size of what is live, in bytes: of keys, documents and what a record has beside them.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// How much of that a document takes.
    pub fn record_bytes(key_bytes: usize, document_bytes: usize) -> u64 {
        record_bytes(key_bytes, document_bytes)
    }

    /// How much of that a key takes now.
    pub fn bytes_of(&self, key: &[u8]) -> u64 {
        let entry = self.index.get(key);
        entry.map_or(0, |entry| entry.record_bytes(key.len()))
    }

    /// The size of the file once all that waits is written, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Whether something waits for [`sync`](Self::sync).
    pub fn needs_sync(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Says in the file that it is durable as it is, if it does not say so at its end already: damage to what
    /// was synced last is told from a torn end by that. Call it when there is nothing else to do; while
    /// something waits it does nothing.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn mark_durable(&mut self) -> Result<(), StoreError> {
        let is_empty = self.written <= FILE_HEADER_BYTES as u64 && self.note.is_empty();
        if self.ends_marked || !self.waiting.is_empty() || is_empty {
            return Ok(());
        }
        let end = self.written;
        put_record(&mut self.waiting, Kind::Mark, end, end, &[], &self.note);
        self.sync()?;
        self.ends_marked = true;
        Ok(())
    }

    /// What the last [`note_run`](Self::note_run) said, be it of an earlier process; `None` where nobody said
    /// anything, or it is damaged.
    pub fn run_note(&self) -> Option<&Bytes> {
        (!self.note.is_empty()).then_some(&self.note)
    }

    /// Notes in the file who writes it from now on. Durable when it returns. Earlier versions read over it.
    ///
    /// # Errors
    /// As [`sync`](Self::sync). Where there was no room [`mark_durable`](Self::mark_durable) tries it again.
    pub fn note_run(&mut self, note: &[u8]) -> Result<(), StoreError> {
        self.note = Bytes::copy_from_slice(note);
        self.ends_marked = false;
        self.sync()?;
        let end = self.written;
        put_record(&mut self.waiting, Kind::Mark, end, end, &[], note);
        self.sync()?;
        self.ends_marked = true;
        Ok(())
    }

    /// Makes all puts and removals durable, with one write and one sync; then writes the file anew if that
    /// is worth it, which takes as long as copying what is live.
    ///
    /// # Errors
    /// When one [`passes`](StoreError::passes), or the write failed otherwise, everything since
    /// the last sync is undone, in the file and in memory, and the log can be used as before. After
    /// [`StoreError::SyncFailed`] it is undone in memory, may be in the file, and the log takes no more.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.check_running()?;
        if !self.waiting.is_empty() {
            if let Err(error) = self.write_out() {
                self.roll_back();
                return Err(error);
            }
            self.written += self.waiting.len() as u64;
            self.ends_marked = false;
            self.undo.clear();
            self.waiting.clear();
            if self.waiting.capacity() > 2 * WAITING_BYTES_MAX {
                // One very large document must not keep its room for ever.
                self.waiting = Vec::new();
            }
        }
        self.compact_if_worthwhile()
    }

    fn write_out(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.file.append(&self.waiting) {
            // What was written of it must go, or later records would not lie where they say.
            if let Err(also) = self.file.truncate(self.written) {
                self.stop(&also);
                return Err(also);
            }
            return Err(error);
        }
        let synced = self.file.sync();
        if let Err(error) = &synced {
            self.stop(error);
        }
        synced
    }

    /// Forgets what waits.
    fn roll_back(&mut self) {
        for (key, previous) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.set(key, previous);
        }
        self.waiting = Vec::new();
    }

    fn stop(&mut self, error: &StoreError) {
        self.stopped = Some(error.to_string());
    }

    fn check_running(&self) -> Result<(), StoreError> {
        match &self.stopped {
            Some(reason) => Err(StoreError::Stopped {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    fn compact_if_worthwhile(&mut self) -> Result<(), StoreError> {
        let worthwhile = match self.index.is_empty() {
            true => self.written > EMPTY_ABOVE_BYTES,
            false => self.written > COMPACT_ABOVE_BYTES && self.live_bytes < self.written / 2,
        };
        if !worthwhile || self.written < self.retry_above_bytes {
            return Ok(());
        }
        match self.compact() {
            // Nothing rests on it, and all is there as it was.
            Err(error) if self.stopped.is_none() => {
                tracing::warn!(%error, "cannot write the hints anew: put off");
                self.retry_above_bytes = self.written + RETRY_GROWTH_BYTES;
                Ok(())
            }
            result => result,
        }
    }

    /// Writes the file anew. Nothing may wait.
    fn compact(&mut self) -> Result<(), StoreError> {
        let entries = self.in_file_order();
        let mut compaction =
            Compaction::new(&*self.file, self.written, entries, self.damaged, &self.note);
        let result = self.file.replace(&mut || compaction.next());
        if let Err(error) = result {
            if !error.passes() && !matches!(error, StoreError::Io { .. }) {
                self.stop(&error);
            }
            return Err(error);
        }
        let compacted = compaction.finish();
        // The same order again: nothing has changed since.
        let mut entries: Vec<_> = self.index.iter_mut().collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.offset);
        let mut live_bytes = 0;
        for ((key, entry), moved) in entries.into_iter().zip(compacted.moved) {
            *entry = moved;
            live_bytes += moved.record_bytes(key.len());
        }
        self.live_bytes = live_bytes;
        self.written = compacted.bytes;
        self.ends_marked = true;
        self.retry_above_bytes = 0;
        Ok(())
    }

    /// Reports the damage that was found at opening no more. Durable when it returns. Call it when what
    /// follows from the damage is durable.
    ///
    /// # Errors
    /// As [`sync`](Self::sync), which it does first, and what the disk says: it is then reported again.
    pub fn forget_damage(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let damaged = std::mem::take(&mut self.damaged);
        if damaged == 0 {
            return Ok(());
        }
        self.compact().inspect_err(|_| self.damaged = damaged)
    }
}
