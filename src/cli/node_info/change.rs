//! What `status` says while the ring changes: who comes and who goes, how far it is, and who is waited for.

use dynakv_client::{RingReply, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::ring_document::ChangePhase;
use serde::Serialize;

use super::state::state_name;

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
        Some(Self {
            step: document.step.name(),
            begun_at: change.begun_at.0,
            coming: named(|now, _| now == 0),
            going: named(|_, then| then == 0),
            gone: change.stopped.iter().map(NodeId::as_str).collect(),
            awaited: awaited
                .map(|member| Awaited {
                    id: member.id.as_str(),
                    state: state_name(member.state),
                    segments_left: member.rebuilding_segments,
                })
                .collect(),
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
        let awaited = self.awaited.iter().map(|it| {
            let left = match it.segments_left {
                0 => String::new(),
                left => format!(", {left} segments left"),
            };
            format!("{} ({}{left})", it.id, it.state)
        });
        let awaited: Vec<String> = awaited.collect();
        let (step, what_for) = match self.phase {
            ChangePhase::WriteBoth => (1, "to fetch what they gain"),
            // The others are waited for first.
            ChangePhase::ReadNew if self.only_going_are_awaited() => match awaited.len() {
                1 => (2, "to hand on what it has"),
                _ => (2, "to hand on what they have"),
            },
            ChangePhase::ReadNew => (2, "to follow it"),
        };
        let waits = match awaited.is_empty() {
            true => "the next is due".to_owned(),
            false => format!("waiting for {} {what_for}", awaited.join(", ")),
        };
        format!("step {step} of 2, {waits}")
    }

    fn only_going_are_awaited(&self) -> bool {
        self.awaited.iter().all(|it| self.going.contains(&it.id))
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
