//! `local`: the same as `run` on a cluster of its own, which is gone afterwards.

use std::process::ExitCode;

use super::against::against;
use super::local_run::{LocalArgs, on_own_cluster, outage};
use super::{EXIT_USAGE, Failure, finish};
use crate::cluster::ClusterOptions;

/// Runs the command. Exit codes are those of `run`, and with `--against` those of `compare`.
pub fn local(args: &LocalArgs) -> ExitCode {
    if let Some(other) = &args.against {
        return against(args, other);
    }
    finish("local", &args.load, async |plan, stop| {
        let options = ClusterOptions {
            nodes: usize::from(args.nodes),
            dynakv: args.dynakv.clone(),
            directory: args.directory.clone(),
            serve_arguments: Vec::new(),
        };
        let outage = outage(args, plan)
            .map_err(|error| Failure::new(EXIT_USAGE, error, "dynakv-bench help local"))?;
        on_own_cluster(options, plan, outage, stop).await
    })
}
