//! The places for connections that come in, and who gives one up when there are no more.
//!
//! Whoever connects and says nothing must not keep out those who have something to say: an operator who asks
//! how the node is comes when it is full. So a place is made by closing the oldest connection that has said
//! nothing yet, and where there is none, the client's that has been idle longest, if it has been so for longer
//! than any request may take. Connections of nodes are never closed for that.
//!
//! Clients that are busy give nothing up, and must not keep out the members of the cluster: a node that is
//! restarted, or whose link broke, would not be heard of again. So there are places beside those for all, which
//! only members may hold. Who is one is known after the hello; who takes such a place and is none is refused then.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dynakv_protocol::{ErrorCode, ErrorReply, NodeId};
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A client that has sent nothing for this long waits for nothing either: no request takes longer than a minute.
const IDLE_MIN: Duration = Duration::from_secs(120);

/// How long to wait when the system has no descriptor to give and nobody can give one up.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for a descriptor that somebody gives up.
const CLOSING_PAUSE: Duration = Duration::from_millis(1);

/// There are so many places for members alone, for each of them and in all at least. A member has a connection for
/// data and few for questions.
const PLACES_PER_MEMBER: usize = 4;
const MEMBER_PLACES_MIN: usize = 16;

/// A member has no more connections than this as one. What there is more of under its name counts as clients.
const CONNECTIONS_PER_MEMBER_MAX: usize = 32;

/// How many connections that gave up their places may be on their way out: each has its descriptor until it is.
const CLOSING_MAX: usize = 16;

/// How long one of them may take to hear why and to go.
const GIVEN_UP_TIMEOUT: Duration = Duration::from_millis(100);

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
    /// The most that there may be beside them.
    member_places_max: usize,
    began: Instant,
    held: Mutex<Held>,
    /// One that gave up its place is gone.
    closed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    /// Oldest first.
    by_age: BTreeMap<u64, Arc<Occupant>>,
    /// How many of them are beside the places for all.
    beside: usize,
    /// How many gave up their places and are not gone yet.
    closing: usize,
    /// How many connections each member has, as one.
    of_members: BTreeMap<NodeId, usize>,
}

impl Held {
    fn remove(&mut self, number: u64) -> Option<Arc<Occupant>> {
        let occupant = self.by_age.remove(&number)?;
        self.beside -= usize::from(occupant.is_beside);
        let member = occupant.member.get();
        if let Some(count) = member.and_then(|member| self.of_members.get_mut(member)) {
            *count -= 1;
            if *count == 0
                && let Some(member) = member
            {
                self.of_members.remove(member);
            }
        }
        Some(occupant)
    }
}

