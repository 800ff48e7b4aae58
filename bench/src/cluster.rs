//! A cluster of real `dynakv serve` processes on this machine, for as long as somebody needs one.
//!
//! The nodes are killed when the [`Cluster`] is dropped, so also after a panic or an early return. Where
//! `setpriv` is installed (it comes with util-linux) they also die when this process is killed: start a
//! cluster from a thread that lives as long as the cluster, because the kernel looks at the thread.
//! They do not get the terminal's Ctrl-C: whoever owns the cluster decides what that means.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dynakv_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

mod binary;
mod error;
mod ports;
mod resizing;

pub use binary::find_dynakv;
pub use error::ClusterError;
use error::READY_TIMEOUT;

/// How long a node gets to end in order: more than its own deadline for that.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// How often a node that is not ready yet is asked again.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long one question to a node may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How many lines of a log stand in an error.
const LOG_LINES: usize = 10;

/// How often a node looks for another port when somebody else was faster.
const PORT_ATTEMPTS: u32 = 10;

/// What kind of cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// How many nodes: node-1, node-2, and so on.
    pub nodes: usize,
    /// The `dynakv` binary; the one beside this executable when not given.
    pub dynakv: Option<PathBuf>,
    /// Where data and logs live; a temporary directory, removed with the cluster, when not given.
    pub directory: Option<PathBuf>,
    /// More arguments for each `dynakv serve`, such as `-w` and `1`.
    pub serve_arguments: Vec<String>,
}

/// A running cluster. Dropping it kills all nodes; [`stop`](Self::stop) ends them in order.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    dynakv: PathBuf,
    has_setpriv: bool,
    serve_arguments: Vec<String>,
    directory: PathBuf,
    // Dropped last: the nodes live in it.
    temporary: Option<TempDir>,
}

