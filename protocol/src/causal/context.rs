//! The context a client holds between a read and the write that answers it.
//!
//! To clients it is opaque. It is bound to its cluster and key and carries a checksum, because a
//! context used on another key would erase what nobody saw, and a damaged counter would make every
//! later write look as if it had been seen.
//!
//! Form: `version u8 (1) ‖ binding u64 ‖ clock ‖ crc32 u32` with binding = xxh3-64 of
//! `cluster id ‖ key`, and the checksum over everything before it.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::Clock;
use crate::codec::{DecodeError, Reader, Wire};
use crate::ids::ClusterId;
use crate::limits::CLOCK_ENTRIES_MAX;

/// First byte. It also keeps the base64 form from ever starting with `-`.
const FORMAT: u8 = 1;

/// The largest context that a clock within its limits can make, in bytes: 18 for each entry, and 32 beside them.
pub const CONTEXT_BYTES_MAX: usize = 640 * 1024;

const _: () = assert!(CLOCK_ENTRIES_MAX * 18 + 32 <= CONTEXT_BYTES_MAX);

/// Why a context was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The bytes are no context.
    #[error("the context is damaged or no dynakv context ({0})")]
    Malformed(#[from] DecodeError),
    /// It was made for another key or another cluster.
    #[error("the context belongs to another key or another cluster")]
    WrongKey,
}

/// Makes the context that stands for having read this clock.
pub fn seal(cluster: ClusterId, key: &[u8], clock: &Clock) -> Bytes {
    let mut out = BytesMut::with_capacity(32 + clock.len() * 18);
    out.put_u8(FORMAT);
    out.put_u64(binding(cluster, key));
    clock.encode(&mut out);
    let checksum = crc32fast::hash(&out);
    out.put_u32(checksum);
    out.freeze()
}

/// Checks a context against the key it is used on and gives the clock it stands for.
///
/// # Errors
/// [`ContextError`] when it is damaged or belongs elsewhere.
pub fn open(cluster: ClusterId, key: &[u8], context: &Bytes) -> Result<Clock, ContextError> {
    let Some(body_len) = context.len().checked_sub(4) else {
        let left = context.len();
        return Err(DecodeError::Truncated { needed: 4, left }.into());
    };
    let body = context.slice(..body_len);
    let stored = Reader::new(&context.slice(body_len..)).u32()?;
    let computed = crc32fast::hash(&body);
    if stored != computed {
        return Err(DecodeError::Checksum { stored, computed }.into());
    }
    let mut reader = Reader::new(&body);
    if reader.u8()? != FORMAT {
        let what = "context version";
        return Err(DecodeError::Invalid { what }.into());
    }
    if reader.u64()? != binding(cluster, key) {
        return Err(ContextError::WrongKey);
    }
    let clock = Clock::decode(&mut reader)?;
    reader.finish()?;
    Ok(clock)
}

fn binding(cluster: ClusterId, key: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&cluster.0.to_be_bytes());
    hasher.update(key);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::Dot;
    use crate::ids::Actor;

    fn clock() -> Clock {
        [(1, 5), (9, u64::MAX)]
            .map(|(actor, counter)| Dot {
                actor: Actor(actor),
                counter,
            })
            .into_iter()
            .collect()
    }

    #[test]
    fn a_context_opens_only_where_it_was_made() {
        let context = seal(ClusterId(7), b"k1", &clock());
        assert_eq!(open(ClusterId(7), b"k1", &context), Ok(clock()));
        assert_eq!(
            open(ClusterId(7), b"k2", &context),
            Err(ContextError::WrongKey)
        );
        assert_eq!(
            open(ClusterId(8), b"k1", &context),
            Err(ContextError::WrongKey)
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let context = seal(ClusterId(7), b"k1", &clock());
        for bit in 0..context.len() * 8 {
            let mut damaged = context.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(ClusterId(7), b"k1", &Bytes::from(damaged)).is_err());
        }
        for length in 0..context.len() {
            assert!(open(ClusterId(7), b"k1", &context.slice(..length)).is_err());
        }
    }
}
