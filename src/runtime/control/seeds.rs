//! The seeds of a node: every address of each is asked, also of a node that has a ring.
//!
//! A member needs no seeds to find the others where they were. But all may have moved at once, so it tells its seeds
//! where it is now, and hears from them; and a seed of another cluster was not meant to be one. It asks often while it
//! does not hear of some member, and now and then otherwise. Names are resolved anew each time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::client::{OTHER_CLUSTERS_MAX, OtherCluster};
use dynakv_protocol::gossip::{Gossip, MemberState};
use dynakv_protocol::handshake::Welcome;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{DirectoryId, ErrorCode};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{CALL_TIMEOUT, CallEnd, Control};
use crate::engine::membership::Event;
use crate::runtime::net::calls::Calls;
use crate::runtime::net::link::DialError;
use crate::runtime::shared::view::MemberView;

/// The pause between two rounds of a member: after one that missed somebody, doubled up to the longest; jittered.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The longest text about what seeds have said, in bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// How many addresses of one name are asked.
const ADDRESSES_MAX: usize = 256;

/// What came of asking one address of a seed.
pub(super) struct Asked {
    /// Which of the seeds.
    pub(super) seed: usize,
    /// As it was given, or one address of that name.
    pub(super) address: String,
    /// What was answered.
    pub(super) end: AskedEnd,
}

pub(super) enum AskedEnd {
    /// It is this node's own address.
    Own,
    /// There is an answer, if anything was asked, and who gave it.
    Answered(Option<Response>, Box<Welcome>),
    /// There is none.
    Failed(DialError),
}

/// What a node knows of its seeds.
pub(super) struct Seeds {
    /// As they were given.
    pub(super) names: Vec<String>,
    /// Those that are in other clusters, and what they have said.
    strange: BTreeMap<String, String>,
    is_asking: bool,
    due: Instant,
    pause: Duration,
    /// How many members were not heard of at the last look.
    missed: usize,
}

impl Seeds {
    pub(super) fn new(names: &[String], now: Instant) -> Self {
        Self {
            names: names.to_vec(),
            strange: BTreeMap::new(),
            is_asking: false,
            due: now,
            pause: PAUSE_FIRST,
            missed: 0,
        }
    }

    /// A seed refuses this node as one of another cluster. It is said once.
    pub(super) fn note_strange(&mut self, seed: &str, reason: &str) {
        let reason = shortened(reason.to_owned());
        let known = self.strange.insert(seed.to_owned(), reason.clone());
        if known.is_none() {
            tracing::error!(seed, "the seed {seed} is in another cluster: {reason}");
        }
    }

    /// A seed has said something else.
    pub(super) fn note_usual(&mut self, seed: &str) {
        if self.strange.remove(seed).is_some() {
            tracing::info!(seed, "the seed is in another cluster no more");
        }
    }

    /// Those that are in other clusters, for `status`.
    pub(super) fn strange(&self) -> Vec<OtherCluster> {
        let told = self.strange.iter().take(OTHER_CLUSTERS_MAX / 2);
        let told = told.map(|(seed, reason)| OtherCluster {
            is_seed: true,
            address: seed.clone(),
            reason: format!(
                "{reason}. Take it out of --seed to stay in this cluster; to join the other one, start with an \
                 empty --data-dir"
            ),
        });
        told.collect()
    }
}

