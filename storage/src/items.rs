//! What goes into a store, and what is read from it in order.

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};

use crate::footprint::Footprint;

/// Versions up to this size, in bytes, are copied for who reads them, and may be read without waiting; larger ones are
/// neither.
pub(crate) const HOT_BYTES_MAX: usize = 4096;

/// The new state of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The key.
    pub key: Bytes,
    /// Encoded [`Versions`](dynakv_protocol::causal::Versions); replaces what is there. Empty, which no encoding is, for a
    /// key that is to be removed.
    pub versions: Bytes,
    /// What the key added to the totals and to its segment's hash until now.
    pub before: Footprint,
    /// What it adds from now on.
    pub after: Footprint,
}

impl Mutation {
    /// Removes a key, and its clock with it, as if it had never been written. `before` is what it adds to the totals and
    /// to its segment's hash.
    ///
    /// The store does not ask whether that is safe: a copy elsewhere that is older than what was removed comes back.
    pub fn removal(key: Bytes, before: Footprint) -> Self {
        Self {
            key,
            versions: Bytes::new(),
            before,
            after: Footprint::default(),
        }
    }
}

/// An arc of the ring that does not wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionRange {
    /// The first position in it.
    pub start: Position,
    /// The first position behind it; `None` for the end of the ring.
    pub end: Option<Position>,
}

impl PositionRange {
    /// The whole ring.
    pub const ALL: Self = Self {
        start: Position(0),
        end: None,
    };

    /// The positions of one segment.
    pub fn of_segment(segment: Segment) -> Self {
        Self {
            start: segment.start(),
            end: segment.0.checked_add(1).map(|next| Segment(next).start()),
        }
    }

    /// Whether a position lies in it.
    pub fn contains(self, position: Position) -> bool {
        position >= self.start && self.end.is_none_or(|end| position < end)
    }
}

impl PositionRange {
    /// What of it lies behind a part that a walk has come to; `None` when nothing does.
    pub(crate) fn behind(self, part: Self) -> Option<Self> {
        let start = part.end?;
        (start > self.start && self.contains(start)).then_some(Self { start, ..self })
    }
}

/// A place between two keys of the ring: before all keys of a position, or right behind one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) position: Position,
    /// Behind this key, which lies at the position.
    pub(crate) behind: Option<Box<[u8]>>,
}

impl Cut {
    /// Before all keys of a position.
    pub(crate) fn before(position: Position) -> Self {
        Self {
            position,
            behind: None,
        }
    }

    /// Where a walk through a range begins, or goes on behind a key.
    pub(crate) fn beginning(range: PositionRange, after_key: Option<&[u8]>) -> Self {
        let after = after_key.map(|key| (Position::of_key(key), key));
        match after.filter(|(position, _)| *position >= range.start) {
            Some((position, key)) => Self {
                position,
                behind: Some(Box::from(key)),
            },
            None => Self::before(range.start),
        }
    }
}

/// How large a page may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// The most items; 0 counts as 1, so that every page gets on.
    pub items_max: usize,
    /// The most bytes of keys and versions. The first item is given whatever its size.
    pub bytes_max: usize,
}

/// One key and what is stored under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// Encoded [`Versions`](dynakv_protocol::causal::Versions).
    pub versions: Bytes,
}

/// A part of a range, in ring order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The items, by position, then by key.
    pub items: Vec<Item>,
    /// Where to go on (the `after_key` of the next page); `None` when the range is finished.
    pub next: Option<Bytes>,
}

/// Fills pages: the rule of when one is full, the same for every store.
pub(crate) struct PageBuilder {
    limit: PageLimit,
    bytes: usize,
    items: Vec<Item>,
}

impl PageBuilder {
    /// An empty page.
    pub(crate) fn new(limit: PageLimit) -> Self {
        Self {
            limit,
            bytes: 0,
            items: Vec::new(),
        }
    }

    /// Whether nothing is on it yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Puts one more item on the page, or gives it back when the page is full.
    pub(crate) fn push(&mut self, item: Item) -> Result<(), Item> {
        let bytes = item.key.len() + item.versions.len();
        let room = self.items.len() < self.limit.items_max
            && self.bytes.saturating_add(bytes) <= self.limit.bytes_max;
        if !self.items.is_empty() && !room {
            return Err(item);
        }
        self.bytes += bytes;
        self.items.push(item);
        Ok(())
    }

    /// The page; there is more of the range behind it.
    pub(crate) fn with_more(self) -> Page {
        Page {
            next: self.items.last().map(|item| item.key.clone()),
            items: self.items,
        }
    }

    /// The page; the range ends with it.
    pub(crate) fn last(self) -> Page {
        Page {
            items: self.items,
            next: None,
        }
    }
}
