//! Where settings come from: a TOML file, then `DYNAKV_*` variables, then flags, the later ones
//! winning one by one. Each setting has one name: `http_port` in the file, `DYNAKV_HTTP_PORT` in the
//! environment, `--http-port` as a flag.
//!
//! The outcome is a checked [`Config`]; nothing else reads a setting.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dynakv_protocol::ids::{NAME_BYTES_MAX, NODE_ID_BYTES_MAX, NodeId};
use dynakv_protocol::limits::{MEMBERS_MAX, VALUE_BYTES_MAX};
use dynakv_protocol::ring_document::{N_MAX, WEIGHT_MAX};
use serde::Deserialize;

use crate::config::Config;

mod bounds;
mod effective;
mod environment;
mod file;
mod kinds;
mod nearest;
mod renamed;
mod values;

pub use self::bounds::{Bounds, Range};
pub(crate) use self::effective::LOG_DEFAULT;
pub use self::effective::{Effective, Layers, Origin, effective};
pub use self::environment::read_environment;
pub use self::file::{KeyLines, read_file};
pub use self::kinds::{Filter, Span, Syncs};
pub(crate) use self::values::{check_founding, check_values};

use self::bounds::{DAY, KIB, MIB, TIB};
use self::kinds::{FromText, Measured};

/// Why a node cannot start with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a value of another kind.
    #[error("the settings file {} is wrong: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The file has a key that does not exist.
    #[error(
        "the settings file {} is wrong: line {line}: there is no setting {key:?}{}",
        path.display(),
        meant.map(|meant| format!(", did you mean {meant:?}?")).unwrap_or_default()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1 on.
        line: usize,
        /// The key.
        key: String,
        /// The setting that is written most like it.
        meant: Option<&'static str>,
    },
    /// A variable does not hold a value of its kind.
    #[error("{variable}={value:?}: {reason}")]
    Variable {
        /// Its name.
        variable: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        reason: String,
    },
    /// A setting that has no default is missing.
    #[error("the setting {name} is missing: give --{name}, or {name} in the settings file")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A setting is out of its range, or does not go with another.
    #[error("{name} is wrong: {reason}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// What is permitted.
        reason: String,
    },
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $variable:literal, $bounds:expr;)*) => {
        /// One layer of settings: what a file, the environment or the flags say. See [`Config`] for
        /// what each means.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Layer {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl Layer {
            /// All settings: the name in the file, and the variable.
            pub const NAMES: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), $variable)),*];

            /// What each setting may be, in the order of the names.
            pub const BOUNDS: &'static [Bounds] = &[$($bounds),*];

            /// Whether this layer says anything about the setting of this name.
            pub fn has(&self, name: &str) -> bool {
                match name {
                    $(stringify!($name) => self.$name.is_some(),)*
                    _ => false,
                }
            }

            /// These settings, and those of a weaker layer where this one says nothing.
            #[must_use]
            pub fn over(self, weaker: Self) -> Self {
                Self { $($name: self.$name.or(weaker.$name),)* }
            }

            /// Takes a variable; false when there is no setting of this name.
            fn take_variable(&mut self, variable: &str, value: &OsStr) -> Result<bool, String> {
                match variable {
                    $($variable => {
                        let permitted = |reason| format!("{reason}; {} is permitted", $bounds);
                        self.$name = Some(FromText::from_variable(value).map_err(permitted)?);
                    })*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// Holds each setting that is given against its bounds; the error names the first that is
            /// outside.
            pub(super) fn check_bounds(&self) -> Result<(), (&'static str, String)> {
                $(if let Some(value) = &self.$name {
                    let checked = $bounds.check(&value.measure());
                    checked.map_err(|reason| (stringify!($name), reason))?;
                })*
                Ok(())
            }
        }
    };
}

