//! Notices when sled has forgotten something that it had called durable.
//!
//! sled takes any damage in the last part of its log for a torn tail: it cuts the log there and opens
//! as if nothing had been written behind it, so that keys would seem absent which are lost. Therefore
//! each checkpoint has a number, kept twice: in sled itself, written last before the flush, and in a file
//! beside it, written after the flush. sled keeps a prefix of its log; so whenever it knows the number
//! in the file, it has everything of that checkpoint and of those before. What the checkpoint stands for
//! is kept with the number, so that the one is there when the other is.
//!
//! The file is not synced. After the death of the process it is exact; after a power cut it may be some
//! seconds old, and then it vouches for all that is older.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut};

use crate::disk::damaged_file;
use crate::error::StoreError;
use crate::footprint::Sums;
use crate::rewritten::{Rewritten, is_believable};

/// The file beside sled's own, of one number.
pub(crate) const FILE: &str = "synced";

/// The key of the last checkpoint in its tree.
const LAST: &[u8] = b"last";

/// Number, checkpoint, crc32 of these (u32); big-endian.
const RECORD_BYTES: usize = 8 + 6 * 8 + 16 + 4;

/// What the tree stands for once a checkpoint is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The first log file that is not in the tree.
    pub(crate) log_first: u64,
    /// What the store held.
    pub(crate) sums: Sums,
    /// The first chunk set that was not in use yet.
    pub(crate) next_set: u64,
    /// The XOR of all segments' hashes.
    pub(crate) hash_root: u128,
}

/// The number of the last checkpoint, kept in two places.
pub(crate) struct Witness {
    tree: sled::Tree,
    file: Rewritten<1>,
    number: AtomicU64,
}

/// Why there is no witness.
pub(crate) enum WitnessError {
    /// sled could not be read.
    Sled(sled::Error),
    /// The file could not be read, or it knows more than sled does.
    Store(StoreError),
}

impl From<sled::Error> for WitnessError {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl From<StoreError> for WitnessError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Witness {
    /// Compares what sled knows with what it once said; gives the last checkpoint, if there was one.
    pub(crate) fn open(
        directory: &Path,
        tree: sled::Tree,
    ) -> Result<(Self, Option<Checkpoint>), WitnessError> {
        let (file, promised) = Rewritten::open(directory.join(FILE), "sled")?;
        let [promised] = promised.unwrap_or_default();
        let last = match tree.get(LAST)? {
            Some(stored) => {
                Some(
                    decode_record(&stored).ok_or_else(|| StoreError::CorruptStore {
                        path: directory.to_owned(),
                        reason: "what the last checkpoint wrote down is damaged".to_owned(),
                    })?,
                )
            }
            None => None,
        };
        let known = last.map_or(0, |(number, _)| number);
        if known < promised {
            let reason = format!(
                "it has only the checkpoints up to number {known}, but number {promised} was done: \
                 damage has cut off what was written since"
            );
            let path = directory.to_owned();
            return Err(StoreError::CorruptStore { path, reason }.into());
        }
        let witness = Self {
            tree,
            file,
            number: AtomicU64::new(known),
        };
        Ok((witness, last.map(|(_, checkpoint)| checkpoint)))
    }

    /// The number of the last checkpoint that was begun; after opening, of the last one that is durable.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Writes down the last checkpoint of another tree, whose copy this one is, apart from the numbers of its chunks.
    pub(crate) fn copy(&self, of: &Self, next_set: u64) -> sled::Result<Option<Checkpoint>> {
        let Some(last) = of.tree.get(LAST)? else {
            return Ok(None);
        };
        let Some((number, checkpoint)) = decode_record(&last) else {
            let reason = "what the last checkpoint wrote down is damaged";
            return Err(sled::Error::ReportableBug(reason.to_owned()));
        };
        let checkpoint = Checkpoint {
            next_set,
            ..checkpoint
        };
        let record = encode_record(number, &checkpoint);
        self.tree.insert(LAST, record.as_slice())?;
        self.number.store(number, Ordering::Relaxed);
        Ok(Some(checkpoint))
    }

    /// Numbers the checkpoint and writes it down: the last write before the flush.
    pub(crate) fn before_flush(&self, checkpoint: &Checkpoint) -> sled::Result<()> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.tree
            .insert(LAST, encode_record(number, checkpoint).as_slice())?;
        Ok(())
    }

    /// Takes note that the flush is done.
    pub(crate) fn after_flush(&self) -> Result<(), StoreError> {
        self.file.write([self.number()])
    }
}

fn encode_record(number: u64, checkpoint: &Checkpoint) -> Vec<u8> {
    let sums = &checkpoint.sums;
    let mut record = Vec::with_capacity(RECORD_BYTES);
    for field in [
        number,
        checkpoint.log_first,
        sums.keys,
        sums.versions,
        sums.conflict_keys,
        sums.live_bytes,
        checkpoint.next_set,
    ] {
        record.put_u64(field);
    }
    record.put_u128(checkpoint.hash_root);
    record.put_u32(crc32fast::hash(&record));
    record
}

fn decode_record(record: &[u8]) -> Option<(u64, Checkpoint)> {
    let record = record.first_chunk::<RECORD_BYTES>()?;
    let (mut fields, sum) = record.split_at(RECORD_BYTES - 4);
    if sum != crc32fast::hash(fields).to_be_bytes() {
        return None;
    }
    let number = fields.get_u64();
    let checkpoint = Checkpoint {
        log_first: fields.get_u64(),
        sums: Sums {
            keys: fields.get_u64(),
            versions: fields.get_u64(),
            conflict_keys: fields.get_u64(),
            live_bytes: fields.get_u64(),
        },
        next_set: fields.get_u64(),
        hash_root: fields.get_u128(),
    };
    Some((number, checkpoint))
}

/// Whether a checkpoint was ever done here, as far as the file says. Until then the tree holds nothing that was
/// promised.
pub(crate) fn was_complete(directory: &Path) -> Result<bool, StoreError> {
    let path = directory.join(FILE);
    match fs::read(&path) {
        Ok(content) => Ok(!content.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// The file, if it is there and says nothing that can be believed.
pub(crate) fn damaged(directory: &Path) -> Result<Option<PathBuf>, StoreError> {
    damaged_file(directory.join(FILE), is_believable::<1>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_or_not_at_all() {
        let checkpoint = Checkpoint {
            log_first: 2,
            sums: Sums {
                keys: 3,
                versions: 4,
                conflict_keys: 5,
                live_bytes: 6,
            },
            next_set: 7,
            hash_root: 8 << 100,
        };
        let good = encode_record(1, &checkpoint);
        assert_eq!(decode_record(&good), Some((1, checkpoint)));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_record(&bad), None, "bit {bit}");
        }
        assert_eq!(decode_record(&good[..good.len() - 1]), None);
    }
}
