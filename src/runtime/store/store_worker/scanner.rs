//! Reading much of what is stored, part by part, on a thread of its own: however long an export or a
//! comparison takes, reads and writes do not wait for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::admin::{EXPORT_BYTES_MAX, EXPORT_ITEMS_MAX, Export, ExportedItem};
use dynakv_protocol::hash::{Segment, checksum};
use dynakv_protocol::limits::{VALUE_BYTES_MAX, frame_bytes_max};
use dynakv_protocol::mend::{Compared, LISTED_KEYS_MAX, List, Listed, ListedKey};
use dynakv_protocol::message::Response;
use dynakv_storage::{
    Loss, Page, PageLimit, PositionRange, Recounted, Store, StoreError, scan_past_losses,
};
use tokio::sync::{mpsc, oneshot};

use super::fence::Fence;
use super::jobs::{Part, Scanned, StoreEvent};
use super::trouble::{note_damage, note_loss, note_read, refusal};
use crate::engine::anti_entropy::mending::compared;
use crate::engine::placement::ring::{MemberIndex, Ring};
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::ledger::{Kind, Ledger};
use crate::runtime::store::rebuilding::Rebuilding;

/// What an answer needs beside the one key that it holds at least, in bytes.
const ANSWER_OVERHEAD_BYTES: usize = 64 * 1024;

/// How much is counted at a time.
const RECOUNT_PART: PageLimit = PageLimit {
    items_max: 256,
    bytes_max: 256 * 1024,
};

/// How long to wait before it is looked again whether what was read is taken in.
const ROOM_POLL: Duration = Duration::from_millis(5);

/// Something to be read at leisure.
#[derive(Debug)]
pub struct ScanJob {
    /// Who asks.
    pub connection: ConnectionId,
    /// Under which id.
    pub request_id: u64,
    /// What is wanted.
    pub work: ScanWork,
}

/// What is wanted.
#[derive(Debug)]
pub enum ScanWork {
    /// A part of all that is stored.
    Export(Export),
    /// The hashes of what these members of the ring, this node first, both own.
    Compare {
        /// The ring.
        ring: Arc<Ring>,
        /// This node, and who asks.
        members: (MemberIndex, MemberIndex),
        /// Of which page.
        page: Option<u8>,
    },
    /// The keys of a segment.
    List(List),
    /// A part of the store counted anew.
    Recount {
        /// Behind which key.
        after_key: Option<Bytes>,
        /// Hears what came of it.
        reply: oneshot::Sender<Result<Recounted, StoreError>>,
    },
    /// Where keys may be lost.
    Losses {
        /// Of which segments.
        segments: Vec<Segment>,
        /// Hears where.
        reply: oneshot::Sender<Result<Vec<Loss>, StoreError>>,
    },
    /// What is lost there nobody waits for any more.
    Forgive {
        /// The parts that lost it.
        losses: Vec<Loss>,
        /// Hears what came of it.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// How anti-entropy has the store counted anew, and hears of what it lost. Does not keep the store's threads from ending.
#[derive(Debug)]
pub struct Recounter {
    scans: mpsc::WeakUnboundedSender<ScanJob>,
}

impl Recounter {
    pub(super) fn new(scans: &mpsc::UnboundedSender<ScanJob>) -> Self {
        Self {
            scans: scans.downgrade(),
        }
    }

    /// Counts the part behind this key; the first one is behind none. Nothing when the store has ended.
    pub async fn recount(&self, after_key: Option<Bytes>) -> Option<Result<Recounted, StoreError>> {
        self.ask(|reply| ScanWork::Recount { after_key, reply })
            .await
    }

    /// Where in these segments keys may be lost. Nothing when the store has ended.
    pub async fn losses(&self, segments: Vec<Segment>) -> Option<Result<Vec<Loss>, StoreError>> {
        self.ask(|reply| ScanWork::Losses { segments, reply }).await
    }

    /// Has the store count as absent what it lost there; see [`Store::forgive`]. Nothing when the store has ended.
    pub async fn forgive(&self, losses: Vec<Loss>) -> Option<Result<(), StoreError>> {
        self.ask(|reply| ScanWork::Forgive { losses, reply }).await
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> ScanWork) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let job = ScanJob {
            connection: ConnectionId::ANTI_ENTROPY,
            request_id: 0,
            work: work(reply),
        };
        self.scans.upgrade()?.send(job).ok()?;
        answer.await.ok()
    }
}

pub(super) struct Scanner {
    store: Arc<dyn Store>,
    rebuilding: Arc<Rebuilding>,
    events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    ledger: Arc<Ledger>,
    fence: Fence,
}

impl Scanner {
    pub(super) fn new(
        store: Arc<dyn Store>,
        rebuilding: Arc<Rebuilding>,
        events: mpsc::UnboundedSender<Vec<StoreEvent>>,
        ledger: Arc<Ledger>,
        fence: Fence,
    ) -> Self {
        Self {
            store,
            rebuilding,
            events,
            ledger,
            fence,
        }
    }

