//! A run on a cluster of its own, which is gone afterwards.

use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::compare::parse_percent;
use super::measure::Target;
use super::options::{InvalidOption, LoadOptions, Plan, parse_duration};
use super::output::say;
use super::own_cluster;
use super::stop::StopSignals;
use super::{EXIT_INTERRUPTED, Failure, measured};
use crate::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::report::{Event, Report};

/// `dynakv-bench local`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct LocalArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(super) nodes: u16,
    /// The dynakv binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub(super) dynakv: Option<PathBuf>,
    /// Where data and logs live, kept afterwards [default: a temporary directory, removed]
    #[arg(long, value_name = "DIR")]
    pub(super) directory: Option<PathBuf>,
    /// Kill the last node (kill -9) so long after the measured part began
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    kill_at: Option<Duration>,
    /// Start the killed node again after so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "kill_at")]
    restart_after: Option<Duration>,
    /// Do the same work in turns on clusters of this other dynakv binary (A) and of the present one (B), and compare
    #[arg(long, value_name = "PATH", conflicts_with_all = ["html", "svg"])]
    pub(super) against: Option<PathBuf>,
    /// How many runs each of the two gets
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000), requires = "against")]
    pub(super) rounds: u16,
    /// End with exit code 9 when the whole 95 % interval of a figure is worse than A's by more than this share
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, requires = "against")]
    pub(super) allow: Option<f64>,
    #[command(flatten)]
    pub(super) load: LoadOptions,
}

/// A node is gone for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    kill_at: Duration,
    restart_at: Option<Duration>,
}

/// The outage that was asked for.
///
/// # Errors
/// [`InvalidOption`] when the run is over by then.
pub(super) fn outage(args: &LocalArgs, plan: &Plan) -> Result<Option<Outage>, InvalidOption> {
    let Some(kill_at) = args.kill_at else {
        return Ok(None);
    };
    let restart_at = args
        .restart_after
        .map(|after| kill_at.saturating_add(after));
    for (option, at) in [
        ("--kill-at", Some(kill_at)),
        ("--restart-after", restart_at),
    ] {
        if at.is_some_and(|at| at >= plan.duration) {
            let why = format!("{option}: the run is over by then, see --duration");
            return Err(InvalidOption(why));
        }
    }
    Ok(Some(Outage {
        kill_at,
        restart_at,
    }))
}

/// Kills the last node and starts it again. What was done is noted at once: a run may end before all is.
async fn carry_out(
    outage: Outage,
    cluster: &mut Cluster,
    begun: &Notify,
    events: &RefCell<Vec<Event>>,
) -> Result<(), ClusterError> {
    begun.notified().await;
    let start = Instant::now();
    let victim = cluster.size() - 1;
    let id = cluster.id(victim).to_owned();
    let note = |what: &str| {
        let what = format!("{id} {what}");
        say(&format!("dynakv-bench: {what}\n"));
        events.borrow_mut().push(Event {
            at_seconds: start.elapsed().as_secs_f64(),
            what,
        });
    };
    sleep_until(start + outage.kill_at).await;
    note("killed");
    cluster.kill(victim).await?;
    if let Some(at) = outage.restart_at {
        sleep_until(start + at).await;
        note("started again");
        cluster.restart_without_waiting(victim)?;
    }
    Ok(())
}

/// A run on a cluster that comes up for it and is gone afterwards.
///
/// # Errors
/// [`Failure`]; nothing keeps running.
pub(super) async fn on_own_cluster(
    options: ClusterOptions,
    plan: &Plan,
    outage: Option<Outage>,
    stop: &mut StopSignals,
) -> Result<Report, Failure> {
    let mut cluster = own_cluster::start("local", options, stop).await?;
    let target = Target {
        servers: cluster.addresses(),
        metrics: cluster.http_addresses(),
        begun: Rc::default(),
    };
    let in_memory = own_cluster::memory_warning(&cluster);
    let events = RefCell::default();
    let mut outcome = {
        let mut measuring = pin!(measured(plan, &target, stop));
        match outage {
            None => measuring.await,
            Some(outage) => tokio::select! {
                outcome = &mut measuring => outcome,
                done = carry_out(outage, &mut cluster, &target.begun, &events) => match done {
                    Ok(()) => measuring.await,
                    Err(error) => Err(own_cluster::failure("local", &error)),
                },
            },
        }
    };
    if let Ok(report) = &mut outcome {
        report.events = events.into_inner();
    }
    if let Ok(report) = &mut outcome {
        report.warnings.extend(in_memory);
    }
    let interrupted = matches!(&outcome, Err(failure) if failure.exit == EXIT_INTERRUPTED);
    own_cluster::end(cluster, interrupted, stop).await;
    outcome
}
