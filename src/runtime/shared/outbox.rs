//! What waits to be written to one connection.
//!
//! Producers hand over whole frames, many at once; the connection's writer takes all that waits with
//! one lock and writes it with as few system calls as it can.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use dynakv_protocol::frame::{Header, put_frame};
use dynakv_protocol::message::Response;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::environment::WriteHalf;
use super::ledger::{Kind, Ledger};

/// How often it is looked whether a reader reads.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How many looks in a row may find that it did not. Looks are counted, and not time: the node's own pause
/// is nobody else's.
const LOOKS_MAX: u32 = 3;

/// What counts as reading between two looks, in bytes, while as much waits.
const PROGRESS_BYTES: usize = 64 * 1024;

/// What a connection may leave unread while answers take all the room that they may, in bytes: the system
/// takes as much from who reads without delay.
pub const UNREAD_BYTES: usize = 64 * 1024;

/// How many reads are begun on a connection of whose answers nothing is known: as many of the largest as may
/// wait before answers turn into refusals.
const READS_FIRST: usize = 4;

/// How large it is taken to be at least: so many reads of one connection are in hand at most.
const ANSWER_BYTES_MIN: usize = 4 * 1024;

/// How long to wait before it is looked again whether there is room.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// The queue of one connection's writer.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    /// Bytes handed over and not yet written: what a slow reader is judged by.
    bytes: AtomicUsize,
    /// Bytes written so far.
    written: AtomicUsize,
    /// Reads of this connection that are not answered yet.
    reads: AtomicUsize,
    /// How large the answer to one of them is expected to be; 0 while nothing is known.
    answer_bytes: AtomicUsize,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes whoever waits for the writer to catch up.
    drained: Notify,
    /// Wakes whoever waits for the end.
    ended: Notify,
    /// Ends the writer in the middle.
    cut: Notify,
    ledger: Option<Arc<Ledger>>,
}

#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<Bytes>,
    closed: bool,
    /// As what its bytes are in the books.
    kind: Option<Kind>,
}

/// How a reader reads.
#[derive(Debug)]
struct Progress {
    look_at: Instant,
    /// Since the last look.
    written: usize,
    /// Looks in a row at which it was not enough.
    looks: u32,
}

impl Progress {
    fn begin() -> Self {
        Self {
            look_at: Instant::now() + LOOK_EVERY,
            written: 0,
            looks: 0,
        }
    }

    /// False once the other side has not read for as long as it may.
    fn look(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.look_at {
            self.looks = match self.written >= PROGRESS_BYTES {
                true => 0,
                false => self.looks + 1,
            };
            self.written = 0;
            self.look_at = now + LOOK_EVERY;
        }
        self.looks < LOOKS_MAX
    }
}

impl Outbox {
    /// An outbox whose bytes are entered in the books.
    pub fn counted(ledger: Arc<Ledger>, kind: Kind) -> Self {
        Self::with(Some(ledger), Some(kind))
    }

    fn with(ledger: Option<Arc<Ledger>>, kind: Option<Kind>) -> Self {
        let waiting = Waiting {
            kind,
            ..Waiting::default()
        };
        Self {
            waiting: Mutex::new(waiting),
            bytes: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            answer_bytes: AtomicUsize::new(0),
            filled: Notify::new(),
            drained: Notify::new(),
            ended: Notify::new(),
            cut: Notify::new(),
            ledger,
        }
    }

    /// From now on they are entered as these; those that wait are too.
    pub fn count_as(&self, kind: Kind) {
        let mut waiting = self.lock();
        let before = waiting.kind.replace(kind);
        if let (Some(ledger), Some(before)) = (&self.ledger, before) {
            let bytes = self.bytes_waiting();
            ledger.give_back(before, bytes);
            ledger.take(kind, bytes);
        }
    }

    /// Hands over bytes that hold whole frames. After [`close`](Self::close) they are dropped.
    pub fn push(&self, frames: Bytes) {
        if frames.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        self.bytes.fetch_add(frames.len(), Ordering::Relaxed);
        if let (Some(ledger), Some(kind)) = (&self.ledger, waiting.kind) {
            ledger.take(kind, frames.len());
        }
        waiting.chunks.push_back(frames);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Bytes that waited are written, or dropped.
    fn let_go(&self, bytes: usize) {
        let waiting = self.lock();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let (Some(ledger), Some(kind)) = (&self.ledger, waiting.kind) {
            ledger.give_back(kind, bytes);
        }
    }

    /// Hands over one response in a frame of its own. For rare messages; the hot path batches.
    pub fn respond(&self, request_id: u64, response: &Response) {
        let mut out = BytesMut::new();
        put_frame(&mut out, Header::new(response.kind(), request_id), |out| {
            response.encode(out);
        });
        self.push(out.freeze());
    }

    /// No more will come: the writer ends once it has written what waits.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_waiters();
        self.ended.notify_waiters();
    }

    /// Ends it at once, whatever waits.
    pub fn cut(&self) {
        self.close();
        self.cut.notify_one();
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        loop {
            let ended = self.ended.notified();
            if self.is_closed() {
                return;
            }
            ended.await;
        }
    }

