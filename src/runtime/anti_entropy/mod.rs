//! Anti-entropy and rebuilding: the task that compares this node's copies with those of the others, mends
//! what differs on both sides, and brings back what this node has lost.
//!
//! It asks this node in the same words as the others, over a connection of its own, so that all it does is
//! merging versions, durably, with the checks and in the order of any other write. What it decides stands
//! in [`engine::mending`](crate::engine::anti_entropy::mending), [`engine::rebuild_sources`](crate::engine::anti_entropy::rebuild_sources) and
//! [`engine::repairs`](crate::engine::anti_entropy::repairs).
//!
//! It takes a share of the time at most, and a bounded part of a segment at a time. A segment that cannot
//! be compared does not keep it from the others.
//!
//! | File | What it carries out |
//! |---|---|
//! | `comparing`, `segments` | comparing copies with another node, and mending what differs |
//! | `rebuild` | bringing back what was lost |
//! | [`leftovers`] | handing on and removing what this node does not own any more |
//! | `counting` | counting the store anew |
//! | `questions` | what is asked of the others |
//! | [`repairs`] | what operators want of all that |
//! | [`handoff`] | handing hints over |
//! | [`unlocking`] | mending keys that are beyond a limit |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::NodeId;
use dynakv_protocol::gossip::MemberState;
use dynakv_storage::Loss;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::repairs::Repairs;
use crate::engine::anti_entropy::rebuild_sources::Sources;
use crate::engine::anti_entropy::repairs::Schedule;
use crate::engine::placement::ring::Ring;
use crate::runtime::net::replica_rpc::{Asker, Unreachable};
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::environment::StoreThreads;
use crate::runtime::shared::settling::Settling;
use crate::runtime::shared::view::View;
use crate::runtime::store::rebuilding::{Copy, Rebuilding};
use crate::runtime::store::store_worker::{Dropper, Recounter};
use count::Count;
use pending::Pending;

mod comparing;
mod count;
mod counting;
pub mod handoff;
pub mod leftovers;
mod misses;
mod pending;
mod questions;
mod rebuild;
pub mod repairs;
mod segments;
pub mod unlocking;

/// How often it looks whether there is something to do.
const TICK: Duration = Duration::from_secs(1);

/// How long after an attempt to rebuild that left something the next one begins. Each time nothing came
/// back twice as long, until somebody comes or goes.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(20);

/// How long to wait before a node that has too much in hand is asked again; each time twice as long.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often it is asked.
const BUSY_ATTEMPTS_MAX: u32 = 10;

/// How many segments are compared at a time: their keys share round trips and syncs.
const SEGMENTS_AT_ONCE: usize = 32;

/// How many bytes of each of these are asked for at a time.
const LIST_BYTES: u32 = 256 * 1024;

/// How many keys are mended at a time.
const KEYS_AT_ONCE: usize = 256;

/// About how many bytes of versions these may have: with large ones there are fewer of them.
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;

/// How long it rests after work, as a multiple of how long that took: comparing gets half of the time. Rebuilding gets
/// more, because until it is over a copy less counts; not so what is fetched for a change of the ring. What is left over
/// costs nothing but room.
const REST_PER_COMPARING: f64 = 1.0;
const REST_PER_REBUILDING: f64 = 0.25;
const REST_PER_CHANGING: f64 = 1.0;
const REST_PER_LEFTOVERS: f64 = 3.0;

/// How long it rests at most: a node that was slow once is not always.
const REST_MAX: Duration = Duration::from_secs(1);

