//! A node of a development cluster ends with the process that started it, however that one ends.
//!
//! `dev` holds the writing end of a pipe, the standard input of each of its nodes, and never writes. The system
//! closes it when `dev` is gone, also where nobody could have told the nodes: after SIGKILL.

use std::io::{self, Read};
use std::thread;

use rustix::process::{Signal, getpid, kill_process};

/// The hidden option of `serve` that says so. Without it standard input means nothing to a node.
pub(super) const ENDS_WITH_STDIN: &str = "--ends-with-stdin";

/// From now on this process ends in order, as by SIGTERM, when its standard input does.
///
/// # Errors
/// The system's, when it gives no thread.
pub(crate) fn end_with_stdin() -> io::Result<()> {
    let watch = || {
        let mut nothing = [0; 64];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut nothing) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        // Before the node listens for the signal it ends at once, and nothing has been written then.
        let _itself = kill_process(getpid(), Signal::TERM);
    };
    thread::Builder::new()
        .name("parent".to_owned())
        .spawn(watch)
        .map(drop)
}
