//! What the node says of itself and its cluster.

use dynakv_protocol::client::LOCKED_KEYS_NAMED_MAX;
use dynakv_protocol::client::{HealthReply, MemberStatus, RingReply, StatsReply, StatusReply};
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::VIRTUAL_NODES_PER_NODE;
use dynakv_protocol::message::Response;
use dynakv_protocol::repair::Repair;
use dynakv_protocol::ring_document::{ChangePhase, Member, RingDocument};
use dynakv_protocol::unlock::Unlock;
use dynakv_protocol::{ErrorCode, ErrorReply};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::{Control, Event};
use crate::runtime::anti_entropy::unlocking::UnlockJob;
use crate::runtime::shared::disk_progress::HANGING;
use crate::runtime::shared::events::Responder;
use crate::runtime::shared::view::{MemberView, View};

impl Control {
    pub(super) fn members_in_order(&self, document: &RingDocument) -> Vec<MemberView> {
        // In the order of their ids: this is done at each tick, and there may be a thousand.
        let known = self.membership.members();
        let view = |member: &Member| {
            let at = known.binary_search_by(|known| known.id.cmp(&member.id));
            let news = at.ok().and_then(|at| known.get(at));
            MemberView {
                id: member.id.clone(),
                address: news.map_or_else(|| member.address.clone(), |news| news.address.clone()),
                state: news.map_or(MemberState::Alive, |n| n.state),
                disk_hangs: news.is_some_and(|news| news.disk_hangs),
                is_heard: news.is_some_and(|news| news.is_heard),
            }
        };
        document.members.iter().map(view).collect()
    }

    pub(super) fn stats(&self) -> Response {
        let Some(ring) = &self.ring else {
            return self.not_joined();
        };
        let totals = self.store.totals();
        let view = self.view.borrow();
        let alive = |member: &&MemberView| member.state == MemberState::Alive;
        Response::Stats(StatsReply {
            node_id: self.me.node_id.clone(),
            address: self.me.address.clone(),
            total_keys: totals.keys,
            total_versions: totals.versions,
            conflict_keys: totals.conflict_keys,
            n: ring.document().n,
            w: view.w,
            r: view.r,
            ring_version: ring.version(),
            // At most 1,024 members.
            total_nodes: ring.len() as u32,
            total_virtual_nodes: ring.document().virtual_nodes(),
            virtual_nodes_per_node: VIRTUAL_NODES_PER_NODE,
            known_nodes: view.members.len() as u32,
            alive_nodes: view.members.iter().filter(alive).count() as u32,
        })
    }

    pub(super) fn health(&self) -> Response {
        let reason = if self.draining.is_cancelled() {
            "shutting down".to_owned()
        } else if self.clients.is_cancelled() {
            "leaving the cluster".to_owned()
        } else if self.ring.is_none() {
            format!("not in a cluster yet: {}", self.joining.trouble())
        } else if !self.is_member() {
            format!("not in its ring any more: {}", self.joining.trouble())
        } else if self.disk.hangs() {
            HANGING.to_owned()
        } else {
            String::new()
        };
        Response::Health(HealthReply {
            node_id: self.me.node_id.clone(),
            ready: reason.is_empty(),
            reason,
        })
    }

    pub(super) fn status(&self) -> Response {
        let Some(ring) = &self.ring else {
            return self.not_joined();
        };
        let document = ring.document();
        let known = self.membership.members();
        let now_ms = self.now_ms();
        let status = |member: &Member| {
            let news = known.iter().find(|known| known.id == member.id)?;
            let share = ring
                .index_of(&member.id)
                .map(|i| ring.primary_share_basis_points(i));
            Some(MemberStatus {
                id: member.id.clone(),
                address: news.address.clone(),
                state: news.state,
                state_age_ms: now_ms.saturating_sub(news.since_ms),
                generation: news.generation,
                zone: member.zone.clone(),
                keys: news.keys,
                disk_bytes: news.disk_bytes,
                owns_basis_points: share.unwrap_or(0),
                software: news.software.clone(),
                rebuilding_segments: news.rebuilding_segments,
                hints_waiting: news.hints_waiting,
                disk_hangs: news.disk_hangs,
                disk_full: news.disk_full,
                unreachable: self.unreachable.has(&member.id),
                moving: news.moving,
            })
        };
        let view = self.view.borrow();
        Response::Status(StatusReply {
            node_id: self.me.node_id.clone(),
            cluster_name: document.cluster_name.clone(),
            cluster_id: document.cluster_id,
            ring_version: document.version,
            n: document.n,
            w: view.w,
            r: view.r,
            members: document.members.iter().filter_map(status).collect(),
            locked_keys: self.rebuilding.locked().count() as u64,
            locked_keys_named: self.rebuilding.locked().first(LOCKED_KEYS_NAMED_MAX),
            other_clusters: {
                let mut others = self.seeds.strange();
                others.extend(self.others.callers(Instant::now()));
                others
            },
            awaited: self.awaited(),
            awaited_for: self.awaited_for(),
            waiting: self.waiting(),
        })
    }

