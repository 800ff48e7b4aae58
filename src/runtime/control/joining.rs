//! How a node gets its first ring: it founds a cluster, or asks seeds until one lets it in.
//!
//! A cluster is founded only by a node that has an empty directory and no seeds, or by one with `--bootstrap`
//! after all of its seeds have said that they are in none ([`founding`]). Without an
//! answer from a seed nothing is ever decided.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use dynakv_protocol::gossip::Join;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::{RingDocument, Step};
use dynakv_protocol::shell::quoted;
use dynakv_protocol::{ClusterId, ErrorCode, ErrorReply, NodeId};
use tokio::time::Instant;

use super::seeds;
use super::state::{Asked, AskedEnd, CallEnd, JoinTried, Trouble, label};
use super::{Control, ControlError, Quorums};
use crate::engine::layout::found;
use crate::engine::layout::founding::{self, N_DEFAULT, R_DEFAULT, Said, Verdict, W_DEFAULT};
use crate::runtime::net::link::DialError;

/// How long a seed may take over a join: a decision of the cluster's majority is in it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two attempts; jittered.
const PAUSE: Duration = Duration::from_millis(250);

/// What a node was started with, as far as a ring says it, too.
pub(crate) struct StartedWith<'a> {
    pub(crate) cluster_name: &'a str,
    pub(crate) quorums: Quorums,
    pub(crate) id: &'a NodeId,
    pub(crate) zone: &'a str,
    pub(crate) weight: u16,
}

impl StartedWith<'_> {
    /// Holds it against a ring: that of the node's directory, or the one that let it in.
    ///
    /// Clients were promised what the ring says, so another N, or a smaller W or R, is refused.
    ///
    /// # Errors
    /// [`ControlError::OtherCluster`], [`ControlError::OtherQuorum`].
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
        Ok(())
    }

    /// The weight and the zone that the ring has for the node, where the settings say others. The ring counts: an operator
    /// may have changed it since, and a node that did not start for that would be missed.
    fn other_stake<'d>(&self, document: &'d RingDocument) -> Option<(u16, &'d str)> {
        let stakes = document.stakes_of(document.member(self.id)?);
        let is_own = stakes.contains(&(self.weight, self.zone));
        // What it has, or is to have where it has none.
        stakes.first().copied().filter(|_| !is_own)
    }

    fn warn_of_other_stake(&self, document: &RingDocument) {
        if let Some((weight, zone)) = self.other_stake(document) {
            let (id, asked) = (self.id, quoted(self.zone));
            let when = match document.step {
                Step::Open => " after the first write",
                Step::Final | Step::Changing(_) => "",
            };
            tracing::warn!(
                weight,
                zone,
                asked_weight = self.weight,
                asked_zone = self.zone,
                "the ring has another weight or zone for this node than its settings, and the ring counts: correct the \
                 settings, or change the ring{when} with `dynakv cluster set {id} --weight {} --zone {asked}`",
                self.weight
            );
        }
    }
}

impl Control {
    /// Holds the settings against the ring of the directory.
    pub(super) fn check_settings(&self, document: &RingDocument) -> Result<(), ControlError> {
        let member = &self.startup.member;
        let started_with = StartedWith {
            cluster_name: &self.me.cluster_name,
            quorums: self.startup.quorums,
            id: &member.id,
            zone: &member.zone,
            weight: member.weight,
        };
        started_with.hold_against(document)?;
        started_with.warn_of_other_stake(document);
        Ok(())
    }

    /// Founds a cluster when this node is to and has nobody to ask.
    pub(super) fn found_if_due(&mut self) -> Result<(), ControlError> {
        if !self.startup.seeds.is_empty() {
            tracing::info!(seeds = ?self.startup.seeds, "asking the seeds to be let in");
            return Ok(());
        }
        if !self.startup.is_new_directory && self.store.totals().versions > 0 {
            return Err(ControlError::LostRing);
        }
        self.found_cluster("no seeds and an empty directory");
        match self.end.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn found_cluster(&mut self, why: &str) {
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
            "{why}: this node founds a NEW cluster"
        );
        self.adopt(document);
    }

    /// Asks the next seed, or all of them when this node may found a cluster, when none is being asked.
    pub(super) fn join_if_due(&mut self, now: Instant) {
        let joining = &mut self.joining;
        if joining.is_asking || now < joining.due || self.is_member() {
            return;
        }
        let seeds = self.seeds_to_ask();
        if seeds.is_empty() {
            return;
        }
        let joining = &mut self.joining;
        joining.is_asking = true;
        joining.attempts += 1;
        if self.me.may_found && self.ring.is_none() {
            let (calls, seeds) = (self.calls.clone(), self.startup.seeds.clone());
            let own = self.me.address.clone();
            self.spawn(
                async move { CallEnd::Founding(seeds::ask_all(calls, seeds, own, None).await) },
            );
            return;
        }
        let seed = seeds[(joining.attempts - 1) % seeds.len()].clone();
        self.ask_to_join(seed, None);
    }

