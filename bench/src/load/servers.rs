//! The measured nodes: who they are, and how much CPU time each has used.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use dynakv_client::{Client, Error, StatusReply};

use crate::http;
use crate::report::Server;

/// How far a node's HTTP port is from its port, unless it was told another.
const HTTP_PORT_OFFSET: u16 = 1000;

/// When a node's process was started. It stays the same while that process lives.
pub(super) const START_METRIC: &str = "process_start_time_seconds";

/// User and system CPU time of a node.
pub(super) const CPU_METRIC: &str = "process_cpu_seconds_total";

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its id.
    pub(super) node_id: String,
    /// Its address for clients.
    pub(super) address: String,
    /// Its version; empty while unknown.
    pub(super) version: String,
}

/// CPU seconds that each node has used since its start, by its id; and which could not be asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CpuTimes {
    /// By node id.
    pub(super) seconds: BTreeMap<String, f64>,
    /// When each process was started, by node id: a later one counts from 0 again.
    pub(super) started_at: BTreeMap<String, f64>,
    /// Why others are missing.
    pub(super) failures: Vec<String>,
}

/// All members, as the first of these servers that answers knows them.
///
/// # Errors
/// Of the last server, when none answers.
pub(super) async fn members(servers: &[String], timeout: Duration) -> Result<Vec<Member>, Error> {
    let mut failure = None;
    for server in servers {
        match status(server, timeout).await {
            Ok(status) => {
                let members = status.members.into_iter().map(|member| Member {
                    node_id: member.id.to_string(),
                    address: member.address,
                    version: member.software,
                });
                return Ok(members.collect());
            }
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(Vec::new()), Err)
}

async fn status(server: &str, timeout: Duration) -> Result<StatusReply, Error> {
    // A client asks its first seed only: one for each server, so that a dead one is passed over.
    let client = Client::builder()
        .seeds([server])
        .timeout(timeout)
        .ring_routing(false)
        .build()
        .await?;
    client.status().await
}

/// Where the members' metrics are when nothing else is said: on their own host, 1,000 ports up.
pub(super) fn metrics_addresses(members: &[Member]) -> Vec<String> {
    let addresses = members.iter().filter_map(|member| {
        let (host, port) = member.address.rsplit_once(':')?;
        let port = port.parse::<u16>().ok()?.checked_add(HTTP_PORT_OFFSET)?;
        Some(format!("{host}:{port}"))
    });
    addresses.collect()
}

/// The metrics of all nodes at these addresses, as they come.
pub(super) async fn metrics_pages(addresses: &[String]) -> Vec<(String, io::Result<String>)> {
    let mut tasks = tokio::task::JoinSet::new();
    for address in addresses.iter().cloned() {
        tasks.spawn(async move {
            let page = http::get(&address, "/metrics").await;
            (address, page)
        });
    }
    tasks.join_all().await
}

/// Reads the CPU times of all nodes whose metrics are at these addresses.
pub(super) async fn cpu_times(addresses: &[String]) -> CpuTimes {
    let mut times = CpuTimes::default();
    for (address, page) in metrics_pages(addresses).await {
        match page {
            Ok(page) => match of_node(&page, CPU_METRIC) {
                Some((node, seconds)) => {
                    times.seconds.insert(node, seconds);
                    times.started_at.extend(of_node(&page, START_METRIC));
                }
                None => times
                    .failures
                    .push(format!("{address} shows no {CPU_METRIC}")),
            },
            Err(error) => times.failures.push(format!("{address}: {error}")),
        }
    }
    times.failures.sort();
    times
}

/// The node's name and the value of a metric of its process.
pub(super) fn of_node(page: &str, metric: &str) -> Option<(String, f64)> {
    let mut of_nodes = samples(page, metric)
        .filter_map(|sample| Some((sample.label("node")?.to_owned(), sample.value)));
    of_nodes.next()
}

/// A value of a metric, with its labels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample<'a> {
    labels: &'a str,
    /// The value.
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// What a label says. Those that are asked for here hold no comma.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let quoted = label.trim().strip_prefix(name)?.strip_prefix('=')?;
            quoted.strip_prefix('"')?.strip_suffix('"')
        })
    }
}

/// All values of a metric that has labels.
pub(super) fn samples<'a>(page: &'a str, metric: &'a str) -> impl Iterator<Item = Sample<'a>> {
    page.lines().filter_map(move |line| {
        let sample = line.strip_prefix(metric)?.strip_prefix('{')?;
        let (labels, value) = sample.rsplit_once('}')?;
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(Sample { labels, value })
    })
}

/// What the servers have used between two readings, per operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServerCost {
    /// All nodes together; `None` when one of them is missing.
    pub(super) total_us_per_op: Option<f64>,
    /// Their CPU time together, in seconds, as far as it is known.
    pub(super) seconds: f64,
    /// Members whose CPU time is not known.
    pub(super) missing: Vec<String>,
    /// Those of which it is not known because they were started anew meanwhile.
    pub(super) restarted: Vec<String>,
    /// Each member, with its own share.
    pub(super) cpu_us_per_op: BTreeMap<String, f64>,
}

