//! Holds a store against itself: reads all of it, and compares what it finds with the totals and the
//! segments' hashes that were kept as it changed.
//!
//! [`check_store`] reads a store that is open and rests. [`check_directory`] looks at one that is closed,
//! whatever state it is in, and changes nothing of it: opening sled can write (it cuts damage off), so what
//! is opened is a copy beside it, which is removed again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::{Position, SEGMENTS, Segment};

use crate::ballast;
use crate::directory::list;
use crate::disk::{DirectoryLock, LOCK_FILE};
use crate::disk_store::{
    Compaction, DiskOptions, DiskStore, LOG_DIRECTORY, TREE_DIRECTORY, mend_constants,
};
use crate::error::StoreError;
use crate::footprint::{Footprint, Totals};
use crate::hint_log::check_hints;
use crate::items::{Cut, PageLimit, PositionRange};
use crate::log;
use crate::store::{Store, scan_past_losses};
use crate::tree::{Tree, wait_until_closed};
use crate::witness;

/// How many findings are kept; beyond, they are counted.
const FINDINGS_MAX: usize = 1000;

/// How much is read at a time.
const PAGE: PageLimit = PageLimit {
    items_max: 1000,
    bytes_max: 1024 * 1024,
};

/// What is under way, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Copying what is to be opened, in bytes.
    Copying,
    /// Reading keys.
    Reading,
}

/// Hears of steps, of how much of each is done, and of about how much there is.
pub type Progress<'a> = &'a mut dyn FnMut(Step, u64, u64);

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A file, a key, a segment or the totals.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

/// What a check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many keys were read, deleted ones too.
    pub keys: u64,
    /// The bytes of their keys and versions.
    pub bytes: u64,
    /// How many records of hints were read; `None` where no node has kept any.
    pub hint_records: Option<u64>,
    /// The first thousand findings.
    pub findings: Vec<Finding>,
    /// How many there were.
    pub findings_total: u64,
}

impl Checked {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings_total == 0
    }

    /// Verifies the hints of the same node, in this file. A torn end, as a crash leaves it, is no finding.
    ///
    /// # Errors
    /// As [`check_hints`].
    pub fn add_hints(&mut self, path: &Path) -> Result<(), StoreError> {
        let Some(hints) = check_hints(path)? else {
            return Ok(());
        };
        self.hint_records = Some(hints.records);
        for (at, length) in hints.damaged {
            self.found(
                format!("{} at byte {at}", path.display()),
                format!("{length} bytes are damaged: hints may be lost here"),
            );
        }
        if hints.damaged_before > 0 {
            self.found(
                path.display().to_string(),
                format!(
                    "{} damaged places were removed at an earlier start: hints may be lost here",
                    hints.damaged_before
                ),
            );
        }
        Ok(())
    }

    fn found(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                place: place.into(),
                problem: problem.into(),
            });
        }
    }

    /// Takes note of an error about the copy, in words about the original.
    fn error(&mut self, copy: &Copy, error: &StoreError) {
        let finding = Finding {
            place: copy.original(error).display().to_string(),
            problem: copy.in_words(error),
        };
        if !self.findings.contains(&finding) {
            self.found(finding.place, finding.problem);
        }
    }
}

fn named(key: &[u8]) -> String {
    const SHOWN: usize = 64;
    let shown = key[..key.len().min(SHOWN)].escape_ascii();
    let more = if key.len() > SHOWN { "…" } else { "" };
    format!("key \"{shown}\"{more}")
}

