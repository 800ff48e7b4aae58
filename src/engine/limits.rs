//! Whether a state may be stored: what a decoder would refuse, nobody writes.
//!
//! Limits are of two kinds (`dynakv_protocol::limits`). The soft ones bind what clients write, and lie so far
//! below the others that what several owners let in still fits together. The hard ones are those of the decoders and
//! bind every path: a state beyond them could be stored and never be read again, on no node.
//!
//! A key is *locked* when it cannot be read, when its copies cannot be merged, when a new actor cannot write it any
//! more, or when it has more siblings than any cluster comes to, so that no import would take it. What is locked is refused and named, changes nothing, and is mended by an operator's word
//! ([`unlock`](crate::engine::anti_entropy::unlock)).

use dynakv_protocol::causal::{Clock, Versions};
use dynakv_protocol::limits::{
    CLOCK_ENTRIES_IMPORTED_MAX, CLOCK_ENTRIES_MAX, CLOCK_ENTRIES_SOFT_MAX, SIBLINGS_DECODED_MAX,
    SIBLINGS_IMPORTED_MAX, VERSIONS_ENCODED_BYTES_MAX,
};
use dynakv_protocol::{Actor, DecodeError, ErrorCode, ErrorReply};

use super::key_words;

/// The longest command with a key in it that a message shows, in bytes: with a longer one it would be cut off.
const COMMAND_BYTES_SHOWN: usize = 2048;

/// What is beyond its limit, and by how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} would be {found}, the limit is {limit}")]
pub struct Exceeded {
    what: &'static str,
    found: usize,
    limit: usize,
}

