//! What can go wrong, in words that tell an operator what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dynakv_protocol::DecodeError;
use dynakv_protocol::hash::Position;
use dynakv_protocol::shell::quoted;

use crate::items::PositionRange;

/// How much of a key an error message shows, in bytes.
const KEY_BYTES_SHOWN: usize = 64;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system is full. A running store goes on by itself once there is room.
    #[error(
        "no space left on the disk that holds {}: free some space (a node that runs goes on by \
         itself then); nothing that was acknowledged is lost",
        path.display()
    )]
    DiskFull {
        /// The directory or file that could not grow.
        path: PathBuf,
    },
    /// The process or the system has no descriptor, no thread or no memory left to give. The disk is well and nothing
    /// was changed. A running store goes on by itself once there is some again.
    #[error(
        "cannot {doing} {}: {source}. The disk is well: the process or the system has used up what it may \
         have. Raise the limit (LimitNOFILE, TasksMax or MemoryMax of the service, or ulimit) or lower \
         connections_max; a node that runs goes on by itself once there is some again",
        path.display()
    )]
    Shortage {
        /// What was tried, as a verb.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Only the reserve is left on the file system. Nothing was written.
    #[error(
        "{} are free on the disk that holds {}, and {} are kept in reserve: no value is written \
         until there is room, reads go on. Free some space, or lower disk_reserve_bytes",
        ShownBytes(*free_bytes),
        path.display(),
        ShownBytes(*reserve_bytes)
    )]
    DiskReserve {
        /// The store's directory.
        path: PathBuf,
        /// What is free, in bytes.
        free_bytes: u64,
        /// What is kept, in bytes.
        reserve_bytes: u64,
    },
    /// The disk could not make durable what it had taken: what it holds is unknown from then on, and
    /// trying again could succeed without the data (Rebello et al., "Can Applications Recover from fsync
    /// Failures?", ATC 2020).
    #[error(
        "the disk failed to sync {}: {source}. What was not acknowledged may be lost; look at the disk \
         (dmesg, smartctl) before you start the node again",
        path.display()
    )]
    SyncFailed {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else has the directory open.
    #[error(
        "another process uses this directory ({}): stop the other node, or give this one its own \
         --data-dir",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// One stored value is damaged. It is never served and never counts as absent; it is whole again
    /// once the key is written anew or mended from another replica.
    #[error(
        "the stored value of key {key:?} is damaged: {damage}; it is not served, repair it from \
         the other replicas",
        key = ShownKey(key)
    )]
    Corrupt {
        /// The key; a scan can go on behind it.
        key: Bytes,
        /// What is wrong with the value.
        damage: Damage,
    },
    /// A part of the store is damaged in which keys lie, nobody can say which. None of them is served or counts as absent;
    /// they are whole again once they are mended from other replicas.
    #[error(
        "the positions {:016x} to {} of the store are damaged: {damage}; keys there may be lost, repair them from the \
         other replicas",
        range.start.0,
        ShownEnd(range.end),
    )]
    CorruptRange {
        /// Where they lie; a scan can go on behind it.
        range: PositionRange,
        /// What is wrong there.
        damage: Damage,
    },
    /// A small file is damaged.
    #[error(
        "the file {name} in the data directory is damaged: {damage}; move the data directory aside \
         and start the node with an empty one, it fetches its data from the other replicas"
    )]
    DamagedFile {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A small file is sound, and a later version's.
    #[error(
        "the file {name} in the data directory is of format {format}, which this version does not know: \
         start the version that wrote it"
    )]
    LaterFile {
        /// The file's name.
        name: String,
        /// The number found.
        format: u8,
    },
    /// The store as a whole cannot be read.
    #[error(
        "the store in {} cannot be read: {reason}; look at it: dynakv store check {}",
        path.display(),
        quoted(&path.display().to_string())
    )]
    CorruptStore {
        /// The store's directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// What was acknowledged is damaged in the commit log. Nothing was changed: what can be read is
    /// still there.
    #[error(
        "the commit log is damaged: {damage}, in {} at byte {offset}; {readable_before} changes before \
         it and {readable_after} behind it can be read, those in between are lost here; look at the store \
         with `dynakv store check`",
        path.display()
    )]
    CorruptLog {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        damage: Damage,
        /// How many changes could be read before the damage.
        readable_before: u64,
        /// How many changes can be read behind it.
        readable_after: u64,
    },
    /// A hint, a write that this node keeps for another one, is damaged. It is never delivered, and stays
    /// known until it is removed.
    #[error(
        "a hint is damaged: {damage}, in {} at byte {offset}, key {key:?}; the write that it held is lost \
         here: whoever else has it brings it to the owners of its key",
        path.display(),
        key = ShownKey(key)
    )]
    CorruptHint {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The hint's key in the log of hints.
        key: Bytes,
        /// What is wrong.
        damage: Damage,
    },
    /// A value is too large for the store; nothing of its batch was applied.
    #[error("a key's versions of {bytes} bytes are too large, {bytes_max} bytes is the most")]
    TooLarge {
        /// Their size.
        bytes: usize,
        /// The most that can be stored.
        bytes_max: usize,
    },
    /// The store was made by another version of this program.
    #[error(
        "the store in {} does not fit this version: {reason}; start the version that made it",
        path.display()
    )]
    Unsupported {
        /// The store's directory.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A part of a recount was asked for that does not follow the part before. Begin again.
    #[error("there is no recount that goes on from here: begin it again")]
    NotRecounting,
    /// An earlier write failed, or the power of a simulated disk went: this handle writes no more.
    ///
    /// After a failed sync nobody knows what reached the disk (Rebello et al., "Can Applications
    /// Recover from fsync Failures?", 2020), so going on would be to pretend.
    #[error("the store has stopped writing: {reason}; start the node again")]
    Stopped {
        /// The first failure.
        reason: String,
    },
}

