//! A node: its directory and address stay, its processes come and go.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;
use serde_json::Value;

use super::command::{Command, Finished, binary, binary_at, binary_limited};
use super::http::{Page, http_get};
use super::ports::free_port;
use super::process::Process;
use super::wait::eventually;

/// A node with the default data directory under its root and the default HTTP port.
pub(crate) struct Node {
    /// Its name.
    pub(crate) id: String,
    /// Its port; the HTTP port is 1,000 above.
    pub(crate) port: u16,
    root: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    ulimit: Option<String>,
    /// Of another version, in place of the one under test.
    binary: Option<PathBuf>,
    process: Option<Process>,
}

impl Node {
    /// A node that is not started yet: `serve --id ID --port PORT`, in the directory `root`.
    pub(crate) fn new(root: &Path, id: &str) -> Self {
        Self::at_port(root, id, free_port())
    }

    /// The same at a port that is known to be free.
    pub(crate) fn at_port(root: &Path, id: &str, port: u16) -> Self {
        let port_text = port.to_string();
        let arguments = ["serve", "--id", id, "--port", &port_text];
        Self {
            id: id.to_owned(),
            port,
            root: root.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            environment: Vec::new(),
            ulimit: None,
            binary: None,
            process: None,
        }
    }

    /// With more arguments.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With more settings.
    pub(crate) fn with_settings(mut self, settings: &[(&str, &str)]) -> Self {
        let owned = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.extend(owned);
        self
    }

    /// In a process that may have so many file descriptors.
    pub(crate) fn with_descriptors(mut self, limit: u64) -> Self {
        self.ulimit = Some(format!("-n {limit}"));
        self
    }

    /// The same, for the soft limit alone.
    pub(crate) fn with_soft_descriptors(mut self, limit: u64) -> Self {
        self.ulimit = Some(format!("-Sn {limit}"));
        self
    }

    /// Run by the binary of another version, or by the one under test again.
    pub(crate) fn with_binary(mut self, binary: Option<&Path>) -> Self {
        self.set_binary(binary);
        self
    }

    /// The same for its next start.
    pub(crate) fn set_binary(&mut self, binary: Option<&Path>) {
        self.binary = binary.map(Path::to_owned);
    }

    /// Where it is reached.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its data lives: the default.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.root.join("dynakv-data").join(&self.id)
    }

    /// Starts its process.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        let running = self
            .process
            .as_mut()
            .is_some_and(|process| process.ended().is_none());
        assert!(!running, "{} runs already", self.id);
        let binary = match (&self.ulimit, &self.binary) {
            (Some(ulimit), _) => binary_limited(ulimit),
            (None, Some(other)) => binary_at(other),
            (None, None) => binary(),
        };
        let (root, arguments) = (&self.root, &self.arguments);
        let process = Process::start_as(binary, &self.id, root, arguments, &self.environment);
        self.process = Some(process.expect("the binary was just built"));
    }

    /// kill -9.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process_mut().kill();
    }

    /// SIGTERM, and gives back how the process ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process_mut().signal(Signal::TERM);
        self.process_mut().wait()
    }

    /// SIGTERM, after which it must end in order.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        assert_eq!(self.terminate().code(), Some(0));
    }

    /// Starts, and waits until it can coordinate requests.
    #[track_caller]
    pub(crate) fn start_ready(&mut self) {
        self.start();
        self.wait_ready();
    }

    /// Waits until the process ends by itself; gives its exit code and its standard error.
    #[track_caller]
    pub(crate) fn ends_by_itself(&mut self) -> (Option<i32>, String) {
        let status = self.process_mut().wait();
        (status.code(), self.process_mut().stderr())
    }

    /// Its process.
    #[track_caller]
    pub(crate) fn process_mut(&mut self) -> &mut Process {
        match &mut self.process {
            Some(process) => process,
            None => panic!("{} was never started", self.id),
        }
    }

    /// Whether its process runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// Runs a command with this node as the only server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        self.command(arguments).run()
    }

    /// The same command, to be given more before it runs.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let address = self.address();
        let server = ["--server", &*address];
        Command::new(server.iter().chain(arguments))
    }

    /// Its statistics.
    pub(crate) fn stats(&self) -> Result<Value, String> {
        let finished = self.run(&["stats", "--output", "json"]);
        match finished.code {
            Some(0) => Ok(finished.json()),
            _ => Err(format!("{finished:?}")),
        }
    }

    /// One number of its statistics, such as `/total_keys`.
    pub(crate) fn stat(&self, pointer: &str) -> Result<u64, String> {
        let stats = self.stats()?;
        let number = stats.pointer(pointer).and_then(Value::as_u64);
        number.ok_or_else(|| format!("no {pointer} in {stats}"))
    }

    /// What it thinks of another member: its state, and the exit code of `status`.
    pub(crate) fn opinion_of(&self, other: &str) -> Result<(String, Option<i32>), String> {
        let finished = self.run(&["status", "--output", "json"]);
        let status: Value =
            serde_json::from_slice(&finished.stdout).map_err(|_| format!("{finished:?}"))?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let member = members.into_iter().find(|member| member["id"] == other);
        match member.as_ref().and_then(|member| member["state"].as_str()) {
            Some(state) => Ok((state.to_owned(), finished.code)),
            None => Err(format!("no member {other}: {status}")),
        }
    }

    /// Waits until it can coordinate requests.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let what = format!("{} is ready", self.id);
        eventually(&what, || {
            if !self.runs() {
                return Err(format!("it has ended: {}", self.process_mut().stderr()));
            }
            let finished = self.run(&["health"]);
            if finished.code == Some(0) {
                Ok(())
            } else {
                Err(format!("{finished:?}"))
            }
        });
    }

    /// One number of its metrics: of the first series of this name that has this in its labels.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<u64, String> {
        let page = self.page("/metrics")?.body;
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
        };
        let line = page.lines().find(is_it);
        let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        number.ok_or_else(|| format!("no {name} with {label:?}: {line:?}"))
    }

    /// Waits until so many data links to others stand.
    #[track_caller]
    pub(crate) fn has_links(&self, expected: u64) {
        let what = format!("{} has {expected} links", self.id);
        eventually(&what, || match self.metric("dynakv_links", "")? {
            links if links == expected => Ok(()),
            links => Err(format!("{links}")),
        });
    }

    /// A page of its HTTP port.
    pub(crate) fn page(&self, path: &str) -> Result<Page, String> {
        http_get(self.port + 1000, path)
    }
}
