//! The command line of `dynakv-bench`.
//!
//! Results go to standard output, messages and progress to standard error. Each command's file
//! documents its exit codes.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::audit::{self, AuditArgs};
use crate::load::{self, CompareArgs, LocalArgs, RunArgs, ScaleArgs, SweepArgs};

/// Puts load on a dynakv cluster and measures it, and audits that no acknowledged write is lost.
#[derive(Debug, Parser)]
#[command(name = "dynakv-bench", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on a running cluster and measure it
    Run(RunArgs),
    /// Bring up a cluster on this machine, put load on it, and take it down
    Local(LocalArgs),
    /// Show what clusters of more and more nodes cost on this machine
    ///
    /// Each number of nodes gets a cluster of its own, which is loaded, left at rest, written to and read from. All
    /// processes share this machine's processors, so CPU per operation is the figure that means something, and
    /// operations per second are not what so many machines would do.
    Scale(ScaleArgs),
    /// Find out how much a cluster on this machine does before its latencies rise
    ///
    /// A cluster of its own gets more and more to do, step by step. The knee is the step from which on more load costs
    /// more latency than it brings: where operations per second divided by the mean latency are most. With
    /// --p99-below it is the step that does most while 99 % of the operations take less than that.
    Sweep(SweepArgs),
    /// Put results beside each other: ratios, with the intervals in which they lie
    ///
    /// Every figure is B divided by A, with its 95 % interval. Several runs on each side are compared by what each came
    /// to; with one run on a side the interval comes from its seconds, and says nothing of what runs differ by.
    Compare(CompareArgs),
    /// Write, read and delete, and prove that no acknowledged write is lost
    Audit(AuditArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with exit code 0. There is nowhere to report it
            // when printing fails.
            let _unprinted = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.command {
        Command::Run(args) => load::run(&args),
        Command::Local(args) => load::local(&args),
        Command::Scale(args) => load::scale(&args),
        Command::Sweep(args) => load::sweep(&args),
        Command::Compare(args) => load::compare(&args),
        Command::Audit(args) => audit::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }
}
