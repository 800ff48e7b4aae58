//! Reads the hints of a node that is stopped, for a report. Changes nothing.

use std::path::Path;

use super::file::DiskAppendFile;
use super::scan::scan;
use crate::error::StoreError;

/// What a file of hints holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HintsChecked {
    /// How many whole records there are, those of removals too.
    pub records: u64,
    /// Where damage begins, and how many bytes it takes.
    pub damaged: Vec<(u64, u64)>,
    /// How many damaged places were found when the node started, which it has not dealt with.
    pub damaged_before: u64,
    /// How many bytes a crash left that nobody was told of. The next start removes them: that is no damage.
    pub torn_bytes: u64,
}

/// Verifies every record of a file of hints; `None` when there is no such file. No node may run on it.
///
/// # Errors
/// [`StoreError::Unsupported`] for a later version's, otherwise what the disk says. Damage is no error.
pub fn check_hints(path: &Path) -> Result<Option<HintsChecked>, StoreError> {
    let is_there = path.try_exists();
    if !is_there.map_err(StoreError::io("look at", path))? {
        return Ok(None);
    }
    let file = DiskAppendFile::open_to_read(path.to_owned())?;
    let file_bytes = super::AppendFile::len(&file)?;
    if file_bytes == 0 {
        return Ok(Some(HintsChecked::default()));
    }
    let scanned = scan(&file, &mut |_, _, _| ())?;
    let gaps = scanned.torn.iter().map(|gap| gap.end - gap.at);
    Ok(Some(HintsChecked {
        records: scanned.records,
        damaged_before: scanned.damaged_before,
        torn_bytes: file_bytes - scanned.end + gaps.sum::<u64>(),
        damaged: scanned
            .damaged
            .iter()
            .map(|gap| (gap.at, gap.end - gap.at))
            .collect(),
    }))
}
