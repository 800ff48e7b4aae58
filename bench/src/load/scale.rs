//! `scale`: what happens as a cluster has more nodes, on one machine.
//!
//! Each number of nodes gets a cluster of its own. It is loaded, left at rest and looked at from outside, and then
//! written to and read from. Exit codes: 0 when all clusters were measured, 1 when something failed, 2 when an option
//! is wrong, 130 after a signal. What was measured before a failure or a signal is shown.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use dynakv_client::Client;
use tokio::time::{Instant, sleep};

use super::loading::load;
use super::measure::Target;
use super::options::{Plan, parse_duration};
use super::output::{Form, check_file, json_document, say, show_all};
use super::processes::{CpuTime, cpu_time, resident_bytes};
use super::sequence::{Distribution, SequenceConfig};
use super::stop::StopSignals;
use super::values::Values;
use super::workload::Workload;
use super::{EXIT_FAILED, EXIT_USAGE, Failure, host, in_runtime, measured, own_cluster};
use crate::cluster::{Cluster, ClusterOptions};
use crate::grouped::grouped;
use crate::report::Loading;
use crate::scale::{ClusterCost, PerNode, PhaseCost, ScaleConfig, ScaleReport, picture, table};

/// Bytes of a key and of a value, as those of `run` are.
const KEY_BYTES: usize = 24;
const VALUE_BYTES: usize = 100;

/// What decides the sequence of keys: the same for all clusters.
const SEED: u64 = 1;

/// How long one operation may take with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// `dynakv-bench scale`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct ScaleArgs {
    /// How many nodes the clusters have, one cluster after the other
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "3,6,10,20",
        value_parser = clap::value_parser!(u16).range(1..=50)
    )]
    nodes: Vec<u16>,
    /// Keys that are loaded into each cluster
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// How long to write to each cluster, and then to read from it
    #[arg(long, default_value = "5s", value_parser = parse_some_time)]
    duration: Duration,
    /// How long each cluster rests after it was loaded, before it is looked at
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
    /// How long each cluster is looked at while it rests
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_some_time)]
    idle: Duration,
    /// Operations in flight for each node of a cluster
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=2000))]
    in_flight_per_node: u16,
    /// What to write to standard output
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
    /// Draw CPU per operation, CPU at rest and memory against the number of nodes
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// The dynakv binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    dynakv: Option<PathBuf>,
    /// Where data and logs live, a folder for each cluster, kept afterwards [default: a temporary directory, removed]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

fn parse_some_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        none if none.is_zero() => Err("more than 0 is needed, such as 5s".to_owned()),
        some => Ok(some),
    }
}

