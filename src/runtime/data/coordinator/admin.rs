//! What operators ask about data: explaining a key, importing one, exporting what this node holds.

use dynakv_protocol::Actor;
use dynakv_protocol::admin::{Explained, ExplainedOwner, Exported, Imported};
use dynakv_protocol::gossip::MemberState;

use super::effects::{Reply, remaining_ms};
use super::{
    Bytes, ConnectionId, Coordinator, ErrorCode, ErrorReply, Frame, NodeSlot, OperationId,
    Preference, Purpose, ReadVersions, Request, Requester, Response, Work, WriteJob, WriteWork,
    explain, import,
};
use crate::runtime::store::store_worker::{ScanJob, ScanWork, Scanned, Token};

/// How many parts of exports may be under way at once: each is read on one thread, and its bytes wait
/// in memory until they are sent.
pub(super) const SCANS_MAX: usize = 16;

/// How many comparisons and lists for mending may wait: some nodes at a time, each with a list of segments
/// of which it wants a small part.
pub(super) const MENDING_SCANS_MAX: usize = 256;

impl Coordinator {
    pub(super) fn explain(
        &mut self,
        requester: Requester,
        frame: Frame,
        key: Bytes,
        owners: &Preference,
    ) {
        let mut effects = Vec::new();
        let work = Work::Explain(explain::Explain::start(owners, &mut effects));
        let never_slow = requester.deadline;
        let id = self
            .operations
            .insert(requester, key, frame, work, never_slow);
        self.carry_out_explain(id, effects);
    }

    pub(super) fn step_explain(&mut self, id: OperationId, event: explain::Event) {
        if let Some(operation) = self.operations.get_mut(id)
            && let Work::Explain(explain) = &mut operation.work
        {
            let mut effects = Vec::new();
            explain.step(event, &mut effects);
            self.carry_out_explain(id, effects);
        }
    }

    fn carry_out_explain(&mut self, id: OperationId, effects: Vec<explain::Effect>) {
        for effect in effects {
            match effect {
                explain::Effect::ReadLocal => self.read_local(id),
                explain::Effect::Read(to) => {
                    let (ring_version, now) = (self.view.ring_version(), self.now);
                    let Some(operation) = self.operations.get_mut(id) else {
                        return;
                    };
                    let request = Request::Read(ReadVersions {
                        ring_version,
                        timeout_ms: remaining_ms(&operation.requester, now),
                        key: operation.key.clone(),
                        tell_actor: true,
                        digest_above: None,
                    });
                    self.send(id, Purpose::Read, to, &request);
                }
                explain::Effect::Answer(answers) => {
                    let owners = answers.into_iter();
                    let owners = owners.map(|(slot, answer)| self.explained_owner(slot, answer));
                    let explained = Explained {
                        node_id: self.links.id(super::SELF).clone(),
                        ring_version: self.view.ring_version(),
                        now_unix_ms: self.clock.unix_ms(),
                        owners: owners.collect(),
                    };
                    self.finish(id, Ok(Reply::Explained(explained)));
                }
            }
        }
    }

    fn explained_owner(&self, slot: NodeSlot, answer: explain::Answer) -> ExplainedOwner {
        let id = self.links.id(slot).clone();
        let member = self.view.members.iter().find(|member| member.id == id);
        ExplainedOwner {
            address: member.map_or_else(String::new, |member| member.address.clone()),
            state: member.map_or(MemberState::Alive, |member| member.state),
            answer,
            id,
        }
    }

    /// What this node tells of itself when it explains a key.
    pub(super) fn own_actor(&self) -> Option<Actor> {
        Some(self.store.actor())
    }

    pub(super) fn import(
        &mut self,
        requester: Requester,
        frame: Frame,
        (key, versions): (Bytes, Bytes),
        owners: Preference,
        w: u8,
    ) {
        let mut effects = Vec::new();
        let import = import::Import::start(owners, w, &mut effects);
        let work = Work::Import { import, versions };
        let never_slow = requester.deadline;
        let id = self
            .operations
            .insert(requester, key, frame, work, never_slow);
        self.carry_out_import(id, effects);
    }

