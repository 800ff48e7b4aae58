//! The keys' names: number 0, 1, 2, … as bytes of the asked length.

/// A key has at least this many bytes.
pub(super) const KEY_BYTES_MIN: usize = 4;

/// Hexadecimal digits that are enough for every number.
const DIGITS_MAX: usize = 16;

/// What stands before the digits of a longer name.
const PREFIX: &[u8] = b"bench:";

/// Writes names into one buffer, one after the other.
#[derive(Debug, Clone)]
pub(super) struct KeyName {
    name: Vec<u8>,
    digits: usize,
}

impl KeyName {
    /// Names of `key_bytes` bytes, [`KEY_BYTES_MIN`] at least.
    pub(super) fn new(key_bytes: usize) -> Self {
        let digits = key_bytes.min(DIGITS_MAX);
        let mut name = vec![b'-'; key_bytes];
        let prefix = PREFIX.len().min(key_bytes - digits);
        name[..prefix].copy_from_slice(&PREFIX[..prefix]);
        Self { name, digits }
    }

    /// The name of a key. Two numbers below [`capacity`] never have the same one, and neighbours are
    /// strangers: keys that are loaded in order do not arrive in the order of the store.
    pub(super) fn of(&mut self, number: u64) -> &[u8] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut left = mix(number, 4 * self.digits as u32);
        for byte in self.name.iter_mut().rev().take(self.digits) {
            *byte = HEX[(left & 0xf) as usize];
            left >>= 4;
        }
        &self.name
    }
}

/// How many keys of this length there are.
pub(super) fn capacity(key_bytes: usize) -> u64 {
    let bits = 4 * key_bytes.min(DIGITS_MAX) as u32;
    1_u64.checked_shl(bits).unwrap_or(u64::MAX)
}

/// A bijection on the numbers of so many bits: odd factors and shifted sums can be undone.
fn mix(number: u64, bits: u32) -> u64 {
    let mask = u64::MAX >> (u64::BITS - bits);
    let half = bits / 2;
    let mut mixed = number & mask;
    for factor in [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9] {
        mixed = mixed.wrapping_mul(factor) & mask;
        mixed ^= mixed >> half;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_have_their_length_and_differ() {
        for key_bytes in [4, 5, 8, 16, 18, 24, 100] {
            let mut names = KeyName::new(key_bytes);
            let count = capacity(key_bytes).min(100_000);
            let distinct: HashSet<_> = (0..count).map(|n| names.of(n).to_vec()).collect();
            assert_eq!(distinct.len() as u64, count, "{key_bytes}");
            assert!(distinct.iter().all(|name| name.len() == key_bytes));
        }
        assert_eq!(capacity(4), 65_536);
        let mut names = KeyName::new(24);
        let text = String::from_utf8(names.of(1).to_vec()).unwrap();
        assert!(text.starts_with("bench:--"), "{text}");
    }

    #[test]
    fn neighbours_are_strangers() {
        let mut names = KeyName::new(24);
        let mut ordered = 0;
        for number in 0..1000 {
            let before = names.of(number).to_vec();
            ordered += u32::from(before.as_slice() < names.of(number + 1));
        }
        assert!((300..700).contains(&ordered), "{ordered}");
    }
}
