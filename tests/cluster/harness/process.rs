//! A process in the background, whose output goes to a file, and which never outlives its test.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::command::binary;
use super::wait::eventually;

/// How many lines of a log are shown when a test fails.
const LOG_LINES: usize = 80;

/// A process that runs, or has ended and was not asked about yet.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// How much of these was there before it started.
    earlier: (usize, usize),
}

impl Process {
    /// Starts `dynakv` in `directory`. Its output is appended to files there, named after it.
    pub(crate) fn start(
        name: &str,
        directory: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> io::Result<Self> {
        Self::start_as(binary(), name, directory, arguments, environment)
    }

    /// The same with another binary, or in another surrounding.
    pub(crate) fn start_as(
        mut command: Command,
        name: &str,
        directory: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> io::Result<Self> {
        let (stdout, stderr) = (
            directory.join(format!("{name}.stdout")),
            directory.join(format!("{name}.stderr")),
        );
        let earlier = (read(&stdout).len(), read(&stderr).len());
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let child = command
            .current_dir(directory)
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(open(&stdout)?)
            .stderr(open(&stderr)?)
            .spawn()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            earlier,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What this process wrote to standard output, and none before it under the same name.
    pub(crate) fn stdout(&self) -> String {
        since(&self.stdout, self.earlier.0)
    }

    /// The same of standard error, where the log goes.
    pub(crate) fn stderr(&self) -> String {
        since(&self.stderr, self.earlier.1)
    }

    /// kill -9, and gone when it returns.
    pub(crate) fn kill(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }

    /// Sends a signal; nothing happens when it has ended already.
    pub(crate) fn signal(&self, signal: Signal) {
        // It was not waited for, so the pid is still its own.
        let _ended = kill_process(Pid::from_child(&self.child), signal);
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, || self.ended().ok_or_else(|| "it runs".to_owned()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            for (kind, path) in [("output", &self.stdout), ("log", &self.stderr)] {
                eprint!("{}", tail(&self.name, kind, &read(path)));
            }
        }
    }
}

/// A file's text from this byte on.
fn since(path: &Path, earlier: usize) -> String {
    read(path).get(earlier..).unwrap_or_default().to_owned()
}

/// Whether a process of this id exists.
pub(crate) fn is_running(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tail(name: &str, kind: &str, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let left_out = lines.len().saturating_sub(LOG_LINES);
    let mut shown = format!("---- {kind} of {name} ({left_out} lines left out)\n");
    for line in &lines[left_out..] {
        shown.push_str(line);
        shown.push('\n');
    }
    shown
}
