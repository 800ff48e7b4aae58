//! `dev`: a whole cluster on this machine, one process per node, until Ctrl-C.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use dynakv_client::{Client, RingReply};
use dynakv_storage::disk::LOCK_FILE;
use dynakv_storage::{DirectoryLock, StoreError};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::blocking::{block_on, runtime_error};
use super::exit::Exit;
use super::node_info::{RingSummary, ring_text};
use super::output::{Format, Heading, Report, Table, json_line};

mod arguments;
mod error;
mod parent;
mod plan;
mod processes;
mod shape;

pub(crate) use arguments::DevArgs;
use error::{DevError, READY_TIMEOUT};
pub(super) use parent::end_with_stdin;
use plan::Plan;
use processes::{Running, StopSignals, ended_early, say, start_all, stop_all, watch};
use shape::{Found, Shape};

/// How often a node that is not ready yet is asked again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How far a node's HTTP port is from its port.
const HTTP_PORT_OFFSET: u16 = 1000;

/// Runs the cluster until Ctrl-C, SIGTERM or SIGHUP.
pub(crate) fn run(args: DevArgs, format: Format) -> Exit {
    let outcome = block_on(async {
        match dev(&args, format).await {
            Ok(exit) => exit,
            Err(error) => {
                let next = error.next(&args);
                Report::error(error.exit(), format, &error.to_string(), &next).print()
            }
        }
    });
    outcome.unwrap_or_else(|error| runtime_error(format, &error).print())
}

async fn dev(args: &DevArgs, format: Format) -> Result<Exit, DevError> {
    let plans = plan(args)?;
    for plan in &plans {
        check_port(plan.port)?;
        check_port(plan.http_port)?;
    }
    take_directory(args, &plans)?;
    let mut stop = StopSignals::new().map_err(DevError::Signals)?;
    let (sender, mut ended) = mpsc::channel(plans.len());
    let mut nodes = Vec::new();
    let started = start_all(args, plans, &mut nodes, &sender);
    let ready = match started {
        Ok(()) => tokio::select! {
            ready = until_ready(&nodes, &args.data_dir) => ready.map(Some),
            Some(end) = ended.recv() => Err(ended_early(&mut nodes, end)),
            () = stop.received() => Ok(None),
        },
        Err(error) => Err(error),
    };
    match ready {
        Ok(Some(ring)) => {
            let shape = Shape {
                n: Some(ring.document.n),
                w: Some(ring.document.w),
                r: Some(ring.document.r),
                ..args.shape()
            };
            if let Err(error) = shape::mark(&args.data_dir, &shape) {
                // The nodes run; only a later start knows less.
                let directory = args.data_dir.display();
                say(&format!(
                    "dynakv: warning: cannot write to {directory}: {error}\n"
                ));
            }
            Report::data(Exit::Ok, introduction(&nodes, &ring, args, format)).print();
            let exit = watch(&mut nodes, &mut ended, &mut stop).await;
            stop_all(&mut nodes, &mut ended, &mut stop).await;
            Ok(exit)
        }
        Ok(None) => {
            stop_all(&mut nodes, &mut ended, &mut stop).await;
            Ok(Exit::Ok)
        }
        Err(error) => {
            stop_all(&mut nodes, &mut ended, &mut stop).await;
            Err(error)
        }
    }
}

/// Makes sure that what is in the directory is what is asked for, or moves it aside, and marks the directory.
fn take_directory(args: &DevArgs, plans: &[Plan]) -> Result<(), DevError> {
    let directory = || args.data_dir.clone();
    let failed = |source| DevError::Directory {
        path: directory(),
        source,
    };
    let aside_failed = |source| DevError::Aside {
        directory: directory(),
        source,
    };
    let asked = args.shape();
    match shape::look(&args.data_dir).map_err(failed)? {
        Found::Nothing => {}
        Found::Cluster(made) if args.fresh => {
            let before = DevArgs {
                nodes: made.nodes,
                base_port: made.base_port,
                ..args.clone()
            };
            let old = plan(&before)?;
            // Held until all is moved.
            let _locks = old
                .iter()
                .map(|node| lock_unused(node, args))
                .collect::<Result<Vec<_>, _>>()?;
            let aside = shape::aside(&args.data_dir);
            say(&format!(
                "dynakv: the cluster that was in {} goes to {}\n",
                args.data_dir.display(),
                aside.display()
            ));
            shape::move_aside(&args.data_dir, &old, &aside).map_err(aside_failed)?;
        }
        Found::Unmarked(_) if args.fresh => {
            return Err(DevError::NotOurs {
                directory: directory(),
            });
        }
        Found::Cluster(made) if made.fits(&asked) => return Ok(()),
        Found::Cluster(made) => {
            return Err(DevError::OtherShape {
                directory: directory(),
                made,
            });
        }
        // Made before there were marks: it gets one once it is ready.
        Found::Unmarked(found) if usize::from(found) == plans.len() => return Ok(()),
        Found::Unmarked(found) => {
            return Err(DevError::OtherNumber {
                directory: directory(),
                found,
                asked: args.nodes,
            });
        }
    }
    shape::mark(&args.data_dir, &asked).map_err(failed)
}

/// The lock that a node holds in its directory while it runs, if there is a directory.
fn lock_unused(node: &Plan, args: &DevArgs) -> Result<Option<DirectoryLock>, DevError> {
    match DirectoryLock::take(&node.data_dir, LOCK_FILE) {
        Ok(lock) => Ok(Some(lock)),
        Err(StoreError::Locked { .. }) => Err(DevError::InUse {
            directory: args.data_dir.clone(),
        }),
        // Where it cannot be opened, nothing can be moved either, and that says why.
        Err(_) => Ok(None),
    }
}

