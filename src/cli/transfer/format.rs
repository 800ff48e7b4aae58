//! The form of an export: lines of JSON, a header, one entry for each key, a trailer.
//!
//! ```text
//! {"header":{"format":"dynakv-export","version":1,"cluster":"dynakv","cluster_id":"…", …}}
//! {"entry":{"key":"user:1","clock":{"064197ff18d1be1d":5},"siblings":[{"dot":"064197ff18d1be1d:5", …}], …}}
//! {"trailer":{"keys":1,"siblings":1,"tombstones":0,"damaged":0,"checksum":"…"}}
//! ```
//!
//! An entry has everything that a replica knows of its key: clock, siblings, tombstones. Its checksum
//! covers key and versions as they are encoded on the wire; the trailer's covers the header and the
//! checksums of all entries in their order. So a changed entry is noticed before it is imported, and
//! a file that was cut off, or lost lines, at its end. Keys and values that are not UTF-8, or have control characters,
//! are `{"base64":"…"}` in place of a text. Several exports may stand behind one another in one file.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use dynakv_protocol::Actor;
use dynakv_protocol::WriteId;
use dynakv_protocol::causal::{Clock, Dot, Sibling, Value, Versions};
use dynakv_protocol::codec::{Wire, put_bytes};
use dynakv_protocol::hash::checksum;
use dynakv_protocol::limits::{CLOCK_ENTRIES_IMPORTED_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// What a header says it is.
pub(super) const FORMAT: &str = "dynakv-export";

/// The version that is written, and the newest that is read.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The longest line: the largest key that travels over the protocol, with room for base64 and escapes.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    /// The first one.
    Header(Header),
    /// One key.
    Entry(Entry),
    /// The last one.
    Trailer(Trailer),
}