    pub(super) fn run(self, mut jobs: mpsc::UnboundedReceiver<ScanJob>) {
        while let Some(job) = jobs.blocking_recv() {
            while self.ledger.is_full(Kind::Read) && !self.events.is_closed() {
                std::thread::sleep(ROOM_POLL);
            }
            self.scan(job);
        }
    }

    pub(super) async fn run_simulated(self, mut jobs: mpsc::UnboundedReceiver<ScanJob>) {
        while let Some(job) = jobs.recv().await {
            while self.ledger.is_full(Kind::Read) && !self.events.is_closed() {
                tokio::time::sleep(ROOM_POLL).await;
            }
            self.scan(job);
        }
    }

    fn scan(&self, job: ScanJob) {
        let is_mending = !matches!(job.work, ScanWork::Export(_));
        let result = match job.work {
            ScanWork::Recount { after_key, reply } => {
                // An anti-entropy that is gone has no use for it.
                let _ = reply.send(self.recount(after_key.as_deref()));
                return;
            }
            ScanWork::Losses { segments, reply } => {
                let _ = reply.send(self.store.losses(&segments));
                return;
            }
            ScanWork::Forgive { losses, reply } => {
                let _ = reply.send(self.forgive(&losses));
                return;
            }
            ScanWork::Export(export) => {
                let part = scan(&*self.store, export.after_key.as_deref(), export.bytes_max);
                self.note_locked(
                    part.iter()
                        .flat_map(|part| &part.items)
                        .map(|item| (&item.key, &item.versions)),
                );
                // Nobody can say what would be missing: it is no export before the segment is rebuilt.
                if let Err(StoreError::CorruptRange { range, .. }) = &part
                    && let Err(error) = note_loss(&self.rebuilding, range.start.segment())
                {
                    tracing::error!(%error, "it could not be noted that a segment is to be rebuilt");
                }
                part.map(Scanned::Exported).map_err(|error| refusal(&error))
            }
            ScanWork::Compare {
                ring,
                members,
                page,
            } => {
                let compared = Response::Compared(self.compare(&ring, members, page));
                // What is read later may lack what this node has given up since.
                let is_of_ring = self.fence.check(ring.version());
                is_of_ring.map(|()| Scanned::Answer(Box::new(compared)))
            }
            ScanWork::List(list) => {
                let listed = self.list(&list).map(Response::Listed);
                let is_of_ring = self.fence.check(list.ring_version);
                is_of_ring.and(listed.map(|listed| Scanned::Answer(Box::new(listed))))
            }
        };
        let event = StoreEvent::Scanned {
            connection: job.connection,
            request_id: job.request_id,
            is_mending,
            result,
        };
        self.ledger.take(Kind::Read, event.bytes_read());
        // A coordinator that is gone has no use for it.
        let _ = self.events.send(vec![event]);
    }

