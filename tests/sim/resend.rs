//! Messages of replication that come twice, the second time late and behind newer ones.
//!
//! Simulated TCP, as the real one, neither doubles nor reorders what one connection carries. A store must
//! bear both all the same: messages of an older connection, of a proxy, of a coordinator that tries again.
//! So some of the MERGE messages that a machine sends over its links are remembered and sent once more,
//! up to seconds later, over the link to the same node that is then there.
//!
//! Only links are meant: the connections that carry batches, where an answer that nobody waits for is
//! ignored. A forwarded request is never doubled: it is a client's, which would count as trying again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use dynakv_protocol::frame::{BatchWriter, Frame, FrameDecoder, KIND_BATCH, split_batch};
use dynakv_protocol::message::kind;

/// How much later the second time may be.
const LATER_MS: std::ops::Range<u64> = 1..4000;

/// The most batches that wait to be sent again to one node.
const WAITING_MAX: usize = 64;

/// How often one machine does it, for all its lives.
#[derive(Debug, Clone)]
pub(crate) struct Resending {
    /// One batch in so many; nothing for never.
    one_in: Option<u32>,
    count: Arc<AtomicUsize>,
}

impl fmt::Display for Resending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.one_in {
            Some(one_in) => write!(f, "one merge in {one_in} is sent twice"),
            None => f.write_str("no merge is sent twice"),
        }
    }
}

impl Resending {
    pub(crate) fn random(random: &mut fastrand::Rng) -> Self {
        // Drawn always, so that what comes after it is the same with and without.
        let one_in = random.u32(2..30);
        Self {
            one_in: random.bool().then_some(one_in),
            count: Arc::default(),
        }
    }

    pub(crate) fn of_one_life(&self, seed: u64) -> Resender {
        let state = State {
            random: fastrand::Rng::with_seed(seed ^ 0x5ec0),
            waiting: BTreeMap::new(),
        };
        Resender {
            resending: self.clone(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many messages were sent twice.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// What one node has sent and will send again.
pub(crate) struct Resender {
    resending: Resending,
    state: Arc<Mutex<State>>,
}

struct State {
    random: fastrand::Rng,
    /// By address, then by moment.
    waiting: BTreeMap<String, BTreeMap<(Duration, u64), Again>>,
}

/// A batch that comes again.
struct Again {
    sent_at: Duration,
    messages: usize,
    frame: Bytes,
}

impl Resender {
    /// The part of one connection to a node, if anything is ever sent twice.
    pub(crate) fn connection(&self, to: &str) -> Option<Second> {
        let one_in = self.resending.one_in?;
        Some(Second {
            to: to.to_owned(),
            one_in,
            count: self.resending.count.clone(),
            state: self.state.clone(),
            // The largest frame that nodes accept is smaller.
            decoder: FrameDecoder::new(u32::MAX as usize),
            seen: BytesMut::new(),
            is_link: false,
            waiting: Bytes::new(),
        })
    }
}

/// Looks at what one connection sends, and puts in what is to come again.
pub(crate) struct Second {
    to: String,
    one_in: u32,
    count: Arc<AtomicUsize>,
    state: Arc<Mutex<State>>,
    decoder: FrameDecoder,
    /// The frame that is being written; empty between two frames.
    seen: BytesMut,
    /// Whether it has carried a batch.
    is_link: bool,
    /// What is being written a second time.
    waiting: Bytes,
}

impl Second {
    /// These bytes were sent.
    pub(crate) fn see(&mut self, bytes: &[u8], now: Duration) {
        self.seen.extend_from_slice(bytes);
        let decoder = self.decoder.clone();
        while let Some(frame) = decoder.next(&mut self.seen).expect("a node sends frames") {
            if frame.header.kind == KIND_BATCH {
                self.is_link = true;
                self.remember(frame, now);
            }
        }
    }

    fn remember(&mut self, frame: Frame, now: Duration) {
        let (mut batch, mut again, mut messages) = (BatchWriter::default(), BytesMut::new(), 0);
        let take = |item: Frame| {
            if item.header.kind == kind::MERGE {
                messages += 1;
                let body = item.body;
                batch.push(&mut again, item.header, |out| out.extend_from_slice(&body));
            }
        };
        split_batch(frame, take).expect("a node sends batches");
        batch.finish(&mut again);
        if messages == 0 {
            return;
        }
        let mut state = lock(&self.state);
        if state.random.u32(..self.one_in) != 0 {
            return;
        }
        let due = now + Duration::from_millis(state.random.u64(LATER_MS));
        let place = (due, state.random.u64(..));
        let waiting = state.waiting.entry(self.to.clone()).or_default();
        if waiting.len() < WAITING_MAX {
            let again = Again {
                sent_at: now,
                messages,
                frame: again.freeze(),
            };
            waiting.insert(place, again);
        }
    }

    /// Between two frames of a link: takes one that is due, and says so.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<String> {
        if !self.is_link || !self.seen.is_empty() || !self.waiting.is_empty() {
            return None;
        }
        let mut state = lock(&self.state);
        let waiting = state.waiting.get_mut(&self.to)?;
        let first = waiting.first_entry().filter(|it| it.key().0 <= now)?;
        let again = first.remove();
        self.count.fetch_add(again.messages, Ordering::Relaxed);
        self.waiting = again.frame;
        let (messages, to, at) = (again.messages, &self.to, again.sent_at.as_secs_f64());
        Some(format!("sends {messages} merges of {at:.3} to {to} again"))
    }

    /// What is to be written before anything else.
    pub(crate) fn waiting(&self) -> Option<Bytes> {
        (!self.waiting.is_empty()).then(|| self.waiting.clone())
    }

    /// So much of it is written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.waiting.advance(bytes);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
