//! One client of the load: reads, replaces what it read, writes with old contexts, writes blindly,
//! deletes.
//!
//! What a key is used for depends on its number. Of keys that are only written with contexts the books
//! know exactly what replaced what, so nothing that gets lost there is ever excused by chance; a blind
//! write excuses all that was begun before it. Keys that one client alone writes, blindly and one write
//! after the other, have no such excuse: there the last write is what must be shown, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynakv_client::{Client, Context, Error};

use super::books::Trust;
use super::log::{Entry, Log, LogError};
use super::shared::Shared;
use super::value::{self, Shown};
use crate::history::{BooksError, Outcome};

/// A part of the requests goes to so few keys, so that clients meet.
const HOT_KEYS: u32 = 16;

/// A client remembers so many of its reads, for writes with an old context.
const SEEN_MAX: usize = 32;

/// Where there are that many values already, no more are put beside them.
const SIBLINGS_MAX: usize = 8;

/// Most values are small; a few are longer than what the store keeps in one piece.
const PADDING_MAX: usize = 200;
const LONG_PADDING_MAX: usize = 12_000;

/// What a client remembers of a read.
#[derive(Debug, Clone)]
struct Seen {
    context: Context,
    writes: Vec<Shown>,
}

/// The audit cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the books of this audit contradict themselves: {0}")]
    Books(#[from] BooksError),
}

/// A client at work.
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log,
    pub(super) random: fastrand::Rng,
    pub(super) keys: u32,
    is_sloppy: bool,
    place: Place,
    seen: BTreeMap<u32, Seen>,
}

/// Which one of how many clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) number: u32,
    pub(super) clients: u32,
}

/// Every so many keys there is one that only one client writes.
const ALONE_EVERY: u32 = 8;
/// The first of them.
const ALONE_FIRST: u32 = 6;

impl Place {
    /// Whether this client is the one that writes a key first: of those that one alone writes, that one.
    fn fills(self, key: u32) -> bool {
        key / ALONE_EVERY % self.clients == self.number
    }

    /// A key that only this client writes, near this one; nothing if there are too few keys.
    fn own_key(self, near: u32, keys: u32) -> Option<u32> {
        let all = (keys + ALONE_EVERY - 1 - ALONE_FIRST) / ALONE_EVERY;
        let rank = near / ALONE_EVERY;
        let own = rank - rank % self.clients + self.number;
        let own = if own < all { own } else { self.number };
        (own < all).then_some(own * ALONE_EVERY + ALONE_FIRST)
    }
}

impl Worker {
    pub(super) fn new(
        client: Client,
        shared: Arc<Shared>,
        log: Log,
        random: fastrand::Rng,
        keys: u32,
        is_sloppy: bool,
        place: Place,
    ) -> Self {
        Self {
            client,
            shared,
            log,
            random,
            keys,
            is_sloppy,
            place,
            seen: BTreeMap::new(),
        }
    }

