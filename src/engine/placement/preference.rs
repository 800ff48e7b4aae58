//! Which of a key's owners does what: the preference list, seen from one node.

use smallvec::SmallVec;

use crate::engine::quorum::Place;

/// A node as this process knows it: a small number, never reused while the process lives.
///
/// Ring documents come and go; an operation that has begun keeps talking to the nodes it began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSlot(pub u16);

/// This node itself.
pub const SELF: NodeSlot = NodeSlot(0);

/// What is known of the way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Connected, or about to be; nothing speaks against it.
    Usable,
    /// The last attempt to connect failed, or the node is suspected: asked only when there is no
    /// other way, and then at once, without waiting for a back-off.
    Doubtful,
}

/// The owners of one key in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    owners: SmallVec<[NodeSlot; 4]>,
}

/// Who coordinates a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// This node, at this place of the preference list.
    Here {
        /// Its own place.
        place: Place,
    },
    /// The owner at this place; the request has not been forwarded before.
    Forward {
        /// Whose place.
        place: Place,
    },
    /// This node owns no copy, no owner can be reached, and the quorum may be sloppy: it stands in for
    /// the owner at this place.
    StandIn {
        /// Whose place.
        place: Place,
    },
    /// It was forwarded here although this node is no owner: the two rings differ.
    NotOwner,
}

/// What matters about a request for its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A read, or a write that carries a context: any owner will do.
    AnyOwner,
    /// A write without a context: the first owner that can be reached, so that one blind write after
    /// another meets what the one before it left.
    FirstOwner,
}

/// Who counts towards a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Owners only.
    Strict,
    /// While owners are down, the next nodes of the ring in their places.
    Sloppy,
}

impl Preference {
    /// The owners in order.
    pub fn new(owners: impl IntoIterator<Item = NodeSlot>) -> Self {
        Self {
            owners: owners.into_iter().collect(),
        }
    }

    /// How many owners there are (the effective N).
    pub fn len(&self) -> u8 {
        // Ring documents hold N to 32.
        self.owners.len() as u8
    }