    /// Writers wait meanwhile: the part is small.
    fn recount(&self, after_key: Option<&[u8]>) -> Result<Recounted, StoreError> {
        let recounted = self.store.recount(after_key, RECOUNT_PART)?;
        if let Some(key) = &recounted.damaged
            && self.rebuilding.begin(key)?
        {
            tracing::error!(
                key = %key.escape_ascii(),
                "a stored value is damaged: its segment is to be rebuilt from the other owners"
            );
        }
        for &segment in &recounted.lost_segments {
            note_loss(&self.rebuilding, segment)?;
        }
        Ok(recounted)
    }

    /// Its hash and the totals have had all that was there.
    fn forgive(&self, losses: &[Loss]) -> Result<(), StoreError> {
        for loss in losses {
            self.rebuilding.note_given_up(loss.segment())?;
        }
        self.store.forgive(losses)
    }

    /// The hashes, and what is to be said of them, are of one moment: while these are read a damaged value
    /// may be replaced, or what was lost may be rebuilt.
    fn compare(
        &self,
        ring: &Ring,
        members: (MemberIndex, MemberIndex),
        page: Option<u8>,
    ) -> Compared {
        let hash_of = |segment| self.store.segment_hash(segment);
        let doubts = || (self.rebuilding.segments(), self.rebuilding.unsure());
        let mut now = doubts();
        loop {
            let compared = compared(ring, members, page, (&now.0, &now.1), hash_of);
            let before = std::mem::replace(&mut now, doubts());
            if before == now {
                return compared;
            }
        }
    }

    fn note_locked<'a>(&self, items: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) {
        for (key, versions) in items {
            note_read(&self.rebuilding, key, versions);
        }
    }

    fn list(&self, list: &List) -> Result<Listed, ErrorReply> {
        let limit = PageLimit {
            items_max: LISTED_KEYS_MAX,
            bytes_max: list.bytes_max.min(EXPORT_BYTES_MAX) as usize,
        };
        let range = PositionRange::of_segment(list.segment);
        let mut damaged = None;
        let was_rebuilding = self.rebuilding.contains(list.segment);
        let mut lost = Vec::new();
        let after = list.after_key.as_deref();
        let page = match scan_past_losses(&*self.store, range, after, limit, &mut lost) {
            Ok(page) => page,
            // What cannot be read is told by `rebuilding`, and passed over.
            Err(StoreError::Corrupt { key, damage }) => {
                let error = StoreError::Corrupt {
                    key: key.clone(),
                    damage,
                };
                note_damage(&self.rebuilding, &key, &error)?;
                damaged = Some(key);
                Page::default()
            }
            Err(error) => return Err(refusal(&error)),
        };
        if !lost.is_empty() {
            note_loss(&self.rebuilding, list.segment).map_err(|error| refusal(&error))?;
        }
        self.note_locked(page.items.iter().map(|item| (&item.key, &item.versions)));
        let answer_bytes_max = frame_bytes_max(VALUE_BYTES_MAX) - ANSWER_OVERHEAD_BYTES;
        let keys = page.items.into_iter().map(|item| ListedKey {
            hash: checksum(&item.versions),
            // Too large for a list; it can be read.
            versions: match list.with_versions && item.versions.len() < answer_bytes_max {
                true => item.versions,
                false => Bytes::new(),
            },
            key: item.key,
        });
        Ok(Listed {
            rebuilding: was_rebuilding || self.rebuilding.contains(list.segment),
            keys: keys.collect(),
            next: damaged.or(page.next),
        })
    }
}