    /// Has anti-entropy do what is wanted, and tells how far it is.
    pub(super) fn repair(&self, repair: Repair) -> Response {
        if self.ring.is_none() {
            return self.not_joined();
        }
        if self.draining.is_cancelled() && repair != Repair::Look {
            let message = "this node is shutting down: it begins no repair";
            return Response::Error(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
        let left = self.rebuilding.left();
        Response::Repairing(self.repairs.on_request(repair, left))
    }

    /// Has a locked key mended; the answer comes when that is done.
    pub(super) fn unlock(&self, unlock: Unlock, responder: Responder) {
        let job = UnlockJob {
            unlock,
            arrived: Instant::now(),
            responder,
        };
        let (job, code, message) = match self.unlocks.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => {
                let message = "this node mends as many keys as it can; try again in a moment";
                (job, ErrorCode::Overloaded, message)
            }
            Err(TrySendError::Closed(job)) => {
                let message = "this node is shutting down; ask another one";
                (job, ErrorCode::NotReady, message)
            }
        };
        let refusal = ErrorReply::new(code, message).retryable();
        job.responder.respond(&Response::Error(refusal));
    }

    pub(super) fn ring_reply(&self) -> Response {
        let Some(ring) = &self.ring else {
            return self.not_joined();
        };
        let view = self.view.borrow();
        Response::Ring(RingReply {
            document: ring.document().clone(),
            addresses: view
                .members
                .iter()
                .map(|member| member.address.clone())
                .collect(),
        })
    }

    /// Once a second: what the store holds, for gossip and metrics.
    pub(super) fn upkeep(&mut self) {
        let totals = self.store.totals();
        let store_status = self.store.status();
        let settled_at = self.take_leave();
        let moving = self.look_at_moving();
        self.step(Event::LocalLoad {
            keys: totals.keys,
            disk_bytes: totals.disk_bytes,
            rebuilding_segments: self.rebuilding.left(),
            hints_waiting: self.hints.kept(),
            disk_full: store_status.refuses_writes,
            complete_since: self.rebuilding.complete_since(),
            settled_at,
            hints_counted: self.hints.counted(),
            moving,
        });
        let metrics = &self.metrics;
        metrics.totals.keys.set(totals.keys as f64);
        metrics.totals.versions.set(totals.versions as f64);
        metrics
            .totals
            .conflict_keys
            .set(totals.conflict_keys as f64);
        metrics.totals.live_bytes.set(totals.live_bytes as f64);
        metrics.totals.disk_bytes.set(totals.disk_bytes as f64);
        metrics.totals.corrupt_keys.set(totals.corrupt_keys as f64);
        metrics
            .totals
            .rebuilding_segments
            .set(f64::from(self.rebuilding.left()));
        let locked_keys = self.rebuilding.locked().count();
        metrics.store.update(&totals, &store_status, locked_keys);
        let takes_clients = !self.clients.is_cancelled();
        let ready = self.is_member() && takes_clients && !self.disk.hangs();
        metrics.cluster.ready.set(f64::from(u8::from(ready)));
        let change = self.ring.as_ref().and_then(|ring| ring.document().change());
        let step = match change.map(|change| change.phase) {
            None => 0.0,
            Some(ChangePhase::WriteBoth) => 1.0,
            Some(ChangePhase::ReadNew) => 2.0,
        };
        metrics.cluster.ring_change_step.set(step);
        let awaited = self.awaited().len() as f64;
        metrics.cluster.ring_change_awaited.set(awaited);
        let segments_left = moving.map_or(0, |moving| moving.segments_left);
        metrics
            .cluster
            .ring_change_segments_left
            .set(f64::from(segments_left));
        metrics.upkeep();
    }

    pub(super) fn report_members(&self, view: &View) {
        for (state, gauge) in [
            MemberState::Alive,
            MemberState::Suspected,
            MemberState::Dead,
        ]
        .into_iter()
        .zip(&self.metrics.cluster.members)
        {
            let count = view
                .members
                .iter()
                .filter(|member| member.state == state)
                .count();
            gauge.set(count as f64);
        }
        let Some(ring) = &view.ring else {
            return;
        };
        let document = ring.document();
        self.metrics
            .cluster
            .ring_version
            .set(document.version.0 as f64);
        self.metrics.cluster.ring_nodes.set(ring.len() as f64);
        self.metrics
            .cluster
            .ring_virtual_nodes
            .set(f64::from(document.virtual_nodes()));
        self.metrics
            .cluster
            .ring_virtual_nodes_per_node
            .set(f64::from(VIRTUAL_NODES_PER_NODE));
        for (value, gauge) in [document.n, view.w, view.r]
            .into_iter()
            .zip(&self.metrics.cluster.quorum)
        {
            gauge.set(f64::from(value));
        }
    }
}
