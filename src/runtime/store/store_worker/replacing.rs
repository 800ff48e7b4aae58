//! Putting versions in the place of others that are beyond a limit: no merge, and only where what is there is what an
//! operator's mending saw.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::peer::Digest;
use dynakv_protocol::{ErrorCode, ErrorReply};
use dynakv_storage::{Footprint, Mutation};

use super::Writer;
use super::applied::Applied;
use super::trouble::{received, refusal};

impl Writer {
    /// Puts versions in the place of the expected ones.
    pub(super) fn replace(
        &mut self,
        key: &Bytes,
        expected: Option<Digest>,
        versions: Bytes,
    ) -> Result<Applied, ErrorReply> {
        let rebuilding = self.rebuilding.covers(key);
        let stored = self.store.get(key).map_err(|error| refusal(&error))?;
        let is_as_expected = match (&stored, expected) {
            (None, None) => true,
            (Some(stored), Some(expected)) => expected.is_of(stored),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !is_as_expected {
            let message = "this copy of the key has changed meanwhile";
            return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
        let received = received(key, &versions)?;
        self.check_limits(key, &received, &versions)?;
        self.minter.heed(received.clock());
        let before = match &stored {
            Some(stored) => {
                let decoded = Versions::from_bytes_of_any_size(stored);
                let decoded = decoded.map_err(|error| self.undecodable(key, &error))?;
                Footprint::of_encoded(key, &decoded, stored)
            }
            None => Footprint::default(),
        };
        let mut applied = Applied {
            bytes: 0,
            rebuilding,
            beside: None,
            refused: None,
        };
        if stored.as_ref() == Some(&versions) {
            return Ok(applied);
        }
        let after = Footprint::of_encoded(key, &received, &versions);
        applied.bytes = versions.len();
        let mutation = Mutation {
            key: key.clone(),
            versions,
            before,
            after,
        };
        if let Err(error) = self.store.apply(std::slice::from_ref(&mutation)) {
            let passes = error.passes();
            let refusal = refusal(&error).maybe_applied(!passes);
            self.failed = (!passes).then_some(error);
            return Err(refusal);
        }
        self.note_stored(key, received.clock().len(), &received, applied.bytes);
        Ok(applied)
    }
}
