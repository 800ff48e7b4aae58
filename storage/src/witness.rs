//! Notices when sled has forgotten something that it had called durable.
//!
//! sled takes any damage in the last part of its log for a torn tail: it cuts the log there and opens
//! as if nothing had been written behind it, so that keys would seem absent which are lost. Therefore
//! each sync has a number, kept twice: in sled itself, written last before the flush, and in a file
//! beside it, written after the flush. sled keeps a prefix of its log; so whenever it knows the number
//! in the file, it has everything of that sync and of those before.
//!
//! The file is not synced. After the death of the process it is exact; after a power cut it may be some
//! seconds old, and then it vouches for all that is older.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::StoreError;

/// The file beside sled's own: number (u64, big-endian), crc32 of these eight bytes (u32, big-endian).
const FILE: &str = "synced";
const FILE_BYTES: usize = 12;

/// The key of the number in its tree.
const NUMBER: &[u8] = b"sync";

/// The number of the last sync, kept in two places.
pub(crate) struct Witness {
    tree: sled::Tree,
    file: File,
    path: PathBuf,
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
    /// Compares what sled knows with what it once said.
    pub(crate) fn open(directory: &Path, tree: sled::Tree) -> Result<Self, WitnessError> {
        let path = directory.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)
            .map_err(StoreError::io("read", &path))?;
        let promised = match decode(&content) {
            Some(number) => number,
            None if content.is_empty() => 0,
            // Two damages at once are not what this guards against.
            None => {
                tracing::warn!(path = %path.display(), "damaged, cannot tell whether sled is complete");
                0
            }
        };
        let stored = tree.get(NUMBER)?;
        let known = stored
            .and_then(|bytes| bytes.first_chunk().copied())
            .map_or(0, u64::from_be_bytes);
        if known < promised {
            let reason = format!(
                "it has only the syncs up to number {known}, but number {promised} was done: damage \
                 has cut off what was written since"
            );
            let path = directory.to_owned();
            return Err(StoreError::CorruptStore { path, reason }.into());
        }
        Ok(Self {
            tree,
            file,
            path,
            number: AtomicU64::new(known),
        })
    }

    /// Numbers the sync that begins: the last write before the flush.
    pub(crate) fn before_flush(&self) -> sled::Result<()> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.tree.insert(NUMBER, &number.to_be_bytes())?;
        Ok(())
    }

    /// Takes note that the flush is done.
    pub(crate) fn after_flush(&self) -> Result<(), StoreError> {
        let content = encode(self.number.load(Ordering::Relaxed));
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&content))
            .map_err(StoreError::io("write", &self.path))
    }
}

fn encode(number: u64) -> [u8; FILE_BYTES] {
    let number = number.to_be_bytes();
    let mut content = [0; FILE_BYTES];
    content[..8].copy_from_slice(&number);
    content[8..].copy_from_slice(&crc32fast::hash(&number).to_be_bytes());
    content
}

fn decode(content: &[u8]) -> Option<u64> {
    let (number, checksum) = content.split_first_chunk::<8>()?;
    (checksum == crc32fast::hash(number).to_be_bytes()).then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written_or_not_at_all() {
        let good = encode(0x0102_0304_0506_0708);
        assert_eq!(decode(&good), Some(0x0102_0304_0506_0708));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
        assert_eq!(decode(&good[..11]), None);
        assert_eq!(decode(&[]), None);
    }
}
