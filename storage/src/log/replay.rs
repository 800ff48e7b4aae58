//! Reads the log again when a store is opened.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use bytes::Bytes;

use super::mark::{Mark, Place};
use super::record::{self, Change, FILE_HEADER_BYTES, FileHeader};
use super::{FIRST_FILE, list, path_of, remove_below};
use crate::error::{Damage, StoreError};
use crate::log_place::LogPlace;

/// What was found, and where the log goes on.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The first file that is still needed.
    pub(super) first_id: u64,
    /// The number of the next file.
    pub(super) next_id: u64,
    /// Where the last file that is there ends; 0 for none.
    pub(super) last_end: u64,
    /// Where the log ends, a file without records included; a start may begin another one.
    pub(crate) found_end: LogPlace,
    /// The size of the files that are there.
    pub(crate) bytes: u64,
    /// How many changes were handed on.
    pub(crate) changes: u64,
    /// How many bytes of a torn tail were cut off.
    pub(crate) torn_bytes: u64,
    pub(super) mark: Mark,
}

/// Hands on every change since the last checkpoint, in order, and makes durable what it read: nothing
/// may be answered from what a power cut can still take away.
///
/// `checkpoint` is the first file that the last checkpoint did not cover, if there was one. Files before
/// it are removed.
pub(crate) fn replay(
    directory: &Path,
    checkpoint: Option<u64>,
    mut apply: impl FnMut(Change<'_>),
) -> Result<Replayed, StoreError> {
    let first_id = checkpoint.unwrap_or(FIRST_FILE);
    remove_below(directory, first_id, || {})?;
    let (mark, marked) = Mark::open(directory)?;
    let mut ids = list(directory)?;
    check_complete(directory, &ids, first_id, checkpoint.is_some(), marked)?;
    let mut found = Replayed {
        first_id,
        next_id: first_id,
        last_end: 0,
        found_end: LogPlace::default(),
        bytes: 0,
        changes: 0,
        torn_bytes: 0,
        mark,
    };
    let mut unused = None;
    if let Some(&last) = ids.last()
        && is_unused(directory, last, marked)?
    {
        unused = Some(LogPlace {
            file: last,
            position: FILE_HEADER_BYTES as u64,
        });
        // It is replaced by one that says the same, so that starts without writes make no files.
        found.next_id = last;
        ids.pop();
    }
    for (index, &id) in ids.iter().enumerate() {
        let complete = match ids.get(index + 1) {
            Some(&next) => Some(read_header(directory, next)?.previous_end),
            None => None,
        };
        let known = match complete {
            Some(end) => end,
            None if marked.id == id => marked.position,
            None => 0,
        };
        let reading = Reading {
            directory,
            id,
            content: read_file(directory, id)?,
            known,
            is_complete: complete.is_some(),
        };
        let end = reading.run(&ids[index + 1..], &mut found, &mut apply)?;
        found.bytes += end;
        found.last_end = end;
        found.found_end = LogPlace {
            file: id,
            position: end,
        };
        found.next_id = id + 1;
    }
    found.found_end = unused.unwrap_or(found.found_end);
    Ok(found)
}

/// One file that is read.
struct Reading<'a> {
    directory: &'a Path,
    id: u64,
    content: Bytes,
    /// How far the file is known to have been durable.
    known: u64,
    /// Whether it was durable to its end, which is then `known`.
    is_complete: bool,
}

