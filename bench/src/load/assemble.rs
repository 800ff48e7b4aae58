//! From what was measured to the report, with what to keep in mind when reading it.

use std::time::{Duration, SystemTime};

use super::options::Plan;
use super::recorder::Recorded;
use super::servers::{CpuTimes, Member, ServerCost, all_local, cost};
use crate::grouped::grouped;
use crate::report::{Host, Loading, Report, ResourcePoint, RunConfig};

/// From this share of one processor on, the generator's thread is taken for the limit.
const CLIENT_BUSY: f64 = 0.9;

/// An open loop that reaches less than this share of its rate has fallen behind.
const RATE_REACHED: f64 = 0.98;

/// A load average of more than this for each processor is not the loading phase's alone.
const HOST_BUSY: f64 = 2.0;

/// What a run has measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// The operations.
    pub(super) recorded: Recorded,
    /// When the measured part began.
    pub(super) started_at: SystemTime,
    /// How long it took, up to the last answer.
    pub(super) duration: Duration,
    /// CPU time of this process.
    pub(super) client_cpu: Duration,
    /// Whether a signal ended it early.
    pub(super) interrupted: bool,
    /// Operations that were due and not sent.
    pub(super) unsent: u64,
    /// The loading phase.
    pub(super) loading: Option<Loading>,
    /// This machine.
    pub(super) host: Host,
    /// The nodes.
    pub(super) members: Vec<Member>,
    /// Their CPU times before.
    pub(super) servers_before: CpuTimes,
    /// And after.
    pub(super) servers_after: CpuTimes,
    /// What the processes took, second by second.
    pub(super) resources: Vec<ResourcePoint>,
}

/// The report of a run.
pub(super) fn report(plan: &Plan, measured: Measured) -> Report {
    let successes = measured.recorded.successes;
    let cost = cost(
        &measured.members,
        &measured.servers_before,
        &measured.servers_after,
        successes,
    );
    let seconds = measured.duration.as_secs_f64();
    let ops_per_second = per(successes as f64, seconds);
    let done = (successes + measured.recorded.failures) as f64;
    Report {
        ops_per_second,
        client_cpu_us_per_op: per(measured.client_cpu.as_secs_f64() * 1e6, done),
        server_cpu_us_per_op: cost.total_us_per_op,
        config: config(plan, &measured.members),
        started_at: humantime::format_rfc3339_millis(measured.started_at).to_string(),
        duration_seconds: seconds,
        warnings: warnings(plan, &measured, &cost),
        loading: measured.loading,
        servers: cost.servers(&measured.members),
        by_op: measured.recorded.by_op,
        all_ops: Some(measured.recorded.all_ops),
        resources: measured.resources,
        timeline: measured.recorded.timeline,
        events: Vec::new(),
        host: measured.host,
    }
}

fn config(plan: &Plan, members: &[Member]) -> RunConfig {
    let sequence = plan.sequence;
    RunConfig {
        workload: sequence.workload.name().to_owned(),
        servers: members
            .iter()
            .map(|member| member.address.clone())
            .collect(),
        clients: plan.clients,
        pipeline: plan.pipeline,
        rate: plan.rate,
        duration_seconds: plan.duration.as_secs_f64(),
        keys: sequence.keys,
        key_bytes: plan.key_bytes,
        value_bytes: sequence.value_bytes.1,
        distribution: sequence.distribution.name().to_owned(),
        seed: sequence.seed,
        w: plan.w,
        r: plan.r,
    }
}