/// Why something was not compared or brought back. It is tried again later.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MendError {
    /// A node could not be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// A node refused, or answered something else.
    #[error("{node} refused: {reason}")]
    Refused {
        /// The node that refused.
        node: NodeId,
        /// Its words.
        reason: String,
    },
    /// It cannot take a key, or not give it: the key's versions are beyond a limit. Trying again is of no use.
    #[error("{node} has or gets a key that is locked: {reason}")]
    Locked {
        /// The node that has it, or was to get it.
        node: NodeId,
        /// Its words.
        reason: String,
    },
    /// It has lost versions there itself.
    #[error("{0} is rebuilding there itself")]
    NoSource(NodeId),
    /// It does not own what it is an owner of by this node's ring.
    #[error("{0} says that it does not own a segment that is to be fetched from it")]
    NotOwner(NodeId),
    /// It is not there.
    #[error("{0} is dead: it is compared with when it comes back")]
    Dead(NodeId),
    /// A node goes round in circles in a segment.
    #[error("{0} lists the same keys again and again")]
    Circle(NodeId),
    /// Some parts of a comparison failed.
    #[error("{pages} pages could not be compared with {node} in whole, last because: {reason}")]
    Partly {
        /// With whom.
        node: NodeId,
        /// How many.
        pages: usize,
        /// Why the last one could not.
        reason: String,
    },
    /// The note of what is rebuilt could not be saved.
    #[error("{0}")]
    Store(String),
}

