//! A process that comes to its end in the midst of a write: a small library in C, loaded before the C library's
//! own calls.
//!
//! It writes half of what sled notes of itself when it opens, and then sends its own process a signal.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::preload;

const LIBRARY: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char unfinished[] = ".generating";

ssize_t write(int fd, const void *bytes, size_t count) {
    const char *signal = getenv("TEST_HALFWAY_SIGNAL");
    if (signal) {
        char link[64], path[4096];
        size_t end = sizeof(unfinished) - 1;
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof(path));
        if (length > (ssize_t)end && memcmp(path + length - end, unfinished, end) == 0) {
            syscall(SYS_write, fd, bytes, count / 2);
            kill(getpid(), atoi(signal));
            /* Another thread may take it first: this one goes no further. */
            for (;;) pause();
        }
    }
    return syscall(SYS_write, fd, bytes, count);
}
"#;

/// Builds the library in this directory; says why it cannot, when it cannot.
pub(crate) fn build(directory: &Path) -> Result<PathBuf, String> {
    preload::build(directory, "halfway", LIBRARY)
}

/// The command, which will get this signal halfway.
pub(crate) fn halfway<'a>(
    command: &'a mut Command,
    library: &Path,
    signal: rustix::process::Signal,
) -> &'a mut Command {
    command
        .env("LD_PRELOAD", library)
        .env("TEST_HALFWAY_SIGNAL", signal.as_raw().to_string())
}