/// What is wrong with stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// There are fewer bytes than any value has.
    #[error("only {length} bytes are there")]
    TooShort {
        /// How many there are.
        length: usize,
    },
    /// The first bytes are not those of a file of ours.
    #[error("it does not begin like a dynakv file")]
    NotOurs,
    /// The format number is none that this version knows.
    #[error("format {format} is unknown to this version")]
    UnknownFormat {
        /// The number found.
        format: u8,
    },
    /// There are more or fewer bytes than the header says.
    #[error("{stated} bytes should be there, {found} are")]
    Length {
        /// What the header says.
        stated: u64,
        /// How many there are.
        found: u64,
    },
    /// The checksum is not that of the bytes.
    #[error("checksum {stored:08x} stored, {computed:08x} computed")]
    Checksum {
        /// The checksum beside the bytes.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// It belongs to another file, or to another place in this one.
    #[error("what lies there belongs elsewhere")]
    Misplaced,
    /// A whole file is not there.
    #[error("the file is missing")]
    MissingFile,
    /// Something around it was damaged before, and it may have been there.
    #[error("it may have been in a part of the store that was damaged")]
    Lost,
    /// A part of a large value is not there.
    #[error("a part of it is missing")]
    MissingChunk,
    /// The checksum is right, the content is not.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
}

impl StoreError {
    /// Whether other replicas, not this disk, can give back what is missing here.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Corrupt { .. }
            | Self::CorruptRange { .. }
            | Self::DamagedFile { .. }
            | Self::CorruptStore { .. }
            | Self::CorruptLog { .. }
            | Self::CorruptHint { .. } => true,
            Self::DiskFull { .. }
            | Self::DiskReserve { .. }
            | Self::SyncFailed { .. }
            | Self::Io { .. }
            | Self::Shortage { .. }
            | Self::Locked { .. }
            | Self::LaterFile { .. }
            | Self::TooLarge { .. }
            | Self::Unsupported { .. }
            | Self::NotRecounting
            | Self::Stopped { .. } => false,
        }
    }

    /// Whether all is well again once there is room on the disk.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::DiskReserve { .. })
    }

    /// Whether something is lacking that is no part of the disk: descriptors or memory.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Shortage { .. })
    }

    /// Whether it goes away by itself when its cause does, and nothing was changed: a full disk, a shortage.
    pub fn passes(&self) -> bool {
        self.is_disk_full() || self.is_shortage()
    }

    /// A sync that failed, for whatever reason.
    pub(crate) fn sync_failed(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::SyncFailed {
            path: path.to_owned(),
            source,
        }
    }

    /// Names what was tried when the operating system refused; tells a full disk from the rest.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::DiskFull { path }
                }
                _ if is_shortage(&source) => Self::Shortage {
                    doing,
                    path,
                    source,
                },
                _ => Self::Io {
                    doing,
                    path,
                    source,
                },
            }
        }
    }
}

/// Whether the system lacks descriptors, threads or memory, and nothing is wrong with the file.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // No thread can be had: no file of ours is opened so that it would say that.
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    let number = error.raw_os_error();
    shortages
        .iter()
        .any(|errno| number == Some(errno.raw_os_error()))
}

/// A size in whole KiB, MiB or GiB.
pub(crate) struct ShownBytes(pub(crate) u64);

impl fmt::Display for ShownBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 10 << 30 => write!(f, "{} GiB", bytes >> 30),
            bytes if bytes >= 10 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes >> 10),
        }
    }
}

/// The end of an arc.
struct ShownEnd(Option<Position>);

impl fmt::Display for ShownEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(end) => write!(f, "{:016x}", end.0),
            None => f.write_str("the end of the ring"),
        }
    }
}

/// Shows printable bytes as they are, the others escaped, and no more than a log line can bear.
struct ShownKey<'a>(&'a [u8]);

impl fmt::Debug for ShownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(KEY_BYTES_SHOWN)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_errors() {
        let full = io::Error::from_raw_os_error(28); // ENOSPC
        let error = StoreError::io("write", Path::new("/data/x"))(full);
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        assert!(error.to_string().contains("free some space"));
        assert!(!error.is_corruption());

        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = StoreError::io("write", Path::new("/data/x"))(denied);
        assert_eq!(error.to_string(), "cannot write /data/x: permission denied");
    }

    #[test]
    fn a_shortage_is_told_from_a_fault_of_the_disk() {
        // EMFILE, ENFILE, ENOMEM, EAGAIN
        for number in [24, 23, 12, 11] {
            let error = io::Error::from_raw_os_error(number);
            let error = StoreError::io("create", Path::new("/data/x"))(error);
            assert!(matches!(error, StoreError::Shortage { .. }), "{error:?}");
            assert!(error.passes() && !error.is_corruption() && !error.is_disk_full());
            assert!(error.to_string().contains("The disk is well"), "{error}");
        }
        let broken = io::Error::from_raw_os_error(5); // EIO
        assert!(!StoreError::io("write", Path::new("/data/x"))(broken).passes());
    }

    #[test]
    fn a_hostile_key_cannot_flood_a_message() {
        let error = StoreError::Corrupt {
            key: Bytes::from(vec![b'\n'; 4096]),
            damage: Damage::TooShort { length: 1 },
        };
        let text = error.to_string();
        assert!(text.len() < 400 && !text.contains('\n'), "{text}");
    }
}
