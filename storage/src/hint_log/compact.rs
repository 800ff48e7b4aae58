//! Writes a hint log anew: only what is live, in the order of the file, piece by piece.

use bytes::Bytes;

use super::entry::Entry;
use super::file::AppendFile;
use super::record::{self, FILE_HEADER_BYTES, FileHeader, Kind, put_record};
use super::scan::Window;
use crate::error::StoreError;

/// How much is handed on at a time, at least.
const PIECE_BYTES: usize = 1024 * 1024;

/// The pieces of the new file, and where everything lies in it.
pub(super) struct Compaction<'a> {
    window: Window<'a>,
    /// What is live, in the order of the old file.
    entries: Vec<(&'a Bytes, Entry)>,
    /// How many of them are in the new file.
    done: usize,
    /// Where they lie there.
    moved: Vec<Entry>,
    damaged: u64,
    /// Goes with the mark at its end.
    note: &'a [u8],
    /// How long the new file is until now.
    written: u64,
    is_complete: bool,
}

/// What came of it.
pub(super) struct Compacted {
    /// The new entries, in the order in which the old ones were given.
    pub(super) moved: Vec<Entry>,
    /// The size of the new file.
    pub(super) bytes: u64,
}

impl<'a> Compaction<'a> {
    /// `entries` must be in the order of their offsets. `damaged` goes into the header.
    pub(super) fn new(
        file: &'a dyn AppendFile,
        file_bytes: u64,
        entries: Vec<(&'a Bytes, Entry)>,
        damaged: u64,
        note: &'a [u8],
    ) -> Self {
        Self {
            window: Window::new(file, file_bytes),
            moved: Vec::with_capacity(entries.len()),
            entries,
            done: 0,
            damaged,
            note,
            written: 0,
            is_complete: false,
        }
    }

    /// The next piece of the new file.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.is_complete {
            return Ok(None);
        }
        let mut piece = Vec::new();
        if self.written == 0 {
            piece.extend_from_slice(&FileHeader::encode(self.damaged));
        }
        while piece.len() < PIECE_BYTES {
            let position = self.written + piece.len() as u64;
            let Some(&(key, entry)) = self.entries.get(self.done) else {
                // All before it is durable when the file has its name.
                if position > FILE_HEADER_BYTES as u64 || !self.note.is_empty() {
                    put_record(&mut piece, Kind::Mark, position, position, &[], self.note);
                }
                self.is_complete = true;
                break;
            };
            self.done += 1;
            let document = match entry.is_lost {
                true => None,
                false => {
                    let bytes = self
                        .window
                        .read(entry.offset, entry.record_bytes(key.len()))?;
                    record::decode(&bytes, entry.offset).ok()
                }
            };
            let entry = match document {
                Some(read) => {
                    put_record(&mut piece, Kind::Put, position, 0, key, &read.document);
                    Entry::new(position, read.document.len(), false)
                }
                // That it is lost must not be forgotten with its bytes.
                None => {
                    tracing::error!(offset = entry.offset, "a hint is damaged, and lost here");
                    put_record(&mut piece, Kind::Lost, position, 0, key, &[]);
                    Entry::new(position, 0, true)
                }
            };
            self.moved.push(entry);
        }
        self.written += piece.len() as u64;
        Ok(Some(Bytes::from(piece)))
    }

    /// Where everything lies, when all pieces were taken.
    pub(super) fn finish(self) -> Compacted {
        Compacted {
            moved: self.moved,
            bytes: self.written,
        }
    }
}