/// Runs the command.
pub fn scale(args: &ScaleArgs) -> ExitCode {
    match outcome(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn outcome(args: &ScaleArgs) -> Result<(), Failure> {
    if let Some(path) = &args.picture {
        let checked = check_file(path);
        checked.map_err(|error| Failure::new(EXIT_USAGE, error, "dynakv-bench help scale"))?;
    }
    let mut report = begin(args);
    let ended = in_runtime(async |stop| {
        for nodes in sizes(&args.nodes) {
            let cost = on_own_cluster(args, nodes, stop, &mut report.warnings).await?;
            report.clusters.push(cost);
        }
        Ok(())
    });
    if !report.clusters.is_empty() {
        show(args, &report)?;
    }
    ended
}

/// Rising and each once, so that tables and lines are.
fn sizes(nodes: &[u16]) -> Vec<usize> {
    let mut sizes: Vec<_> = nodes.iter().map(|nodes| usize::from(*nodes)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// A report of no clusters yet.
fn begin(args: &ScaleArgs) -> ScaleReport {
    let host = host::describe();
    let mut warnings = vec![format!(
        "generator and nodes share this machine's {} processors: operations per second are not those of so many \
         machines",
        host.cores
    )];
    if host.load_average > host.cores as f64 / 2.0 {
        warnings.push(format!(
            "this machine was busy before it began: load average {:.1} on {} processors",
            host.load_average, host.cores
        ));
    }
    ScaleReport {
        clusters: Vec::new(),
        config: ScaleConfig {
            keys: args.keys,
            key_bytes: KEY_BYTES,
            value_bytes: VALUE_BYTES,
            in_flight_per_node: usize::from(args.in_flight_per_node),
            duration_seconds: args.duration.as_secs_f64(),
            settle_seconds: args.settle.as_secs_f64(),
            idle_seconds: args.idle.as_secs_f64(),
        },
        started_at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        warnings,
        host,
    }
}

fn show(args: &ScaleArgs, report: &ScaleReport) -> Result<(), Failure> {
    let text = match args.output {
        Form::Table => table(report),
        Form::Json => json_document(report),
    };
    let drawn = args.picture.as_deref();
    let drawn = drawn.map(|path| (path, picture(report)));
    let shown = show_all(&text, &report.warnings, drawn);
    shown.map_err(|error| Failure::new(EXIT_FAILED, error, "df -h"))
}

/// Brings up a cluster, measures it and takes it down.
async fn on_own_cluster(
    args: &ScaleArgs,
    nodes: usize,
    stop: &mut StopSignals,
    warnings: &mut Vec<String>,
) -> Result<ClusterCost, Failure> {
    say(&format!("dynakv-bench: {nodes} nodes: starting\n"));
    let directory = args.directory.as_ref();
    let options = ClusterOptions {
        nodes,
        dynakv: args.dynakv.clone(),
        directory: directory.map(|directory| directory.join(format!("{nodes}-nodes"))),
        serve_arguments: Vec::new(),
    };
    let cluster = own_cluster::start("scale", options, stop).await?;
    let outcome = tokio::select! {
        // First, so that a signal ends all of it and not a phase of it.
        biased;
        () = stop.received() => Err(own_cluster::interrupted()),
        outcome = measure_cluster(args, &cluster, warnings) => outcome,
    };
    let in_memory = own_cluster::memory_warning(&cluster);
    warnings.extend(in_memory.filter(|_| warnings.iter().all(|it| !it.contains("tmpfs"))));
    own_cluster::end(cluster, outcome.is_err(), stop).await;
    outcome
}

async fn measure_cluster(
    args: &ScaleArgs,
    cluster: &Cluster,
    warnings: &mut Vec<String>,
) -> Result<ClusterCost, Failure> {
    let nodes = cluster.size();
    let target = Target {
        servers: cluster.addresses(),
        metrics: cluster.http_addresses(),
        begun: Rc::default(),
    };
    let loading = load_keys(&plan(args, nodes, Workload::Write), &target).await?;
    say(&format!(
        "dynakv-bench: {nodes} nodes: at rest for {:.0} s\n",
        (args.settle + args.idle).as_secs_f64()
    ));
    sleep(args.settle).await;
    let memory_bytes = of_each_node(cluster, resident_bytes)?;
    let memory_bytes = PerNode::new(
        memory_bytes
            .into_iter()
            .map(|(id, it)| (id, it as f64))
            .collect(),
    );
    let idle_core_percent = at_rest(cluster, args.idle).await?;
    let mut phase = async |workload: Workload| {
        say(&format!("dynakv-bench: {nodes} nodes: {workload}\n"));
        let cost = phase(&plan(args, nodes, workload), &target).await?;
        if cost.errors > 0 {
            let (failed, all) = (grouped(cost.errors), grouped(cost.count + cost.errors));
            warnings.push(format!(
                "{nodes} nodes, {workload}: {failed} of {all} operations failed"
            ));
        }
        Ok(cost)
    };
    Ok(ClusterCost {
        nodes,
        loading,
        memory_bytes,
        idle_core_percent,
        write: phase(Workload::Write).await?,
        read: phase(Workload::Read).await?,
    })
}

/// What one phase does. Requests in flight grow with the nodes, so that each node has as much to do as one of fewer.
fn plan(args: &ScaleArgs, nodes: usize, workload: Workload) -> Plan {
    Plan {
        sequence: SequenceConfig {
            workload,
            distribution: Distribution::Zipfian,
            keys: args.keys,
            value_bytes: (VALUE_BYTES, VALUE_BYTES),
            seed: SEED,
        },
        clients: nodes * usize::from(args.in_flight_per_node),
        pipeline: 1,
        rate: None,
        duration: args.duration,
        key_bytes: KEY_BYTES,
        w: None,
        r: None,
        connections: 1,
        timeout: OPERATION_TIMEOUT,
        load: false,
    }
}

/// Loads the keys with a client that is gone afterwards, so that nobody is connected while the cluster rests.
async fn load_keys(plan: &Plan, target: &Target) -> Result<Loading, Failure> {
    let in_vain = |error: dynakv_client::Error| {
        let what = format!("the keys could not be loaded: {error}");
        Failure::new(
            EXIT_FAILED,
            what,
            "dynakv-bench scale --directory DIR (keeps the logs)",
        )
    };
    let client = Client::builder()
        .seeds(target.servers.iter().map(String::as_str))
        .timeout(plan.timeout)
        .build();
    let clients = [client.await.map_err(in_vain)?];
    let values = Values::new(SEED.wrapping_add(1));
    load(plan, &clients, values).await.map_err(in_vain)
}

/// CPU time of each node while nobody asks for anything, in percent of one processor.
async fn at_rest(cluster: &Cluster, window: Duration) -> Result<PerNode, Failure> {
    let before = of_each_node(cluster, cpu_time)?;
    let begun = Instant::now();
    sleep(window).await;
    let after = of_each_node(cluster, cpu_time)?;
    let seconds = begun.elapsed().as_secs_f64();
    let percent = |id: &String, after: &CpuTime| {
        let used = before.get(id).map(|before| after.since(before));
        100.0 * used.unwrap_or_default().as_secs_f64() / seconds
    };
    let by_node = after
        .iter()
        .map(|(id, after)| (id.clone(), percent(id, after)));
    Ok(PerNode::new(by_node.collect()))
}

/// Asks the system about each node's process.
fn of_each_node<T>(
    cluster: &Cluster,
    ask: impl Fn(u32) -> io::Result<T>,
) -> Result<BTreeMap<String, T>, Failure> {
    let pids = cluster.pids().into_iter().enumerate();
    let answers = pids.map(|(index, pid)| {
        let id = cluster.id(index).to_owned();
        let answer = pid.map_or_else(|| Err(io::ErrorKind::NotFound.into()), &ask);
        let answer = answer.map_err(|error| {
            let what = format!("the process of {id} cannot be read: {error}");
            Failure::new(
                EXIT_FAILED,
                what,
                "dynakv-bench scale --directory DIR (keeps the logs)",
            )
        })?;
        Ok((id, answer))
    });
    answers.collect()
}

async fn phase(plan: &Plan, target: &Target) -> Result<PhaseCost, Failure> {
    // Whoever runs this listens to signals, too, and does not let it go on after one.
    let mut stop =
        StopSignals::new().map_err(|error| Failure::new(EXIT_FAILED, error, "ulimit -n"))?;
    let report = measured(plan, target, &mut stop).await?;
    let sum = |part: fn(&crate::report::OpReport) -> u64| report.by_op.values().map(part).sum();
    let cost = PhaseCost {
        in_flight: plan.in_flight(),
        count: sum(|op| op.count),
        errors: sum(|op| op.errors),
        ops_per_second: report.ops_per_second,
        server_cpu_us_per_op: report.server_cpu_us_per_op,
        client_cpu_us_per_op: report.client_cpu_us_per_op,
    };
    if cost.count > 0 {
        return Ok(cost);
    }
    let kinds: Vec<_> = report
        .by_op
        .values()
        .flat_map(|op| op.errors_by_kind.keys().cloned())
        .collect();
    let what = format!(
        "no operation of {} succeeded: {}",
        plan.sequence.workload,
        kinds.join(", ")
    );
    Err(Failure::new(
        EXIT_FAILED,
        what,
        "dynakv-bench scale --directory DIR (keeps the logs)",
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        scale: ScaleArgs,
    }

    fn args(line: &str) -> Result<ScaleArgs, clap::Error> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Ok(Line::try_parse_from(["bench"].into_iter().chain(words))?.scale)
    }

    #[test]
    fn requests_in_flight_grow_with_the_nodes() {
        let args = args("--nodes 10,3,10 --in-flight-per-node 7").unwrap();
        assert_eq!(sizes(&args.nodes), [3, 10]);
        assert_eq!(plan(&args, 3, Workload::Read).in_flight(), 21);
        assert_eq!(plan(&args, 10, Workload::Read).in_flight(), 70);
    }

    #[test]
    fn what_cannot_be_is_a_usage_error() {
        for line in [
            "--nodes 0",
            "--nodes 3,51",
            "--keys 0",
            "--idle 0s",
            "--duration 0s",
            "--in-flight-per-node 0",
            "--output xml",
        ] {
            assert_eq!(args(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(args("--settle 0s").is_ok());
    }
}
