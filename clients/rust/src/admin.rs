//! What operators ask: how a key stands with its owners, all that a node holds, and to take it in again.

use bytes::Bytes;
use dynakv_protocol::admin::{Explain, Explained, Export, Exported, Import, Imported};
use dynakv_protocol::change_ring::ChangeRing;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::repair::{Repair, RepairProgress};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::snapshot::{Snapshot, SnapshotProgress};
use dynakv_protocol::unlock::{Unlock, Unlocked};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::transport::Transport;

impl Client {
    /// What each owner of a key has of it. Owners that do not answer are part of the answer; it takes
    /// as long as the slowest of them, the client's timeout at most.
    ///
    /// # Errors
    /// [`Error`] when no node could be asked to find out.
    pub async fn explain(&self, key: impl AsRef<[u8]>) -> Result<Explained, Error> {
        let key = Bytes::copy_from_slice(key.as_ref());
        let request = Request::Explain(Explain { timeout_ms: 0, key });
        let extract = |response| match response {
            Response::Explained(explained) => Some(explained),
            _ => None,
        };
        let deadline = Instant::now() + self.timeout();
        self.execute(request, deadline, extract).await
    }

    /// The next part of all that one node holds, the seed that has answered so far, from behind `after_key` on: begin with `None`,
    /// go on with [`Exported::next`] until there is none. A part holds at least one key and otherwise
    /// at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place, as each holds other keys.
    pub async fn export(
        &self,
        after_key: Option<Bytes>,
        bytes_max: u32,
    ) -> Result<Exported, Error> {
        let request = Request::Export(Export {
            bytes_max,
            after_key,
        });
        let seed = self.answering_seed()?;
        match seed.ask(&request).await? {
            Response::Exported(exported) => Ok(exported),
            _ => Err(seed.unexpected()),
        }
    }

    /// Has the seed that has answered so far compare its copies with those of all other members now, or asks how far it is;
    /// see [`NodeClient::repair`](crate::NodeClient::repair).
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn repair(&self, repair: Repair) -> Result<RepairProgress, Error> {
        self.answering_seed()?.repair(repair).await
    }

    /// Has the seed that has answered so far copy all that it holds into a directory on its machine, or asks how far that is;
    /// see [`NodeClient::snapshot`](crate::NodeClient::snapshot).
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn snapshot(&self, snapshot: Snapshot) -> Result<SnapshotProgress, Error> {
        self.answering_seed()?.snapshot(snapshot).await
    }

    /// Has the seed that has answered so far change the members of the ring, or say which ring that would be; see
    /// [`NodeClient::change_ring`](crate::NodeClient::change_ring).
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn change_ring(&self, change: ChangeRing) -> Result<RingDocument, Error> {
        self.answering_seed()?.change_ring(change).await
    }

    /// Mends a key that is locked: whose versions are beyond a limit, so that it cannot be read, or not be written. All its
    /// owners must be alive. Values may be lost, and such that were replaced may come back: see PROTOCOL.md.
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in the place of the seed that has answered so far.
    pub async fn unlock(&self, key: impl AsRef<[u8]>) -> Result<Unlocked, Error> {
        let request = Request::Unlock(Unlock {
            timeout_ms: u32::try_from(self.timeout().as_millis()).unwrap_or(u32::MAX),
            key: Bytes::copy_from_slice(key.as_ref()),
        });
        let seed = self.answering_seed()?;
        match seed.ask(&request).await? {
            Response::Unlocked(unlocked) => Ok(unlocked),
            _ => Err(seed.unexpected()),
        }
    }

    /// Merges encoded versions, as [`export`](Self::export) gives them, into what the key's owners
    /// have. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Error`], after the attempts that [`retry`](crate::retry) lists.
    pub async fn import(
        &self,
        key: &Bytes,
        versions: &Bytes,
        w: Option<u8>,
    ) -> Result<Imported, Error> {
        let request = Request::Import(Import {
            timeout_ms: 0,
            key: key.clone(),
            versions: versions.clone(),
            w,
        });
        let extract = |response| match response {
            Response::Imported(imported) => Some(imported),
            _ => None,
        };
        let deadline = Instant::now() + self.timeout();
        self.execute(request, deadline, extract).await
    }
}
