//! How many bytes this node holds for others, by what they are, and how many that may be.
//!
//! Bytes are entered when they are taken and leave the books when their memory is given back, whoever holds
//! it by then: a request is counted from its first byte until the last slice of it is dropped, in whatever
//! queue that waits. So a queue needs no bound of its own, and none can be forgotten.
//!
//! | Kind | Bound, as a part of `bytes_in_flight_max` | At the bound |
//! |---|---|---|
//! | frames on their way in, of clients and of nodes | a quarter each | only the oldest is read on; who does not get on meanwhile is hung up on |
//! | requests, of clients and of nodes | the whole, each | refused; one client may have a quarter in hand |
//! | results: what the owners of a key have, gathered for a client | the whole | refused |
//! | answers that wait to be read, by clients and by nodes | a half each | refused to who does not read; who reads nothing is hung up on |
//! | requests that wait to be sent to nodes | a half | count as failed |
//! | answers of nodes, and what is read here, on their way to the coordinator | a quarter each | not read on |
//!
//! One thing of any size always fits where nothing else is. Entries are atomic, one for all that one read of
//! a connection brings, or that one turn of the coordinator sends there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

/// In a shortage a large frame on its way in must get on within this time, or it makes room: also one that was
/// not read on meanwhile, for those that are never finished would otherwise be let on one after the other.
const SHORTAGE_PATIENCE: Duration = Duration::from_secs(1);

/// By so many bytes: 64 KiB a second, which any network that a node should be on carries.
const SHORTAGE_PROGRESS_BYTES: usize = 64 * 1024;

/// How often it is looked in a shortage who gets on.
const SHORTAGE_LOOK: Duration = Duration::from_millis(100);

/// What bytes are held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Frames of clients that are on their way in.
    ClientReceiving,
    /// Frames of nodes that are on their way in.
    PeerReceiving,
    /// Answers of nodes, from their first byte until they are taken in.
    NodeAnswers,
    /// Requests of clients in hand.
    ClientRequests,
    /// Requests of nodes in hand.
    PeerRequests,
    /// What owners have of keys, gathered for clients.
    Results,
    /// What was read here and is not taken in yet.
    Read,
    /// Answers that clients have not read.
    ClientAnswers,
    /// Answers that nodes have not read.
    PeerAnswers,
    /// Requests that wait to be sent to nodes.
    NodeRequests,
}

/// How many kinds there are.
const KINDS: usize = 10;

impl Kind {
    /// All of them.
    pub const ALL: [Self; KINDS] = [
        Self::ClientReceiving,
        Self::PeerReceiving,
        Self::NodeAnswers,
        Self::ClientRequests,
        Self::PeerRequests,
        Self::Results,
        Self::Read,
        Self::ClientAnswers,
        Self::PeerAnswers,
        Self::NodeRequests,
    ];

    /// Its name, as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientReceiving => "client_receiving",
            Self::PeerReceiving => "peer_receiving",
            Self::NodeAnswers => "node_answers",
            Self::ClientRequests => "client_requests",
            Self::PeerRequests => "peer_requests",
            Self::Results => "results",
            Self::Read => "read",
            Self::ClientAnswers => "client_answers",
            Self::PeerAnswers => "peer_answers",
            Self::NodeRequests => "node_requests",
        }
    }

    /// Its bound, of so many bytes that the settings give.
    fn bytes_max(self, bytes_max: usize) -> usize {
        match self {
            // What clients are promised is a bound of requests; nodes have as much for themselves.
            Self::ClientRequests | Self::PeerRequests | Self::Results => bytes_max,
            Self::ClientAnswers | Self::PeerAnswers | Self::NodeRequests => bytes_max / 2,
            Self::ClientReceiving | Self::PeerReceiving | Self::NodeAnswers | Self::Read => {
                bytes_max / 4
            }
        }
    }
}

/// What is held of one kind.
#[derive(Debug, Default)]
struct Account {
    held: AtomicUsize,
    max: usize,
}

/// The books of one node.
#[derive(Debug)]
pub struct Ledger {
    accounts: [Account; KINDS],
    /// Large frames on their way in, by kind.
    arrivals: [Mutex<Arrivals>; KINDS],
}

