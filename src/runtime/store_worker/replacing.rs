//! Putting versions in the place of others that are beyond a limit: no merge, and only where what is there is what an
//! operator's mending saw.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::peer::Digest;
use dynakv_protocol::{ErrorCode, ErrorReply};
use dynakv_storage::{Footprint, Mutation};

use super::{Writer, limits, refusal};

impl Writer {
    /// How many bytes it wrote, and whether the node has lost versions around the key.
    pub(super) fn replace(
        &mut self,
        key: &Bytes,
        expected: Option<Digest>,
        versions: Bytes,
    ) -> Result<(usize, bool), ErrorReply> {
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
        let received = limits::received(key, &versions)?;
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
        if stored.as_ref() == Some(&versions) {
            return Ok((0, rebuilding));
        }
        let after = Footprint::of_encoded(key, &received, &versions);
        let bytes = versions.len();
        let mutation = Mutation {
            key: key.clone(),
            versions,
            before,
            after,
        };
        if let Err(error) = self.store.apply(std::slice::from_ref(&mutation)) {
            let is_full = error.is_disk_full();
            let refusal = refusal(&error).maybe_applied(!is_full);
            self.failed = (!is_full).then_some(error);
            return Err(refusal);
        }
        self.note_stored(key, received.clock().len(), &received, bytes);
        Ok((bytes, rebuilding))
    }
}
