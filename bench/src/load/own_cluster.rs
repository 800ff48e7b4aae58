//! A cluster of a command's own: it comes up before the work, and is gone afterwards, whatever came of that.

use super::host::file_system;
use super::output::say;
use super::stop::StopSignals;
use super::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Failure};
use crate::cluster::{Cluster, ClusterError, ClusterOptions};

/// Starts all nodes. They are complete before the first write, which settles who the members are.
///
/// # Errors
/// [`Failure`], also at a signal; nothing keeps running.
pub(super) async fn start(
    command: &str,
    options: ClusterOptions,
    stop: &mut StopSignals,
) -> Result<Cluster, Failure> {
    tokio::select! {
        cluster = Cluster::start(options) => cluster.map_err(|error| failure(command, &error)),
        () = stop.received() => Err(interrupted()),
    }
}

/// Ends all nodes: in order, or at once for somebody who does not want to wait.
pub(super) async fn end(cluster: Cluster, at_once: bool, stop: &mut StopSignals) {
    let ended = if at_once {
        kill_all(cluster).await
    } else {
        // At another signal the cluster is dropped, which kills the nodes.
        tokio::select! {
            ended = cluster.stop() => ended,
            () = stop.received() => Ok(()),
        }
    };
    if let Err(error) = ended {
        say(&format!("dynakv-bench: {error}\n"));
    }
}

/// The nodes are gone when it returns, whatever state they are in.
async fn kill_all(mut cluster: Cluster) -> Result<(), ClusterError> {
    for index in 0..cluster.size() {
        cluster.kill(index).await?;
    }
    Ok(())
}

/// What to keep in mind when the data lies in memory.
pub(super) fn memory_warning(cluster: &Cluster) -> Option<String> {
    let in_memory = file_system(cluster.directory()).is_some_and(|kind| kind == "tmpfs");
    in_memory.then(|| {
        format!(
            "the data lay in memory ({} is a tmpfs), where a sync costs nothing: \
             --directory DIR on a disk shows what writes cost",
            cluster.directory().display()
        )
    })
}

/// A signal came before there was anything to report.
pub(super) fn interrupted() -> Failure {
    Failure::new(EXIT_INTERRUPTED, "interrupted", "")
}

/// Why the cluster of this command is not as it should be.
pub(super) fn failure(command: &str, error: &ClusterError) -> Failure {
    let (exit, next) = match error {
        ClusterError::NoBinary { .. } => (EXIT_FAILED, "cargo build --release".to_owned()),
        ClusterError::Nodes { .. } => (EXIT_USAGE, format!("dynakv-bench help {command}")),
        ClusterError::Directory { .. } => (
            EXIT_FAILED,
            format!("dynakv-bench {command} --directory DIR"),
        ),
        _ => (
            EXIT_FAILED,
            format!("dynakv-bench {command} --directory DIR (keeps the logs)"),
        ),
    };
    Failure::new(exit, error, next)
}
