//! The dynakv store: the versions of every key, durable by group commit, and the few small files
//! that say who a data directory is.
//!
//! | Room | What it holds |
//! |---|---|
//! | [`store`] | the [`Store`] trait: `get`, `apply`, `sync`, `scan`, `totals` |
//! | [`disk_store`] | the store on disk: `log` and `table` in front of `tree`, and the checkpoints between them |
//! | `tree` | sled, with `format`, `chunks`, `witness` and [`flush_override`] to make it safe |
//! | [`memory_store`] | the same in memory, with a power switch, for simulation |
//! | `totals` | how many keys, versions, conflicts and bytes there are, counted as they change |
//! | `segments` | a hash of each segment of the ring, changed with each key; `hash_pages` writes them down |
//! | [`check`] | holds a store against itself, also a damaged one |
//! | [`mod@rewrite`] | writes a store anew, only what is live |
//! | [`mod@snapshot`] | copies a store that is in use into a directory of its own |
//! | [`disk_reserve`] | how much of the disk is kept in reserve; `ballast` keeps what opening takes |
//! | [`status`] | how a store is doing: table, log, checkpoints |
//! | [`disk`] | [`SmallFiles`]: small files written all or not at all; the directory's lock |
//! | [`document`] | small files with a checksum |
//! | [`hint_log`] | hints: writes kept for other nodes, in a file beside the store |
//! | [`identity`] | who this directory is: node id, generation, actor, and how it was stopped |
//! | [`mod@run_note`] | what the store and the hints say themselves of whose they are |
//! | [`error`] | what can go wrong, in words for an operator |
//!
//! Nothing here is asynchronous: a caller gives the store a thread of its own.

mod ballast;
pub mod check;
mod chunks;
mod copying;
mod directory;
pub mod disk;
pub mod disk_reserve;
pub mod disk_store;
pub mod document;
pub mod error;
#[cfg(target_os = "linux")]
pub mod flush_override;
mod footprint;
mod format;
mod hash_pages;
pub mod hint_log;
pub mod identity;
mod items;
mod log;
mod log_place;
pub mod memory_store;
pub mod recount;
pub mod rewrite;
mod rewritten;
pub mod run_note;
mod segments;
pub mod snapshot;
pub mod status;
pub mod store;
mod table;
mod totals;
mod tree;
mod witness;

pub use check::{Checked, Finding, check_directory, check_store};
pub use disk::{DirectoryFiles, DirectoryLock, SmallFiles, rename_directory};
pub use disk_reserve::{Change, DiskSpace};
pub use disk_store::{Compaction, DiskOptions, DiskStore, Durability};
pub use document::{load_document, peek_document, save_document};
pub use error::{Damage, StoreError};
pub use footprint::{Footprint, Tally, Totals};
pub use hint_log::{
    AppendFile, DiskAppendFile, HINTS_FILE, HintLog, HintsChecked, Opened, check_hints,
};
pub use identity::{Identity, IdentityError, LastStop, Started};
pub use items::{Item, Mutation, Page, PageLimit, PositionRange};
pub use log_place::LogPlace;
pub use memory_store::{MemoryDisk, MemoryFiles, MemoryHints, MemoryStore};
pub use recount::Recounted;
pub use rewrite::{RewriteError, Rewritten, rewrite_directory};
pub use run_note::{Run, RunNote, StoreOrigin};
pub use snapshot::{
    SnapshotError, SnapshotMade, SnapshotPage, check_snapshot_name, make_snapshot,
    remove_unfinished,
};
pub use status::StoreStatus;
pub use store::{Store, scan_past_losses};
pub use tree::Loss;
