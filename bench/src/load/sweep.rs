//! `sweep`: how latency rises with what a cluster is asked to do.
//!
//! One cluster of its own is loaded once, and gets more and more to do. Exit codes: 0 when all steps were measured, 1
//! when something failed, 2 when an option is wrong, 130 after a signal. What was measured before a failure or a signal
//! is shown.

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use super::measure::Target;
use super::options::{InvalidOption, Plan, Pressure, WorkOptions, parse_duration, parse_rate};
use super::output::{Form, check_file, json_document, say, show_all};
use super::stop::StopSignals;
use super::{EXIT_FAILED, EXIT_USAGE, Failure, in_runtime, measured, own_cluster};
use crate::cluster::{Cluster, ClusterOptions};
use crate::grouped::grouped;
use crate::report::Report;
use crate::sweep::{Step, SweepReport, knee, picture, table};

/// Callers of an open loop: more than are ever in flight unless the cluster does not keep up.
const OPEN_LOOP_CALLERS: usize = 2000;

/// `dynakv-bench sweep`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct SweepArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: u16,
    /// Requests in flight of each step, in a closed loop: each is sent when one is answered
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,4,16,32,64,128,256,512,1024",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    in_flight: Vec<u32>,
    /// Operations per second of each step, in an open loop instead: latency counts from when a request was due
    #[arg(long, value_name = "OPS,...", value_delimiter = ',', value_parser = parse_rate, conflicts_with = "in_flight")]
    rates: Vec<f64>,
    /// The knee is the step that does most with a P99 below this [default: the step with the most operations per
    /// second for each millisecond of mean latency]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    p99_below: Option<Duration>,
    /// How long to measure each step
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    work: WorkOptions,
    /// What to write to standard output
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
    /// Draw latencies against operations per second
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// The dynakv binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    dynakv: Option<PathBuf>,
    /// Where data and logs live, kept afterwards [default: a temporary directory, removed]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Runs the command.
