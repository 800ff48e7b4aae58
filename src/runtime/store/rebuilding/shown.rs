//! The set of segments as everybody looks at it: bits, so that nobody who asks waits for a disk.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dynakv_protocol::hash::Segment;

use crate::engine::anti_entropy::rebuilding::{SegmentSet, WORDS, place_of};

/// A set of segments that one changes and many look at.
pub(super) struct Shown {
    words: Box<[AtomicU64]>,
    /// How many there are: nearly always none, which is all that is looked at then.
    len: AtomicU32,
}

impl Shown {
    pub(super) fn new(segments: &SegmentSet) -> Self {
        let word = |&word: &u64| AtomicU64::new(word);
        Self {
            words: segments.words().iter().map(word).collect(),
            len: AtomicU32::new(segments.len()),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn contains(&self, segment: Segment) -> bool {
        let (word, bit) = place_of(segment);
        self.len() > 0 && self.words[word].load(Ordering::Acquire) & bit != 0
    }

    /// All of them, as they are at about this moment.
    pub(super) fn segments(&self) -> SegmentSet {
        if self.len() == 0 {
            return SegmentSet::default();
        }
        let mut words = [0; WORDS];
        for (word, shown) in words.iter_mut().zip(&self.words) {
            *word = shown.load(Ordering::Acquire);
        }
        SegmentSet::of_words(words)
    }

    /// Shows this set from now on. One caller at a time.
    pub(super) fn show(&self, segments: &SegmentSet) {
        let is_more = segments.len() > self.len();
        // Before the bits, or behind them: who sees a bit counts on the number not being 0.
        if is_more {
            self.len.store(segments.len(), Ordering::Release);
        }
        for (shown, &word) in self.words.iter().zip(segments.words()) {
            if shown.load(Ordering::Relaxed) != word {
                shown.store(word, Ordering::Release);
            }
        }
        if !is_more {
            self.len.store(segments.len(), Ordering::Release);
        }
    }
}
