//! Which segments a node is rebuilding: where it lost what it once acknowledged.
//!
//! Such a node takes writes there and counts towards W, but its reads do not count towards R: "absent"
//! from it means nothing. What is in the set must survive every restart, so it has a form on disk.

use bytes::BytesMut;
use dynakv_protocol::DecodeError;
use dynakv_protocol::codec::{Reader, put_varint};
use dynakv_protocol::hash::{SEGMENTS, Segment};

/// How many words of 64 bits a set has.
pub const WORDS: usize = SEGMENTS / u64::BITS as usize;

/// A set of segments, 8 KiB large.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentSet {
    words: Box<[u64; WORDS]>,
    len: u32,
}

impl std::fmt::Debug for SegmentSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentSet({} segments)", self.len)
    }
}

impl Default for SegmentSet {
    fn default() -> Self {
        Self {
            words: Box::new([0; WORDS]),
            len: 0,
        }
    }
}

impl SegmentSet {
    /// The set of all segments.
    pub fn all() -> Self {
        Self {
            words: Box::new([u64::MAX; WORDS]),
            len: SEGMENTS as u32,
        }
    }

    /// The set with these bits; [`place_of`] says which is whose.
    pub fn of_words(words: [u64; WORDS]) -> Self {
        let len = words.iter().map(|word| word.count_ones()).sum();
        Self {
            words: Box::new(words),
            len,
        }
    }

    /// Its bits.
    pub fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this one is among them.
    pub fn contains(&self, segment: Segment) -> bool {
        let (word, bit) = place_of(segment);
        self.words[word] & bit != 0
    }

    /// Adds one; false when it is there already.
    pub fn insert(&mut self, segment: Segment) -> bool {
        let (word, bit) = place_of(segment);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u32::from(is_new);
        is_new
    }

    /// Takes one out; false when it is not there.
    pub fn remove(&mut self, segment: Segment) -> bool {
        let was_there = self.contains(segment);
        let (word, bit) = place_of(segment);
        self.words[word] &= !bit;
        self.len -= u32::from(was_there);
        was_there
    }

    /// Whether one is in both.
    pub fn meets(&self, other: &Self) -> bool {
        let words = self.words.iter().zip(other.words.iter());
        words.into_iter().any(|(ours, theirs)| ours & theirs != 0)
    }

    /// All of them, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        (0..=u16::MAX).map(Segment).filter(|it| self.contains(*it))
    }

    /// The form on disk: how many runs, then for each how far it begins behind the end of the one before
    /// it, and how long it is. Varints all.
    pub fn encode(&self, out: &mut BytesMut) {
        let runs = self.runs();
        put_varint(out, runs.len() as u64);
        let mut end = 0;
        for (start, length) in runs {
            put_varint(out, u64::from(start - end));
            put_varint(out, u64::from(length));
            end = start + length;
        }
    }

    /// Reads [`encode`](Self::encode)'s form.
    ///
    /// # Errors
    /// When the runs do not lie within the ring, or the bytes end too early.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut set = Self::default();
        let mut end = 0;
        for _ in 0..reader.varint()? {
            let gap = reader.varint()?;
            let length = reader.varint()?;
            let start = u64::saturating_add(end, gap);
            end = start.saturating_add(length);
            if length == 0 || end > SEGMENTS as u64 {
                return Err(DecodeError::Invalid {
                    what: "run of segments",
                });
            }
            for segment in start..end {
                set.insert(Segment(segment as u16));
            }
        }
        Ok(set)
    }

    fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for segment in self.iter() {
            let at = u32::from(segment.0);
            match runs.last_mut() {
                Some((start, length)) if *start + *length == at => *length += 1,
                _ => runs.push((at, 1)),
            }
        }
        runs
    }
}

/// In which word, and which bit of it.
pub fn place_of(segment: Segment) -> (usize, u64) {
    let number = u32::from(segment.0);
    let word = (number / u64::BITS) as usize;
    (word, 1 << (number % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn there_and_back(set: &SegmentSet) -> usize {
        let mut out = BytesMut::new();
        set.encode(&mut out);
        let bytes: Bytes = out.freeze();
        let mut reader = Reader::new(&bytes);
        assert_eq!(&SegmentSet::decode(&mut reader).unwrap(), set);
        assert_eq!(reader.left(), 0);
        bytes.len()
    }

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let mut set = SegmentSet::default();
        there_and_back(&set);
        for number in [0, 1, 2, 63, 64, 65, 1000, u16::MAX] {
            assert!(set.insert(Segment(number)));
            assert!(!set.insert(Segment(number)));
            there_and_back(&set);
        }
        assert_eq!(set.len(), 8);
        assert!(set.remove(Segment(64)) && !set.remove(Segment(64)));
        assert!(set.contains(Segment(65)) && !set.contains(Segment(64)));
        assert_eq!((set.len(), set.iter().count()), (7, 7));
        let mut other = SegmentSet::default();
        other.insert(Segment(64));
        assert!(!set.meets(&other) && SegmentSet::all().meets(&other));
        assert_eq!(SegmentSet::of_words(*set.words()), set);
        there_and_back(&set);
        let mut all = SegmentSet::all();
        assert!(there_and_back(&all) < 10, "one run");
        for number in (0..=u16::MAX).step_by(2) {
            all.remove(Segment(number));
        }
        assert_eq!(all.len(), SEGMENTS as u32 / 2);
        there_and_back(&all);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bytes in [
            &[1][..],
            &[1, 0, 0],
            &[2, 0, 1],
            // A run that goes beyond the end of the ring.
            &[1, 1, 0x80, 0x80, 0x04],
        ] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert!(SegmentSet::decode(&mut Reader::new(&bytes)).is_err());
        }
    }
}
