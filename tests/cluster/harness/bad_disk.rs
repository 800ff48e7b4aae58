//! A disk that misbehaves on demand: a small library in C, loaded before the C library's own calls.
//!
//! It fails, hangs or is slow while a file exists, so that a test switches it on and off in a process
//! that runs. Where no C compiler is, or elsewhere than on Linux, a test that needs it says so and passes.

use std::path::{Path, PathBuf};

use super::node::Node;
use crate::preload;

/// `fdatasync` fails, and with `fsync` hangs or is slow, while the file exists that a variable names.
const LIBRARY: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int there(const char *name) {
    const char *path = getenv(name);
    return path && access(path, F_OK) == 0;
}

static void linger(void) {
    while (there("TEST_DISK_HANGS_IF"))
        usleep(2000);
    if (there("TEST_DISK_IS_SLOW_IF"))
        usleep(200 * 1000);
}

int fdatasync(int fd) {
    if (there("TEST_DISK_IS_BROKEN_IF")) {
        errno = EIO;
        return -1;
    }
    linger();
    return syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    linger();
    return syscall(SYS_fsync, fd);
}
"#;

/// The library, built, and the files that switch it.
pub(crate) struct BadDisks {
    library: PathBuf,
    root: PathBuf,
}

/// What a disk does while it is switched so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `fdatasync` says EIO.
    Broken,
    /// No sync returns.
    Hanging,
    /// Each sync takes 200 ms more.
    Slow,
}

impl Fault {
    fn variable(self) -> &'static str {
        match self {
            Self::Broken => "TEST_DISK_IS_BROKEN_IF",
            Self::Hanging => "TEST_DISK_HANGS_IF",
            Self::Slow => "TEST_DISK_IS_SLOW_IF",
        }
    }
}

impl BadDisks {
    /// Builds the library in this directory; says why it cannot, when it cannot.
    pub(crate) fn build(root: &Path) -> Option<Self> {
        match preload::build(root, "bad_disk", LIBRARY) {
            Ok(library) => Some(Self {
                library,
                root: root.to_owned(),
            }),
            Err(reason) => {
                skipped!("no library can be built here: {reason}");
                None
            }
        }
    }

    /// The node, not started yet, with a disk that can be switched.
    pub(crate) fn under(&self, node: Node) -> Node {
        let mut settings = vec![("LD_PRELOAD", self.library.display().to_string())];
        for fault in [Fault::Broken, Fault::Hanging, Fault::Slow] {
            let switch = self.switch(&node.id, fault);
            settings.push((fault.variable(), switch.display().to_string()));
        }
        let settings = settings.iter();
        let settings: Vec<_> = settings.map(|(name, value)| (*name, &**value)).collect();
        node.with_settings(&settings)
    }

    /// From now on the node's disk has this fault.
    #[track_caller]
    pub(crate) fn begin(&self, node: &str, fault: Fault) {
        std::fs::write(self.switch(node, fault), "").expect("the directory is there");
    }

    /// From now on it has it no more.
    #[track_caller]
    pub(crate) fn end(&self, node: &str, fault: Fault) {
        std::fs::remove_file(self.switch(node, fault)).expect("it was begun");
    }

    fn switch(&self, node: &str, fault: Fault) -> PathBuf {
        self.root.join(format!("{node}-{fault:?}"))
    }
}