settings! {
    /// `--id`.
    id: String, "DYNAKV_ID",
        Bounds::text(1, NODE_ID_BYTES_MAX, "others keep it with what they know of the node");
    /// `--cluster`.
    cluster: String, "DYNAKV_CLUSTER",
        Bounds::text(1, NODE_ID_BYTES_MAX, "it is in every greeting");
    /// `--host`.
    host: IpAddr, "DYNAKV_HOST", Bounds::form("an IP address");
    /// `--port`.
    port: u16, "DYNAKV_PORT", Bounds::number(0, 65_535, "TCP has no others");
    /// `--advertise`.
    advertise: String, "DYNAKV_ADVERTISE",
        Bounds::text(3, NAME_BYTES_MAX, "it is HOST:PORT, and members tell it to each other");
    /// `--http-host`.
    http_host: IpAddr, "DYNAKV_HTTP_HOST", Bounds::form("an IP address");
    /// `--http-port`.
    http_port: u16, "DYNAKV_HTTP_PORT", Bounds::number(0, 65_535, "TCP has no others");
    /// `--seed`.
    seed: Vec<String>, "DYNAKV_SEED",
        Bounds::count(0, MEMBERS_MAX, "a cluster has no more members");
    /// `--bootstrap`.
    bootstrap: bool, "DYNAKV_BOOTSTRAP", Bounds::form("true or false");
    /// `--auto-join`.
    auto_join: bool, "DYNAKV_AUTO_JOIN", Bounds::form("true or false");
    /// `--data-dir`.
    data_dir: PathBuf, "DYNAKV_DATA_DIR",
        Bounds::text(1, 3_072, "paths end at 4,096 bytes, and those of the store come on top");
    /// `-n`.
    n: u8, "DYNAKV_N", Bounds::number(1, N_MAX as u64, "a ring holds no other number of copies");
    /// `-w`.
    w: u8, "DYNAKV_W", Bounds::number(1, N_MAX as u64, "a key has at most n owners to wait for");
    /// `-r`.
    r: u8, "DYNAKV_R", Bounds::number(1, N_MAX as u64, "a key has at most n owners to wait for");
    /// `--zone`.
    zone: String, "DYNAKV_ZONE",
        Bounds::text(0, NODE_ID_BYTES_MAX, "it is in the ring, which all nodes keep");
    /// `--weight`.
    weight: u16, "DYNAKV_WEIGHT",
        Bounds::number(1, WEIGHT_MAX as u64, "each unit is 150 virtual nodes in every table of the ring");
    /// How long without news before a node is suspected.
    suspect_after: Span, "DYNAKV_SUSPECT_AFTER",
        Bounds::span(Duration::from_millis(30), DAY, "it is at least 3 gossip intervals");
    /// How long without news before a node counts as dead.
    dead_after: Span, "DYNAKV_DEAD_AFTER",
        Bounds::span(Duration::from_millis(31), DAY.saturating_mul(7), "it is more than suspect_after");
    /// How often a node gossips.
    gossip_interval: Span, "DYNAKV_GOSSIP_INTERVAL",
        Bounds::span(
            Duration::from_millis(10),
            Duration::from_secs(60),
            "more often it keeps the network thread busy, more seldom news come too late"
        );
    /// The largest value, in bytes.
    value_bytes_max: usize, "DYNAKV_VALUE_BYTES_MAX",
        Bounds::bytes(1, VALUE_BYTES_MAX as u64, "frames of the protocol carry no more");
    /// The most connections at once.
    connections_max: usize, "DYNAKV_CONNECTIONS_MAX",
        Bounds::number(1, 1 << 20, "Linux opens no more files for a process unless it is told to");
    /// The most requests in hand at once.
    requests_in_flight_max: usize, "DYNAKV_REQUESTS_IN_FLIGHT_MAX",
        Bounds::number(1, 1 << 20, "their books alone take gigabytes beyond it");
    /// The most bytes of requests in hand at once.
    bytes_in_flight_max: usize, "DYNAKV_BYTES_IN_FLIGHT_MAX",
        Bounds::bytes(MIB, TIB, "parts of it are the bounds of what is on its way, and must hold some requests");
    /// The most bytes of answers that wait for one reader.
    connection_bytes_max: usize, "DYNAKV_CONNECTION_BYTES_MAX",
        Bounds::bytes(64 * KIB, TIB, "a socket takes that much at once");
    /// How long a clean shutdown may take.
    shutdown_deadline: Span, "DYNAKV_SHUTDOWN_DEADLINE",
        Bounds::span(
            Duration::from_millis(100),
            Duration::from_secs(3600),
            "what is in hand needs time, and who stops a node does not wait for ever"
        );
    /// Memory of the store, in bytes.
    #[serde(alias = "cache_bytes")]
    memory_bytes: u64, "DYNAKV_MEMORY_BYTES",
        Bounds::bytes(MIB, TIB, "half of it is sled's, which divides that into 256 parts, and each must hold some pages");
    /// Of the commit log, in bytes.
    log_bytes_max: u64, "DYNAKV_LOG_BYTES_MAX",
        Bounds::bytes(MIB, 7 * 1024 * MIB, "below that the store does nothing but checkpoints, above it a start takes too long");
    /// How often copies are compared with those of each other node.
    anti_entropy_interval: Span, "DYNAKV_ANTI_ENTROPY_INTERVAL",
        Bounds::span(
            Duration::from_secs(1),
            DAY.saturating_mul(30),
            "more often nodes do nothing else, more seldom a copy rots unseen"
        );
    /// How much of the disk is left free, in bytes.
    disk_reserve_bytes: u64, "DYNAKV_DISK_RESERVE_BYTES",
        Bounds::bytes(0, 16 * TIB, "a reserve as large as the disk leaves no room for data");
    /// How many bytes of hints are kept for other nodes.
    hints_bytes_max: u64, "DYNAKV_HINTS_BYTES_MAX",
        Bounds::bytes(0, TIB, "each key among them takes memory");
    /// How long a reminder that an owner missed a write is kept.
    hints_age_max: Span, "DYNAKV_HINTS_AGE_MAX",
        Bounds::span(
            Duration::from_secs(1),
            DAY.saturating_mul(30),
            "a younger one could not be sent, and anti-entropy finds what an older one knows"
        );
    /// `--durability`.
    durability: Syncs, "DYNAKV_DURABILITY",
        Bounds::syncs(
            Duration::from_millis(1),
            Duration::from_secs(60),
            "a disk syncs no faster, and what is acknowledged must not stay in danger"
        );
    /// What is logged, also after SIGHUP.
    log: Filter, "DYNAKV_LOG",
        Bounds::text(1, 4_096, "each of its parts is looked at for every line");
}

