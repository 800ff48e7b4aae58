//! A client that writes keys of its own, each without a context and one write after the other, through any
//! node, and reads them in between: [`sequential_blind_writes`](crate::invariants::sequential_blind_writes).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dynakv_protocol::ids::WriteId;
use tokio::time::sleep;

use crate::client::{Client, Failure, get, write};
use crate::clock;
use crate::history::{History, Promise, Replaces, value_of};
use crate::invariants::Heard;

/// The pause between two requests, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 1..60;

/// How long a request may take: mostly little, so that there is much to see, and sometimes so much that a
/// node which hands it on tries the next owner besides.
const TIMEOUT: Duration = Duration::from_millis(1500);
const LONG_TIMEOUT: Duration = Duration::from_millis(4000);

/// So many keys at once: while one is written, another may rest for a while.
const KEYS_AT_ONCE: usize = 3;

/// A key with more writes than this in doubt says little any more: another takes its place.
const IN_DOUBT_MAX: usize = 2;

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Acknowledged,
    Refused,
    InDoubt,
}

/// The client and its keys.
pub(crate) struct BlindWriter {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) random: fastrand::Rng,
    pub(crate) history: Rc<RefCell<History>>,
    /// How many owners a read hears that is to meet each write; the default where it is nothing.
    pub(crate) r: Option<u8>,
    keys: Vec<Key>,
    keys_made: usize,
    /// Ids are those of one client, in the order of its writes.
    first_id: u128,
    writes: u128,
}

#[derive(Debug, Clone)]
struct Key {
    name: String,
    in_doubt: usize,
}

impl BlindWriter {
    pub(crate) fn new(
        name: &str,
        client: Client,
        random: fastrand::Rng,
        history: Rc<RefCell<History>>,
        r: Option<u8>,
    ) -> Self {
        let mut random = random;
        let first_id = u128::from(random.u64(1..)) << 64;
        Self {
            first_id,
            writes: 0,
            name: name.to_owned(),
            client,
            random,
            history,
            r,
            keys: Vec::new(),
            keys_made: 0,
        }
    }

    /// Works at random until it is time to end.
    pub(crate) async fn run(mut self, until: Duration) -> turmoil::Result {
        self.client.wait_for_cluster().await;
        while self.keys.len() < KEYS_AT_ONCE {
            let key = self.new_key();
            self.keys.push(key);
        }
        while clock::now() < until {
            sleep(Duration::from_millis(self.random.u64(PAUSE_MS))).await;
            let number = self.random.usize(..KEYS_AT_ONCE);
            let key = self.keys[number].name.clone();
            if self.random.u8(..10) < 4 {
                let node = self.any();
                self.read(node, &key).await;
                continue;
            }
            let is_delete = self.random.u8(..3) == 0;
            let timeout = match self.random.u8(..4) {
                0 => LONG_TIMEOUT,
                _ => TIMEOUT,
            };
            let node = self.any();
            let ended = self.write(node, &key, is_delete, timeout).await;
            if ended == Ended::InDoubt {
                self.keys[number].in_doubt += 1;
                if self.keys[number].in_doubt > IN_DOUBT_MAX {
                    self.keys[number] = self.new_key();
                }
            }
            if self.random.bool() {
                let node = self.any();
                self.read(node, &key).await;
            }
        }
        Ok(())
    }

    fn new_key(&mut self) -> Key {
        let name = format!("{}-{}", self.name, self.keys_made);
        self.keys_made += 1;
        self.promise(&name);
        Key { name, in_doubt: 0 }
    }

    /// From now on a key is held to what sequential blind writes promise.
    pub(crate) fn promise(&self, key: &str) {
        self.history.borrow_mut().promise(key, Promise::BlindWriter);
    }

    fn any(&mut self) -> usize {
        self.random.usize(..self.client.machines())
    }

    /// One write, sent once.
    pub(crate) async fn write(
        &mut self,
        node: usize,
        key: &str,
        is_delete: bool,
        timeout: Duration,
    ) -> Ended {
        self.writes += 1;
        let id = WriteId(self.first_id + self.writes);
        let blind = Replaces::WhatIsThere;
        let began = clock::now();
        self.history
            .borrow_mut()
            .begin(id, key, is_delete, blind, began);
        let value = (!is_delete).then(|| value_of(id));
        let what = if is_delete { "delete" } else { "put" };
        let to = node + 1;
        self.client
            .line(&format!("{what} {id:x?} of {key} to {to}"));
        let answer = self
            .client
            .write(node, write(key, id, value, timeout))
            .await;
        self.history.borrow_mut().end(id, &answer, clock::now());
        let (ended, outcome) = match &answer {
            Ok(_) => (Ended::Acknowledged, "acknowledged".to_owned()),
            Err(failure) => {
                let is_certain = match failure {
                    Failure::Refused(error) => !error.maybe_applied,
                    Failure::NotSent(_) => true,
                    Failure::Broken | Failure::Silent => false,
                };
                let ended = match is_certain {
                    true => Ended::Refused,
                    false => Ended::InDoubt,
                };
                (ended, failure.to_string())
            }
        };
        self.client
            .line(&format!("{what} {id:x?} of {key} at {to}: {outcome}"));
        ended
    }

    /// One read, held against what was written.
    pub(crate) async fn read(&mut self, node: usize, key: &str) {
        let began = clock::now();
        let mut request = get(key, TIMEOUT);
        request.r = self.r;
        let answer = self.client.get(node, request).await;
        let now = clock::now();
        let mut history = self.history.borrow_mut();
        history.expect_an_end(&answer, now);
        let shown = match answer {
            Ok(fetched) => {
                let shown = history.on_read(key, &fetched, (began, now), Heard::Quorum);
                format!("{shown:x?}")
            }
            Err(failure) => failure.to_string(),
        };
        drop(history);
        self.client
            .line(&format!("get {key} at {}: {shown}", node + 1));
    }
}