    /// Whether it is in the ring that it follows. A node that was being taken in is not when that was given up.
    pub(super) fn is_member(&self) -> bool {
        let ring = self.ring.as_ref();
        ring.is_some_and(|ring| ring.index_of(&self.me.node_id).is_some())
    }

    /// Whom it asks to be let in: its seeds, or who is in the ring that it has.
    fn seeds_to_ask(&self) -> Vec<String> {
        let ring = self.ring.as_ref().filter(|_| self.startup.seeds.is_empty());
        match ring {
            Some(ring) => {
                let members = ring.document().members.iter();
                members.map(|member| member.address.clone()).collect()
            }
            None => self.startup.seeds.clone(),
        }
    }

    /// Asks a seed to be let in: at this address, or at each that its name has until one lets it in, or refuses for
    /// good.
    fn ask_to_join(&self, seed: String, address: Option<String>) {
        let (n, w, r) = self.startup.quorums;
        let request = Request::Join(Join {
            member: self.startup.member.clone(),
            n,
            w,
            r,
            is_rebuilding: self.rebuilding.is_all(),
            knows_changes: true,
            waits: !self.startup.auto_join,
        });
        let calls = self.calls.clone();
        self.spawn(async move {
            let resolved = match address {
                Some(address) => Ok(vec![address]),
                None => calls.addresses_of(&seed).await,
            };
            let mut ends = Vec::new();
            let addresses = match resolved {
                Ok(addresses) => addresses,
                Err(error) => {
                    ends.push((seed.clone(), Err(error.into())));
                    Vec::new()
                }
            };
            for address in addresses {
                let called = calls.call(&address, None, &request, JOIN_TIMEOUT).await;
                let end = called.map(|(response, _)| response);
                let is_final = is_final(&end);
                ends.push((address, end));
                if is_final {
                    break;
                }
            }
            CallEnd::Join(JoinTried { seed, ends })
        });
    }

    /// What the seeds of a node have said that may found a cluster.
    pub(super) fn on_founding(&mut self, asked: &[Asked]) {
        if self.ring.is_some() {
            self.joining.is_asking = false;
            return;
        }
        let names = self.startup.seeds.clone();
        let mut said = Vec::new();
        let mut troubles = BTreeMap::new();
        let mut refusal = None;
        for one in asked {
            let label = label(&names[one.seed], &one.address);
            let answer = self.said_by_seed(&label, &one.end);
            let is_strange = answer == Said::Elsewhere;
            if let AskedEnd::Failed(error) = &one.end {
                let text = error.to_string();
                troubles.insert(label, Trouble { text, is_strange });
            }
            if let AskedEnd::Failed(DialError::Refused(error)) = &one.end {
                refusal = Some(error.clone()).filter(|_| is_strange);
            }
            said.push(founding::Asked {
                seed: one.seed,
                is_v6: one.address.starts_with('['),
                said: answer,
            });
        }
        // There is nobody left to wait for.
        let are_all_strange = said
            .iter()
            .all(|it| matches!(it.said, Said::Elsewhere | Said::Myself));
        if let Some(error) = refusal
            && are_all_strange
        {
            self.end = Some(ControlError::Refused(error));
        }
        if self.end.is_some() {
            return;
        }
        let verdict = founding::decide(&self.me.node_id, &said);
        let founds_not = match verdict {
            Verdict::Join(at) => {
                self.joining.founds_not.clear();
                // It is still asking.
                let (seed, address) = (names[asked[at].seed].clone(), asked[at].address.clone());
                return self.ask_to_join(seed, Some(address));
            }
            Verdict::Found => {
                self.joining.is_asking = false;
                return self.found_cluster("no seed is in a cluster, and this node may found one");
            }
            Verdict::Unclear(silent) => {
                let silent: Vec<&str> = silent.iter().map(|at| names[*at].as_str()).collect();
                format!(
                    "this node may found a cluster, and founds no cluster while it cannot tell whether these seeds \
                     are in one: {}. Start them; take one that is gone for good out of --seed and start this node \
                     again",
                    silent.join(", ")
                )
            }
            Verdict::Founder(id) => {
                format!(
                    "this node waits for {id} to found the cluster: of those that may its id is the smallest"
                )
            }
        };
        let joining = &mut self.joining;
        joining.is_asking = false;
        let has_changed = joining.founds_not != founds_not || joining.troubles != troubles;
        joining.founds_not = founds_not;
        joining.troubles = troubles;
        self.wait_for_seeds(has_changed);
    }

