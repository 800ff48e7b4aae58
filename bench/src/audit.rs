//! `audit`: writes, reads and deletes while nodes are killed, and proves by its own books that every
//! acknowledged write is there or was replaced by one that is.
//!
//! | Room | What it holds |
//! |---|---|
//! | [`workload`] | one client of the load |
//! | [`kills`] | kills nodes, one at a time |
//! | [`resizing`] | gives the cluster more nodes and fewer |
//! | [`latencies`] | how long requests take meanwhile |
//! | [`value`] | values that name their write |
//! | [`log`] | the log on disk: what was begun, what was acknowledged |
//! | [`books`] | a [`History`](crate::history::History) for each key, and what was found to be wrong |
//! | [`hints`] | waits until nobody keeps anything for others |
//! | [`converge`] | waits until all owners hold the same, before anybody reads |
//! | [`verify`] | the last reads, of all keys from all owners |
//! | [`mod@verdict`] | the lines at the end, and the exit code |

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dynakv_client::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::grouped::grouped;

mod books;
mod converge;
mod hints;
mod kills;
mod latencies;
mod log;
mod resizing;
mod shared;
mod value;
mod verdict;
mod verify;
mod workload;

use books::{Books, KEYS_MAX, Trust};
use log::{Entry, Log, LogError};
use resizing::{Course, Report};
use shared::Shared;
use value::RunId;
use verdict::{Exit, verdict};
use verify::{Quorums, read_everything};
use workload::{Place, WorkError, Worker};

/// So many clients of the load share one set of connections.
const CLIENTS_PER_CONNECTION: usize = 8;

/// How often the state of things is told.
const TELL_INTERVAL: Duration = Duration::from_secs(2);

/// `dynakv-bench audit`.
///
/// Exit codes: 0 all is there and every request succeeded; 1 something is lost or wrong, or the audit
/// could not be done; 2 an option is wrong; 6 all is there, but requests failed.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct AuditArgs {
    /// Nodes of the cluster; repeatable or comma-separated (not looked at with --nodes)
    #[arg(
        long = "servers",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "DYNAKV_SERVERS",
        default_value = "127.0.0.1:8080"
    )]
    servers: Vec<String>,
    /// How long to write and read
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    duration: Duration,
    /// How many clients write and read at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// How many keys
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,
    /// Where to log what was begun and acknowledged; must not exist [default: a temporary file, kept
    /// when the audit does not pass]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// What clients do, and which node is killed when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to wait at the end until all owners answer
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    patience: Duration,
    /// Before the last reads, wait so long until all owners of each key hold the same versions, and in a
    /// cluster of --nodes, until all hints are handed over; the servers have to be all nodes of the cluster
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    converge_within: Option<Duration>,
    /// Write with sloppy quorums: stand-ins count while owners are down, so reads are judged only at the end
    #[arg(long, requires = "converge_within")]
    sloppy: bool,
    /// Write nothing: read what an earlier audit with this log has written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["log", "nodes", "kill_every", "sloppy"])]
    verify_only: Option<PathBuf>,
    /// Bring up a cluster of so many nodes on this machine, for this audit
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: Option<u16>,
    /// Kill a node of that cluster every so often with kill -9, and start it again
    #[arg(long, value_name = "DURATION", requires = "nodes", value_parser = parse_duration)]
    kill_every: Option<Duration>,
    /// Resize that cluster to so many nodes, one number after the other: more come in, the last ones leave. First each key
    /// is written once. The load goes on until the last change is over, with calm before, between and after, which shares --duration
    #[arg(
        long,
        value_name = "NODES,...",
        requires = "nodes",
        conflicts_with = "kill_every",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=50)
    )]
    resize: Vec<u16>,
    /// Where that cluster lives, kept afterwards [default: a temporary directory]
    #[arg(long, value_name = "DIR", requires = "nodes")]
    directory: Option<PathBuf>,
    /// The dynakv binary for that cluster [default: the one beside this executable]
    #[arg(long, value_name = "PATH", requires = "nodes")]
    dynakv: Option<PathBuf>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("more than 0 is needed".to_owned());
    }
    Ok(duration)
}

/// Why an audit could not be done.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error("no server answers: {0}\n  next: dynakv status")]
    NoServer(dynakv_client::Error),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error(transparent)]
    Compare(#[from] crate::replicas::CompareError),
    #[error("a node could not be asked for its hints: {0}")]
    Hints(io::Error),
    #[error("cannot use the log {}: {reason}", path.display())]
    OldLog { path: PathBuf, reason: String },
    #[error("the operating system refused {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// Runs an audit.
pub fn run(args: AuditArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(until_done_or_given_up(&args)),
        Err(source) => Err(system("a runtime", source)),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("dynakv-bench: {error}");
            let exit = match &error {
                AuditError::Cluster(ClusterError::NoBinary { .. }) => Exit::Usage,
                AuditError::NoServer(dynakv_client::Error::Invalid { .. }) => Exit::Usage,
                _ => Exit::Failed,
            };
            exit.into()
        }
    }
}