impl MendError {
    /// Whether a node was asked and has not answered.
    fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// What anti-entropy is given.
pub struct Parts {
    /// How it asks this node and the others.
    pub asker: Arc<Asker>,
    /// Who is there, and who owns what.
    pub view: watch::Receiver<Arc<View>>,
    /// What this node has lost.
    pub rebuilding: Arc<Rebuilding>,
    /// Where waiting for the disk is done.
    pub threads: StoreThreads,
    /// How the store is counted anew.
    pub recounter: Recounter,
    /// How it has removed what this node does not own any more.
    pub dropper: Dropper,
    /// What operators want.
    pub repairs: Arc<Repairs>,
    /// How often each other node is compared with.
    pub interval: Duration,
    /// So that not all nodes compare at one time.
    pub random: fastrand::Rng,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How far a node that goes has handed on what it holds.
    pub settling: Arc<Settling>,
}

struct AntiEntropy(Parts);

/// What is to be done when.
struct State {
    began: Instant,
    schedule: Schedule,
    /// The view as it was looked at last.
    view: Arc<View>,
    /// Who has given what was lost.
    sources: Sources,
    /// What the store could not say that it lost, before anything of that was given.
    losses: BTreeSet<Loss>,
    /// When rebuilding goes on, after an attempt that did not end it.
    rebuild_due: Option<Instant>,
    /// How long after such an attempt.
    rebuild_pause: Duration,
    /// Why it did not, as it was last told.
    told: String,
    /// An operator wants it to end.
    accept_loss: bool,
    /// What this node does not own any more.
    leftovers: Pending,
    count: Option<Count>,
}

impl State {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Mends until it is told to stop.
pub async fn run(mut parts: Parts, stop: CancellationToken) {
    let interval_ms = parts.interval.as_millis() as u64;
    let mut state = State {
        began: Instant::now(),
        schedule: Schedule::new(parts.asker.me.clone(), interval_ms, 0, parts.random.fork()),
        view: Arc::default(),
        sources: Sources::default(),
        losses: BTreeSet::new(),
        rebuild_due: None,
        rebuild_pause: RETRY,
        told: String::new(),
        accept_loss: false,
        leftovers: Pending::default(),
        count: None,
    };
    let anti_entropy = AntiEntropy(parts);
    let work = async {
        loop {
            anti_entropy.turn(&mut state).await;
            let is_busy = state.count.is_some() || state.leftovers.is_under_way();
            if state.schedule.wants_any() || is_busy {
                continue;
            }
            tokio::select! {
                biased;
                () = anti_entropy.0.repairs.wanted() => {}
                () = sleep(TICK) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

impl AntiEntropy {
    /// Does what is due: rebuilds first, then hands on what it does not own any more, then compares with one node.
    async fn turn(&self, state: &mut State) {
        let view = self.0.view.borrow().clone();
        let Some(ring) = view.ring.clone() else {
            return;
        };
        self.look_around(&view, state);
        let has_work = self.0.rebuilding.left_to_fetch() > 0;
        if has_work && state.rebuild_due.is_none_or(|due| due <= Instant::now()) {
            self.go_on_rebuilding(&ring, state).await;
        }
        state.accept_loss = false;
        self.go_on_dropping(&ring, state).await;
        self.go_on_counting(state).await;
        self.compare_with_next(&view, &ring, state).await;
        let age_ms = state.schedule.age_ms(state.now_ms());
        let metrics = &self.0.metrics;
        metrics.mending.age_seconds.set(age_ms as f64 / 1000.0);
        if !state.schedule.wants_any()
            && let Some(done) = self.0.repairs.finish()
        {
            tracing::info!(
                pairs = done.pairs_done,
                failed = done.pairs_failed,
                segments_differing = done.segments_differing,
                keys_fetched = done.keys_fetched,
                keys_sent = done.keys_sent,
                "the repair that was asked for is done"
            );
        }
        let running = self.0.repairs.is_running();
        metrics.mending.running.set(f64::from(u8::from(running)));
    }

    /// Who is there, who has begun to compare, and what operators want.
    fn look_around(&self, view: &Arc<View>, state: &mut State) {
        let now_ms = state.now_ms();
        if !Arc::ptr_eq(&state.view, view) {
            // Who came may have what was missing.
            state.view = view.clone();
            state.rebuild_pause = RETRY;
            let due = state.rebuild_due;
            state.rebuild_due = due.map(|due| due.min(Instant::now() + RETRY));
            state.leftovers.look_within(RETRY);
        }
        let members = view.members.iter();
        let members = members.map(|it| (&it.id, it.state == MemberState::Alive));
        state.schedule.members(now_ms, members);
        for node in self.0.repairs.take_asked_by() {
            state.schedule.asked_by(now_ms, &node);
        }
        let Some(wish) = self.0.repairs.take_wish() else {
            return;
        };
        let pairs = state.schedule.want_all();
        state.rebuild_due = None;
        state.rebuild_pause = RETRY;
        state.accept_loss = wish.accept_loss;
        self.0.repairs.update(|progress| {
            // Those done with before count once more when a second wish came.
            progress.pairs_total = progress.pairs_done + pairs;
        });
        tracing::info!(pairs, wish.accept_loss, "a repair was asked for");
    }

    async fn compare_with_next(&self, view: &View, ring: &Ring, state: &mut State) {
        let Some(next) = state.schedule.next(state.now_ms()) else {
            return;
        };
        let repairs = &self.0.repairs;
        self.0.metrics.mending.running.set(1.0);
        if next.is_wanted {
            repairs.update(|progress| {
                progress.comparing_with = Some(next.node.clone());
                progress.pages_compared = 0;
            });
        }
        let member = view.members.iter().find(|it| it.id == next.node);
        let result = match member {
            Some(member) if next.is_alive => self.compare(member, ring, next.is_wanted).await,
            _ => Err(MendError::Dead(next.node.clone())),
        };
        match &result {
            Ok(keys) => {
                self.0.metrics.mending.passes.increment(1);
                if *keys > 0 {
                    tracing::info!(node = %next.node, keys, "copies that differed are mended");
                }
            }
            Err(error) if next.is_alive => {
                self.0.metrics.mending.failures.increment(1);
                tracing::info!(node = %next.node, %error, "a comparison is not complete; it is tried again");
            }
            Err(_) => {}
        }
        if next.is_wanted {
            repairs.update(|progress| {
                progress.pairs_done += 1;
                progress.comparing_with = None;
                if let Err(error) = &result {
                    progress.pairs_failed += 1;
                    progress.last_error = error.to_string();
                }
            });
        }
        let now_ms = state.now_ms();
        state.schedule.compared(now_ms, &next.node, result.is_ok());
    }

    /// Rests for a while after work that began then.
    async fn rest(&self, began: Instant, per_work: f64) {
        let rest = began.elapsed().mul_f64(per_work);
        sleep(rest.min(REST_MAX)).await;
    }
}