    fn said_by_seed(&mut self, label: &str, end: &AskedEnd) -> Said {
        match end {
            AskedEnd::Own => Said::Myself,
            AskedEnd::Answered(_, welcome) => {
                self.seeds.note_usual(label);
                if welcome.node_id == self.me.node_id && welcome.nonce == self.me.nonce {
                    Said::Myself
                } else if welcome.cluster_id.is_none() {
                    Said::InNone {
                        id: welcome.node_id.clone(),
                        may_found: welcome.may_found,
                    }
                } else {
                    Said::InCluster
                }
            }
            AskedEnd::Failed(DialError::Refused(error)) => match error.code {
                ErrorCode::WrongCluster => {
                    self.seeds.note_strange(label, &error.message);
                    Said::Elsewhere
                }
                ErrorCode::DuplicateNode | ErrorCode::VersionMismatch => {
                    self.end = Some(ControlError::Refused(error.clone()));
                    Said::Nothing
                }
                _ => Said::Nothing,
            },
            AskedEnd::Failed(DialError::Io(error))
                if error.kind() == io::ErrorKind::ConnectionRefused =>
            {
                Said::Refused
            }
            AskedEnd::Failed(_) => Said::Nothing,
        }
    }

    /// What came of asking to be let in.
    pub(super) fn on_join_tried(&mut self, tried: JoinTried) {
        self.joining.is_asking = false;
        if self.is_member() {
            return;
        }
        let JoinTried { seed, ends } = tried;
        let mut troubles = Vec::new();
        let mut refusal = None;
        for (address, end) in ends {
            let label = label(&seed, &address);
            let trouble = match end {
                Ok(Response::Joined(document)) => {
                    self.seeds.note_usual(&label);
                    return self.on_joined(document);
                }
                Ok(Response::Error(error)) | Err(DialError::Refused(error)) => {
                    match error.code {
                        ErrorCode::DirectoryLost => return self.note_loss(&error),
                        // No other seed would say anything else.
                        ErrorCode::JoinRefused
                        | ErrorCode::DuplicateNode
                        | ErrorCode::VersionMismatch => {
                            self.end = Some(ControlError::Refused(error));
                            return;
                        }
                        // Another one may be of the right cluster.
                        ErrorCode::WrongCluster => {
                            self.seeds.note_strange(&label, &error.message);
                            refusal = Some(error.clone());
                        }
                        _ => self.seeds.note_usual(&label),
                    }
                    Trouble {
                        is_strange: error.code == ErrorCode::WrongCluster,
                        text: error.to_string(),
                    }
                }
                Ok(_) => Trouble {
                    text: "it gave an answer that makes no sense".to_owned(),
                    is_strange: false,
                },
                Err(error) => Trouble {
                    text: error.to_string(),
                    is_strange: false,
                },
            };
            troubles.push(trouble);
        }
        let texts: Vec<&str> = troubles
            .iter()
            .map(|trouble| trouble.text.as_str())
            .collect();
        let of_seed = Trouble {
            text: texts.join("; "),
            is_strange: !troubles.is_empty() && troubles.iter().all(|trouble| trouble.is_strange),
        };
        let is_strange = of_seed.is_strange;
        let has_changed = self.joining.note(&seed, of_seed);
        let of = |seed: &String| self.joining.troubles.get(seed);
        let are_all_strange = || {
            let mut seeds = self.startup.seeds.iter();
            seeds.all(|seed| of(seed).is_some_and(|trouble| trouble.is_strange))
        };
        // There is nobody left to wait for.
        if let Some(error) = refusal
            && are_all_strange()
        {
            self.end = Some(ControlError::Refused(error));
            return;
        }
        // A seed of another cluster is said to be one, and no more.
        self.wait_for_seeds(has_changed && !is_strange);
    }

    fn wait_for_seeds(&mut self, has_changed: bool) {
        if has_changed || self.joining.is_line_due() {
            tracing::warn!(
                seeds = ?self.startup.seeds,
                trouble = self.joining.trouble(),
                "not in a cluster yet, asking on. To found one, start one node without --seed"
            );
        }
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

/// Whether no other address of a seed need be asked.
fn is_final(end: &Result<Response, DialError>) -> bool {
    match end {
        Ok(Response::Joined(_)) => true,
        Ok(Response::Error(error)) | Err(DialError::Refused(error)) => matches!(
            error.code,
            ErrorCode::DirectoryLost
                | ErrorCode::JoinRefused
                | ErrorCode::DuplicateNode
                | ErrorCode::VersionMismatch
        ),
        Ok(_) | Err(_) => false,
    }
}
