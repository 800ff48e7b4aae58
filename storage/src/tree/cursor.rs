//! Walking through the tree in ring order.
//!
//! A segment is gone through by the arrangement that it has when the walk comes to it. If it has another one after
//! something was read, what comes before that may have been removed already: the walk forgets it, and goes on by the
//! new one from where it was.

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};

use super::Tree;
use super::arrangements::Arrangement;
use super::block::BlockKey;
use super::content::{Content, Found, keys_of_depth};
use super::failure::guarded;
use super::source::Source;
use crate::error::{Damage, StoreError};
use crate::items::{Cut, PositionRange};

/// Walks the records of a range, in ring order. Sees those that were there when it began.
pub(crate) struct TreeCursor<'a> {
    tree: &'a Tree,
    walk: Walk<'a>,
}

/// What comes next on a walk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A record, with its position and its key.
    Record(Position, &'a [u8]),
    /// The end of an arc in which keys may be lost: what lies before this position comes first. `None` for the end of the
    /// ring.
    Loss(Option<Position>),
}

impl<'a> TreeCursor<'a> {
    /// From one place to another, or to the end of the ring. With `is_whole` that is the end of what is walked through:
    /// an arc with losses that goes beyond it is told of there, and not by who walks on.
    pub(super) fn new(tree: &'a Tree, from: &Cut, up_to: Option<&Cut>, is_whole: bool) -> Self {
        let walk = Walk {
            content: &tree.content,
            at: Some(from.clone()),
            up_to: up_to.cloned(),
            is_whole,
            segment: None,
            source: None,
            coming: Coming::Nothing,
        };
        Self { tree, walk }
    }

    /// What comes next, and stays there.
    pub(crate) fn peek(&mut self) -> Result<Option<Next<'_>>, StoreError> {
        let (tree, walk) = (self.tree, &mut self.walk);
        guarded(&tree.directory, || {
            walk.advance().map_err(tree.failure("read"))
        })?;
        Ok(self.walk.next())
    }

    /// Leaves the next record out.
    pub(crate) fn skip(&mut self) {
        self.walk.pass();
    }

    /// Takes the next record: its key and, checked against their checksum, its versions. `None` at the
    /// end; the inner one for a record that is gone.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Option<Bytes>)>, StoreError> {
        self.peek()?;
        let (tree, walk) = (self.tree, &mut self.walk);
        if let Some((range, damage)) = walk.take_loss() {
            tree.content.damages.met_loss();
            return Err(StoreError::CorruptRange { range, damage });
        }
        let read = guarded(&tree.directory, || {
            walk.read().map_err(tree.failure("read"))
        });
        let read = read?;
        walk.pass();
        match read {
            None => Ok(None),
            // Its key is damaged, too, so that it names no place to go on behind.
            Some((position, key, Found::Damaged(damage) | Found::Lost(damage)))
                if Position::of_key(&key) != position =>
            {
                tree.content.damages.met_loss();
                let range = PositionRange {
                    start: position,
                    end: position.0.checked_add(1).map(Position),
                };
                Err(StoreError::CorruptRange { range, damage })
            }
            Some((_, key, Found::Versions(versions))) => Ok(Some((key, Some(versions)))),
            Some((_, key, Found::Nothing)) => Ok(Some((key, None))),
            Some((position, key, Found::Damaged(damage) | Found::Lost(damage))) => {
                Err(tree.corrupt(position, &key, damage))
            }
        }
    }
}

/// A walk, in sled's own terms.
struct Walk<'a> {
    content: &'a Content,
    /// Everything before this place was gone through or lies in the source; `None` at the end of the ring.
    at: Option<Cut>,
    up_to: Option<Cut>,
    is_whole: bool,
    segment: Option<Entered>,
    source: Option<Source>,
    /// What the source has next.
    coming: Coming,
}

/// What a source has next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coming {
    Nothing,
    Record,
    Loss,
}

/// A segment that is gone through.
struct Entered {
    number: Segment,
    arrangement: Arrangement,
    /// Its blocks that are not gone through yet.
    blocks: Option<sled::Iter>,
}