/// Checks merged settings and fills in the defaults.
///
/// # Errors
/// [`SettingsError::Missing`], [`SettingsError::Invalid`].
pub fn check(settings: Layer) -> Result<Config, SettingsError> {
    let invalid = |(name, reason)| SettingsError::Invalid { name, reason };
    settings.check_bounds().map_err(invalid)?;
    let config = with_defaults(settings)?;
    check_values(&config).map_err(invalid)?;
    Ok(config)
}

fn with_defaults(settings: Layer) -> Result<Config, SettingsError> {
    let id = settings.id.ok_or(SettingsError::Missing { name: "id" })?;
    let id = NodeId::new(&id).map_err(|error| SettingsError::Invalid {
        name: "id",
        reason: error.to_string(),
    })?;
    let mut config = Config::new(id);
    macro_rules! take {
        ($($name:ident),*) => {$( if let Some(value) = settings.$name { config.$name = value; } )*};
    }
    macro_rules! take_span {
        ($($name:ident),*) => {$( if let Some(Span(value)) = settings.$name { config.$name = value; } )*};
    }
    take!(
        host,
        port,
        http_host,
        bootstrap,
        auto_join,
        data_dir,
        zone,
        weight,
        memory_bytes,
        log_bytes_max,
        hints_bytes_max
    );
    take!(value_bytes_max, connections_max, requests_in_flight_max);
    take!(bytes_in_flight_max, connection_bytes_max);
    take_span!(
        suspect_after,
        dead_after,
        gossip_interval,
        anti_entropy_interval,
        hints_age_max,
        shutdown_deadline
    );
    config.disk_reserve_bytes = settings.disk_reserve_bytes;
    if let Some(Syncs(durability)) = settings.durability {
        config.durability = durability;
    }
    config.cluster_name = settings.cluster.unwrap_or(config.cluster_name);
    config.seeds = settings.seed.unwrap_or_default();
    (config.advertise, config.http_port) = (settings.advertise, settings.http_port);
    (config.n, config.w, config.r) = (settings.n, settings.w, settings.r);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_id() -> Layer {
        Layer {
            id: Some("node-1".to_owned()),
            ..Layer::default()
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_config() {
        let id = NodeId::new("node-1").unwrap();
        assert_eq!(check(with_id()).unwrap(), Config::new(id));
    }

    #[test]
    fn flags_win_over_variables_and_variables_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dynakv.toml");
        let text =
            "id = \"file\"\nport = 1\nn = 5\nseed = [\"a:1\", \"b:2\"]\ndead_after = \"1m\"\n";
        std::fs::write(&path, text).unwrap();
        let (file, lines, warned) = read_file(&path).unwrap();
        assert!(warned.is_empty());
        assert_eq!((lines["id"], lines["dead_after"]), (1, 5));
        let (variables, warnings) =
            read_environment([("DYNAKV_ID", "variable"), ("DYNAKV_PORT", "2")]).unwrap();
        assert!(warnings.is_empty());
        let config = check(with_id().over(variables).over(file)).unwrap();
        assert_eq!(config.id.as_str(), "node-1");
        assert_eq!((config.port, config.n), (2, Some(5)));
        assert_eq!(config.seeds, ["a:1", "b:2"]);
        assert_eq!(config.dead_after, Duration::from_secs(60));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Layer);
        let cases: [(&str, Change); 20] = [
            ("id", |s| s.id = Some("a b".to_owned())),
            ("id", |s| s.id = None),
            ("cluster", |s| s.cluster = Some(String::new())),
            ("zone", |s| s.zone = Some("a b".to_owned())),
            ("seed", |s| s.seed = Some(vec!["nowhere".to_owned()])),
            ("advertise", |s| s.advertise = Some("a:0".to_owned())),
            ("advertise", |s| s.host = Some("0.0.0.0".parse().unwrap())),
            ("advertise", |s| s.host = Some("::".parse().unwrap())),
            ("advertise", |s| s.advertise = Some("[::]:8080".to_owned())),
            ("port", |s| s.port = Some(64536)),
            ("http-port", |s| s.http_port = Some(8080)),
            ("n", |s| s.n = Some(0)),
            ("n", |s| s.n = Some(33)),
            ("w", |s| (s.n, s.w) = (Some(3), Some(4))),
            ("r", |s| s.r = Some(0)),
            ("weight", |s| s.weight = Some(101)),
            ("value_bytes_max", |s| s.value_bytes_max = Some(1 << 25)),
            ("connections_max", |s| s.connections_max = Some(0)),
            ("suspect_after", |s| {
                s.suspect_after = Some(Span(Duration::from_secs(2)));
            }),
            ("dead_after", |s| {
                s.dead_after = Some(Span(Duration::from_secs(10)));
            }),
        ];
        for (name, change) in cases {
            let mut layer = with_id();
            change(&mut layer);
            match check(layer).unwrap_err() {
                SettingsError::Invalid { name: at, .. } | SettingsError::Missing { name: at } => {
                    assert_eq!(at, name);
                }
                other => panic!("{name}: {other}"),
            }
        }
    }

    /// Whoever embeds a node builds its config without a layer: the same bounds hold there. By the table,
    /// so that no setting is forgotten.
    #[test]
    fn bounds_hold_for_a_config_that_was_built_by_hand() {
        let mut tried = 0;
        for (&(name, variable), bounds) in Layer::NAMES.iter().zip(Layer::BOUNDS) {
            let outside = match bounds.range {
                Range::Number(least, most) | Range::Bytes(least, most) => [
                    least.checked_sub(1).map(|below| below.to_string()),
                    Some((most + 1).to_string()),
                ],
                Range::Span(least, most) => [least.as_nanos() - 1, most.as_nanos() + 1]
                    .map(|nanos| Some(format!("{nanos}ns"))),
                Range::Syncs(least, most) => [least.as_nanos() - 1, most.as_nanos() + 1]
                    .map(|nanos| Some(format!("interval:{nanos}ns"))),
                Range::Text(_, most) => [None, Some("x".repeat(most + 1))],
                Range::Count(_, most) => [None, Some("a:1,".repeat(most + 1))],
                // What has another form cannot be in a config.
                Range::Form(_) => [None, None],
            };
            for text in outside.into_iter().flatten() {
                let mut layer = with_id();
                // A number that its type cannot hold, or a name that is none, does not get as far.
                if layer.take_variable(variable, OsStr::new(&text)).is_err() {
                    continue;
                }
                let Ok(config) = with_defaults(layer.clone()) else {
                    continue;
                };
                tried += 1;
                assert_eq!(layer.check_bounds().unwrap_err().0, name, "{text}");
                if name != "log" {
                    assert_eq!(check_values(&config).unwrap_err().0, name, "{text}");
                }
            }
        }
        assert!(tried > Layer::NAMES.len(), "{tried}");
    }

    #[test]
    fn a_quorum_is_held_against_the_cluster_that_would_be_founded() {
        let mut layer = with_id();
        layer.w = Some(5);
        let config = check(layer.clone()).unwrap();
        let (name, reason) = check_founding(&config).unwrap_err();
        assert_eq!(name, "w");
        assert!(reason.contains("give -n 5"), "{reason}");
        // With seeds the cluster that it joins says how many copies there are.
        layer.seed = Some(vec!["a:1".to_owned()]);
        check_founding(&check(layer.clone()).unwrap()).unwrap();
        layer.bootstrap = Some(true);
        check_founding(&check(layer.clone()).unwrap()).unwrap_err();
        layer.n = Some(5);
        check_founding(&check(layer).unwrap()).unwrap();
    }

    #[test]
    fn all_addresses_may_be_listened_on_by_a_node_that_names_one() {
        let mut layer = with_id();
        layer.host = Some("0.0.0.0".parse().unwrap());
        for named in ["node-1:8080", "10.0.0.1:8080", "[fd00::1]:8080"] {
            layer.advertise = Some(named.to_owned());
            check(layer.clone()).unwrap();
        }
    }

    #[test]
    fn a_high_port_needs_an_http_port() {
        let mut layer = with_id();
        layer.port = Some(64535);
        check(layer.clone()).unwrap();
        layer.port = Some(65535);
        layer.http_port = Some(9000);
        check(layer).unwrap();
    }
}
