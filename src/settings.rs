//! Where settings come from: a TOML file, then `DYNAKV_*` variables, then flags, the later ones
//! winning one by one. Each setting has one name: `http_port` in the file, `DYNAKV_HTTP_PORT` in the
//! environment, `--http-port` as a flag.
//!
//! The outcome is a checked [`Config`]; nothing else reads a setting.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynakv_client::check_address;
use dynakv_protocol::ids::{NodeId, check_name};
use dynakv_protocol::limits::VALUE_BYTES_MAX;
use dynakv_protocol::ring_document::WEIGHT_MAX;
use dynakv_storage::Durability;
use serde::{Deserialize, Deserializer};

use crate::config::Config;

mod effective;

pub use self::effective::{Effective, Layers, Origin, effective};

/// In which line of the settings file each key stands.
pub type KeyLines = BTreeMap<String, usize>;

/// Why a node cannot start with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that does not exist or a value of another kind.
    #[error("the settings file {} is wrong: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
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

/// A value that can be read from a variable.
trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

macro_rules! from_text_by_parsing {
    ($($type:ty),*) => {$(
        impl FromText for $type {
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse::<$type>().map_err(|error| error.to_string())
            }
        }
    )*};
}

from_text_by_parsing!(u8, u16, u64, usize, bool, IpAddr, String, PathBuf);

impl FromText for Vec<String> {
    fn from_text(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        Ok(parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect())
    }
}

/// A duration, written as `500ms`, `5s` or `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromText for Span {
    fn from_text(text: &str) -> Result<Self, String> {
        let parsed = humantime::parse_duration(text);
        parsed.map(Self).map_err(|error| error.to_string())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).map_err(serde::de::Error::custom)
    }
}

/// When a write counts as on disk, written as `sync` or `interval:100ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syncs(pub Durability);

impl FromText for Syncs {
    fn from_text(text: &str) -> Result<Self, String> {
        let permitted = || format!("{text:?} is neither \"sync\" nor, say, \"interval:100ms\"");
        match text.split_once(':') {
            None if text == "sync" => Ok(Self(Durability::Sync)),
            Some(("interval", span)) => {
                let Span(interval) = Span::from_text(span).map_err(|_| permitted())?;
                Ok(Self(Durability::Interval(interval)))
            }
            None | Some(_) => Err(permitted()),
        }
    }
}

impl std::str::FromStr for Syncs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }
}

