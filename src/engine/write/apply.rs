//! How a job changes a key: what is to be stored, and what is told of it, and when.
//!
//! The store's writer is the shell around this: for one key after the other it reads what is stored, has it decided
//! here what becomes of that, and stores the result. So reading, minting and merging are one step, although nothing
//! here knows of a disk.
//!
//! A job is told of twice at most: at once, when the state with it is stored but not synced, so that other owners
//! work while this disk does; and once it is durable, which is what may be counted.

use bytes::Bytes;
use dynakv_protocol::causal::{Dot, Versions, context};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{ClusterId, DecodeError, ErrorCode, ErrorReply};

use super::beside::stands_beside;
use super::mint::{Intent, Minted, Minter};
use super::outcome::JobOutcome;
use super::put::{Replaced, Seen};
use crate::engine::limits;

/// A key as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Its versions; none for a key that was never written.
    pub versions: Versions,
    /// The bytes that they were decoded from; `None` where nothing is stored.
    pub encoded: Option<Bytes>,
}

impl Present {
    /// Decodes what is stored of a key.
    ///
    /// # Errors
    /// When the bytes are beyond a limit, which locks the key, or are no versions.
    pub fn decode(key: &[u8], stored: Option<Bytes>) -> Result<Self, Refused> {
        Self::decode_by(Versions::from_bytes, key, stored)
    }

    /// The same for versions that may be beyond the limits.
    ///
    /// # Errors
    /// When the bytes are no versions.
    pub fn decode_of_any_size(key: &[u8], stored: Option<Bytes>) -> Result<Self, Refused> {
        Self::decode_by(Versions::from_bytes_of_any_size, key, stored)
    }

    fn decode_by(
        decode: impl FnOnce(&Bytes) -> Result<Versions, DecodeError>,
        key: &[u8],
        stored: Option<Bytes>,
    ) -> Result<Self, Refused> {
        let versions = match &stored {
            Some(stored) => decode(stored).map_err(|error| undecodable(key, &error))?,
            None => Versions::new(),
        };
        Ok(Self {
            versions,
            encoded: stored,
        })
    }
}

/// How a key is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A client's write gets its dot.
    Mint(ToMint),
    /// Another replica's versions are merged.
    Merge {
        /// Encoded.
        versions: Bytes,
        /// Whether it is to be told what stands here beside them.
        tell_beside: bool,
    },
    /// A write that was minted and sent under an earlier ring is to be sent again: as it stands here by now.
    Rebase {
        /// What was sent, encoded.
        sent: Bytes,
    },
}

/// A client's write on its way to a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToMint {
    /// What to write.
    pub intent: Box<Intent>,
    /// What other owners have and it is minted over as well.
    pub seen: Option<Box<Seen>>,
    /// Whether nothing is minted while its context names what was not seen here.
    pub catches_up: bool,
    /// For the context of the answer.
    pub cluster_id: ClusterId,
}

/// What comes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// A write of which what is stored and what was received have different values.
    pub contradicted: Option<Dot>,
    /// Why the key shows to be locked by now, where it does.
    pub locked: Option<String>,
    /// What becomes of the key, and what is told.
    pub change: Change,
}

/// What becomes of a key, and what is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is to be stored; `None` where nothing changes, or where just that is stored already, though it may still
    /// wait for its sync.
    pub state: Option<State>,
    /// What is told as soon as that is stored.
    pub at_once: Option<JobOutcome>,
    /// What is told once that is durable; `None` where there is nothing to wait for.
    pub once_durable: Option<JobOutcome>,
}

impl Change {
    /// Nothing changes, and there is nothing to wait for.
    fn told(outcome: JobOutcome) -> Self {
        Self {
            state: None,
            at_once: Some(outcome),
            once_durable: None,
        }
    }

    /// What is stored already need not be stored again.
    pub(super) fn drop_what_is_stored(&mut self, stored: Option<&Bytes>) {
        self.state.take_if(|state| stored == Some(&state.encoded));
    }
}

/// What is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The key's versions.
    pub versions: Versions,
    /// Their encoding.
    pub encoded: Bytes,
}

