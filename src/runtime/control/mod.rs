//! Requests about nodes: gossip, probes, joins, decisions about the ring, status. One task owns all of
//! it, publishes views, and never waits: every call to another node is a task that reports back.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::codec::Wire;
use dynakv_protocol::gossip::MemberEntry;
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{ErrorCode, ErrorReply};
use dynakv_storage::{SmallFiles, Store, load_document};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::{CallEnd, Decisions, Joining, Removal, Seeds};
use crate::engine::anti_entropy::pace::Pace;
use crate::engine::layout::Acceptor;
use crate::engine::membership::{Effect, Event, Membership};
use crate::engine::placement::ring::Ring;
use crate::runtime::anti_entropy::repairs::Repairs;
use crate::runtime::anti_entropy::unlocking::UnlockJob;
use crate::runtime::net::admission::Myself;
use crate::runtime::net::calls::Calls;
use crate::runtime::net::confirming::Confirmer;
use crate::runtime::net::other_clusters::OtherClusters;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::data_directory::{ACCEPTOR, RING};
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::events::{ControlEvent, Responder};
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::settling::Settling;
use crate::runtime::shared::unreachable::Unreachable;
use crate::runtime::shared::view::View;
use crate::runtime::store::fences::Fences;
use crate::runtime::store::hint_worker::HintHandle;
use crate::runtime::store::rebuilding::Rebuilding;
use crate::runtime::store::snapshots::{self, Snapshots};

mod adopting;
mod changing;
mod decisions;
mod error;
mod joining;
mod leaving;
mod news;
mod parts;
mod report;
mod running;
mod seeds;
mod snapshot;
mod state;
mod strangers;
mod wishes;

pub use self::running::{Runner, prepare, run};

pub use self::error::ControlError;
pub(crate) use self::joining::StartedWith;
pub use self::parts::{Parts, Quorums, Startup};

/// How many probes for others are under way at once: every member may ask about another one.
const PROBES_MAX: usize = 1024;

/// How often the engine is told that time has passed.
const TICK: Duration = Duration::from_millis(50);

/// How often the store's totals are looked at and histograms tidied.
const UPKEEP: Duration = Duration::from_secs(1);

/// How long gossip, pings and fetches may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The task's state.
pub struct Control {
    me: Myself,
    startup: Startup,
    calls: Arc<Calls>,
    confirmer: Arc<Confirmer>,
    seen: Arc<KnownProcesses>,
    files: Arc<dyn SmallFiles>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    rebuilding: Arc<Rebuilding>,
    repairs: Arc<Repairs>,
    snapshots: Arc<Snapshots>,
    hints: HintHandle,
    disk: Arc<DiskProgress>,
    unlocks: mpsc::Sender<UnlockJob>,
    random: fastrand::Rng,
    membership: Membership,
    ring: Option<Arc<Ring>>,
    /// The next ring, which is durable, while the store is still at the one before.
    adopting: Option<RingDocument>,
    fences: Fences,
    decisions: Decisions,
    joining: Joining,
    seeds: Seeds,
    others: Arc<OtherClusters>,
    unreachable: Arc<Unreachable>,
    view: watch::Sender<Arc<View>>,
    draining: CancellationToken,
    /// Cancelled once clients are to go on elsewhere.
    clients: CancellationToken,
    settling: Arc<Settling>,
    /// How fast this node moves what a change of the ring has it move.
    moving_pace: Pace,
    /// Since when they are.
    farewell_since: Option<Instant>,
    /// The ring that does without this node, as soon as there is one.
    removal: Option<Removal>,
    /// Probes that other nodes have asked for.
    probes: FxHashMap<u64, Responder>,
    next_probe: u64,
    /// When the ring may be fetched again.
    fetch_due: Instant,
    /// How many members are being asked whether what is told of them is so.
    confirming: usize,
    /// When it may be asked again whether this node is an old copy.
    doubt_due: Instant,
    started: Instant,
    ends: mpsc::UnboundedSender<CallEnd>,
    effects: Vec<Effect>,
    end: Option<ControlError>,
}

