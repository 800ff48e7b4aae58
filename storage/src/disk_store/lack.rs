//! What keeps a checkpoint from going on, and what is said of it.

use std::path::PathBuf;

use crate::error::StoreError;

/// What a checkpoint lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// Room on the disk.
    Room,
    /// Descriptors, or memory.
    Descriptors,
}

impl Lack {
    /// What whoever needs the checkpoint is told.
    pub(super) fn error(self, path: PathBuf) -> StoreError {
        match self {
            Self::Room => StoreError::DiskFull { path },
            Self::Descriptors => StoreError::Shortage {
                doing: "carry what is in memory into",
                path,
                source: rustix::io::Errno::MFILE.into(),
            },
        }
    }
}
