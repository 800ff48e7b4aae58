//! Reads a hint log from end to end, also a damaged one.
//!
//! Where no whole record begins, the next one is searched for, byte by byte. What was skipped is *damage*
//! when a record behind it, or the header, says that the file was durable there; otherwise it is *torn*: a
//! power cut left it, and nobody was told that it is there.

use bytes::Bytes;

use super::file::AppendFile;
use super::record::{self, FILE_HEADER_BYTES, FileHeader, MAGIC, RECORD_HEADER_BYTES, Record};
use crate::error::StoreError;

/// How much is read at a time, at least.
const WINDOW_BYTES: usize = 1024 * 1024;

/// A part of the file in memory, which moves on.
pub(super) struct Window<'a> {
    file: &'a dyn AppendFile,
    /// Where the file ends.
    pub(super) end: u64,
    at: u64,
    content: Bytes,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn AppendFile, end: u64) -> Self {
        Self {
            file,
            end,
            at: 0,
            content: Bytes::new(),
        }
    }

    /// The bytes at this place; fewer where the file ends before.
    pub(super) fn read(&mut self, at: u64, length: u64) -> Result<Bytes, StoreError> {
        let length = length.min(self.end.saturating_sub(at));
        let is_in = at >= self.at && at + length <= self.at + self.content.len() as u64;
        if !is_in {
            let wanted = length.max(WINDOW_BYTES as u64).min(self.end - at);
            self.content = self.file.read(at, to_usize(wanted))?;
            self.at = at;
        }
        let from = to_usize(at - self.at).min(self.content.len());
        let to = from
            .saturating_add(to_usize(length))
            .min(self.content.len());
        Ok(self.content.slice(from..to))
    }

    /// The record at this place, if a whole one begins there.
    fn record(&mut self, at: u64) -> Result<Option<(Record, u64)>, StoreError> {
        let header = self.read(at, RECORD_HEADER_BYTES as u64)?;
        let Some(header) = record::RecordHeader::decode(&header, at) else {
            return Ok(None);
        };
        let length = header.record_bytes();
        if length > self.end - at {
            return Ok(None);
        }
        let bytes = self.read(at, length)?;
        let decoded = record::decode(&bytes, at).ok();
        Ok(decoded.map(|record| (record, at + length)))
    }

    /// The next place from `at` on at which a record may begin; the end of the file if there is none.
    fn next_magic(&mut self, mut at: u64) -> Result<u64, StoreError> {
        while at + RECORD_HEADER_BYTES as u64 <= self.end {
            let content = self.read_some(at)?;
            if let Some(found) = find(&content, &MAGIC) {
                return Ok(at + found as u64);
            }
            if content.len() < MAGIC.len() {
                break;
            }
            // A magic may lie across the border.
            at += (content.len() - MAGIC.len() + 1) as u64;
        }
        Ok(self.end)
    }

    /// What the window has from this place on, or the next one: each byte is read once, however often
    /// something looks like the beginning of a record.
    fn read_some(&mut self, at: u64) -> Result<Bytes, StoreError> {
        let window_end = self.at + self.content.len() as u64;
        let least = MAGIC.len() as u64;
        let length = match at >= self.at && at + least <= window_end {
            true => window_end - at,
            false => WINDOW_BYTES as u64,
        };
        self.read(at, length)
    }
}

fn find(content: &[u8], magic: &[u8; 4]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = content[from..].iter().position(|byte| *byte == magic[0]) {
        if content[from + at..].starts_with(magic) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Bytes of the file that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) at: u64,
    pub(super) end: u64,
}

/// What a file holds beside its records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// How many whole records there are.
    pub(super) records: u64,
    /// Where the last whole record ends. What is behind it is torn.
    pub(super) end: u64,
    /// Gaps in what was durable.
    pub(super) damaged: Vec<Gap>,
    /// Gaps in what was not known to be durable, with whole records behind them.
    pub(super) torn: Vec<Gap>,
    /// How many damaged places there were when the file was written anew, as far as its header tells.
    pub(super) damaged_before: u64,
}

/// Hands on every whole record, with its place and its size.
pub(super) fn scan(
    file: &dyn AppendFile,
    each: &mut dyn FnMut(u64, u64, Record),
) -> Result<Scanned, StoreError> {
    let mut window = Window::new(file, file.len()?);
    let mut found = Scanned::default();
    let mut gaps = Vec::new();
    let mut at = FILE_HEADER_BYTES as u64;
    match FileHeader::decode(&window.read(0, at)?) {
        FileHeader::Known { damaged } => found.damaged_before = damaged,
        FileHeader::OtherFormat(format) => {
            return Err(StoreError::Unsupported {
                path: file.path(),
                reason: format!(
                    "its hints have format {format}, this version reads format {}",
                    record::FORMAT
                ),
            });
        }
        // A file gets its name with its header, so this was durable.
        FileHeader::Damaged => {
            at = at.min(window.end);
            found.damaged.push(Gap { at: 0, end: at });
        }
    }
    let mut durable = 0;
    found.end = at;
    while at < window.end {
        if let Some((record, end)) = window.record(at)? {
            if at > found.end {
                let gap = Gap {
                    at: found.end,
                    end: at,
                };
                gaps.push(gap);
            }
            durable = durable.max(record.durable);
            found.records += 1;
            found.end = end;
            each(at, end - at, record);
            at = end;
        } else {
            at = window.next_magic(at + 1)?;
        }
    }
    for gap in gaps {
        match gap.at < durable {
            true => found.damaged.push(gap),
            false => found.torn.push(gap),
        }
    }
    Ok(found)
}
