//! `cluster status`: the change that is under way, who waits to be let in, and what can be done.

use dynakv_client::{Error, MemberState, RingReply, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::ring_document::Member;
use serde::Serialize;

use super::finding;
use crate::cli::exit::Exit;
use crate::cli::node_info::{Change, Waiting};
use crate::cli::output::{Format, Report, json_line};
use crate::cli::prompt::{Prompt, Session};
use crate::engine::layout::steps::GIVEN_UP_AFTER_MS;

/// Asks the node, and the others who waits there.
pub(super) async fn status(session: &Session, format: Format) -> Result<Report, Error> {
    let client = &session.client;
    let status = client.status().await?;
    let ring = client.ring().await?;
    let waiting = finding::waiting(client, &status, &[]).await;
    Ok(report(&status, &ring, &waiting, &session.prompt(), format))
}

#[derive(Serialize)]
struct Document<'a> {
    ring_version: u64,
    step: &'static str,
    nodes: usize,
    n: u8,
    w: u8,
    r: u8,
    change: Option<Change<'a>>,
    waiting: Vec<Waiting<'a>>,
    next: Option<&'a str>,
}

pub(super) fn report(
    status: &StatusReply,
    ring: &RingReply,
    waiting: &[Member],
    prompt: &Prompt,
    format: Format,
) -> Report {
    let document = &ring.document;
    let change = Change::of(status, ring);
    let advice = advice(status, ring, waiting);
    let next = advice.as_ref().map(|advice| prompt.command(&advice.words));
    if format == Format::Json {
        return Report::data(
            Exit::Ok,
            json_line(&Document {
                ring_version: document.version.0,
                step: document.step.name(),
                nodes: document.members.len(),
                n: document.n,
                w: document.w,
                r: document.r,
                change,
                waiting: waiting.iter().map(Waiting::of).collect(),
                next: next.as_deref(),
            }),
        );
    }
    let mut text = match &change {
        None => format!(
            "ring {} is {}: {} nodes, n {}, w {}, r {}\n",
            document.version,
            document.step.name(),
            document.members.len(),
            document.n,
            document.w,
            document.r
        ),
        Some(change) => format!(
            "ring {} changes: {}\n{}\n",
            document.version,
            change.what(),
            change.progress()
        ),
    };
    for member in waiting {
        text += &format!("{} at {} waits to be let in\n", member.id, member.address);
    }
    let mut report = Report::data(Exit::Ok, text);
    if let (Some(advice), Some(next)) = (&advice, &next) {
        report.messages = match advice.why.is_empty() {
            true => format!("  next: {next}\n"),
            false => format!("dynakv: {}\n  next: {next}\n", advice.why),
        };
    }
    report
}

/// What can be done, and why one might.
struct Advice {
    why: String,
    words: String,
}

impl Advice {
    fn new(why: impl Into<String>, words: impl Into<String>) -> Self {
        let (why, words) = (why.into(), words.into());
        Self { why, words }
    }
}

fn advice(status: &StatusReply, ring: &RingReply, waiting: &[Member]) -> Option<Advice> {
    let Some(change) = Change::of(status, ring) else {
        let first = waiting.first()?;
        return Some(Advice::new("", format!("cluster plan join {}", first.id)));
    };
    let mut members = status.members.iter();
    let dead = members.find(|member| {
        let is_dead = member.state == MemberState::Dead;
        is_dead && status.awaited.contains(&member.id)
    });
    if let Some(dead) = dead {
        return Some(about_dead(&dead.id, ring, &change));
    }
    Some(match change.is_past_giving_up() {
        true => Advice::new("", "cluster status"),
        false => Advice::new("until step 2 it can be given up", "cluster plan abort"),
    })
}

/// What can be done about a member that is dead and waited for.
fn about_dead(id: &NodeId, ring: &RingReply, change: &Change<'_>) -> Advice {
    let document = &ring.document;
    if document.is_leaving(id) && !document.is_stopped(id) {
        let why = format!("start {id}, or have nobody wait for it if it is gone for good");
        return Advice::new(why, format!("cluster plan remove {id}"));
    }
    if change.is_past_giving_up() {
        let why = format!("start {id}: the change waits for it, and can only be finished");
        return Advice::new(why, "cluster status");
    }
    let minutes = GIVEN_UP_AFTER_MS / 60_000;
    let why = format!("start {id}; after {minutes} minutes without it the change is given up");
    Advice::new(why, "cluster plan abort")
}
