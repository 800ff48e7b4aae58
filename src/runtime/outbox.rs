//! What waits to be written to one connection.
//!
//! Producers hand over whole frames, many at once; the connection's writer takes all that waits with
//! one lock and writes it with as few system calls as it can.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use dynakv_protocol::frame::{Header, put_frame};
use dynakv_protocol::message::Response;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::environment::WriteHalf;

/// The queue of one connection's writer.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    /// Bytes handed over and not yet written: what a slow reader is judged by.
    bytes: AtomicUsize,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes whoever waits for the writer to catch up.
    drained: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<Bytes>,
    closed: bool,
}

impl Outbox {
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
        waiting.chunks.push_back(frames);
        drop(waiting);
        self.filled.notify_one();
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
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Bytes handed over and not yet written.
    pub fn bytes_waiting(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
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

    /// Writes what is handed over until the outbox is closed or the connection breaks.
    ///
    /// # Errors
    /// The connection's.
    pub async fn write_to(&self, mut connection: WriteHalf) -> io::Result<()> {
        let result = self.write_all_to(&mut connection).await;
        self.close();
        // The other side sees an orderly end where that is still possible.
        let _ = connection.shutdown().await;
        result
    }

    /// For a receiver in this process: what waits, once something does. None once the outbox is closed
    /// and empty. Dropping the future loses nothing.
    pub async fn taken(&self) -> Option<VecDeque<Bytes>> {
        loop {
            let filled = self.filled.notified();
            let (chunks, closed) = self.take();
            if !chunks.is_empty() {
                let total: usize = chunks.iter().map(Bytes::len).sum();
                self.bytes.fetch_sub(total, Ordering::Relaxed);
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
        loop {
            let filled = self.filled.notified();
            let (chunks, closed) = self.take();
            if chunks.is_empty() {
                if closed {
                    return Ok(());
                }
                filled.await;
                continue;
            }
            let total: usize = chunks.iter().map(Bytes::len).sum();
            let written = connection.write_all_buf(&mut Chunks(chunks)).await;
            self.bytes.fetch_sub(total, Ordering::Relaxed);
            self.drained.notify_waiters();
            written?;
        }
    }

    fn take(&self) -> (VecDeque<Bytes>, bool) {
        let mut waiting = self.lock();
        (std::mem::take(&mut waiting.chunks), waiting.closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // A panic while the lock is held can only have come between whole operations.
        self.waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Many chunks as one buffer, so that they leave in one vectored write.
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
mod tests {
    use std::sync::Arc;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn everything_comes_out_in_order() {
        run(async {
            let outbox = Arc::new(Outbox::default());
            let (near, mut far) = tokio::io::duplex(7);
            let writer = outbox.clone();
            let task = tokio::spawn(async move { writer.write_to(Box::new(near)).await });
            let mut expected = Vec::<u8>::new();
            for i in 0..200_u8 {
                let chunk = vec![i; usize::from(i % 5) + 1];
                expected.extend(&chunk);
                outbox.push(Bytes::from(chunk));
                if i % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            outbox.close();
            let mut got = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut far, &mut got)
                .await
                .unwrap();
            assert_eq!(got, expected);
            task.await.unwrap().unwrap();
            assert_eq!(outbox.bytes_waiting(), 0);
        });
    }

    #[test]
    fn a_broken_connection_closes_it_and_frees_whoever_waits() {
        run(async {
            let outbox = Arc::new(Outbox::default());
            let (near, far) = tokio::io::duplex(7);
            outbox.push(Bytes::from(vec![0; 100]));
            let (writer, waiter) = (outbox.clone(), outbox.clone());
            let task = tokio::spawn(async move { writer.write_to(Box::new(near)).await });
            let wait = tokio::spawn(async move { waiter.below(1).await });
            tokio::task::yield_now().await;
            drop(far);
            assert!(task.await.unwrap().is_err());
            wait.await.unwrap();
            outbox.push(Bytes::from_static(b"late"));
            assert!(outbox.is_closed());
        });
    }
}
