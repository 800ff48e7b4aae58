//! What a job of the store, or of the keeper of hints, came to, as the operation that waits for it hears it.
//!
//! A write is told of twice: once it has its dot, so that other owners work while this disk does, and once it is
//! durable here.

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::causal::Clock;
use dynakv_protocol::peer::Digest;

use super::put::Replaced;

/// What came of a job, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// The write has its dot. It is not durable yet.
    Minted {
        /// The key's versions with the write in them.
        versions: Bytes,
        /// The context that covers them.
        context: Bytes,
        /// Whether the node has lost other versions around this key.
        rebuilding: bool,
        /// What a blind write has replaced.
        replaced: Replaced,
    },
    /// Nothing was minted: the context names writes that were not seen here.
    Behind {
        /// The newest of them, of each actor.
        lacks: Clock,
        /// Whether the node has lost versions around this key.
        rebuilding: bool,
    },
    /// The key's state with this job in it is on disk.
    Durable {
        /// Whether the node has lost other versions around this key.
        rebuilding: bool,
        /// What stood here beside a write that came from elsewhere, encoded; empty for nothing. `None`
        /// where that was not asked.
        beside: Option<Bytes>,
    },
    /// The job changed nothing.
    Refused(ErrorReply),
    /// What is stored.
    Read {
        /// Encoded versions; empty for nothing.
        versions: Bytes,
        /// What stands for them in their place, where that was wanted.
        digest: Option<Digest>,
        /// Whether the node may have lost versions of this key: then "nothing" means nothing.
        rebuilding: bool,
    },
}