#[derive(Debug)]
struct Node {
    id: String,
    /// The HTTP port is 1,000 above.
    port: u16,
    /// Not for the first one, which founds the cluster.
    seed: Option<String>,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts all nodes and waits until each is ready and sees all of them alive.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing keeps running.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        if !(1..=50).contains(&options.nodes) {
            return Err(ClusterError::Nodes {
                nodes: options.nodes,
            });
        }
        let dynakv = find_dynakv(options.dynakv.as_deref())?;
        let (directory, temporary) = match options.directory {
            Some(directory) => (directory, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("dynakv-bench-").tempdir();
                let temporary = temporary.map_err(|source| ClusterError::Directory {
                    path: std::env::temp_dir(),
                    source,
                })?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let in_vain = |source| ClusterError::Directory {
            path: directory.clone(),
            source,
        };
        std::fs::create_dir_all(&directory).map_err(in_vain)?;
        // The nodes run in it, so relative paths would lead elsewhere.
        let directory = directory.canonicalize().map_err(in_vain)?;
        let mut cluster = Self {
            nodes: Vec::with_capacity(options.nodes),
            dynakv,
            has_setpriv: is_in_path("setpriv"),
            serve_arguments: options.serve_arguments,
            directory,
            temporary,
        };
        // The founder first: the others need to know where it listens.
        cluster.add(1, None)?;
        cluster.until_listening(0).await?;
        let founder = cluster.nodes[0].address();
        for number in 2..=options.nodes {
            cluster.add(number, Some(founder.clone()))?;
        }
        for index in 1..options.nodes {
            cluster.until_listening(index).await?;
        }
        cluster.wait_whole().await?;
        Ok(cluster)
    }

    /// Where the nodes are reached, `host:port`.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// Where their metrics are, `host:port`.
    pub fn http_addresses(&self) -> Vec<String> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| format!("127.0.0.1:{}", node.port + ports::HTTP_OFFSET))
            .collect()
    }

    /// Their process ids; none for those that were killed.
    pub fn pids(&self) -> Vec<Option<u32>> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| node.child.as_ref().and_then(Child::id))
            .collect()
    }

    /// How many nodes it has, running or not.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The name of a node.
    pub fn id(&self, index: usize) -> &str {
        &self.nodes[index].id
    }

    /// Where data and logs live.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps the directory, also a temporary one, beyond the cluster's end.
    pub fn keep_directory(&mut self) -> &Path {
        if let Some(temporary) = self.temporary.take() {
            let _same = temporary.keep();
        }
        &self.directory
    }

    /// kill -9. The process is gone when this returns.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub async fn kill(&mut self, index: usize) -> Result<(), ClusterError> {
        let node = &mut self.nodes[index];
        if let Some(mut child) = node.child.take() {
            let killed = child.kill().await;
            killed.map_err(|source| node.process_error(source))?;
        }
        Ok(())
    }

    /// Starts a node again that was killed, on its directory and port, and waits until all nodes are
    /// ready and see each other.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn restart(&mut self, index: usize) -> Result<(), ClusterError> {
        self.kill(index).await?;
        self.spawn(index)?;
        self.wait_whole().await
    }

    /// Starts a killed node again and does not wait: needed where several are down.
    /// [`wait_whole`](Self::wait_whole) waits for all. Nothing happens when it runs.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn restart_without_waiting(&mut self, index: usize) -> Result<(), ClusterError> {
        match self.nodes[index].child {
            Some(_) => Ok(()),
            None => self.spawn(index),
        }
    }

    /// Waits until each node is ready, has all of them in its ring, and sees all of them alive.
    ///
    /// # Errors
    /// [`ClusterError`] with the end of the log of the node that is not.
    pub async fn wait_whole(&mut self) -> Result<(), ClusterError> {
        let size = self.nodes.len();
        let deadline = Instant::now() + READY_TIMEOUT;
        for index in 0..size {
            loop {
                let reason = match self.nodes[index].sees(size).await {
                    Ok(()) => break,
                    Err(reason) => reason,
                };
                self.expect_running(index)?;
                if Instant::now() >= deadline {
                    return Err(self.nodes[index].not_ready(reason));
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Ends all nodes in order, those that take too long with kill -9.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        let children = self.nodes.iter().filter_map(|node| node.child.as_ref());
        for pid in children.filter_map(Child::id) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // It was not waited for, so the pid is its own; it may have ended by itself.
                let _ended = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for index in 0..self.nodes.len() {
            if let Some(child) = &mut self.nodes[index].child {
                let left = deadline.saturating_duration_since(Instant::now());
                let _too_slow = timeout(left, child.wait()).await;
            }
            self.kill(index).await?;
        }
        Ok(())
    }

    fn add(&mut self, number: usize, seed: Option<String>) -> Result<(), ClusterError> {
        let id = format!("node-{number}");
        self.nodes.push(Node {
            port: 0,
            seed,
            data_dir: self.directory.join(&id),
            log: self.directory.join(format!("{id}.log")),
            child: None,
            id,
        });
        let index = self.nodes.len() - 1;
        self.nodes[index].port = self.free_port(index)?;
        self.spawn(index)
    }

    /// A port that stays the node's own over restarts.
    fn free_port(&self, index: usize) -> Result<u16, ClusterError> {
        let (start, end) = ports::range();
        let taken: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        ports::free_port(start..end, &taken).ok_or_else(|| ClusterError::NoPort {
            id: self.nodes[index].id.clone(),
            end,
        })
    }

    fn spawn(&mut self, index: usize) -> Result<(), ClusterError> {
        let node = &self.nodes[index];
        let directory_error = |source| ClusterError::Directory {
            path: node.log.clone(),
            source,
        };
        let log = File::options().create(true).append(true).open(&node.log);
        let log = log.map_err(directory_error)?;
        let mut command = if self.has_setpriv {
            // It becomes the node: the process id stays.
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "KILL", "--"])
                .arg(&self.dynakv);
            command
        } else {
            Command::new(&self.dynakv)
        };
        command
            .current_dir(&self.directory)
            .args(["serve", "--id", &node.id])
            .args(["--port", &node.port.to_string()])
            .arg("--data-dir")
            .arg(&node.data_dir);
        if let Some(seed) = &node.seed {
            command.args(["--seed", seed]);
        }
        command.args(&self.serve_arguments);
        // What is set for a node of somebody else's must not reach these.
        for (name, _) in std::env::vars_os() {
            let is_setting = |name: &str| name.starts_with("DYNAKV_") && name != "DYNAKV_LOG";
            if name.to_str().is_some_and(is_setting) {
                command.env_remove(&name);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(directory_error)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let child = child.map_err(|source| node.process_error(source))?;
        self.nodes[index].child = Some(child);
        Ok(())
    }

    /// Waits until a new node answers. When somebody took its port meanwhile, it gets another.
    async fn until_listening(&mut self, index: usize) -> Result<(), ClusterError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut attempts = 1;
        loop {
            let reason = match self.nodes[index].answers().await {
                Ok(()) => return Ok(()),
                Err(reason) => reason,
            };
            if let Err(error) = self.expect_running(index) {
                let log = self.nodes[index].log_tail();
                if attempts == PORT_ATTEMPTS || !log.contains("cannot listen on") {
                    return Err(error);
                }
                attempts += 1;
                self.nodes[index].port = self.free_port(index)?;
                self.spawn(index)?;
            } else if Instant::now() >= deadline {
                return Err(self.nodes[index].not_ready(reason));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn expect_running(&mut self, index: usize) -> Result<(), ClusterError> {
        let node = &mut self.nodes[index];
        let ended = match &mut node.child {
            Some(child) => child.try_wait(),
            None => Ok(None),
        };
        match ended.map_err(|source| node.process_error(source))? {
            None => Ok(()),
            Some(status) => Err(ClusterError::Ended {
                id: node.id.clone(),
                status,
                log: node.log.clone(),
                tail: node.log_tail(),
            }),
        }
    }
}

impl Node {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn client(&self) -> Result<Client, String> {
        let client = Client::builder()
            .seeds([self.address()])
            .timeout(ASK_TIMEOUT)
            .ring_routing(false);
        client.build().await.map_err(|error| error.to_string())
    }

    /// Whether it is this node that answers on its port.
    async fn answers(&self) -> Result<(), String> {
        let health = self.client().await?.health().await;
        let health = health.map_err(|error| error.to_string())?;
        if health.node_id.as_str() == self.id {
            Ok(())
        } else {
            Err(format!("{} answers on its port", health.node_id))
        }
    }

    /// Whether it is ready and sees `size` members, all alive.
    async fn sees(&self, size: usize) -> Result<(), String> {
        self.answers().await?;
        let client = self.client().await?;
        let health = client.health().await.map_err(|error| error.to_string())?;
        if !health.ready {
            return Err(health.reason);
        }
        let stats = client.stats().await.map_err(|error| error.to_string())?;
        let (members, alive) = (stats.total_nodes as usize, stats.alive_nodes as usize);
        if (members, alive) == (size, size) {
            Ok(())
        } else {
            Err(format!(
                "it has {members} members in its ring and sees {alive} alive, of {size}"
            ))
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn not_ready(&self, reason: String) -> ClusterError {
        ClusterError::NotReady {
            id: self.id.clone(),
            reason,
            log: self.log.clone(),
            tail: self.log_tail(),
        }
    }

    fn process_error(&self, source: io::Error) -> ClusterError {
        ClusterError::Process {
            id: self.id.clone(),
            source,
        }
    }
}

/// Whether a program of this name can be started.
fn is_in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
