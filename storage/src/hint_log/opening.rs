//! Taking up the file that an earlier process left: what of it is there, what is torn, and what is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::HintLog;
use super::entry::Entry;
use super::file::AppendFile;
use super::record::{FILE_HEADER_BYTES, Kind};
use super::scan::{Scanned, scan};
use crate::error::StoreError;

/// What [`HintLog::open`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    /// How many places, each of one or more records, are damaged. What they held is lost here: documents,
    /// or that one was replaced or removed, in which case the earlier one is there. Reported at each
    /// opening until [`HintLog::forget_damage`].
    pub damaged: u64,
    /// How many bytes a crash left that nobody was told of; they were removed. Damage to what the last sync
    /// before a crash wrote cannot be told from that.
    pub torn_bytes: u64,
}

impl HintLog {
    /// Reads the file. A torn end is cut off; all that is there is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for the file of a later version, otherwise what the disk says. Damage is
    /// no error.
    pub fn open(file: Arc<dyn AppendFile>) -> Result<(Self, Opened), StoreError> {
        let mut log = Self {
            file,
            index: BTreeMap::new(),
            live_bytes: 0,
            written: 0,
            ends_marked: false,
            note: Bytes::new(),
            waiting: Vec::new(),
            undo: Vec::new(),
            damaged: 0,
            retry_above_bytes: 0,
            stopped: None,
        };
        if log.file.is_empty()? {
            log.compact()?;
            return Ok((log, Opened::default()));
        }
        let file = log.file.clone();
        let mut note = Bytes::new();
        let scanned = scan(&*file, &mut |at, _, record| {
            // A key of its own: one that is a part of what was read would keep all of that in memory.
            let key = Bytes::copy_from_slice(&record.key);
            let entry = |is_lost| Some(Entry::new(at, record.document.len(), is_lost));
            match record.kind {
                Kind::Put => log.set(key, entry(false)),
                Kind::Lost => log.set(key, entry(true)),
                Kind::Remove => log.set(key, None),
                Kind::Mark => {
                    note = Bytes::copy_from_slice(&record.document);
                    None
                }
            };
        })?;
        log.note = note;
        let opened = log.make_sound(&scanned)?;
        Ok((log, opened))
    }

    /// Cuts the torn end off, and writes the file anew where something is amiss in its middle, so that what
    /// was torn does not look damaged once there are records behind it.
    fn make_sound(&mut self, scanned: &Scanned) -> Result<Opened, StoreError> {
        let file_bytes = self.file.len()?;
        let path = self.file.path();
        for gap in &scanned.damaged {
            tracing::error!(
                path = %path.display(), offset = gap.at, bytes = gap.end - gap.at,
                "hints are damaged here: writes that this node kept for others may be lost here"
            );
        }
        if file_bytes > scanned.end {
            self.file.truncate(scanned.end)?;
        }
        self.file.sync()?;
        self.written = scanned.end;
        let gaps = scanned.torn.iter().map(|gap| gap.end - gap.at);
        let torn_bytes = file_bytes - scanned.end + gaps.sum::<u64>();
        if torn_bytes > 0 {
            tracing::warn!(
                path = %path.display(), bytes = torn_bytes,
                "the end of the hints was torn, as a crash leaves it: cut off; nothing of it was said to be \
                 kept"
            );
        }
        self.damaged = scanned
            .damaged_before
            .saturating_add(scanned.damaged.len() as u64);
        if !scanned.damaged.is_empty() || !scanned.torn.is_empty() {
            match self.compact() {
                // It counts the same at the next start.
                Err(error) if error.passes() && self.written >= FILE_HEADER_BYTES as u64 => {
                    tracing::warn!(%error, "damaged hints stay in their file");
                }
                result => result?,
            }
        }
        Ok(Opened {
            damaged: self.damaged,
            torn_bytes,
        })
    }
}
