//! `PROTOCOL.md` is what clients in other languages are written from: whatever it can be held to by a
//! machine, it is held to here.

mod golden_file;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynakv_protocol::causal::context::CONTEXT_BYTES_MAX;
use dynakv_protocol::frame::{FLAG_FORWARDED, KIND_BATCH, PROTOCOL_VERSION};
use dynakv_protocol::hash::{Position, VIRTUAL_NODES_PER_NODE};
use dynakv_protocol::ids::NAME_BYTES_MAX;
use dynakv_protocol::limits;
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::{Member, N_MAX, RingDocument, Step, WEIGHT_MAX};
use dynakv_protocol::{ClusterId, DecodeError, DirectoryId, ErrorCode, NodeId, RingVersion};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/PROTOCOL.md");
    std::fs::read_to_string(path).expect("protocol/PROTOCOL.md can be read")
}

/// The cells of all table rows under a heading.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let start = document
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("PROTOCOL.md has no heading {heading:?}"));
    document[start + 1..]
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// Which kinds a decoder knows: all but those it answers with [`DecodeError::UnknownKind`].
fn known_kinds<T>(decode: fn(u8, &Bytes) -> Result<T, DecodeError>) -> BTreeSet<u8> {
    (0..=u8::MAX)
        .filter(|&kind| {
            let decoded = decode(kind, &Bytes::new());
            !matches!(decoded, Err(DecodeError::UnknownKind { .. }))
        })
        .collect()
}

#[test]
fn the_table_of_kinds_is_that_of_the_code() {
    let (mut requests, mut responses) = (BTreeSet::new(), BTreeSet::new());
    for row in rows(&document(), "## Message kinds").iter().skip(1) {
        for (cell, kinds) in [(&row[0], &mut requests), (&row[2], &mut responses)] {
            if let Some(digits) = cell.strip_prefix("0x") {
                let kind = u8::from_str_radix(digits, 16).unwrap();
                assert!(kinds.insert(kind), "kind {cell} stands there twice");
            }
        }
        let number = |cell: &str| u8::from_str_radix(cell.trim_start_matches("0x"), 16);
        if let (Ok(request), Ok(answer)) = (number(&row[0]), number(&row[2]))
            && request != KIND_BATCH
        {
            assert_eq!(answer, request | kind::ANSWER, "{row:?}");
        }
    }
    // A batch is an envelope, which no decoder of messages knows.
    assert!(requests.remove(&KIND_BATCH) && responses.remove(&KIND_BATCH));
    assert_eq!(requests, known_kinds(Request::decode));
    assert_eq!(responses, known_kinds(Response::decode));
}

#[test]
fn every_message_is_described_under_its_kind() {
    let document = document();
    for row in rows(&document, "## Message kinds").iter().skip(1) {
        for (kind, name) in [(&row[0], &row[1]), (&row[2], &row[3])] {
            let without_fields = ["PING", "PONG", "STATS", "HEALTH", "STATUS", "RING"];
            if kind.is_empty() || name == "BATCH" || without_fields.contains(&name.as_str()) {
                continue;
            }
            let described = document.contains(&format!("**{name}** ({kind})"));
            assert!(described, "**{name}** ({kind}) is not described");
        }
    }
}

#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let written: BTreeMap<u16, String> = rows(&document(), "## Errors")
        .iter()
        .filter_map(|row| {
            let number = row[0].parse().ok()?;
            Some((number, row[1].trim_matches('`').to_owned()))
        })
        .collect();
    let known: BTreeMap<u16, String> = ErrorCode::ALL
        .iter()
        .map(|code| (code.number(), code.name().to_owned()))
        .collect();
    assert_eq!(written, known);
}

/// Every error says whether a retry may help and whether the write may have been applied, in words that a reader can
/// hold against the flags.
#[test]
fn errors_say_whether_to_retry_and_whether_there_is_doubt() {
    let rows = rows(&document(), "## Errors");
    let codes = rows.iter().filter(|row| row[0].parse::<u16>().is_ok());
    let mut seen = 0;
    for row in codes {
        seen += 1;
        assert_eq!(row.len(), 6, "{row:?}");
        for cell in &row[4..] {
            assert!(
                ["yes", "no", "by its flag"].contains(&cell.as_str()),
                "{row:?}"
            );
        }
    }
    assert_eq!(seen, ErrorCode::ALL.len());
}

/// A wrong hash of long keys would pass every test with short ones.
#[test]
fn keys_of_all_lengths_lie_where_the_page_says() {
    let document = document();
    let members = |count: usize| RingDocument {
        cluster_id: ClusterId(1),
        cluster_name: "c".to_owned(),
        version: RingVersion(1),
        step: Step::Final,
        n: 3,
        w: 2,
        r: 2,
        members: (1..=count)
            .map(|number| Member {
                id: NodeId::new(&format!("node-{number}")).unwrap(),
                directory_id: DirectoryId(number as u64),
                address: format!("127.0.0.1:{number}"),
                weight: 1,
                zone: String::new(),
            })
            .collect(),
    };
    let placements = [members(3), members(5)].map(|ring| Placement::new(&ring));
    let mut lengths = Vec::new();
    for row in rows(&document, "### From a key to its owners") {
        let Ok(length) = row[0].parse::<usize>() else {
            continue;
        };
        if row.len() != 4 {
            continue;
        }
        let key: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let position = Position::of_key(&key);
        assert_eq!(row[1], format!("`{:016x}`", position.0), "{length} bytes");
        for (placement, cell) in placements.iter().zip(&row[2..]) {
            let owners = placement.owners_of_key(&key).iter();
            let owners: Vec<String> = owners.map(|owner| (owner.slot() + 1).to_string()).collect();
            assert_eq!(*cell, owners.join(" "), "{length} bytes");
        }
        lengths.push(length);
    }
    assert_eq!(lengths, [1, 16, 17, 65, 128, 129, 240, 241, 1025, 4096]);
}

