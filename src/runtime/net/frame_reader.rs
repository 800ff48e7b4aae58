//! Frames out of a connection, entered in the node's books from their first byte on.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::frame::{
    Frame, FrameDecoder, FrameError, Header, split_batch, split_batch_refusing,
};
use dynakv_protocol::limits::FRAME_BYTES_MAX;
use dynakv_protocol::oversize::{Begun, Oversize, Refused};
use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};
use metrics::Counter;
use tokio::io::AsyncReadExt;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use crate::runtime::net::undecodable::undecodable;
use crate::runtime::shared::environment::ReadHalf;
use crate::runtime::shared::ledger::{Arrival, Charge, Kind, Ledger};

/// How much is read at once when there is that much.
pub const READ_BYTES: usize = 64 * 1024;

/// How much memory is reserved for the smallest read.
const RESERVED_BYTES: usize = 4096;

/// Up to so many bytes a frame is read without asking for room: small requests get through whatever large
/// ones wait for, and as many connections as there may be hold 64 MiB with them.
const UNASKED_BYTES: usize = 16 * 1024;

/// How long a frame that has begun may take in any case.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// How fast a large one must come on the whole, in bytes per second: far slower than any link that a request
/// within its deadline can use. What comes slower holds memory for nothing.
const FRAME_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// The first four bytes of HTTP requests.
const HTTP_METHODS: [&[u8; 4]; 9] = [
    b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC",
];

/// How long to wait before it is looked again whether there is room.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// What readers of connections share.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Counts what is no frame.
    pub malformed: Counter,
    /// The node's books.
    pub ledger: Arc<Ledger>,
}

/// Who sends what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A client, or who has not said what it is.
    Client,
    /// A node that asks.
    Peer,
    /// A node that answers.
    Node,
}

impl Source {
    fn receiving(self) -> Kind {
        match self {
            Self::Client => Kind::ClientReceiving,
            Self::Peer => Kind::PeerReceiving,
            Self::Node => Kind::NodeAnswers,
        }
    }

    fn received(self) -> Kind {
        match self {
            Self::Client => Kind::ClientRequests,
            Self::Peer => Kind::PeerRequests,
            Self::Node => Kind::NodeAnswers,
        }
    }
}

/// Why a connection could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame began and did not come to its end.
    #[error(
        "a frame of {length} bytes has begun and does not come to its end: {received} bytes are there"
    )]
    Stalled {
        /// Its length, as far as that is known, in bytes.
        length: usize,
        /// How much of it came.
        received: usize,
    },
    /// A frame was begun, does not get on, and others wait for the room that it takes.
    #[error(
        "this node has as many frames on their way in as it takes, and the one of this connection did not \
         get on; send it again, whole and at once"
    )]
    Displaced,
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl ReadError {
    /// Whether what came in place of the first frame begins as an HTTP request does: its method, read as the
    /// length of a frame, is beyond all bounds.
    pub(crate) fn is_http(&self) -> bool {
        match self {
            Self::Frame(FrameError::TooLong { length, .. }) => {
                HTTP_METHODS.contains(&&length.to_be_bytes())
            }
            _ => false,
        }
    }

    /// What is said to the other side before the connection is closed.
    pub fn into_reply(self) -> ErrorReply {
        match self {
            Self::Frame(_) | Self::Stalled { .. } | Self::Io(_) => malformed(&self.to_string()),
            Self::Displaced => ErrorReply::new(ErrorCode::Overloaded, self.to_string()).retryable(),
        }
    }
}

/// What is said to somebody who does not keep to the protocol.
pub(crate) fn malformed(what: &str) -> ErrorReply {
    let message =
        format!("{what}; this port speaks the dynakv protocol, metrics are on the HTTP port");
    ErrorReply::new(ErrorCode::Malformed, message)
}

/// Reads frames off a connection, all that each read brings.
pub struct FrameReader {
    read: ReadHalf,
    buffer: BytesMut,
    /// What it accepts; replaced once the handshake is done.
    pub decoder: FrameDecoder,
    /// The longest frame that is accepted, and up to which longer ones are passed over.
    length_max: usize,
    passed_max: usize,
    /// Whether what cannot be taken is refused one by one; it ends the connection otherwise.
    takes_requests: bool,
    /// A frame that is being passed over.
    oversize: Option<Box<Oversize>>,
    /// What the last read brought and cannot be taken, for whoever accepts requests.
    pub refused: Vec<Refused>,
    /// The id of the last request in the order of the stream, taken or refused; 0 before any.
    pub last_id: u64,
    /// Whether the other side has ended the connection.
    is_at_end: bool,
    intake: Intake,
    source: Source,
    /// Whole frames that are not handed on yet.
    whole: Bytes,
    /// What has come over this connection and is still held, in bytes.
    in_hand: Arc<AtomicUsize>,
    /// What the buffer holds.
    charge: Charge,
    /// The frame in the buffer, once it is large.
    arrival: Option<Arrival>,
}

