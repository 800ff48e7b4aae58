//! A file of a few numbers and their checksum that is rewritten in place and not synced: after the death of the
//! process it is exact, after a power cut it may be some seconds old.
//!
//! ```text
//! numbers (u64 each)  crc32 of these (u32)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::error::StoreError;

/// Such a file of `N` numbers.
#[derive(Debug)]
pub(crate) struct Rewritten<const N: usize> {
    file: File,
    path: PathBuf,
}

impl<const N: usize> Rewritten<N> {
    /// Opens it, or creates it. What an earlier process wrote there; `None` for nothing, or for nothing that can be
    /// believed: then it cannot tell whether `what` is complete, and the log says so.
    pub(crate) fn open(path: PathBuf, what: &str) -> Result<(Self, Option<[u64; N]>), StoreError> {
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
        let numbers = decode(&content);
        if numbers.is_none() && !content.is_empty() {
            // Two damages at once are not what this guards against.
            tracing::warn!(path = %path.display(), "damaged, cannot tell whether {what} is complete");
        }
        Ok((Self { file, path }, numbers))
    }

    /// Writes other numbers in their place.
    pub(crate) fn write(&self, numbers: [u64; N]) -> Result<(), StoreError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&encode(numbers)))
            .map_err(StoreError::io("write", &self.path))
    }
}

/// Whether the content of such a file can be believed.
pub(crate) fn is_believable<const N: usize>(content: &[u8]) -> bool {
    decode::<N>(content).is_some()
}

fn encode<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    let mut content = numbers.map(u64::to_be_bytes).concat();
    let sum = crc32fast::hash(&content);
    content.extend(sum.to_be_bytes());
    content
}

fn decode<const N: usize>(content: &[u8]) -> Option<[u64; N]> {
    let (numbers, sum) = content.split_at_checked(8 * N)?;
    if sum != crc32fast::hash(numbers).to_be_bytes() {
        return None;
    }
    let (numbers, _) = numbers.as_chunks::<8>();
    let numbers: &[[u8; 8]; N] = numbers.try_into().ok()?;
    Some(numbers.map(u64::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written_or_not_at_all() {
        let numbers = [7, 0x0102_0304_0506];
        let good = encode(numbers);
        assert_eq!(decode(&good), Some(numbers));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode::<2>(&bad), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(decode::<2>(&good[..length]), None);
        }
        assert_eq!(decode::<1>(&good), None);
    }

    #[test]
    fn what_was_written_last_is_there_and_damage_counts_as_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("numbers");
        let (file, before) = Rewritten::<1>::open(path.clone(), "it").unwrap();
        assert_eq!(before, None);
        file.write([3]).unwrap();
        file.write([4]).unwrap();
        let (_, before) = Rewritten::<1>::open(path.clone(), "it").unwrap();
        assert_eq!(before, Some([4]));
        std::fs::write(&path, b"damaged").unwrap();
        let (_, before) = Rewritten::<1>::open(path, "it").unwrap();
        assert_eq!(before, None);
    }
}
