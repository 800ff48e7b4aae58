//! Pages of a range, merged from the memtables and the tree.

use std::cmp::Ordering;

use bytes::Bytes;

use super::Shared;
use crate::error::StoreError;
use crate::format::{key_of_record, position_of_record};
use crate::items::{Item, Page, PageBuilder, PageLimit, PositionRange};
use crate::memtable::{Cursor, Entry};
use crate::tree::TreeCursor;

/// Walks that go on side by side, the newest first: of several values of a key the first one counts.
struct Merge<'a> {
    tables: Vec<Cursor>,
    tree: TreeCursor<'a>,
}

impl Shared {
    pub(super) fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        // The memtables before the tree: what a checkpoint carries over meanwhile is then seen in one of
        // them at least. Only the tree is held from here on.
        let tables = {
            let tables = self.tables();
            let frozen = tables.frozen.as_ref().map(|frozen| frozen.table.clone());
            [Some(tables.active.clone()), frozen]
        };
        let cursor = |table| Cursor::new(table, range, after_key);
        self.in_tree(|tree| {
            let merge = Merge {
                tables: tables.into_iter().flatten().map(cursor).collect(),
                tree: tree.cursor(range, after_key),
            };
            merge.fill(PageBuilder::new(limit))
        })
    }
}

impl Merge<'_> {
    fn fill(mut self, mut page: PageBuilder) -> Result<Page, StoreError> {
        loop {
            match self.next() {
                Ok(Some(item)) => {
                    if page.push(item).is_err() {
                        return Ok(page.with_more());
                    }
                }
                Ok(None) => return Ok(page.last()),
                // The page ends before the damaged value; the next one begins with it and says so.
                Err(StoreError::Corrupt { .. }) if !page.is_empty() => return Ok(page.with_more()),
                Err(error) => return Err(error),
            }
        }
    }

    fn next(&mut self) -> Result<Option<Item>, StoreError> {
        loop {
            let newest = self.newest_at_front();
            let in_tree = self.tree.peek()?;
            let in_tree = in_tree.map(|it| (position_of_record(it), key_of_record(it)));
            let order = match (&newest, in_tree) {
                (Some((_, entry)), Some(place)) => place.cmp(&entry.place()),
                (Some(_), None) => Ordering::Greater,
                (None, _) => Ordering::Less,
            };
            let Some((index, entry)) = newest.filter(|_| order.is_ge()) else {
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
            for table in &mut self.tables[index..] {
                if table.peek().is_some_and(|it| it.place() == entry.place()) {
                    table.next();
                }
            }
            return Ok(Some(Item {
                key: Bytes::copy_from_slice(entry.pair.key()),
                versions: entry.pair.shared_versions(),
            }));
        }
    }

    /// The first entry of all memtables, and the newest of them that has it.
    fn newest_at_front(&mut self) -> Option<(usize, Entry)> {
        let mut first: Option<(usize, &Entry)> = None;
        for (index, table) in self.tables.iter_mut().enumerate() {
            let Some(entry) = table.peek() else { continue };
            if first.is_none_or(|(_, first)| entry.place() < first.place()) {
                first = Some((index, entry));
            }
        }
        first.map(|(index, entry)| (index, entry.clone()))
    }
}