/// The first Ctrl-C ends the load and goes on to the verdict, the second one ends everything.
async fn until_done_or_given_up(args: &AuditArgs) -> Result<Exit, AuditError> {
    let mut signals = Signals::new().map_err(|source| system("a signal handler", source))?;
    let (early, is_early) = tokio::sync::watch::channel(false);
    let given_up = async {
        signals.received().await;
        eprintln!("dynakv-bench: the load ends early; the verdict follows (once more to give up)");
        let _nobody_listens = early.send(true);
        signals.received().await;
    };
    tokio::select! {
        ended = audit(args, is_early) => ended,
        () = given_up => {
            eprintln!("dynakv-bench: given up, nothing is proved");
            Ok(Exit::Failed)
        }
    }
}

async fn audit(
    args: &AuditArgs,
    early: tokio::sync::watch::Receiver<bool>,
) -> Result<Exit, AuditError> {
    if let Some(path) = &args.verify_only {
        return verify_only(args, path).await;
    }
    let cluster = match args.nodes {
        Some(nodes) => {
            let options = ClusterOptions {
                nodes: usize::from(nodes),
                dynakv: args.dynakv.clone(),
                directory: args.directory.clone(),
                serve_arguments: Vec::new(),
            };
            Some(Cluster::start(options).await?)
        }
        None => None,
    };
    let servers = match &cluster {
        Some(cluster) => cluster.addresses(),
        None => args.servers.clone(),
    };
    let quorums = Quorums::ask(&servers).await.map_err(AuditError::NoServer)?;
    let clients = connect(&servers, usize::from(args.clients)).await?;
    let run = RunId(fastrand::u64(..));
    let path = match &args.log {
        Some(path) => path.clone(),
        None => std::env::temp_dir().join(format!("dynakv-audit-{run}.log")),
    };
    let log = Log::create(&path)?;
    let keys = args.keys;
    log.add(&Entry::Audit { run, keys }).await?;
    eprintln!(
        "audit {run}: {} clients, {} keys, seed {}, n = {}, w = {}, r = {}; the log is {}",
        args.clients,
        grouped(u64::from(keys)),
        args.seed,
        quorums.n,
        quorums.w,
        quorums.r,
        path.display()
    );
    // What only stand-ins have no read can meet before it is handed over.
    let trust = if quorums.are_strict() && !args.sloppy {
        Trust::Strict
    } else {
        Trust::Weak
    };
    let shared = Arc::new(Shared::new(Books::new(run, keys), trust, Duration::ZERO));
    let (cluster, report) = load(args, cluster, &clients, &log, &shared, early).await?;
    // Others may have come, and some have gone.
    let servers = cluster.as_ref().map_or(servers, Cluster::addresses);
    if let Some(report) = report {
        print!("{}", report.text(&shared));
    }

    let exit = conclude(args, &clients, &shared, &servers, cluster.as_ref()).await?;
    if let Some(mut cluster) = cluster {
        if exit != Exit::Passed {
            let directory = cluster.keep_directory();
            eprintln!(
                "what the nodes have stored and logged is kept: {}",
                directory.display()
            );
        }
        cluster.stop().await?;
    }
    match exit {
        Exit::Passed if args.log.is_none() => {
            let _it_is_in_the_temporary_directory = std::fs::remove_file(&path);
        }
        Exit::Passed => {}
        _ => eprintln!(
            "the log is kept: {}\n  next: grep ' KEY/' LOG shows what was done to a key",
            path.display()
        ),
    }
    Ok(exit)
}