/// Names, ports and directories. The first node founds the cluster, the others ask the first two.
fn plan(args: &DevArgs) -> Result<Vec<Plan>, DevError> {
    let too_high = DevError::PortsTooHigh {
        nodes: args.nodes,
        base_port: args.base_port,
    };
    let last = args.base_port.checked_add(args.nodes - 1);
    if last
        .and_then(|last| last.checked_add(HTTP_PORT_OFFSET))
        .is_none()
    {
        return Err(too_high);
    }
    if args.nodes > HTTP_PORT_OFFSET {
        let port = args.base_port + HTTP_PORT_OFFSET;
        return Err(DevError::PortsOverlap { port });
    }
    let address = |index: u16| format!("127.0.0.1:{}", args.base_port + index);
    let seeds = |index: u16| (0..args.nodes.min(2)).filter(move |seed| *seed != index);
    Ok((0..args.nodes)
        .map(|index| {
            let id = format!("node-{}", index + 1);
            Plan {
                port: args.base_port + index,
                http_port: args.base_port + index + HTTP_PORT_OFFSET,
                // A founder has no seeds; later it rejoins from its directory.
                seeds: if index == 0 {
                    Vec::new()
                } else {
                    seeds(index).map(address).collect()
                },
                data_dir: args.data_dir.join(&id),
                log: args.data_dir.join(format!("{id}.log")),
                id,
            }
        })
        .collect())
}

/// Whether a node could listen there. Another program may still come first; the node then says so.
fn check_port(port: u16) -> Result<(), DevError> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_closed_at_once) => Ok(()),
        Err(source) => Err(DevError::PortBusy { port, source }),
    }
}

/// Waits until every node is ready and shows a ring of all of them; gives the first node's ring.
async fn until_ready(nodes: &[Running], directory: &Path) -> Result<RingReply, DevError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut first_ring = None;
    for node in nodes {
        let mut reason = format!("{} does not answer", node.plan.id);
        let ready = timeout_at(deadline, async {
            loop {
                match ring_when_ready(&node.plan, nodes).await {
                    Ok(ring) => break ring,
                    Err(not_yet) => reason = not_yet,
                }
                sleep(POLL_INTERVAL).await;
            }
        });
        let Ok(ring) = ready.await else {
            return Err(DevError::NotReady {
                reason,
                directory: directory.to_owned(),
            });
        };
        first_ring.get_or_insert(ring);
    }
    first_ring.ok_or_else(|| DevError::NotReady {
        reason: "there are no nodes".to_owned(),
        directory: directory.to_owned(),
    })
}

async fn ring_when_ready(plan: &Plan, nodes: &[Running]) -> Result<RingReply, String> {
    let id = &plan.id;
    let failed = |error: dynakv_client::Error| format!("{id}: {error}");
    let client = Client::builder()
        .seeds([plan.address()])
        .timeout(Duration::from_secs(2))
        .ring_routing(false)
        .build()
        .await
        .map_err(failed)?;
    let health = client.health().await.map_err(failed)?;
    if health.node_id.as_str() != id {
        return Err(format!("{} answers on the port of {id}", health.node_id));
    }
    if !health.ready {
        return Err(format!("{id} is not ready: {}", health.reason));
    }
    let ring = client.ring().await.map_err(failed)?;
    for node in nodes {
        let has_it =
            |member: &dynakv_protocol::ring_document::Member| member.id.as_str() == node.plan.id;
        if !ring.document.members.iter().any(has_it) {
            return Err(format!("{} is not in the ring of {id}", node.plan.id));
        }
    }
    Ok(ring)
}

#[derive(Serialize)]
struct ReadyDocument<'a> {
    event: &'static str,
    nodes: Vec<ReadyNode<'a>>,
    ring: RingSummary<'a>,
}

#[derive(Serialize)]
struct ReadyNode<'a> {
    id: &'a str,
    pid: u32,
    address: String,
    http_port: u16,
    log: String,
}

impl<'a> From<&'a Running> for ReadyNode<'a> {
    fn from(node: &'a Running) -> Self {
        Self {
            id: &node.plan.id,
            pid: node.pid,
            address: node.plan.address(),
            http_port: node.plan.http_port,
            log: node.plan.log.display().to_string(),
        }
    }
}

/// What stands on standard output once the cluster is ready.
fn introduction(nodes: &[Running], ring: &RingReply, args: &DevArgs, format: Format) -> String {
    if format == Format::Json {
        return json_line(&ReadyDocument {
            event: "ready",
            nodes: nodes.iter().map(ReadyNode::from).collect(),
            ring: RingSummary::new(ring, &[]),
        });
    }
    let mut table = Table::new(&[
        Heading::Left("Id"),
        Heading::Right("Pid"),
        Heading::Left("Address"),
        Heading::Right("HTTP port"),
        Heading::Left("Log"),
    ]);
    for node in nodes {
        table.push([
            node.plan.id.clone(),
            node.pid.to_string(),
            node.plan.address(),
            node.plan.http_port.to_string(),
            node.plan.log.display().to_string(),
        ]);
    }
    let server = if args.base_port == 8080 {
        String::new()
    } else {
        format!(" --server 127.0.0.1:{}", args.base_port)
    };
    match format {
        Format::Table => format!(
            "{}\n{}\nnext, in another terminal: dynakv{server} put greeting hello\nCtrl-C ends all nodes\n",
            table.aligned(),
            ring_text(ring, &[], format)
        ),
        Format::Json | Format::Plain => format!(
            "{}ring\t{}\t{}\t{}\nnext\tdynakv{server} put greeting hello\n",
            table.plain(),
            ring.document.version,
            ring.document.members.len(),
            ring.document.virtual_nodes()
        ),
    }
}

#[cfg(test)]
mod tests;
