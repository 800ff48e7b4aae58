//! Whether the disk has room for what a job brings.

use dynakv_protocol::ErrorReply;
use dynakv_protocol::causal::{Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_storage::Change;

use super::Writer;
use super::trouble::refusal;
use crate::engine::write::apply::{ToMint, Work};

impl Writer {
    /// Refuses what the disk has no room for, before anything of it is decided.
    pub(super) fn admit(&self, key: &[u8], work: &Work) -> Result<(), ErrorReply> {
        let (value_bytes, is_removal) = match work {
            Work::Mint(ToMint { intent, .. }) => match &intent.value {
                Value::Bytes(value) => (value.len(), false),
                Value::Tombstone => (0, true),
            },
            Work::Merge { versions, .. } => (versions.len(), false),
            // It is there already.
            Work::Rebase { .. } => return Ok(()),
        };
        let bytes = key.len() + value_bytes;
        let change = if is_removal {
            Change::Removal
        } else {
            Change::Growth
        };
        let Err(error) = self.store.admit(bytes, change) else {
            return Ok(());
        };
        // Looked at only now, because it takes decoding.
        if let Work::Merge { versions, .. } = work
            && Versions::from_bytes(versions).is_ok_and(|it| only_removes(&it))
            && self.store.admit(bytes, Change::Removal).is_ok()
        {
            return Ok(());
        }
        self.metrics.refused_for_disk.increment(1);
        Err(refusal(&error))
    }
}

/// Whether there are tombstones and nothing else.
fn only_removes(versions: &Versions) -> bool {
    versions
        .siblings()
        .iter()
        .all(|sibling| sibling.value == Value::Tombstone)
}
