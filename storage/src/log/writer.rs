//! Appends to the log.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use super::mark::{Mark, Place};
use super::path_of;
use super::record::{self, FILE_HEADER_BYTES, FileHeader};
use super::replay::Replayed;
use crate::directory::OpenDirectory;
use crate::error::StoreError;
use crate::items::Mutation;
use crate::log_place::LogPlace;
use crate::recount::Correction;

/// When a record has this many bytes it is written, without waiting for its sync.
const RECORD_BYTES: usize = 1024 * 1024;

/// When a file has this many bytes the next one begins. Bounds what replay holds in memory.
pub(crate) const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// So much of a file that is durable leaves the page cache at a time.
const FORGOTTEN_BYTES: u64 = 4 * 1024 * 1024;

/// What a log file is called until it has a header.
const NEW_FILE: &str = "new";

/// The end of the log, which grows.
#[derive(Debug)]
pub(crate) struct LogWriter {
    directory: PathBuf,
    mark: Mark,
    /// Shared with whoever syncs it while this goes on writing.
    file: Arc<File>,
    path: PathBuf,
    id: u64,
    /// How much of the file is written.
    written: u64,
    /// How much of it is durable.
    durable: u64,
    /// How much of it the page cache was asked to forget.
    forgotten: u64,
    /// The first file of this generation.
    first_id: u64,
    /// The bytes of this generation in files before this one.
    earlier_bytes: u64,
    /// The record that is being made; empty when there is none.
    record: BytesMut,
}

/// A sync that can go on while the log is written.
#[derive(Debug)]
pub(crate) struct PendingSync {
    file: Arc<File>,
    path: PathBuf,
    place: Place,
    /// What nobody reads but the next start.
    forgets: Option<Range<u64>>,
}

impl PendingSync {
    /// Waits for the disk.
    pub(crate) fn wait(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(StoreError::sync_failed(&self.path))?;
        if let Some(part) = &self.forgets {
            forget(&self.file, part);
        }
        Ok(())
    }
}