/// Asks every address of these seeds, all at once, and nothing but who is there when there is no request.
pub(super) async fn ask_all(
    calls: Arc<Calls>,
    seeds: Vec<String>,
    own: String,
    request: Option<Request>,
) -> Vec<Asked> {
    let request = request.map(Arc::new);
    let mut under_way = JoinSet::new();
    let mut asked = Vec::new();
    for (seed, name) in seeds.into_iter().enumerate() {
        if name == own {
            asked.push(Asked {
                seed,
                address: name,
                end: AskedEnd::Own,
            });
            continue;
        }
        let addresses = match calls.addresses_of(&name).await {
            Ok(addresses) => addresses,
            Err(error) => {
                asked.push(failed(seed, name, error));
                continue;
            }
        };
        if addresses.len() > ADDRESSES_MAX {
            let error = io::Error::other("the name has more addresses than are asked");
            asked.push(failed(seed, name, error));
        }
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            let (calls, request) = (calls.clone(), request.clone());
            under_way.spawn(async move {
                let end = match request {
                    Some(request) => calls
                        .call(&address, None, &request, CALL_TIMEOUT)
                        .await
                        .map(|(response, welcome)| (Some(response), welcome)),
                    None => calls.introduce(&address).await.map(|it| (None, it)),
                };
                let end = match end {
                    Ok((response, welcome)) => AskedEnd::Answered(response, Box::new(welcome)),
                    Err(error) => AskedEnd::Failed(error),
                };
                Asked { seed, address, end }
            });
        }
    }
    while let Some(joined) = under_way.join_next().await {
        match joined {
            Ok(one) => asked.push(one),
            // It takes this task with it, as if it had run here.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
    asked.sort_by(|a, b| (a.seed, &a.address).cmp(&(b.seed, &b.address)));
    asked
}

fn failed(seed: usize, address: String, error: io::Error) -> Asked {
    Asked {
        seed,
        address,
        end: AskedEnd::Failed(error.into()),
    }
}

impl Control {
    /// Tells the seeds of a member where it is, and hears where others are, when that is due.
    pub(super) fn ask_seeds_if_due(&mut self, now: Instant) {
        if self.seeds.names.is_empty() {
            return;
        }
        let Some(ring) = &self.ring else {
            return;
        };
        let missed = {
            let view = self.view.borrow();
            let is_missed = |it: &&MemberView| it.state != MemberState::Alive || !it.is_heard;
            view.members.iter().filter(is_missed).count()
        };
        let seeds = &mut self.seeds;
        if missed > seeds.missed {
            // Not before the first answers are there, either.
            seeds.pause = PAUSE_FIRST;
            seeds.due = seeds.due.min(now + PAUSE_FIRST);
        }
        seeds.missed = missed;
        if seeds.is_asking || now < seeds.due {
            return;
        }
        seeds.is_asking = true;
        let request = Request::Gossip(Gossip {
            ring_version: ring.version(),
            entries: vec![self.membership.me().clone()],
        });
        let (calls, names) = (self.calls.clone(), seeds.names.clone());
        let own = self.me.address.clone();
        self.spawn(async move { CallEnd::Seeds(ask_all(calls, names, own, Some(request)).await) });
    }

    /// What the seeds of a member have answered.
    pub(super) fn on_seeds(&mut self, asked: Vec<Asked>) {
        self.seeds.is_asking = false;
        let jitter = self.random.f64() / 2.0 + 0.75;
        self.seeds.due = Instant::now() + self.seeds.pause.mul_f64(jitter);
        self.seeds.pause = (self.seeds.pause * 2).min(PAUSE_MAX);
        let names = self.seeds.names.clone();
        // Of what a name stood for before nothing is told any more.
        let asked_now: BTreeSet<String> = asked
            .iter()
            .map(|one| label(&names[one.seed], &one.address))
            .collect();
        self.seeds
            .strange
            .retain(|seed, _| asked_now.contains(seed));
        for Asked { seed, address, end } in asked {
            let label = label(&names[seed], &address);
            match end {
                AskedEnd::Own => {}
                AskedEnd::Answered(response, welcome) => {
                    self.seeds.note_usual(&label);
                    if let Some(Response::Gossip(gossip)) = response {
                        self.on_gossip_of_seed(&welcome, gossip);
                    }
                }
                AskedEnd::Failed(DialError::Refused(error)) => match error.code {
                    ErrorCode::WrongCluster => {
                        self.seeds.note_strange(&label, &error.message);
                    }
                    ErrorCode::DuplicateNode => return self.end_as_outdated(error),
                    // Too busy, say. What it has against this node it says to others of its calls, too.
                    _ => tracing::debug!(seed = label, %error, "a seed"),
                },
                // Silence says nothing.
                AskedEnd::Failed(error) => tracing::debug!(seed = label, %error, "a seed"),
            }
        }
    }

    /// Only what members say counts. Where they say that they are is confirmed before it is believed, as always.
    fn on_gossip_of_seed(&mut self, welcome: &Welcome, mut gossip: Gossip) {
        let from = &welcome.node_id;
        let own = self.ring.as_ref().map(|ring| ring.document());
        let member = own.and_then(|ring| ring.member(from));
        let is_member = member.is_some_and(|member| {
            let is_unsaid = welcome.directory_id == DirectoryId::default();
            is_unsaid || member.directory_id == welcome.directory_id
        });
        if !is_member || *from == self.me.node_id {
            return;
        }
        self.sift(&mut gossip, Some(from));
        self.step(Event::GossipReceived {
            from: from.clone(),
            gossip,
            is_reply: true,
        });
    }
}

/// What others have said goes into logs and answers in bounds.
pub(super) fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// A seed, for people: with the address, where the name has others, too.
pub(super) fn label(name: &str, address: &str) -> String {
    match name == address {
        true => name.to_owned(),
        false => format!("{name} ({address})"),
    }
}