impl FrameReader {
    /// A reader that accepts frames up to `length_max` bytes.
    pub fn new(read: ReadHalf, length_max: usize, intake: Intake, source: Source) -> Self {
        Self {
            charge: Charge::new(intake.ledger.clone(), source.receiving(), 0),
            source,
            whole: Bytes::new(),
            in_hand: Arc::default(),
            arrival: None,
            read,
            buffer: BytesMut::new(),
            decoder: FrameDecoder::new(length_max),
            length_max,
            passed_max: length_max,
            takes_requests: false,
            oversize: None,
            refused: Vec::new(),
            last_id: 0,
            is_at_end: false,
            intake,
        }
    }

    /// Accepts requests up to `length_max` bytes from now on. Longer ones, up to the longest of all, are passed over
    /// and, like items of a batch that cannot be taken, found in [`refused`](Self::refused).
    pub(crate) fn accept(&mut self, length_max: usize) {
        self.decoder = FrameDecoder::new(length_max);
        self.length_max = length_max;
        self.passed_max = FRAME_BYTES_MAX;
        self.takes_requests = true;
    }

    /// From now on it is known who is at the other end.
    pub fn comes_from(&mut self, source: Source) {
        self.source = source;
        let bytes = self.buffer.len();
        self.charge = Charge::new(self.intake.ledger.clone(), source.receiving(), bytes);
    }

