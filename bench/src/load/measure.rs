//! A run from its first connection to its report.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use dynakv_client::{Client, Error};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use super::assemble::{Measured, report};
use super::caller::{Caller, Shared};
use super::host::{self, process_cpu};
use super::keys::KeyName;
use super::loading::load;
use super::options::Plan;
use super::output::say;
use super::pace::Pace;
use super::recorder::Recorder;
use super::resources::Sampler;
use super::sequence::Sequence;
use super::servers::{self, cpu_times, members, metrics_addresses};
use super::siblings::StaleContexts;
use super::stop::StopSignals;
use super::text::live_line;
use super::values::Values;
use crate::report::Report;

/// Without a loading phase so many keys are read first, so that the connections stand.
const WARMING_READS: u64 = 64;

/// Where the load goes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Nodes to begin with.
    pub(super) servers: Vec<String>,
    /// Where the nodes' metrics are; empty for the usual places.
    pub(super) metrics: Vec<String>,
    /// Is told when the measured part begins.
    pub(super) begun: Rc<Notify>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    /// No server answered, or it refused.
    #[error("{0}")]
    Connect(Error),
    /// A key could not be written.
    #[error("the keys could not be loaded: {0}")]
    Load(Error),
    /// The operating system.
    #[error("the operating system gives this process no {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Its reason.
        source: io::Error,
    },
    /// The histograms or the distribution could not be made.
    #[error("cannot count: {0}")]
    Count(String),
    /// A signal came before there was anything to report, or a second one.
    #[error("interrupted")]
    Interrupted,
}

/// Loads the keys and measures. Must run inside of a `LocalSet`.
///
/// # Errors
/// [`MeasureError`]; failed operations are none, they are counted.
pub(super) async fn measure(
    plan: &Plan,
    target: &Target,
    stop: &mut StopSignals,
) -> Result<Report, MeasureError> {
    let preparation = prepare(plan, target);
    let prepared = tokio::select! {
        prepared = preparation => prepared?,
        () = stop.received() => return Err(MeasureError::Interrupted),
    };
    let Prepared {
        clients,
        members,
        metrics,
        loading,
    } = prepared;
    let host = host::describe();
    let servers_before = cpu_times(&metrics).await;
    let cpu_before = process_cpu();
    let started_at = SystemTime::now();
    let shared = Rc::new(share(plan)?);
    target.begun.notify_one();
    let mut sampler = Sampler::new(shared.pace.start(), &metrics);
    let interrupted = run_callers(plan, &clients, &shared, &mut sampler, stop).await?;
    let duration = shared.pace.start().elapsed();
    let client_cpu = process_cpu().saturating_sub(cpu_before);
    let servers_after = cpu_times(&metrics).await;
    let unsent = shared.pace.unsent();
    let Some(shared) = Rc::into_inner(shared) else {
        return Err(MeasureError::Count("a caller goes on".to_owned()));
    };
    let recorded = shared.recorder.into_inner().finish(duration);
    Ok(report(
        plan,
        Measured {
            recorded,
            started_at,
            duration,
            client_cpu,
            interrupted,
            unsent,
            loading,
            host,
            members,
            servers_before,
            servers_after,
            resources: sampler.finish(),
        },
    ))
}

struct Prepared {
    clients: Vec<Client>,
    members: Vec<servers::Member>,
    metrics: Vec<String>,
    loading: Option<crate::report::Loading>,
}

async fn prepare(plan: &Plan, target: &Target) -> Result<Prepared, MeasureError> {
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let client = Client::builder()
            .seeds(target.servers.iter().map(String::as_str))
            .timeout(plan.timeout)
            .build();
        clients.push(client.await.map_err(MeasureError::Connect)?);
    }
    let loading = if plan.load {
        let values = Values::new(plan.sequence.seed.wrapping_add(1));
        let loading = load(plan, &clients, values).await;
        Some(loading.map_err(MeasureError::Load)?)
    } else {
        warm_up(plan, &clients).await;
        None
    };
    // After the loading, so that the ring is final.
    let members = members(&target.servers, plan.timeout)
        .await
        .map_err(MeasureError::Connect)?;
    let metrics = if target.metrics.is_empty() {
        metrics_addresses(&members)
    } else {
        target.metrics.clone()
    };
    Ok(Prepared {
        clients,
        members,
        metrics,
        loading,
    })
}

/// Opens the connections. Failures show in the run that follows.
async fn warm_up(plan: &Plan, clients: &[Client]) {
    let mut names = KeyName::new(plan.key_bytes);
    let mut tasks = JoinSet::new();
    for client in clients {
        for number in 0..WARMING_READS.min(plan.sequence.keys) {
            let read = client.get(names.of(number)).send();
            tasks.spawn_local(async move {
                let _shows_later = read.await;
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn share(plan: &Plan) -> Result<Shared, MeasureError> {
    let sequence = Sequence::new(plan.sequence)
        .ok_or_else(|| MeasureError::Count("no distribution over these keys".to_owned()))?;
    let recorder = Recorder::new().map_err(|error| MeasureError::Count(error.to_string()))?;
    Ok(Shared {
        sequence: RefCell::new(sequence),
        values: RefCell::new(Values::new(plan.sequence.seed)),
        contexts: RefCell::new(StaleContexts::new(plan.sequence.value_bytes.1)),
        recorder: RefCell::new(recorder),
        w: plan.w,
        r: plan.r,
        // Last, as its clock begins to run.
        pace: Pace::new(plan.duration, plan.rate),
    })
}

/// Lets all callers run to the end; tells whether a signal came before it.
async fn run_callers(
    plan: &Plan,
    clients: &[Client],
    shared: &Rc<Shared>,
    sampler: &mut Sampler,
    stop: &mut StopSignals,
) -> Result<bool, MeasureError> {
    let mut callers = JoinSet::new();
    for client in clients.iter().cycle().take(plan.in_flight()) {
        let caller = Caller {
            shared: Rc::clone(shared),
            client: client.clone(),
            key: KeyName::new(plan.key_bytes),
        };
        callers.spawn_local(caller.run());
    }
    let start = shared.pace.start();
    let second = Duration::from_secs(1);
    let mut ticks = interval_at((start + second).into(), second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut pacing = pin!(shared.pace.run());
    let mut paced = false;
    let mut interrupted = false;
    loop {
        tokio::select! {
            outcome = &mut pacing, if !paced => {
                paced = true;
                outcome.map_err(|source| MeasureError::System { what: "timer", source })?;
            }
            ended = callers.join_next() => match ended {
                Some(Ok(())) => {}
                // Its message has been written already.
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
                None => return Ok(interrupted),
            },
            _ = ticks.tick() => {
                let at = start.elapsed();
                let second = shared.recorder.borrow_mut().tick(at);
                sampler.tick(at);
                say(&live_line(&second));
            }
            () = stop.received() => {
                if interrupted {
                    return Err(MeasureError::Interrupted);
                }
                say("dynakv-bench: ending; once more to end without a report\n");
                interrupted = true;
                paced = true;
                shared.pace.stop();
            }
        }
    }
}
