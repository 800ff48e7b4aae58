//! Requests of a client that wait behind reads whose answers would be too much at once: a few bytes ask for a
//! megabyte, and all others would wait for those.

use dynakv_protocol::frame::Frame;
use dynakv_protocol::message::kind;

use crate::runtime::shared::outbox::Outbox;

/// How many requests a connection may have waiting because the answers to its reads would be too much at
/// once. More than clients have under way, so that theirs never keep a ping from being read.
const HELD_MAX: usize = 4096;

/// The requests, in the order in which they came.
#[derive(Default)]
pub(super) struct Held(Vec<Frame>);

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether more may be read.
    pub(super) fn may_grow(&self) -> bool {
        self.0.len() < HELD_MAX
    }

    /// Adds requests; gives those that may go on, in the order in which they came.
    pub(super) fn next(
        &mut self,
        came: &mut Vec<Frame>,
        outbox: &Outbox,
        bytes_max: usize,
    ) -> Vec<Frame> {
        match self.0.is_empty() {
            true => std::mem::swap(&mut self.0, came),
            false => self.0.append(came),
        }
        let is_read = |frame: &Frame| frame.header.kind == kind::GET;
        let reads = self.0.iter().filter(|frame| is_read(frame)).count();
        let begun = match reads {
            0 => 0,
            reads => outbox.begin_reads(reads, bytes_max),
        };
        // Up to the first read that has to wait.
        let places = self.0.iter().enumerate().filter(|(_, it)| is_read(it));
        let waits_at = places.map(|(at, _)| at).nth(begun);
        let rest = waits_at.map_or_else(Vec::new, |at| self.0.split_off(at));
        std::mem::replace(&mut self.0, rest)
    }
}
