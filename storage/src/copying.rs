//! What everybody needs who writes a store anew: carrying keys over page by page, and what lies around that.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;

use crate::directory::{list, parent_of, sync_directory, sync_path};
use crate::error::{Damage, StoreError};
use crate::footprint::Footprint;
use crate::items::{Mutation, PageLimit, PositionRange};
use crate::store::Store;

/// How much is carried over at a time.
const PAGE: PageLimit = PageLimit {
    items_max: 1000,
    bytes_max: 1024 * 1024,
};

/// A part of a store that is carried over.
pub(crate) struct ReadPage {
    mutations: Vec<Mutation>,
    /// Behind which key the next one begins; `None` when it is the last.
    pub(crate) next: Option<Bytes>,
}

impl ReadPage {
    /// Reads the next page, in ring order.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and [`StoreError::CorruptRange`] for what the store cannot give; otherwise what the disk
    /// says.
    pub(crate) fn from(store: &dyn Store, after: Option<&[u8]>) -> Result<Self, StoreError> {
        let page = store.scan(PositionRange::ALL, after, PAGE)?;
        let mut mutations = Vec::with_capacity(page.items.len());
        for item in page.items {
            let versions = Versions::from_bytes(&item.versions).map_err(|error| {
                let (key, damage) = (item.key.clone(), Damage::from(error));
                StoreError::Corrupt { key, damage }
            })?;
            mutations.push(Mutation {
                before: Footprint::default(),
                after: Footprint::of_encoded(&item.key, &versions, &item.versions),
                key: item.key,
                versions: item.versions,
            });
        }
        Ok(Self {
            mutations,
            next: page.next,
        })
    }

    /// Writes it into a store that has nothing of it yet. Durable there when it returns. Gives how many keys it has,
    /// deleted ones too.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn write_to(&self, store: &dyn Store) -> Result<u64, StoreError> {
        store.apply(&self.mutations)?;
        store.sync()?;
        Ok(self.mutations.len() as u64)
    }
}

/// A directory that is removed when what is made in it does not come to its end.
pub(crate) struct Beside(pub(crate) PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove it: remove it");
        }
    }
}

/// The size of all files below a directory, in bytes.
pub(crate) fn size(directory: &Path) -> Result<u64, StoreError> {
    let mut files = Vec::new();
    list(directory, &mut files)?;
    Ok(files.iter().map(|(_, bytes)| bytes).sum())
}

/// Makes all files below a directory durable, and that they are there; and its own name last. Gives their size in bytes.
pub(crate) fn sync_all(directory: &Path) -> Result<u64, StoreError> {
    let mut files = Vec::new();
    list(directory, &mut files)?;
    for (path, _) in &files {
        sync_path(path)?;
    }
    let mut within: Vec<&Path> = files.iter().map(|(path, _)| parent_of(path)).collect();
    within.dedup();
    for path in within {
        // sled has directories with nothing but directories in them.
        for above in path.ancestors().take_while(|it| it.starts_with(directory)) {
            sync_directory(above)?;
        }
    }
    sync_directory(directory)?;
    Ok(files.iter().map(|(_, bytes)| bytes).sum())
}
