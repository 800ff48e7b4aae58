//! Bounds that every decoder holds before it allocates.
//!
//! The configurable ones (value size, siblings) live in the node's settings; these are the hard
//! maxima that no setting can exceed.

/// The longest key, in bytes. A key has at least one byte.
pub const KEY_BYTES_MAX: usize = 4 * 1024;

/// The default limit of one value, in bytes.
pub const VALUE_BYTES_DEFAULT: usize = 1024 * 1024;

/// The largest value that any setting can allow, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most siblings of one key that client writes may make; repair is never refused.
pub const SIBLINGS_MAX: usize = 100;

/// From how many siblings on a key is worth a warning.
pub const SIBLINGS_WARN: usize = 25;

/// All versions of one key together may hold this many times the value limit by client writes.
pub const VERSIONS_BYTES_FACTOR: usize = 4;

/// A batch is closed once it holds this many bytes, so that its receiver can begin.
pub const BATCH_BYTES_SOFT_MAX: usize = 256 * 1024;

/// What a frame may need beyond its values: a batch that was about to close when its last item came,
/// and that item's key, clock, context and headers.
pub const FRAME_OVERHEAD_BYTES: usize = BATCH_BYTES_SOFT_MAX + 256 * 1024;

/// The largest frame a node with the given value limit accepts from a client, in bytes (the length field's
/// value).
///
/// Exports and imports carry whole sets of versions, so this is more than one value.
pub const fn frame_bytes_max(value_bytes_max: usize) -> usize {
    (VERSIONS_BYTES_FACTOR + 1) * value_bytes_max + FRAME_OVERHEAD_BYTES
}

/// The largest frame between nodes, and the largest answer to a client, in bytes: that of the largest value
/// limit, whatever the settings. Nodes whose limits differ, while an operator raises them, understand each
/// other, and so do those that merge what several coordinators let in.
pub const FRAME_BYTES_MAX: usize = frame_bytes_max(VALUE_BYTES_MAX);

/// The largest frame before the handshake has succeeded, in bytes.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 4 * 1024;

/// The most items one batch may carry.
pub const BATCH_ITEMS_MAX: usize = 4096;

/// The most entries of a clock that a decoder accepts.
pub const CLOCK_ENTRIES_MAX: usize = 4096;

/// The most siblings that a decoder accepts (repair may exceed [`SIBLINGS_MAX`]).
pub const SIBLINGS_DECODED_MAX: usize = 65_536;

/// The most members in a ring document or a gossip message.
pub const MEMBERS_MAX: usize = 1024;

/// How long a request may wait when it does not say, in milliseconds.
pub const TIMEOUT_MS_DEFAULT: u32 = 5_000;

/// The longest deadline a request may ask for, in milliseconds.
pub const TIMEOUT_MS_MAX: u32 = 60_000;
