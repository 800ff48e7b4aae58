//! `serve`: settings from everywhere, then a node until a signal ends it.

mod reload;

use std::env::VarsOs;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dynakv_protocol::shell::quoted;
use dynakv_storage::{IdentityError, StoreError};

use self::reload::Reload;
use super::exit::Exit;
use super::logging;
use super::output::{Format, Report};
use crate::config::Config;
use crate::node::{self, ServeError};
use crate::runtime::store::quarantine::OpenError;
use crate::settings::{self, Filter, Layer, Layers, SettingsError, Syncs};

/// `dynakv serve`. Every flag wins over its `DYNAKV_*` variable, which wins over the settings file.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
pub(crate) struct ServeArgs {
    /// The node's name, for ever: letters, digits, '.', '_', '-'
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Where to listen; 0 takes a free port [default: 8080]
    #[arg(long)]
    port: Option<u16>,
    /// Replicas of each key [default: the cluster's, 3 for a new one]
    #[arg(short, value_name = "N")]
    n: Option<u8>,
    /// How many replicas a write waits for [default: the cluster's, 2 for a new one]
    #[arg(short, value_name = "N")]
    w: Option<u8>,
    /// How many replicas a read waits for [default: the cluster's, 2 for a new one]
    #[arg(short, value_name = "N")]
    r: Option<u8>,
    /// The address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// A node of the cluster to join; repeatable or comma-separated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    seed: Vec<String>,
    /// Where the data lives [default: ./dynakv-data/ID]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The port for metrics and health [default: port + 1000]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// The address of that port [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    http_host: Option<IpAddr>,
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE", env = "DYNAKV_CONFIG")]
    config: Option<PathBuf>,
    /// The cluster's name [default: dynakv]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Where others reach this node [default: host and port]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Replicas of a key go to distinct zones first
    #[arg(long)]
    zone: Option<String>,
    /// Multiplies the node's share of the data, 1 to 100 [default: 1]
    #[arg(long)]
    weight: Option<u16>,
    /// Found a new cluster although seeds are given, if all of them say that they are in none
    #[arg(long)]
    bootstrap: bool,
    /// When a write counts as on disk: `sync` (a power cut loses nothing), or `interval:100ms` (it loses
    /// what was acknowledged in that time, on this node) [default: sync]
    #[arg(long, value_name = "sync|interval:TIME")]
    durability: Option<Syncs>,
    /// What this node has counts as all there is, and nothing is rebuilt: what only it had is lost for
    /// good. A store that is damaged beyond opening is replaced by an empty one. For this start only
    #[arg(long)]
    accept_loss: bool,
    /// End when standard input ends: for a process that starts nodes and must not leave them behind
    #[arg(long, hide = true)]
    ends_with_stdin: bool,
}

/// Runs a node until SIGTERM or Ctrl-C.
pub(crate) fn run(args: ServeArgs, format: Format) -> Exit {
    let fail = |exit, what: &str, next: &str| end(&Report::error(exit, format, what, next));
    let loaded = match load(args.clone(), environment()) {
        Ok(loaded) => loaded,
        Err(error) => return end(&settings_error(&error, format)),
    };
    if let Err(error) = node::check_directory(&loaded.config) {
        return end(&directory_error(&error, format));
    }
    if let Err(error) = logging::init(loaded.log()) {
        return fail(Exit::Usage, &error, "RUST_LOG=info dynakv serve --help");
    }
    if args.ends_with_stdin
        && let Err(error) = super::dev::end_with_stdin()
    {
        let what = format!("cannot watch standard input: {error}");
        return fail(Exit::Error, &what, "ulimit -u");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config.clone();
    let data_dir = config.data_dir.clone();
    match node::serve(config, Reload::new(args, loaded).on_hang_up()) {
        Ok(()) => end(&Report::data(Exit::Ok, "")),
        Err(error) => {
            tracing::error!(%error, "the node ends");
            match error {
                ServeError::DiskFailed(_) => {
                    fail(Exit::DiskFailed, &error.to_string(), "dmesg | tail -50")
                }
                _ => fail(Exit::Error, &error.to_string(), &next_of(&error, &data_dir)),
            }
        }
    }
}

/// The end of the process: what is left to say goes the way of the log, which nobody waits for.
fn end(report: &Report) -> Exit {
    logging::say(&report.messages);
    report.exit
}

/// Where to look after a start that failed.
fn next_of(error: &ServeError, data_dir: &Path) -> String {
    let directory = quoted(&data_dir.display().to_string());
    let error = match error {
        ServeError::Store(error)
        | ServeError::Open(OpenError::Store(error))
        | ServeError::Identity(IdentityError::Store(error)) => error,
        ServeError::Open(OpenError::NoOtherCopy { .. }) => {
            return format!("dynakv store check {directory}");
        }
        _ => return "dynakv serve --help".to_owned(),
    };
    match error {
        error if error.is_disk_full() => format!("df -h {directory}"),
        error if error.is_shortage() => "ulimit -a".to_owned(),
        error if error.is_corruption() => format!("dynakv store check {directory}"),
        StoreError::Io { .. } => format!("ls -la {directory}"),
        _ => "dynakv serve --help".to_owned(),
    }
}

/// Settings that a node can start with, and where they come from.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Checked.
    pub(super) config: Config,
    /// About variables that are none of ours.
    pub(super) warnings: Vec<String>,
    /// Before they were merged.
    pub(super) layers: Layers,
}