/// Reads everything in a store that nobody writes meanwhile, and compares it with what is kept about it.
///
/// # Errors
/// What the disk says. Damage is no error but a finding.
pub fn check_store(store: &dyn Store, progress: Progress<'_>) -> Result<Checked, StoreError> {
    let kept = store.totals();
    let mut checked = Checked::default();
    let mut counted = Totals::default();
    let mut hashes = vec![0_u128; SEGMENTS];
    // Where damage hides what is there.
    let mut unknown = BTreeSet::new();
    let mut last: Option<(Position, Bytes)> = None;
    let mut after: Option<Bytes> = None;
    let is_complete = loop {
        let (all, mut lost) = (PositionRange::ALL, Vec::new());
        let scanned = scan_past_losses(store, all, after.as_deref(), PAGE, &mut lost);
        for part in lost {
            checked.found(
                format!("positions from {:016x}", part.start.0),
                "damaged: keys that lay there may be lost",
            );
            unknown.insert(part.start.segment());
        }
        let (items, next) = match scanned {
            Ok(page) => (page.items, page.next),
            Err(StoreError::Corrupt { key, damage }) => {
                checked.found(named(&key), damage.to_string());
                let place = (Position::of_key(&key), key.clone());
                unknown.insert(place.0.segment());
                if last.as_ref().is_some_and(|last| *last >= place) {
                    // Damage to the key itself: there is no way on from it.
                    break false;
                }
                last = Some(place);
                (Vec::new(), Some(key))
            }
            Err(error) if error.is_corruption() => {
                checked.found("the walk over all keys", error.to_string());
                break false;
            }
            Err(error) => return Err(error),
        };
        for item in items {
            let place = (Position::of_key(&item.key), item.key.clone());
            if last.as_ref().is_some_and(|last| *last >= place) {
                checked.found(
                    named(&item.key),
                    "it is not in its place in the order of keys",
                );
            }
            let segment = place.0.segment();
            last = Some(place);
            checked.keys += 1;
            checked.bytes += (item.key.len() + item.versions.len()) as u64;
            match Versions::from_bytes(&item.versions) {
                Ok(versions) => {
                    let print = Footprint::of_encoded(&item.key, &versions, &item.versions);
                    hashes[usize::from(segment.0)] ^= print.hash;
                    let tally = print.tally;
                    counted.keys += u64::from(tally.versions > 0);
                    counted.conflict_keys += u64::from(tally.versions > 1);
                    counted.versions += tally.versions;
                    counted.live_bytes += tally.value_bytes;
                }
                Err(error) => {
                    checked.found(named(&item.key), error.to_string());
                    unknown.insert(segment);
                }
            }
        }
        progress(Step::Reading, checked.keys, kept.keys.max(checked.keys));
        match next {
            Some(next) => after = Some(next),
            None => break true,
        }
    };
    if is_complete {
        compare(&mut checked, store, &hashes, &unknown);
        if unknown.is_empty() {
            compare_totals(&mut checked, &kept, &counted);
        }
    }
    Ok(checked)
}

fn compare(checked: &mut Checked, store: &dyn Store, hashes: &[u128], unknown: &BTreeSet<Segment>) {
    let kept = store.segment_hashes(0..=u16::MAX);
    for (number, (kept, computed)) in (0..=u16::MAX).zip(kept.iter().zip(hashes)) {
        if kept != computed && !unknown.contains(&Segment(number)) {
            checked.found(
                format!("segment {number:04x}"),
                format!(
                    "hash {kept:032x} kept, {computed:032x} computed: it does not hold what was written"
                ),
            );
        }
    }
}

fn compare_totals(checked: &mut Checked, kept: &Totals, counted: &Totals) {
    for (what, kept, counted) in [
        ("keys", kept.keys, counted.keys),
        ("versions", kept.versions, counted.versions),
        ("conflict keys", kept.conflict_keys, counted.conflict_keys),
        ("bytes of values", kept.live_bytes, counted.live_bytes),
    ] {
        if kept != counted {
            checked.found("totals", format!("{kept} {what} kept, {counted} counted"));
        }
    }
}

