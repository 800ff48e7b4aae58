//! Makes sled's writes survive a power cut, on Linux.
//!
//! sled 0.34 acknowledges a write after `sync_file_range(2)`, which commits neither the file's size nor
//! its extents nor the disk's write cache; its manual page warns of it in a paragraph of its own. After
//! a power cut the file then ends before data that sled had declared stable, and it does not open. sled
//! also reuses parts of its file in the belief that what it moved away is stable, so that one more
//! `fdatasync` after each flush would come too late.
//!
//! A symbol that the program defines goes before the one of the C library. So sled's call lands here,
//! and gets what it meant. Nothing else in a node calls `sync_file_range`. A test proves that sled's
//! calls arrive.
// A C symbol can't be given out, nor `fdatasync` called, without it.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Whether one has failed: what the disk holds is unknown from then on.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn fdatasync(fd: c_int) -> c_int;
}

/// `fdatasync` in the place of `sync_file_range`: the data, the size and the extents of the whole file.
///
/// # Safety
/// Takes no pointer and has no precondition: a bad descriptor gives -1 and `EBADF`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(
    fd: c_int,
    _offset: i64,
    _length: i64,
    _flags: c_uint,
) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: a plain system call on a descriptor; it leaves errno as our caller expects it.
    let result = unsafe { fdatasync(fd) };
    if result != 0 {
        // An atomic store leaves errno alone.
        HAS_FAILED.store(true, Ordering::Relaxed);
    }
    result
}

/// Whether a sync of sled's has failed in this process, for whatever reason.
pub(crate) fn has_failed() -> bool {
    HAS_FAILED.load(Ordering::Relaxed)
}

/// How often sled's writes went through here in this process. If it stands still while a store is
/// synced, this program was linked in a way that lost the override.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}
