//! What operators ask of a node's mending: to compare all its copies with the others' now, how far that
//! is, and to give up what nobody can bring back.

use bytes::{BufMut, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_string, put_tag_bytes, put_tag_u64, put_varint,
};
use crate::ids::NodeId;

/// The longest [`RepairProgress::last_error`], in bytes; what is longer is cut off.
pub const REPAIR_ERROR_BYTES_MAX: usize = 1024;

const ACTION_LOOK: u8 = 0;
const ACTION_START: u8 = 1;
const ACTION_ACCEPT_LOSS: u8 = 2;

const TAG_STARTED: u8 = 1;
const TAG_FINISHED: u8 = 2;
const TAG_WITH: u8 = 3;
const TAG_ERROR: u8 = 4;
const TAG_KEYS_LOCKED: u8 = 5;

/// What is wanted of a node's mending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Tell how far it is.
    Look,
    /// Compare all copies with all other members, now. Changes nothing while that is under way already.
    Start,
    /// The same, and whatever is still being rebuilt afterwards counts as rebuilt, as far as every member
    /// in reach has given what it has.
    AcceptLoss,
}

/// How far a repair is: the one under way, or the last one since the node started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairProgress {
    /// Who answers.
    pub node_id: NodeId,
    /// How many repairs were begun since the node started; 0 for none. Tells one from another.
    pub run: u64,
    /// Whether it is under way.
    pub running: bool,
    /// How many members there are to compare with.
    pub pairs_total: u32,
    /// How many of these are done.
    pub pairs_done: u32,
    /// How many of these could not be compared with, or not in all they own.
    pub pairs_failed: u32,
    /// How many of the 256 pages of the present pair are compared.
    pub pages_compared: u32,
    /// How many segments differed, all pairs together.
    pub segments_differing: u64,
    /// How many keys were brought up to date at the answering node.
    pub keys_fetched: u64,
    /// How many were at the others.
    pub keys_sent: u64,
    /// How many segments the node still rebuilds.
    pub rebuilding_segments: u32,
    /// How many of those it rebuilt count as such by an operator's word, in this repair.
    pub accepted_segments: u32,
    /// How long ago it began, in milliseconds.
    pub started_age_ms: Option<u64>,
    /// How long ago it ended, in milliseconds; absent while it runs.
    pub finished_age_ms: Option<u64>,
    /// With whom the node compares now.
    pub comparing_with: Option<NodeId>,
    /// What went wrong last; empty for nothing.
    pub last_error: String,
    /// How many keys were passed over because they are locked: their versions are beyond a limit.
    pub keys_locked: u64,
}

impl RepairProgress {
    /// What a node says that has not been asked for a repair since it started.
    pub fn none(node_id: NodeId) -> Self {
        Self {
            node_id,
            run: 0,
            running: false,
            pairs_total: 0,
            pairs_done: 0,
            pairs_failed: 0,
            pages_compared: 0,
            segments_differing: 0,
            keys_fetched: 0,
            keys_sent: 0,
            rebuilding_segments: 0,
            accepted_segments: 0,
            started_age_ms: None,
            finished_age_ms: None,
            comparing_with: None,
            last_error: String::new(),
            keys_locked: 0,
        }
    }
}

impl Wire for Repair {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Self::Look => ACTION_LOOK,
            Self::Start => ACTION_START,
            Self::AcceptLoss => ACTION_ACCEPT_LOSS,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let repair = match reader.u8()? {
            ACTION_LOOK => Self::Look,
            ACTION_START => Self::Start,
            ACTION_ACCEPT_LOSS => Self::AcceptLoss,
            _ => return Err(DecodeError::Invalid { what: "action" }),
        };
        skip_tags(reader)?;
        Ok(repair)
    }
}

impl Wire for RepairProgress {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        put_varint(out, self.run);
        put_bool(out, self.running);
        out.put_u32(self.pairs_total);
        out.put_u32(self.pairs_done);
        out.put_u32(self.pairs_failed);
        out.put_u32(self.pages_compared);
        put_varint(out, self.segments_differing);
        put_varint(out, self.keys_fetched);
        put_varint(out, self.keys_sent);
        out.put_u32(self.rebuilding_segments);
        out.put_u32(self.accepted_segments);
        if let Some(age_ms) = self.started_age_ms {
            put_tag_u64(out, TAG_STARTED, age_ms);
        }
        if let Some(age_ms) = self.finished_age_ms {
            put_tag_u64(out, TAG_FINISHED, age_ms);
        }
        if let Some(with) = &self.comparing_with {
            put_tag_bytes(out, TAG_WITH, &with.to_bytes());
        }
        if !self.last_error.is_empty() {
            let mut end = self.last_error.len().min(REPAIR_ERROR_BYTES_MAX);
            while !self.last_error.is_char_boundary(end) {
                end -= 1;
            }
            let mut text = BytesMut::new();
            put_string(&mut text, &self.last_error[..end]);
            put_tag_bytes(out, TAG_ERROR, &text);
        }
        if self.keys_locked > 0 {
            put_tag_u64(out, TAG_KEYS_LOCKED, self.keys_locked);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut progress = Self {
            node_id: NodeId::decode(reader)?,
            run: reader.varint()?,
            running: reader.bool("running")?,
            pairs_total: reader.u32()?,
            pairs_done: reader.u32()?,
            pairs_failed: reader.u32()?,
            pages_compared: reader.u32()?,
            segments_differing: reader.varint()?,
            keys_fetched: reader.varint()?,
            keys_sent: reader.varint()?,
            rebuilding_segments: reader.u32()?,
            accepted_segments: reader.u32()?,
            started_age_ms: None,
            finished_age_ms: None,
            comparing_with: None,
            last_error: String::new(),
            keys_locked: 0,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_STARTED => progress.started_age_ms = Some(field.u64()?),
                TAG_KEYS_LOCKED => progress.keys_locked = field.u64()?,
                TAG_FINISHED => progress.finished_age_ms = Some(field.u64()?),
                TAG_WITH => progress.comparing_with = Some(NodeId::decode(&mut field)?),
                TAG_ERROR => {
                    let text = field.string("error", REPAIR_ERROR_BYTES_MAX)?;
                    progress.last_error = text.to_owned();
                }
                _ => {}
            }
        }
        Ok(progress)
    }
}