fn scan(store: &dyn Store, after_key: Option<&[u8]>, bytes_max: u32) -> Result<Part, StoreError> {
    let limit = PageLimit {
        items_max: EXPORT_ITEMS_MAX,
        bytes_max: bytes_max.min(EXPORT_BYTES_MAX) as usize,
    };
    let page = match store.scan(PositionRange::ALL, after_key, limit) {
        Ok(page) => page,
        // Damage is told and passed over: the other owners have the key.
        Err(StoreError::Corrupt { key, damage }) => {
            tracing::error!(key = %key.escape_ascii(), %damage, "left out of an export");
            return Ok(Part {
                items: Vec::new(),
                next: Some(key.clone()),
                damaged: vec![key],
                locked: Vec::new(),
            });
        }
        Err(error) => return Err(error),
    };
    let answer_bytes_max = frame_bytes_max(VALUE_BYTES_MAX) - ANSWER_OVERHEAD_BYTES;
    if let [only] = &page.items[..]
        && only.versions.len() > answer_bytes_max
    {
        // It is told and passed over, so that the rest can be exported.
        let key = only.key.clone();
        tracing::error!(
            key = %key.escape_ascii(),
            bytes = only.versions.len(),
            bytes_max = answer_bytes_max,
            "left out of an export: the versions of this key do not fit into an answer"
        );
        return Ok(Part {
            items: Vec::new(),
            damaged: vec![key.clone()],
            locked: vec![key],
            next: page.next,
        });
    }
    let items = page.items.into_iter().map(|item| ExportedItem {
        key: item.key,
        versions: item.versions,
    });
    Ok(Part {
        items: items.collect(),
        damaged: Vec::new(),
        locked: Vec::new(),
        next: page.next,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dynakv_storage::{Damage, Footprint, Item, MemoryDisk, Mutation, Totals};

    use super::*;

    fn put(store: &dyn Store, key: &str, bytes: usize) {
        let mutation = Mutation {
            key: Bytes::copy_from_slice(key.as_bytes()),
            versions: Bytes::from(vec![b'v'; bytes]),
            before: Footprint::default(),
            after: Footprint::default(),
        };
        store.apply(&[mutation]).unwrap();
    }

    /// However small the answers, all keys come, each once, one larger than an answer too.
    #[test]
    fn parts_make_the_whole() {
        let disk = MemoryDisk::new();
        let store = disk.store();
        for number in 0..100 {
            put(&store, &format!("key-{number}"), 10);
        }
        put(&store, "large", 10_000);
        for bytes_max in [0, 1, 100, 1000, u32::MAX] {
            let (mut seen, mut after, mut parts) = (BTreeSet::new(), None, 0);
            loop {
                let part = scan(&store, after.as_deref(), bytes_max).unwrap();
                for item in &part.items {
                    assert!(seen.insert(item.key.clone()), "{:?} came twice", item.key);
                }
                let bytes: usize = part.items.iter().map(|item| item.versions.len()).sum();
                assert!(part.items.len() == 1 || bytes <= bytes_max as usize);
                parts += 1;
                after = part.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen.len(), 101);
            assert!(parts >= 101 || bytes_max >= 100, "{parts} with {bytes_max}");
        }
    }

    /// A store of the keys a to d, in which the values of b and c are damaged.
    struct Damaged;

    impl Store for Damaged {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(None)
        }

        fn apply(&self, _: &[Mutation]) -> Result<(), StoreError> {
            Ok(())
        }

        fn sync(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn scan(
            &self,
            _: PositionRange,
            after_key: Option<&[u8]>,
            _: PageLimit,
        ) -> Result<Page, StoreError> {
            let item = |key: &'static str| Item {
                key: Bytes::from_static(key.as_bytes()),
                versions: Bytes::from_static(b"v"),
            };
            match after_key {
                None => Ok(Page {
                    next: Some(Bytes::from_static(b"a")),
                    items: vec![item("a")],
                }),
                Some(b"c") => Ok(Page {
                    next: None,
                    items: vec![item("d")],
                }),
                Some(after) => Err(StoreError::Corrupt {
                    key: Bytes::from(vec![after[0] + 1]),
                    damage: Damage::NotOurs,
                }),
            }
        }

        fn totals(&self) -> Totals {
            Totals::default()
        }

        fn segment_hash(&self, _segment: Segment) -> u128 {
            0
        }
    }

    #[test]
    fn damage_is_told_and_passed_over() {
        let (mut items, mut damaged, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let part = scan(&Damaged, after.as_deref(), 1000).unwrap();
            items.extend(part.items.into_iter().map(|item| item.key));
            damaged.extend(part.damaged);
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(items, ["a", "d"]);
        assert_eq!(damaged, ["b", "c"]);
    }
}
