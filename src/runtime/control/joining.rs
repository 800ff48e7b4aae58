//! How a node gets its first ring: it founds a cluster, or asks seeds until one lets it in.
//!
//! A cluster is founded only by a node that has an empty directory and no seeds, or was told to. Without
//! an answer from a seed nothing is ever decided.

use std::time::Duration;

use dynakv_protocol::gossip::Join;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{ClusterId, ErrorCode, ErrorReply, NodeId};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, CallEnd, Control, ControlError, Quorums};
use crate::engine::layout::found;
use crate::runtime::link::DialError;
use crate::settings::{N_DEFAULT, R_DEFAULT, W_DEFAULT};

/// How long a seed may take over a join: a decision of the cluster's majority is in it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two attempts; jittered.
const PAUSE: Duration = Duration::from_millis(250);

/// Every so many attempts in vain are worth a line in the log.
const ATTEMPTS_PER_LINE: usize = 20;

/// Where the node stands with its seeds.
pub(super) struct Joining {
    seeds: Vec<String>,
    attempts: usize,
    is_asking: bool,
    due: Instant,
    /// The last thing that kept it from joining, for people.
    pub(super) trouble: String,
}

impl Joining {
    pub(super) fn new(seeds: &[String], now: Instant) -> Self {
        Self {
            seeds: seeds.to_vec(),
            attempts: 0,
            is_asking: false,
            due: now,
            trouble: "joining".to_owned(),
        }
    }
}

/// What a node was started with, as far as a ring says it, too.
pub(crate) struct Asked<'a> {
    pub(crate) cluster_name: &'a str,
    pub(crate) quorums: Quorums,
    pub(crate) id: &'a NodeId,
    pub(crate) zone: &'a str,
    pub(crate) weight: u16,
}

impl Asked<'_> {
    /// Holds it against a ring: that of the node's directory, or the one that let it in.
    ///
    /// What the ring says of a node counts until the ring changes, so a setting that says something else would
    /// be ignored; it is refused instead. An address alone may change, for gossip carries the new one.
    ///
    /// # Errors
    /// [`ControlError::OtherCluster`], [`ControlError::OtherQuorum`], [`ControlError::OtherPlace`].
    pub(crate) fn hold_against(&self, document: &RingDocument) -> Result<(), ControlError> {
        if document.cluster_name != self.cluster_name {
            return Err(ControlError::OtherCluster {
                found: document.cluster_name.clone(),
                asked: self.cluster_name.to_owned(),
            });
        }
        let other = |name, ring, asked, or_more| {
            Err(ControlError::OtherQuorum {
                name,
                ring,
                asked,
                or_more,
            })
        };
        match self.quorums {
            (Some(n), _, _) if n != document.n => return other('n', document.n, n, ""),
            (_, Some(w), _) if w < document.w => return other('w', document.w, w, " or more"),
            (_, _, Some(r)) if r < document.r => return other('r', document.r, r, " or more"),
            _ => {}
        }
        let Some(entry) = document.member(self.id) else {
            return Ok(());
        };
        let other = |name, ring: String, asked: String| {
            let option = if ring.is_empty() {
                format!("leave --{name} out")
            } else {
                format!("start it with --{name} {ring}")
            };
            Err(ControlError::OtherPlace {
                name,
                ring,
                asked,
                option,
            })
        };
        if entry.zone != self.zone {
            return other("zone", entry.zone.clone(), self.zone.to_owned());
        }
        if entry.weight != self.weight {
            return other("weight", entry.weight.to_string(), self.weight.to_string());
        }
        Ok(())
    }
}

impl Control {
    /// Holds the settings against the ring of the directory.
    pub(super) fn check_settings(&self, document: &RingDocument) -> Result<(), ControlError> {
        let member = &self.startup.member;
        let asked = Asked {
            cluster_name: &self.me.cluster_name,
            quorums: self.startup.quorums,
            id: &member.id,
            zone: &member.zone,
            weight: member.weight,
        };
        asked.hold_against(document)
    }

