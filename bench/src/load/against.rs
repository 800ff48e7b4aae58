//! `local --against`: the same work in turns on clusters of two builds, so that both meet the same machine.
//!
//! Rounds go A B, B A, A B: what the machine gives drifts, and each side is as often before the other as after it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::compare::{exit, tell_warnings};
use super::local_run::{LocalArgs, Outage, on_own_cluster, outage};
use super::options::Plan;
use super::output::{check_file, is_standard_output, json_document, print, say, write_file};
use super::stop::StopSignals;
use super::{EXIT_FAILED, EXIT_USAGE, Failure, in_runtime, own_cluster};
use crate::cluster::{ClusterOptions, find_dynakv};
use crate::compare::{Comparison, Turns, compare, table};
use crate::grouped::grouped;
use crate::report::Report;

/// Which build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The one that is compared with.
    A,
    /// The present one.
    B,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// The order in which they run.
fn order(rounds: u16) -> impl Iterator<Item = Side> {
    (0..rounds).flat_map(|round| match round % 2 {
        0 => [Side::A, Side::B],
        _ => [Side::B, Side::A],
    })
}

/// What was measured so far.
#[derive(Debug, Default)]
struct Runs {
    order: Vec<Side>,
    a: Vec<Report>,
    b: Vec<Report>,
}

/// What every run does.
struct Work<'a> {
    args: &'a LocalArgs,
    plan: Plan,
    outage: Option<Outage>,
    a: PathBuf,
    b: PathBuf,
}

/// Runs the command: the exit codes are those of `compare`, and 130 after a signal.
pub(super) fn against(args: &LocalArgs, other: &Path) -> ExitCode {
    let mut runs = Runs::default();
    let ended = work(args, other)
        .and_then(|work| in_runtime(async |stop| in_turns(&work, &mut runs, stop).await));
    let shown = show(args, runs);
    match (ended, shown) {
        (Err(failure), _) | (Ok(()), Err(failure)) => failure.tell(),
        (Ok(()), Ok(Some(comparison))) if !comparison.figures.is_empty() => exit(&comparison),
        (Ok(()), Ok(_)) => Failure::new(
            EXIT_FAILED,
            "no operation succeeded on both sides, so that there is nothing to compare",
            "dynakv-bench local --directory DIR (keeps the logs)",
        )
        .tell(),
    }
}

/// Checks everything before anything runs.
fn work<'a>(args: &'a LocalArgs, other: &Path) -> Result<Work<'a>, Failure> {
    let usage =
        |error: &dyn std::fmt::Display| Failure::new(EXIT_USAGE, error, "dynakv-bench help local");
    let plan = args.load.plan().map_err(|error| usage(&error))?;
    let outage = outage(args, &plan).map_err(|error| usage(&error))?;
    let json = args.load.json.as_deref();
    if let Some(path) = json.filter(|path| !is_standard_output(path)) {
        check_file(path).map_err(|error| usage(&error))?;
    }
    let find = |path| find_dynakv(path).map_err(|error| own_cluster::failure("local", &error));
    Ok(Work {
        args,
        plan,
        outage,
        a: find(Some(other))?,
        b: find(args.dynakv.as_deref())?,
    })
}

async fn in_turns(work: &Work<'_>, runs: &mut Runs, stop: &mut StopSignals) -> Result<(), Failure> {
    let all = 2 * usize::from(work.args.rounds);
    for (index, side) in order(work.args.rounds).enumerate() {
        let (number, name) = (index + 1, side.name());
        let binary = match side {
            Side::A => &work.a,
            Side::B => &work.b,
        };
        let upper = name.to_uppercase();
        say(&format!(
            "dynakv-bench: run {number} of {all}: {upper}, {}\n",
            binary.display()
        ));
        let directory = work.args.directory.as_ref();
        let options = ClusterOptions {
            nodes: usize::from(work.args.nodes),
            dynakv: Some(binary.clone()),
            directory: directory.map(|directory| directory.join(format!("{number}-{name}"))),
            serve_arguments: Vec::new(),
        };
        let report = on_own_cluster(options, &work.plan, work.outage, stop).await?;
        // A run that ended early is none to compare.
        if stop.has_come() {
            return Err(own_cluster::interrupted());
        }
        let rate = grouped(report.ops_per_second.round() as u64);
        say(&format!(
            "dynakv-bench: run {number} of {all}: {upper}, {rate} ops/s\n"
        ));
        runs.order.push(side);
        match side {
            Side::A => runs.a.push(report),
            Side::B => runs.b.push(report),
        }
    }
    Ok(())
}

/// Shows what there is, and keeps it; nothing, unless both sides have a run.
fn show(args: &LocalArgs, runs: Runs) -> Result<Option<Comparison>, Failure> {
    if runs.a.is_empty() || runs.b.is_empty() {
        return Ok(None);
    }
    let comparison = compare(&runs.a, &runs.b, args.allow);
    let text = table(&comparison);
    let turns = Turns {
        order: runs
            .order
            .iter()
            .map(|side| side.name().to_owned())
            .collect(),
        a: runs.a,
        b: runs.b,
        comparison,
    };
    match args.load.json.as_deref() {
        Some(path) if is_standard_output(path) => {
            say(&text);
            print(&json_document(&turns));
        }
        path => {
            print(&text);
            let written = path.map(|path| write_file(path, &json_document(&turns)));
            let written = written.unwrap_or(Ok(()));
            written.map_err(|error| Failure::new(EXIT_FAILED, error, "df -h"))?;
        }
    }
    tell_warnings(&turns.comparison);
    Ok(Some(turns.comparison))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_as_often_before_the_other() {
        let names = |rounds| order(rounds).map(Side::name).collect::<String>();
        assert_eq!(names(1), "ab");
        assert_eq!(names(4), "abbaabba");
    }
}