impl Loaded {
    /// What is to be logged, where the file or a variable of ours says it.
    pub(super) fn log(&self) -> Option<&str> {
        let layers = &self.layers;
        let log = layers.environment.log.as_ref().or(layers.file.log.as_ref());
        log.map(Filter::as_str)
    }
}

/// The variables of this process.
pub(super) fn environment() -> VarsOs {
    std::env::vars_os()
}

/// What is said of settings that do not go with what is in the data directory.
pub(super) fn directory_error(error: &ServeError, format: Format) -> Report {
    let what = error.to_string();
    Report::error(Exit::Usage, format, &what, "dynakv serve --help")
}

/// What is said of settings that a node cannot start with.
pub(super) fn settings_error(error: &SettingsError, format: Format) -> Report {
    Report::error(
        Exit::Usage,
        format,
        &error.to_string(),
        "dynakv serve --help",
    )
}

/// Reads all settings and checks them.
///
/// # Errors
/// [`SettingsError`].
pub(super) fn load<N: Into<OsString>, V: Into<OsString>>(
    args: ServeArgs,
    variables: impl IntoIterator<Item = (N, V)>,
) -> Result<Loaded, SettingsError> {
    let path = args.config.clone();
    let (file, lines) = match &path {
        Some(path) => settings::read_file(path)?,
        None => Default::default(),
    };
    let (environment, warnings) = settings::read_environment(variables)?;
    // For this start only, and therefore neither in the file nor in the environment.
    let accept_loss = args.accept_loss;
    let layers = Layers {
        flags: args.into(),
        environment,
        file,
        path,
        lines,
    };
    let mut config = settings::check(layers.clone().merged())?;
    config.accept_loss = accept_loss;
    Ok(Loaded {
        config,
        warnings,
        layers,
    })
}

impl From<ServeArgs> for Layer {
    fn from(args: ServeArgs) -> Self {
        Self {
            id: args.id,
            cluster: args.cluster,
            host: args.host,
            port: args.port,
            advertise: args.advertise,
            http_host: args.http_host,
            http_port: args.http_port,
            seed: (!args.seed.is_empty()).then_some(args.seed),
            bootstrap: args.bootstrap.then_some(true),
            data_dir: args.data_dir,
            n: args.n,
            w: args.w,
            r: args.r,
            zone: args.zone,
            weight: args.weight,
            durability: args.durability,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use dynakv_storage::Durability;

    use super::*;

    const NONE: [(&str, &str); 0] = [];

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(line: &str) -> ServeArgs {
        Only::try_parse_from(line.split(' ')).unwrap().serve
    }

    #[test]
    fn every_flag_reaches_the_config() {
        let args = parse(
            "serve --id node-2 --port 7000 -n 5 -w 3 -r 3 --host 0.0.0.0 --seed a:1,b:2 --seed c:3 \
             --data-dir /data --http-port 7001 --http-host 0.0.0.0 --cluster blue --advertise n2:7000 \
             --zone east --weight 4 --bootstrap --accept-loss \
             --durability interval:50ms",
        );
        let Loaded {
            config, warnings, ..
        } = load(args, NONE).unwrap();
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let expected = Config {
            cluster_name: "blue".to_owned(),
            host: everywhere,
            port: 7000,
            advertise: Some("n2:7000".to_owned()),
            http_host: everywhere,
            http_port: Some(7001),
            seeds: vec!["a:1".to_owned(), "b:2".to_owned(), "c:3".to_owned()],
            bootstrap: true,
            data_dir: PathBuf::from("/data"),
            n: Some(5),
            w: Some(3),
            r: Some(3),
            zone: "east".to_owned(),
            weight: 4,
            accept_loss: true,
            durability: Durability::Interval(Duration::from_millis(50)),
            ..Config::new("node-2".parse().unwrap())
        };
        assert_eq!(config, expected);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_flag_wins_over_its_variable() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables = [
            variable("DYNAKV_PORT", "1"),
            variable("DYNAKV_ZONE", "west"),
            variable("DYNAKV_SEED", "a:1"),
            variable("DYNAKV_UNHEARD_OF", "1"),
        ];
        let args = parse("serve --id a --port 7000 --seed b:2");
        let Loaded {
            config, warnings, ..
        } = load(args, variables).unwrap();
        assert_eq!((config.port, config.zone.as_str()), (7000, "west"));
        assert_eq!(config.seeds, ["b:2"]);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn an_id_is_needed() {
        let error = load(parse("serve --port 7000"), NONE).unwrap_err();
        assert!(error.to_string().contains("--id"), "{error}");
    }
}
