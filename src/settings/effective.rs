//! Which settings a node runs with, and where each comes from: for people, not for the node.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Bounds, Filter, KeyLines, Layer, Syncs};
use crate::config::Config;

/// What is logged when nobody says anything, nor `RUST_LOG`.
pub(crate) const LOG_DEFAULT: &str = "info";

/// All layers as they were read, before they were merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// What the flags say.
    pub flags: Layer,
    /// What the variables say.
    pub environment: Layer,
    /// What the file says.
    pub file: Layer,
    /// Which file that is.
    pub path: Option<PathBuf>,
    /// In which line of it each key stands.
    pub lines: KeyLines,
}

impl Layers {
    /// The settings that hold: flags over variables over the file.
    pub fn merged(self) -> Layer {
        self.flags.over(self.environment).over(self.file)
    }

    fn origin(&self, name: &str, variable: &'static str) -> Origin {
        if self.flags.has(name) {
            Origin::Flag(flag(name))
        } else if self.environment.has(name) {
            Origin::Variable(variable)
        } else if self.file.has(name) {
            Origin::File {
                path: self.path.clone().unwrap_or_default(),
                line: self.lines.get(name).copied(),
            }
        } else {
            Origin::Default
        }
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The settings file.
    File {
        /// Where the file is.
        path: PathBuf,
        /// Where in it, from 1 on.
        line: Option<usize>,
    },
    /// A variable of the environment.
    Variable(&'static str),
    /// A flag.
    Flag(String),
}

impl Origin {
    /// One word for the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Variable(_) => "variable",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One setting that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its name in the file.
    pub name: &'static str,
    /// As it would be written; `None` when the cluster decides.
    pub value: Option<String>,
    /// Who said so.
    pub origin: Origin,
    /// What is permitted.
    pub bounds: Bounds,
}

/// All settings of a checked config, in the order of the documentation.
pub fn effective(layers: &Layers, config: &Config) -> Vec<Effective> {
    let log = layers.clone().merged().log;
    let names = Layer::NAMES.iter().zip(Layer::BOUNDS);
    names
        .map(|(&(name, variable), bounds)| Effective {
            name,
            value: match name {
                // Of the process, and not of the node in it.
                "log" => Some(log.as_ref().map_or(LOG_DEFAULT, Filter::as_str).to_owned()),
                _ => value(config, name),
            },
            origin: layers.origin(name, variable),
            bounds: *bounds,
        })
        .collect()
}

fn flag(name: &str) -> String {
    match name {
        "n" | "w" | "r" => format!("-{name}"),
        _ => format!("--{}", name.replace('_', "-")),
    }
}

/// What a setting comes to. A name that is not here would be shown as left to the cluster; a test
/// holds the list against the settings.
fn value(config: &Config, name: &str) -> Option<String> {
    let span = |span: Duration| Some(humantime::format_duration(span).to_string());
    let quorum = |quorum: Option<u8>| quorum.map(|quorum| quorum.to_string());
    match name {
        "id" => Some(config.id.to_string()),
        "cluster" => Some(config.cluster_name.clone()),
        "host" => Some(config.host.to_string()),
        "port" => Some(config.port.to_string()),
        "advertise" => {
            let own = std::net::SocketAddr::new(config.host, config.port).to_string();
            Some(config.advertise.clone().unwrap_or(own))
        }
        "http_host" => Some(config.http_host.to_string()),
        "http_port" => {
            let beside = if config.port == 0 {
                0
            } else {
                // A port without room for it was refused.
                config.port.saturating_add(1000)
            };
            Some(config.http_port.unwrap_or(beside).to_string())
        }
        "seed" => Some(config.seeds.join(",")),
        "bootstrap" => Some(config.bootstrap.to_string()),
        "auto_join" => Some(config.auto_join.to_string()),
        "data_dir" => Some(config.data_dir.display().to_string()),
        "n" => quorum(config.n),
        "w" => quorum(config.w),
        "r" => quorum(config.r),
        "zone" => Some(config.zone.clone()),
        "weight" => Some(config.weight.to_string()),
        "suspect_after" => span(config.suspect_after),
        "dead_after" => span(config.dead_after),
        "gossip_interval" => span(config.gossip_interval),
        "value_bytes_max" => Some(config.value_bytes_max.to_string()),
        "connections_max" => Some(config.connections_max.to_string()),
        "requests_in_flight_max" => Some(config.requests_in_flight_max.to_string()),
        "bytes_in_flight_max" => Some(config.bytes_in_flight_max.to_string()),
        "connection_bytes_max" => Some(config.connection_bytes_max.to_string()),
        "shutdown_deadline" => span(config.shutdown_deadline),
        "memory_bytes" => Some(config.memory_bytes.to_string()),
        "log_bytes_max" => Some(config.log_bytes_max.to_string()),
        "anti_entropy_interval" => span(config.anti_entropy_interval),
        "disk_reserve_bytes" => {
            let of_disk = || "5 % of the file system, at most 1 GiB".to_owned();
            let set = config.disk_reserve_bytes.map(|bytes| bytes.to_string());
            Some(set.unwrap_or_else(of_disk))
        }
        "hints_bytes_max" => Some(config.hints_bytes_max.to_string()),
        "hints_age_max" => span(config.hints_age_max),
        "durability" => Some(Syncs(config.durability).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Span, check};
    use super::*;

    #[test]
    fn every_setting_has_a_value_but_those_of_the_cluster() {
        let config = Config::new("node-1".parse().unwrap());
        let without: Vec<_> = effective(&Layers::default(), &config)
            .into_iter()
            .filter(|setting| setting.value.is_none())
            .map(|setting| setting.name)
            .collect();
        assert_eq!(without, ["n", "w", "r"]);
    }

    #[test]
    fn each_setting_names_who_said_so() {
        let layers = Layers {
            flags: Layer {
                id: Some("flag".to_owned()),
                http_port: Some(9000),
                w: Some(2),
                ..Layer::default()
            },
            environment: Layer {
                id: Some("variable".to_owned()),
                zone: Some("east".to_owned()),
                ..Layer::default()
            },
            file: Layer {
                zone: Some("west".to_owned()),
                dead_after: Some(Span(Duration::from_secs(90))),
                weight: Some(2),
                ..Layer::default()
            },
            path: Some(PathBuf::from("dynakv.toml")),
            lines: [("dead_after".to_owned(), 3)].into_iter().collect(),
        };
        let config = check(layers.clone().merged()).unwrap();
        let effective = effective(&layers, &config);
        let shown = |name: &str| {
            let setting = effective.iter().find(|setting| setting.name == name);
            let setting = setting.unwrap();
            let value = setting.value.clone().unwrap_or_default();
            (value, setting.origin.to_string(), setting.origin.kind())
        };
        let text = |value: &str, origin: &str, kind| (value.to_owned(), origin.to_owned(), kind);
        assert_eq!(shown("id"), text("flag", "--id", "flag"));
        assert_eq!(shown("w"), text("2", "-w", "flag"));
        assert_eq!(shown("http_port"), text("9000", "--http-port", "flag"));
        assert_eq!(shown("zone"), text("east", "DYNAKV_ZONE", "variable"));
        assert_eq!(shown("dead_after"), text("1m 30s", "dynakv.toml:3", "file"));
        assert_eq!(shown("weight"), text("2", "dynakv.toml", "file"));
        assert_eq!(shown("port"), text("8080", "default", "default"));
        assert_eq!(
            shown("advertise"),
            text("127.0.0.1:8080", "default", "default")
        );
    }
}