/// Has the page cache drop a part of a file that is durable: it is of more use to what is read, and what is written next
/// finds pages that the processor has in its caches. No more than advice.
#[cfg(target_os = "linux")]
fn forget(file: &File, part: &Range<u64>) {
    use rustix::fs::{Advice, fadvise};
    let length = NonZeroU64::new(part.end - part.start);
    // A file system that does not take advice keeps the pages.
    let _ = fadvise(file, part.start, length, Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &File, _: &Range<u64>) {
    // Systems differ in what they know of it.
}

impl LogWriter {
    /// Goes on behind what was replayed, in a new file of the same generation.
    pub(crate) fn open(directory: &Path, replayed: Replayed) -> Result<Self, StoreError> {
        let id = replayed.next_id;
        let (file, path) = create(directory, id, replayed.last_end)?;
        Ok(Self {
            directory: directory.to_owned(),
            mark: replayed.mark,
            file,
            path,
            id,
            written: FILE_HEADER_BYTES as u64,
            durable: FILE_HEADER_BYTES as u64,
            forgotten: 0,
            first_id: replayed.first_id,
            earlier_bytes: replayed.bytes,
            record: BytesMut::new(),
        })
    }

    /// Adds a change, which is written and durable after the next [`sync`](Self::sync). Gives the key and,
    /// behind it, the versions in one piece.
    pub(crate) fn append(&mut self, mutation: &Mutation) -> Result<&[u8], StoreError> {
        if self.record.len() >= RECORD_BYTES {
            self.write_out()?;
        }
        if self.record.is_empty() {
            record::begin(&mut self.record);
        }
        Ok(record::put_change(&mut self.record, mutation))
    }

    /// Adds a correction of what is kept about the store, durable as a change is.
    pub(crate) fn append_correction(&mut self, correction: &Correction) -> Result<(), StoreError> {
        if self.record.len() >= RECORD_BYTES {
            self.write_out()?;
        }
        if self.record.is_empty() {
            record::begin(&mut self.record);
        }
        record::put_correction(&mut self.record, correction);
        Ok(())
    }

    /// Writes what was appended: the death of the process can no longer lose it, a power cut can.
    pub(crate) fn write_out(&mut self) -> Result<(), StoreError> {
        if self.record.is_empty() {
            return Ok(());
        }
        record::finish(&mut self.record, self.id, self.written, self.durable);
        let mut file = &*self.file;
        if let Err(error) = file.write_all(&self.record) {
            self.take_back()?;
            return Err(StoreError::io("write", &self.path)(error));
        }
        self.written += self.record.len() as u64;
        self.record.clear();
        if self.record.capacity() > 2 * RECORD_BYTES {
            // One very large value must not keep its room for ever.
            self.record = BytesMut::new();
        }
        Ok(())
    }

    /// Cuts off what a write that failed has left behind. The record is kept, and written when there is
    /// room on the disk.
    fn take_back(&self) -> Result<(), StoreError> {
        let mut file = &*self.file;
        file.set_len(self.written)
            .and_then(|()| file.seek(SeekFrom::Start(self.written)))
            .map_err(StoreError::io("cut off", &self.path))?;
        Ok(())
    }

    /// Makes everything that was appended durable.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.write_out()?;
        if let Some(pending) = self.begin_sync() {
            pending.wait()?;
            self.end_sync(&pending)?;
        }
        Ok(())
    }

    /// What a sync of all that is written has to do; nothing when all of it is durable.
    pub(crate) fn begin_sync(&mut self) -> Option<PendingSync> {
        if self.durable == self.written {
            return None;
        }
        let part = self.forgotten..self.written;
        let is_much = part.end - part.start >= FORGOTTEN_BYTES;
        if is_much {
            self.forgotten = part.end;
        }
        Some(PendingSync {
            file: self.file.clone(),
            path: self.path.clone(),
            place: Place {
                id: self.id,
                position: self.written,
            },
            forgets: is_much.then_some(part),
        })
    }

    /// Takes note that a sync is done.
    pub(crate) fn end_sync(&mut self, pending: &PendingSync) -> Result<(), StoreError> {
        // A file is synced before the next one begins, so an earlier file is no news.
        if pending.place.id == self.id && pending.place.position > self.durable {
            self.durable = pending.place.position;
            match self.mark.write(pending.place) {
                // It then vouches for less. Some file systems need room even to overwrite.
                Err(error) if error.passes() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Begins the next file of the generation when this one is large enough.
    pub(crate) fn begin_file_if_large(&mut self) -> Result<(), StoreError> {
        if self.written >= FILE_BYTES {
            self.sync()?;
            self.begin_file()?;
        }
        Ok(())
    }

    /// Begins the next generation, in a file of its own, and returns the number of that file. Syncs what
    /// was appended until now.
    pub(crate) fn begin_generation(&mut self) -> Result<u64, StoreError> {
        self.sync()?;
        self.begin_file()?;
        self.first_id = self.id;
        self.earlier_bytes = 0;
        Ok(self.id)
    }

    fn begin_file(&mut self) -> Result<(), StoreError> {
        let id = self.id + 1;
        let (file, path) = create(&self.directory, id, self.written)?;
        self.earlier_bytes += self.written;
        self.file = file;
        self.path = path;
        self.id = id;
        self.written = FILE_HEADER_BYTES as u64;
        self.durable = self.written;
        self.forgotten = 0;
        Ok(())
    }

    /// How far it is durable.
    pub(crate) fn end(&self) -> LogPlace {
        LogPlace {
            file: self.id,
            position: self.durable,
        }
    }

    /// How many bytes the files of this generation have.
    pub(crate) fn generation_bytes(&self) -> u64 {
        self.earlier_bytes + self.written
    }

    /// How many files this generation has.
    pub(crate) fn generation_files(&self) -> u64 {
        self.id - self.first_id + 1
    }
}

/// A new file. It gets its name when its header is durable, and nothing in it is acknowledged before its
/// name is: a file with a log's name is never a half-made one.
fn create(
    directory: &Path,
    id: u64,
    previous_end: u64,
) -> Result<(Arc<File>, PathBuf), StoreError> {
    let path = path_of(directory, id);
    let beside = directory.join(NEW_FILE);
    let header = FileHeader { id, previous_end };
    // Opened first: once the file has its name nothing may be lacking any more.
    let entries = OpenDirectory::open(directory)?;
    let mut file = File::create(&beside).map_err(StoreError::io("create", &beside))?;
    file.write_all(&header.encode())
        .map_err(StoreError::io("write", &beside))?;
    file.sync_all().map_err(StoreError::sync_failed(&beside))?;
    fs::rename(&beside, &path).map_err(StoreError::io("create", &path))?;
    entries.sync()?;
    Ok((Arc::new(file), path))
}
