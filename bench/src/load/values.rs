//! The written values: each one differs from all before it, and none of them compresses.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// A value has at least this many bytes: those of its number.
pub(super) const VALUE_BYTES_MIN: usize = 8;

/// Random bytes that bodies are cut from.
const POOL_BYTES: usize = 256 * 1024;

/// Small values share allocations of this size.
const ARENA_BYTES: usize = 64 * 1024;

/// Makes values. A body is a piece of a pool of random bytes, so making one is copying it.
#[derive(Debug)]
pub(super) struct Values {
    pool: Vec<u8>,
    arena: BytesMut,
    next: u64,
}

impl Values {
    /// Bodies come from the seed. The numbers go on from the present time in microseconds, so that a
    /// second run with the same seed does not write what is there already.
    pub(super) fn new(seed: u64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let first = since.map_or(0, |since| since.as_micros() as u64);
        Self::counting_from(seed, first)
    }

    fn counting_from(seed: u64, first: u64) -> Self {
        let mut pool = vec![0; POOL_BYTES];
        Xoshiro256PlusPlus::seed_from_u64(seed).fill_bytes(&mut pool);
        Self {
            pool,
            arena: BytesMut::new(),
            next: first,
        }
    }

    /// A value of this size, [`VALUE_BYTES_MIN`] at least.
    pub(super) fn next(&mut self, value_bytes: usize) -> Bytes {
        if self.arena.capacity() < value_bytes {
            self.arena = BytesMut::with_capacity(value_bytes.max(ARENA_BYTES));
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.arena.put_u64(number);
        let mut left = value_bytes.saturating_sub(VALUE_BYTES_MIN);
        // Another place each time, so that the bodies of neighbours differ, too.
        let mut at = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % self.pool.len();
        while left > 0 {
            let piece = left.min(self.pool.len() - at);
            self.arena.put_slice(&self.pool[at..at + piece]);
            left -= piece;
            at = 0;
        }
        self.arena.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        let mut values = Values::new(1);
        for value_bytes in [8, 9, 100, 4096, 1 << 20] {
            let made: HashSet<_> = (0..200).map(|_| values.next(value_bytes)).collect();
            assert_eq!(made.len(), 200, "{value_bytes}");
            assert!(made.iter().all(|value| value.len() == value_bytes));
        }
    }

    #[test]
    fn bodies_come_from_the_seed_and_are_not_constant() {
        let body = |seed| Values::counting_from(seed, 7).next(1000);
        assert_eq!(body(1), body(1));
        assert_ne!(body(1), body(2));
        let distinct: HashSet<_> = body(1).iter().copied().collect();
        assert!(distinct.len() > 200, "{}", distinct.len());
    }

    #[test]
    fn a_second_run_writes_other_values() {
        let first: HashSet<_> = {
            let mut values = Values::counting_from(1, 1000);
            (0..100).map(|_| values.next(100)).collect()
        };
        let mut again = Values::counting_from(1, 2000);
        assert!((0..100).all(|_| !first.contains(&again.next(100))));
    }
}
