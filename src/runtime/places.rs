//! The places for connections that come in, and who gives one up when there are no more.
//!
//! Whoever connects and says nothing must not keep out those who have something to say: an operator who asks
//! how the node is comes when it is full. So a place is made by closing the oldest connection that has said
//! nothing yet, and where there is none, the client's that has been idle longest, if it has been so for longer
//! than any request may take. Connections of nodes are never closed for that.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A client that has sent nothing for this long waits for nothing either: no request takes longer than a minute.
const IDLE_MIN: Duration = Duration::from_secs(120);

/// How long to wait when the system has no descriptor to give and nobody can give one up.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for a descriptor that somebody gives up.
const CLOSING_PAUSE: Duration = Duration::from_millis(1);

/// It has said nothing yet.
const SILENT: u8 = 0;
/// A client.
const CLIENT: u8 = 1;
/// Another node.
const PEER: u8 = 2;

/// So many places, and who has them.
#[derive(Debug)]
pub struct Places {
    places_max: usize,
    began: Instant,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    /// Oldest first.
    by_age: BTreeMap<u64, Arc<Occupant>>,
}

#[derive(Debug)]
struct Occupant {
    kind: AtomicU8,
    /// When it sent something last, in milliseconds since the places were made.
    active_ms: AtomicU64,
    wanted: CancellationToken,
}

/// A place was taken.
#[derive(Debug)]
pub struct Taken {
    /// It is free again when this is dropped.
    pub place: Place,
    /// Whether another connection is closed for it.
    pub made_room: bool,
}

/// One place.
#[derive(Debug)]
pub struct Place {
    number: u64,
    occupant: Arc<Occupant>,
    places: Arc<Places>,
}

impl Places {
    /// So many places, all free.
    pub fn new(places_max: usize) -> Arc<Self> {
        Arc::new(Self {
            places_max,
            began: Instant::now(),
            held: Mutex::default(),
        })
    }

    /// How many there are.
    pub fn places_max(&self) -> usize {
        self.places_max
    }

    /// Takes a place. None when all are taken by nodes and by clients that are not idle.
    pub fn take(self: &Arc<Self>) -> Option<Taken> {
        let mut held = self.held();
        let made_room = held.by_age.len() >= self.places_max;
        if made_room && !self.close_one(&mut held) {
            return None;
        }
        let number = held.next;
        held.next += 1;
        let occupant = Arc::new(Occupant {
            kind: AtomicU8::new(SILENT),
            active_ms: AtomicU64::new(self.now_ms()),
            wanted: CancellationToken::new(),
        });
        held.by_age.insert(number, occupant.clone());
        let places = self.clone();
        let place = Place {
            number,
            occupant,
            places,
        };
        Some(Taken { place, made_room })
    }

    /// Closes a connection that another one may take the place of. False when there is none.
    pub fn make_room(&self) -> bool {
        self.close_one(&mut self.held())
    }

    fn close_one(&self, held: &mut Held) -> bool {
        let idle_ms = IDLE_MIN.as_millis() as u64;
        let idle_since = self.now_ms().checked_sub(idle_ms);
        let mut silent = held.by_age.iter().filter(|(_, it)| it.kind() == SILENT);
        let number = silent.next().map(|(&number, _)| number).or_else(|| {
            let clients = held.by_age.iter().filter(|(_, it)| it.kind() == CLIENT);
            let (number, longest) = clients.min_by_key(|(_, it)| it.active_ms())?;
            (longest.active_ms() <= idle_since?).then_some(*number)
        });
        // It counts no more: it is closed as soon as its task runs.
        let closed = number.and_then(|number| held.by_age.remove(&number));
        if let Some(closed) = &closed {
            closed.wanted.cancel();
        }
        closed.is_some()
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change under it is one call that leaves a whole map.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Occupant {
    // These only inform: nothing else hangs on when they are seen.

    fn kind(&self) -> u8 {
        self.kind.load(Ordering::Relaxed)
    }

    fn active_ms(&self) -> u64 {
        self.active_ms.load(Ordering::Relaxed)
    }
}

impl Place {
    /// The connection has said who it is.
    pub fn greet(&self, is_peer: bool) {
        let kind = if is_peer { PEER } else { CLIENT };
        self.occupant.kind.store(kind, Ordering::Relaxed);
        self.touch();
    }

    /// Whether the connection has ever said who it is.
    pub fn was_greeted(&self) -> bool {
        self.occupant.kind() != SILENT
    }

    /// It has sent something.
    pub fn touch(&self) {
        let now_ms = self.places.now_ms();
        self.occupant.active_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Waits until it has to make room for another one.
    pub async fn is_wanted(&self) {
        self.occupant.wanted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().by_age.remove(&self.number);
    }
}

/// What a listener does while the system gives it no connection.
#[derive(Debug, Default)]
pub struct Shortage {
    is_noted: bool,
}

impl Shortage {
    /// After an error of `accept`: makes room if that may help, says once what is lacking, and waits a little.
    pub async fn wait(&mut self, error: &io::Error, places: &Places) {
        if !self.is_noted {
            self.is_noted = true;
            tracing::warn!(%error, "cannot accept a connection: waiting ones are taken when it is over");
        }
        let is_shortage = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
        let number = error.raw_os_error();
        let is_shortage = is_shortage
            .iter()
            .any(|it| number == Some(it.raw_os_error()));
        if is_shortage && places.make_room() {
            sleep(CLOSING_PAUSE).await;
        } else {
            sleep(SHORTAGE_PAUSE).await;
        }
    }

    /// A connection was accepted.
    pub fn is_over(&mut self) {
        if std::mem::take(&mut self.is_noted) {
            tracing::info!("connections are accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(place: &Place) -> bool {
        place.occupant.wanted.is_cancelled()
    }

    fn take(places: &Arc<Places>) -> Place {
        places.take().unwrap().place
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_silent_one_makes_room_and_nobody_who_speaks() {
        let places = Places::new(3);
        let (node, client) = (take(&places), take(&places));
        node.greet(true);
        client.greet(false);
        let mut last = take(&places);
        for _ in 0..5 {
            let Taken { place, made_room } = places.take().unwrap();
            assert!(made_room && is_closed(&last) && !is_closed(&place));
            // One that was closed gives up nothing twice.
            drop(std::mem::replace(&mut last, place));
        }
        assert!(!is_closed(&node) && !is_closed(&client));
        last.greet(false);
        assert!(places.take().is_none());
        drop(last);
        assert!(!places.take().unwrap().made_room);
    }

    #[tokio::test(start_paused = true)]
    async fn of_clients_the_one_that_is_idle_longest_makes_room_nodes_never() {
        let places = Places::new(3);
        let all = [take(&places), take(&places), take(&places)];
        for (place, is_peer) in all.iter().zip([true, false, false]) {
            place.greet(is_peer);
        }
        tokio::time::advance(IDLE_MIN / 2).await;
        all[1].touch();
        assert!(places.take().is_none());
        tokio::time::advance(IDLE_MIN / 2).await;
        let new = take(&places);
        new.greet(false);
        assert_eq!(all.each_ref().map(is_closed), [false, false, true]);
        assert!(places.take().is_none());
        tokio::time::advance(IDLE_MIN).await;
        assert!(places.make_room() && is_closed(&all[1]));
        assert!(places.make_room() && is_closed(&new));
        assert!(!places.make_room() && !is_closed(&all[0]));
    }
}