impl std::fmt::Display for Syncs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Durability::Sync => f.write_str("sync"),
            Durability::Interval(interval) => {
                write!(f, "interval:{}", humantime::format_duration(interval))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Syncs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $variable:literal;)*) => {
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
            fn take_variable(&mut self, variable: &str, value: &str) -> Result<bool, String> {
                match variable {
                    $($variable => self.$name = Some(FromText::from_text(value)?),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

settings! {
    /// `--id`.
    id: String, "DYNAKV_ID";
    /// `--cluster`.
    cluster: String, "DYNAKV_CLUSTER";
    /// `--host`.
    host: IpAddr, "DYNAKV_HOST";
    /// `--port`.
    port: u16, "DYNAKV_PORT";
    /// `--advertise`.
    advertise: String, "DYNAKV_ADVERTISE";
    /// `--http-host`.
    http_host: IpAddr, "DYNAKV_HTTP_HOST";
    /// `--http-port`.
    http_port: u16, "DYNAKV_HTTP_PORT";
    /// `--seed`.
    seed: Vec<String>, "DYNAKV_SEED";
    /// `--bootstrap`.
    bootstrap: bool, "DYNAKV_BOOTSTRAP";
    /// `--data-dir`.
    data_dir: PathBuf, "DYNAKV_DATA_DIR";
    /// `-n`.
    n: u8, "DYNAKV_N";
    /// `-w`.
    w: u8, "DYNAKV_W";
    /// `-r`.
    r: u8, "DYNAKV_R";
    /// `--zone`.
    zone: String, "DYNAKV_ZONE";
    /// `--weight`.
    weight: u16, "DYNAKV_WEIGHT";
    /// How long without news before a node is suspected.
    suspect_after: Span, "DYNAKV_SUSPECT_AFTER";
    /// How long without news before a node counts as dead.
    dead_after: Span, "DYNAKV_DEAD_AFTER";
    /// How often a node gossips.
    gossip_interval: Span, "DYNAKV_GOSSIP_INTERVAL";
    /// The largest value, in bytes.
    value_bytes_max: usize, "DYNAKV_VALUE_BYTES_MAX";
    /// The most connections at once.
    connections_max: usize, "DYNAKV_CONNECTIONS_MAX";
    /// The most requests in hand at once.
    requests_in_flight_max: usize, "DYNAKV_REQUESTS_IN_FLIGHT_MAX";
    /// The most bytes of requests in hand at once.
    bytes_in_flight_max: usize, "DYNAKV_BYTES_IN_FLIGHT_MAX";
    /// The most bytes of answers that wait for one reader.
    connection_bytes_max: usize, "DYNAKV_CONNECTION_BYTES_MAX";
    /// How long a clean shutdown may take.
    shutdown_deadline: Span, "DYNAKV_SHUTDOWN_DEADLINE";
    /// Memory for sled's page cache, in bytes.
    cache_bytes: u64, "DYNAKV_CACHE_BYTES";
    /// How often copies are compared with those of each other node.
    anti_entropy_interval: Span, "DYNAKV_ANTI_ENTROPY_INTERVAL";
    /// How much of the disk is left free, in bytes.
    disk_reserve_bytes: u64, "DYNAKV_DISK_RESERVE_BYTES";
    /// How many bytes of hints are kept for other nodes.
    hints_bytes_max: u64, "DYNAKV_HINTS_BYTES_MAX";
    /// How long a reminder that an owner missed a write is kept.
    hints_age_max: Span, "DYNAKV_HINTS_AGE_MAX";
    /// `--durability`.
    durability: Syncs, "DYNAKV_DURABILITY";
}

/// Variables that other parts of dynakv read.
const OTHER_VARIABLES: [&str; 3] = ["DYNAKV_CONFIG", "DYNAKV_LOG", "DYNAKV_SERVERS"];

/// Reads a settings file.
///
/// # Errors
/// [`SettingsError::Unreadable`], [`SettingsError::Malformed`].
pub fn read_file(path: &Path) -> Result<(Layer, KeyLines), SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let layer = toml::from_str(&text).map_err(|source| SettingsError::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok((layer, key_lines(&text)))
}

/// Where the keys of a file stand; it has been read as settings already.
fn key_lines(text: &str) -> KeyLines {
    let Ok(table) = toml::de::DeTable::parse(text) else {
        return KeyLines::new();
    };
    let line_of = |at: usize| {
        1 + text.as_bytes()[..at]
            .iter()
            .filter(|&&b| b == b'\n')
            .count()
    };
    let keys = table.get_ref().iter();
    keys.map(|(key, _)| (key.get_ref().to_string(), line_of(key.span().start)))
        .collect()
}

/// Takes the settings out of the environment, with a warning for each `DYNAKV_*` variable that is no
/// setting.
///
/// Kubernetes gives every container variables about the services around it: for a service named
/// `dynakv` also `DYNAKV_PORT=tcp://…`, which must not keep a node from starting.
///
/// # Errors
/// [`SettingsError::Variable`].
pub fn read_environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(Layer, Vec<String>), SettingsError> {
    let mut layer = Layer::default();
    let mut warnings = Vec::new();
    for (variable, value) in variables {
        let ours = variable.starts_with("DYNAKV_") && !OTHER_VARIABLES.contains(&&*variable);
        if !ours || value.is_empty() {
            continue;
        }
        if variable == "DYNAKV_PORT" && value.contains("://") {
            warnings.push(format!(
                "{variable}={value} is ignored: it describes a Kubernetes service (enableServiceLinks: false keeps it away)"
            ));
            continue;
        }
        match layer.take_variable(&variable, &value) {
            Ok(true) => {}
            Ok(false) => warnings.push(format!("{variable} is ignored: there is no such setting")),
            Err(reason) => {
                return Err(SettingsError::Variable {
                    variable,
                    value,
                    reason,
                });
            }
        }
    }
    warnings.sort();
    Ok((layer, warnings))
}

/// Checks merged settings and fills in the defaults.
///
/// # Errors
/// [`SettingsError::Missing`], [`SettingsError::Invalid`].
pub fn check(settings: Layer) -> Result<Config, SettingsError> {
    let invalid = |name, reason: String| SettingsError::Invalid { name, reason };
    let id = settings.id.ok_or(SettingsError::Missing { name: "id" })?;
    let id = NodeId::new(&id).map_err(|error| invalid("id", error.to_string()))?;
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
        data_dir,
        zone,
        weight,
        cache_bytes,
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
    check_values(&config).map_err(|(name, reason)| invalid(name, reason))?;
    Ok(config)
}

/// Holds settings against what they may be; the error names one and says what is permitted.
pub(crate) fn check_values(config: &Config) -> Result<(), (&'static str, String)> {
    let ensure = |good: bool, name: &'static str, reason: &str| {
        if good {
            Ok(())
        } else {
            Err((name, reason.to_owned()))
        }
    };
    check_name(&config.cluster_name).map_err(|error| ("cluster", error.to_string()))?;
    if !config.zone.is_empty() {
        check_name(&config.zone).map_err(|error| ("zone", error.to_string()))?;
    }
    for seed in &config.seeds {
        check_address(seed).map_err(|error| ("seed", error.to_string()))?;
    }
    if let Some(address) = &config.advertise {
        check_address(address).map_err(|error| ("advertise", error.to_string()))?;
    }
    check_reachable(config)?;
    if config.http_port.is_none() && config.port.checked_add(1000).is_none() {
        let reason = "port + 1000, the HTTP port, is above 65535: give --http-port as well";
        return Err(("port", reason.to_owned()));
    }
    let same = config.port != 0 && config.http_port == Some(config.port);
    ensure(!same, "http-port", "it is the port of the node itself")?;
    let n = config.n.unwrap_or(u8::MAX);
    ensure(n >= 1, "n", "at least 1 copy is needed")?;
    for (name, quorum) in [("w", config.w), ("r", config.r)] {
        let good = quorum.is_none_or(|quorum| (1..=n).contains(&quorum));
        ensure(good, name, "1 to n replicas can be asked for")?;
    }
    let weight = (1..=WEIGHT_MAX).contains(&config.weight);
    ensure(weight, "weight", "1 to 100 is permitted")?;
    let value_bytes = (1..=VALUE_BYTES_MAX).contains(&config.value_bytes_max);
    ensure(
        value_bytes,
        "value_bytes_max",
        "1 byte to 16 MiB is permitted",
    )?;
    for (name, bound) in [
        ("connections_max", config.connections_max),
        ("requests_in_flight_max", config.requests_in_flight_max),
        ("bytes_in_flight_max", config.bytes_in_flight_max),
        ("connection_bytes_max", config.connection_bytes_max),
    ] {
        ensure(bound >= 1, name, "it must be more than 0")?;
    }
    let interval = config.gossip_interval;
    ensure(
        !interval.is_zero(),
        "gossip_interval",
        "it must be more than 0",
    )?;
    if let Durability::Interval(interval) = config.durability {
        let good = (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&interval);
        ensure(good, "durability", "an interval of 1ms to 60s is permitted")?;
    }
    let suspect = interval
        .checked_mul(3)
        .is_some_and(|least| config.suspect_after >= least);
    ensure(
        suspect,
        "suspect_after",
        "at least 3 gossip intervals are needed",
    )?;
    let dead = config.dead_after > config.suspect_after;
    ensure(dead, "dead_after", "it must be more than suspect_after")
}

/// Others connect to what a node announces, and `0.0.0.0` is nobody's address: the node would found or
/// join a cluster in which no other one reaches it.
fn check_reachable(config: &Config) -> Result<(), (&'static str, String)> {
    let named = config.advertise.as_deref();
    let address = match named {
        Some(named) => named.parse().map(|address: SocketAddr| address.ip()).ok(),
        None => Some(config.host),
    };
    match address {
        Some(ip) if ip.is_unspecified() => Err((
            "advertise",
            format!(
                "{} stands for all addresses of this machine, and nobody can connect to that: set \
                 advertise (--advertise HOST:PORT) to where the other nodes and the clients reach this one",
                named.map_or_else(|| format!("host {ip}"), str::to_owned)
            ),
        )),
        Some(_) | None => Ok(()),
    }
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

    fn environment(pairs: &[(&str, &str)]) -> Result<(Layer, Vec<String>), SettingsError> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        read_environment(pairs.iter().map(owned))
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
        let (file, lines) = read_file(&path).unwrap();
        assert_eq!((lines["id"], lines["dead_after"]), (1, 5));
        let (variables, warnings) =
            environment(&[("DYNAKV_ID", "variable"), ("DYNAKV_PORT", "2")]).unwrap();
        assert!(warnings.is_empty());
        let config = check(with_id().over(variables).over(file)).unwrap();
        assert_eq!(config.id.as_str(), "node-1");
        assert_eq!((config.port, config.n), (2, Some(5)));
        assert_eq!(config.seeds, ["a:1", "b:2"]);
        assert_eq!(config.dead_after, Duration::from_secs(60));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dynakv.toml");
        std::fs::write(&path, "id = \"a\"\nprot = 1\n").unwrap();
        let error = read_file(&path).unwrap_err().to_string();
        assert!(
            error.contains("prot") && error.contains("line 2"),
            "{error}"
        );
        let missing = read_file(&directory.path().join("missing.toml"));
        assert!(matches!(missing, Err(SettingsError::Unreadable { .. })));
    }

    #[test]
    fn an_unknown_variable_only_warns() {
        let (layer, warnings) = environment(&[
            ("DYNAKV_SERVICE_HOST", "10.0.0.1"),
            ("DYNAKV_PORT", "tcp://10.0.0.1:8080"),
            ("DYNAKV_SERVERS", "a:1"),
            ("DYNAKV_LOG", "debug"),
            ("DYNAKV_ZONE", ""),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(layer, Layer::default());
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn every_variable_reaches_its_setting() {
        let (layer, _) = environment(&[
            ("DYNAKV_SEED", "a:1, b:2,"),
            ("DYNAKV_BOOTSTRAP", "true"),
            ("DYNAKV_HTTP_HOST", "::1"),
            ("DYNAKV_SUSPECT_AFTER", "4s"),
        ])
        .unwrap();
        assert_eq!(layer.seed.unwrap(), ["a:1", "b:2"]);
        assert_eq!(layer.bootstrap, Some(true));
        assert_eq!(layer.http_host, Some("::1".parse().unwrap()));
        assert_eq!(layer.suspect_after, Some(Span(Duration::from_secs(4))));
        let error = environment(&[("DYNAKV_PORT", "eighty")]).unwrap_err();
        assert!(
            error.to_string().starts_with("DYNAKV_PORT=\"eighty\""),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Layer);
        let cases: [(&str, Change); 19] = [
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
