//! The options of a run, and what they come to: checked once, with the workload's defaults filled in.

use std::path::PathBuf;
use std::time::Duration;

use dynakv_protocol::limits::{KEY_BYTES_MAX, TIMEOUT_MS_MAX, VALUE_BYTES_MAX};

use super::keys::{self, KEY_BYTES_MIN};
use super::sequence::{Distribution, Sequence, SequenceConfig};
use super::values::VALUE_BYTES_MIN;
use super::workload::Workload;

/// Callers times pipeline: the most requests in flight.
const IN_FLIGHT_MAX: usize = 100_000;

/// What is done, and to what: options of every load.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub(super) struct WorkOptions {
    /// What to do: write (blind puts), read, a (50 % reads, 50 % updates), b (95/5), c (reads),
    /// d (95 % reads of the newest keys, 5 % inserts), f (50 % reads, 50 % read-modify-writes),
    /// siblings (conflicting writes and merging reads), hot-key, large (64 KiB to 1 MiB)
    #[arg(long, value_name = "NAME", default_value = "write")]
    workload: Workload,
    /// Keys that are loaded [default: 1000000; siblings: 1000, large: 200, hot-key: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// Bytes of a key
    #[arg(long, value_name = "BYTES", default_value_t = 24)]
    key_size: usize,
    /// Bytes of a value [default: 100; large: 65536 to 1048576]
    #[arg(long, value_name = "BYTES")]
    value_size: Option<usize>,
    /// How keys are chosen [default: zipfian; d: latest]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// W of each write [default: the cluster's]
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    w: Option<u8>,
    /// R of each read [default: the cluster's]
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    r: Option<u8>,
    /// Connections to each node, shared by the callers
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: usize,
    /// How long one operation may take with all its attempts
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// What decides the sequence of keys and operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Options that `run` and `local` share.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub(super) struct LoadOptions {
    #[command(flatten)]
    work: WorkOptions,
    /// Callers [default: 100; siblings: 50, large: 16]
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Requests that each caller keeps in flight [default: 4; siblings, hot-key, large: 1]
    #[arg(long, value_name = "N")]
    pipeline: Option<usize>,
    /// Open loop: so many operations per second, whatever the servers do; latency counts from the
    /// intended moment [default: closed loop, each caller sends when it has its answer]
    #[arg(long, value_name = "OPS", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How long to measure
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    duration: Duration,
    /// The keys are there already: do not load them
    #[arg(long)]
    no_load: bool,
    /// Write the result as JSON, - for standard output
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write the result as a page
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Write the course of the run as a picture
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
}

/// How much is asked for, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressure {
    /// Callers, unless the workload's default.
    pub(super) clients: Option<usize>,
    /// Requests that each keeps in flight, unless the workload's default.
    pub(super) pipeline: Option<usize>,
    /// Operations per second; a closed loop without it.
    pub(super) rate: Option<f64>,
    /// How long to measure.
    pub(super) duration: Duration,
}

/// A run as it is going to be.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// What decides the sequence of operations.
    pub(super) sequence: SequenceConfig,
    /// Callers.
    pub(super) clients: usize,
    /// Requests that each caller keeps in flight.
    pub(super) pipeline: usize,
    /// Operations per second; a closed loop without it.
    pub(super) rate: Option<f64>,
    /// How long to measure.
    pub(super) duration: Duration,
    /// Bytes of a key.
    pub(super) key_bytes: usize,
    /// W of each write.
    pub(super) w: Option<u8>,
    /// R of each read.
    pub(super) r: Option<u8>,
    /// Connections to each node.
    pub(super) connections: usize,
    /// The deadline of an operation.
    pub(super) timeout: Duration,
    /// Whether keys are loaded first.
    pub(super) load: bool,
}

/// An option cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct InvalidOption(pub(super) String);

impl LoadOptions {
    /// Checks the options and fills in the defaults.
    ///
    /// # Errors
    /// [`InvalidOption`], with what is permitted.
    pub(super) fn plan(&self) -> Result<Plan, InvalidOption> {
        let pressure = Pressure {
            clients: self.clients,
            pipeline: self.pipeline,
            rate: self.rate,
            duration: self.duration,
        };
        self.work.plan(pressure, !self.no_load)
    }
}

impl WorkOptions {
    /// Checks the options and fills in the defaults.
    ///
    /// # Errors
    /// [`InvalidOption`], with what is permitted.
    pub(super) fn plan(&self, pressure: Pressure, load: bool) -> Result<Plan, InvalidOption> {
        let defaults = self.workload.defaults();
        let distribution = self.distribution.unwrap_or(match self.workload {
            Workload::D => Distribution::Latest,
            _ => Distribution::Zipfian,
        });
        let value_bytes = match self.value_size {
            Some(size) => (size, size),
            None => defaults.value_bytes,
        };
        let plan = Plan {
            sequence: SequenceConfig {
                workload: self.workload,
                distribution,
                keys: self.keys.unwrap_or(defaults.keys),
                value_bytes,
                seed: self.seed,
            },
            clients: pressure.clients.unwrap_or(defaults.clients),
            pipeline: pressure.pipeline.unwrap_or(defaults.pipeline),
            rate: pressure.rate,
            duration: pressure.duration,
            key_bytes: self.key_size,
            w: self.w,
            r: self.r,
            connections: self.connections,
            timeout: self.timeout,
            load,
        };
        plan.check().map_err(InvalidOption)?;
        Ok(plan)
    }
}

