//! The processes of a development cluster: started, watched, and ended together.

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::arguments::DevArgs;
use super::error::DevError;
use super::parent::ENDS_WITH_STDIN;
use super::plan::Plan;
use crate::cli::exit::Exit;

/// How long the nodes get to end by themselves: more than their own shutdown deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// How many lines of the log of a node that did not start are shown.
const LOG_LINES: usize = 5;

/// A node that was started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) plan: Plan,
    pub(super) pid: u32,
    pub(super) alive: bool,
}

/// The end of a node's process: which one, and how.
pub(super) type Ended = (usize, io::Result<ExitStatus>);

/// Starts all planned nodes; those started before a failure are in `nodes`.
pub(super) fn start_all(
    args: &DevArgs,
    plans: Vec<Plan>,
    nodes: &mut Vec<Running>,
    ended: &mpsc::Sender<Ended>,
) -> Result<(), DevError> {
    for plan in plans {
        let index = nodes.len();
        let (pid, waiting) = start(args, &plan)?;
        nodes.push(Running {
            plan,
            pid,
            alive: true,
        });
        let ended = ended.clone();
        tokio::spawn(async move {
            let end = waiting.await;
            let _nobody_listens = ended.send((index, end)).await;
        });
    }
    Ok(())
}

/// Starts a node's process, with its output in its log. The process is killed with the future.
fn start(
    args: &DevArgs,
    plan: &Plan,
) -> Result<(u32, impl Future<Output = io::Result<ExitStatus>> + use<>), DevError> {
    let directory = |source| DevError::Directory {
        path: args.data_dir.clone(),
        source,
    };
    fs::create_dir_all(&args.data_dir).map_err(directory)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(&plan.log)
        .map_err(directory)?;
    let spawn = |source| DevError::Spawn {
        id: plan.id.clone(),
        source,
    };
    let mut command = Command::new(std::env::current_exe().map_err(spawn)?);
    command
        .args(["serve", "--id", &plan.id, "--port", &plan.port.to_string()])
        .args(["--http-port", &plan.http_port.to_string()])
        .arg(ENDS_WITH_STDIN)
        .arg("--data-dir")
        .arg(&plan.data_dir);
    for seed in &plan.seeds {
        command.args(["--seed", seed]);
    }
    for (flag, quorum) in [("-n", args.n), ("-w", args.w), ("-r", args.r)] {
        if let Some(quorum) = quorum {
            command.args([flag, &quorum.to_string()]);
        }
    }
    // What is set for one node must not reach all of them.
    for (name, _) in std::env::vars_os() {
        let is_setting = |name: &str| name.starts_with("DYNAKV_") && name != "DYNAKV_LOG";
        if name.to_str().is_some_and(is_setting) {
            command.env_remove(&name);
        }
    }
    let mut child = command
        // Closed by the system when this process is gone: see `parent`.
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(directory)?)
        .stderr(log)
        // Ctrl-C reaches this process only, which then ends the nodes in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(spawn)?;
    let pid = child
        .id()
        .ok_or_else(|| spawn(io::Error::other("it ended at once")))?;
    // Waiting would close it.
    let stdin = child.stdin.take();
    Ok((pid, async move {
        let end = child.wait().await;
        drop(stdin);
        end
    }))
}

/// The error for a node that ended too soon, with the end of its log.
pub(super) fn ended_early(nodes: &mut [Running], (index, status): Ended) -> DevError {
    let node = &mut nodes[index];
    node.alive = false;
    let text = fs::read(&node.plan.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    DevError::NodeEnded {
        id: node.plan.id.clone(),
        status: status_text(&status),
        log: node.plan.log.clone(),
        tail,
    }
}

fn status_text(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Reports nodes that end by themselves, until a signal comes or none is left.
pub(super) async fn watch(
    nodes: &mut [Running],
    ended: &mut mpsc::Receiver<Ended>,
    stop: &mut StopSignals,
) -> Exit {
    loop {
        tokio::select! {
            () = stop.received() => return Exit::Ok,
            Some((index, status)) = ended.recv() => {
                let node = &mut nodes[index];
                node.alive = false;
                say(&format!(
                    "dynakv: {} (pid {}) ended: {}; its log is {}\n",
                    node.plan.id,
                    node.pid,
                    status_text(&status),
                    node.plan.log.display()
                ));
                if nodes.iter().all(|node| !node.alive) {
                    say("dynakv: no node is left\n  next: dynakv dev\n");
                    return Exit::Error;
                }
            }
        }
    }
}

/// Ends all nodes: SIGTERM, and SIGKILL for those that take too long or at a second Ctrl-C.
pub(super) async fn stop_all(
    nodes: &mut [Running],
    ended: &mut mpsc::Receiver<Ended>,
    stop: &mut StopSignals,
) {
    if nodes.iter().any(|node| node.alive) {
        say("dynakv: stopping the nodes\n");
    }
    send_all(nodes, Signal::TERM);
    let in_time = timeout(STOP_TIMEOUT, async {
        tokio::select! {
            () = all_ended(nodes, ended) => true,
            () = stop.received() => false,
        }
    });
    if !in_time.await.unwrap_or(false) {
        say("dynakv: killing the nodes that still run\n");
        send_all(nodes, Signal::KILL);
        all_ended(nodes, ended).await;
    }
}

async fn all_ended(nodes: &mut [Running], ended: &mut mpsc::Receiver<Ended>) {
    while nodes.iter().any(|node| node.alive) {
        match ended.recv().await {
            Some((index, _)) => nodes[index].alive = false,
            None => return,
        }
    }
}

fn send_all(nodes: &[Running], signal: Signal) {
    for node in nodes.iter().filter(|node| node.alive) {
        let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended a moment ago; that is what was wanted.
            let _ended_already = kill_process(pid, signal);
        }
    }
}

/// Whatever ends a program that runs in the foreground.
pub(super) struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Begins to listen; from then on the signals do not end this process any more.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

pub(super) fn say(message: &str) {
    let _nowhere_to_say_so = io::stderr().write_all(message.as_bytes());
}
