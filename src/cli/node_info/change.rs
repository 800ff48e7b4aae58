//! What `status` says while the ring changes: who comes and who goes, how far it is, and who is waited for.

use std::time::Duration;

use dynakv_client::{MemberStatus, RingReply, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::client::AwaitedFor;
use dynakv_protocol::ring_document::ChangePhase;
use serde::Serialize;

use super::state::state_name;
use crate::cli::output::bytes_text;

/// A change of the ring, as far as the answering node knows.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Change<'a> {
    step: &'static str,
    begun_at: u64,
    coming: Vec<&'a str>,
    going: Vec<&'a str>,
    /// Those of them that are gone already.
    gone: Vec<&'a str>,
    /// Whom the next step waits for.
    awaited: Vec<Awaited<'a>>,
    /// What they are to do.
    awaited_for: Option<&'static str>,
    #[serde(skip)]
    ring_version: u64,
    #[serde(skip)]
    phase: ChangePhase,
}

#[derive(Debug, Serialize)]
struct Awaited<'a> {
    id: &'a str,
    state: &'static str,
    segments_left: u32,
    /// How many bytes it has moved for that, and moves a second.
    bytes: u64,
    bytes_per_s: u64,
    seconds_left: Option<u32>,
    /// Keys that it keeps for others, where it is to hand them on.
    hints_left: u64,
}

impl<'a> Awaited<'a> {
    fn new(member: &'a MemberStatus, awaited_for: Option<AwaitedFor>) -> Self {
        let moving = member.moving.as_ref();
        let hands_on = awaited_for == Some(AwaitedFor::HandingOn);
        Self {
            id: member.id.as_str(),
            state: state_name(member.state),
            segments_left: moving.map_or(member.rebuilding_segments, |it| it.segments_left),
            bytes: moving.map_or(0, |it| it.bytes),
            bytes_per_s: moving.map_or(0, |it| it.bytes_per_s),
            seconds_left: moving.and_then(|it| it.seconds_left),
            hints_left: if hands_on { member.hints_waiting } else { 0 },
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{} ({}", self.id, self.state);
        for (left, what) in [
            (u64::from(self.segments_left), "segments"),
            (self.hints_left, "hints"),
        ] {
            if left > 0 {
                text += &format!(", {left} {what} left");
            }
        }
        text + ")"
    }
}

impl<'a> Change<'a> {
    /// `None` unless the ring changes.
    pub(in crate::cli) fn of(status: &'a StatusReply, ring: &'a RingReply) -> Option<Self> {
        let document = &ring.document;
        let change = document.change()?;
        let members = || document.members.iter().zip(&change.target);
        let named = |is_it: fn(u16, u16) -> bool| {
            let named = members().filter(|(now, then)| is_it(now.weight, then.weight));
            named.map(|(now, _)| now.id.as_str()).collect()
        };
        let awaited = status.members.iter();
        let awaited = awaited.filter(|member| status.awaited.contains(&member.id));
        let awaited_for = status.awaited_for;
        Some(Self {
            step: document.step.name(),
            begun_at: change.begun_at.0,
            coming: named(|now, _| now == 0),
            going: named(|_, then| then == 0),
            gone: change.stopped.iter().map(NodeId::as_str).collect(),
            awaited: awaited
                .map(|member| Awaited::new(member, awaited_for))
                .collect(),
            awaited_for: awaited_for.map(|what| match what {
                AwaitedFor::Fetching => "fetching",
                AwaitedFor::Following => "following",
                AwaitedFor::HandingOn => "handing-on",
            }),
            ring_version: document.version.0,
            phase: change.phase,
        })
    }

    /// The same for people.
    pub(in crate::cli) fn text(&self) -> String {
        let (version, what) = (self.ring_version, self.what());
        let progress = self.progress();
        format!("dynakv: the ring changes (ring {version}): {what}; {progress}\n")
    }

    /// Who comes and who goes.
    pub(in crate::cli) fn what(&self) -> String {
        let going = self.going.iter().map(|id| match self.gone.contains(id) {
            true => format!("{id} (gone)"),
            false => (*id).to_owned(),
        });
        let going: Vec<String> = going.collect();
        let mut what: Vec<String> = Vec::new();
        for (names, verb) in [
            (self.coming.join(", "), "coming"),
            (going.join(", "), "going"),
        ] {
            if !names.is_empty() {
                what.push(format!("{names} {verb}"));
            }
        }
        match what.is_empty() {
            true => "weights or zones change".to_owned(),
            false => what.join("; "),
        }
    }

    /// In which step it is, and whom that waits for.
    pub(in crate::cli) fn progress(&self) -> String {
        let awaited: Vec<String> = self.awaited.iter().map(Awaited::text).collect();
        let (step, what_for) = match (self.phase, self.awaited_for) {
            (ChangePhase::WriteBoth, _) => (1, "to fetch what they gain"),
            (ChangePhase::ReadNew, Some("handing-on")) => match awaited.len() {
                1 => (2, "to hand on what it has"),
                _ => (2, "to hand on what they have"),
            },
            (ChangePhase::ReadNew, _) => (2, "to follow it"),
        };
        let waits = match awaited.is_empty() {
            true => "the next is due".to_owned(),
            false => format!(
                "waiting for {} {what_for}{}",
                awaited.join(", "),
                self.speed()
            ),
        };
        format!("step {step} of 2, {waits}")
    }

    /// How much those that are waited for have moved together, how fast that goes, and how long the last of them takes.
    fn speed(&self) -> String {
        let sum = |of: fn(&Awaited<'_>) -> u64| self.awaited.iter().map(of).sum::<u64>();
        let (bytes, bytes_per_s) = (sum(|it| it.bytes), sum(|it| it.bytes_per_s));
        if bytes == 0 {
            return String::new();
        }
        let mut text = format!(
            ": {} so far, {}/s",
            bytes_text(bytes),
            bytes_text(bytes_per_s)
        );
        // Nothing while one of them cannot tell.
        let moving = self.awaited.iter().filter(|it| it.segments_left > 0);
        let seconds: Option<Vec<u32>> = moving.map(|it| it.seconds_left).collect();
        if let Some(last) = seconds.and_then(|seconds| seconds.into_iter().max()) {
            let left = humantime::format_duration(Duration::from_secs(last.into()));
            text += &format!(", about {left} left");
        }
        text
    }

    /// The step and the names in it, for whoever says what is new only.
    pub(in crate::cli) fn whom(&self) -> String {
        let names: Vec<&str> = self.awaited.iter().map(|it| it.id).collect();
        format!("{} {}", self.step, names.join(" "))
    }

    /// The change cannot be given up any more.
    pub(in crate::cli) fn is_past_giving_up(&self) -> bool {
        self.phase == ChangePhase::ReadNew
    }
}
