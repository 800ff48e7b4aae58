//! What `status` says while the ring changes: who comes and who goes, how far it is, and who is waited for.

use dynakv_client::{RingReply, StatusReply};
use dynakv_protocol::ring_document::ChangePhase;
use serde::Serialize;

use super::state::state_name;

/// A change of the ring, as far as the answering node knows.
#[derive(Debug, Serialize)]
pub(super) struct Change<'a> {
    step: &'static str,
    begun_at: u64,
    coming: Vec<&'a str>,
    going: Vec<&'a str>,
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
    pub(super) fn of(status: &'a StatusReply, ring: &'a RingReply) -> Option<Self> {
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
    pub(super) fn text(&self) -> String {
        let mut what: Vec<String> = Vec::new();
        for (names, verb) in [(&self.coming, "coming"), (&self.going, "going")] {
            if !names.is_empty() {
                what.push(format!("{} {verb}", names.join(", ")));
            }
        }
        if what.is_empty() {
            what.push("weights or zones change".to_owned());
        }
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
            ChangePhase::ReadNew => (2, "to follow it"),
        };
        let waits = match awaited.is_empty() {
            true => "the next is due".to_owned(),
            false => format!("waiting for {} {what_for}", awaited.join(", ")),
        };
        let (version, what) = (self.ring_version, what.join("; "));
        format!("dynakv: the ring changes (ring {version}): {what}; step {step} of 2, {waits}\n")
    }
}