fn warnings(plan: &Plan, measured: &Measured, cost: &ServerCost) -> Vec<String> {
    let recorded = &measured.recorded;
    let seconds = measured.duration.as_secs_f64();
    let mut warnings = Vec::new();
    if measured.interrupted {
        warnings.push(format!("ended by a signal after {seconds:.1} s"));
    }
    let (smallest, largest) = plan.sequence.value_bytes;
    if smallest < largest {
        warnings.push(format!(
            "values have {smallest} to {largest} bytes, all sizes alike"
        ));
    }
    if recorded.successes == 0 {
        warnings.push("no operation succeeded".to_owned());
    }
    if recorded.absent_reads > 0 {
        let remedy = if plan.load {
            "were they deleted meanwhile?"
        } else {
            "load them first (without --no-load), with the same --key-size"
        };
        warnings.push(format!(
            "{} reads found no value: {remedy}",
            grouped(recorded.absent_reads)
        ));
    }
    let client_share = per(measured.client_cpu.as_secs_f64(), seconds);
    let client_busy = client_share >= CLIENT_BUSY;
    if client_busy {
        warnings.push(format!(
            "the generator used {:.0} % of the one processor it runs on: the figures may show its limit \
             and not the cluster's; run a second one beside it",
            client_share * 100.0
        ));
    }
    if let Some(rate) = plan.rate
        && !measured.interrupted
    {
        let done = (recorded.successes + recorded.failures) as f64;
        let reached = per(done, seconds);
        if reached < rate * RATE_REACHED {
            let why = if client_busy {
                "the generator was the limit".to_owned()
            } else if cost.missing.is_empty() && per(cost.seconds, seconds) < 0.5 {
                format!(
                    "the nodes were idle for most of the time and the {} callers were not enough: \
                     take more --clients",
                    plan.in_flight()
                )
            } else {
                "the cluster did not keep up".to_owned()
            };
            warnings.push(format!(
                "{reached:.0} of {rate} operations per second: {why}"
            ));
        }
    }
    if measured.unsent > 0 && !measured.interrupted {
        warnings.push(format!(
            "{} operations were due and not sent before the end, as all {} callers were waiting: how \
             long these would have taken is missing from the latencies",
            grouped(measured.unsent),
            plan.in_flight()
        ));
    }
    if !cost.missing.is_empty() || measured.members.is_empty() {
        let failures = measured.servers_before.failures.iter();
        let failures = failures.chain(&measured.servers_after.failures);
        let why = failures.map(|why| format!(" ({why})")).next();
        warnings.push(format!(
            "the CPU time of {} is not known{}: name the nodes' HTTP ports with --metrics HOST:PORT,...",
            cost.missing.join(", "),
            why.unwrap_or_default()
        ));
    }
    if !cost.restarted.is_empty() {
        warnings.push(format!(
            "the CPU time of {} is not known, as it was started anew meanwhile",
            cost.restarted.join(", ")
        ));
    }
    let host = &measured.host;
    if host.load_average > HOST_BUSY * host.cores as f64 {
        warnings.push(format!(
            "this machine was busy when the measuring began: load average {:.1} on {} processors",
            host.load_average, host.cores
        ));
    }
    if all_local(&measured.members) {
        warnings.push(format!(
            "generator and nodes share this machine's {} processors",
            measured.host.cores
        ));
    }
    warnings
}