pub fn sweep(args: &SweepArgs) -> ExitCode {
    match outcome(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn outcome(args: &SweepArgs) -> Result<(), Failure> {
    let usage =
        |error: &dyn std::fmt::Display| Failure::new(EXIT_USAGE, error, "dynakv-bench help sweep");
    let plans = plans(args).map_err(|error| usage(&error))?;
    if let Some(path) = &args.picture {
        check_file(path).map_err(|error| usage(&error))?;
    }
    let mut runs = Vec::new();
    let ended = in_runtime(async |stop| on_own_cluster(args, &plans, &mut runs, stop).await);
    if let Some(report) = report(args, &runs) {
        show(args, &report)?;
    }
    ended
}

/// What each step does, by rising load.
fn plans(args: &SweepArgs) -> Result<Vec<Plan>, InvalidOption> {
    let pressure = |clients, rate| Pressure {
        clients: Some(clients),
        pipeline: Some(1),
        rate,
        duration: args.duration,
    };
    let pressures: Vec<_> = match args.rates.as_slice() {
        [] => {
            let mut in_flight = args.in_flight.clone();
            in_flight.sort_unstable();
            in_flight.dedup();
            let in_flight = in_flight.into_iter();
            in_flight.map(|it| pressure(it as usize, None)).collect()
        }
        rates => {
            let mut rates = rates.to_vec();
            rates.sort_by(f64::total_cmp);
            rates.dedup();
            let rates = rates.into_iter();
            rates
                .map(|it| pressure(OPEN_LOOP_CALLERS, Some(it)))
                .collect()
        }
    };
    // The keys are loaded before the first step only.
    let steps = pressures.into_iter().enumerate();
    steps
        .map(|(number, pressure)| args.work.plan(pressure, number == 0))
        .collect()
}

async fn on_own_cluster(
    args: &SweepArgs,
    plans: &[Plan],
    runs: &mut Vec<Report>,
    stop: &mut StopSignals,
) -> Result<(), Failure> {
    let options = ClusterOptions {
        nodes: usize::from(args.nodes),
        dynakv: args.dynakv.clone(),
        directory: args.directory.clone(),
        serve_arguments: Vec::new(),
    };
    let cluster = own_cluster::start("sweep", options, stop).await?;
    let outcome = steps(plans, &cluster, runs, stop).await;
    let in_memory = own_cluster::memory_warning(&cluster);
    if let Some(first) = runs.first_mut() {
        first.warnings.extend(in_memory);
    }
    own_cluster::end(cluster, outcome.is_err(), stop).await;
    outcome
}

async fn steps(
    plans: &[Plan],
    cluster: &Cluster,
    runs: &mut Vec<Report>,
    stop: &mut StopSignals,
) -> Result<(), Failure> {
    for (index, plan) in plans.iter().enumerate() {
        let what = name(plan.rate, plan.in_flight());
        let (number, all) = (index + 1, plans.len());
        say(&format!("dynakv-bench: step {number} of {all}: {what}\n"));
        let target = Target {
            servers: cluster.addresses(),
            metrics: cluster.http_addresses(),
            begun: Rc::default(),
        };
        let run = measured(plan, &target, stop).await?;
        // A step that ended early is none.
        if stop.has_come() {
            return Err(own_cluster::interrupted());
        }
        runs.push(run);
    }
    Ok(())
}

/// What the steps come to; `None` without any.
fn report(args: &SweepArgs, runs: &[Report]) -> Option<SweepReport> {
    let first = runs.first()?;
    let steps: Vec<_> = runs.iter().map(Step::new).collect();
    let p99_below_ms = args.p99_below.map(|bound| 1000.0 * bound.as_secs_f64());
    let knee = knee(&steps, p99_below_ms);
    let mut warnings = warnings(runs);
    if knee.is_some_and(|knee| knee.step > 0 && knee.step + 1 == steps.len()) {
        warnings
            .push("the knee is the last step and may lie beyond it: take larger ones".to_owned());
    }
    Some(SweepReport {
        knee,
        steps,
        p99_below_ms,
        config: first.config.clone(),
        servers: first.servers.clone(),
        loading: first.loading,
        started_at: first.started_at.clone(),
        warnings,
        host: first.host.clone(),
    })
}

/// What holds for all steps is said once, and of others which step it was.
fn warnings(runs: &[Report]) -> Vec<String> {
    let mut warnings = Vec::new();
    for run in runs {
        for warning in &run.warnings {
            let warning = match runs.iter().all(|run| run.warnings.contains(warning)) {
                true => warning.clone(),
                false => format!("{}: {warning}", name(run.config.rate, run.config.clients)),
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    warnings
}

/// Which step it is.
fn name(rate: Option<f64>, in_flight: usize) -> String {
    match rate {
        Some(rate) => format!("{} operations per second", grouped(rate.round() as u64)),
        None => format!("{} in flight", grouped(in_flight as u64)),
    }
}

fn show(args: &SweepArgs, report: &SweepReport) -> Result<(), Failure> {
    let text = match args.output {
        Form::Table => table(report),
        Form::Json => json_document(report),
    };
    let drawn = args.picture.as_deref();
    let drawn = drawn.map(|path| (path, picture(report)));
    let shown = show_all(&text, &report.warnings, drawn);
    shown.map_err(|error| Failure::new(EXIT_FAILED, error, "df -h"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        sweep: SweepArgs,
    }

    fn args(line: &str) -> Result<SweepArgs, clap::Error> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Ok(Line::try_parse_from(["bench"].into_iter().chain(words))?.sweep)
    }

    #[test]
    fn steps_rise_and_only_the_first_loads() {
        let closed = plans(&args("--in-flight 8,2,8,4").unwrap()).unwrap();
        let in_flight: Vec<_> = closed.iter().map(Plan::in_flight).collect();
        assert_eq!(in_flight, [2, 4, 8]);
        assert!(closed.iter().all(|plan| plan.rate.is_none()));
        let loads: Vec<_> = closed.iter().map(|plan| plan.load).collect();
        assert_eq!(loads, [true, false, false]);
        let open = plans(&args("--rates 500,100.5,500").unwrap()).unwrap();
        let rates: Vec<_> = open.iter().map(|plan| plan.rate.unwrap()).collect();
        assert_eq!(rates, [100.5, 500.0]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "--in-flight 0",
            "--in-flight 4 --rates 100",
            "--rates 0",
            "--p99-below 20",
            "--output xml",
            "--clients 4",
        ] {
            assert_eq!(args(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(plans(&args("--duration 0s").unwrap()).is_err());
    }
}