impl Ledger {
    /// Empty books for a node whose settings give this many bytes to the requests of clients.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            accounts: Kind::ALL.map(|kind| Account {
                held: AtomicUsize::new(0),
                max: kind.bytes_max(bytes_max),
            }),
            arrivals: Kind::ALL.map(|_| Mutex::default()),
        }
    }

    fn account(&self, kind: Kind) -> &Account {
        &self.accounts[kind as usize]
    }

    /// Bytes held of this kind.
    pub fn held(&self, kind: Kind) -> usize {
        self.account(kind).held.load(Ordering::Relaxed)
    }

    /// The bound of this kind, in bytes.
    pub fn bytes_max(&self, kind: Kind) -> usize {
        self.account(kind).max
    }

    /// Whether more is held than may be, other than by one thing of so many bytes alone.
    pub fn is_over(&self, kind: Kind, alone_bytes: usize) -> bool {
        let held = self.held(kind);
        held > self.bytes_max(kind) && held > alone_bytes
    }

    /// Whether so much is held, or as much as that, that no more should be taken.
    pub fn is_full(&self, kind: Kind) -> bool {
        self.held(kind) >= self.bytes_max(kind).max(1)
    }

    /// Enters bytes.
    pub fn take(&self, kind: Kind, bytes: usize) {
        self.account(kind).held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes bytes out of the books that were entered.
    pub fn give_back(&self, kind: Kind, bytes: usize) {
        self.account(kind).held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Replaces what is held of a kind that one task alone keeps count of.
    pub fn set(&self, kind: Kind, bytes: usize) {
        self.account(kind).held.store(bytes, Ordering::Relaxed);
    }

    fn arrivals(&self, kind: Kind) -> MutexGuard<'_, Arrivals> {
        // The map is whole between any two operations.
        let arrivals = self.arrivals[kind as usize].lock();
        arrivals.unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry in the books, taken out when it is dropped.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<Ledger>,
    kind: Kind,
    bytes: usize,
}

impl Charge {
    /// Enters bytes.
    pub fn new(ledger: Arc<Ledger>, kind: Kind, bytes: usize) -> Self {
        ledger.take(kind, bytes);
        Self {
            ledger,
            kind,
            bytes,
        }
    }

    /// There are so many of them now.
    pub fn resize(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.ledger.take(self.kind, more),
            None => self.ledger.give_back(self.kind, self.bytes - bytes),
        }
        self.bytes = bytes;
    }

    /// These bytes, entered until the last slice of them is gone.
    pub fn of(ledger: &Arc<Ledger>, kind: Kind, bytes: Bytes) -> Bytes {
        let charge = Self::new(ledger.clone(), kind, bytes.len());
        charge.held_by(bytes, None)
    }

    /// The same of what a connection has read, which keeps `held` bytes of memory, also counted there.
    pub fn of_connection(
        ledger: &Arc<Ledger>,
        kind: Kind,
        bytes: Bytes,
        (held, connection): (usize, Arc<AtomicUsize>),
    ) -> Bytes {
        connection.fetch_add(held, Ordering::Relaxed);
        Self::new(ledger.clone(), kind, held).held_by(bytes, Some(connection))
    }

    fn held_by(self, bytes: Bytes, connection: Option<Arc<AtomicUsize>>) -> Bytes {
        if bytes.is_empty() && connection.is_none() {
            return bytes;
        }
        Bytes::from_owner(Counted {
            bytes,
            charge: self,
            connection,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.give_back(self.kind, self.bytes);
    }
}

struct Counted {
    bytes: Bytes,
    charge: Charge,
    connection: Option<Arc<AtomicUsize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.fetch_sub(self.charge.bytes, Ordering::Relaxed);
        }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The large frames that are on their way in, the oldest first.
#[derive(Debug, Default)]
struct Arrivals {
    next: u64,
    by_age: BTreeMap<u64, Seen>,
    looked_at: Option<Instant>,
}

/// How far a frame was, and when, when it was seen to have got on.
#[derive(Debug)]
struct Seen {
    frame: Arc<Arriving>,
    received: usize,
    at: Instant,
}

impl Arrivals {
    /// Has those make room that do not get on.
    fn look(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now - at < SHORTAGE_LOOK) {
            return;
        }
        self.looked_at = Some(now);
        self.by_age.retain(|_, seen| {
            let received = seen.frame.received.load(Ordering::Relaxed);
            if received >= seen.received + SHORTAGE_PROGRESS_BYTES {
                (seen.received, seen.at) = (received, now);
            }
            let gets_on = now - seen.at < SHORTAGE_PATIENCE;
            if !gets_on {
                seen.frame.is_displaced.store(true, Ordering::Relaxed);
                seen.frame.displaced.notify_one();
            }
            gets_on
        });
    }
}

#[derive(Debug)]
struct Arriving {
    received: AtomicUsize,
    is_displaced: AtomicBool,
    displaced: Notify,
}

/// A large frame on its way in.
#[derive(Debug)]
pub struct Arrival {
    ledger: Arc<Ledger>,
    kind: Kind,
    number: u64,
    frame: Arc<Arriving>,
}

impl Arrival {
    /// Enters a frame that has so many bytes by now.
    pub fn begin(ledger: Arc<Ledger>, kind: Kind, received: usize) -> Self {
        let frame = Arc::new(Arriving {
            received: AtomicUsize::new(received),
            is_displaced: AtomicBool::new(false),
            displaced: Notify::new(),
        });
        let number = {
            let mut arrivals = ledger.arrivals(kind);
            arrivals.next += 1;
            let number = arrivals.next;
            let seen = Seen {
                frame: frame.clone(),
                received,
                at: Instant::now(),
            };
            arrivals.by_age.insert(number, seen);
            number
        };
        Self {
            ledger,
            kind,
            number,
            frame,
        }
    }

    /// It has so many bytes now.
    pub fn received(&self, bytes: usize) {
        self.frame.received.store(bytes, Ordering::Relaxed);
    }

    /// Whether it may be read on. In a shortage that is for the oldest one alone, so that it is whole some day,
    /// and those that do not get on make room.
    pub fn may_go_on(&self) -> bool {
        if !self.ledger.is_full(self.kind) {
            return true;
        }
        let mut arrivals = self.ledger.arrivals(self.kind);
        arrivals.look(Instant::now());
        let oldest = arrivals.by_age.keys().next();
        oldest == Some(&self.number)
    }

    /// Whether it has to make room.
    pub fn is_displaced(&self) -> bool {
        self.frame.is_displaced.load(Ordering::Relaxed)
    }

    /// Waits until it has to make room.
    pub async fn displaced(&self) {
        while !self.is_displaced() {
            self.frame.displaced.notified().await;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.ledger.arrivals(self.kind).by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_held_until_the_last_slice_of_them_is_gone() {
        let ledger = Arc::new(Ledger::new(1 << 20));
        let kind = Kind::ClientRequests;
        let whole = Charge::of(&ledger, kind, Bytes::from(vec![7; 10_000]));
        let key = whole.slice(100..110);
        let copy = Bytes::copy_from_slice(&whole[200..210]);
        drop(whole);
        assert_eq!(ledger.held(kind), 10_000);
        drop(key);
        assert_eq!(ledger.held(kind), 0);
        assert_eq!(copy.len(), 10);
        let connection = Arc::new(AtomicUsize::new(0));
        let small = Bytes::from_static(b"small");
        let small = Charge::of_connection(&ledger, kind, small, (4096, connection.clone()));
        assert_eq!(
            (ledger.held(kind), connection.load(Ordering::Relaxed)),
            (4096, 4096)
        );
        drop(small);
        assert_eq!(
            (ledger.held(kind), connection.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn one_thing_of_any_size_fits_where_nothing_else_is() {
        let ledger = Arc::new(Ledger::new(100));
        let kind = Kind::PeerRequests;
        let large = Charge::new(ledger.clone(), kind, 1000);
        assert!(!ledger.is_over(kind, 1000) && ledger.is_over(kind, 999));
        let small = Charge::new(ledger.clone(), kind, 1);
        assert!(ledger.is_over(kind, 1000));
        drop(large);
        assert!(!ledger.is_over(kind, 1));
        drop(small);
        assert_eq!(ledger.held(kind), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_shortage_the_oldest_goes_on_and_one_that_stalls_makes_room() {
        let ledger = Arc::new(Ledger::new(4000));
        let kind = Kind::ClientReceiving;
        let begin = || Arrival::begin(ledger.clone(), kind, 500);
        let (first, second) = (begin(), begin());
        assert!(first.may_go_on() && second.may_go_on());
        let mut held = Charge::new(ledger.clone(), kind, 1000);
        assert!(first.may_go_on() && !second.may_go_on());
        // Nothing happens before somebody has waited.
        tokio::time::advance(SHORTAGE_PATIENCE / 2).await;
        first.received(500 + SHORTAGE_PROGRESS_BYTES);
        let third = begin();
        assert!(!third.may_go_on() && !second.is_displaced());
        tokio::time::advance(SHORTAGE_PATIENCE / 2).await;
        assert!(first.may_go_on() && !third.may_go_on());
        assert!(second.is_displaced() && !first.is_displaced());
        second.displaced().await;
        tokio::time::advance(SHORTAGE_PATIENCE / 2).await;
        assert!(third.is_displaced() || !third.may_go_on());
        let fourth = begin();
        assert!(fourth.may_go_on() && first.is_displaced() && third.is_displaced());
        let fifth = begin();
        assert!(!fifth.may_go_on());
        held.resize(999);
        assert!(fifth.may_go_on());
    }
}