    /// Bytes handed over and not yet written.
    pub fn bytes_waiting(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until fewer than `bytes` wait, or the connection has ended.
    pub async fn below(&self, bytes: usize) {
        loop {
            let drained = self.drained.notified();
            if self.bytes_waiting() < bytes || self.is_closed() {
                return;
            }
            drained.await;
        }
    }

    /// Waits while so much waits here that no more should be asked for: more than `bytes_max`, or more than
    /// a little while answers take all the room that they may.
    pub async fn caught_up(&self, bytes_max: usize) {
        if self.bytes_waiting() > bytes_max {
            self.below(bytes_max / 2).await;
        }
        while self.bytes_waiting() > UNREAD_BYTES && self.is_short() && !self.is_closed() {
            sleep(ROOM_POLL).await;
        }
    }

    fn is_short(&self) -> bool {
        let Some(ledger) = &self.ledger else {
            return false;
        };
        let kind = self.lock().kind;
        kind.is_some_and(|kind| ledger.is_full(kind))
    }

    /// How many more reads may be begun for this connection: their answers, as large as the last ones, have to
    /// fit into `bytes_max` together with those that wait.
    fn reads_that_fit(&self, bytes_max: usize) -> usize {
        let (waiting, in_hand) = (self.bytes_waiting(), self.reads.load(Ordering::Relaxed));
        let answer_bytes = match self.answer_bytes.load(Ordering::Relaxed) {
            0 => (bytes_max / READS_FIRST).max(ANSWER_BYTES_MIN),
            bytes => bytes,
        };
        let room = bytes_max.saturating_sub(waiting);
        let at_least = usize::from(in_hand == 0 && room > 0);
        (room / answer_bytes).saturating_sub(in_hand).max(at_least)
    }

    /// Begins up to so many reads; gives how many fit.
    pub fn begin_reads(&self, reads: usize, bytes_max: usize) -> usize {
        let begun = self.reads_that_fit(bytes_max).min(reads);
        self.reads.fetch_add(begun, Ordering::Relaxed);
        begun
    }

    /// Waits until more reads may be begun.
    pub async fn room_for_reads(&self, bytes_max: usize) {
        loop {
            let drained = self.drained.notified();
            if self.reads_that_fit(bytes_max) > 0 {
                return;
            }
            drained.await;
        }
    }

    /// So many reads were answered, with answers of about so many bytes. What they are answered with is handed
    /// over afterwards, so whoever waits for it looks again.
    pub fn end_reads(&self, reads: usize, answer_bytes: usize) {
        self.reads.fetch_sub(reads, Ordering::Relaxed);
        let answer_bytes = answer_bytes.max(ANSWER_BYTES_MIN);
        self.answer_bytes.store(answer_bytes, Ordering::Relaxed);
    }

    /// Writes what is handed over until the outbox is closed or the connection breaks.
    ///
    /// # Errors
    /// The connection's; [`io::ErrorKind::TimedOut`] when the other side does not read.
    pub async fn write_to(&self, mut connection: WriteHalf) -> io::Result<()> {
        let result = self.write_all_to(&mut connection).await;
        self.close();
        self.lock().chunks.clear();
        self.let_go(self.bytes_waiting());
        // The other side sees an orderly end where that is still possible.
        let _ = connection.shutdown().await;
        result
    }

    /// For a receiver in this process: what waits, once something does. None once the outbox is closed
    /// and empty. Dropping the future loses nothing.
    pub async fn taken(&self) -> Option<VecDeque<Bytes>> {
        loop {
            let filled = self.filled.notified();
            let mut chunks = VecDeque::new();
            let closed = self.take_into(&mut chunks);
            if !chunks.is_empty() {
                self.let_go(chunks.iter().map(Bytes::len).sum());
                self.drained.notify_waiters();
                return Some(chunks);
            }
            if closed {
                return None;
            }
            filled.await;
        }
    }

    async fn write_all_to(&self, connection: &mut WriteHalf) -> io::Result<()> {
        let mut chunks = Chunks::default();
        let mut progress = None;
        loop {
            let filled = self.filled.notified();
            let closed = self.take_into(&mut chunks.0);
            if chunks.0.is_empty() {
                if closed {
                    return Ok(());
                }
                progress = None;
                filled.await;
                continue;
            }
            let progress = progress.get_or_insert_with(Progress::begin);
            let written = self.write_some(connection, &mut chunks, progress).await?;
            self.written.fetch_add(written, Ordering::Relaxed);
            self.let_go(written);
            self.drained.notify_waiters();
        }
    }

    /// Writes what the connection takes, as long as it takes anything.
    async fn write_some(
        &self,
        connection: &mut WriteHalf,
        chunks: &mut Chunks,
        progress: &mut Progress,
    ) -> io::Result<usize> {
        while progress.look() {
            let written = tokio::select! {
                biased;
                written = timeout_at(progress.look_at, connection.write_buf(chunks)) => written,
                () = self.cut.notified() => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            match written {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(written)) => {
                    progress.written += written;
                    return Ok(written);
                }
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => {}
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Takes what waits; whether the outbox is closed.
    fn take_into(&self, chunks: &mut VecDeque<Bytes>) -> bool {
        let mut waiting = self.lock();
        match chunks.is_empty() {
            true => std::mem::swap(chunks, &mut waiting.chunks),
            false => chunks.append(&mut waiting.chunks),
        }
        waiting.closed
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while the lock is held can only have come between whole operations.
        self.waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Default for Outbox {
    /// One that is in no books.
    fn default() -> Self {
        Self::with(None, None)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.let_go(self.bytes_waiting());
    }
}

/// Many chunks as one buffer, so that they leave in one vectored write.
#[derive(Default)]
struct Chunks(VecDeque<Bytes>);

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.0) {
            *slice = io::IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(front) = self.0.front_mut() else {
                return;
            };
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