/// Why nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What is said to whoever waits.
    pub error: ErrorReply,
    /// Why the key shows to be locked, where that is the reason.
    pub locked: Option<String>,
}

impl Refused {
    /// For a reason that says nothing of the key's limits.
    pub(super) fn plain(error: ErrorReply) -> Self {
        let locked = None;
        Self { error, locked }
    }

    /// Because the key is locked, as the error says.
    fn locked(error: ErrorReply) -> Self {
        let locked = Some(error.message.clone());
        Self { error, locked }
    }
}

impl Applied {
    fn refused(contradicted: Option<Dot>, refused: Refused) -> Self {
        Self {
            contradicted,
            locked: refused.locked,
            change: Change::told(JobOutcome::Refused(refused.error)),
        }
    }
}

/// Decides what comes of a job. `rebuilding` is whether this node has lost versions around the key.
pub fn apply(
    key: &[u8],
    present: Present,
    work: Work,
    minter: &mut Minter,
    now_unix_ms: u64,
    rebuilding: bool,
) -> Applied {
    match work {
        Work::Mint(write) => mint(key, present, write, minter, now_unix_ms, rebuilding),
        Work::Merge {
            versions,
            tell_beside,
        } => match received(key, &versions) {
            Ok(received) => {
                minter.heed(received.clock());
                merge(key, present, (received, versions), tell_beside, rebuilding)
            }
            Err(refused) => Applied::refused(None, refused),
        },
        Work::Rebase { sent } => rebase(key, present, &sent, rebuilding),
    }
}

/// Gives what is stored of a key, if all that was sent is in it.
fn rebase(key: &[u8], present: Present, sent: &Bytes, rebuilding: bool) -> Applied {
    let sent = match received(key, sent) {
        Ok(sent) => sent,
        Err(refused) => return Applied::refused(None, refused),
    };
    let stored = present.encoded.filter(|_| {
        let clock = present.versions.clock();
        clock.dominates(sent.clock())
    });
    let Some(versions) = stored else {
        let message = "the ring changed while this was written, and this node does not have it any more: the write \
                       may have been applied. Read the key again";
        let error = ErrorReply::new(ErrorCode::QuorumUnavailable, message);
        let error = error.maybe_applied(true).retryable();
        return Applied::refused(None, Refused::plain(error));
    };
    Applied {
        contradicted: None,
        locked: None,
        change: Change {
            state: None,
            at_once: Some(JobOutcome::Minted {
                versions,
                context: Bytes::new(),
                rebuilding,
                replaced: Replaced::new(),
            }),
            once_durable: Some(JobOutcome::Durable {
                rebuilding,
                beside: None,
            }),
        },
    }
}

/// Mints a client's write over what is stored, and over what other owners had.
fn mint(
    key: &[u8],
    present: Present,
    write: ToMint,
    minter: &mut Minter,
    now_unix_ms: u64,
    rebuilding: bool,
) -> Applied {
    let mut versions = present.versions;
    let seen = write.seen.as_deref();
    let contradicted = seen.and_then(|seen| {
        // It comes from elsewhere, like what is to be merged.
        minter.heed(seen.versions().clock());
        versions.contradiction(seen.versions())
    });
    let intent = *write.intent;
    let minted = match seen {
        None if write.catches_up => minter.mint_if_known(&mut versions, intent, now_unix_ms),
        None => minter.mint(&mut versions, intent, now_unix_ms),
        Some(Seen::Beside(seen)) => minter.mint_again(&mut versions, intent, seen, now_unix_ms),
        Some(Seen::Read(read)) => {
            versions.merge(read);
            minter.mint(&mut versions, intent, now_unix_ms)
        }
    };
    let stored = present.encoded.as_ref();
    match minted {
        Ok(Minted::Behind { lacks }) => Applied {
            contradicted,
            locked: None,
            change: Change::told(JobOutcome::Behind { lacks, rebuilding }),
        },
        Ok(minted) => {
            let encoded = versions.to_bytes();
            let change = Change {
                at_once: Some(JobOutcome::Minted {
                    versions: encoded.clone(),
                    context: context::seal(write.cluster_id, key, versions.clock()),
                    rebuilding,
                    replaced: minted.replaced(),
                }),
                once_durable: Some(JobOutcome::Durable {
                    rebuilding,
                    beside: None,
                }),
                state: Some(State { versions, encoded }),
            };
            settle(key, stored, change, contradicted)
        }
        Err(error) => {
            let is_locked = error.code == ErrorCode::TooLarge && limits::is_locked(&versions, 0);
            let refused = match is_locked {
                true => Refused::locked(error),
                false => Refused::plain(error),
            };
            if seen.is_none() {
                return Applied::refused(contradicted, refused);
            }
            // What was acknowledged elsewhere and is known here by now is one copy more: it is kept all the same.
            let encoded = versions.to_bytes();
            let change = Change {
                state: Some(State { versions, encoded }),
                at_once: None,
                once_durable: Some(JobOutcome::Refused(refused.error)),
            };
            let applied = settle(key, stored, change, contradicted);
            Applied {
                locked: refused.locked.or(applied.locked),
                ..applied
            }
        }
    }
}

