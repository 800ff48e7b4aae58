//! Answers that a node takes for those of another one: an owner that was given up may answer a forwarded
//! write, because what it says arrives over the link of the owner that has the write at present
//! ([`Flaw::HearsWhoWasGivenUp`](crate::machine::Flaw::HearsWhoWasGivenUp)).

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use dynakv::runtime::environment::ReadHalf;
use dynakv_protocol::frame::{
    BatchWriter, Frame, FrameDecoder, KIND_BATCH, put_frame, split_batch,
};
use dynakv_protocol::message::kind;
use tokio::io::{AsyncRead, ReadBuf};

/// How much is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the links of one node share, in one of its lives.
#[derive(Default)]
pub(crate) struct Rerouting {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// To whom each write was handed on last, by the number of the request.
    handed_on: BTreeMap<u64, String>,
    /// Answers of others that are to arrive over the link to this address.
    arriving: BTreeMap<String, Vec<Frame>>,
    /// Who waits for something to arrive over that link.
    waiting: BTreeMap<String, Waker>,
}

impl Rerouting {
    /// What is written to a link, and what is read from it.
    pub(crate) fn link(&self, to: &str, read: ReadHalf) -> (Outgoing, Incoming) {
        let outgoing = Outgoing {
            to: to.to_owned(),
            frames: Frames::default(),
            state: self.state.clone(),
        };
        let incoming = Incoming {
            to: to.to_owned(),
            read,
            frames: Frames::default(),
            out: BytesMut::new(),
            state: self.state.clone(),
        };
        (outgoing, incoming)
    }
}

/// Cuts a stream into messages.
struct Frames {
    decoder: FrameDecoder,
    seen: BytesMut,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            // The largest frame that nodes accept is smaller.
            decoder: FrameDecoder::new(u32::MAX as usize),
            seen: BytesMut::new(),
        }
    }
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.seen.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = self
            .decoder
            .next(&mut self.seen)
            .expect("a node sends frames")
        {
            match frame.header.kind {
                KIND_BATCH => {
                    split_batch(frame, |item| frames.push(item)).expect("a node sends batches");
                }
                _ => frames.push(frame),
            }
        }
        frames
    }
}

/// Takes note of what is handed on.
pub(crate) struct Outgoing {
    to: String,
    frames: Frames,
    state: Arc<Mutex<State>>,
}

impl Outgoing {
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        for Frame { header, .. } in self.frames.take(bytes) {
            if header.is_forwarded() {
                let mut state = lock(&self.state);
                state.handed_on.insert(header.request_id, self.to.clone());
            }
        }
    }
}

/// Hears answers of others.
pub(crate) struct Incoming {
    to: String,
    read: ReadHalf,
    frames: Frames,
    out: BytesMut,
    state: Arc<Mutex<State>>,
}

impl Incoming {
    fn sort(&mut self, bytes: &[u8]) {
        const PUT: u8 = kind::PUT | kind::ANSWER;
        const DELETED: u8 = kind::DELETE | kind::ANSWER;
        for frame in self.frames.take(bytes) {
            let mut state = lock(&self.state);
            let is_write = matches!(frame.header.kind, PUT | DELETED);
            let has_it_now = state.handed_on.get(&frame.header.request_id).cloned();
            match has_it_now.filter(|it| is_write && *it != self.to) {
                Some(other) => {
                    let waker = state.waiting.remove(&other);
                    state.arriving.entry(other).or_default().push(frame);
                    waker.into_iter().for_each(Waker::wake);
                }
                None => put_frame(&mut self.out, frame.header, |out| {
                    out.extend_from_slice(&frame.body);
                }),
            }
        }
    }

    fn take_arriving(&mut self) {
        let arriving = lock(&self.state).arriving.remove(&self.to);
        let mut batch = BatchWriter::default();
        for Frame { header, body } in arriving.into_iter().flatten() {
            batch.push(&mut self.out, header, |out| out.extend_from_slice(&body));
        }
        batch.finish(&mut self.out);
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.take_arriving();
            if !self.out.is_empty() {
                let length = self.out.len().min(buffer.remaining());
                buffer.put_slice(&self.out[..length]);
                self.out.advance(length);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut read = ReadBuf::new(&mut chunk);
            if Pin::new(&mut self.read)
                .poll_read(context, &mut read)?
                .is_pending()
            {
                let (to, waker) = (self.to.clone(), context.waker().clone());
                lock(&self.state).waiting.insert(to, waker);
                return Poll::Pending;
            }
            let bytes = read.filled().to_vec();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.sort(&bytes);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