/// The examples: blocks that begin with "```golden NAME", hexadecimal up to a `#` in each line.
fn examples(document: &str) -> Vec<(String, Vec<u8>)> {
    let mut examples = Vec::new();
    for block in document.split("```golden ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (lines, _) = rest.split_once("```").expect("the block ends");
        let hex: String = lines
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .collect();
        examples.push((name.to_owned(), golden_file::from_hex(&hex)));
    }
    examples
}

#[test]
fn the_examples_are_the_pinned_bytes() {
    let pinned = golden_file::read();
    let examples = examples(&document());
    assert!(examples.len() >= 9, "examples have gone missing");
    for (name, bytes) in examples {
        assert_eq!(Some(&bytes), pinned.get(&name), "the example {name}");
    }
}

#[test]
fn positions_are_the_pinned_ones() {
    let (document, pinned) = (document(), golden_file::read());
    for name in [
        "position.key",
        "position.virtual-node-0",
        "position.virtual-node-149",
    ] {
        let hex: String = pinned[name]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(document.contains(&format!("`{hex}`")), "{name} is {hex}");
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let document = document();
    let rows = rows(&document, "## Limits");
    let limits: [(&str, &[usize]); 17] = [
        ("key", &[1, limits::KEY_BYTES_MAX]),
        (
            "value",
            &[limits::VALUE_BYTES_DEFAULT, limits::VALUE_BYTES_MAX],
        ),
        (
            "all siblings of a key, by client writes",
            &[
                limits::SIBLINGS_MAX,
                limits::VERSIONS_BYTES_FACTOR,
                limits::versions_bytes_soft_max(limits::VALUE_BYTES_MAX),
            ],
        ),
        (
            "entries of a clock to which a client's write may add one",
            &[limits::CLOCK_ENTRIES_SOFT_MAX],
        ),
        (
            "one key of an import",
            &[
                limits::CLOCK_ENTRIES_IMPORTED_MAX,
                limits::SIBLINGS_IMPORTED_MAX,
            ],
        ),
        (
            "bytes of a key's encoded versions",
            &[limits::VERSIONS_ENCODED_BYTES_MAX],
        ),
        ("context", &[CONTEXT_BYTES_MAX]),
        (
            "frame before the handshake",
            &[limits::HANDSHAKE_FRAME_BYTES_MAX],
        ),
        (
            "frame that a node accepts from a client",
            &[
                limits::frame_bytes_max(1) - limits::frame_bytes_max(0),
                limits::FRAME_OVERHEAD_BYTES,
            ],
        ),
        (
            "frame between nodes, and frame that a client must accept",
            &[limits::FRAME_BYTES_MAX],
        ),
        ("items of a batch", &[limits::BATCH_ITEMS_MAX]),
        ("entries of a clock", &[limits::CLOCK_ENTRIES_MAX]),
        ("siblings in one encoding", &[limits::SIBLINGS_DECODED_MAX]),
        (
            "members of a ring, entries of a gossip",
            &[limits::MEMBERS_MAX],
        ),
        (
            "text: cluster name, zone, address, software",
            &[NAME_BYTES_MAX],
        ),
        ("replicas of a key (n)", &[N_MAX as usize]),
        ("`timeout_ms`", &[limits::TIMEOUT_MS_MAX as usize]),
    ];
    assert_eq!(
        rows.len(),
        limits.len() + 1,
        "a limit in PROTOCOL.md is not checked here"
    );
    for (name, expected) in limits {
        let row = rows
            .iter()
            .find(|row| row[0] == name)
            .unwrap_or_else(|| panic!("no limit {name:?}"));
        let numbers: Vec<usize> = row[1]
            .split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        assert_eq!(numbers, expected, "{name}: {}", row[1]);
    }
}

#[test]
fn numbers_in_the_text_are_those_of_the_code() {
    let document = document();
    let grouped = |number: u32| format!("{},{:03}", number / 1000, number % 1000);
    let sentences = [
        format!("# The dynakv protocol, version {PROTOCOL_VERSION}\n"),
        format!("the default of {} ms", grouped(limits::TIMEOUT_MS_DEFAULT)),
        format!("more than {} counts", grouped(limits::TIMEOUT_MS_MAX)),
        format!("{VIRTUAL_NODES_PER_NODE} × weight virtual nodes"),
        format!("1 to {WEIGHT_MAX} |"),
        format!(
            "bit {}: forwarded by a node",
            FLAG_FORWARDED.trailing_zeros()
        ),
        format!("to {} KiB or more", limits::BATCH_BYTES_SOFT_MAX / 1024),
        format!("at most {} KiB. Each is bound", CONTEXT_BYTES_MAX / 1024),
    ];
    for sentence in sentences {
        assert!(
            document.contains(&sentence),
            "PROTOCOL.md no longer says {sentence:?}"
        );
    }
}
