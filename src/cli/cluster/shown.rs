//! A plan as it is printed: as a picture for people, as rows for scripts, and in JSON.

use dynakv_protocol::hash::SEGMENTS;
use serde::Serialize;

use super::facts::facts;
use super::plan::{Kind, Plan, Role, Share};
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Report, bytes_text, json_line};

/// How wide text may be.
const COLUMNS: usize = 80;

/// How wide a bar is, and a name beside it at most.
const BAR: usize = 12;
const NAME: usize = 16;

/// Where the right half of the first line begins.
const RIGHT: usize = 40;

impl Plan {
    /// All of it, with the command that carries it out.
    pub(super) fn report(&self, words: &str, next: &str, format: Format) -> Report {
        match format {
            Format::Json => Report::data(Exit::Ok, json_line(&Document::new(self, words, next))),
            Format::Table => {
                Report::data(Exit::Ok, format!("{}next: {next}\n", self.picture(words)))
            }
            Format::Plain => {
                let mut report = Report::data(Exit::Ok, self.rows());
                let facts = facts(self).into_iter();
                let facts: String = facts.map(|fact| format!("dynakv: {fact}\n")).collect();
                report.messages = format!("{facts}  next: {next}\n");
                report
            }
        }
    }

    /// For people.
    pub(super) fn picture(&self, words: &str) -> String {
        let mut text = self.first_line(words);
        if self.kind != Kind::GivesUp {
            text += &self.bars();
        }
        for fact in facts(self) {
            text += &wrapped(&fact);
        }
        text
    }

    fn first_line(&self, words: &str) -> String {
        let (before, after) = self.nodes();
        let nodes = match (before, after) {
            (1, 1) => "1 node".to_owned(),
            _ if before == after => format!("{after} nodes"),
            _ => format!("{before} → {after} nodes"),
        };
        let (n, w, r) = (self.next.n, self.next.w, self.next.r);
        let right = format!("{nodes}, n {n}, w {w}, r {r}");
        let left = format!("ring {} → {words}", self.present.version);
        match left.chars().count() < RIGHT {
            true => format!("{left:<RIGHT$} {right}\n"),
            false => format!("{}  {right}\n", wrapped(&left)),
        }
    }

    /// A line for each member, with how much it holds of all keys before and after.
    fn bars(&self) -> String {
        let names = self.shares.iter().map(|share| share.id.as_str().len());
        let width = names.max().unwrap_or(0).min(NAME);
        let half = BAR + 8;
        let mut text = format!(
            "{:<width$}  {:<half$}   {:<half$} {:>12}\n",
            "", "now", "after", "moves"
        );
        let most = self.shares.iter();
        let most = most
            .map(|it| it.segments_before.max(it.segments_after))
            .max();
        let most = most.unwrap_or(0).max(1);
        let part = |segments: u32| {
            let share = f64::from(segments) / f64::from(most);
            let cells = (share * BAR as f64).round() as usize;
            format!("{:<BAR$} {:>5.1} %", "█".repeat(cells), percent(segments))
        };
        for share in &self.shares {
            let name = short(share.id.as_str(), width);
            let (before, after) = (part(share.segments_before), part(share.segments_after));
            let moves = self.moves(share);
            let line = format!("{name:<width$}  {before}   {after} {moves:>12}");
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    fn moves(&self, share: &Share) -> String {
        let bytes = |segments: u32| bytes_text(self.bytes(u64::from(segments)));
        match (share.gained, share.lost) {
            (0, 0) => String::new(),
            (gained, 0) => format!("+{}", bytes(gained)),
            (0, lost) => format!("-{}", bytes(lost)),
            (gained, lost) => format!("+{} -{}", bytes(gained), bytes(lost)),
        }
    }

    /// For scripts: each member, what it holds of all keys before and after in percent, and about how many bytes it
    /// gains and loses.
    fn rows(&self) -> String {
        let row = |share: &Share| {
            format!(
                "{}\t{:.1}\t{:.1}\t{}\t{}\n",
                share.id,
                percent(share.segments_before),
                percent(share.segments_after),
                self.bytes(u64::from(share.gained)),
                self.bytes(u64::from(share.lost))
            )
        };
        self.shares.iter().map(row).collect()
    }
}

/// What share of all keys that is.
fn percent(segments: u32) -> f64 {
    f64::from(segments) * 100.0 / SEGMENTS as f64
}

/// The beginning of a name that is too long.
fn short(name: &str, width: usize) -> String {
    match name.chars().count() > width {
        true => name.chars().take(width - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// In lines that are short enough; all but the first are indented.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines += &line;
            lines.push('\n');
            line = format!("  {word}");
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

#[derive(Serialize)]
struct Document<'a> {
    ring_version: u64,
    wish: &'a str,
    kind: Kind,
    n: u8,
    w: u8,
    r: u8,
    nodes_before: usize,
    nodes_after: usize,
    copies_before: usize,
    copies_after: usize,
    members: Vec<MemberDocument<'a>>,
    segments_moved: u64,
    bytes_moved: u64,
    is_minimum: bool,
    nodes_may_fail_meanwhile: i64,
    nodes_may_fail_afterwards: i64,
    held_up_by: Vec<&'a str>,
    may_lose_writes: bool,
    notes: Vec<String>,
    next: &'a str,
}

#[derive(Serialize)]
struct MemberDocument<'a> {
    id: &'a str,
    role: Role,
    weight_before: u16,
    weight_after: u16,
    zone_before: &'a str,
    zone_after: &'a str,
    segments_before: u32,
    segments_after: u32,
    segments_gained: u32,
    segments_lost: u32,
    bytes_gained: u64,
    bytes_lost: u64,
}

impl<'a> Document<'a> {
    fn new(plan: &'a Plan, wish: &'a str, next: &'a str) -> Self {
        let (nodes_before, nodes_after) = plan.nodes();
        let (copies_before, copies_after) = plan.copies;
        let member = |share: &'a Share| MemberDocument {
            id: share.id.as_str(),
            role: share.role,
            weight_before: share.before.weight,
            weight_after: share.after.weight,
            zone_before: &share.before.zone,
            zone_after: &share.after.zone,
            segments_before: share.segments_before,
            segments_after: share.segments_after,
            segments_gained: share.gained,
            segments_lost: share.lost,
            bytes_gained: plan.bytes(u64::from(share.gained)),
            bytes_lost: plan.bytes(u64::from(share.lost)),
        };
        Self {
            ring_version: plan.present.version.0,
            wish,
            kind: plan.kind,
            n: plan.next.n,
            w: plan.next.w,
            r: plan.next.r,
            nodes_before,
            nodes_after,
            copies_before,
            copies_after,
            members: plan.shares.iter().map(member).collect(),
            segments_moved: plan.segments_moved(),
            bytes_moved: plan.bytes(plan.segments_moved()),
            is_minimum: plan.segments_moved() == plan.segments_least(),
            nodes_may_fail_meanwhile: plan.may_fail.0,
            nodes_may_fail_afterwards: plan.may_fail.1,
            held_up_by: plan.held_up_by.iter().map(|id| id.as_str()).collect(),
            may_lose_writes: plan.may_lose_writes,
            notes: facts(plan),
            next,
        }
    }
}