/// Lets the clients work until the time is over, while nodes are killed. Gives the cluster back.
async fn load(
    args: &AuditArgs,
    cluster: Option<Cluster>,
    clients: &[Client],
    log: &Log,
    shared: &Arc<Shared>,
    mut early: tokio::sync::watch::Receiver<bool>,
) -> Result<(Option<Cluster>, Option<Report>), AuditError> {
    let mut random = fastrand::Rng::with_seed(args.seed);
    let mut workers = JoinSet::new();
    for number in 0..usize::from(args.clients) {
        let client = clients[number % clients.len()].clone();
        let (shared, log) = (Arc::clone(shared), log.clone());
        let place = Place {
            number: number as u32,
            clients: u32::from(args.clients),
        };
        let worker = Worker::new(
            client,
            shared,
            log,
            random.fork(),
            args.keys,
            args.sloppy,
            place,
        );
        workers.spawn(worker.run(!args.resize.is_empty()));
    }
    let killing = async {
        match (cluster, args.kill_every) {
            (Some(cluster), Some(every)) => {
                let shared = Arc::clone(shared);
                kills::kill_one_after_the_other(cluster, every, shared, random)
                    .await
                    .map(|cluster| (Some(cluster), None))
            }
            (Some(cluster), None) if !args.resize.is_empty() => {
                let course = Course {
                    sizes: &args.resize,
                    calm: args.duration / (args.resize.len() as u32 + 1),
                    clients: u32::from(args.clients),
                };
                resizing::resize(cluster, course, shared)
                    .await
                    .map(|(cluster, report)| (Some(cluster), Some(report)))
            }
            (cluster, _) => Ok((cluster, None)),
        }
    };
    let ending = async {
        let ended_early = early.wait_for(|early| *early);
        // Who resizes says when that is over.
        let mut is_over = shared.stop.subscribe();
        let resized = async {
            match args.resize.is_empty() {
                true => tokio::time::sleep(args.duration).await,
                false => drop(is_over.wait_for(|stopped| *stopped).await),
            }
        };
        tokio::select! {
            () = resized => {}
            _ = ended_early => {}
        }
        shared.stop.send_replace(true);
    };
    let working = async {
        while let Some(ended) = workers.join_next().await {
            match ended {
                Ok(result) => result?,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok::<_, AuditError>(())
    };
    let all = async {
        let killing = async { killing.await.map_err(AuditError::from) };
        let (ended, (), ()) = tokio::try_join!(killing, working, async {
            ending.await;
            Ok(())
        })?;
        Ok(ended)
    };
    tokio::select! {
        ended = all => ended,
        never = tell(shared) => match never {},
    }
}

/// Tells for ever how things are.
async fn tell(shared: &Shared) -> Infallible {
    let (mut before, mut then) = (0, shared.now());
    loop {
        tokio::time::sleep(TELL_INTERVAL).await;
        let counts = shared.books().counts();
        let now = shared.now();
        let rate = (counts.acknowledged - before) as f64 / (now - then).as_secs_f64();
        let down = shared
            .down()
            .map_or_else(String::new, |id| format!(", {id} is down"));
        eprintln!(
            "{:4.0} s: {} acknowledged ({}/s), {} failed, {} kills{down}",
            now.as_secs_f64(),
            grouped(counts.acknowledged),
            grouped(rate as u64),
            grouped(counts.failed),
            shared.kills(),
        );
        (before, then) = (counts.acknowledged, now);
    }
}

/// Reads everything and says what came of it.
async fn conclude(
    args: &AuditArgs,
    clients: &[Client],
    shared: &Arc<Shared>,
    servers: &[String],
    cluster: Option<&Cluster>,
) -> Result<Exit, AuditError> {
    let loaded_until = tokio::time::Instant::now();
    // The ring may have been sealed with more members since the beginning.
    let quorums = Quorums::ask(servers).await.map_err(AuditError::NoServer)?;
    let mut hints = None;
    if let Some(within) = args.converge_within {
        if let Some(cluster) = cluster {
            let nodes = cluster.http_addresses();
            let left = hints::wait_until_handed_over(&nodes, loaded_until, within).await;
            let mut left = left.map_err(AuditError::Hints)?;
            left.handed_over += shared.handed_over_before_kills();
            hints = Some(left);
        }
        converge::wait_until_same(shared, servers, loaded_until, within).await?;
    }
    let with_fewer = read_everything(clients, shared, quorums, args.patience).await;
    if with_fewer > 0 {
        eprintln!("{with_fewer} keys were not read from all owners: some did not answer");
    }
    let kills = cluster.map(|_| shared.kills());
    let books = shared.books();
    let (text, exit) = verdict(&books, books.written_keys().len(), kills, hints);
    let _nowhere_to_say_so = io::stdout().write_all(text.as_bytes());
    Ok(exit)
}

/// Holds what is there against the log of an earlier audit.
async fn verify_only(args: &AuditArgs, path: &Path) -> Result<Exit, AuditError> {
    let unusable = |reason: String| AuditError::OldLog {
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|error| unusable(error.to_string()))?;
    let mut entries = log::Entries::new(BufReader::new(file));
    let books = Books::replay(entries.by_ref()).map_err(unusable)?;
    if entries.torn_bytes() > 0 {
        eprintln!(
            "the last {} bytes of the log are no line: left out",
            entries.torn_bytes()
        );
    }
    let quorums = Quorums::ask(&args.servers)
        .await
        .map_err(AuditError::NoServer)?;
    let clients = connect(&args.servers, usize::from(args.clients)).await?;
    let offset = books.last_moment() + Duration::from_millis(1);
    let trust = if quorums.are_strict() {
        Trust::Strict
    } else {
        Trust::Weak
    };
    let shared = Arc::new(Shared::new(books, trust, offset));
    conclude(args, &clients, &shared, &args.servers, None).await
}

async fn connect(servers: &[String], clients: usize) -> Result<Vec<Client>, AuditError> {
    let mut connected = Vec::new();
    for _ in 0..clients.div_ceil(CLIENTS_PER_CONNECTION) {
        let client = Client::builder()
            .seeds(servers.iter().cloned())
            .build()
            .await;
        connected.push(client.map_err(AuditError::NoServer)?);
    }
    Ok(connected)
}

fn system(what: &'static str, source: io::Error) -> AuditError {
    AuditError::System { what, source }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
