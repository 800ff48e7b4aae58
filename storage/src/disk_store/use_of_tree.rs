//! Reading and writing the tree, which may have to be opened again at any moment.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::lack::Lack;
use super::layout::TREE_DIRECTORY;
use super::shared::Shared;
use crate::error::StoreError;
use crate::tree::Tree;

impl Shared {
    /// Uses the tree for what may fail elsewhere, in a copy of it, and says nothing of the tree then.
    pub(super) fn beside_tree<T>(
        &self,
        f: impl FnOnce(&Tree) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // What it comes to is not the tree's, if it comes to anything.
        self.in_tree(|tree| Ok(f(tree)))?
    }

    /// Uses the tree. Refused while it is opened again, which only a full disk or a shortage makes necessary.
    pub(super) fn in_tree<T>(
        &self,
        f: impl FnOnce(&Tree) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.tree.read().unwrap_or_else(PoisonError::into_inner) {
            Some(tree) => f(tree).inspect_err(|error| self.note_failed(error)),
            None => {
                // If it could not be opened again, that is the reason.
                self.check_running()?;
                let path = self.directory.join(TREE_DIRECTORY);
                let lack = self.signals().starved.unwrap_or(Lack::Room);
                Err(lack.error(path))
            }
        }
    }

    /// sled may write when it reads, and after the end of the disk it does nothing more: then the tree has to be opened
    /// again, also when there is room and nothing to carry.
    fn note_failed(&self, error: &StoreError) {
        if error.is_disk_full() && !self.tree_failed.swap(true, Ordering::Relaxed) {
            // Under the lock, so that nobody misses it between a look and a wait.
            let _signals = self.signals();
            self.changed.notify_all();
        }
    }
}