    /// Reads and throws away until the other side ends the connection. Others have their turn after each piece:
    /// where hundreds are hung up on at once, what they had sent must not keep a new connection waiting.
    pub(crate) async fn discard(&mut self) {
        while !self.is_at_end {
            self.buffer.clear();
            self.buffer.reserve(READ_BYTES);
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => self.is_at_end = true,
                Ok(_) => yield_now().await,
            }
        }
    }

    /// The next frame, or `None` at the end of the connection.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        let mut begun = None;
        loop {
            if let Some(frame) = self.cut_off()? {
                return Ok(Some(frame));
            }
            if !self.fill(&mut begun).await? {
                return Ok(None);
            }
        }
    }

    /// Reads once and hands on every message that is whole by then, batches taken apart. False at
    /// the end of the connection.
    ///
    /// # Errors
    /// [`ReadError`]; messages before the damage were given to `take`.
    pub async fn read_frames(
        &mut self,
        take: &mut (impl FnMut(Frame) + Send),
    ) -> Result<bool, ReadError> {
        // What came together with the handshake is there already.
        let mut any = false;
        let mut begun = None;
        while !any {
            while let Some(frame) = self.cut_off()? {
                self.split(frame, take)?;
                any = true;
            }
            any |= !self.refused.is_empty();
            if !any && !self.fill(&mut begun).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn split(&mut self, frame: Frame, take: &mut impl FnMut(Frame)) -> Result<(), FrameError> {
        let takes_requests = self.takes_requests;
        let refused = &mut self.refused;
        // Of a batch both closures see a part.
        let last_id = Cell::new(self.last_id);
        let take = |frame: Frame| {
            last_id.set(frame.header.request_id);
            take(frame);
        };
        let refuse = |header: Header, error: DecodeError| {
            last_id.set(header.request_id);
            let error = undecodable(&error);
            refused.push(Refused { header, error });
            Ok(())
        };
        let split = match takes_requests {
            true => split_batch_refusing(frame, take, refuse),
            false => split_batch(frame, take),
        };
        self.last_id = last_id.get();
        split.inspect_err(|_| self.intake.malformed.increment(1))
    }

    fn cut_off(&mut self) -> Result<Option<Frame>, FrameError> {
        let next = self.try_cut_off();
        next.inspect_err(|_| self.intake.malformed.increment(1))
    }

    fn try_cut_off(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.decoder.next_whole(&mut self.whole)? {
                return Ok(Some(frame));
            }
            if let Some(oversize) = &mut self.oversize {
                let refused = oversize.pass(&mut self.buffer)?;
                self.note_rest();
                let Some(refused) = refused else {
                    return Ok(None);
                };
                if let Some(last) = refused.last() {
                    self.last_id = last.header.request_id;
                }
                self.refused.extend(refused);
                self.oversize = None;
            }
            match Oversize::begin(&mut self.buffer, self.length_max, self.passed_max)? {
                Begun::No => match self.decoder.whole_bytes(&self.buffer) {
                    // Nothing, unless it will never be a frame.
                    0 => return self.decoder.next(&mut self.buffer),
                    whole => self.take_whole(whole),
                },
                Begun::NotYet => return Ok(None),
                Begun::Yes(oversize) => self.oversize = Some(oversize),
            }
        }
    }

    fn take_whole(&mut self, bytes: usize) {
        let whole = self.buffer.split_to(bytes).freeze();
        self.note_rest();
        // In the books until the last slice of it is gone, wherever that waits. A small one keeps a page.
        let held = (whole.len().max(RESERVED_BYTES), self.in_hand.clone());
        let kind = self.source.received();
        self.whole = Charge::of_connection(&self.intake.ledger, kind, whole, held);
    }

    /// Reads once. `begun` is when it was first waited for the end of the present frame; the time that its
    /// reader did something else in does not count.
    async fn fill(&mut self, begun: &mut Option<Instant>) -> Result<bool, ReadError> {
        if self.wait_for_room().await? {
            // It is this node that it waited for.
            *begun = None;
        }
        let read = self.fill_in_room(begun).await;
        if read.is_err() {
            // The other side may take a while to hear why.
            self.buffer = BytesMut::new();
            self.note_rest();
        }
        self.note_bytes();
        read
    }

    async fn fill_in_room(&mut self, begun: &mut Option<Instant>) -> Result<bool, ReadError> {
        // Large frames are read in large pieces, but memory grows only as bytes come in.
        let (lacking, length) = match &self.oversize {
            Some(oversize) => (oversize.left(), oversize.length()),
            None => {
                let lacking = self.decoder.lacking(&self.buffer);
                (lacking, self.buffer.len() + lacking)
            }
        };
        self.buffer
            .reserve(lacking.clamp(RESERVED_BYTES, READ_BYTES));
        if self.buffer.is_empty() && self.oversize.is_none() {
            return self.read_once().await;
        }
        if self.arrival.is_some() {
            // A large frame may be there as a whole; the others have their turn after each piece of it.
            yield_now().await;
        }
        let begun = *begun.get_or_insert_with(Instant::now);
        let transfer = Duration::from_secs(length as u64 / FRAME_BYTES_PER_SECOND_MIN);
        let arrival = self.arrival.take();
        let read = timeout_at(begun + FRAME_TIMEOUT + transfer, self.read_once());
        let read = match &arrival {
            None => read.await,
            Some(arrival) => tokio::select! {
                biased;
                read = read => read,
                () = arrival.displaced() => return Err(ReadError::Displaced),
            },
        };
        self.arrival = arrival;
        read.unwrap_or_else(|_elapsed| {
            Err(ReadError::Stalled {
                length,
                received: self.buffer.len(),
            })
        })
    }

    async fn read_once(&mut self) -> Result<bool, ReadError> {
        let read = self.read.read_buf(&mut self.buffer).await;
        self.is_at_end = !matches!(read, Ok(1..));
        Ok(read? > 0)
    }

    /// What is left in the buffer is the beginning of a frame that is to come.
    fn note_rest(&mut self) {
        self.arrival = None;
        self.note_bytes();
    }

    fn note_bytes(&mut self) {
        let bytes = self.buffer.len();
        self.charge.resize(bytes);
        match &self.arrival {
            Some(arrival) => arrival.received(bytes),
            None if bytes >= UNASKED_BYTES => {
                let ledger = self.intake.ledger.clone();
                self.arrival = Some(Arrival::begin(ledger, self.source.receiving(), bytes));
            }
            None => {}
        }
    }

    /// Reads no more while so much is here already that more could not be kept; whether it had to wait.
    async fn wait_for_room(&mut self) -> Result<bool, ReadError> {
        let mut has_waited = false;
        while !self.has_room() {
            if self.arrival.as_ref().is_some_and(Arrival::is_displaced) {
                self.buffer = BytesMut::new();
                self.note_rest();
                return Err(ReadError::Displaced);
            }
            sleep(ROOM_POLL).await;
            has_waited = true;
        }
        Ok(has_waited)
    }

    fn has_room(&self) -> bool {
        let ledger = &self.intake.ledger;
        if self
            .arrival
            .as_ref()
            .is_some_and(|arrival| !arrival.may_go_on())
        {
            return false;
        }
        // Those that the coordinator has not looked at yet are in it, and are refused and gone in a moment. One
        // client must not have all of it in hand.
        let received = self.source.received();
        let bytes_max = ledger.bytes_max(received);
        match self.source {
            Source::Client if self.in_hand.load(Ordering::Relaxed) > bytes_max / 4 => false,
            Source::Client | Source::Peer => ledger.held(received) <= bytes_max + bytes_max / 4,
            Source::Node => true,
        }
    }

    /// Waits until a frame that was begun has to make room, for as long as nothing is read.
    pub async fn displaced(&mut self) -> ReadError {
        match &self.arrival {
            Some(arrival) => arrival.displaced().await,
            None => std::future::pending().await,
        }
        self.buffer = BytesMut::new();
        self.note_rest();
        ReadError::Displaced
    }
}

#[cfg(test)]
mod tests;