impl Control {
    /// Loads what the directory knows, and founds a cluster where that is due.
    ///
    /// # Errors
    /// [`ControlError`] says what to do.
    fn load(parts: Parts, ends: mpsc::UnboundedSender<CallEnd>) -> Result<Self, ControlError> {
        let Parts {
            me,
            startup,
            membership,
            calls,
            confirmer,
            seen,
            others,
            unreachable,
            view,
            data_dir,
            threads,
            clock,
            files,
            store,
            metrics,
            rebuilding,
            repairs,
            hints,
            fences,
            disk,
            unlocks,
            mut random,
            draining,
            clients,
            settling,
            ..
        } = parts;
        Self::check_not_removed(&*files, &me.node_id)?;
        let entry = MemberEntry {
            generation: me.generation,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            rebuilding_segments: rebuilding.left(),
            nonce: me.nonce,
            ..MemberEntry::new(me.node_id.clone(), me.address.clone(), me.directory_id)
        };
        let mut acceptor = load_wire(&*files, ACCEPTOR)?
            .unwrap_or_else(|| Acceptor::new(me.node_id.clone(), me.directory_id));
        if acceptor.forget_impossible()? {
            tracing::warn!(
                "an earlier version of dynakv has promised its vote on the ring to somebody who is no member, in a \
                 round that no member can come to: that is forgotten, nothing need be done"
            );
        }
        let snapshots = Snapshots::new(snapshots::Parts {
            node_id: me.node_id.clone(),
            directory: snapshots::directory_of(&data_dir, &threads),
            store: Arc::downgrade(&store),
            rebuilding: Arc::downgrade(&rebuilding),
            clock,
            metrics: metrics.clone(),
            draining: draining.clone(),
        });
        let now = Instant::now();
        let mut control = Self {
            membership: Membership::new(membership, entry, random.fork(), 0),
            ring: None,
            adopting: None,
            fences,
            decisions: Decisions::new(acceptor),
            joining: Joining::new(now),
            seeds: Seeds::new(&startup.seeds, now),
            others,
            unreachable,
            me,
            startup,
            calls,
            confirmer,
            seen,
            files,
            store,
            metrics,
            rebuilding,
            repairs,
            snapshots,
            hints,
            disk,
            unlocks,
            random,
            view,
            draining,
            clients,
            settling,
            moving_pace: Pace::default(),
            farewell_since: None,
            removal: None,
            probes: FxHashMap::default(),
            next_probe: 0,
            fetch_due: now,
            confirming: 0,
            doubt_due: now,
            started: now,
            ends,
            effects: Vec::new(),
            end: None,
        };
        control.begin()?;
        Ok(control)
    }

    /// Follows the ring of the directory, or founds a cluster where that is due.
    fn begin(&mut self) -> Result<(), ControlError> {
        match load_wire::<RingDocument>(&*self.files, RING)? {
            Some(document) => {
                self.check_settings(&document)?;
                self.begin_with(document)?;
            }
            None => self.found_if_due()?,
        }
        self.upkeep();
        self.publish();
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn spawn(&self, call: impl Future<Output = CallEnd> + Send + 'static) {
        let ends = self.ends.clone();
        tokio::spawn(async move {
            // A control task that is gone needs no telling.
            // What comes of calls waits in no bound of its own: there is one for each call, and those are so many
            // as there are members, wishes and probes.
            let _ = ends.send(call.await);
        });
    }

    fn on_event(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Request {
                request,
                body: _,
                peer,
                responder,
            } => self.on_request(*request, peer, responder),
            ControlEvent::SealWanted => self.wish_to_seal(),
            ControlEvent::NewerRingSeen { version } => self.look_for_ring(version),
            ControlEvent::RingTold { document } => self.on_ring(*document),
            ControlEvent::LinkLost { node } => self.step(Event::ConnectionLost { node }),
        }
    }

    fn on_request(
        &mut self,
        request: Request,
        peer: Option<Arc<PeerIdentity>>,
        responder: Responder,
    ) {
        let is_member = |peer: &PeerIdentity| self.view.borrow().has_member(peer);
        if let Some(stranger) = peer.as_ref().filter(|peer| !is_member(peer))
            && Self::is_of_members(&request)
        {
            return responder.respond(&self.answer_to_stranger(&request, stranger));
        }
        match (request, peer) {
            (Request::Stats, _) => responder.respond(&self.stats()),
            (Request::Health, _) => responder.respond(&self.health()),
            (Request::Status, _) => responder.respond(&self.status()),
            (Request::Ring, _) => responder.respond(&self.ring_reply()),
            (Request::Repair(repair), _) => responder.respond(&self.repair(repair)),
            (Request::Snapshot(snapshot), _) => responder.respond(&self.snapshot(snapshot)),
            (Request::ChangeRing(change), _) => self.on_change_ring(change, responder),
            (Request::Unlock(unlock), _) => self.unlock(unlock, responder),
            (Request::Gossip(mut gossip), Some(peer)) => {
                self.sift(&mut gossip, None);
                let event = Event::GossipReceived {
                    from: peer.node_id.clone(),
                    gossip,
                    is_reply: false,
                };
                self.step_answering(event, Some(&responder));
            }
            (Request::Probe(_), Some(_)) if self.probes.len() >= PROBES_MAX => {
                let message = "this node probes as many others as it takes on; ask another one";
                let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
                responder.respond(&Response::Error(error));
            }
            (Request::Probe(probe), Some(peer)) => {
                self.next_probe += 1;
                self.probes.insert(self.next_probe, responder);
                self.step(Event::ProbeRequested {
                    token: self.next_probe,
                    target: probe.target,
                    from: peer.node_id.clone(),
                });
            }
            (Request::Join(join), Some(peer)) => self.on_join(join, &peer, responder),
            (Request::FetchRing, Some(_)) => responder.respond(&match self.ring_to_tell() {
                Some(document) => Response::RingDocument(document.clone()),
                None => self.not_joined(),
            }),
            (Request::Prepare(prepare), Some(_)) => self.on_prepare(&prepare, &responder),
            (Request::Accept(accept), Some(_)) => self.on_accept(&accept, &responder),
            (
                Request::Gossip(_)
                | Request::Probe(_)
                | Request::Join(_)
                | Request::FetchRing
                | Request::Prepare(_)
                | Request::Accept(_),
                None,
            ) => {
                let message = "only nodes may ask this; say so in the hello";
                let error = ErrorReply::new(ErrorCode::BadRequest, message);
                responder.respond(&Response::Error(error));
            }
            // The connection keeps these to itself or gives them to the coordinator.
            (
                Request::Hello(_)
                | Request::Ping
                | Request::Get(_)
                | Request::Put(_)
                | Request::Delete(_)
                | Request::Explain(_)
                | Request::Export(_)
                | Request::Import(_)
                | Request::Merge(_)
                | Request::Read(_)
                | Request::Compare(_)
                | Request::List(_)
                | Request::Hint(_)
                | Request::Replace(_),
                _,
            ) => {
                let error = ErrorReply::new(ErrorCode::BadRequest, "unexpected in this place");
                responder.respond(&Response::Error(error));
            }
        }
    }