/// Looks at a store that no process has open, and changes nothing of it. Needs as much room beside it as
/// it takes itself.
///
/// # Errors
/// [`StoreError::Locked`] when a node runs on it, [`StoreError::Unsupported`] for another version's,
/// otherwise what the disk says. Damage is no error but a finding.
pub fn check_directory(directory: &Path, progress: Progress<'_>) -> Result<Checked, StoreError> {
    let _lock = DirectoryLock::take(directory, LOCK_FILE)?;
    let mut checked = Checked::default();
    let log_directory = directory.join(LOG_DIRECTORY);
    if let Some(damaged) = log::damaged_mark(&log_directory)? {
        let problem = "damaged: nobody can tell whether the end of the log is complete";
        checked.found(damaged.display().to_string(), problem);
    }
    if let Some(damaged) = witness::damaged(&directory.join(TREE_DIRECTORY))? {
        let problem = "damaged: nobody can tell whether sled has its last checkpoint";
        checked.found(damaged.display().to_string(), problem);
    }
    let copy = Copy::of(directory, progress)?;
    for (name, problem) in mend_constants(&copy.path)? {
        let place = directory.join(name).display().to_string();
        checked.found(place, copy.renamed(&problem));
    }
    let options = DiskOptions {
        compaction: Compaction::Never,
        ..DiskOptions::default()
    };
    match DiskStore::open(&copy.path, options) {
        Ok(store) => {
            for page in store.counted_pages() {
                let problem = "damaged: its segments are counted anew at the next start";
                checked.found(format!("page {page:02x} of the segments' hashes"), problem);
            }
            let read = check_store(&store, progress)?;
            checked.keys = read.keys;
            checked.bytes = read.bytes;
            checked.findings_total += read.findings_total;
            checked.findings.extend(read.findings);
            checked.findings.truncate(FINDINGS_MAX);
        }
        Err(error) if error.is_corruption() => {
            checked.error(&copy, &error);
            log::inspect(&log_directory, &mut |path, at, damage| {
                let place = format!("{} at byte {at}", path.display());
                checked.found(place, damage.to_string());
            })?;
            check_tree(&mut checked, &copy, options.cache_bytes())?;
        }
        Err(error) => return Err(error),
    }
    Ok(checked)
}

/// Reads what can still be read of the tree of a store that does not open as a whole.
fn check_tree(checked: &mut Checked, copy: &Copy, cache_bytes: u64) -> Result<(), StoreError> {
    let (tree, ..) = match Tree::open(&copy.path.join(TREE_DIRECTORY), cache_bytes) {
        Ok(opened) => opened,
        Err(error) if error.is_corruption() => {
            checked.error(copy, &error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut cursor = tree.cursor(&Cut::beginning(PositionRange::ALL, None), None, true);
    loop {
        match cursor.next() {
            Ok(Some((key, versions))) => {
                checked.keys += 1;
                let length = key.len() + versions.map_or(0, |versions| versions.len());
                checked.bytes += length as u64;
            }
            Ok(None) => return Ok(()),
            Err(StoreError::Corrupt { key, damage }) => {
                checked.found(named(&key), damage.to_string());
            }
            Err(error @ StoreError::CorruptRange { .. }) => checked.error(copy, &error),
            Err(error) if error.is_corruption() => {
                checked.error(copy, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// A copy of a store's directory beside it, removed when this is dropped.
struct Copy {
    path: PathBuf,
    of: PathBuf,
}

impl Copy {
    fn of(directory: &Path, progress: Progress<'_>) -> Result<Self, StoreError> {
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(format!(".checking-{}", std::process::id()));
        let copy = Self {
            path: directory.with_file_name(name),
            of: directory.to_owned(),
        };
        let mut files = Vec::new();
        list(directory, &mut files)?;
        // It is large, and says nothing.
        files.retain(|(path, _)| *path != directory.join(ballast::FILE));
        let total = files.iter().map(|(_, bytes)| bytes).sum();
        let mut done = 0;
        for (from, bytes) in files {
            let within = from.strip_prefix(directory).unwrap_or(&from);
            let to = copy.path.join(within);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
            }
            fs::copy(&from, &to).map_err(StoreError::io("copy to", &to))?;
            done += bytes;
            progress(Step::Copying, done, total);
        }
        Ok(copy)
    }

    /// What the error says, with the names of the original.
    fn in_words(&self, error: &StoreError) -> String {
        self.renamed(&error.to_string())
    }

    fn renamed(&self, text: &str) -> String {
        let (copy, original) = (self.path.display(), self.of.display());
        text.replace(&copy.to_string(), &original.to_string())
    }

    /// The place that an error about the copy means.
    fn original(&self, error: &StoreError) -> PathBuf {
        match error {
            StoreError::CorruptStore { path, .. } | StoreError::CorruptLog { path, .. } => path
                .strip_prefix(&self.path)
                .map_or_else(|_| self.of.clone(), |within| self.of.join(within)),
            _ => self.of.clone(),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Else it could come back as it is removed; if it never ends, the removal says so.
        let _ended = wait_until_closed(&self.path.join(TREE_DIRECTORY));
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a copy: remove it");
        }
    }
}