impl Walk<'_> {
    /// Goes on until something comes next, or to the end. What has come stays until it is passed: what the caller has
    /// given since lies before it.
    fn advance(&mut self) -> sled::Result<()> {
        if self.coming != Coming::Nothing {
            return Ok(());
        }
        loop {
            while self.source.is_some() {
                self.coming = self.come_to()?;
                if self.is_stale() {
                    (self.source, self.segment) = (None, None);
                    self.coming = Coming::Nothing;
                } else if self.coming != Coming::Nothing {
                    return Ok(());
                }
                self.leave_source();
            }
            if self.is_beyond_end() || !self.enter_next()? {
                self.at = None;
                return Ok(());
            }
        }
    }

    /// What comes next, where `advance` has come to.
    fn next(&self) -> Option<Next<'_>> {
        let source = self.source.as_ref()?;
        match self.coming {
            Coming::Nothing => None,
            Coming::Loss => Some(Next::Loss(source.arc().end)),
            Coming::Record => source
                .record()
                .map(|(position, key)| Next::Record(position, key)),
        }
    }

    /// What the source has next within the walk, and comes to it.
    fn come_to(&mut self) -> sled::Result<Coming> {
        let Some(source) = &mut self.source else {
            return Ok(Coming::Nothing);
        };
        while !source.is_at_end()? {
            let Some((position, key)) = source.record() else {
                break;
            };
            if is_behind(self.at.as_ref(), position, key) {
                match is_beyond(self.up_to.as_ref(), position, key) {
                    true => break,
                    false => return Ok(Coming::Record),
                }
            }
            source.pass();
        }
        // Who walks on comes to the rest of the arc, and to its end.
        let end = source.arc().end;
        let goes_on = self
            .up_to
            .as_ref()
            .is_some_and(|up_to| !self.is_whole && end.is_none_or(|end| end > up_to.position));
        Ok(match source.is_lost() && !goes_on {
            true => Coming::Loss,
            false => Coming::Nothing,
        })
    }

    /// Goes behind the source.
    fn leave_source(&mut self) {
        let Some(source) = self.source.take() else {
            return;
        };
        self.at = source.arc().end.map(Cut::before);
    }

    /// Whether the source is of items that were moved since.
    fn is_stale(&self) -> bool {
        let number = self.segment.as_ref().map(|entered| entered.number);
        self.source.as_ref().is_some_and(Source::is_of_items)
            && !number.is_some_and(|number| self.is_as_entered(number))
    }

    fn is_as_entered(&self, number: Segment) -> bool {
        let now = self.content.arrangements.of(number);
        self.segment
            .as_ref()
            .is_some_and(|entered| entered.number == number && entered.arrangement == now)
    }

    /// Comes to the next source, in this segment or behind it. False at the end of the ring.
    fn enter_next(&mut self) -> sled::Result<bool> {
        loop {
            let Some(at) = self.at.clone() else {
                return Ok(false);
            };
            let number = at.position.segment();
            if self.segment.as_ref().is_none_or(|it| it.number != number) {
                // Whatever has come to a segment before it was nothing that the walk has to see.
                let Some(number) = self.content.next_segment(at.position)? else {
                    return Ok(false);
                };
                if number != at.position.segment() {
                    self.at = Some(Cut::before(number.start()));
                }
                if self.is_beyond_end() {
                    return Ok(false);
                }
                self.enter(number);
                continue;
            }
            if self.is_beyond_end() {
                return Ok(false);
            }
            let Some(entered) = &mut self.segment else {
                continue;
            };
            let Some(blocks) = &mut entered.blocks else {
                self.source = Some(Source::of_items(self.content, &at));
                return Ok(true);
            };
            let block = blocks.next().transpose()?;
            if !self.is_as_entered(number) {
                self.enter(number);
                continue;
            }
            match block {
                Some((key, stored)) => {
                    let Some(key) = BlockKey::from_bytes(&key) else {
                        continue;
                    };
                    self.source = Some(Source::of_block(self.content, key, stored, &at));
                    return Ok(true);
                }
                None => {
                    self.segment = None;
                    self.at = PositionRange::of_segment(number).end.map(Cut::before);
                }
            }
        }
    }

    fn enter(&mut self, number: Segment) {
        let arrangement = self.content.arrangements.of(number);
        let start = number.start();
        let at = self.at.as_ref().map_or(start, |at| at.position.max(start));
        self.segment = Some(Entered {
            number,
            arrangement,
            blocks: match arrangement {
                Arrangement::Records => None,
                Arrangement::Blocks(depth) => {
                    let from = BlockKey::of(at, depth).to_bytes();
                    let (_, last) = keys_of_depth(number, depth).into_inner();
                    Some(self.content.blocks.range(from..=last))
                }
            },
        });
    }

    fn is_beyond_end(&self) -> bool {
        match (&self.at, &self.up_to) {
            (Some(at), Some(up_to)) => match &up_to.behind {
                Some(_) => at.position > up_to.position,
                None => at.position >= up_to.position,
            },
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// Goes behind the record that comes next.
    fn pass(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        if self.coming != Coming::Record {
            return;
        }
        // A block is held as a whole, items may be moved meanwhile.
        if source.is_of_items()
            && let Some((position, key)) = source.record()
        {
            self.at = Some(Cut {
                position,
                behind: Some(Box::from(key)),
            });
        }
        source.pass();
        self.coming = Coming::Nothing;
    }

    /// The loss that comes next, if it is one, and goes behind it.
    fn take_loss(&mut self) -> Option<(PositionRange, Damage)> {
        if self.coming != Coming::Loss {
            return None;
        }
        let source = self.source.as_mut()?;
        let (arc, damage) = (source.arc(), source.take_lost()?);
        let up_to = self.up_to.as_ref().map(|up_to| up_to.position);
        let end = match (arc.end, up_to) {
            (Some(end), Some(up_to)) => Some(end.min(up_to)),
            (end, up_to) => end.or(up_to),
        };
        let range = PositionRange { end, ..arc };
        self.coming = Coming::Nothing;
        self.leave_source();
        Some((range, damage))
    }

    /// Reads the record that comes next.
    fn read(&self) -> sled::Result<Option<(Position, Bytes, Found)>> {
        let (Coming::Record, Some(source)) = (self.coming, &self.source) else {
            return Ok(None);
        };
        let Some((position, key)) = source.record() else {
            return Ok(None);
        };
        let key = Bytes::copy_from_slice(key);
        let found = match self.content.versions(source.check())? {
            Ok(versions) => Found::Versions(versions),
            // A checkpoint may have replaced it meanwhile.
            Err(damage) => match self.content.get(position, &key)? {
                // If its key is damaged, too, nobody finds it.
                Found::Nothing if Position::of_key(&key) != position => Found::Damaged(damage),
                found => found,
            },
        };
        Ok(Some((position, key, found)))
    }
}

/// Whether a record lies behind a place.
fn is_behind(cut: Option<&Cut>, position: Position, key: &[u8]) -> bool {
    cut.is_none_or(|cut| match &cut.behind {
        Some(behind) => (position, key) > (cut.position, behind),
        None => position >= cut.position,
    })
}

/// Whether a record lies behind the end of a walk.
fn is_beyond(up_to: Option<&Cut>, position: Position, key: &[u8]) -> bool {
    up_to.is_some_and(|up_to| is_behind(Some(up_to), position, key))
}
