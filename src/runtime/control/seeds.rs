//! The seeds of a node: every address of each is asked, also of a node that has a ring.
//!
//! A member needs no seeds to find the others where they were. But all may have moved at once, so it tells its seeds
//! where it is now, and hears from them; and a seed of another cluster was not meant to be one. It asks often while it
//! does not hear of some member, and now and then otherwise. Names are resolved anew each time.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::gossip::{Gossip, MemberState};
use dynakv_protocol::handshake::Welcome;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{DirectoryId, ErrorCode};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::state::{Asked, AskedEnd, CallEnd, PAUSE_FIRST, label};
use super::{CALL_TIMEOUT, Control};
use crate::engine::membership::Event;
use crate::runtime::net::calls::Calls;
use crate::runtime::net::link::DialError;
use crate::runtime::shared::view::MemberView;

/// The longest pause between two rounds of a member.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How many addresses of one name are asked.
const ADDRESSES_MAX: usize = 256;

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
