//! `golden.txt`: one line for each pinned encoding, its name and its bytes in hexadecimal.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the file stands.
pub(crate) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt")
}

/// The pinned encodings by name.
pub(crate) fn read() -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(path()).expect("protocol/tests/golden.txt can be read");
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, hex) = line.split_once(' ').expect("a name, a space, hexadecimal");
            (name.to_owned(), from_hex(hex))
        })
        .collect()
}

/// Hexadecimal as bytes; white space may stand anywhere.
pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .map(|letter| letter.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert!(
        digits.len().is_multiple_of(2),
        "an odd number of digits: {hex}"
    );
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
