//! The command line, run to its end.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::{self, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any command may take: their own deadline is 5 s.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A command to run, without any setting of the environment it is run in.
pub(crate) struct Command {
    command: process::Command,
    input: Vec<u8>,
}

/// How a command ended.
pub(crate) struct Finished {
    line: String,
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its standard output, byte for byte.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs `dynakv` with these arguments.
pub(crate) fn dynakv<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    Command::new(arguments).run()
}

/// What a person types, to be run by a shell that finds the binaries and has no setting of theirs.
pub(crate) fn in_shell(script: &str) -> process::Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_dynakv")).parent();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let folders = folder
        .map(Path::to_owned)
        .into_iter()
        .chain(std::env::split_paths(&others));
    let path = std::env::join_paths(folders).expect("no folder has a colon in its name");
    let mut command = without_settings(Path::new("sh"));
    command.args(["-c", script]).env("PATH", path);
    command
}

/// The binary, with no setting from the environment.
pub(crate) fn binary() -> process::Command {
    binary_at(Path::new(env!("CARGO_BIN_EXE_dynakv")))
}

/// The same of another version.
pub(crate) fn binary_at(path: &Path) -> process::Command {
    without_settings(path)
}

fn without_settings(path: &Path) -> process::Command {
    let mut command = process::Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DYNAKV_") {
            command.env_remove(name);
        }
    }
    command
}

/// The same in a process that may have so many file descriptors: `ulimit` takes `-n 256`, or `-Sn 256` for the
/// soft limit alone.
pub(crate) fn binary_limited(ulimit: &str) -> process::Command {
    let unlimited = binary();
    let mut command = process::Command::new("sh");
    let script = format!("ulimit {ulimit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(unlimited.get_program());
    for (name, value) in unlimited.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

impl Command {
    /// `dynakv` with these arguments, in a process that may have so many file descriptors.
    pub(crate) fn with_descriptors<S: AsRef<OsStr>>(
        limit: u64,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = binary_limited(&format!("-n {limit}"));
        command.args(arguments);
        Self {
            command,
            input: Vec::new(),
        }
    }

    /// `dynakv` with these arguments.
    pub(crate) fn new<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut command = binary();
        command.args(arguments);
        Self {
            command,
            input: Vec::new(),
        }
    }

    /// With this standard input.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// With this variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// In this directory.
    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it to its end; one that does not end is killed, and the test with it.
    pub(crate) fn run(mut self) -> Finished {
        let line = format!("{:?}", self.command);
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the binary was just built");
        let pid = Pid::from_child(&child);
        let mut stdin = child.stdin.take().expect("it is piped");
        let (ended, end) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that does not read all of it closes its end.
                let _unread = stdin.write_all(&self.input);
            });
            scope.spawn(move || ended.send(child.wait_with_output()));
            let output = match end.recv_timeout(TIMEOUT) {
                Ok(output) => output.expect("its output is read to the end"),
                Err(_) => {
                    // It is a child that has not been waited for, so the pid is still its own.
                    let _ended_meanwhile = kill_process(pid, Signal::KILL);
                    panic!("{line} did not end within {TIMEOUT:?}");
                }
            };
            Finished {
                line,
                code: output.status.code(),
                stdout: output.stdout,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }
        })
    }
}

impl Finished {
    /// Panics, with all that the command said, unless it ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Standard output as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        match std::str::from_utf8(&self.stdout) {
            Ok(text) => text,
            Err(error) => panic!("{error}: {self:?}"),
        }
    }

    /// Standard output as one JSON document on one line.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let text = self.text();
        assert_eq!(text.matches('\n').count(), 1, "one line: {self:?}");
        match serde_json::from_str(text) {
            Ok(document) => document,
            Err(error) => panic!("{error}: {self:?}"),
        }
    }

    /// Panics unless standard error has this in it.
    #[track_caller]
    pub(crate) fn says(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "not said: {part:?}: {self:?}");
        self
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout: String = String::from_utf8_lossy(&self.stdout)
            .chars()
            .take(2000)
            .collect();
        write!(
            f,
            "{}\n  exit code: {:?}\n  standard output: {stdout:?}\n  standard error: {}",
            self.line, self.code, self.stderr
        )
    }
}