/// Compares two readings.
pub(super) fn cost(
    members: &[Member],
    before: &CpuTimes,
    after: &CpuTimes,
    ops: u64,
) -> ServerCost {
    let mut cost = ServerCost {
        total_us_per_op: None,
        seconds: 0.0,
        missing: Vec::new(),
        restarted: Vec::new(),
        cpu_us_per_op: BTreeMap::new(),
    };
    for member in members {
        let node = &member.node_id;
        let is_same = before.started_at.get(node) == after.started_at.get(node);
        match (before.seconds.get(node), after.seconds.get(node)) {
            // A counter that went back is that of a new process, too.
            (Some(before), Some(after)) if is_same && after >= before => {
                cost.seconds += after - before;
                if ops > 0 {
                    let share = (after - before) * 1e6 / ops as f64;
                    cost.cpu_us_per_op.insert(node.clone(), share);
                }
            }
            (Some(_), Some(_)) => cost.restarted.push(node.clone()),
            _ => cost.missing.push(node.clone()),
        }
    }
    if cost.missing.is_empty() && cost.restarted.is_empty() && ops > 0 && !members.is_empty() {
        cost.total_us_per_op = Some(cost.cpu_us_per_op.values().sum());
    }
    cost
}

impl ServerCost {
    /// The members as the report lists them.
    pub(super) fn servers(&self, members: &[Member]) -> Vec<Server> {
        let server = |member: &Member| Server {
            node_id: member.node_id.clone(),
            address: member.address.clone(),
            version: member.version.clone(),
            cpu_us_per_op: self.cpu_us_per_op.get(&member.node_id).copied(),
        };
        members.iter().map(server).collect()
    }
}

/// Whether all servers run on this machine, so that the generator competes with them.
pub(super) fn all_local(members: &[Member]) -> bool {
    let local = |member: &Member| {
        let loopback = |address: SocketAddr| address.ip().is_loopback();
        member.address.starts_with("localhost:") || member.address.parse().is_ok_and(loopback)
    };
    !members.is_empty() && members.iter().all(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, port: u16) -> Member {
        Member {
            node_id: id.to_owned(),
            address: format!("127.0.0.1:{port}"),
            version: String::new(),
        }
    }

    fn times(seconds: &[(&str, f64)]) -> CpuTimes {
        CpuTimes {
            seconds: seconds
                .iter()
                .map(|(id, s)| ((*id).to_owned(), *s))
                .collect(),
            ..CpuTimes::default()
        }
    }

    #[test]
    fn the_cpu_metric_is_found() {
        let page = "# TYPE process_cpu_seconds_total counter\n\
                    process_cpu_seconds_total_of_another{node=\"x\"} 9\n\
                    process_cpu_seconds_total{zone=\"a\",node=\"node-1\"} 12.500000\n";
        assert_eq!(of_node(page, CPU_METRIC), Some(("node-1".to_owned(), 12.5)));
        for page in [
            "",
            "process_cpu_seconds_total 3",
            "process_cpu_seconds_total{node=\"a\"} much",
            "process_cpu_seconds_total{node=a} 1",
        ] {
            assert_eq!(of_node(page, CPU_METRIC), None, "{page}");
        }
    }

    #[test]
    fn metrics_are_a_thousand_ports_up() {
        let members = [member("a", 8080), member("b", 65_000)];
        assert_eq!(metrics_addresses(&members), ["127.0.0.1:9080"]);
    }

    #[test]
    fn the_cost_is_complete_or_absent() {
        let members = [member("a", 1), member("b", 2)];
        let before = times(&[("a", 1.0), ("b", 2.0), ("stranger", 0.0)]);
        let after = times(&[("a", 1.5), ("b", 2.1), ("stranger", 9.0)]);
        let whole = cost(&members, &before, &after, 1_000_000);
        assert!((whole.total_us_per_op.unwrap() - 0.6).abs() < 1e-9);
        assert!((whole.seconds - 0.6).abs() < 1e-9);
        assert!(whole.missing.is_empty());
        // b was started anew, so that its counter began again.
        let after = times(&[("a", 1.5), ("b", 0.1)]);
        let part = cost(&members, &before, &after, 1000);
        assert_eq!(
            (part.total_us_per_op, part.restarted),
            (None, vec!["b".to_owned()])
        );
        assert_eq!(part.cpu_us_per_op.len(), 1);
        // The same, with a counter that is past the one of before already.
        let started = |at: f64| CpuTimes {
            started_at: [("b".to_owned(), at)].into(),
            ..times(&[("a", 1.5), ("b", 2.0)])
        };
        let part = cost(&members, &started(7.0), &started(8.0), 1000);
        assert_eq!(part.restarted, ["b"]);
        let whole = cost(&members, &started(7.0), &started(7.0), 1000);
        assert!(whole.restarted.is_empty() && whole.total_us_per_op.is_some());
        let part = cost(&members, &before, &times(&[("a", 1.5)]), 1000);
        assert_eq!(
            (part.missing, part.restarted.len()),
            (vec!["b".to_owned()], 0)
        );
        // Without operations there is nothing to divide by.
        let none = cost(&members, &before, &before, 0);
        assert_eq!(none.total_us_per_op, None);
    }
}
