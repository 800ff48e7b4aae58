//! `local`: the same on a cluster of its own, which is gone afterwards.

use std::path::PathBuf;
use std::process::ExitCode;

use super::host::file_system;
use super::measure::Target;
use super::options::{LoadOptions, Plan};
use super::output::say;
use super::stop::StopSignals;
use super::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Failure, finish, measured};
use crate::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::report::Report;

/// `dynakv-bench local`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct LocalArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: u16,
    /// The dynakv binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    dynakv: Option<PathBuf>,
    /// Where data and logs live, kept afterwards [default: a temporary directory, removed]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    load: LoadOptions,
}

/// Runs the command. Exit codes are those of `run`.
pub fn local(args: &LocalArgs) -> ExitCode {
    finish("local", &args.load, async |plan, stop| {
        let options = ClusterOptions {
            nodes: usize::from(args.nodes),
            dynakv: args.dynakv.clone(),
            directory: args.directory.clone(),
            serve_arguments: Vec::new(),
        };
        on_own_cluster(options, plan, stop).await
    })
}

async fn on_own_cluster(
    options: ClusterOptions,
    plan: &Plan,
    stop: &mut StopSignals,
) -> Result<Report, Failure> {
    // Complete before the first write, which settles who the members are.
    let cluster = tokio::select! {
        cluster = Cluster::start(options) => cluster.map_err(|error| failure(&error))?,
        () = stop.received() => return Err(Failure::new(EXIT_INTERRUPTED, "interrupted", "")),
    };
    let target = Target {
        servers: cluster.addresses(),
        metrics: cluster.http_addresses(),
    };
    let in_memory = file_system(cluster.directory()).is_some_and(|kind| kind == "tmpfs");
    let mut outcome = measured(plan, &target, stop).await;
    if let Ok(report) = &mut outcome
        && in_memory
    {
        report.warnings.push(format!(
            "the data lay in memory ({} is a tmpfs), where a sync costs nothing: \
             --directory DIR on a disk shows what writes cost",
            cluster.directory().display()
        ));
    }
    let interrupted = matches!(&outcome, Err(failure) if failure.exit == EXIT_INTERRUPTED);
    let stopped = if interrupted {
        kill_all(cluster).await
    } else {
        // At another signal the cluster is dropped, which kills the nodes.
        tokio::select! {
            stopped = cluster.stop() => stopped,
            () = stop.received() => Ok(()),
        }
    };
    if let Err(error) = stopped {
        say(&format!("dynakv-bench: {error}\n"));
    }
    outcome
}

/// For somebody who does not want to wait: gone when it returns, whatever state the nodes are in.
async fn kill_all(mut cluster: Cluster) -> Result<(), ClusterError> {
    for index in 0..cluster.size() {
        cluster.kill(index).await?;
    }
    Ok(())
}

fn failure(error: &ClusterError) -> Failure {
    let (exit, next) = match error {
        ClusterError::NoBinary { .. } => (EXIT_FAILED, "cargo build --release"),
        ClusterError::Nodes { .. } => (EXIT_USAGE, "dynakv-bench help local"),
        ClusterError::Directory { .. } => (EXIT_FAILED, "dynakv-bench local --directory DIR"),
        _ => (
            EXIT_FAILED,
            "dynakv-bench local --directory DIR (keeps the logs)",
        ),
    };
    Failure::new(exit, error, next)
}
