//! The file of hints on a disk in memory.

use std::path::PathBuf;

use bytes::Bytes;

use super::Handle;
use super::content::Content;
use crate::error::StoreError;
use crate::hint_log::{AppendFile, HINTS_FILE, Pieces};

/// The [`AppendFile`] of hints on a [`MemoryDisk`](super::MemoryDisk).
#[derive(Debug)]
pub struct MemoryHints(pub(super) Handle);

impl AppendFile for MemoryHints {
    fn path(&self) -> PathBuf {
        PathBuf::from(HINTS_FILE)
    }

    fn len(&self) -> Result<u64, StoreError> {
        Ok(self.0.living()?.hints.bytes.len() as u64)
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        let state = self.0.living()?;
        let bytes = &state.hints.bytes;
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let to = from.saturating_add(length).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[from..to]))
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.writable()?.hints.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.0.writable()?;
        state.hints.synced = state.hints.bytes.len();
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        let mut state = self.0.writable()?;
        let hints = &mut state.hints;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        hints.bytes.truncate(length);
        hints.synced = hints.synced.min(hints.bytes.len());
        Ok(())
    }

    fn replace(&self, pieces: Pieces<'_>) -> Result<(), StoreError> {
        // The pieces read this file, so the lock is not held meanwhile.
        let mut bytes = Vec::new();
        while let Some(piece) = pieces()? {
            bytes.extend_from_slice(&piece);
        }
        let mut state = self.0.writable()?;
        state.hints = Content {
            synced: bytes.len(),
            bytes,
        };
        Ok(())
    }
}
