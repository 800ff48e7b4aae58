//! `export`: what one node holds, or all of them, line by line on standard output.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufWriter, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dynakv_client::{Client, Error, Exported, RingReply};
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Position;
use serde::Serialize;

use super::format::{Count, Entry, FORMAT, FORMAT_VERSION, Header, Line, Trailer};
use super::progress::Progress;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Report, json_line};
use crate::cli::prompt::{Prompt, Session};
use crate::engine::limits;

/// How many bytes one answer holds, with one node.
const PART_BYTES: u32 = 1024 * 1024;

/// The same with very many nodes, and how much all of their answers may hold together.
const PART_BYTES_MIN: u32 = 64 * 1024;
const PARTS_BYTES_MAX: u32 = 32 * 1024 * 1024;

/// How often a part is asked for when a node is busy or its connection breaks.
const ATTEMPTS_MAX: u32 = 5;

/// How long the first pause between two attempts is; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(200);

/// `dynakv export`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct ExportArgs {
    /// What every member holds, merged key by key; otherwise what the named node holds
    #[arg(long)]
    all: bool,
}

/// One node's data, part by part, in ring order.
struct Source {
    client: Client,
    id: String,
    waiting: VecDeque<(Bytes, Bytes)>,
    /// Where the next part begins; `None` when there is no more.
    next: Option<Option<Bytes>>,
    damaged: Vec<Bytes>,
    /// Keys that are beyond a limit.
    locked: BTreeSet<Bytes>,
}

impl Source {
    /// Asks for the first part.
    async fn open(client: Client, bytes_max: u32) -> Result<(Self, Exported), Error> {
        let mut source = Self {
            client,
            id: String::new(),
            waiting: VecDeque::new(),
            next: Some(None),
            damaged: Vec::new(),
            locked: BTreeSet::new(),
        };
        let first = source.fetch(None, bytes_max).await?;
        source.id = first.node_id.to_string();
        source.take(first.clone());
        Ok((source, first))
    }

    async fn fetch(&self, after: Option<Bytes>, bytes_max: u32) -> Result<Exported, Error> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            match self.client.export(after.clone(), bytes_max).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
            pause *= 2;
        }
        self.client.export(after, bytes_max).await
    }

    fn take(&mut self, part: Exported) {
        let items = part.items.into_iter();
        self.waiting
            .extend(items.map(|item| (item.key, item.versions)));
        let locked: BTreeSet<Bytes> = part.locked.into_iter().collect();
        let damaged = part.damaged.into_iter();
        self.damaged
            .extend(damaged.filter(|key| !locked.contains(key)));
        self.locked.extend(locked);
        self.next = part.next.map(Some);
    }

    /// Makes sure that the next key waits, if there is one.
    async fn fill(&mut self, bytes_max: u32) -> Result<(), Error> {
        while self.waiting.is_empty()
            && let Some(after) = self.next.clone()
        {
            let part = self.fetch(after, bytes_max).await?;
            self.take(part);
        }
        Ok(())
    }

    fn place(&self) -> Option<(Position, &Bytes)> {
        let (key, _) = self.waiting.front()?;
        Some((Position::of_key(key), key))
    }
}