    fn not_joined(&self) -> Response {
        let message = format!(
            "this node has not joined a cluster yet: {}",
            self.joining.trouble()
        );
        Response::Error(ErrorReply::new(ErrorCode::NotReady, message).retryable())
    }

    fn on_call_end(&mut self, end: CallEnd) {
        match end {
            CallEnd::Gossip(from, Some(mut gossip)) => {
                self.note_followed(&from, gossip.ring_version);
                self.sift(&mut gossip, Some(&from));
                self.step(Event::GossipReceived {
                    from,
                    gossip,
                    is_reply: true,
                });
            }
            CallEnd::Confirmed(entry) => self.on_confirmed(entry),
            CallEnd::Outdated(error) => self.end_as_outdated(error),
            // Silence is what the failure detector lives on.
            CallEnd::Gossip(_, None) | CallEnd::Ring(None) | CallEnd::NotOutdated => {}
            CallEnd::Pinged(target, alive) => self.step(Event::ProbeAnswered {
                target,
                via: None,
                alive,
            }),
            CallEnd::ProbedVia { via, target, alive } => self.step(Event::ProbeAnswered {
                target,
                via: Some(via),
                alive,
            }),
            CallEnd::Ring(Some(document)) => self.on_ring(document),
            CallEnd::Fenced(version) => self.on_fenced(version),
            CallEnd::Vote(vote) => self.on_vote(vote),
            CallEnd::Join(tried) => self.on_join_tried(tried),
            CallEnd::Founding(asked) => self.on_founding(&asked),
            CallEnd::Seeds(asked) => self.on_seeds(asked),
            CallEnd::Holder(tried) => self.on_holder_tried(tried),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let hangs = self.disk.hangs();
        self.step(Event::LocalDisk { hangs });
        self.step(Event::Tick);
        self.join_if_due(now);
        self.ask_seeds_if_due(now);
        self.decide_if_due(now);
        self.tell_who_stays(now);
        self.publish();
    }

    /// Publishes a new view when anything in it has changed.
    fn publish(&mut self) {
        let ring = self.ring.clone();
        let members = match &ring {
            Some(ring) => self.members_in_order(ring.document()),
            None => Vec::new(),
        };
        let (_, w, r) = self.startup.quorums;
        let document = ring.as_ref().map(|ring| ring.document());
        let next = View {
            next: self.decisions.next(),
            cluster_id: document.map_or_else(Default::default, |d| d.cluster_id),
            w: w.or(document.map(|d| d.w)).unwrap_or(0),
            r: r.or(document.map(|d| d.r)).unwrap_or(0),
            members,
            ring: ring.clone(),
        };
        let is_news = {
            let last = self.view.borrow();
            let accepted = |view: &View| view.next.as_ref().map(Arc::as_ptr);
            last.ring_version() != next.ring_version()
                || last.members != next.members
                || accepted(&last) != accepted(&next)
        };
        if is_news {
            self.report_members(&next);
            self.view.send_replace(Arc::new(next));
        }
    }
}

fn load_wire<T: Wire>(
    files: &dyn SmallFiles,
    name: &'static str,
) -> Result<Option<T>, ControlError> {
    let Some(bytes) = load_document(files, name)? else {
        return Ok(None);
    };
    let decoded = T::from_bytes(&bytes);
    let decoded = decoded.map_err(|error| ControlError::Document { name, error })?;
    Ok(Some(decoded))
}
