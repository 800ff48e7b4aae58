//! Putting records into their blocks.

use sled::IVec;

use super::arrangements::Arrangement;
use super::block::{BlockKey, Raw, Records, chunked_body, spilled};
use super::content::Content;
use super::scratch::{BLOCK_BYTES_AIM, BLOCK_BYTES_MAX, Scratch};
use crate::format::{
    self, ChunkedValue, INLINE_BYTES_MAX, Record, encode_chunked, encode_inline, put_record_key,
    record_key,
};
use crate::table::Entry;

/// What the block of a large value has of it.
type Body = Option<[u8; 16]>;

impl Content {
    /// Writes entries of the table, in ring order.
    pub(super) fn write(&self, entries: &[Entry], scratch: &mut Scratch) -> sled::Result<()> {
        let bodies = entries.iter().map(|entry| self.put_large(entry));
        let bodies = bodies.collect::<sled::Result<Vec<Body>>>()?;
        let news = entries.iter().zip(&bodies).map(|(entry, body)| {
            let (position, key) = entry.place();
            match body {
                Some(body) => Raw::chunked(position, key, body),
                None => Raw::inline(position, key, entry.pair.versions()),
            }
        });
        let news: Vec<Raw<'_>> = news.collect();
        let mut rest = &news[..];
        while let Some(first) = rest.first() {
            let segment = first.position.segment();
            let Arrangement::Blocks(depth) = self.arrangements.of(segment) else {
                self.cut_records(segment, scratch)?;
                continue;
            };
            let key = BlockKey::of(first.position, depth);
            let within = rest.iter().take_while(|it| key.contains(it.position));
            let (here, ahead) = rest.split_at(within.count());
            // If it was cut deeper instead, they go into other blocks.
            if self.write_block(key, here, ahead, scratch)? {
                rest = ahead;
            }
        }
        if self.damages.any() {
            for entry in entries {
                let record_key = record_key(entry.position, entry.pair.key());
                self.damages.mended(&record_key);
            }
        }
        Ok(())
    }

    /// Cuts a large value into chunks.
    pub(super) fn put_large(&self, entry: &Entry) -> sled::Result<Body> {
        let versions = entry.pair.versions();
        if versions.len() <= INLINE_BYTES_MAX {
            return Ok(None);
        }
        Ok(Some(chunked_body(&ChunkedValue {
            set: self.chunks.put(versions)?,
            // The store refuses values of 4 GiB.
            length: versions.len() as u32,
            checksum: crc32fast::hash(versions),
        })))
    }

    /// Writes what is new into one block; what lies ahead is to come. False when its segment was cut deeper instead.
    fn write_block(
        &self,
        key: BlockKey,
        news: &[Raw<'_>],
        ahead: &[Raw<'_>],
        scratch: &mut Scratch,
    ) -> sled::Result<bool> {
        let loaded = self.load(key)?;
        let (block, loss) = (loaded.block(), loaded.loss());
        if block.is_spilled() {
            for raw in news {
                match raw.is_removal() {
                    true => self.remove_spilled(raw, scratch)?,
                    false => self.write_record(raw, scratch)?,
                }
            }
            if loaded.is_forgiven {
                self.put_block(key, &spilled(key, None))?;
            }
        } else {
            merge(block.records(), news, scratch);
            let bytes = scratch.builder.bytes();
            let before = loaded.stored.as_ref().map_or(0, |stored| stored.len());
            let growth = bytes.saturating_sub(before);
            if bytes > BLOCK_BYTES_AIM {
                let expected = growth_of_segment(growth, news, ahead);
                let (segment, depth) = (key.segment, key.depth);
                if !self.slacks.bears(segment, depth, expected)
                    && self.cut_deeper(segment, depth, expected, scratch)?
                {
                    return Ok(false);
                }
            }
            if bytes > BLOCK_BYTES_MAX {
                self.spill(key, loss, scratch)?;
            } else if !scratch.builder.is_empty() || loss.is_some() {
                let Scratch { builder, block, .. } = &mut *scratch;
                builder.finish(key, loss, block);
                self.put_block(key, block)?;
            } else if loaded.stored.is_some() || loaded.is_forgiven {
                self.remove_block(key.to_bytes().as_slice().into())?;
            }
            self.slacks.note_growth(key.segment, growth as u64);
            for &set in &scratch.retired {
                self.chunks.retire(set)?;
            }
        }
        if loaded.is_forgiven {
            self.damages.settle(key.arc());
        }
        Ok(true)
    }

    /// Writes a record as an item of its own.
    pub(super) fn write_record(&self, raw: &Raw<'_>, scratch: &mut Scratch) -> sled::Result<()> {
        let Scratch {
            record_key, record, ..
        } = scratch;
        put_record_key(raw.position, raw.key, record_key);
        match raw.check() {
            Ok(Record::Inline(versions)) => encode_inline(record_key, versions, record),
            Ok(Record::Chunked(value)) => encode_chunked(record_key, &value, record),
            Err(_) => {
                // As damaged as it was.
                encode_inline(record_key, &[], record);
                if let Some(last) = record.last_mut() {
                    *last ^= 1;
                }
            }
        }
        let previous = self.put_record(record_key, record)?;
        self.retire_chunks(record_key, previous)
    }

    /// Removes a record that is an item of its own.
    fn remove_spilled(&self, raw: &Raw<'_>, scratch: &mut Scratch) -> sled::Result<()> {
        let record_key = &mut scratch.record_key;
        put_record_key(raw.position, raw.key, record_key);
        let previous = self.remove_record(record_key.as_slice().into())?;
        self.retire_chunks(record_key, previous)
    }

    /// What an item was that is there no more names these no longer.
    fn retire_chunks(&self, record_key: &[u8], previous: Option<IVec>) -> sled::Result<()> {
        if let Some(previous) = previous
            && format::may_be_chunked(&previous)
            && let Ok(Record::Chunked(value)) = format::decode(record_key, &previous)
        {
            self.chunks.retire(value.set)?;
        }
        Ok(())
    }
}

/// Puts together what a block has and what is new, and notes which chunks are replaced.
fn merge(records: Records<'_>, news: &[Raw<'_>], scratch: &mut Scratch) {
    let Scratch {
        builder, retired, ..
    } = scratch;
    builder.clear();
    retired.clear();
    let mut records = records.peekable();
    for new in news {
        while let Some(before) = records.next_if(|it| it.place() < new.place()) {
            builder.push(&before);
        }
        if let Some(replaced) = records.next_if(|it| it.place() == new.place()) {
            retired.extend(replaced.chunk_set());
        }
        if !new.is_removal() {
            builder.push(new);
        }
    }
    for behind in records {
        builder.push(&behind);
    }
}

/// By how much a segment is to grow, in bytes, where a block of it grows by so much: what lies ahead is as new as what
/// is here.
fn growth_of_segment(growth: usize, here: &[Raw<'_>], ahead: &[Raw<'_>]) -> u64 {
    let segment = here.first().map(|it| it.position.segment());
    let ahead = ahead.iter();
    let ahead = ahead.take_while(|it| Some(it.position.segment()) == segment);
    let bytes_here: usize = here.iter().map(Raw::bytes).sum();
    let bytes_ahead: usize = ahead.map(Raw::bytes).sum();
    (growth + bytes_ahead * growth.min(bytes_here) / bytes_here.max(1)) as u64
}
