//! Putting records into their blocks.

use std::iter::Peekable;

use sled::IVec;

use super::arrangements::Arrangement;
use super::block::{BlockKey, Builder, Raw, Records, chunked_body, spilled};
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
        let mut at = 0;
        while let Some(first) = entries.get(at) {
            let segment = first.position.segment();
            let Arrangement::Blocks(depth) = self.arrangements.of(segment) else {
                self.cut_records(segment, scratch)?;
                continue;
            };
            let key = BlockKey::of(first.position, depth);
            let within = entries[at..].iter();
            let end = at + within.take_while(|it| key.contains(it.position)).count();
            let news = News {
                entries: &entries[at..end],
                bodies: &bodies[at..end],
            };
            let ahead = News {
                entries: &entries[end..],
                bodies: &bodies[end..],
            };
            let ahead = ahead.raws();
            let ahead = ahead.take_while(|it| it.position.segment() == segment);
            let bytes_ahead = ahead.map(|it| it.bytes()).sum();
            // If it was cut deeper instead, they go into other blocks.
            if self.write_block(key, &news, bytes_ahead, scratch)? {
                at = end;
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

    /// Writes what is new into one block; so many bytes of the same segment are to come. False when it was cut deeper
    /// instead.
    fn write_block(
        &self,
        key: BlockKey,
        news: &News<'_>,
        bytes_ahead: usize,
        scratch: &mut Scratch,
    ) -> sled::Result<bool> {
        let loaded = self.load(key)?;
        let loss = loaded.loss();
        if loaded.block().is_spilled() {
            for raw in news.raws() {
                match raw.is_removal() {
                    true => self.remove_spilled(&raw, scratch)?,
                    false => self.write_record(&raw, scratch)?,
                }
            }
            if loaded.is_forgiven {
                self.put_block(key, &spilled(key, None))?;
            }
        } else {
            scratch.builder.clear();
            scratch.retired.clear();
            let records = loaded.block().records().peekable();
            merge(records, news, &mut scratch.builder, &mut scratch.retired);
            let bytes = scratch.builder.bytes();
            let before = loaded.stored.as_ref().map_or(0, |stored| stored.len());
            let growth = bytes.saturating_sub(before);
            if bytes > BLOCK_BYTES_AIM {
                // What is to come is as new as what is here.
                let new_bytes: usize = news.raws().map(|it| it.bytes()).sum();
                let expected = growth + bytes_ahead * growth.min(new_bytes) / new_bytes.max(1);
                let expected = expected as u64;
                let (segment, depth) = (key.segment, key.depth);
                if !self.slacks.bears(segment, depth, expected)
                    && self.cut_deeper(segment, depth, expected, scratch)?
                {
                    return Ok(false);
                }
                // It was used to look.
                scratch.builder.clear();
                scratch.retired.clear();
                let records = loaded.block().records().peekable();
                merge(records, news, &mut scratch.builder, &mut scratch.retired);
            }
            if bytes > BLOCK_BYTES_MAX {
                self.spill(key, loss, scratch)?;
            } else {
                let Scratch { builder, block, .. } = &mut *scratch;
                if !builder.is_empty() || loss.is_some() {
                    builder.finish(key, loss, block);
                    self.put_block(key, block)?;
                } else if loaded.stored.is_some() || loaded.is_forgiven {
                    self.remove_block(key.to_bytes().as_slice().into())?;
                }
            }
            self.slacks.note_growth(key.segment, growth as u64);
            for &set in &scratch.retired {
                self.chunks.retire(set)?;
            }
        }
        if loaded.is_forgiven {
            self.damages.settle(key.segment, key.start(), key.end());
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

/// What is new of one block, in ring order.
struct News<'a> {
    entries: &'a [Entry],
    bodies: &'a [Body],
}

impl News<'_> {
    fn raws(&self) -> impl Iterator<Item = Raw<'_>> {
        self.entries.iter().zip(self.bodies).map(|(entry, body)| {
            let (position, key) = entry.place();
            match body {
                Some(body) => Raw::chunked(position, key, body),
                None => Raw::inline(position, key, entry.pair.versions()),
            }
        })
    }
}

/// Puts together what a block has and what is new, and notes which chunks are replaced.
fn merge(
    mut records: Peekable<Records<'_>>,
    news: &News<'_>,
    builder: &mut Builder,
    retired: &mut Vec<u64>,
) {
    for new in news.raws() {
        while let Some(before) = records.next_if(|it| it.place() < new.place()) {
            builder.push(&before);
        }
        if let Some(replaced) = records.next_if(|it| it.place() == new.place()) {
            retired.extend(replaced.chunk_set());
        }
        if !new.is_removal() {
            builder.push(&new);
        }
    }
    for behind in records {
        builder.push(&behind);
    }
}
