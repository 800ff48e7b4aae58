//! A client that reads, writes, deletes and retries at random.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ids::WriteId;
use tokio::time::sleep;

use crate::client::{Client, Failure, get, write};
use crate::clock;
use crate::history::{History, Promise, Replaces, Writes, value_of};
use crate::invariants::Heard;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// How long a sloppy write may take: a stand-in comes in when several owners have been silent for a while.
const SLOPPY_TIMEOUT: Duration = Duration::from_millis(2500);

/// The pause between two requests, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 1..80;

/// Keys that are only written with contexts: of these the history knows exactly what replaced what.
const CAUSAL_KEYS: usize = 5;

/// Keys that are also written blindly.
const MIXED_KEYS: usize = 2;

/// Keys of which one owner is enough, for writes and for some reads.
const ONE_COPY_KEYS: usize = 1;

/// Keys that are written although owners cannot be reached: with contexts, as those of blind writes that
/// never met are unknown; one of them also blindly.
const SLOPPY_KEYS: usize = 4;
const SLOPPY_MIXED: &str = "sloppy-0";

/// Keys that each client writes once only, blindly and although owners cannot be reached: nothing excuses
/// that such a write is gone.
const SLOPPY_ONCE_KEYS: usize = 12;

/// The key that only one client writes.
fn key_of_client(number: usize) -> String {
    format!("alone-{number}")
}

fn once_key(client: usize, number: usize) -> String {
    format!("once-{client}-{number}")
}

/// Says how the clients of this workload go about their keys. What one owner was to keep is lost with its
/// disk, so with such a plan nothing is said of those keys.
pub(crate) fn promise(history: &mut History, clients: usize, loses_a_disk: bool) {
    for number in 1..=clients {
        history.promise(&key_of_client(number), Promise::OneWriter);
    }
    for number in 0..SLOPPY_KEYS {
        history.promise(&format!("sloppy-{number}"), Promise::Sloppy);
    }
    for client in 1..=clients {
        for number in 0..SLOPPY_ONCE_KEYS {
            history.promise(&once_key(client, number), Promise::Sloppy);
        }
    }
    for number in 0..ONE_COPY_KEYS {
        let promise = match loses_a_disk {
            true => Promise::Nothing,
            false => Promise::OneCopy,
        };
        history.promise(&format!("one-copy-{number}"), promise);
    }
}

/// What a client remembers of its last read of a key.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    context: Bytes,
    writes: Writes,
    heard: Heard,
}

/// A client's work.
pub(crate) struct Workload {
    /// From 1 on, and of how many.
    pub(crate) number: usize,
    pub(crate) clients: usize,
    pub(crate) client: Client,
    pub(crate) random: fastrand::Rng,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) until: Duration,
    /// How many of 100 requests are for sloppy keys.
    pub(crate) sloppy_percent: u8,
    pub(crate) seen: BTreeMap<String, Seen>,
    /// How many of its keys that are written once it has written.
    pub(crate) once: usize,
    /// How many writes it has begun: their ids say which came first.
    pub(crate) written: u64,
}

impl Workload {
    /// Works until it is time to end.
    pub(crate) async fn run(mut self) -> turmoil::Result {
        self.client.wait_for_cluster().await;
        while clock::now() < self.until {
            sleep(Duration::from_millis(self.random.u64(PAUSE_MS))).await;
            self.one().await;
        }
        Ok(())
    }

    async fn one(&mut self) {
        if self.sloppy_percent > 0 && self.random.u8(..100) < self.sloppy_percent {
            return self.one_sloppy().await;
        }
        let number = self
            .random
            .usize(..CAUSAL_KEYS + MIXED_KEYS + ONE_COPY_KEYS + 2);
        if number < CAUSAL_KEYS {
            let key = format!("causal-{number}");
            match self.random.u8(..100) {
                0..5 => self.read(&key, Some(1)).await,
                5..25 => self.read(&key, None).await,
                25..60 => self.update(&key, false).await,
                60..68 => self.update(&key, true).await,
                // With the context of an earlier read: a write that is concurrent to others.
                _ => self.write_as_seen(&key, false).await,
            }
        } else if number < CAUSAL_KEYS + MIXED_KEYS {
            let key = format!("mixed-{number}");
            match self.random.u8(..100) {
                0..30 => self.read(&key, None).await,
                30..50 => self.update(&key, false).await,
                _ => self.write(&key, false, None).await,
            }
        } else if number < CAUSAL_KEYS + MIXED_KEYS + ONE_COPY_KEYS {
            let key = format!("one-copy-{}", number - CAUSAL_KEYS - MIXED_KEYS);
            match self.random.u8(..100) {
                0..40 => self.read(&key, Some(1)).await,
                40..50 => self.read(&key, None).await,
                50..80 => self.write_as_seen(&key, false).await,
                _ => self.write(&key, false, None).await,
            }
        } else if self.random.bool() {
            // Anybody may read it.
            let key = key_of_client(self.random.usize(1..=self.clients));
            self.read(&key, None).await;
        } else {
            let key = key_of_client(self.number);
            let is_delete = self.random.u8(..8) == 0;
            self.update(&key, is_delete).await;
        }
    }

    async fn one_sloppy(&mut self) {
        let key = format!("sloppy-{}", self.random.usize(..SLOPPY_KEYS));
        match self.random.u8(..100) {
            0..10 => self.read(&key, None).await,
            10..20 => self.update(&key, false).await,
            20..25 => self.update(&key, true).await,
            25..60 => self.write_as_seen(&key, false).await,
            60..65 => self.write(SLOPPY_MIXED, false, None).await,
            65..80 if self.once < self.once_due() => {
                let key = once_key(self.number, self.once);
                self.once += 1;
                self.write(&key, false, None).await;
            }
            _ if self.once > 0 => {
                let key = once_key(self.number, self.random.usize(..self.once));
                self.read(&key, None).await;
            }
            _ => self.read(&key, Some(1)).await,
        }
    }

