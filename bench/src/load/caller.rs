//! A caller: takes a turn, does its step, records what came of it, and begins again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use dynakv_client::{Client, Context, Fetched};

use super::keys::KeyName;
use super::pace::Pace;
use super::recorder::{Op, Recorder};
use super::sequence::{Sequence, Turn};
use super::siblings::StaleContexts;
use super::values::Values;
use super::workload::Step;

/// What all callers of a run share. They run on one thread, and nothing is borrowed while one waits.
#[derive(Debug)]
pub(super) struct Shared {
    /// When the next operation is due.
    pub(super) pace: Pace,
    /// What it is.
    pub(super) sequence: RefCell<Sequence>,
    /// What it writes.
    pub(super) values: RefCell<Values>,
    /// The contexts of the `siblings` workload.
    pub(super) contexts: RefCell<StaleContexts>,
    /// What came of it.
    pub(super) recorder: RefCell<Recorder>,
    /// W of each write, when not the cluster's default.
    pub(super) w: Option<u8>,
    /// R of each read, when not the cluster's default.
    pub(super) r: Option<u8>,
}

/// A caller with its client and a buffer for names.
#[derive(Debug)]
pub(super) struct Caller {
    /// What it shares with the others.
    pub(super) shared: Rc<Shared>,
    /// Its client.
    pub(super) client: Client,
    /// For the names of its keys.
    pub(super) key: KeyName,
}

impl Caller {
    /// Goes on until the run ends.
    pub(super) async fn run(mut self) {
        let mut now = Instant::now();
        while let Some(intended) = self.shared.pace.turn(now).await {
            let turn = self.shared.sequence.borrow_mut().next();
            now = self.step(turn, intended).await;
        }
    }

    /// Does a step; gives the time at its end.
    async fn step(&mut self, turn: Turn, intended: Instant) -> Instant {
        match turn.step {
            Step::Read => self.read(turn, intended).await.1,
            Step::Update => self.write(turn, None, intended).await.1,
            Step::Insert => {
                let ended = self.write(turn, None, intended).await.1;
                self.shared.sequence.borrow_mut().inserted(turn.key);
                ended
            }
            Step::ReadModifyWrite => match self.read(turn, intended).await {
                (Some(read), now) => self.write(turn, Some(read.context), now).await.1,
                (None, ended) => ended,
            },
            Step::StaleWrite => {
                let context = self.shared.contexts.borrow_mut().take(turn.key);
                match context {
                    Some(context) => self.write(turn, Some(context), intended).await.1,
                    None => self.read_and_merge(turn, intended).await,
                }
            }
            Step::ReadAndMerge => self.read_and_merge(turn, intended).await,
        }
    }

    async fn read_and_merge(&mut self, turn: Turn, intended: Instant) -> Instant {
        let (read, now) = self.read(turn, intended).await;
        let Some(Fetched {
            siblings, context, ..
        }) = read
        else {
            return now;
        };
        let (merged, ended) = if siblings.len() > 1 {
            self.write(turn, Some(context.clone()), now).await
        } else {
            (true, now)
        };
        if merged {
            let mut contexts = self.shared.contexts.borrow_mut();
            contexts.merged(turn.key, context);
        }
        ended
    }

    async fn read(&mut self, turn: Turn, intended: Instant) -> (Option<Fetched>, Instant) {
        let mut request = self.client.get(self.key.of(turn.key));
        if let Some(r) = self.shared.r {
            request = request.r(r);
        }
        let outcome = request.send().await;
        let ended = Instant::now();
        let mut recorder = self.shared.recorder.borrow_mut();
        match outcome {
            Ok(fetched) => {
                recorder.success(Op::Read, ended.saturating_duration_since(intended));
                if fetched.siblings.is_empty() {
                    recorder.absent();
                }
                (Some(fetched), ended)
            }
            Err(error) => {
                recorder.failure(Op::Read, &error);
                (None, ended)
            }
        }
    }

    /// Whether it was written, and when that was known.
    async fn write(
        &mut self,
        turn: Turn,
        context: Option<Context>,
        intended: Instant,
    ) -> (bool, Instant) {
        let value = self.shared.values.borrow_mut().next(turn.value_bytes);
        let mut request = self.client.put(self.key.of(turn.key), value);
        if let Some(context) = context {
            request = request.context(context);
        }
        if let Some(w) = self.shared.w {
            request = request.w(w);
        }
        let outcome = request.send().await;
        let ended = Instant::now();
        let mut recorder = self.shared.recorder.borrow_mut();
        match outcome {
            Ok(_) => {
                recorder.success(Op::Write, ended.saturating_duration_since(intended));
                (true, ended)
            }
            Err(error) => {
                recorder.failure(Op::Write, &error);
                (false, ended)
            }
        }
    }
}