/// Where an export comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// [`FORMAT`].
    pub(super) format: String,
    /// [`FORMAT_VERSION`].
    pub(super) version: u32,
    /// The cluster's name.
    pub(super) cluster: String,
    /// The cluster's id.
    pub(super) cluster_id: String,
    /// The ring that was followed.
    pub(super) ring_version: u64,
    /// Whose data it is.
    pub(super) nodes: Vec<String>,
    /// Members whose data should be in it and is not.
    pub(super) missing: Vec<String>,
    /// When it was begun, in milliseconds since 1970.
    pub(super) created_ms: u64,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    key: Octets,
    /// From an actor to its highest counter that was seen.
    clock: BTreeMap<String, u64>,
    siblings: Vec<EntrySibling>,
    checksum: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntrySibling {
    dot: String,
    write_id: String,
    timestamp_ms: u64,
    /// The low half of the hybrid clock.
    timestamp_counter: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Octets>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

/// How many there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trailer {
    /// Entries.
    pub(super) keys: u64,
    /// Values in them, tombstones not counted.
    pub(super) siblings: u64,
    /// Marks of deletes in them.
    pub(super) tombstones: u64,
    /// Keys that a node could not read and left out.
    pub(super) damaged: u64,
    /// Of header and entries.
    pub(super) checksum: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Octets {
    Text(String),
    Other(Encoded),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

impl Octets {
    fn new(bytes: &[u8]) -> Self {
        // A control character takes six bytes in JSON; base64 is shorter, and terminals stay whole.
        let is_readable = |text: &&str| {
            let fine = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
            text.chars().all(fine)
        };
        match std::str::from_utf8(bytes).ok().filter(is_readable) {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Other(Encoded {
                base64: STANDARD.encode(bytes),
            }),
        }
    }

    fn into_bytes(self, what: &str, bytes_max: usize) -> Result<Bytes, String> {
        let bytes = match self {
            Self::Text(text) => Bytes::from(text),
            Self::Other(Encoded { base64 }) => {
                let decoded = STANDARD.decode(base64);
                Bytes::from(decoded.map_err(|error| format!("{what}: {error}"))?)
            }
        };
        if bytes.len() > bytes_max {
            let length = bytes.len();
            return Err(format!(
                "{what} has {length} bytes, the limit is {bytes_max}"
            ));
        }
        Ok(bytes)
    }
}

/// A key with all that is known of it, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// In which line it stands.
    pub(super) line: u64,
    /// The key.
    pub(super) key: Bytes,
    /// Encoded [`Versions`].
    pub(super) versions: Bytes,
}

impl Entry {
    /// The entry of a key.
    pub(super) fn new(key: &[u8], versions: &Versions) -> Self {
        let sibling = |sibling: &Sibling| EntrySibling {
            dot: sibling.dot.to_string(),
            write_id: format!("{:032x}", sibling.write_id.0),
            timestamp_ms: sibling.timestamp_ms(),
            timestamp_counter: (sibling.timestamp & 0xffff) as u16,
            expires_at_ms: sibling.expires_at_ms,
            value: match &sibling.value {
                Value::Tombstone => None,
                Value::Bytes(bytes) => Some(Octets::new(bytes)),
            },
            deleted: matches!(sibling.value, Value::Tombstone),
        };
        let clock = versions.clock().iter();
        Self {
            key: Octets::new(key),
            clock: clock
                .map(|dot| (dot.actor.to_string(), dot.counter))
                .collect(),
            siblings: versions.siblings().iter().map(sibling).collect(),
            checksum: hexadecimal(checksum_of(key, &versions.to_bytes())),
        }
    }

    /// The key and its versions, held against all rules.
    fn open(self, line: u64) -> Result<(Item, Versions), String> {
        let key = self.key.into_bytes("the key", KEY_BYTES_MAX)?;
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        if self.clock.is_empty() || self.clock.len() > CLOCK_ENTRIES_IMPORTED_MAX {
            let count = self.clock.len();
            return Err(format!(
                "the clock has {count} entries, 1 to {CLOCK_ENTRIES_IMPORTED_MAX} are permitted"
            ));
        }
        let mut clock = Clock::new();
        for (actor, counter) in self.clock {
            let actor = actor_of(&actor)?;
            if counter == 0 {
                return Err(format!("the clock counts 0 writes of {actor}"));
            }
            clock.see(Dot { actor, counter });
        }
        let siblings = self.siblings.into_iter().map(EntrySibling::open);
        let siblings = siblings.collect::<Result<Vec<_>, _>>()?;
        let versions = Versions::from_parts(clock, siblings).map_err(|error| error.to_string())?;
        let encoded = versions.to_bytes();
        let computed = hexadecimal(checksum_of(&key, &encoded));
        if computed != self.checksum {
            return Err(format!(
                "its checksum is {computed} and not {}: the line is damaged or was changed",
                self.checksum
            ));
        }
        let item = Item {
            line,
            key,
            versions: encoded,
        };
        Ok((item, versions))
    }
}

impl EntrySibling {
    fn open(self) -> Result<Sibling, String> {
        let (actor, counter) = self.dot.split_once(':').unwrap_or((&self.dot, ""));
        let counter = counter.parse().ok().filter(|&counter| counter > 0);
        let Some(counter) = counter else {
            return Err(format!("{:?} is no dot", self.dot));
        };
        let dot = Dot {
            actor: actor_of(actor)?,
            counter,
        };
        let write_id = u128::from_str_radix(&self.write_id, 16)
            .map_err(|error| format!("the write id {:?}: {error}", self.write_id))?;
        if self.timestamp_ms >> 48 != 0 {
            return Err(format!("the timestamp {} is too high", self.timestamp_ms));
        }
        let value = match (self.value, self.deleted) {
            (Some(value), false) => Value::Bytes(value.into_bytes("a value", VALUE_BYTES_MAX)?),
            (None, true) => Value::Tombstone,
            _ => return Err("a sibling has either a value or is deleted".to_owned()),
        };
        Ok(Sibling {
            dot,
            write_id: WriteId(write_id),
            timestamp: self.timestamp_ms << 16 | u64::from(self.timestamp_counter),
            expires_at_ms: self.expires_at_ms,
            value,
        })
    }
}

fn actor_of(text: &str) -> Result<Actor, String> {
    let number = u64::from_str_radix(text, 16);
    let number = number.map_err(|error| format!("the actor {text:?}: {error}"))?;
    Ok(Actor(number))
}

fn checksum_of(key: &[u8], versions: &[u8]) -> u64 {
    let mut out = BytesMut::with_capacity(key.len() + versions.len() + 2);
    put_bytes(&mut out, key);
    out.extend_from_slice(versions);
    checksum(&out)
}

fn hexadecimal(number: u64) -> String {
    format!("{number:016x}")
}

/// Counts what goes by and chains the checksums, for writer and reader alike.
#[derive(Debug, Clone, Default)]
pub(super) struct Count {
    trailer: Trailer,
    chain: u64,
}

impl Count {
    /// Begins with a header's line.
    pub(super) fn begin(header: &[u8]) -> Self {
        let trailer = Trailer::default();
        let chain = checksum(header);
        Self { trailer, chain }
    }

    /// Counts an entry.
    pub(super) fn add(&mut self, entry: &Entry) {
        let deleted = entry.siblings.iter().filter(|sibling| sibling.deleted);
        let deleted = deleted.count() as u64;
        self.trailer.keys += 1;
        self.trailer.tombstones += deleted;
        self.trailer.siblings += entry.siblings.len() as u64 - deleted;
        let chained = format!("{} {}", hexadecimal(self.chain), entry.checksum);
        self.chain = checksum(chained.as_bytes());
    }

    /// The trailer, when all went by but for this many keys.
    pub(super) fn end(self, damaged: u64) -> Trailer {
        Trailer {
            damaged,
            checksum: hexadecimal(self.chain),
            ..self.trailer
        }
    }
}

/// Why a file is no export, or not a whole one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct Flaw {
    /// The line that it stands in.
    pub(super) line: u64,
    /// What is wrong there.
    pub(super) what: String,
}