/// Merges what another replica has, given decoded and as it came.
fn merge(
    key: &[u8],
    present: Present,
    (received, theirs): (Versions, Bytes),
    tell_beside: bool,
    rebuilding: bool,
) -> Applied {
    let stored = present.encoded.as_ref();
    let mut versions = present.versions;
    // The usual case is a newer version of the same history: then the bytes are good as they came.
    let (contradicted, beside, state) = if replaces(&received, &versions) {
        let state = State {
            versions: received,
            encoded: theirs,
        };
        (None, Bytes::new(), state)
    } else {
        let contradicted = versions.contradiction(&received);
        versions.merge(&received);
        let is_told = tell_beside && stands_beside(&received, &versions);
        let beside = stored.filter(|_| is_told).cloned().unwrap_or_default();
        let encoded = versions.to_bytes();
        (contradicted, beside, State { versions, encoded })
    };
    let change = Change {
        state: Some(state),
        at_once: None,
        once_durable: Some(JobOutcome::Durable {
            rebuilding,
            beside: tell_beside.then_some(beside),
        }),
    };
    settle(key, stored, change, contradicted)
}

/// Holds a change against what is stored, and against the limits.
fn settle(
    key: &[u8],
    stored: Option<&Bytes>,
    mut change: Change,
    contradicted: Option<Dot>,
) -> Applied {
    change.drop_what_is_stored(stored);
    if let Some(state) = &change.state
        && let Err(refused) = check_limits(key, state)
    {
        return Applied::refused(contradicted, refused);
    }
    Applied {
        contradicted,
        locked: None,
        change,
    }
}

/// Whether merging gives just what was received: it has seen all that is here, and each of its values
/// is news.
fn replaces(received: &Versions, stored: &Versions) -> bool {
    let is_news = |dot| !stored.clock().covers(dot);
    received.clock().dominates(stored.clock())
        && received
            .siblings()
            .iter()
            .all(|sibling| is_news(sibling.dot))
}

/// Refuses what no node could read again, before anything changes.
pub(super) fn check_limits(key: &[u8], state: &State) -> Result<(), Refused> {
    limits::check(key, &state.versions, state.encoded.len()).map_err(Refused::locked)
}

/// Decodes what another node sent.
pub(super) fn received(key: &[u8], versions: &Bytes) -> Result<Versions, Refused> {
    Versions::from_bytes(versions).map_err(|error| {
        Refused::plain(match limits::is_beyond(&error) {
            true => limits::locked(key, &format!("what another node has of it: {error}")),
            false => ErrorReply::new(ErrorCode::BadRequest, format!("versions: {error}")),
        })
    })
}

/// Stored versions that cannot be decoded: beyond a limit that writers did not hold once, or damaged.
fn undecodable(key: &[u8], error: &DecodeError) -> Refused {
    if limits::is_beyond(error) {
        let why = error.to_string();
        return Refused {
            error: limits::locked(key, &why),
            locked: Some(why),
        };
    }
    let message = format!("the stored versions of this key can't be read: {error}");
    Refused::plain(ErrorReply::new(ErrorCode::Storage, message).retryable())
}

#[cfg(test)]
mod tests;