impl Reading<'_> {
    /// Hands the file's changes on, cuts a torn tail off, and syncs. Returns where the file ends.
    fn run(
        mut self,
        later: &[u64],
        found: &mut Replayed,
        apply: &mut impl FnMut(Change<'_>),
    ) -> Result<u64, StoreError> {
        let is_ours = |header: FileHeader| match header.id == self.id {
            true => Ok(()),
            false => Err(Damage::Misplaced),
        };
        FileHeader::decode(&self.content)
            .and_then(is_ours)
            .map_err(|damage| self.corrupt(0, damage, later, found.changes))?;
        let mut at = FILE_HEADER_BYTES;
        let mut torn = None;
        while at < self.content.len() {
            match record::decode(&self.content, at, self.id) {
                Ok(record) => {
                    let changes = record::each_change(&record.changes, &mut *apply);
                    found.changes += changes.map_err(|error| {
                        self.corrupt(at, Damage::from(error), later, found.changes)
                    })?;
                    self.known = self.known.max(record.durable);
                    at = record.end;
                }
                Err(damage) => {
                    torn = Some(damage);
                    break;
                }
            }
        }
        let end = at as u64;
        let vouched = self.known.max(self.vouched_behind(at));
        let too_long = self.is_complete && self.content.len() as u64 > self.known;
        if vouched > end || too_long {
            let damage = torn.unwrap_or(Damage::Length {
                stated: vouched,
                found: self.content.len() as u64,
            });
            return Err(self.corrupt(at, damage, later, found.changes));
        }
        self.make_durable(end, found)?;
        Ok(end)
    }

    /// How far whole records behind this place say that the file was durable.
    fn vouched_behind(&self, at: usize) -> u64 {
        let mut vouched = 0;
        self.each_record_behind(at, |record| vouched = vouched.max(record.durable));
        vouched
    }

    /// Looks for whole records behind damage, wherever they begin.
    fn each_record_behind(&self, at: usize, mut f: impl FnMut(&record::Record)) {
        let mut at = at + 1;
        while at < self.content.len() {
            if record::may_begin(&self.content, at, self.id)
                && let Ok(record) = record::decode(&self.content, at, self.id)
            {
                at = record.end;
                f(&record);
            } else {
                at += 1;
            }
        }
    }

    fn make_durable(&self, end: u64, found: &mut Replayed) -> Result<(), StoreError> {
        let path = path_of(self.directory, self.id);
        let torn = self.content.len() as u64 - end;
        if torn > 0 {
            tracing::warn!(
                path = %path.display(), offset = end, bytes = torn,
                "the end of the log was torn, as a crash leaves it: cut off; nothing of it was acknowledged"
            );
            found.torn_bytes += torn;
        }
        let file = OpenOptions::new().write(true).open(&path);
        file.and_then(|file| {
            if torn > 0 {
                file.set_len(end)?;
            }
            file.sync_all()
        })
        .map_err(StoreError::io("sync", &path))
    }

    /// The error for damage to what was durable: says where, and how much can still be read around it.
    fn corrupt(&self, at: usize, damage: Damage, later: &[u64], before: u64) -> StoreError {
        let mut after = 0;
        let mut count = |record: &record::Record| {
            after += record::each_change(&record.changes, |_| ()).unwrap_or(0);
        };
        self.each_record_behind(at, &mut count);
        for &id in later {
            // A file that cannot be read has nothing that can be read.
            if let Ok(content) = read_file(self.directory, id) {
                let reading = Reading {
                    directory: self.directory,
                    id,
                    content,
                    known: 0,
                    is_complete: false,
                };
                reading.each_record_behind(FILE_HEADER_BYTES - 1, &mut count);
            }
        }
        StoreError::CorruptLog {
            path: path_of(self.directory, self.id),
            offset: at as u64,
            damage,
            readable_before: before,
            readable_after: after,
        }
    }
}

/// No file may be missing: neither in the middle nor at either end.
fn check_complete(
    directory: &Path,
    ids: &[u64],
    first_id: u64,
    had_checkpoint: bool,
    marked: Place,
) -> Result<(), StoreError> {
    let missing = |id| {
        Err(StoreError::CorruptLog {
            path: path_of(directory, id),
            offset: 0,
            damage: Damage::MissingFile,
            readable_before: 0,
            readable_after: 0,
        })
    };
    for (expected, &id) in (first_id..).zip(ids) {
        if id != expected {
            return missing(expected);
        }
    }
    let next_id = first_id + ids.len() as u64;
    // A generation begins with a file, before the checkpoint that makes that file the first one.
    if ids.is_empty() && had_checkpoint {
        return missing(first_id);
    }
    if marked.id >= next_id {
        return missing(next_id);
    }
    Ok(())
}

/// Whether nothing was ever written into a file, as far as can be known.
fn is_unused(directory: &Path, id: u64, marked: Place) -> Result<bool, StoreError> {
    if marked.id == id {
        return Ok(false);
    }
    let path = path_of(directory, id);
    let length = fs::metadata(&path)
        .map_err(StoreError::io("read", &path))?
        .len();
    Ok(length == FILE_HEADER_BYTES as u64 && read_header(directory, id).is_ok())
}

fn read_header(directory: &Path, id: u64) -> Result<FileHeader, StoreError> {
    use std::io::Read;
    let path = path_of(directory, id);
    let mut content = Vec::new();
    File::open(&path)
        .and_then(|file| {
            file.take(FILE_HEADER_BYTES as u64)
                .read_to_end(&mut content)
        })
        .map_err(StoreError::io("read", &path))?;
    FileHeader::decode(&content).map_err(|damage| StoreError::CorruptLog {
        path,
        offset: 0,
        damage,
        readable_before: 0,
        readable_after: 0,
    })
}

fn read_file(directory: &Path, id: u64) -> Result<Bytes, StoreError> {
    let path = path_of(directory, id);
    let content = fs::read(&path).map_err(StoreError::io("read", &path))?;
    Ok(Bytes::from(content))
}