    /// Works until it is time to end; where the cluster is to be filled, after each of its keys was written once.
    ///
    /// # Errors
    /// [`WorkError`]; a failed request is none.
    pub(super) async fn run(mut self, fills: bool) -> Result<(), WorkError> {
        if fills {
            self.fill().await?;
        }
        while !self.shared.is_stopped() {
            self.one().await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), WorkError> {
        let is_strict = self.shared.trust == Trust::Strict;
        for key in 0..self.keys {
            if self.shared.is_stopped() {
                return Ok(());
            }
            if !self.place.fills(key) {
                continue;
            }
            match key % ALONE_EVERY {
                ALONE_FIRST if is_strict => self.write_alone(key, false).await?,
                _ => self.update(key, false).await?,
            }
        }
        self.shared.has_filled();
        Ok(())
    }

    async fn one(&mut self) -> Result<(), WorkError> {
        let key = match self.random.u8(..4) {
            0 => self.random.u32(..HOT_KEYS.min(self.keys)),
            _ => self.random.u32(..self.keys),
        };
        let percent = self.random.u8(..100);
        match key % ALONE_EVERY {
            // Only with contexts.
            0..=4 => match percent {
                0..25 => self.read(key).await,
                25..70 => self.update(key, false).await?,
                70..80 => self.update(key, true).await?,
                _ => self.write_as_seen(key).await?,
            },
            // Blind writes of one client alone; anybody reads them. Only strict ones promise anything.
            ALONE_FIRST if self.shared.trust == Trust::Strict => {
                let own = self.place.own_key(key, self.keys);
                match (percent, own) {
                    (0..35, _) | (_, None) => self.read(key).await,
                    (35..80, Some(own)) => self.write_alone(own, false).await?,
                    (_, Some(own)) => self.write_alone(own, true).await?,
                }
            }
            // Blind puts as well.
            5 | ALONE_FIRST => match percent {
                0..25 => self.read(key).await,
                25..50 => self.update(key, false).await?,
                50..55 => self.update(key, true).await?,
                _ => self.write(key, false, None).await?,
            },
            // Blind deletes, too.
            _ => match percent {
                0..25 => self.read(key).await,
                25..45 => self.update(key, false).await?,
                45..85 => self.write(key, false, None).await?,
                _ => self.write(key, true, None).await?,
            },
        }
        Ok(())
    }

    async fn read(&mut self, key: u32) {
        let began = self.shared.now();
        let name = value::key_name(self.shared.run, key);
        let fetched = self.client.get(&name).send().await;
        let now = self.shared.now();
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                self.seen.remove(&key);
                self.shared.fail("a read", key, &error).await;
                return;
            }
        };
        self.shared.succeeded(began);
        let values: Vec<_> = fetched
            .siblings
            .into_iter()
            .map(|s| (s.value, s.dot))
            .collect();
        let trust = self.shared.trust;
        let writes = self.shared.books().on_read(key, &values, trust, began, now);
        if self.seen.len() >= SEEN_MAX {
            let forgotten = self.random.usize(..self.seen.len());
            let forgotten = self.seen.keys().nth(forgotten).copied();
            forgotten.and_then(|key| self.seen.remove(&key));
        }
        let context = fetched.context;
        self.seen.insert(key, Seen { context, writes });
    }

    /// Reads, and replaces or deletes all that was read.
    async fn update(&mut self, key: u32, is_delete: bool) -> Result<(), WorkError> {
        self.read(key).await;
        match self.seen.get(&key).cloned() {
            Some(seen) => self.write(key, is_delete, Some(seen)).await,
            None => Ok(()),
        }
    }

    /// Writes with the context of an earlier read: others may have written since.
    async fn write_as_seen(&mut self, key: u32) -> Result<(), WorkError> {
        // Of a key that was seen, or else of the one at hand.
        let key = match self.seen.len() {
            0 => key,
            seen => {
                let some = self.random.usize(..seen);
                self.seen.keys().nth(some).copied().unwrap_or(key)
            }
        };
        match self.seen.get(&key).cloned() {
            Some(seen) if seen.writes.len() < SIBLINGS_MAX => {
                self.write(key, false, Some(seen)).await
            }
            _ => self.update(key, false).await,
        }
    }

    async fn write(
        &mut self,
        key: u32,
        is_delete: bool,
        seen: Option<Seen>,
    ) -> Result<(), WorkError> {
        let (context, before) = match seen {
            Some(seen) => (Some(seen.context), Some(seen.writes)),
            None => (None, None),
        };
        let shared = Arc::clone(&self.shared);
        let at = shared.now();
        let name = shared.books().begin(key, is_delete, &before, at)?;
        let begun = Entry::Begun {
            at,
            name,
            is_delete,
            before,
            is_alone: false,
        };
        self.log.add(&begun).await?;
        self.send_and_note(name, is_delete, context).await
    }

    /// Writes a key that nobody else writes, without a context; the one before it has ended.
    async fn write_alone(&mut self, key: u32, is_delete: bool) -> Result<(), WorkError> {
        let at = self.shared.now();
        let name = self.shared.books().begin_alone(key, is_delete, at)?;
        let begun = Entry::Begun {
            at,
            name,
            is_delete,
            before: None,
            is_alone: true,
        };
        self.log.add(&begun).await?;
        self.send_and_note(name, is_delete, None).await?;
        // What was undone shows soonest now.
        if self.random.bool() {
            self.read(key).await;
        }
        Ok(())
    }

    /// Sends a write that is begun, and notes how it ended.
    async fn send_and_note(
        &mut self,
        name: value::WriteName,
        is_delete: bool,
        context: Option<Context>,
    ) -> Result<(), WorkError> {
        let (shared, key) = (Arc::clone(&self.shared), name.key);
        let began = shared.now();
        let answer = self.send(name, is_delete, context).await;
        let at = shared.now();
        if answer.is_ok() {
            shared.succeeded(began);
        }
        let outcome = match &answer {
            Ok(()) => Outcome::Acknowledged,
            Err(error) if error.maybe_applied() => Outcome::Unknown,
            Err(_) => Outcome::NotApplied,
        };
        // On disk first, then in the books: what is counted can be proved.
        self.log.add(&Entry::Ended { at, name, outcome }).await?;
        shared.books().end(name, outcome, at)?;
        if let Err(error) = &answer {
            let what = if is_delete { "a delete" } else { "a put" };
            shared.fail(what, key, error).await;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        name: value::WriteName,
        is_delete: bool,
        context: Option<Context>,
    ) -> Result<(), Error> {
        let run = self.shared.run;
        let key = value::key_name(run, name.key);
        if is_delete {
            let delete = self.client.delete(&key);
            let delete = match context {
                Some(context) => delete.context(context),
                None => delete,
            };
            let delete = match self.is_sloppy {
                true => delete.sloppy(),
                false => delete,
            };
            return delete.send().await.map(drop);
        }
        let padding = match self.random.u8(..50) {
            0 => self.random.usize(..LONG_PADDING_MAX),
            _ => self.random.usize(..PADDING_MAX),
        };
        let put = self.client.put(&key, value::encode(run, name, padding));
        let put = match context {
            Some(context) => put.context(context),
            None => put,
        };
        let put = match self.is_sloppy {
            true => put.sloppy(),
            false => put,
        };
        put.send().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_client_has_keys_of_its_own_and_together_they_have_all() {
        for (clients, keys) in [(1, 8), (3, 100), (16, 300), (16, 20), (5, 6)] {
            let mut all = BTreeSet::new();
            for number in 0..clients {
                let place = Place { number, clients };
                let own = (0..keys).filter_map(|near| place.own_key(near, keys));
                let own: BTreeSet<u32> = own.collect();
                assert!(own.iter().all(|&key| place.fills(key)));
                assert!(all.is_disjoint(&own), "{clients} clients, {keys} keys");
                all.extend(own);
            }
            let expected = (0..keys).filter(|key| key % ALONE_EVERY == ALONE_FIRST);
            assert!(
                all.into_iter().eq(expected),
                "{clients} clients, {keys} keys"
            );
        }
    }
}
