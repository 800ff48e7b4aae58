//! What operators ask of a node's snapshots: to make one, and how far that is.

use bytes::{BufMut, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_string, put_tag_bytes, put_tag_u64, put_varint,
};
use crate::ids::{NODE_ID_BYTES_MAX, NodeId};

/// The longest name of a snapshot, in bytes.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = NODE_ID_BYTES_MAX;

/// The longest [`SnapshotProgress::path`] and [`SnapshotProgress::error`], in bytes; what is longer is cut off.
pub const SNAPSHOT_TEXT_BYTES_MAX: usize = 4096;

const ACTION_LOOK: u8 = 0;
const ACTION_START: u8 = 1;

const TAG_STARTED: u8 = 1;
const TAG_FINISHED: u8 = 2;
const TAG_PATH: u8 = 3;
const TAG_ERROR: u8 = 4;

/// What is wanted of a node's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// Tell how far the last one is.
    Look,
    /// Make one of this name, now. Changes nothing while one of this name is under way already.
    Start {
        /// 1 to 64 letters, digits, `.`, `_` and `-`. Which names a node takes it says itself.
        name: String,
    },
}

/// How far a snapshot is: the one under way, or the last one since the node started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Who answers.
    pub node_id: NodeId,
    /// How many were begun since the node started; 0 for none. Tells one from another.
    pub run: u64,
    /// Whether it is under way.
    pub running: bool,
    /// Its name; empty for none.
    pub name: String,
    /// How many keys were copied, deleted ones too.
    pub keys_done: u64,
    /// About how many there are.
    pub keys_total: u64,
    /// What it takes on disk, in bytes; 0 until it is made.
    pub bytes: u64,
    /// How long ago it began, in milliseconds.
    pub started_age_ms: Option<u64>,
    /// How long ago it ended, in milliseconds; absent while it runs.
    pub finished_age_ms: Option<u64>,
    /// Where it lies, on the node's machine; empty until it is made.
    pub path: String,
    /// Why it was given up; empty where it was not.
    pub error: String,
}

impl SnapshotProgress {
    /// What a node says that has not been asked for a snapshot since it started.
    pub fn none(node_id: NodeId) -> Self {
        Self {
            node_id,
            run: 0,
            running: false,
            name: String::new(),
            keys_done: 0,
            keys_total: 0,
            bytes: 0,
            started_age_ms: None,
            finished_age_ms: None,
            path: String::new(),
            error: String::new(),
        }
    }
}

impl Wire for Snapshot {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Look => out.put_u8(ACTION_LOOK),
            Self::Start { name } => {
                out.put_u8(ACTION_START);
                put_string(out, name);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let snapshot = match reader.u8()? {
            ACTION_LOOK => Self::Look,
            ACTION_START => Self::Start {
                name: reader.string("name", SNAPSHOT_NAME_BYTES_MAX)?.to_owned(),
            },
            _ => return Err(DecodeError::Invalid { what: "action" }),
        };
        skip_tags(reader)?;
        Ok(snapshot)
    }
}

impl Wire for SnapshotProgress {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        put_varint(out, self.run);
        put_bool(out, self.running);
        put_string(out, &self.name);
        put_varint(out, self.keys_done);
        put_varint(out, self.keys_total);
        put_varint(out, self.bytes);
        if let Some(age_ms) = self.started_age_ms {
            put_tag_u64(out, TAG_STARTED, age_ms);
        }
        if let Some(age_ms) = self.finished_age_ms {
            put_tag_u64(out, TAG_FINISHED, age_ms);
        }
        for (tag, text) in [(TAG_PATH, &self.path), (TAG_ERROR, &self.error)] {
            if !text.is_empty() {
                let mut end = text.len().min(SNAPSHOT_TEXT_BYTES_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                let mut field = BytesMut::new();
                put_string(&mut field, &text[..end]);
                put_tag_bytes(out, tag, &field);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut progress = Self {
            node_id: NodeId::decode(reader)?,
            run: reader.varint()?,
            running: reader.bool("running")?,
            name: reader.string("name", SNAPSHOT_NAME_BYTES_MAX)?.to_owned(),
            keys_done: reader.varint()?,
            keys_total: reader.varint()?,
            bytes: reader.varint()?,
            started_age_ms: None,
            finished_age_ms: None,
            path: String::new(),
            error: String::new(),
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_STARTED => progress.started_age_ms = Some(field.u64()?),
                TAG_FINISHED => progress.finished_age_ms = Some(field.u64()?),
                TAG_PATH => {
                    let text = field.string("path", SNAPSHOT_TEXT_BYTES_MAX)?;
                    progress.path = text.to_owned();
                }
                TAG_ERROR => {
                    let text = field.string("error", SNAPSHOT_TEXT_BYTES_MAX)?;
                    progress.error = text.to_owned();
                }
                _ => {}
            }
        }
        Ok(progress)
    }
}