    /// True for no owners at all; a ring always gives at least one.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeSlot> + '_ {
        self.owners.iter().copied()
    }

    /// Who stands at a place.
    pub fn at(&self, place: Place) -> Option<NodeSlot> {
        self.owners.get(usize::from(place)).copied()
    }

    /// At which place a node stands.
    pub fn place_of(&self, node: NodeSlot) -> Option<Place> {
        let place = self.owners.iter().position(|&owner| owner == node)?;
        Some(place as Place)
    }

    /// The places of all owners but the node itself, in order, beginning at a turn that the caller
    /// changes from request to request, so that the load is shared.
    pub fn others(&self, own: Place, turn: usize) -> impl Iterator<Item = (Place, NodeSlot)> + '_ {
        let count = self.owners.len();
        (0..count)
            .map(move |step| (turn + step) % count.max(1))
            .filter(move |&place| place != usize::from(own))
            .map(|place| (place as Place, self.owners[place]))
    }

    /// The place of the best owner besides this node: the first in reach, or else the first.
    pub fn first_other(&self, reach: impl Fn(NodeSlot) -> Reach) -> Option<Place> {
        let places = || (0..self.len()).filter(|&place| self.at(place) != Some(SELF));
        let is_usable =
            |&place: &Place| self.at(place).is_some_and(|it| reach(it) == Reach::Usable);
        places().find(is_usable).or_else(|| places().next())
    }

    /// Decides who coordinates a request that has arrived here.
    pub fn route(
        &self,
        access: Access,
        strictness: Strictness,
        forwarded: bool,
        reach: impl Fn(NodeSlot) -> Reach,
    ) -> Route {
        let own = self.place_of(SELF);
        let usable = |&(_, node): &(Place, NodeSlot)| node == SELF || reach(node) == Reach::Usable;
        let places = || {
            self.owners
                .iter()
                .enumerate()
                .map(|(i, &n)| (i as Place, n))
        };
        let first_usable = places().find(usable).map(|(place, _)| place);
        let first = first_usable.unwrap_or(0);
        match (own, access) {
            (Some(place), Access::AnyOwner) => Route::Here { place },
            (Some(place), Access::FirstOwner) if forwarded || place == first => {
                Route::Here { place }
            }
            (None, _) if forwarded => Route::NotOwner,
            (None, _) if first_usable.is_none() && strictness == Strictness::Sloppy => {
                Route::StandIn { place: 0 }
            }
            (_, _) => Route::Forward { place: first },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeSlot = NodeSlot(1);
    const B: NodeSlot = NodeSlot(2);

    fn all_usable(_: NodeSlot) -> Reach {
        Reach::Usable
    }

    fn here(place: Place) -> Route {
        Route::Here { place }
    }

    #[test]
    fn any_owner_coordinates_a_read() {
        let owners = Preference::new([A, SELF, B]);
        let route = owners.route(Access::AnyOwner, Strictness::Strict, false, all_usable);
        assert_eq!(route, here(1));
        let strangers = Preference::new([A, B]);
        let route = strangers.route(Access::AnyOwner, Strictness::Strict, false, all_usable);
        assert_eq!(route, Route::Forward { place: 0 });
    }

    #[test]
    fn blind_writes_go_to_the_first_owner_that_can_be_reached() {
        let owners = Preference::new([A, SELF, B]);
        let route = owners.route(Access::FirstOwner, Strictness::Strict, false, all_usable);
        assert_eq!(route, Route::Forward { place: 0 });
        let a_is_gone = |node| {
            if node == A {
                Reach::Doubtful
            } else {
                Reach::Usable
            }
        };
        let route = owners.route(Access::FirstOwner, Strictness::Strict, false, a_is_gone);
        assert_eq!(route, here(1));
        let first = Preference::new([SELF, A, B]);
        let route = first.route(Access::FirstOwner, Strictness::Strict, false, all_usable);
        assert_eq!(route, here(0));
    }

    #[test]
    fn a_request_is_forwarded_once() {
        let owners = Preference::new([A, SELF, B]);
        let route = owners.route(Access::FirstOwner, Strictness::Strict, true, all_usable);
        assert_eq!(route, here(1));
        let strangers = Preference::new([A, B]);
        for access in [Access::AnyOwner, Access::FirstOwner] {
            assert_eq!(
                strangers.route(access, Strictness::Strict, true, all_usable),
                Route::NotOwner
            );
        }
    }

    #[test]
    fn with_nobody_in_reach_the_first_owner_is_tried_all_the_same() {
        let strangers = Preference::new([A, B]);
        let route = strangers.route(Access::AnyOwner, Strictness::Strict, false, |_| {
            Reach::Doubtful
        });
        assert_eq!(route, Route::Forward { place: 0 });
    }

    #[test]
    fn a_stranger_stands_in_only_when_no_owner_is_in_reach_and_only_for_sloppy_writes() {
        let strangers = Preference::new([A, B]);
        let route = |reach: fn(NodeSlot) -> Reach, forwarded| {
            strangers.route(Access::FirstOwner, Strictness::Sloppy, forwarded, reach)
        };
        assert_eq!(
            route(|_| Reach::Doubtful, false),
            Route::StandIn { place: 0 }
        );
        assert_eq!(route(all_usable, false), Route::Forward { place: 0 });
        assert_eq!(route(|_| Reach::Doubtful, true), Route::NotOwner);
        // An owner coordinates by itself.
        let owners = Preference::new([A, SELF, B]);
        let doubtful = |_| Reach::Doubtful;
        let route = owners.route(Access::FirstOwner, Strictness::Sloppy, false, doubtful);
        assert_eq!(route, here(1));
    }

    #[test]
    fn turns_share_the_load() {
        let owners = Preference::new([SELF, A, B]);
        let first = |turn| owners.others(0, turn).next().map(|(_, node)| node);
        assert_eq!(first(1), Some(A));
        assert_eq!(first(2), Some(B));
        assert_eq!(owners.others(0, 5).count(), 2);
    }
}