fn first_beyond(all: [(&'static str, usize, usize); 3]) -> Result<(), Exceeded> {
    let beyond = |&(_, found, limit): &(_, usize, usize)| found > limit;
    match all.into_iter().find(beyond) {
        None => Ok(()),
        Some((what, found, limit)) => Err(Exceeded { what, found, limit }),
    }
}

/// Whether every node could read this state again. `encoded_bytes` is the length of its encoding. Costs three
/// comparisons.
///
/// # Errors
/// [`Exceeded`] names the first limit that is exceeded.
pub fn readable(versions: &Versions, encoded_bytes: usize) -> Result<(), Exceeded> {
    first_beyond([
        (
            "entries of the key's clock",
            versions.clock().len(),
            CLOCK_ENTRIES_MAX,
        ),
        (
            "the key's siblings",
            versions.siblings().len(),
            SIBLINGS_DECODED_MAX,
        ),
        (
            "bytes of the key's versions",
            encoded_bytes,
            VERSIONS_ENCODED_BYTES_MAX,
        ),
    ])
}

/// Whether this state may be stored, by whatever path.
///
/// # Errors
/// The refusal, which names the key and what mends it.
pub fn check(key: &[u8], versions: &Versions, encoded_bytes: usize) -> Result<(), ErrorReply> {
    readable(versions, encoded_bytes).map_err(|exceeded| locked(key, &exceeded.to_string()))
}

/// Whether an import may bring this state: what was legal in one cluster is in the other.
///
/// # Errors
/// The refusal.
pub fn check_import(versions: &Versions, encoded_bytes: usize) -> Result<(), ErrorReply> {
    let within = first_beyond([
        (
            "entries of the imported clock",
            versions.clock().len(),
            CLOCK_ENTRIES_IMPORTED_MAX,
        ),
        (
            "imported siblings of one key",
            versions.siblings().len(),
            SIBLINGS_IMPORTED_MAX,
        ),
        (
            "bytes of imported versions",
            encoded_bytes,
            VERSIONS_ENCODED_BYTES_MAX,
        ),
    ]);
    within.map_err(|exceeded| {
        let message = format!(
            "{exceeded}: no cluster comes to that by itself; leave this key out, or mend it where it was \
             exported: dynakv repair --key KEY --accept-loss"
        );
        ErrorReply::new(ErrorCode::TooLarge, message)
    })
}

/// Whether a client's write by this actor may add what it adds to a key's clock. Writes that add nothing always may.
///
/// # Errors
/// The refusal, which names what mends the key.
pub fn check_write(
    current: &Clock,
    context: Option<&Clock>,
    actor: Actor,
) -> Result<(), ErrorReply> {
    let nothing = Clock::new();
    let context = context.unwrap_or(&nothing);
    // Nearly always this is all.
    if current.len() + context.len() < CLOCK_ENTRIES_SOFT_MAX {
        return Ok(());
    }
    let entries = current.len_with(context, actor);
    if entries <= CLOCK_ENTRIES_SOFT_MAX || entries == current.len() {
        return Ok(());
    }
    let message = format!(
        "the key's clock would have {entries} entries, client writes may add up to {CLOCK_ENTRIES_SOFT_MAX}: \
         each unclean start of an owner adds one. It is read as before; to write it again, give up entries that \
         no value needs: dynakv repair --key KEY --accept-loss"
    );
    Err(ErrorReply::new(ErrorCode::TooLarge, message))
}

/// Whether the key is locked with this state at each of its owners.
pub fn is_locked(versions: &Versions, encoded_bytes: usize) -> bool {
    versions.clock().len() >= CLOCK_ENTRIES_SOFT_MAX
        || versions.siblings().len() > SIBLINGS_IMPORTED_MAX
        || readable(versions, encoded_bytes).is_err()
}

/// Whether bytes are refused for a limit and not because they are damaged.
pub fn is_beyond(error: &DecodeError) -> bool {
    matches!(error, DecodeError::TooLong { .. })
}

/// What is said of a key that is locked, and why.
pub fn locked(key: &[u8], why: &str) -> ErrorReply {
    let message = format!(
        "the key is locked: {why}. Nothing was changed; with all its owners alive this mends it: {}",
        short_command(key)
    );
    ErrorReply::new(ErrorCode::TooLarge, message)
}

/// What mends a locked key, to be typed.
pub fn command(key: &[u8]) -> String {
    format!("dynakv repair {} --accept-loss", key_words::option(key))
}

/// The same where a message has to stay short.
fn short_command(key: &[u8]) -> String {
    let command = command(key);
    match command.len() <= COMMAND_BYTES_SHOWN {
        true => command,
        false => "dynakv repair --key KEY --accept-loss".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dynakv_protocol::WriteId;
    use dynakv_protocol::causal::{Dot, Sibling, Value};
    use dynakv_protocol::codec::Wire;
    use dynakv_protocol::limits::{CLOCK_ENTRIES_WARN, VALUE_BYTES_DEFAULT};

    use super::*;
    use crate::engine::write::mint::{Intent, Minted, Minter};

    fn clock(entries: usize) -> Clock {
        let dot = |actor| Dot {
            actor: Actor(actor),
            counter: 1,
        };
        (1..=entries as u64).map(dot).collect()
    }

    fn state(entries: usize, siblings: usize) -> Versions {
        let mut clock = clock(entries);
        clock.see(Dot {
            actor: Actor(u64::MAX),
            counter: siblings as u64,
        });
        let sibling = |counter| Sibling {
            dot: Dot {
                actor: Actor(u64::MAX),
                counter,
            },
            write_id: WriteId(u128::from(counter)),
            timestamp: counter,
            expires_at_ms: None,
            value: Value::Tombstone,
        };
        Versions::from_parts(clock, (1..=siblings as u64).map(sibling)).unwrap()
    }

    /// What is let through can be read again, and what is one beyond is what no decoder takes.
    #[test]
    fn the_hard_limits_are_those_of_the_decoders() {
        for (entries, siblings, is_fine) in [
            (CLOCK_ENTRIES_MAX - 1, 1, true),
            (CLOCK_ENTRIES_MAX, 1, false),
            (0, SIBLINGS_DECODED_MAX, true),
            (0, SIBLINGS_DECODED_MAX + 1, false),
        ] {
            let versions = state(entries, siblings);
            let encoded = versions.to_bytes();
            let decoded = Versions::from_bytes(&encoded);
            assert_eq!(decoded.is_ok(), is_fine, "{entries}, {siblings}");
            if let Err(error) = decoded {
                assert!(is_beyond(&error), "{error:?}");
            }
            let checked = check(b"k", &versions, encoded.len());
            assert_eq!(checked.is_ok(), is_fine, "{entries}, {siblings}");
            if let Err(error) = checked {
                assert_eq!((error.code, error.retryable), (ErrorCode::TooLarge, false));
                assert!(
                    error
                        .message
                        .ends_with("dynakv repair --key k --accept-loss")
                );
            }
            // It is there all the same, for whoever mends it.
            assert_eq!(Versions::from_bytes_of_any_size(&encoded), Ok(versions));
        }
        let versions = state(1, 1);
        assert!(check(b"k", &versions, VERSIONS_ENCODED_BYTES_MAX).is_ok());
        assert!(check(b"k", &versions, VERSIONS_ENCODED_BYTES_MAX + 1).is_err());
    }

    #[test]
    fn an_import_brings_what_a_cluster_can_come_to_and_no_more() {
        let import = |versions: Versions| check_import(&versions, versions.to_bytes().len());
        assert!(import(state(CLOCK_ENTRIES_IMPORTED_MAX - 1, 1)).is_ok());
        assert!(import(state(CLOCK_ENTRIES_IMPORTED_MAX, 1)).is_err());
        assert!(import(state(1, SIBLINGS_IMPORTED_MAX)).is_ok());
        assert!(import(state(1, SIBLINGS_IMPORTED_MAX + 1)).is_err());
    }

    #[test]
    fn a_write_may_not_add_to_a_long_clock_but_goes_on_where_it_stands() {
        let full = clock(CLOCK_ENTRIES_SOFT_MAX);
        let (known, new) = (Actor(7), Actor(1 << 40));
        assert!(check_write(&full, None, known).is_ok());
        let error = check_write(&full, None, new).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
        assert!(error.message.contains("dynakv repair --key"), "{error}");
        assert!(check_write(&clock(CLOCK_ENTRIES_SOFT_MAX - 1), None, new).is_ok());
        // Contexts count, forged ones too.
        let forged = clock(CLOCK_ENTRIES_MAX);
        assert!(check_write(&Clock::new(), Some(&forged), known).is_err());
        assert!(check_write(&full, Some(&forged), known).is_err());
        assert!(check_write(&forged, Some(&full), known).is_ok());
        // What merging has made longer is not refused for that.
        assert!(check_write(&clock(CLOCK_ENTRIES_SOFT_MAX * 3), Some(&full), known).is_ok());
    }

    /// A node that is killed again and again, and a key that is written after each of its starts.
    #[test]
    fn a_key_that_is_rewritten_after_every_unclean_start_stays_readable_and_writable() {
        let mut minter = Minter::new(Actor(1), 0, fastrand::Rng::with_seed(3));
        let mut key = Versions::new();
        let (mut refused, mut warned_at) = (0, None);
        for start in 1..=1000_u64 {
            minter.renew();
            let intent = Intent {
                write_id: WriteId(start.into()),
                again: false,
                value: Value::Bytes(Bytes::copy_from_slice(&start.to_be_bytes())),
                context: None,
                ttl_ms: None,
                value_bytes_max: VALUE_BYTES_DEFAULT,
                if_no_conflict: false,
            };
            let before = key.clone();
            match minter.mint(&mut key, intent, start) {
                Ok(minted) => assert!(matches!(minted, Minted::New { .. })),
                Err(error) => {
                    refused += 1;
                    assert_eq!(key, before, "refused before anything changes");
                    assert!(error.message.contains("dynakv repair --key"), "{error}");
                    // What the operator then types.
                    let unlocked =
                        crate::engine::anti_entropy::unlock::unlock(&[key.to_bytes()], usize::MAX);
                    key = unlocked.unwrap().versions;
                }
            }
            if key.clock().len() >= CLOCK_ENTRIES_WARN {
                warned_at.get_or_insert(start);
            }
            let encoded = key.to_bytes();
            assert_eq!(Versions::from_bytes(&encoded).as_ref(), Ok(&key));
            assert_eq!(key.siblings().len(), 1);
        }
        // Warned long before it is refused, and refused seldom.
        assert_eq!(warned_at, Some(CLOCK_ENTRIES_WARN as u64));
        assert_eq!(refused, 1000 / CLOCK_ENTRIES_SOFT_MAX);
    }

    #[test]
    fn the_command_can_be_typed() {
        for (key, expected) in [
            (&b"user:1"[..], "--key user:1"),
            (b"it's", r"--key 'it'\''s'"),
            (b"-k", "--key-base64 LWs="),
            (b"a\nb", "--key-base64 YQpi"),
        ] {
            let expected = format!("dynakv repair {expected} --accept-loss");
            assert_eq!(command(key), expected);
            assert!(locked(key, "why").message.ends_with(&expected));
        }
        let long = locked(&[b'k'; 4096], "why").message;
        assert!(long.ends_with("dynakv repair --key KEY --accept-loss"));
        assert!(command(&[b'k'; 4096]).len() > 4096);
    }
}