/// Why an export ended early.
enum Failure {
    Client(Error),
    /// What came is no data of this protocol, or of another cluster.
    Unusable(String),
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Writes the data to standard output.
pub(crate) async fn export(
    session: &Session,
    args: ExportArgs,
    timeout: Duration,
    format: Format,
) -> Result<Report, Error> {
    let fail = |what: String| {
        let what = format!("{what}; what was written has no trailer, and import refuses it");
        let next = session.prompt().command("status");
        Ok(Report::error(Exit::Error, format, &what, &next))
    };
    match run(&session.client, &args, timeout, io::stdout().lock()).await {
        Ok(done) => Ok(report(&done, &session.prompt(), format)),
        Err(Failure::Client(error)) => Err(error),
        Err(Failure::Unusable(what)) => fail(what),
        Err(Failure::Output(error)) => fail(format!("cannot write the export: {error}")),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Done {
    nodes: Vec<String>,
    missing: Vec<String>,
    damaged: Vec<Bytes>,
    locked: BTreeSet<Bytes>,
    trailer: Trailer,
}

async fn run(
    client: &Client,
    args: &ExportArgs,
    timeout: Duration,
    out: impl Write,
) -> Result<Done, Failure> {
    let ring = match args.all {
        true => Some(settled_ring(client).await?),
        false => None,
    };
    let (members, mut missing) = match &ring {
        Some(ring) => connect_all(ring, timeout).await,
        None => (vec![client.clone()], Vec::new()),
    };
    let share = PARTS_BYTES_MAX / u32::try_from(members.len().max(1)).unwrap_or(u32::MAX);
    let bytes_max = share.clamp(PART_BYTES_MIN, PART_BYTES);
    let mut sources: Vec<Source> = Vec::new();
    let mut origin: Option<Exported> = None;
    for member in members {
        let (source, first) = match Source::open(member, bytes_max).await {
            Ok(opened) => opened,
            Err(error) if args.all && !sources.is_empty() => {
                missing.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match &origin {
            Some(origin) if origin.cluster_id != first.cluster_id => {
                return Err(Failure::Unusable(format!(
                    "{} belongs to cluster {} and not to {}",
                    source.id, first.cluster_id, origin.cluster_id
                )));
            }
            _ => origin = Some(first),
        }
        sources.push(source);
    }
    let Some(origin) = origin else {
        return Err(Failure::Unusable("no member of the cluster answers".into()));
    };
    let mut out = BufWriter::new(out);
    let header = Line::Header(Header {
        format: FORMAT.to_owned(),
        version: FORMAT_VERSION,
        cluster: origin.cluster_name,
        cluster_id: origin.cluster_id.to_string(),
        ring_version: origin.ring_version.0,
        nodes: sources.iter().map(|source| source.id.clone()).collect(),
        missing: missing.clone(),
        created_ms: unix_ms(),
    });
    let header = json_line(&header);
    out.write_all(header.as_bytes())?;
    let mut count = Count::begin(header.trim_end().as_bytes());
    let mut progress = Progress::start("exported");
    let mut locked = BTreeSet::new();
    while let Some((key, versions)) = next_key(&mut sources, bytes_max).await? {
        // What no import would take stops nothing: it is named at the end.
        let Some(versions) = versions else {
            locked.insert(key);
            continue;
        };
        let entry = Entry::new(&key, &versions);
        count.add(&entry);
        let line = json_line(&Line::Entry(entry));
        out.write_all(line.as_bytes())?;
        progress.add(line.len());
    }
    let mut damaged: Vec<Bytes> = Vec::new();
    for source in &mut sources {
        damaged.append(&mut source.damaged);
        locked.append(&mut source.locked);
    }
    if let Some(ring) = ring
        && settled_ring(client).await?.document.version != ring.document.version
    {
        return Err(changed());
    }
    let trailer = count.end((damaged.len() + locked.len()) as u64);
    out.write_all(json_line(&Line::Trailer(trailer.clone())).as_bytes())?;
    out.flush()?;
    Ok(Done {
        nodes: sources.into_iter().map(|source| source.id).collect(),
        missing,
        damaged,
        locked,
        trailer,
    })
}

/// The ring, while it does not change: what moves from one member to another meanwhile, both may not show.
async fn settled_ring(client: &Client) -> Result<RingReply, Failure> {
    let ring = client.ring().await?;
    match ring.document.change() {
        None => Ok(ring),
        Some(_) => Err(changed()),
    }
}

fn changed() -> Failure {
    let why = "the ring changes, and keys that move meanwhile may be missing: export again once `dynakv status` says \
               nothing of it any more";
    Failure::Unusable(why.to_owned())
}

/// A client for each member that answers, and the names of the others.
async fn connect_all(ring: &RingReply, timeout: Duration) -> (Vec<Client>, Vec<String>) {
    let (mut clients, mut missing) = (Vec::new(), Vec::new());
    for (member, address) in ring.document.members.iter().zip(&ring.addresses) {
        let connected = Client::builder()
            .seeds([address.as_str()])
            .timeout(timeout)
            .ring_routing(false)
            .build()
            .await;
        match connected {
            Ok(client) => clients.push(client),
            Err(error) => missing.push(format!("{}: {error}", member.id)),
        }
    }
    (clients, missing)
}

/// The next key in ring order, with what all sources have of it. All give their keys in that order, so
/// nothing but one part of each is ever held. No versions when the key is locked.
async fn next_key(
    sources: &mut [Source],
    bytes_max: u32,
) -> Result<Option<(Bytes, Option<Versions>)>, Failure> {
    for source in &mut *sources {
        source.fill(bytes_max).await?;
    }
    let first = sources.iter().filter_map(Source::place).min();
    let Some(key) = first.map(|(_, key)| key.clone()) else {
        return Ok(None);
    };
    let mut merged = Versions::new();
    let mut is_locked = false;
    for source in sources {
        if source
            .waiting
            .front()
            .is_none_or(|(front, _)| *front != key)
        {
            continue;
        }
        let Some((_, versions)) = source.waiting.pop_front() else {
            continue;
        };
        match Versions::from_bytes(&versions) {
            Ok(versions) => merged.merge(&versions),
            Err(error) if limits::is_beyond(&error) => is_locked = true,
            Err(error) => {
                let shown = key.escape_ascii();
                return Err(Failure::Unusable(format!(
                    "{} sent no versions of {shown}: {error}",
                    source.id
                )));
            }
        }
    }
    // Without what one of them has it would be less than was acknowledged, and pass for all of it.
    is_locked |= limits::check_import(&merged, merged.to_bytes().len()).is_err();
    Ok(Some((key, (!is_locked).then_some(merged))))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[derive(Serialize)]
struct Summary<'a> {
    keys: u64,
    siblings: u64,
    tombstones: u64,
    nodes: &'a [String],
    missing: &'a [String],
    damaged: Vec<String>,
    locked: Vec<String>,
}

fn report(done: &Done, prompt: &Prompt, format: Format) -> Report {
    let complete = done.missing.is_empty() && done.damaged.is_empty() && done.locked.is_empty();
    let exit = if complete { Exit::Ok } else { Exit::Degraded };
    let damaged = done
        .damaged
        .iter()
        .map(|key| key.escape_ascii().to_string());
    let damaged: Vec<String> = damaged.collect();
    let locked = done.locked.iter();
    let locked: Vec<String> = locked.map(|key| key.escape_ascii().to_string()).collect();
    // Standard output is the export itself.
    if format == Format::Json {
        let summary = Summary {
            keys: done.trailer.keys,
            siblings: done.trailer.siblings,
            tombstones: done.trailer.tombstones,
            nodes: &done.nodes,
            missing: &done.missing,
            damaged,
            locked,
        };
        return Report::message(exit, json_line(&summary));
    }
    let mut text = format!(
        "dynakv: exported {} keys ({} values, {} tombstones) of {}\n",
        done.trailer.keys,
        done.trailer.siblings,
        done.trailer.tombstones,
        done.nodes.join(", ")
    );
    for missing in &done.missing {
        text.push_str(&format!("  missing: {missing}\n"));
    }
    for key in &damaged {
        text.push_str(&format!("  damaged and left out: {key}\n"));
    }
    for key in &locked {
        text.push_str(&format!("  locked and left out: {key}\n"));
    }
    for key in &done.locked {
        text.push_str(&format!("  next: {}\n", prompt.unlock(key)));
    }
    if !complete {
        let next = prompt.command("status");
        text.push_str(&format!(
            "  not all of it: export again when all members are well\n  next: {next}\n"
        ));
    }
    Report::message(exit, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Done {
        Done {
            nodes: vec!["node-1".to_owned(), "node-2".to_owned()],
            missing: Vec::new(),
            damaged: Vec::new(),
            locked: BTreeSet::new(),
            trailer: Trailer {
                keys: 3,
                siblings: 4,
                tombstones: 1,
                ..Trailer::default()
            },
        }
    }

    #[test]
    fn a_whole_export_is_summed_up_beside_it() {
        let expected = "dynakv: exported 3 keys (4 values, 1 tombstones) of node-1, node-2\n";
        assert_eq!(
            report(&done(), &Prompt::default(), Format::Plain),
            Report::message(Exit::Ok, expected)
        );
        let expected = concat!(
            r#"{"keys":3,"siblings":4,"tombstones":1,"nodes":["node-1","node-2"],"#,
            r#""missing":[],"damaged":[],"locked":[]}"#,
            "\n"
        );
        assert_eq!(
            report(&done(), &Prompt::default(), Format::Json),
            Report::message(Exit::Ok, expected)
        );
    }

    #[test]
    fn what_is_missing_is_said_and_has_an_exit_code() {
        let mut done = done();
        done.missing.push("node-3: cannot reach it".to_owned());
        done.damaged.push(Bytes::from_static(b"k\xff"));
        done.locked.insert(Bytes::from_static(b"long"));
        let report = report(&done, &Prompt::default(), Format::Table);
        assert_eq!(report.exit, Exit::Degraded);
        for part in [
            "missing: node-3",
            "damaged and left out: k\\xff",
            "locked and left out: long",
            "repair --key long",
            "next: dynakv status",
        ] {
            assert!(report.messages.contains(part), "{}", report.messages);
        }
    }
}