    pub(super) fn step_import(&mut self, id: OperationId, event: import::Event) {
        if let Some(operation) = self.operations.get_mut(id)
            && let Work::Import { import, .. } = &mut operation.work
        {
            let mut effects = Vec::new();
            import.step(event, &mut effects);
            self.carry_out_import(id, effects);
        }
    }

    fn carry_out_import(&mut self, id: OperationId, effects: Vec<import::Effect>) {
        for effect in effects {
            let Some(operation) = self.operations.get_mut(id) else {
                return;
            };
            let Work::Import { versions, .. } = &operation.work else {
                return;
            };
            let (key, versions) = (operation.key.clone(), versions.clone());
            match effect {
                import::Effect::MergeLocal => self.writes.push(WriteJob {
                    token: Token::Operation(id.message(Purpose::Write)),
                    key,
                    work: WriteWork::Merge {
                        versions,
                        tell_beside: false,
                    },
                }),
                import::Effect::Merge(to) => {
                    self.send_merge(id, Purpose::Write, to, (versions, false));
                }
                import::Effect::Answer(result) => {
                    let reply = result.map(|effective_w| Reply::Imported(Imported { effective_w }));
                    self.finish(id, reply);
                }
            }
        }
    }

    /// Reads a part of what is stored here, whoever owns it.
    pub(super) fn on_export(&mut self, connection: ConnectionId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let refusal = match Request::decode(frame.header.kind, &frame.body) {
            Ok(Request::Export(_)) if self.view.ring.is_none() => {
                let message = "this node has not joined its cluster yet and holds nothing";
                ErrorReply::new(ErrorCode::NotReady, message).retryable()
            }
            Ok(Request::Export(_)) if self.is_draining => {
                let message = "this node is shutting down; ask another one";
                ErrorReply::new(ErrorCode::NotReady, message).retryable()
            }
            Ok(Request::Export(_)) if self.scans >= SCANS_MAX => {
                self.metrics.refused.increment(1);
                let message = "this node serves as many exports as it can; try again in a moment";
                ErrorReply::new(ErrorCode::Overloaded, message).retryable()
            }
            Ok(Request::Export(export)) => {
                self.scans += 1;
                return self.store.scan(ScanJob {
                    connection,
                    request_id,
                    work: ScanWork::Export(export),
                });
            }
            Ok(_) => ErrorReply::new(ErrorCode::BadRequest, "this is no request about data"),
            Err(error) => crate::runtime::net::undecodable::undecodable(&error),
        };
        self.connections.refuse(connection, request_id, refusal);
    }

    pub(super) fn on_scanned(
        &mut self,
        connection: ConnectionId,
        request_id: u64,
        is_mending: bool,
        result: Result<Scanned, ErrorReply>,
    ) {
        match is_mending {
            true => self.mending_scans -= 1,
            false => self.scans -= 1,
        }
        let response = match (result, &self.view.ring) {
            (Ok(Scanned::Answer(answer)), _) => *answer,
            (Ok(Scanned::Exported(scanned)), Some(ring)) => Response::Exported(Exported {
                node_id: self.links.id(super::SELF).clone(),
                cluster_name: ring.document().cluster_name.clone(),
                cluster_id: self.view.cluster_id,
                ring_version: ring.version(),
                items: scanned.items,
                damaged: scanned.damaged,
                locked: scanned.locked,
                next: scanned.next,
            }),
            (Err(error), _) => Response::Error(error),
            // It was there when the scan began, and rings are only ever replaced.
            (Ok(_), None) => Response::Error(ErrorReply::new(
                ErrorCode::NotReady,
                "this node is in no cluster",
            )),
        };
        self.connections.respond(connection, request_id, &response);
    }
}
