//! `stats`, `health`, `status` and `ring`: one node's answer about itself and its cluster.

use std::fs;
use std::path::{Path, PathBuf};

use dynakv_client::{
    Client, Error, HealthReply, MemberState, MemberStatus, RingReply, StatsReply, StatusReply,
};
use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_protocol::placement::Placement;
use dynakv_protocol::shell::quoted;
use serde::Serialize;

pub(super) use self::change::Change;
pub(super) use self::ring::{RingSummary, ring_text};
pub(super) use self::state::state_name;
use self::verdict::{Verdict, is_in_reach, verdict};
pub(super) use self::waiting::Waiting;
use super::exit::Exit;
use super::prompt::{Prompt, Session};

use super::output::{Format, Heading, Report, Table, bytes_text, json_line};

/// A node's statistics.
pub(crate) async fn stats(client: &Client, format: Format) -> Result<Report, Error> {
    Ok(stats_report(&client.stats().await?, format))
}

/// Whether a node lives and is ready.
pub(crate) async fn health(client: &Client, format: Format) -> Result<Report, Error> {
    Ok(health_report(&client.health().await?, format))
}

/// How the ring is shown.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct RingArgs {
    /// Draw it, too: an SVG file with who owns what and, while the ring changes, what moves; with "-" to standard output, and
    /// nothing else
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// The state of the cluster.
pub(crate) async fn status(session: &Session, format: Format) -> Result<Report, Error> {
    let client = &session.client;
    let status = client.status().await?;
    // Without a ring the verdict rests on the number of members alone.
    let ring = client.ring().await.ok();
    let mut report = status_report(&status, ring.as_ref(), format);
    if status.locked_keys > 0 && format != Format::Json {
        let locked = locked_text(&status, &session.prompt());
        report.messages.insert_str(0, &locked);
    }
    if format != Format::Json {
        report.messages += &waiting::text(&status, &session.prompt());
    }
    Ok(report)
}

/// The ring.
pub(crate) async fn ring(
    session: &Session,
    args: &RingArgs,
    format: Format,
) -> Result<Report, Error> {
    let client = &session.client;
    let ring = client.ring().await?;
    if let Some(file) = &args.picture {
        let picture = picture::picture(&ring.document);
        if file == Path::new("-") {
            return Ok(Report::data(Exit::Ok, picture));
        }
        if let Err(error) = fs::write(file, picture) {
            let what = format!("{} cannot be written: {error}", file.display());
            let next = session.prompt().command("ring --picture -");
            return Ok(Report::error(Exit::Error, format, &what, &next));
        }
    }
    // The ring itself does not know it; an older node may not say.
    let status = client.status().await.ok();
    let members = status.as_ref().map(|status| &status.members[..]);
    let text = ring_text(&ring, members.unwrap_or_default(), format);
    Ok(Report::data(Exit::Ok, text))
}

#[derive(Serialize)]
struct StatsDocument<'a> {
    node_id: &'a str,
    address: &'a str,
    total_keys: u64,
    total_versions: u64,
    conflict_keys: u64,
    n: u8,
    w: u8,
    r: u8,
    ring: StatsRing,
    gossip: StatsGossip,
}

#[derive(Serialize)]
struct StatsRing {
    version: u64,
    total_nodes: u32,
    total_virtual_nodes: u32,
    virtual_nodes_per_node: u32,
}

#[derive(Serialize)]
struct StatsGossip {
    known_nodes: u32,
    alive_nodes: u32,
}

fn stats_report(stats: &StatsReply, format: Format) -> Report {
    if format == Format::Json {
        let document = StatsDocument {
            node_id: stats.node_id.as_str(),
            address: &stats.address,
            total_keys: stats.total_keys,
            total_versions: stats.total_versions,
            conflict_keys: stats.conflict_keys,
            n: stats.n,
            w: stats.w,
            r: stats.r,
            ring: StatsRing {
                version: stats.ring_version.0,
                total_nodes: stats.total_nodes,
                total_virtual_nodes: stats.total_virtual_nodes,
                virtual_nodes_per_node: stats.virtual_nodes_per_node,
            },
            gossip: StatsGossip {
                known_nodes: stats.known_nodes,
                alive_nodes: stats.alive_nodes,
            },
        };
        return Report::data(Exit::Ok, json_line(&document));
    }
    let mut table = Table::new(&[Heading::Left("Statistic"), Heading::Left("Value")]);
    let rows = [
        ("node_id", stats.node_id.to_string()),
        ("address", stats.address.clone()),
        ("total_keys", stats.total_keys.to_string()),
        ("total_versions", stats.total_versions.to_string()),
        ("conflict_keys", stats.conflict_keys.to_string()),
        ("n", stats.n.to_string()),
        ("w", stats.w.to_string()),
        ("r", stats.r.to_string()),
        ("ring.version", stats.ring_version.to_string()),
        ("ring.total_nodes", stats.total_nodes.to_string()),
        (
            "ring.total_virtual_nodes",
            stats.total_virtual_nodes.to_string(),
        ),
        (
            "ring.virtual_nodes_per_node",
            stats.virtual_nodes_per_node.to_string(),
        ),
        ("gossip.known_nodes", stats.known_nodes.to_string()),
        ("gossip.alive_nodes", stats.alive_nodes.to_string()),
    ];
    for (name, value) in rows {
        table.push([name.to_owned(), value]);
    }
    Report::data(Exit::Ok, rows_text(&table, format))
}

