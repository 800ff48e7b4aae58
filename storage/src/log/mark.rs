//! How far the log was durable when it was last synced: a file of 20 bytes beside the log.
//!
//! A record vouches for those before it. This vouches for the last one, too, and so notices when the end
//! of a file, or the last file, has vanished. It is written after each sync and not synced itself: after
//! the death of the process it is exact; after a power cut it may be some seconds old, and then vouches
//! for all that is older.
//!
//! ```text
//! file (u64)  position (u64)  crc32 of these (u32)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use crate::disk::damaged_file;
use crate::error::StoreError;

const FILE: &str = "synced";
const SUM_AT: usize = 16;
const FILE_BYTES: usize = SUM_AT + 4;

/// A place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of a log file; 0 for none.
    pub(super) id: u64,
    /// A position in it.
    pub(super) position: u64,
}

/// The file that holds the place up to which the log is durable.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

impl Mark {
    /// Opens it, or creates it; the place is what an earlier process wrote there.
    pub(super) fn open(directory: &Path) -> Result<(Self, Place), StoreError> {
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
        let place = decode(&content).unwrap_or_else(|| {
            if !content.is_empty() {
                // Two damages at once are not what this guards against.
                tracing::warn!(path = %path.display(), "damaged, cannot tell whether the log is complete");
            }
            Place::default()
        });
        Ok((Self { file, path }, place))
    }

    /// Takes note that the log is durable up to here.
    pub(super) fn write(&self, place: Place) -> Result<(), StoreError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&encode(place)))
            .map_err(StoreError::io("write", &self.path))
    }
}

/// The file, if it is there and says nothing that can be believed.
pub(super) fn damaged(directory: &Path) -> Result<Option<PathBuf>, StoreError> {
    damaged_file(directory.join(FILE), |content| decode(content).is_some())
}

fn encode(place: Place) -> [u8; FILE_BYTES] {
    let mut content = [0; FILE_BYTES];
    let mut out = &mut content[..];
    out.put_u64(place.id);
    out.put_u64(place.position);
    let sum = crc32fast::hash(&content[..SUM_AT]);
    content[SUM_AT..].copy_from_slice(&sum.to_be_bytes());
    content
}

fn decode(content: &[u8]) -> Option<Place> {
    let (mut place, sum) = content.split_at_checked(SUM_AT)?;
    (sum == crc32fast::hash(place).to_be_bytes()).then(|| Place {
        id: place.get_u64(),
        position: place.get_u64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written_or_not_at_all() {
        let place = Place {
            id: 7,
            position: 0x0102_0304_0506,
        };
        let good = encode(place);
        assert_eq!(decode(&good), Some(place));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(decode(&good[..length]), None);
        }
    }
}
