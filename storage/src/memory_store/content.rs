//! What a file of hints in memory has.

/// What the file has.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// How much of it a power cut leaves.
    pub(super) synced: usize,
}

impl Content {
    /// What a power cut does: see [`MemoryDisk::crash_keeping`](super::MemoryDisk::crash_keeping).
    pub(super) fn lose_unsynced(&mut self, kept: usize) {
        // A prime, so that the end lies anywhere in a record.
        const STEP_BYTES: usize = 37;
        let unsynced = self.bytes.len() - self.synced;
        let stays = kept.wrapping_mul(STEP_BYTES) % (unsynced + 1);
        self.bytes.truncate(self.synced + stays);
        self.synced = self.bytes.len();
    }
}
