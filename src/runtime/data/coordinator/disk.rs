//! A disk that hangs: what waits for it is taken back, and nothing more is given to it.
//!
//! What the store's threads have not begun is certainly not done, and goes to other owners, or back to
//! whoever asked. What hangs in the disk itself is counted without this node's copy.

use super::{
    Coordinator, DataRequest, ErrorCode, ErrorReply, Frame, NodeSlot, Preference, Requester,
    StoreEvent, Token,
};
use crate::engine::hang::{Change, Lane};
use crate::engine::operation::Event;
use crate::engine::write::forward;
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::shared::disk_progress::HANGING;

impl Coordinator {
    /// Looks how far those are that work with the disk.
    pub(super) fn look_at_disk(&mut self) {
        let (progress, now) = (self.disk.look(), self.uptime());
        let change = self.hang.look(progress, now);
        match change {
            Some(Change::Hangs) => {
                tracing::error!(
                    "the disk hangs: this node takes no writes until it answers; see `dmesg`"
                );
                self.metrics.store.hangs.increment(1);
            }
            Some(Change::Answers) => {
                tracing::warn!("the disk answers again: this node takes writes");
            }
            None => {}
        }
        if change.is_some() {
            let hangs = self.hang.hangs();
            self.disk.note(hangs);
            self.metrics.store.usable.set(f64::from(u8::from(!hangs)));
        }
        if self.hang.hangs() {
            self.take_back();
        }
        if change == Some(Change::Hangs) {
            // What the writer was never given is certainly not done.
            while self.refuse_for_disk() {}
            self.go_on_without_own_disk();
        }
    }

    /// Whether this node takes writes.
    pub(super) fn is_usable(&self) -> bool {
        !self.hang.hangs()
    }

    /// A write that came to this node, whose disk hangs: another owner takes it.
    pub(super) fn begin_elsewhere(
        &mut self,
        requester: Requester,
        frame: Frame,
        request: &DataRequest,
        owners: &Preference,
    ) {
        let reach = |node| self.links.reach(node);
        match owners.first_other(reach) {
            Some(place) if !frame.header.is_forwarded() => {
                let terms = forward::Terms {
                    needed: request.action.needed(),
                    is_write: true,
                    is_hanging: true,
                    is_sloppy: request.action.is_sloppy(),
                    ..forward::Terms::default()
                };
                let key = request.key.clone();
                self.forward(requester, frame, key, owners, (place, terms));
            }
            // Who has handed it on tries the next one.
            Some(_) | None => self.end(requester, Err(hanging())),
        }
    }

    /// What waits for a thread that hangs is refused.
    fn take_back(&mut self) {
        if self.hang.hangs_in(Lane::Writer) {
            let jobs = self.store.take_back_writes();
            let refused = jobs.into_iter().map(|job| refused(job.token));
            self.on_all_stored(refused.collect());
        }
        if self.hang.hangs_in(Lane::Reader) {
            let jobs = self.store.take_back_reads();
            let refused = jobs.into_iter().map(|job| refused(job.token));
            self.on_all_stored(refused.collect());
        }
    }

    /// Refuses the jobs of this turn that a disk that hangs would never do. Whether there were any: what
    /// comes of it may be more of them.
    pub(super) fn refuse_for_disk(&mut self) -> bool {
        let mut all = Vec::new();
        if self.hang.hangs() {
            all.extend(self.writes.drain(..).map(|job| refused(job.token)));
            let tokens = self.hint_jobs.drain(..).filter_map(|job| job.token());
            all.extend(tokens.map(refused));
        }
        if self.hang.hangs_in(Lane::Reader) {
            all.extend(self.cold_reads.drain(..).map(|job| refused(job.token)));
        }
        let any = !all.is_empty();
        self.on_all_stored(all);
        any
    }

    /// Reads what is in memory, without the store's reader. Whether anything was.
    pub(super) fn read_hot(&mut self) -> bool {
        let mut any = false;
        let mut jobs = std::mem::take(&mut self.reads);
        let mut left = jobs.drain(..);
        loop {
            let touched = self.store.touch(left.as_slice());
            if touched == 0 {
                break;
            }
            for job in left.by_ref().take(touched) {
                match self.store.read_hot(job) {
                    Ok(event) => {
                        any = true;
                        self.on_stored(event);
                    }
                    Err(job) => self.cold_reads.push(job),
                }
            }
        }
        drop(left);
        if self.reads.is_empty() {
            // Its room serves the next turn.
            self.reads = jobs;
        }
        any
    }

    fn on_all_stored(&mut self, events: Vec<StoreEvent>) {
        for event in events {
            self.on_stored(event);
        }
    }

    /// What hangs in the disk may be done at any time, or never: the others' copies have to do.
    fn go_on_without_own_disk(&mut self) {
        let in_reads = self.hang.hangs_in(Lane::Reader);
        for id in self.operations.ids() {
            self.step(id, Event::OwnDiskHangs { in_reads });
        }
    }

    /// Another node says that its disk hangs: who waits for its copy counts without it.
    pub(super) fn on_disk_of_other_hangs(&mut self, node: NodeSlot) {
        for id in self.operations.ids() {
            self.step(id, Event::DiskHangs(node));
        }
    }
}

fn refused(token: Token) -> StoreEvent {
    let error = hanging();
    StoreEvent::Job {
        token,
        outcome: JobOutcome::Refused(error),
    }
}

/// The refusal of what was not done.
pub(super) fn hanging() -> ErrorReply {
    ErrorReply::new(ErrorCode::Overloaded, HANGING).retryable()
}
