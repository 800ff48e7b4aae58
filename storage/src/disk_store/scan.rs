//! Pages of a range, merged from the table and the tree.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec;

use bytes::Bytes;

use super::Shared;
use crate::error::StoreError;
use crate::items::{Cut, Item, Page, PageBuilder, PageLimit, PositionRange};
use crate::table::{DirtyStretch, Entry};
use crate::tree::{Next, Tree, TreeCursor};

impl Shared {
    pub(super) fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.in_tree(|tree| {
            let mut page = PageBuilder::new(limit);
            let mut from = Cut::beginning(range, after_key);
            loop {
                let mut merge = Merge::begin(self, tree, &from, range);
                loop {
                    match merge.next() {
                        Ok(Some(item)) => {
                            if page.push(item).is_err() {
                                return Ok(page.with_more());
                            }
                        }
                        Ok(None) => break,
                        // The page ends before the damaged value; the next one begins with it and says so.
                        Err(StoreError::Corrupt { .. } | StoreError::CorruptRange { .. })
                            if !page.is_empty() =>
                        {
                            return Ok(page.with_more());
                        }
                        Err(error) => return Err(error),
                    }
                }
                match merge.up_to {
                    Some(up_to) => from = up_to,
                    None => return Ok(page.last()),
                }
            }
        })
    }
}

/// Two walks through a stretch of the ring side by side. Of two values of a key that of the table counts.
struct Merge<'a> {
    dirty: Peekable<vec::IntoIter<Entry>>,
    tree: TreeCursor<'a>,
    up_to: Option<Cut>,
}

impl<'a> Merge<'a> {
    fn begin(shared: &Shared, tree: &'a Tree, from: &Cut, range: PositionRange) -> Self {
        // The table before the tree: what a checkpoint carries over meanwhile is then seen in one of them at least.
        let stretch = DirtyStretch::take(&shared.table, from, range.end);
        let end = range.end.map(Cut::before);
        Self {
            tree: match &stretch.up_to {
                Some(up_to) => tree.cursor(from, Some(up_to), false),
                None => tree.cursor(from, end.as_ref(), true),
            },
            dirty: stretch.entries.into_iter().peekable(),
            up_to: stretch.up_to,
        }
    }

    fn next(&mut self) -> Result<Option<Item>, StoreError> {
        loop {
            let order = match (self.dirty.peek(), self.tree.peek()?) {
                (Some(entry), Some(Next::Record(position, key))) => {
                    (position, key).cmp(&entry.place())
                }
                // What is dirty in an arc with losses comes before these.
                (Some(entry), Some(Next::Loss(end))) => match end {
                    Some(end) if end <= entry.position => Ordering::Less,
                    _ => Ordering::Greater,
                },
                (Some(_), None) => Ordering::Greater,
                (None, _) => Ordering::Less,
            };
            let Some(entry) = self.dirty.next_if(|_| order.is_ge()) else {
                match self.tree.next()? {
                    Some((key, Some(versions))) => return Ok(Some(Item { key, versions })),
                    // Gone meanwhile.
                    Some((_, None)) => continue,
                    None => return Ok(None),
                }
            };
            if order.is_eq() {
                // An older value of the same key: not even read, so that its damage is no matter.
                self.tree.skip();
            }
            if entry.pair.versions().is_empty() {
                // It is removed.
                continue;
            }
            return Ok(Some(Item {
                key: Bytes::copy_from_slice(entry.pair.key()),
                versions: entry.pair.shared_versions(),
            }));
        }
    }
}
