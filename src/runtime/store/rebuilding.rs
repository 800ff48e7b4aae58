//! The segments that this node is rebuilding, for all its tasks and threads to see, and durable before
//! anyone does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_storage::{SmallFiles, StoreError, load_document, save_document};

use self::aside::Aside;
pub use self::gained::Gain;
use self::gained::Gained;
pub use self::locked::{Copy, LockedKeys};
use self::recount::Recount;
use self::shown::Shown;
use self::stored::decode;
use crate::engine::anti_entropy::rebuilding::SegmentSet;

mod aside;
mod gained;
mod locked;
mod recount;
mod shown;
mod stored;

/// The document that holds the set. There is none while nothing is being rebuilt.
const DOCUMENT: &str = "rebuilding";

/// What is lost. Who changes it holds the lock until that is durable; who only looks does not come here.
struct Lost {
    segments: SegmentSet,
    /// Where something was lost again since an attempt to rebuild asked.
    again: SegmentSet,
    /// The last change is not on disk.
    is_unsaved: bool,
}

/// The segments that this node is rebuilding.
pub struct Rebuilding {
    files: Arc<dyn SmallFiles>,
    lost: Mutex<Lost>,
    shown: Shown,
    aside: Aside,
    gained: Gained,
    recount: Recount,
    locked: LockedKeys,
    given_up: AtomicU64,
}

impl std::fmt::Debug for Rebuilding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rebuilding({} segments)", self.left())
    }
}

impl Rebuilding {
    /// What an earlier run has left to do.
    ///
    /// # Errors
    /// When the document cannot be read, other than for damage. The node must not start then: it says
    /// what is missing.
    pub fn load(files: Arc<dyn SmallFiles>) -> Result<Self, StoreError> {
        // Where the document is damaged: taking all segments for lost is always right.
        let segments = match load_document(&*files, DOCUMENT) {
            Ok(Some(bytes)) => decode(&bytes).unwrap_or_else(SegmentSet::all),
            Ok(None) => SegmentSet::default(),
            Err(error) if error.is_corruption() => SegmentSet::all(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            gained: Gained::load(files.clone())?,
            recount: Recount::load(files.clone())?,
            locked: LockedKeys::default(),
            given_up: AtomicU64::new(0),
            shown: Shown::new(&segments),
            aside: Aside::default(),
            lost: Mutex::new(Lost {
                segments,
                again: SegmentSet::default(),
                is_unsaved: false,
            }),
            files,
        })
    }