#[derive(Serialize)]
struct HealthDocument<'a> {
    node_id: &'a str,
    ready: bool,
    reason: &'a str,
}

fn health_report(health: &HealthReply, format: Format) -> Report {
    let exit = if health.ready {
        Exit::Ok
    } else {
        Exit::Degraded
    };
    let text = match format {
        Format::Json => json_line(&HealthDocument {
            node_id: health.node_id.as_str(),
            ready: health.ready,
            reason: &health.reason,
        }),
        Format::Table | Format::Plain if health.ready => format!("ok {}\n", health.node_id),
        Format::Table | Format::Plain => {
            format!("not ready {}: {}\n", health.node_id, health.reason)
        }
    };
    Report::data(exit, text)
}

#[derive(Serialize)]
struct StatusDocument<'a> {
    verdict: Verdict,
    node_id: &'a str,
    cluster: &'a str,
    cluster_id: String,
    ring_version: u64,
    n: u8,
    w: u8,
    r: u8,
    members: Vec<StatusMember<'a>>,
    locked_keys: u64,
    locked_keys_named: Vec<String>,
    other_clusters: Vec<others::Document<'a>>,
    change: Option<Change<'a>>,
    waiting: Vec<Waiting<'a>>,
}

#[derive(Serialize)]
struct StatusMember<'a> {
    id: &'a str,
    address: &'a str,
    state: &'static str,
    state_age_ms: u64,
    generation: u64,
    zone: &'a str,
    keys: u64,
    disk_bytes: u64,
    rebuilding_segments: u32,
    rebuilding_of_segments: u32,
    rebuilt_percent: f64,
    hints_waiting: u64,
    disk_hangs: bool,
    disk_full: bool,
    unreachable: bool,
    owns_percent: f64,
    software: &'a str,
}

impl<'a> StatusMember<'a> {
    fn new(member: &'a MemberStatus, ring: Option<&RingReply>) -> Self {
        let progress = Rebuilding::new(member, ring);
        Self {
            id: member.id.as_str(),
            address: &member.address,
            state: state_name(member.state),
            state_age_ms: member.state_age_ms,
            generation: member.generation.0,
            zone: &member.zone,
            keys: member.keys,
            disk_bytes: member.disk_bytes,
            rebuilding_segments: member.rebuilding_segments,
            rebuilding_of_segments: progress.of,
            rebuilt_percent: progress.rebuilt_percent(),
            hints_waiting: member.hints_waiting,
            disk_hangs: member.disk_hangs,
            disk_full: member.disk_full,
            unreachable: member.unreachable,
            owns_percent: f64::from(member.owns_basis_points) / 100.0,
            software: &member.software,
        }
    }
}

/// How far a member is that has lost data.
struct Rebuilding {
    left: u32,
    /// How many segments it owns; a node that lost its directory begins with all there are, and is soon
    /// done with the others.
    of: u32,
}

impl Rebuilding {
    fn new(member: &MemberStatus, ring: Option<&RingReply>) -> Self {
        let left = member.rebuilding_segments;
        let mut of = SEGMENTS as u32;
        // Nearly always nobody is, and nothing is counted.
        if left > 0
            && let Some(ring) = ring
            && let Some(index) = ring
                .document
                .members
                .iter()
                .position(|it| it.id == member.id)
        {
            let read = Placement::new(&ring.document);
            let also = Placement::also_written(&ring.document);
            let owns = |segment: &u16| {
                let placements = [&read].into_iter().chain(&also);
                let mut owners = placements.flat_map(|it| it.owners(Segment(*segment)));
                owners.any(|owner| owner.slot() == index)
            };
            of = (0..=u16::MAX).filter(owns).count() as u32;
        }
        Self {
            left,
            of: match left {
                0 => 0,
                _ => of.max(left),
            },
        }
    }

    fn left_percent(&self) -> f64 {
        match self.of {
            0 => 0.0,
            of => f64::from(self.left) * 100.0 / f64::from(of),
        }
    }