impl Plan {
    /// The most requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.clients.saturating_mul(self.pipeline)
    }

    fn check(&self) -> Result<(), String> {
        let timeout_max = Duration::from_millis(u64::from(TIMEOUT_MS_MAX));
        let keys = self.sequence.keys;
        let keys_max = keys::capacity(self.key_bytes) / 2;
        let value_bytes = self.sequence.value_bytes.1;
        let wrong = |option: &str, why: String| Err(format!("--{option}: {why}"));
        if self.clients == 0 || self.pipeline == 0 || self.in_flight() > IN_FLIGHT_MAX {
            let why = format!(
                "clients times pipeline is {}, 1 to {IN_FLIGHT_MAX} are permitted",
                self.in_flight()
            );
            return wrong("clients", why);
        }
        if !(1..=self.in_flight()).contains(&self.connections) {
            return wrong(
                "connections",
                "1 to as many as there are callers".to_owned(),
            );
        }
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&self.key_bytes) {
            let why = format!("{KEY_BYTES_MIN} to {KEY_BYTES_MAX} are permitted");
            return wrong("key-size", why);
        }
        if keys > keys_max {
            let why = format!(
                "{keys} keys do not fit into {} bytes each: at most {keys_max}, or a larger --key-size",
                self.key_bytes
            );
            return wrong("keys", why);
        }
        if !(VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value_bytes) {
            let why = format!(
                "{VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} are permitted (a value begins with its number)"
            );
            return wrong("value-size", why);
        }
        if self.duration.is_zero() {
            return wrong("duration", "more than 0 is needed, such as 30s".to_owned());
        }
        if self.timeout.is_zero() || self.timeout > timeout_max {
            return wrong(
                "timeout",
                format!("more than 0 and at most {timeout_max:?}"),
            );
        }
        if Sequence::new(self.sequence).is_none() {
            return wrong(
                "distribution",
                "it does not fit the number of keys".to_owned(),
            );
        }
        Ok(())
    }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a number with a unit, such as 500ms, 30s or 10m"))
}

/// Operations per second.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "write a number of operations per second")?;
    if rate.is_finite() && (0.001..=100_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("0.001 to 100000000 operations per second are permitted".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadOptions,
    }

    fn plan(line: &str) -> Result<Plan, InvalidOption> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Line::try_parse_from(["bench"].into_iter().chain(words))
            .unwrap()
            .load
            .plan()
    }

    #[test]
    fn without_options_it_is_the_standard_work() {
        let plan = plan("").unwrap();
        let sequence = plan.sequence;
        assert_eq!(sequence.workload, Workload::Write);
        assert_eq!(sequence.distribution, Distribution::Zipfian);
        assert_eq!(
            (sequence.keys, sequence.value_bytes),
            (1_000_000, (100, 100))
        );
        assert_eq!(
            (plan.key_bytes, plan.duration),
            (24, Duration::from_secs(30))
        );
        assert_eq!(plan.rate, None);
        assert!(plan.load);
    }

    #[test]
    fn workloads_have_their_defaults_and_options_win() {
        assert_eq!(
            plan("--workload d").unwrap().sequence.distribution,
            Distribution::Latest
        );
        let large = plan("--workload large").unwrap();
        assert_eq!(large.sequence.value_bytes, (65_536, 1_048_576));
        let large = plan("--workload large --value-size 70000 --keys 3").unwrap();
        assert_eq!(large.sequence.value_bytes, (70_000, 70_000));
        assert_eq!(large.sequence.keys, 3);
        assert_eq!(plan("--workload hot-key").unwrap().sequence.keys, 1);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_option_named() {
        for (line, option) in [
            ("--clients 0", "--clients"),
            ("--clients 2000 --pipeline 2000", "--clients"),
            ("--connections 0", "--connections"),
            ("--clients 1 --pipeline 2 --connections 3", "--connections"),
            ("--key-size 3", "--key-size"),
            ("--key-size 4097", "--key-size"),
            ("--key-size 4", "--keys"),
            ("--value-size 7", "--value-size"),
            ("--value-size 99999999", "--value-size"),
            ("--duration 0s", "--duration"),
            ("--timeout 0s", "--timeout"),
            ("--timeout 61s", "--timeout"),
        ] {
            let error = plan(line).unwrap_err().to_string();
            assert!(error.contains(option), "{line}: {error}");
        }
        for line in [
            "--workload e",
            "--workload none",
            "--rate 0",
            "--rate inf",
            "--rate NaN",
            "--duration 5",
            "--keys 0",
            "-w 0",
        ] {
            let words = ["bench"].into_iter().chain(line.split(' '));
            let error = Line::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