    /// How many of the keys that are written once may be written by now: one every two seconds.
    fn once_due(&self) -> usize {
        SLOPPY_ONCE_KEYS.min(clock::now().as_secs() as usize / 2)
    }

    async fn read(&mut self, key: &str, r: Option<u8>) {
        let began = clock::now();
        let node = self.node();
        let mut request = get(key, TIMEOUT);
        request.r = r;
        let answer = self.client.get(node, request).await;
        let now = clock::now();
        let mut history = self.history.borrow_mut();
        history.expect_an_end(&answer, now);
        let line = match answer {
            Ok(fetched) => {
                // R = 2 does not meet what one owner has.
                let heard = match r.is_none() && history.promise_of(key).meets_quorums() {
                    true => Heard::Quorum,
                    false => Heard::Few,
                };
                let writes = history.on_read(key, &fetched, (began, now), heard);
                let line = format!("get {key} at {}: {writes:x?}", node + 1);
                let context = fetched.context;
                let seen = Seen {
                    context,
                    writes,
                    heard,
                };
                self.seen.insert(key.to_owned(), seen);
                line
            }
            Err(failure) => {
                // Whoever stands in takes writes also with an old context.
                if history.promise_of(key) != Promise::Sloppy {
                    self.seen.remove(key);
                }
                format!("get {key} at {}: {failure}", node + 1)
            }
        };
        self.client.line(&line);
    }

    async fn update(&mut self, key: &str, is_delete: bool) {
        self.read(key, None).await;
        self.write_as_seen(key, is_delete).await;
    }

    async fn write_as_seen(&mut self, key: &str, is_delete: bool) {
        if let Some(seen) = self.seen.get(key).cloned() {
            self.write(key, is_delete, Some(seen)).await;
        }
    }

    async fn write(&mut self, key: &str, is_delete: bool, seen: Option<Seen>) {
        let promise = self.history.borrow().promise_of(key);
        let owners = self.client.owners(key);
        if promise == Promise::OneWriter && !self.client.is_owner(owners[0], key) {
            // Not before it is settled who owns it: another node may send it to two of them.
            return;
        }
        // A strict write of a sloppy key is held to what all others are.
        let is_sloppy = promise == Promise::Sloppy && self.random.u8(..5) > 0;
        let timeout = if is_sloppy { SLOPPY_TIMEOUT } else { TIMEOUT };
        self.written += 1;
        let id = WriteId::new(self.number as u64 + 1, self.written);
        let value = (!is_delete).then(|| value_of(id));
        let mut request = write(key, id, value, timeout);
        request.sloppy = is_sloppy;
        if matches!(promise, Promise::OneCopy | Promise::Nothing) {
            request.w = Some(1);
        }
        let has_read_few = seen.as_ref().is_some_and(|seen| seen.heard == Heard::Few);
        let replaces = match seen {
            Some(seen) => {
                request.context = Some(seen.context);
                Replaces::Read(seen.writes.into_iter().collect())
            }
            None => Replaces::WhatIsThere,
        };
        let kind = if is_sloppy { "sloppy " } else { "" };
        let what = if is_delete { "delete" } else { "write" };
        let line = format!("{kind}{what} {id:x?} to {key}, replaces {replaces:x?}");
        self.client.line(&line);
        let now = clock::now();
        let books = self.history.clone();
        let history = || books.borrow_mut();
        history().begin(id, key, is_delete, replaces, now);
        if has_read_few {
            history().has_read_few(id);
        }
        loop {
            let node = match promise {
                Promise::OneWriter => owners[self.random.usize(..owners.len())],
                _ => self.node(),
            };
            history().give(id, self.client.hangs(node), clock::now());
            if !self.client.is_owner(node, key) {
                history().hand_on(id);
            }
            let answer = self.client.write(node, request.clone()).await;
            let now = clock::now();
            let mut history = self.history.borrow_mut();
            history.end(id, &answer, now);
            if answer.as_ref().is_ok_and(|written| written.sloppy) {
                assert!(is_sloppy, "a strict write counted a node that stands in");
                history.stood_in_for(id);
            }
            drop(history);
            let outcome = match &answer {
                Ok(written) if written.sloppy => "acknowledged, sloppy".to_owned(),
                Ok(_) => "acknowledged".to_owned(),
                Err(failure) => failure.to_string(),
            };
            let line = format!("{what} {id:x?} at {}: {outcome}", node + 1);
            self.client.line(&line);
            let is_sent_once = promise == Promise::OneWriter;
            if is_sent_once || !worth_a_retry(&answer) || self.random.bool() {
                return;
            }
            // Who was told that nothing came of it leaves no copy behind.
            request.again |= may_be_applied(&answer);
            self.history.borrow_mut().retry(id);
        }
    }

    fn node(&mut self) -> usize {
        self.random.usize(..self.client.machines())
    }
}

fn may_be_applied<T>(answer: &Result<T, Failure>) -> bool {
    match answer {
        Err(Failure::NotSent(_)) => false,
        Err(Failure::Refused(error)) => error.maybe_applied,
        Ok(_) | Err(Failure::Broken | Failure::Silent) => true,
    }
}

fn worth_a_retry<T>(answer: &Result<T, Failure>) -> bool {
    match answer {
        Ok(_) => false,
        Err(Failure::Refused(error)) => error.retryable,
        Err(Failure::NotSent(_) | Failure::Broken | Failure::Silent) => true,
    }
}
