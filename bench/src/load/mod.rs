//! `run`, `local`, `scale` and `sweep`: load on a cluster, measured; and `compare`, which puts results beside each other.
//!
//! Exit codes: 0 when there is a report and any operation succeeded (failed ones are counted in it), 1
//! when none did or something else failed, 2 when an option is wrong, 130 when a signal came before
//! there was anything to report.

mod against;
mod assemble;
mod caller;
mod compare;
mod host;
mod keys;
mod loading;
mod local;
mod local_run;
mod measure;
mod options;
mod output;
mod own_cluster;
mod pace;
mod processes;
mod recorder;
mod resources;
mod scale;
mod sequence;
mod servers;
mod siblings;
mod stop;
mod sweep;
mod text;
mod timer;
mod values;
mod workload;

use std::process::ExitCode;
use std::rc::Rc;

use dynakv_client::check_address;
use tokio::task::LocalSet;

use measure::{MeasureError, Target, measure};
use options::{LoadOptions, Plan};
use output::{Files, say};
use stop::StopSignals;

use crate::report::Report;

pub use compare::{CompareArgs, compare};
pub use local::local;
pub use local_run::LocalArgs;
pub use scale::{ScaleArgs, scale};
pub use sweep::{SweepArgs, sweep};

const SERVER_DEFAULT: &str = "127.0.0.1:8080";

/// Something failed, or every operation did.
const EXIT_FAILED: u8 = 1;
/// An option is wrong.
const EXIT_USAGE: u8 = 2;
/// Ended by a signal without a report.
const EXIT_INTERRUPTED: u8 = 130;

/// `dynakv-bench run`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct RunArgs {
    /// Nodes of the cluster; repeatable or comma-separated, any one that lives is enough
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "DYNAKV_SERVERS",
        default_value = SERVER_DEFAULT
    )]
    servers: Vec<String>,
    /// Where the nodes show their metrics [default: each node's address, 1,000 ports up]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    metrics: Vec<String>,
    #[command(flatten)]
    load: LoadOptions,
}

/// Why a command failed, and what to type next.
struct Failure {
    exit: u8,
    what: String,
    next: String,
}

impl Failure {
    fn new(exit: u8, what: impl ToString, next: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.to_string(),
            next: next.into(),
        }
    }

    /// Says so, and gives the exit code.
    fn tell(self) -> ExitCode {
        let next = match self.next.as_str() {
            "" => String::new(),
            next => format!("  next: {next}\n"),
        };
        say(&format!("dynakv-bench: {}\n{next}", self.what));
        ExitCode::from(self.exit)
    }
}

/// Runs the command.
pub fn run(args: &RunArgs) -> ExitCode {
    finish("run", &args.load, async |plan, stop| {
        let target = Target {
            servers: addresses(&args.servers, SERVER_DEFAULT)?,
            metrics: addresses(&args.metrics, "")?,
            begun: Rc::default(),
        };
        measured(plan, &target, stop).await
    })
}

/// Does what is common to all: checks the options, runs, writes the results.
fn finish(
    command: &str,
    options: &LoadOptions,
    work: impl AsyncFnOnce(&Plan, &mut StopSignals) -> Result<Report, Failure>,
) -> ExitCode {
    let outcome = outcome(command, options, work);
    match outcome {
        Ok(report) if report.by_op.values().any(|op| op.count > 0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_FAILED),
        Err(failure) => failure.tell(),
    }
}

fn outcome(
    command: &str,
    options: &LoadOptions,
    work: impl AsyncFnOnce(&Plan, &mut StopSignals) -> Result<Report, Failure>,
) -> Result<Report, Failure> {
    let help = format!("dynakv-bench help {command}");
    let usage = |error: &dyn std::fmt::Display| Failure::new(EXIT_USAGE, error, help.clone());
    let plan = options.plan().map_err(|error| usage(&error))?;
    let files = Files {
        json: options.json.as_deref(),
        html: options.html.as_deref(),
        svg: options.svg.as_deref(),
    };
    output::check(files).map_err(|error| usage(&error))?;
    let report = in_runtime(async |stop| work(&plan, stop).await)?;
    let written = output::write(&report, files);
    written.map_err(|error| Failure::new(EXIT_FAILED, error, "df -h"))?;
    Ok(report)
}

/// Runs a command's work on this thread, with the signals that end it.
fn in_runtime<T>(
    work: impl AsyncFnOnce(&mut StopSignals) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let no_runtime = |error: std::io::Error| {
        let what = format!("the operating system gives this process no event queue: {error}");
        Failure::new(EXIT_FAILED, what, "ulimit -n")
    };
    // One thread: callers share what they count without locks, and the other processors are left to
    // nodes that run beside it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_runtime)?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut stop = StopSignals::new().map_err(no_runtime)?;
        work(&mut stop).await
    })
}

async fn measured(plan: &Plan, target: &Target, stop: &mut StopSignals) -> Result<Report, Failure> {
    measure(plan, target, stop).await.map_err(|error| {
        let server = target
            .servers
            .first()
            .map_or(SERVER_DEFAULT, String::as_str);
        let (exit, next) = match &error {
            MeasureError::Connect(dynakv_client::Error::Unreachable { .. }) => (
                EXIT_FAILED,
                "dynakv dev (a cluster to try), dynakv-bench local (one of its own), or \
                 --servers HOST:PORT of a node that runs"
                    .to_owned(),
            ),
            MeasureError::Connect(_) | MeasureError::Load(_) => {
                (EXIT_FAILED, format!("dynakv --server {server} status"))
            }
            MeasureError::System { .. } | MeasureError::Count(_) => {
                (EXIT_FAILED, "ulimit -a".to_owned())
            }
            MeasureError::Interrupted => (EXIT_INTERRUPTED, String::new()),
        };
        Failure::new(exit, error, next)
    })
}

/// Trimmed, without empty ones; an empty list stands for the default.
fn addresses(given: &[String], default: &str) -> Result<Vec<String>, Failure> {
    let trimmed = given.iter().map(|address| address.trim());
    let mut addresses: Vec<_> = trimmed.filter(|address| !address.is_empty()).collect();
    if addresses.is_empty() && !default.is_empty() {
        addresses.push(default);
    }
    for address in &addresses {
        check_address(address)
            .map_err(|error| Failure::new(EXIT_USAGE, error, "dynakv-bench help run"))?;
    }
    Ok(addresses.into_iter().map(str::to_owned).collect())
}