#[derive(Debug)]
struct Occupant {
    kind: AtomicU8,
    /// It has a place beside those for all: only a member may keep it.
    is_beside: bool,
    /// Which member it is, once it has said so and counts as one.
    member: OnceLock<NodeId>,
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
        Self::beside_members(places_max, 0)
    }

    /// The same, and beside them places for members alone: as many as the cluster needs, and no more than this.
    pub fn beside_members(places_max: usize, member_places_max: usize) -> Arc<Self> {
        Arc::new(Self {
            places_max,
            member_places_max,
            began: Instant::now(),
            held: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// What is said to whoever finds none free.
    pub fn full(&self) -> ErrorReply {
        let message = format!(
            "this node has {} connections already; try another node",
            self.places_max
        );
        ErrorReply::new(ErrorCode::Overloaded, message).retryable()
    }

    /// Takes a place. None when all are taken by nodes and by clients that are not idle; in a cluster of so many
    /// members, when those for members are, too.
    pub fn take(self: &Arc<Self>, members: usize) -> Option<Taken> {
        let mut held = self.held();
        let is_full = held.by_age.len() - held.beside >= self.places_max;
        let mut made_room = is_full && self.close_one(&mut held, false);
        let is_beside = is_full && !made_room;
        if is_beside {
            let for_members = (members * PLACES_PER_MEMBER).max(MEMBER_PLACES_MIN);
            if held.beside >= for_members.min(self.member_places_max) {
                made_room = self.close_one(&mut held, true);
                if !made_room {
                    return None;
                }
            }
        }
        let number = held.next;
        held.next += 1;
        let occupant = Arc::new(Occupant {
            kind: AtomicU8::new(SILENT),
            is_beside,
            member: OnceLock::new(),
            active_ms: AtomicU64::new(self.now_ms()),
            wanted: CancellationToken::new(),
        });
        held.by_age.insert(number, occupant.clone());
        held.beside += usize::from(is_beside);
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
        let mut held = self.held();
        self.close_one(&mut held, false) || self.close_one(&mut held, true)
    }

    /// Waits while too many that gave up their places are not gone yet. For one listener.
    pub async fn others_are_gone(&self) {
        // Most are as soon as their tasks run.
        tokio::task::yield_now().await;
        while self.held().closing >= CLOSING_MAX {
            self.closed.notified().await;
        }
    }

    /// Of those beside the places for all, or of the others.
    fn close_one(&self, held: &mut Held, beside: bool) -> bool {
        let idle_ms = IDLE_MIN.as_millis() as u64;
        let idle_since = self.now_ms().checked_sub(idle_ms);
        let those = held.by_age.iter().filter(|(_, it)| it.is_beside == beside);
        let mut silent = those.clone().filter(|(_, it)| it.kind() == SILENT);
        let number = silent.next().map(|(&number, _)| number).or_else(|| {
            let clients = those.filter(|(_, it)| it.kind() == CLIENT);
            let (number, longest) = clients.min_by_key(|(_, it)| it.active_ms())?;
            (longest.active_ms() <= idle_since?).then_some(*number)
        });
        // It has its place no more, and is closed as soon as its task runs.
        let closed = number.and_then(|number| held.remove(number));
        if let Some(closed) = &closed {
            held.closing += 1;
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
    /// The connection has said who it is: a member, or anybody else.
    ///
    /// # Errors
    /// The refusal to send back: it has a place that only a member may keep.
    pub fn greet(&self, member: Option<&NodeId>) -> Result<(), ErrorReply> {
        let kind = match member {
            Some(member) if self.counts_as(member) => PEER,
            _ => CLIENT,
        };
        if self.occupant.is_beside && kind == CLIENT {
            return Err(self.places.full());
        }
        self.occupant.kind.store(kind, Ordering::Relaxed);
        self.touch();
        Ok(())
    }

    /// Whether there may be one more connection of this member; then it is that.
    fn counts_as(&self, member: &NodeId) -> bool {
        let mut held = self.places.held();
        // One that was just closed for another counts no more.
        if !held.by_age.contains_key(&self.number) {
            return false;
        }
        let count = held.of_members.entry(member.clone()).or_default();
        let is_one = *count < CONNECTIONS_PER_MEMBER_MAX;
        if is_one && self.occupant.member.set(member.clone()).is_ok() {
            *count += 1;
        }
        is_one
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

    /// Carries out something of its end, which may take so long: less from when another connection has its place.
    /// None when it took longer.
    pub async fn within<T>(&self, usual: Duration, end: impl Future<Output = T>) -> Option<T> {
        let given_up = async {
            self.is_wanted().await;
            sleep(GIVEN_UP_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            ended = end => Some(ended),
            () = sleep(usual) => None,
            () = given_up => None,
        }
    }

    /// Waits until it has to make room for another one.
    pub async fn is_wanted(&self) {
        self.occupant.wanted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        if held.remove(self.number).is_none() {
            held.closing = held.closing.saturating_sub(1);
            self.places.closed.notify_one();
        }
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

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn is_closed(place: &Place) -> bool {
        place.occupant.wanted.is_cancelled()
    }

    fn take(places: &Arc<Places>) -> Place {
        places.take(3).unwrap().place
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_silent_one_makes_room_and_nobody_who_speaks() {
        let places = Places::new(3);
        let (node, client) = (take(&places), take(&places));
        node.greet(Some(&id("a"))).unwrap();
        client.greet(None).unwrap();
        let mut last = take(&places);
        for _ in 0..5 {
            let Taken { place, made_room } = places.take(3).unwrap();
            assert!(made_room && is_closed(&last) && !is_closed(&place));
            // One that was closed gives up nothing twice.
            drop(std::mem::replace(&mut last, place));
        }
        assert!(!is_closed(&node) && !is_closed(&client));
        last.greet(None).unwrap();
        assert!(places.take(3).is_none());
        drop(last);
        assert!(!places.take(3).unwrap().made_room);
    }

    #[tokio::test(start_paused = true)]
    async fn of_clients_the_one_that_is_idle_longest_makes_room_nodes_never() {
        let places = Places::new(3);
        let all = [take(&places), take(&places), take(&places)];
        let member = id("a");
        for (place, member) in all.iter().zip([Some(&member), None, None]) {
            place.greet(member).unwrap();
        }
        tokio::time::advance(IDLE_MIN / 2).await;
        all[1].touch();
        assert!(places.take(3).is_none());
        tokio::time::advance(IDLE_MIN / 2).await;
        let new = take(&places);
        new.greet(None).unwrap();
        assert_eq!(all.each_ref().map(is_closed), [false, false, true]);
        assert!(places.take(3).is_none());
        tokio::time::advance(IDLE_MIN).await;
        assert!(places.make_room() && is_closed(&all[1]));
        assert!(places.make_room() && is_closed(&new));
        assert!(!places.make_room() && !is_closed(&all[0]));
    }

    /// Busy clients have all places that they may have, and no more; members find some, whatever strangers do.
    #[tokio::test(start_paused = true)]
    async fn members_have_places_that_no_client_keeps() {
        let places = Places::beside_members(2, 100);
        let clients = [take(&places), take(&places)];
        for client in &clients {
            client.greet(None).unwrap();
        }
        let refused = take(&places).greet(None).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Overloaded);
        assert!(refused.retryable && refused.message.contains("2 connections"));
        // Who says nothing there gives way to the next.
        let silent: Vec<Place> = (0..MEMBER_PLACES_MIN).map(|_| take(&places)).collect();
        let member = places.take(3).unwrap();
        assert!(member.made_room && is_closed(&silent[0]) && !is_closed(&silent[1]));
        member.place.greet(Some(&id("a"))).unwrap();
        let members: Vec<Place> = (1..MEMBER_PLACES_MIN).map(|_| take(&places)).collect();
        for place in &members {
            place.greet(Some(&id("b"))).unwrap();
        }
        assert!(places.take(4).is_none());
        // A larger cluster has more of them.
        drop(places.take(5).unwrap());
        drop(members);
        drop(silent);
        assert!(!places.take(3).unwrap().made_room);
        assert!(clients.iter().all(|client| !is_closed(client)));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_gave_up_their_places_are_waited_for_when_they_are_many() {
        let places = Places::new(1);
        let mut all: Vec<Place> = (0..CLOSING_MAX).map(|_| take(&places)).collect();
        let gone = |places: Arc<Places>| async move {
            let patience = Duration::from_secs(1);
            tokio::time::timeout(patience, places.others_are_gone())
                .await
                .is_ok()
        };
        assert!(gone(places.clone()).await);
        all.push(take(&places));
        assert!(!gone(places.clone()).await);
        let waiting = tokio::spawn(gone(places.clone()));
        tokio::task::yield_now().await;
        drop(all.remove(0));
        assert!(waiting.await.unwrap());
        drop(all);
        assert_eq!(places.held().closing, 0);
    }

    /// Also one that is about to end already.
    #[tokio::test(start_paused = true)]
    async fn who_gave_up_its_place_has_little_time_to_go() {
        let places = Places::new(1);
        let place = take(&places);
        let usual = Duration::from_secs(5);
        let began = Instant::now();
        let end = place.within(usual, std::future::pending::<()>());
        let other = async {
            sleep(Duration::from_secs(1)).await;
            take(&places)
        };
        let (ended, _other) = tokio::join!(end, other);
        assert_eq!(ended, None);
        assert_eq!(began.elapsed(), Duration::from_secs(1) + GIVEN_UP_TIMEOUT);
        assert_eq!(place.within(usual, async { 7 }).await, Some(7));
    }

    /// One name has its share, and what is beyond gives way like a client.
    #[tokio::test(start_paused = true)]
    async fn a_member_s_name_opens_so_many_places_and_no_more() {
        let places = Places::beside_members(CONNECTIONS_PER_MEMBER_MAX + 1, 100);
        let all: Vec<Place> = (0..=CONNECTIONS_PER_MEMBER_MAX)
            .map(|_| take(&places))
            .collect();
        for place in &all {
            place.greet(Some(&id("a"))).unwrap();
        }
        assert!(take(&places).greet(Some(&id("a"))).is_err());
        take(&places).greet(Some(&id("b"))).unwrap();
        tokio::time::advance(IDLE_MIN).await;
        let new = take(&places);
        assert!(is_closed(&all[CONNECTIONS_PER_MEMBER_MAX]));
        drop(new);
        drop(all);
        assert!(places.held().of_members.is_empty());
    }
}