    /// To a tenth.
    fn rebuilt_percent(&self) -> f64 {
        ((100.0 - self.left_percent()) * 10.0).floor() / 10.0
    }
}

/// The state, and what share of what it owns such a node has lost and not got back.
fn state_text(member: &MemberStatus, ring: Option<&RingReply>) -> String {
    let mut state = match member.state {
        // Nobody has given it up yet, and from here it cannot be spoken to.
        MemberState::Alive if member.unreachable => "unreachable".to_owned(),
        state => state_name(state).to_owned(),
    };
    if member.disk_hangs {
        state += ", disk hangs";
    }
    if member.disk_full {
        state += ", disk full";
    }
    if member.rebuilding_segments > 0 {
        let left_percent = Rebuilding::new(member, ring).left_percent();
        state += &format!(", rebuilding {left_percent:.1} %");
    }
    state
}

/// What does not fit into the table.
fn remarks(status: &StatusReply, ring: Option<&RingReply>) -> String {
    let mut text = String::new();
    for member in &status.members {
        let (id, seen_by) = (&member.id, &status.node_id);
        if member.rebuilding_segments > 0 {
            let Rebuilding { left, of } = Rebuilding::new(member, ring);
            text += &format!("dynakv: {id} has {left} of {of} segments to rebuild\n");
        }
        if member.unreachable {
            let server = quoted(&member.address);
            text += &format!(
                "dynakv: {id} does not answer {seen_by}\n  next: dynakv --server {server} health\n"
            );
        }
    }
    text
}

fn status_report(status: &StatusReply, ring: Option<&RingReply>, format: Format) -> Report {
    let verdict = verdict(status, ring);
    if format == Format::Json {
        let members = status.members.iter();
        let members = members.map(|member| StatusMember::new(member, ring));
        let named = status.locked_keys_named.iter();
        let document = StatusDocument {
            verdict,
            node_id: status.node_id.as_str(),
            cluster: &status.cluster_name,
            cluster_id: status.cluster_id.to_string(),
            ring_version: status.ring_version.0,
            n: status.n,
            w: status.w,
            r: status.r,
            members: members.collect(),
            locked_keys: status.locked_keys,
            locked_keys_named: named.map(|key| key.escape_ascii().to_string()).collect(),
            other_clusters: others::documents(status),
            change: ring.and_then(|ring| Change::of(status, ring)),
            waiting: status.waiting.iter().map(Waiting::of).collect(),
        };
        return Report::data(verdict.exit(), json_line(&document));
    }
    let mut table = Table::new(&[
        Heading::Left("State"),
        Heading::Left("Id"),
        Heading::Left("Address"),
        Heading::Right("Load"),
        Heading::Right("Owns"),
        Heading::Right("Keys"),
        Heading::Right("Hints"),
        Heading::Left("Zone"),
        Heading::Left("Version"),
    ]);
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    for member in &status.members {
        table.push([
            state_text(member, ring),
            member.id.to_string(),
            member.address.clone(),
            bytes_text(member.disk_bytes),
            format!("{:.1} %", f64::from(member.owns_basis_points) / 100.0),
            member.keys.to_string(),
            member.hints_waiting.to_string(),
            or_dash(&member.zone),
            or_dash(&member.software),
        ]);
    }
    let alive = status.members.iter();
    let alive = alive.filter(|member| is_in_reach(member)).count();
    let text = match format {
        Format::Table => format!(
            "{}: {alive} of {} members alive (cluster {}, ring {}, n = {}, w = {}, r = {}; seen by {})\n\n{}",
            verdict.name(),
            status.members.len(),
            status.cluster_name,
            status.ring_version,
            status.n,
            status.w,
            status.r,
            status.node_id,
            table.aligned()
        ),
        Format::Json | Format::Plain => format!("{}\n{}", verdict.name(), table.plain()),
    };
    let mut report = Report::data(verdict.exit(), text);
    let change = ring.and_then(|ring| Change::of(status, ring));
    let change = change.map_or_else(String::new, |change| change.text());
    report.messages = change + &remarks(status, ring) + &others::text(status);
    report
}

/// What is locked, and what mends it.
fn locked_text(status: &StatusReply, prompt: &Prompt) -> String {
    let mut text = format!(
        "dynakv: {} keys are locked, as far as {} knows: they cannot be read, or not be written by all nodes\n",
        status.locked_keys, status.node_id
    );
    for key in &status.locked_keys_named {
        text.push_str(&format!("  next: {}\n", prompt.unlock(key)));
    }
    text
}

fn rows_text(table: &Table, format: Format) -> String {
    match format {
        Format::Table => table.aligned(),
        Format::Json | Format::Plain => table.plain(),
    }
}

mod change;
mod others;
mod picture;
mod ring;
mod state;
#[cfg(test)]
mod tests;
mod verdict;
mod waiting;
