//! What the mender asks: of other nodes over the network, of its own without.

use bytes::Bytes;
use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::TIMEOUT_MS_DEFAULT;
use dynakv_protocol::mend::{Compare, Compared, List, Listed};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{MergeVersions, ReadVersions};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, LIST_BYTES, MendError, Mender};
use crate::engine::ring::Ring;
use crate::runtime::view::MemberView;

/// In each of these no member means this node.
impl Mender {
    /// All keys of a segment. A segment is 1/65,536 of the ring: some thousand keys of a hundred million.
    pub(super) async fn list_all(
        &self,
        member: Option<&MemberView>,
        ring: &Ring,
        segment: Segment,
        with_versions: bool,
    ) -> Result<Listed, MendError> {
        let mut all = Listed {
            rebuilding: false,
            keys: Vec::new(),
            next: None,
        };
        loop {
            let after = all.next.take();
            let part = self.list(member, ring, segment, after, with_versions);
            let part = part.await?;
            all.rebuilding |= part.rebuilding;
            all.keys.extend(part.keys);
            all.next = part.next;
            if all.next.is_none() {
                return Ok(all);
            }
        }
    }

    pub(super) async fn list(
        &self,
        member: Option<&MemberView>,
        ring: &Ring,
        segment: Segment,
        after_key: Option<Bytes>,
        with_versions: bool,
    ) -> Result<Listed, MendError> {
        let list = Request::List(List {
            ring_version: ring.version(),
            segment,
            bytes_max: LIST_BYTES,
            with_versions,
            after_key,
        });
        match self.ask(member, &list).await? {
            Response::Listed(listed) => Ok(listed),
            other => Err(self.refused(member, &other)),
        }
    }

    /// The hashes of what this node and `with` both own, as `member` has them, or this node.
    pub(super) async fn compared(
        &self,
        member: Option<&MemberView>,
        with: &MemberView,
        ring: &Ring,
        page: Option<u8>,
    ) -> Result<Compared, MendError> {
        let compare = Request::Compare(Compare {
            ring_version: ring.version(),
            node_id: match member {
                Some(_) => self.0.me.clone(),
                None => with.id.clone(),
            },
            page,
        });
        match self.ask(member, &compare).await? {
            Response::Compared(compared) => Ok(compared),
            other => Err(self.refused(member, &other)),
        }
    }

    pub(super) async fn read(
        &self,
        member: Option<&MemberView>,
        ring_version: RingVersion,
        key: &Bytes,
    ) -> Result<Bytes, MendError> {
        let read = Request::Read(ReadVersions {
            ring_version,
            timeout_ms: TIMEOUT_MS_DEFAULT,
            key: key.clone(),
            tell_actor: false,
            digest_above: None,
        });
        match self.ask(member, &read).await? {
            // A digest was not asked for, and says nothing here.
            Response::Versions(reply) if reply.digest.is_none() => Ok(reply.versions),
            other => Err(self.refused(member, &other)),
        }
    }

    pub(super) async fn merge(
        &self,
        member: Option<&MemberView>,
        ring_version: RingVersion,
        key: &Bytes,
        versions: Bytes,
    ) -> Result<(), MendError> {
        let merge = Request::Merge(MergeVersions {
            ring_version,
            timeout_ms: TIMEOUT_MS_DEFAULT,
            key: key.clone(),
            versions,
        });
        match self.ask(member, &merge).await? {
            Response::Merged(_) => Ok(()),
            other => Err(self.refused(member, &other)),
        }
    }

    /// Asks a node, or this one.
    pub(super) async fn ask(
        &self,
        member: Option<&MemberView>,
        request: &Request,
    ) -> Result<Response, MendError> {
        let Some(member) = member else {
            let deadline = Instant::now() + CALL_TIMEOUT;
            let asked = self.0.local.call(request, deadline).await;
            return asked.map_err(|error| MendError::Unreachable {
                node: self.0.me.clone(),
                reason: format!("{:?}", error.cause),
            });
        };
        let called = self
            .0
            .calls
            .call(&member.address, Some(&member.id), request, CALL_TIMEOUT);
        match called.await {
            Ok((response, _)) => Ok(response),
            Err(error) => Err(MendError::Unreachable {
                node: member.id.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn refused(&self, member: Option<&MemberView>, response: &Response) -> MendError {
        MendError::Refused {
            node: member.map_or_else(|| self.0.me.clone(), |member| member.id.clone()),
            reason: match response {
                Response::Error(error) => error.message.clone(),
                _ => "it answered something else".to_owned(),
            },
        }
    }
}
