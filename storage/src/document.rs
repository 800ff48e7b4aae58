//! Small files with a checksum.
//!
//! ```text
//! "dynakv" (6 bytes)  format (u8, 1)  length (u32)  crc32 (u32)  content
//! ```
//! Integers are big-endian. The crc32 (IEEE) covers the file's name, the format byte and the content,
//! so that a file copied over another is noticed too.

use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::disk::SmallFiles;
use crate::error::{Damage, StoreError};

const MAGIC: &[u8; 6] = b"dynakv";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = MAGIC.len() + 1 + 4 + 4;

/// Reads a document that [`save_document`] wrote; `None` when there is none.
///
/// # Errors
/// [`StoreError::DamagedFile`] for anything but the bytes that were saved under this name,
/// [`StoreError::LaterFile`] if a later version saved them; otherwise what the disk says.
pub fn load_document(files: &dyn SmallFiles, name: &str) -> Result<Option<Bytes>, StoreError> {
    let Some(file) = files.read(name)? else {
        return Ok(None);
    };
    match decode(name, file) {
        Ok(content) => Ok(Some(content)),
        Err(Damage::UnknownFormat { format }) => Err(StoreError::LaterFile {
            name: name.to_owned(),
            format,
        }),
        Err(damage) => Err(damaged(name, damage)),
    }
}

/// Reads a document of a directory that may be another process's, or not there at all; touches nothing.
///
/// # Errors
/// As [`load_document`].
pub fn peek_document(directory: &Path, name: &str) -> Result<Option<Bytes>, StoreError> {
    let path = directory.join(name);
    match std::fs::read(&path) {
        Ok(file) => decode(name, Bytes::from(file))
            .map(Some)
            .map_err(|damage| damaged(name, damage)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// Writes a document, replacing the one of this name. Durable when it returns.
///
/// # Errors
/// What the disk says; the old or the new document is then there, whole.
pub fn save_document(files: &dyn SmallFiles, name: &str, content: &[u8]) -> Result<(), StoreError> {
    files.write_durable(name, &encode(name, content))
}

/// The error for a document whose content makes no sense.
pub(crate) fn damaged(name: &str, damage: impl Into<Damage>) -> StoreError {
    StoreError::DamagedFile {
        name: name.to_owned(),
        damage: damage.into(),
    }
}

fn encode(name: &str, content: &[u8]) -> BytesMut {
    let mut file = BytesMut::with_capacity(HEADER_BYTES + content.len());
    file.put_slice(MAGIC);
    file.put_u8(FORMAT);
    // A document beyond 4 GiB would be found damaged when it is read; control state has kilobytes.
    file.put_u32(content.len() as u32);
    file.put_u32(checksum(name, FORMAT, content));
    file.put_slice(content);
    file
}

fn decode(name: &str, mut file: Bytes) -> Result<Bytes, Damage> {
    if file.len() < HEADER_BYTES {
        return Err(Damage::TooShort { length: file.len() });
    }
    if file.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err(Damage::NotOurs);
    }
    let format = file.get_u8();
    let stated = u64::from(file.get_u32());
    let stored = file.get_u32();
    let found = file.len() as u64;
    if stated != found {
        return Err(Damage::Length { stated, found });
    }
    let computed = checksum(name, format, &file);
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    // Only what is sound can be believed to be another version's.
    if format != FORMAT {
        return Err(Damage::UnknownFormat { format });
    }
    Ok(file)
}

fn checksum(name: &str, format: u8, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&[format]);
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::MemoryDisk;

    #[test]
    fn every_flipped_bit_every_cut_and_every_addition_is_detected() {
        let files = MemoryDisk::new().files();
        save_document(&files, "ring", b"the ring document").unwrap();
        let good = files.read("ring").unwrap().unwrap();
        let loaded = load_document(&files, "ring").unwrap().unwrap();
        assert_eq!(loaded, "the ring document");

        let assert_damaged = |name: &str, bytes: &[u8]| {
            files.write_durable(name, bytes).unwrap();
            let error = load_document(&files, name).unwrap_err();
            assert!(matches!(error, StoreError::DamagedFile { .. }), "{error:?}");
        };
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_damaged("ring", &bad);
        }
        for length in 0..good.len() {
            assert_damaged("ring", &good[..length]);
        }
        assert_damaged("ring", &[&good[..], b"\0"].concat());
        assert_damaged("acceptor", &good);
    }

    #[test]
    fn a_sound_document_of_a_later_version_is_no_damage() {
        let files = MemoryDisk::new().files();
        let content = b"what the next version writes";
        let mut later = encode("ring", content).to_vec();
        later[MAGIC.len()] = FORMAT + 1;
        let covered = [b"ring", &[FORMAT + 1][..], content].concat();
        let sum = crc32fast::hash(&covered).to_be_bytes();
        later[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum);
        files.write_durable("ring", &later).unwrap();
        let error = load_document(&files, "ring").unwrap_err();
        assert!(!error.is_corruption() && error.to_string().contains("ring"));
    }

    #[test]
    fn an_empty_document_is_not_an_absent_one() {
        let files = MemoryDisk::new().files();
        assert_eq!(load_document(&files, "ring").unwrap(), None);
        save_document(&files, "ring", b"").unwrap();
        assert_eq!(load_document(&files, "ring").unwrap(), Some(Bytes::new()));
    }
}
