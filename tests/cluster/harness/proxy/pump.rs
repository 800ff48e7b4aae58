//! The bytes of one direction of one connection, from the socket that they come from to the one that they
//! go to.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::frames::Frames;
use super::rules::{Flow, Rule, Rules, Traffic};

/// So much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// So much waits for its time; beyond it nothing is read, so that the sender feels it.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The connection is to be reset, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reset;

/// Whose bytes, and what is known of them.
#[derive(Clone)]
pub(super) struct Pump {
    pub(super) flow: Flow,
    pub(super) reverse: Flow,
    pub(super) rules: watch::Receiver<Rules>,
    pub(super) traffic: Traffic,
    pub(super) random: fastrand::Rng,
}

/// Bytes that wait for their time.
#[derive(Default)]
struct Waiting {
    pieces: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// Nothing arrives before what was sent earlier.
    latest: Option<Instant>,
}

impl Waiting {
    fn push(&mut self, piece: Bytes, delay: Duration) {
        if piece.is_empty() {
            return;
        }
        let due = (Instant::now() + delay).max(self.latest.unwrap_or_else(Instant::now));
        self.latest = Some(due);
        self.bytes += piece.len();
        self.pieces.push_back((due, piece));
    }

    fn written(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some((_, piece)) = self.pieces.front_mut() {
            piece.advance(bytes);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn clear(&mut self) -> u64 {
        self.pieces.clear();
        std::mem::take(&mut self.bytes) as u64
    }
}

/// Carries bytes until the sender ends the connection and the receiver has them all.
///
/// # Errors
/// [`Reset`] when a rule says so, when a socket breaks, and when a flow that has lost bytes is mended.
pub(super) async fn pump(
    mut parts: Pump,
    first: Bytes,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), Reset> {
    let mut waiting = Waiting::default();
    let mut frames = Frames::default();
    let mut buffer = BytesMut::new();
    let mut unread = first;
    let mut has_ended = false;
    // Something was lost, or one end is gone: nothing that comes later can make the stream whole.
    let mut is_broken = false;
    let mut not_before = Instant::now();
    loop {
        let (rule, reverse) = {
            let rules = parts.rules.borrow_and_update();
            (rules.of(&parts.flow), rules.of(&parts.reverse))
        };
        if rule == Rule::Cut || reverse == Rule::Cut {
            return Err(Reset);
        }
        if !unread.is_empty() {
            let piece = std::mem::take(&mut unread);
            let piece = parts.through(&mut frames, &piece, rule);
            waiting.push(piece, parts.delay(rule));
        }
        if rule == Rule::Swallow || is_broken {
            let swallowed = waiting.clear();
            is_broken |= swallowed > 0;
            let count = |count: &mut super::Count| count.swallowed_bytes += swallowed;
            parts.traffic.add(&parts.flow, count);
        }
        if is_broken && !rule.hides() && !reverse.hides() {
            return Err(Reset);
        }
        let is_open = !rule.hides() && !is_broken;
        if has_ended && waiting.bytes == 0 && is_open {
            // An error says that the receiver is gone already, which its own direction notices.
            let _gone = to.shutdown().await;
            return Ok(());
        }
        let reads = !has_ended && rule != Rule::Hold && waiting.bytes < WAITING_BYTES_MAX;
        let due = waiting.pieces.front().map(|(due, _)| *due);
        tokio::select! {
            changed = parts.rules.changed() => {
                if changed.is_err() {
                    return Err(Reset);
                }
            }
            read = from.read_buf(&mut buffer), if reads => match read {
                Ok(0) => {
                    has_ended = true;
                    waiting.push(frames.rest(), Duration::ZERO);
                    // That it has ended is lost, too.
                    is_broken |= rule == Rule::Swallow;
                }
                Ok(_) => unread = buffer.split().freeze(),
                Err(_) => {
                    has_ended = true;
                    is_broken = true;
                }
            },
            written = write(&mut to, &waiting, not_before), if is_open && due.is_some() => {
                match written {
                    Ok(bytes) => {
                        waiting.written(bytes);
                        not_before = Instant::now() + pause(rule, bytes);
                        let count = |count: &mut super::Count| count.delivered_bytes += bytes as u64;
                        parts.traffic.add(&parts.flow, count);
                    }
                    Err(_) => is_broken = true,
                }
            }
        }
        buffer.reserve(READ_BYTES);
    }
}

impl Pump {
    /// What a rule makes of these bytes.
    fn through(&mut self, frames: &mut Frames, bytes: &[u8], rule: Rule) -> Bytes {
        let mut corrupted = 0;
        let passed = frames.pass(bytes, |length| match rule {
            Rule::Corrupt { one_in } if self.random.u32(..one_in.max(1)) == 0 => {
                corrupted += 1;
                Some(self.random.usize(..length * 8))
            }
            _ => None,
        });
        let count = |count: &mut super::Count| count.corrupted_frames += corrupted;
        self.traffic.add(&self.flow, count);
        passed
    }

    fn delay(&mut self, rule: Rule) -> Duration {
        match rule {
            Rule::Delay { least, jitter } => least + jitter.mul_f64(self.random.f64()),
            _ => Duration::ZERO,
        }
    }
}

/// Writes what is due next, and says how much of it went. Nothing has gone when this is dropped.
async fn write(
    to: &mut WriteHalf<'_>,
    waiting: &Waiting,
    not_before: Instant,
) -> std::io::Result<usize> {
    let Some((due, piece)) = waiting.pieces.front() else {
        return Ok(0);
    };
    sleep_until((*due).max(not_before)).await;
    to.write(piece).await
}

/// How long the line is busy with so many bytes.
fn pause(rule: Rule, bytes: usize) -> Duration {
    match rule {
        Rule::Throttle { bytes_per_second } => {
            Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second.max(1)))
        }
        _ => Duration::ZERO,
    }
}