fn per(amount: f64, units: f64) -> f64 {
    if units > 0.0 { amount / units } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use dynakv_client::Error;

    use super::super::recorder::{Op, Recorder};
    use super::super::sequence::{Distribution, SequenceConfig};
    use super::super::workload::Workload;
    use super::*;

    fn plan(rate: Option<f64>) -> Plan {
        Plan {
            sequence: SequenceConfig {
                workload: Workload::A,
                distribution: Distribution::Zipfian,
                keys: 1000,
                value_bytes: (100, 100),
                seed: 7,
            },
            clients: 3,
            pipeline: 2,
            rate,
            duration: Duration::from_secs(10),
            key_bytes: 24,
            w: Some(2),
            r: None,
            connections: 1,
            timeout: Duration::from_secs(5),
            load: true,
        }
    }

    /// 1,000 writes in 10 s by two nodes, one of which used 1 s of CPU time.
    fn measured() -> Measured {
        let mut recorder = Recorder::new().unwrap();
        for _ in 0..1000 {
            recorder.success(Op::Write, Duration::from_millis(2));
        }
        let duration = Duration::from_secs(10);
        let cpu = |a: f64, b: f64| CpuTimes {
            seconds: [("a".to_owned(), a), ("b".to_owned(), b)].into(),
            ..CpuTimes::default()
        };
        let member = |id: &str, address: &str| Member {
            node_id: id.to_owned(),
            address: address.to_owned(),
            version: "0.1.0".to_owned(),
        };
        Measured {
            recorded: recorder.finish(duration),
            started_at: SystemTime::UNIX_EPOCH,
            duration,
            client_cpu: Duration::from_millis(500),
            interrupted: false,
            unsent: 0,
            loading: None,
            host: Host {
                cores: 4,
                load_average: 1.0,
                ..super::super::host::describe()
            },
            members: vec![member("a", "10.0.0.1:8080"), member("b", "10.0.0.2:8080")],
            servers_before: cpu(5.0, 5.0),
            servers_after: cpu(6.0, 5.0),
            resources: Vec::new(),
        }
    }

    #[test]
    fn figures_are_per_operation() {
        let report = report(&plan(None), measured());
        assert_eq!(report.ops_per_second, 100.0);
        assert_eq!(report.client_cpu_us_per_op, 500.0);
        assert_eq!(report.server_cpu_us_per_op, Some(1000.0));
        assert_eq!(report.servers[0].cpu_us_per_op, Some(1000.0));
        assert_eq!(report.servers[1].cpu_us_per_op, Some(0.0));
        assert_eq!(report.started_at, "1970-01-01T00:00:00.000Z");
        assert_eq!(report.config.workload, "a");
        assert_eq!(report.config.servers, ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!((report.config.w, report.config.r), (Some(2), None));
        assert_eq!(report.warnings, [""; 0]);
    }

    fn warnings_of(rate: Option<f64>, change: impl FnOnce(&mut Measured)) -> String {
        let mut measured = measured();
        change(&mut measured);
        report(&plan(rate), measured).warnings.join("\n")
    }

    #[test]
    fn what_distorts_the_figures_is_said() {
        let busy = warnings_of(None, |m| m.client_cpu = Duration::from_millis(9900));
        assert!(busy.contains("99 %"), "{busy}");
        let early = warnings_of(Some(100.0), |m| m.interrupted = true);
        assert!(
            early.contains("signal") && early.lines().count() == 1,
            "{early}"
        );
        let absent = warnings_of(None, |m| m.recorded.absent_reads = 12_345);
        assert!(absent.contains("12,345 reads"), "{absent}");
        let local = warnings_of(None, |m| {
            for member in &mut m.members {
                member.address = "127.0.0.1:8080".to_owned();
            }
        });
        assert!(local.contains("share this machine"), "{local}");
        let busy = warnings_of(None, |m| m.host.load_average = 9.0);
        assert!(busy.contains("load average 9.0 on 4"), "{busy}");
        let unknown = warnings_of(None, |m| {
            m.servers_after.seconds.remove("b");
            m.servers_after
                .failures
                .push("10.0.0.2:9080: refused".to_owned());
        });
        assert!(
            unknown.contains("CPU time of b") && unknown.contains("refused"),
            "{unknown}"
        );
        let restarted = warnings_of(None, |m| {
            m.servers_after.seconds.insert("b".to_owned(), 0.5);
        });
        assert!(
            restarted.contains("of b is not known, as it was started anew"),
            "{restarted}"
        );
        let failed = warnings_of(None, |m| {
            let mut recorder = Recorder::new().unwrap();
            let what = String::new();
            recorder.failure(Op::Read, &Error::Invalid { what });
            m.recorded = recorder.finish(m.duration);
        });
        assert!(failed.contains("no operation succeeded"), "{failed}");
    }

    #[test]
    fn an_open_loop_that_falls_behind_says_who_was_the_limit() {
        assert_eq!(warnings_of(Some(100.0), |_| {}), "");
        let callers = warnings_of(Some(1000.0), |m| m.unsent = 9000);
        assert!(callers.contains("6 callers were not enough"), "{callers}");
        assert!(callers.contains("9,000 operations were due"), "{callers}");
        let cluster = warnings_of(Some(1000.0), |m| {
            m.servers_after.seconds.insert("a".to_owned(), 25.0);
        });
        assert!(cluster.contains("did not keep up"), "{cluster}");
        let client = warnings_of(Some(1000.0), |m| m.client_cpu = m.duration);
        assert!(client.contains("the generator was the limit"), "{client}");
    }
}
