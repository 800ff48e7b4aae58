//! Pages of a range, merged from the memtables and the tree.

use bytes::Bytes;
use dynakv_protocol::hash::Position;

use super::Shared;
use crate::error::StoreError;
use crate::format::{key_of_record, position_of_record};
use crate::memtable::Cursor;
use crate::store::{Item, Page, PageBuilder, PageLimit, PositionRange};
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
        // them at least. No lock is held from here on.
        let tables = {
            let tables = self.tables();
            let frozen = tables.frozen.as_ref().map(|frozen| frozen.table.clone());
            [Some(tables.active.clone()), frozen]
        };
        let cursor = |table| Cursor::new(table, range, after_key);
        let mut merge = Merge {
            tables: tables.into_iter().flatten().map(cursor).collect(),
            tree: self.tree.cursor(range, after_key),
        };
        let mut page = PageBuilder::new(limit);
        loop {
            match merge.next() {
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
}

/// A place in ring order.
type Place<'a> = (Position, &'a [u8]);

impl Merge<'_> {
    fn next(&mut self) -> Result<Option<Item>, StoreError> {
        loop {
            let newest = self.newest_at_front();
            let in_tree = self.tree.peek()?;
            let in_tree: Option<Place<'_>> =
                in_tree.map(|it| (position_of_record(it), key_of_record(it)));
            let Some((index, position, key)) = newest else {
                // Nothing but the tree is left.
                match self.tree.next()? {
                    Some((key, Some(versions))) => return Ok(Some(Item { key, versions })),
                    // Gone meanwhile.
                    Some((_, None)) => continue,
                    None => return Ok(None),
                }
            };
            match in_tree {
                Some(place) if place < (position, &key[..]) => {
                    if let Some((key, Some(versions))) = self.tree.next()? {
                        return Ok(Some(Item { key, versions }));
                    }
                    continue;
                }
                // An older value of the same key: not even read, so that its damage is no matter.
                Some(place) if place == (position, &key[..]) => self.tree.skip(),
                Some(_) | None => {}
            }
            for older in &mut self.tables[index + 1..] {
                if older
                    .peek()
                    .is_some_and(|it| (it.position, &it.key) == (position, &key))
                {
                    older.next();
                }
            }
            let newest = self.tables[index].next();
            return Ok(newest.map(|entry| Item {
                key: entry.key,
                versions: entry.versions,
            }));
        }
    }

    /// The first key of all memtables, and the newest of them that has it.
    fn newest_at_front(&mut self) -> Option<(usize, Position, Bytes)> {
        let mut first: Option<(usize, Position, Bytes)> = None;
        for (index, table) in self.tables.iter_mut().enumerate() {
            let Some(entry) = table.peek() else { continue };
            let is_before = |(_, position, key): &(usize, Position, Bytes)| {
                (entry.position, &entry.key) < (*position, key)
            };
            if first.as_ref().is_none_or(is_before) {
                first = Some((index, entry.position, entry.key.clone()));
            }
        }
        first
    }
}
