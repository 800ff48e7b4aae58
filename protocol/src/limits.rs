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
pub const FRAME_OVERHEAD_BYTES: usize = 2 * 1024 * 1024;

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

// Clocks, siblings and bytes have limits of two kinds. The soft ones bind what clients write: a write is refused
// where its outcome would exceed them. The hard ones are those of the decoders, so they bind every state that is
// stored, sent or merged, by every path. They lie so far apart that what several owners let in, each by the soft
// ones, still fits together, for else a repair would be refused for what was legal.

/// From how many entries on a clock is worth a warning. Each unclean start of an owner adds one to the clocks of the
/// keys that are written again after it.
pub const CLOCK_ENTRIES_WARN: usize = 64;

/// The most entries of a clock to which client writes may add one. Writes of actors that stand in the clock already
/// go on.
pub const CLOCK_ENTRIES_SOFT_MAX: usize = 256;

/// The most replicas a ring can keep of each key.
pub const N_MAX: u8 = 32;

/// How many retired writes a key remembers, the newest. More would be needed only if so many writes in a
/// row were sent more than once, and an old copy of the first came to light after all of them.
pub const RETIRED_MAX: usize = 8;

/// The most entries of a clock that an import brings: what as many owners as a key can have came to, merged.
pub const CLOCK_ENTRIES_IMPORTED_MAX: usize = N_MAX as usize * CLOCK_ENTRIES_SOFT_MAX;

/// The most entries of a clock that a decoder accepts: four imports of different histories fit together, or three and
/// all that clients wrote beside them.
pub const CLOCK_ENTRIES_MAX: usize = 4 * CLOCK_ENTRIES_IMPORTED_MAX;

/// The most siblings that one owner lets in by client writes, marks among them: beside each value one that it was sent
/// more than once, and those of retired writes.
pub const SIBLINGS_AND_MARKS_MAX: usize = 2 * SIBLINGS_MAX + RETIRED_MAX;

/// The most siblings that an import brings: what as many owners as a key can have came to, merged.
pub const SIBLINGS_IMPORTED_MAX: usize = N_MAX as usize * SIBLINGS_AND_MARKS_MAX;

// As with clocks, four imports of different histories fit together.
const _: () = assert!(4 * SIBLINGS_IMPORTED_MAX <= SIBLINGS_DECODED_MAX);

/// The most siblings that a decoder accepts (repair may exceed [`SIBLINGS_MAX`]).
pub const SIBLINGS_DECODED_MAX: usize = 65_536;

/// The most bytes of all values of a key by client writes, whatever the value limit: four owners that each let in as
/// much still fit together. One value alone may always have [`VALUE_BYTES_MAX`].
const VERSIONS_BYTES_SOFT_MAX: usize = 16 * 1024 * 1024;

/// The most bytes that encoded versions may have. The rest of the largest frame is for what travels with them; frames of
/// the versions before this limit had room for it, too.
pub const VERSIONS_ENCODED_BYTES_MAX: usize = (VERSIONS_BYTES_FACTOR + 1) * VALUE_BYTES_MAX;

/// The most bytes of all values of a key together by client writes, with this limit of one value.
pub const fn versions_bytes_soft_max(value_bytes_max: usize) -> usize {
    let wanted = value_bytes_max.saturating_mul(VERSIONS_BYTES_FACTOR);
    if wanted < VERSIONS_BYTES_SOFT_MAX {
        wanted
    } else if value_bytes_max > VERSIONS_BYTES_SOFT_MAX {
        value_bytes_max
    } else {
        VERSIONS_BYTES_SOFT_MAX
    }
}

/// The most members in a ring document or a gossip message.
pub const MEMBERS_MAX: usize = 1024;

/// How long a request may wait when it does not say, in milliseconds.
pub const TIMEOUT_MS_DEFAULT: u32 = 5_000;

/// The longest deadline a request may ask for, in milliseconds.
pub const TIMEOUT_MS_MAX: u32 = 60_000;

/// The header by which a node's HTTP port names the port for requests, to a client that dialled the wrong one.
pub const HTTP_DATA_PORT_HEADER: &str = "dynakv-data-port";

/// How much of an HTTP answer a client that dialled the wrong port reads to find that header, in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;