    /// Founds a cluster when this node is to.
    pub(super) fn found_if_due(&mut self) -> Result<(), ControlError> {
        if !self.startup.seeds.is_empty() && !self.startup.bootstrap {
            tracing::info!(seeds = ?self.startup.seeds, "asking the seeds to be let in");
            return Ok(());
        }
        if !self.startup.is_new_directory && self.store.totals().versions > 0 {
            return Err(ControlError::LostRing);
        }
        let (n, w, r) = self.startup.quorums;
        let n = n.unwrap_or(N_DEFAULT);
        // Settings with larger ones are refused before this, but for a node in a world of the caller's.
        let (w, r) = (w.unwrap_or(W_DEFAULT).min(n), r.unwrap_or(R_DEFAULT).min(n));
        let cluster_id = ClusterId(self.random.u128(1..));
        let member = self.startup.member.clone();
        let document = found(cluster_id, &self.me.cluster_name, member, n, w, r);
        tracing::warn!(
            cluster = self.me.cluster_name,
            %cluster_id,
            n, w, r,
            "no seeds and an empty directory: this node founds a NEW cluster"
        );
        self.adopt(document);
        match self.end.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Asks the next seed, when none is being asked.
    pub(super) fn join_if_due(&mut self, now: Instant) {
        let joining = &mut self.joining;
        if self.ring.is_some() || joining.is_asking || now < joining.due {
            return;
        }
        let count = joining.seeds.len();
        if count == 0 {
            return;
        }
        let seed = joining.seeds[joining.attempts % count].clone();
        joining.attempts += 1;
        joining.is_asking = true;
        let (n, w, r) = self.startup.quorums;
        let member = self.startup.member.clone();
        let request = Request::Join(Join {
            member,
            n,
            w,
            r,
            is_rebuilding: self.rebuilding.is_all(),
        });
        let calls = self.calls.clone();
        self.spawn(async move {
            let called = calls.call(&seed, None, &request, JOIN_TIMEOUT).await;
            CallEnd::Join(called.map(|(response, _)| response))
        });
    }

    /// A node that has a ring needs no seeds. But an operator who gives it some means them to be of its
    /// cluster, so it asks each of them once: who has one of another cluster would find this node, and
    /// what is written to it, in a cluster that was not meant.
    pub(super) fn greet_seeds(&self) {
        for seed in &self.startup.seeds {
            let (calls, seed) = (self.calls.clone(), seed.clone());
            self.spawn(async move {
                let called = calls.call(&seed, None, &Request::Ping, CALL_TIMEOUT).await;
                match called {
                    Err(DialError::Refused(error)) => CallEnd::SeedRefused(seed, error),
                    // Silence says nothing.
                    Ok(_) | Err(_) => CallEnd::SeedDone,
                }
            });
        }
    }

    pub(super) fn on_seed_refused(&mut self, seed: String, error: ErrorReply) {
        match error.code {
            ErrorCode::WrongCluster => {
                let reason = error;
                self.end = Some(ControlError::StrangeSeed { seed, reason });
            }
            ErrorCode::DuplicateNode => self.end_as_outdated(error),
            // Too busy, say. What it has against this node it says to others of its calls, too.
            _ => tracing::debug!(seed, %error, "a seed"),
        }
    }

    pub(super) fn on_join_answer(&mut self, answer: Result<Response, DialError>) {
        self.joining.is_asking = false;
        if self.ring.is_some() {
            return;
        }
        let trouble = match answer {
            Ok(Response::Joined(document)) => return self.on_joined(document),
            Ok(Response::Error(error)) | Err(DialError::Refused(error)) => {
                match error.code {
                    ErrorCode::DirectoryLost => return self.note_loss(&error),
                    // No other seed would say anything else.
                    ErrorCode::JoinRefused
                    | ErrorCode::WrongCluster
                    | ErrorCode::DuplicateNode
                    | ErrorCode::VersionMismatch => {
                        self.end = Some(ControlError::Refused(error));
                        return;
                    }
                    _ => error.to_string(),
                }
            }
            Ok(_) => "a seed gave an answer that makes no sense".to_owned(),
            Err(error) => error.to_string(),
        };
        if self.joining.attempts.is_multiple_of(ATTEMPTS_PER_LINE)
            || self.joining.trouble != trouble
        {
            tracing::warn!(
                seeds = ?self.joining.seeds,
                trouble,
                "not in a cluster yet, asking on. To found one, start one node without --seed"
            );
        }
        self.joining.trouble = trouble;
        let jitter = self.random.f64() + 0.5;
        self.joining.due = Instant::now() + PAUSE.mul_f64(jitter);
    }

    /// The ring knows this node with another directory. What was in that one is to be rebuilt, and that is
    /// durable before the ring lets this one in.
    fn note_loss(&mut self, error: &ErrorReply) {
        match self.rebuilding.begin_all() {
            Ok(()) => tracing::error!(
                %error,
                "this node has lost its data: it begins with an empty store and rebuilds it from the others"
            ),
            // It is told so again when it asks again.
            Err(error) if error.is_shortage() => {
                tracing::warn!(%error, "its loss is not noted yet")
            }
            Err(error) => self.end = Some(error.into()),
        }
        // For `status` to tell as soon as the node is let in.
        self.upkeep();
        self.joining.due = Instant::now();
    }

    fn on_joined(&mut self, document: RingDocument) {
        if document.member(&self.me.node_id).is_none() {
            tracing::warn!("a seed sent a ring without this node; asking on");
            return;
        }
        if let Err(error) = self.check_settings(&document) {
            self.end = Some(error);
            return;
        }
        self.adopt(document);
    }
}