/// Reads an export line by line and checks each before it is handed on.
pub(super) struct Lines<R> {
    input: R,
    line: u64,
    /// Of the export that is being read; none between two.
    count: Option<Count>,
    /// Whether any export was read to its end.
    headers: Vec<Header>,
    totals: Trailer,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            count: None,
            headers: Vec::new(),
            totals: Trailer::default(),
        }
    }

    /// The headers read so far, and the sums of the trailers.
    pub(super) fn summary(self) -> (Vec<Header>, Trailer) {
        (self.headers, self.totals)
    }

    /// The next key; `None` at the end of a whole export.
    ///
    /// # Errors
    /// [`Flaw`]; nothing behind it is to be trusted.
    pub(super) fn next_item(&mut self) -> Result<Option<Item>, Flaw> {
        loop {
            let Some(text) = self.read_line()? else {
                return match (&self.count, &self.headers[..]) {
                    (None, [_, ..]) => Ok(None),
                    (None, []) => Err(self.flaw("the file is empty: there is no header")),
                    (Some(_), _) => Err(self.flaw(
                        "the file ends without a trailer: it was cut off, and keys are missing",
                    )),
                };
            };
            let line = serde_json::from_slice(&text)
                .map_err(|error| self.flaw(&format!("it is no line of an export: {error}")))?;
            match (line, &mut self.count) {
                (Line::Header(header), None) => {
                    self.check_header(&header)?;
                    self.headers.push(header);
                    self.count = Some(Count::begin(&text));
                }
                (Line::Entry(entry), Some(count)) => {
                    count.add(&entry);
                    let opened = entry.open(self.line);
                    let (item, _) = opened.map_err(|what| self.flaw(&what))?;
                    return Ok(Some(item));
                }
                (Line::Trailer(trailer), Some(count)) => {
                    let expected = count.clone().end(trailer.damaged);
                    if expected != trailer {
                        return Err(self.flaw(&format!(
                            "the trailer speaks of {} keys and checksum {}, read were {} keys and {}: \
                             lines are missing, doubled or out of order",
                            trailer.keys, trailer.checksum, expected.keys, expected.checksum
                        )));
                    }
                    self.totals.keys += trailer.keys;
                    self.totals.siblings += trailer.siblings;
                    self.totals.tombstones += trailer.tombstones;
                    self.totals.damaged += trailer.damaged;
                    self.count = None;
                }
                (Line::Entry(_) | Line::Trailer(_), None) => {
                    return Err(self.flaw("a header must come first"));
                }
                (Line::Header(_), Some(_)) => {
                    return Err(self.flaw(
                        "another export begins, but the one before has no trailer: it was cut off",
                    ));
                }
            }
        }
    }

    fn check_header(&self, header: &Header) -> Result<(), Flaw> {
        if header.format != FORMAT {
            return Err(self.flaw(&format!("the format {:?} is not {FORMAT:?}", header.format)));
        }
        if header.version != FORMAT_VERSION {
            return Err(self.flaw(&format!(
                "version {} of the format is not known here, only {FORMAT_VERSION}: import it with a \
                 newer dynakv",
                header.version
            )));
        }
        Ok(())
    }

    /// The next line with anything on it, without its end.
    fn read_line(&mut self) -> Result<Option<Vec<u8>>, Flaw> {
        loop {
            let mut text = Vec::new();
            self.line += 1;
            let mut limited = (&mut self.input).take(LINE_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut text);
            if let Err(error) = read {
                return Err(self.flaw(&format!("it can't be read: {error}")));
            }
            if text.is_empty() {
                // The end is told of by the last line that there is.
                self.line -= 1;
                return Ok(None);
            }
            if text.len() as u64 == LINE_BYTES_MAX && text.last() != Some(&b'\n') {
                return Err(self.flaw("it is too long for a line of an export"));
            }
            let end = text.trim_ascii_end().len();
            text.truncate(end);
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }

    fn flaw(&self, what: &str) -> Flaw {
        Flaw {
            line: self.line,
            what: what.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "format/tests.rs"]
mod tests;
