//! What a read and a write give back.

use bytes::Bytes;
use dynakv_protocol::client::{self as wire, FetchedSibling};

/// What a read has seen of a key, to be handed to the write that answers it. Opaque.
///
/// It is bound to its key and cluster: a node refuses it anywhere else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Context(Bytes);

impl Context {
    /// The bytes, to be kept outside of this process.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<Bytes> for Context {
    /// Takes bytes that an earlier context gave. The node that gets them checks them.
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// The key has several values that did not know of each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key has {siblings} conflicting values: merge them and write the result with this read's context"
)]
pub struct Conflict {
    /// How many.
    pub siblings: usize,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The values that nobody has replaced; none when the key is absent or deleted.
    pub siblings: Vec<FetchedSibling>,
    /// For the write that answers this read; present also when the key is absent.
    pub context: Context,
    /// How many replicas the answer rests on: R, capped at the number of owners.
    pub effective_r: u8,
}

impl Fetched {
    /// Whether there is no value: the key was never written, was deleted, or has expired.
    pub fn is_absent(&self) -> bool {
        self.siblings.is_empty()
    }

    /// The one value of the key, or `None` when it is absent.
    ///
    /// # Errors
    /// [`Conflict`] when there are several; [`siblings`](Self::siblings) holds them.
    pub fn value(&self) -> Result<Option<&Bytes>, Conflict> {
        match &self.siblings[..] {
            [] => Ok(None),
            [only] => Ok(Some(&only.value)),
            several => Err(Conflict {
                siblings: several.len(),
            }),
        }
    }
}

impl From<wire::Fetched> for Fetched {
    fn from(fetched: wire::Fetched) -> Self {
        Self {
            siblings: fetched.siblings,
            context: Context(fetched.context),
            effective_r: fetched.effective_r,
        }
    }
}

/// The answer to a put or delete that met its quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The key's context after the write.
    pub context: Context,
    /// How many replicas were needed: W, capped at the number of owners.
    pub effective_w: u8,
    /// Whether stand-ins counted.
    pub sloppy: bool,
    /// How many concurrent values a write without a context replaced, as a read would have shown them; 0
    /// when the key was not in conflict.
    pub replaced: u64,
}

impl From<wire::Written> for Written {
    fn from(written: wire::Written) -> Self {
        Self {
            context: Context(written.context),
            effective_w: written.effective_w,
            sloppy: written.sloppy,
            replaced: written.replaced,
        }
    }
}
