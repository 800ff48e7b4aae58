//! The writer's part of a client's write: minting it over what is stored, and over what other owners had.

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;

use super::Writer;
use super::applied::{Outcome, ToMint};
use super::jobs::{StoreEvent, Token};
use crate::engine::read::answer::sealed;
use crate::engine::write::mint::Minted;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::Seen;

impl Writer {
    /// Mints a write into a key's versions.
    ///
    /// # Errors
    /// When it is refused and nothing changed.
    pub(super) fn mint(
        &mut self,
        (token, key): (Token, &Bytes),
        versions: &mut Versions,
        ToMint {
            intent,
            seen,
            catches_up,
            cluster_id,
        }: ToMint,
        (now_unix_ms, rebuilding): (u64, bool),
    ) -> Result<Outcome, ErrorReply> {
        if let Some(seen) = &seen {
            // It comes from elsewhere, like what is to be merged.
            self.minter.heed(seen.versions().clock());
            self.look_for_contradiction(key, versions, seen.versions());
        }
        let minter = &mut self.minter;
        let minted = match seen.as_deref() {
            None if catches_up => minter.mint_if_known(versions, *intent, now_unix_ms),
            None => minter.mint(versions, *intent, now_unix_ms),
            Some(Seen::Beside(seen)) => minter.mint_again(versions, *intent, seen, now_unix_ms),
            Some(Seen::Read(read)) => {
                versions.merge(read);
                minter.mint(versions, *intent, now_unix_ms)
            }
        };
        match minted {
            Ok(Minted::Behind { lacks }) => Ok(Outcome::Behind(StoreEvent::Job {
                token,
                outcome: JobOutcome::Behind { lacks, rebuilding },
            })),
            Ok(minted) => Ok(Outcome::Minted(StoreEvent::Job {
                token,
                outcome: JobOutcome::Minted {
                    versions: versions.to_bytes(),
                    context: sealed(cluster_id, key, versions),
                    rebuilding,
                    replaced: minted.replaced(),
                },
            })),
            Err(error) => {
                self.note_refused(key, versions, &error);
                match seen {
                    // What was acknowledged elsewhere and is known here by now is one copy more.
                    Some(_) => Ok(Outcome::Refused(error)),
                    None => Err(error),
                }
            }
        }
    }
}
