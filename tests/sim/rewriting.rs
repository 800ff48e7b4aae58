//! Messages that leave a machine as others than its node gave: rules of safety that are broken on purpose
//! ([`Flaw`]), and that no disk, setting or directory could break.
//!
//! Answers to other nodes leave over connections that those have dialled, in frames of their own or in
//! batches.

use bytes::{Bytes, BytesMut};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{
    BatchWriter, Frame, FrameDecoder, KIND_BATCH, put_frame, split_batch,
};
use dynakv_protocol::gossip::Gossip;
use dynakv_protocol::message::{Request, kind};
use dynakv_protocol::peer::{Merged, VersionsReply};

use crate::machine::Flaw;

const VERSIONS: u8 = kind::READ | kind::ANSWER;
const NEWS: u8 = kind::GOSSIP | kind::ANSWER;
const MERGED: u8 = kind::MERGE | kind::ANSWER;

/// What becomes of what is written to one connection.
pub(crate) struct Rewriting {
    flaw: Flaw,
    decoder: FrameDecoder,
    /// A frame of which the rest is missing.
    seen: BytesMut,
    /// Whole frames that have not left yet.
    pub(crate) waiting: BytesMut,
    /// So many bytes were taken from the node, which does not know it yet.
    pub(crate) taken: usize,
}

impl Rewriting {
    /// Nothing for a flaw that is made elsewhere.
    pub(crate) fn of(flaw: Flaw) -> Option<Self> {
        let is_made_here = matches!(
            flaw,
            Flaw::VotesWhileRebuilding
                | Flaw::CountsRebuilding
                | Flaw::HidesBeside
                | Flaw::ReadsTheNewAtOnce
        );
        is_made_here.then(|| Self::new(flaw))
    }

    /// The same of what is written to a connection that was dialled.
    pub(crate) fn of_requests(flaw: Flaw) -> Option<Self> {
        let is_made_here = matches!(flaw, Flaw::BeginsLate | Flaw::ReadsTheNewAtOnce);
        is_made_here.then(|| Self::new(flaw))
    }

    fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            // The largest frame that nodes accept is smaller.
            decoder: FrameDecoder::new(u32::MAX as usize),
            seen: BytesMut::new(),
            waiting: BytesMut::new(),
            taken: 0,
        }
    }

    /// The node has written this.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.seen.extend_from_slice(bytes);
        self.taken = bytes.len();
        while let Some(frame) = self
            .decoder
            .next(&mut self.seen)
            .expect("a node sends frames")
        {
            if frame.header.kind != KIND_BATCH {
                let Frame { header, body } = self.rewritten(frame);
                put_frame(&mut self.waiting, header, |out| {
                    out.extend_from_slice(&body);
                });
                continue;
            }
            let mut items = Vec::new();
            split_batch(frame, |item| items.push(item)).expect("a node sends batches");
            let mut batch = BatchWriter::default();
            for item in items {
                let Frame { header, body } = self.rewritten(item);
                batch.push(&mut self.waiting, header, |out| {
                    out.extend_from_slice(&body);
                });
            }
            batch.finish(&mut self.waiting);
        }
    }

    fn rewritten(&self, mut frame: Frame) -> Frame {
        match (self.flaw, frame.header.kind) {
            (Flaw::ReadsTheNewAtOnce, kind::GOSSIP) => {
                let request = Request::decode(frame.header.kind, &frame.body);
                let mut request = request.expect("a node sends what can be read");
                if let Request::Gossip(gossip) = &mut request {
                    say_complete(gossip);
                }
                let mut body = BytesMut::new();
                request.encode(&mut body);
                frame.body = body.freeze();
            }
            (Flaw::ReadsTheNewAtOnce, NEWS) => {
                let gossip = Gossip::from_bytes(&frame.body);
                let mut gossip = gossip.expect("a node sends what can be read");
                say_complete(&mut gossip);
                frame.body = gossip.to_bytes();
            }
            (Flaw::VotesWhileRebuilding | Flaw::ReadsTheNewAtOnce, VERSIONS) => {
                let reply = VersionsReply::from_bytes(&frame.body);
                let mut reply = reply.expect("a node sends what can be read");
                reply.rebuilding = false;
                frame.body = reply.to_bytes();
            }
            (Flaw::CountsRebuilding | Flaw::HidesBeside, MERGED) => {
                let merged = Merged::from_bytes(&frame.body);
                let mut merged = merged.expect("a node sends what can be read");
                if self.flaw == Flaw::HidesBeside {
                    merged.beside = merged.beside.map(|_| Bytes::new());
                } else if merged.rebuilding {
                    merged.rebuilding = false;
                    merged.beside.get_or_insert_default();
                }
                frame.body = merged.to_bytes();
            }
            (Flaw::BeginsLate, kind::PUT | kind::DELETE) => {
                let request = Request::decode(frame.header.kind, &frame.body);
                let mut request = request.expect("a node sends what can be read");
                if let Request::Put(write) | Request::Delete(write) = &mut request {
                    write.handed_on = None;
                }
                let mut body = BytesMut::new();
                request.encode(&mut body);
                frame.body = body.freeze();
            }
            _ => {}
        }
        frame
    }
}

/// Everybody has all that it gained, whatever it says of itself.
fn say_complete(gossip: &mut Gossip) {
    for entry in &mut gossip.entries {
        entry.complete_since = entry.ring_version;
    }
}
