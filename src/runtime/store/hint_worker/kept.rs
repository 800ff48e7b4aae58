//! The hints that an earlier run left: whether they are the right ones, what of them is damaged, and what the worker
//! begins with.

use std::sync::Arc;

use dynakv_protocol::codec::Wire;
use dynakv_storage::{AppendFile, HintLog, Opened, RunNote, StoreError};

use crate::engine::anti_entropy::handoff::{Hint, HintBook};
use crate::runtime::observe::metrics::Metrics;

/// The hints of an earlier run, before anything is done with them.
#[derive(Debug)]
pub struct KeptHints {
    log: HintLog,
    opened: Opened,
    /// They are not those that this directory kept last.
    are_others: bool,
}

impl KeptHints {
    /// Reads the file.
    ///
    /// # Errors
    /// What the disk says. Damage is no error: what can be read is kept, the rest is counted.
    pub fn open(file: Arc<dyn AppendFile>) -> Result<Self, StoreError> {
        let (log, opened) = HintLog::open(file)?;
        Ok(Self {
            log,
            opened,
            are_others: false,
        })
    }

    /// Notes in the file that this run writes it from now on; where a note of the run before is `expected`,
    /// it is looked for. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note(&mut self, run: &RunNote, expected: bool) -> Result<(), StoreError> {
        self.are_others = expected && !run.follows(self.log.run_note());
        match self.log.note_run(&run.to_bytes()) {
            // It is tried again while the node runs.
            Err(error) if error.is_disk_full() => Ok(()),
            result => result,
        }
    }
}

/// Enters the hints that are there into a book.
pub(super) fn enter(
    hints: KeptHints,
    metrics: &Metrics,
) -> Result<(HintLog, HintBook), StoreError> {
    let KeptHints {
        mut log,
        opened,
        are_others,
    } = hints;
    if are_others {
        tracing::error!(
            "the hints in this data directory are not those that this node kept last: they are gone, or came \
             back from a backup. What it kept for other nodes since may be lost here; put the right file back \
             if you have it, and see `dynakv repair` once all nodes are up"
        );
        metrics.hints.damaged.increment(1);
    }
    if opened.damaged > 0 {
        tracing::error!(
            places = opened.damaged,
            "hints are damaged: what they held for other nodes is lost here; anti-entropy brings them what \
             others have of it"
        );
        metrics.hints.damaged.increment(opened.damaged);
        match log.forget_damage() {
            // It is reported again at the next start.
            Err(error) if error.passes() => tracing::warn!(%error, "damaged hints stay"),
            result => result?,
        }
    }
    let book = read_book(&mut log, HintBook::default())?;
    if !book.is_empty() {
        tracing::info!(
            keys = book.len(),
            counted = book.counted(),
            "hints for other nodes are kept here"
        );
    }
    Ok((log, book))
}

/// What the log holds, entered into an empty book.
pub(super) fn read_book(log: &mut HintLog, mut book: HintBook) -> Result<HintBook, StoreError> {
    let mut unreadable = Vec::new();
    log.for_each(|key, document| {
        let hint = document
            .map_err(|error| error.to_string())
            .and_then(|document| Hint::from_bytes(&document).map_err(|error| error.to_string()));
        match hint {
            Ok(hint) => {
                book.put(key.clone(), &hint);
            }
            Err(error) => unreadable.push((key.clone(), error)),
        }
        Ok(())
    })?;
    for (key, error) in unreadable {
        tracing::error!(key = %key.escape_ascii(), error, "a hint that can't be read is given up");
        log.remove(&key)?;
    }
    Ok(book)
}