    /// Notes, durably, that all segments are to be rebuilt.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_all(files: &dyn SmallFiles) -> Result<(), StoreError> {
        save(files, &SegmentSet::all())
    }

    /// Notes, durably, that nothing is to be rebuilt.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_none(files: &dyn SmallFiles) -> Result<(), StoreError> {
        // First: what a change brings is not lost, and is fetched once more.
        gained::forget(files)?;
        files.remove_durable(DOCUMENT)
    }

    // For all who look. None of these waits for the disk.

    /// How many segments are being rebuilt. Those that are [set aside](Self::set_aside) are not among them.
    pub fn left(&self) -> u32 {
        self.shown.len().saturating_sub(self.aside.len())
    }

    /// Whether this node's versions of the key may lack something that it acknowledged. Of what is read
    /// from the store this is to be asked before as well as afterwards: in between a segment may come to
    /// be rebuilt, and what was read is older than that, or be lost.
    pub fn covers(&self, key: &[u8]) -> bool {
        (self.shown.len() > 0 && self.contains(Segment::of_key(key)))
            || self.locked.is_incomplete(key)
    }

    /// The keys whose versions are beyond a limit.
    pub fn locked(&self) -> &LockedKeys {
        &self.locked
    }

    /// Whether this segment is marked: it is being rebuilt, or set aside; see [`covers`](Self::covers).
    pub fn contains(&self, segment: Segment) -> bool {
        self.shown.contains(segment)
    }

    /// The segments that are marked: those that are being rebuilt, and those that are set aside.
    pub fn segments(&self) -> SegmentSet {
        self.shown.segments()
    }

    /// What is to be fetched from others: what is marked, and what is [topped up](Gain::to_top_up).
    pub fn to_fetch(&self) -> SegmentSet {
        let mut all = self.segments();
        for segment in self.gained.to_top_up().iter() {
            all.insert(segment);
        }
        all
    }

    /// How many segments are to be fetched. Those that are [set aside](Self::set_aside) are not among them.
    pub fn left_to_fetch(&self) -> u32 {
        let topped_up = self.gained.to_top_up();
        let is_marked = |segment: &Segment| self.contains(*segment);
        self.left() + topped_up.iter().filter(|it| !is_marked(it)).count() as u32
    }

    /// Whether all segments are.
    pub fn is_all(&self) -> bool {
        self.shown.len() as usize == SEGMENTS
    }

    // What is not owned.

    /// From now on this ring is followed. What this node does not own under it is set aside, and what it owns is to be
    /// rebuilt, as far as it is marked. **The marks stay**, on disk, too: what this node has left of a segment gives no
    /// vote when it owns that again.
    /// While the ring begins a change, it is the one that began with `fetches_for`: what was to be fetched for another
    /// one is not any more.
    pub fn follow(
        &self,
        ring_version: RingVersion,
        fetches_for: Option<RingVersion>,
        is_owned: impl Fn(Segment) -> bool,
    ) {
        self.gained.follow(ring_version, fetches_for);
        // Under its lock: nothing is set aside that has ended meanwhile.
        self.aside.follow(ring_version, || {
            let mut foreign = self.shown.segments();
            let marked: Vec<_> = foreign.iter().collect();
            for segment in marked.into_iter().filter(|&it| is_owned(it)) {
                foreign.remove(segment);
            }
            foreign
        });
    }

    /// Sets these segments aside as far as they are marked: under this ring this node does not own them. Not where
    /// something was lost since [`take_begun_again`](Self::take_begun_again), nor under a ring that is not followed any
    /// more. What is lost there later takes them up again.
    pub fn set_aside(&self, segments: &[Segment], ring_version: RingVersion) {
        let lost = self.lost();
        let segments = segments.iter().copied();
        let quiet = segments.filter(|&it| lost.segments.contains(it) && !lost.again.contains(it));
        self.aside.add(ring_version, quiet);
    }

    /// Whether this one is set aside.
    pub fn is_aside(&self, segment: Segment) -> bool {
        self.aside.contains(segment)
    }

    // Something is lost.

    /// Begins to rebuild all segments. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin_all(&self) -> Result<(), StoreError> {
        self.begin_all_of(&SegmentSet::all())
    }

    /// The same of these.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin_all_of(&self, segments: &SegmentSet) -> Result<(), StoreError> {
        let mut lost = self.lost();
        for segment in segments.iter() {
            lost.segments.insert(segment);
            // An attempt that is under way may not end it.
            lost.again.insert(segment);
        }
        self.aside.clear();
        self.shown.show(&lost.segments);
        self.save(&mut lost)
    }

    /// Begins to rebuild the segment of this key. Durable when it returns; true when that is news.
    ///
    /// A damaged value tells of itself whenever it is met, so one in a segment that is being rebuilt
    /// already is no news to whoever rebuilds that.
    ///
    /// # Errors
    /// What the disk says. The segment counts as being rebuilt all the same, until the process ends.
    pub fn begin(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.begin_segment(Segment::of_key(key))
    }

    /// The same of a segment in which nobody can say which keys are lost.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_segment(&self, segment: Segment) -> Result<bool, StoreError> {
        self.insert(&mut self.lost(), segment)
    }

    /// Something is about to take the place of a damaged value, which then tells of itself no more: the
    /// segment is to be rebuilt, from the start when it was begun before; and the store is to be counted
    /// anew, now and after every restart. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says. Nothing may be replaced then.
    pub fn note_replaced(&self, key: &[u8]) -> Result<(), StoreError> {
        let segment = Segment::of_key(key);
        let mut lost = self.lost();
        lost.again.insert(segment);
        // Also when it was begun for the damage: an attempt may have ended it since.
        self.insert(&mut lost, segment)?;
        drop(lost);
        self.recount.note_replaced(segment)
    }

    /// What was lost of a segment and is not there again is about to count as absent: the store is to be counted anew, now
    /// and after every restart. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says. Nothing may be given up then.
    pub fn note_given_up(&self, segment: Segment) -> Result<(), StoreError> {
        self.recount.note_replaced(segment)?;
        self.given_up.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How often something was. Who mints looks after it has read the store: a dot of its actor may be among what is
    /// absent since.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Acquire)
    }

    // Something is gained.

    /// What was noted of a change that began with a later ring than this, which is the one that is followed, is forgotten:
    /// nobody may ever follow that ring. The marks stay.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget_gained_after(&self, followed: RingVersion) -> Result<(), StoreError> {
        // Under its lock: nothing ends meanwhile.
        let _lost = self.lost();
        self.gained.forget_after(followed)
    }

    /// Whether it is noted what the change of the ring brought that began with this version.
    pub fn has_met(&self, begun_at: RingVersion) -> bool {
        self.gained.is_known(begun_at)
    }

    /// The change of the ring that began with this version gives segments to this node: what it may have of the new ones
    /// is not all that was acknowledged there, until it was fetched. Only the first call for a change does anything.
    /// Durable when it returns.
    ///
    /// # Errors
    /// What the disk says. That ring may not be followed then.
    pub fn begin_gained(&self, begun_at: RingVersion, gain: Gain) -> Result<(), StoreError> {
        if self.gained.is_known(begun_at) {
            return Ok(());
        }
        let mut lost = self.lost();
        self.gained.announce(begun_at);
        for segment in gain.new.iter() {
            lost.segments.insert(segment);
            // An attempt that is under way knows of no such owners, and may not end it.
            lost.again.insert(segment);
        }
        self.shown.show(&lost.segments);
        self.save(&mut lost)?;
        drop(lost);
        self.gained.note(begun_at, gain)
    }

    /// By which change of the ring this node has all that it gained: the version that began it. 0 while it lacks some.
    pub fn complete_since(&self) -> RingVersion {
        self.gained.complete_since(&self.segments())
    }

    // It is brought back.

    /// Those of these segments in which something was lost since this was asked before: what others gave
    /// for them may have gone with it.
    pub fn take_begun_again(&self, segments: &[Segment]) -> Vec<Segment> {
        let mut lost = self.lost();
        let segments = segments.iter().copied();
        segments.filter(|&it| lost.again.remove(it)).collect()
    }

    /// Ends the rebuilding of these segments, except where something was lost since
    /// [`take_begun_again`](Self::take_begun_again): reads count there again. Durable before anybody
    /// sees it. Which these are: none, where a change has begun since the ring under which they were brought back, as
    /// owners may not have given what they were given under that.
    ///
    /// # Errors
    /// What the disk says. Nothing has ended then.
    pub fn finish(
        &self,
        finished: &[Segment],
        ring_version: RingVersion,
    ) -> Result<Vec<Segment>, StoreError> {
        let mut lost = self.lost();
        if self.gained.announced() > ring_version {
            return Ok(Vec::new());
        }
        let mut left = lost.segments.clone();
        let finished = finished.iter().copied();
        let finished: Vec<_> = finished.filter(|&it| !lost.again.contains(it)).collect();
        for &segment in &finished {
            left.remove(segment);
        }
        self.gained.top_up(&finished)?;
        match left.is_empty() {
            true => self.files.remove_durable(DOCUMENT)?,
            false => save(&*self.files, &left)?,
        }
        lost.is_unsaved = false;
        lost.segments = left;
        let show = || self.shown.show(&lost.segments);
        self.aside.take_up_all(&finished, show);
        Ok(finished)
    }

    // The store is counted anew.

    /// The segments whose hash the store may have wrong, because something took a damaged value's place
    /// there and the store was not counted anew since.
    pub fn unsure(&self) -> SegmentSet {
        self.recount.unsure()
    }

    /// How many damaged values were replaced when a count begins, if there is reason for one.
    pub fn recount_due(&self) -> Option<u64> {
        self.recount.due()
    }

    /// The store was counted anew, begun when so many had been replaced. False when there were more since,
    /// so that it has to be counted once more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn end_recount(&self, replaced: u64) -> Result<bool, StoreError> {
        self.recount.end(replaced)
    }

    fn insert(&self, lost: &mut Lost, segment: Segment) -> Result<bool, StoreError> {
        let is_news = lost.segments.insert(segment);
        self.aside.take_up(segment);
        if is_news || lost.is_unsaved {
            self.shown.show(&lost.segments);
            self.save(lost)?;
        }
        Ok(is_news)
    }

    fn save(&self, lost: &mut Lost) -> Result<(), StoreError> {
        lost.is_unsaved = true;
        save(&*self.files, &lost.segments)?;
        lost.is_unsaved = false;
        Ok(())
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        // The sets are whole between any two operations.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn save(files: &dyn SmallFiles, segments: &SegmentSet) -> Result<(), StoreError> {
    let mut bytes = BytesMut::new();
    segments.encode(&mut bytes);
    save_document(files, DOCUMENT, &bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use dynakv_storage::{DirectoryFiles, MemoryDisk};

    const NEWEST: RingVersion = RingVersion(u64::MAX);

    #[test]
    fn what_is_to_be_rebuilt_survives_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(DirectoryFiles::open(directory.path()).unwrap());
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        assert!(!rebuilding.covers(b"a") && rebuilding.left() == 0);
        assert!(rebuilding.begin(b"a").unwrap());
        assert!(!rebuilding.begin(b"a").unwrap());
        assert!(rebuilding.covers(b"a") && !rebuilding.covers(b"b"));
        let again = Rebuilding::load(files.clone()).unwrap();
        assert!(again.covers(b"a") && again.left() == 1);
        Rebuilding::note_all(&*files).unwrap();
        let again = Rebuilding::load(files).unwrap();
        assert!(again.covers(b"b") && again.left() == 65_536);
    }

    #[test]
    fn a_count_that_is_due_is_remembered_until_it_is_done() {
        let files = Arc::new(MemoryDisk::new().files());
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        assert_eq!(rebuilding.recount_due(), None);
        rebuilding.note_replaced(b"a").unwrap();
        assert_eq!(rebuilding.recount_due(), Some(1));
        let again = Rebuilding::load(files.clone()).unwrap();
        assert_eq!(again.recount_due(), Some(0));
        assert_eq!((again.unsure().len(), again.left()), (1, 1));
        assert!(again.unsure().contains(Segment::of_key(b"a")));
        again.note_replaced(b"a").unwrap();
        assert!(!again.end_recount(0).unwrap(), "there was one more");
        assert!(again.end_recount(1).unwrap());
        assert_eq!(again.recount_due(), None);
        assert!(again.unsure().is_empty());
        assert_eq!(Rebuilding::load(files).unwrap().recount_due(), None);
    }

    /// An earlier version did not note where.
    #[test]
    fn an_empty_note_of_a_count_makes_no_hash_sure() {
        let files = Arc::new(MemoryDisk::new().files());
        save_document(&*files, "recount", b"").unwrap();
        let rebuilding = Rebuilding::load(files).unwrap();
        assert_eq!(rebuilding.recount_due(), Some(0));
        assert_eq!(rebuilding.unsure(), SegmentSet::all());
    }

    /// An attempt goes on while something is replaced in a segment, and while all is found to be lost.
    #[test]
    fn what_is_lost_again_during_an_attempt_is_not_ended_by_it() {
        let files = Arc::new(MemoryDisk::new().files());
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        rebuilding.begin(b"a").unwrap();
        rebuilding.begin(b"b").unwrap();
        let [a, b] = [b"a", b"b"].map(|key| Segment::of_key(key));
        assert_eq!(rebuilding.take_begun_again(&[a, b]), []);
        rebuilding.note_replaced(b"a").unwrap();
        // Damage that is only met tells of itself again.
        assert!(!rebuilding.begin(b"b").unwrap());
        assert_eq!(rebuilding.finish(&[a, b], NEWEST).unwrap(), [b]);
        assert!(rebuilding.covers(b"a") && !rebuilding.covers(b"b"));
        assert!(Rebuilding::load(files.clone()).unwrap().covers(b"a"));
        assert_eq!(rebuilding.take_begun_again(&[a, b]), [a]);
        rebuilding.begin_all().unwrap();
        assert_eq!(rebuilding.finish(&[a, b], NEWEST).unwrap(), []);
        assert!(Rebuilding::load(files.clone()).unwrap().is_all());
        assert_eq!(rebuilding.take_begun_again(&[a, b]), [a, b]);
        assert_eq!(rebuilding.finish(&[a, b], NEWEST).unwrap(), [a, b]);
        assert_eq!(rebuilding.left(), 65_534);
        // It was ended between the finding of the damage and its replacing.
        rebuilding.note_replaced(b"b").unwrap();
        assert!(rebuilding.covers(b"b"));
        assert_eq!(Rebuilding::load(files).unwrap().left(), 65_535);
    }

    #[test]
    fn what_could_not_be_noted_is_tried_again_and_ends_nothing() {
        let disk = MemoryDisk::new();
        let rebuilding = Rebuilding::load(Arc::new(disk.files())).unwrap();
        rebuilding.begin(b"b").unwrap();
        let b = Segment::of_key(b"b");
        disk.crash();
        assert!(rebuilding.begin(b"a").is_err());
        assert!(rebuilding.begin(b"a").is_err(), "it is still not on disk");
        assert!(rebuilding.finish(&[b], NEWEST).is_err());
        assert!(rebuilding.covers(b"a") && rebuilding.covers(b"b"));
    }

    /// A node loses everything, is no owner of a segment, and owns it again later.
    #[test]
    fn what_is_not_owned_keeps_its_mark_and_is_no_work() {
        let files = Arc::new(MemoryDisk::new().files());
        Rebuilding::note_all(&*files).unwrap();
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        let (first, second) = (RingVersion(1), RingVersion(2));
        let all: Vec<_> = rebuilding.segments().iter().collect();
        let is_owned = |segment: Segment| segment.0 % 2 == 1;
        let (owned, foreign): (Vec<_>, Vec<_>) = all.into_iter().partition(|&it| is_owned(it));
        let key = (0..u32::MAX).map(u32::to_be_bytes);
        let key = key
            .into_iter()
            .find(|key| !is_owned(Segment::of_key(key)))
            .unwrap();
        rebuilding.follow(first, None, is_owned);
        assert_eq!((rebuilding.left(), rebuilding.is_all()), (32_768, true));
        rebuilding.finish(&owned, NEWEST).unwrap();
        // It reports nothing, and gives no vote.
        assert_eq!(rebuilding.left(), 0);
        assert!(rebuilding.covers(&key));
        assert!(rebuilding.is_aside(foreign[0]) && !rebuilding.is_aside(owned[0]));
        // So it is after a restart.
        let again = Rebuilding::load(files).unwrap();
        assert!(again.covers(&key));
        again.follow(first, None, is_owned);
        assert_eq!((again.left(), again.segments().len()), (0, 32_768));
        // More is lost there: that is to be looked at.
        rebuilding.begin(&key).unwrap();
        assert_eq!(rebuilding.left(), 1);
        rebuilding.set_aside(&foreign, first);
        assert_eq!(rebuilding.left(), 0);
        // It owns all of it again: an attempt under the ring before has no say.
        rebuilding.follow(second, None, |_| true);
        rebuilding.set_aside(&foreign, first);
        assert!(rebuilding.covers(&key));
        assert_eq!(rebuilding.left(), 32_768);
        rebuilding.set_aside(&foreign[1..], second);
        assert_eq!(rebuilding.left(), 1);
        assert_eq!(
            rebuilding.finish(&foreign[..1], NEWEST).unwrap(),
            foreign[..1]
        );
        assert_eq!(
            (rebuilding.left(), rebuilding.segments().len()),
            (0, 32_767)
        );
    }

    #[test]
    fn what_is_not_owned_is_not_set_aside_where_it_is_lost_again() {
        let files = Arc::new(MemoryDisk::new().files());
        let rebuilding = Rebuilding::load(files).unwrap();
        let [a, b] = [b"a", b"b"].map(|key| Segment::of_key(key));
        rebuilding.begin(b"a").unwrap();
        rebuilding.take_begun_again(&[a, b]);
        rebuilding.note_replaced(b"a").unwrap();
        // The other one is not marked at all.
        rebuilding.set_aside(&[a, b], RingVersion(0));
        assert_eq!(rebuilding.left(), 1);
        rebuilding.take_begun_again(&[a]);
        rebuilding.set_aside(&[a, b], RingVersion(0));
        assert_eq!(rebuilding.left(), 0);
        rebuilding.begin_all().unwrap();
        assert_eq!(rebuilding.left(), 65_536);
    }

    /// Writes nothing while the test holds the gate.
    struct Slow {
        disk: dynakv_storage::MemoryFiles,
        gate: Arc<Mutex<()>>,
    }

    impl SmallFiles for Slow {
        fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
            self.disk.read(name)
        }

        fn write_durable(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
            let _open = self.gate.lock().unwrap();
            self.disk.write_durable(name, bytes)
        }

        fn remove_durable(&self, name: &str) -> Result<(), StoreError> {
            let _open = self.gate.lock().unwrap();
            self.disk.remove_durable(name)
        }
    }

    #[test]
    fn who_looks_does_not_wait_for_the_disk_and_sees_what_is_durable() {
        let gate = Arc::new(Mutex::new(()));
        let files = Slow {
            disk: MemoryDisk::new().files(),
            gate: gate.clone(),
        };
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(files)).unwrap());
        rebuilding.begin(b"a").unwrap();
        let closed = gate.lock().unwrap();
        let ends = rebuilding.clone();
        let end = std::thread::spawn(move || ends.finish(&[Segment::of_key(b"a")], NEWEST));
        while rebuilding.lost.try_lock().is_ok() {
            std::thread::yield_now();
        }
        let (looked, look) = std::sync::mpsc::channel();
        let looks = rebuilding.clone();
        std::thread::spawn(move || looked.send((looks.covers(b"a"), looks.segments().len())));
        let patience = std::time::Duration::from_secs(60);
        let seen = look.recv_timeout(patience);
        drop(closed);
        assert_eq!(seen, Ok((true, 1)), "its end is not durable yet");
        end.join().unwrap().unwrap();
        assert!(!rebuilding.covers(b"a") && rebuilding.left() == 0);
    }

    #[test]
    fn what_a_change_brings_is_marked_once_and_complete_when_it_was_fetched() {
        let files = Arc::new(MemoryDisk::new().files());
        let set = |keys: &[&str]| {
            let mut set = SegmentSet::default();
            for key in keys {
                set.insert(Segment::of_key(key.as_bytes()));
            }
            set
        };
        let new = |keys: &[&str]| Gain {
            new: set(keys),
            ..Gain::default()
        };
        let [a, b] = ["a", "b"].map(|key| Segment::of_key(key.as_bytes()));
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        assert_eq!(rebuilding.complete_since(), RingVersion(0));
        rebuilding.begin(b"b").unwrap();
        // An attempt is under way, for what was lost.
        assert_eq!(rebuilding.take_begun_again(&[b]), []);
        rebuilding
            .begin_gained(RingVersion(5), new(&["a", "b"]))
            .unwrap();
        assert_eq!(
            rebuilding.finish(&[b], NEWEST).unwrap(),
            [],
            "it was given none of that"
        );
        assert_eq!(rebuilding.complete_since(), RingVersion(0));
        assert_eq!(rebuilding.take_begun_again(&[a, b]), [a, b]);
        let before = RingVersion(4);
        assert_eq!(
            rebuilding.finish(&[b], before).unwrap(),
            [],
            "others owned it then"
        );
        assert_eq!(rebuilding.finish(&[b], NEWEST).unwrap(), [b]);
        // By a restart, and by a later version of the same change, nothing begins anew.
        let again = Rebuilding::load(files.clone()).unwrap();
        again
            .begin_gained(RingVersion(5), new(&["a", "b"]))
            .unwrap();
        assert!(again.covers(b"a") && !again.covers(b"b"));
        assert_eq!(again.finish(&[a], NEWEST).unwrap(), [a]);
        assert_eq!(again.complete_since(), RingVersion(5));
        let again = Rebuilding::load(files.clone()).unwrap();
        assert_eq!(again.complete_since(), RingVersion(5));
        again.begin_gained(RingVersion(9), new(&[])).unwrap();
        assert_eq!(again.complete_since(), RingVersion(9), "it gains nothing");
        // Where a loss is accepted nothing is rebuilt, but what is gained was not lost.
        Rebuilding::note_none(&*files).unwrap();
        let accepted = Rebuilding::load(files.clone()).unwrap();
        accepted.begin_gained(RingVersion(9), new(&["a"])).unwrap();
        assert!(accepted.covers(b"a") && accepted.complete_since() == RingVersion(0));
        // What can't be read is fetched once more.
        save_document(&*files, "gained", b"\x01").unwrap();
        let damaged = Rebuilding::load(files).unwrap();
        assert_eq!(damaged.complete_since(), RingVersion(0));
        damaged.begin_gained(RingVersion(9), new(&["a"])).unwrap();
        assert!(damaged.covers(b"a"));
    }

    #[test]
    fn what_is_gained_is_marked_before_that_is_noted() {
        let disk = MemoryDisk::new();
        let rebuilding = Rebuilding::load(Arc::new(disk.files())).unwrap();
        disk.crash();
        let all = Gain {
            new: SegmentSet::all(),
            ..Gain::default()
        };
        let begun = rebuilding.begin_gained(RingVersion(5), all.clone());
        assert!(begun.is_err());
        assert!(rebuilding.covers(b"a") && rebuilding.complete_since() == RingVersion(0));
        let restarted = Rebuilding::load(Arc::new(disk.files())).unwrap();
        restarted.begin_gained(RingVersion(5), all).unwrap();
        assert!(restarted.is_all());
    }

    /// What is topped up counts as before.
    #[test]
    fn what_is_topped_up_is_fetched_and_gives_votes_meanwhile() {
        let files = Arc::new(MemoryDisk::new().files());
        let [a, b] = ["a", "b"].map(|key| Segment::of_key(key.as_bytes()));
        let mut gain = Gain::default();
        for segment in [a, b] {
            gain.to_top_up.insert(segment);
        }
        let begun = RingVersion(5);
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        rebuilding.begin_gained(begun, gain).unwrap();
        assert!(!rebuilding.covers(b"a") && rebuilding.left() == 0);
        assert_eq!(rebuilding.left_to_fetch(), 2);
        assert_eq!(rebuilding.complete_since(), RingVersion(0));
        assert_eq!(rebuilding.finish(&[a], NEWEST).unwrap(), [a]);
        let again = Rebuilding::load(files.clone()).unwrap();
        again.follow(begun, Some(begun), |_| true);
        assert_eq!(again.to_fetch().iter().collect::<Vec<_>>(), [b]);
        // Where a value is lost meanwhile there is more to be done.
        again.begin(b"b").unwrap();
        assert_eq!(again.finish(&[b], NEWEST).unwrap(), [b]);
        assert_eq!(again.complete_since(), begun);
        // What is lost after it was topped up is not here.
        again.begin(b"a").unwrap();
        assert_eq!(again.complete_since(), RingVersion(0));
        assert_eq!(again.take_begun_again(&[a]), []);
        assert_eq!(again.finish(&[a], NEWEST).unwrap(), [a]);
        assert_eq!(again.complete_since(), begun);
        // A crash after it was noted and before the ring was saved: the one before is followed.
        let all = || Gain {
            to_top_up: SegmentSet::all(),
            ..Gain::default()
        };
        let next = RingVersion(9);
        again.begin_gained(next, all()).unwrap();
        let again = Rebuilding::load(files).unwrap();
        again.follow(RingVersion(8), None, |_| true);
        again.begin_gained(next, all()).unwrap();
        again.follow(next, Some(next), |_| true);
        assert_eq!(again.left_to_fetch() as usize, SEGMENTS);
        assert_eq!(again.complete_since(), RingVersion(0));
        // The change is over, or was given up.
        again.follow(RingVersion(10), None, |_| true);
        assert!(again.to_fetch().is_empty());
    }

    #[test]
    fn a_set_that_makes_no_sense_stands_for_all() {
        let files = Arc::new(MemoryDisk::new().files());
        save_document(&*files, DOCUMENT, b"\x01").unwrap();
        assert_eq!(Rebuilding::load(files).unwrap().left(), 65_536);
    }
}
