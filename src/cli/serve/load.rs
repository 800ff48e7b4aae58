//! The options of `dynakv serve`, and all settings together: flags, variables and file.

use std::env::VarsOs;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::settings::{self, Filter, Layer, Layers, SettingsError, Syncs};

/// `dynakv serve`. Every flag wins over its `DYNAKV_*` variable, which wins over the settings file.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
pub(crate) struct ServeArgs {
    /// The node's name, for ever: letters, digits, '.', '_', '-'
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Where to listen; 0 takes a free port [default: 8080]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Replicas of each key [default: the cluster's, 3 for a new one]
    #[arg(short, value_name = "N")]
    pub(crate) n: Option<u8>,
    /// How many replicas a write waits for [default: the cluster's, 2 for a new one]
    #[arg(short, value_name = "N")]
    pub(crate) w: Option<u8>,
    /// How many replicas a read waits for [default: the cluster's, 2 for a new one]
    #[arg(short, value_name = "N")]
    pub(crate) r: Option<u8>,
    /// The address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) host: Option<IpAddr>,
    /// A node of the cluster to join; repeatable or comma-separated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) seed: Vec<String>,
    /// Where the data lives [default: ./dynakv-data/ID]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The port for metrics and health [default: port + 1000]
    #[arg(long, value_name = "PORT")]
    pub(crate) http_port: Option<u16>,
    /// The address of that port [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http_host: Option<IpAddr>,
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE", env = "DYNAKV_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The cluster's name [default: dynakv]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Where others reach this node [default: host and port]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Replicas of a key go to distinct zones first
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// Multiplies the node's share of the data, 1 to 100 [default: 1]
    #[arg(long)]
    pub(crate) weight: Option<u16>,
    /// Found a new cluster although seeds are given, if all of them say that they are in none
    #[arg(long)]
    pub(crate) bootstrap: bool,
    /// Whether nodes come into a cluster that holds data without an operator's word, this one and those that ask it; where
    /// not they wait for `dynakv cluster join` [default: true]
    #[arg(long, value_name = "true|false")]
    pub(crate) auto_join: Option<bool>,
    /// When a write counts as on disk: `sync` (a power cut loses nothing), or `interval:100ms` (it loses
    /// what was acknowledged in that time, on this node) [default: sync]
    #[arg(long, value_name = "sync|interval:TIME")]
    pub(crate) durability: Option<Syncs>,
    /// What this node has counts as all there is, and nothing is rebuilt: what only it had is lost for
    /// good. A store that is damaged beyond opening is replaced by an empty one. For this start only
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// End when standard input ends: for a process that starts nodes and must not leave them behind
    #[arg(long, hide = true)]
    pub(crate) ends_with_stdin: bool,
}

/// Settings that a node can start with, and where they come from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Checked.
    pub(crate) config: Config,
    /// About variables that are none of ours.
    pub(crate) warnings: Vec<String>,
    /// Before they were merged.
    pub(crate) layers: Layers,
}

impl Loaded {
    /// What is to be logged, where the file or a variable of ours says it.
    pub(crate) fn log(&self) -> Option<&str> {
        let layers = &self.layers;
        let log = layers.environment.log.as_ref().or(layers.file.log.as_ref());
        log.map(Filter::as_str)
    }
}

/// The variables of this process.
pub(crate) fn environment() -> VarsOs {
    std::env::vars_os()
}

/// Reads all settings and checks them.
///
/// # Errors
/// [`SettingsError`].
pub(crate) fn load<N: Into<OsString>, V: Into<OsString>>(
    args: ServeArgs,
    variables: impl IntoIterator<Item = (N, V)>,
) -> Result<Loaded, SettingsError> {
    let path = args.config.clone();
    let (file, lines, mut warnings) = match &path {
        Some(path) => settings::read_file(path)?,
        None => Default::default(),
    };
    let (environment, of_environment) = settings::read_environment(variables)?;
    warnings.extend(of_environment);
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
            auto_join: args.auto_join,
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
