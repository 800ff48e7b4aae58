//! Tests of the form of exports.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;

fn dot(actor: u64, counter: u64) -> Dot {
    let actor = Actor(actor);
    Dot { actor, counter }
}

fn sibling(dot: Dot, value: Value) -> Sibling {
    Sibling {
        dot,
        write_id: WriteId(u128::from(dot.counter)),
        timestamp: 1_700_000_000_000 << 16 | 3,
        expires_at_ms: None,
        value,
    }
}

fn versions() -> Versions {
    let clock = [dot(0xa, 5), dot(0xb, u64::MAX)].into_iter().collect();
    let mut first = sibling(
        dot(0xa, 5),
        Value::Bytes(Bytes::from_static(b"Al\nice \"x\"")),
    );
    first.expires_at_ms = Some(1_700_000_060_000);
    let siblings = [
        first,
        sibling(dot(0xb, 1), Value::Tombstone),
        sibling(dot(0xb, 2), Value::Bytes(Bytes::from_static(&[0, 255]))),
    ];
    Versions::from_parts(clock, siblings).unwrap()
}

fn header() -> Header {
    Header {
        format: FORMAT.to_owned(),
        version: FORMAT_VERSION,
        cluster: "dynakv".to_owned(),
        cluster_id: "00ff".to_owned(),
        ring_version: 3,
        nodes: vec!["node-1".to_owned()],
        missing: Vec::new(),
        created_ms: 7,
    }
}

fn line(line: &Line) -> String {
    serde_json::to_string(line).unwrap()
}

/// The lines of an export of these keys.
fn export(keys: &[&[u8]]) -> Vec<String> {
    let mut lines = vec![line(&Line::Header(header()))];
    let mut count = Count::begin(lines[0].as_bytes());
    for key in keys {
        let entry = Entry::new(key, &versions());
        count.add(&entry);
        lines.push(line(&Line::Entry(entry)));
    }
    lines.push(line(&Line::Trailer(count.end(0))));
    lines
}

fn read(text: &str) -> Result<Vec<Item>, Flaw> {
    let mut lines = Lines::new(text.as_bytes());
    let mut items = Vec::new();
    while let Some(item) = lines.next_item()? {
        items.push(item);
    }
    Ok(items)
}

#[test]
fn a_line_has_this_form() {
    let lines = export(&[b"k"]);
    let expected = concat!(
        r#"{"entry":{"key":"k","clock":{"000000000000000a":5,"000000000000000b":18446744073709551615},"#,
        r#""siblings":[{"dot":"000000000000000a:5","write_id":"00000000000000000000000000000005","#,
        r#""timestamp_ms":1700000000000,"timestamp_counter":3,"expires_at_ms":1700000060000,"#,
        r#""value":"Al\nice \"x\""},"#,
        r#"{"dot":"000000000000000b:1","write_id":"00000000000000000000000000000001","#,
        r#""timestamp_ms":1700000000000,"timestamp_counter":3,"deleted":true},"#,
        r#"{"dot":"000000000000000b:2","write_id":"00000000000000000000000000000002","#,
        r#""timestamp_ms":1700000000000,"timestamp_counter":3,"value":{"base64":"AP8="}}],"#,
        r#""checksum":"CHECKSUM"}}"#,
    );
    let checksum = hexadecimal(checksum_of(b"k", &versions().to_bytes()));
    assert_eq!(lines[1], expected.replace("CHECKSUM", &checksum));
    assert!(
        lines[2].starts_with(r#"{"trailer":{"keys":1,"siblings":2,"tombstones":1,"damaged":0,"#),
        "{}",
        lines[2]
    );
}

#[test]
fn what_is_written_comes_back() {
    let lines = export(&[b"a", b"\xff\x00", "ä".as_bytes()]);
    let items = read(&lines.join("\n")).unwrap();
    let keys: Vec<_> = items.iter().map(|item| &item.key[..]).collect();
    assert_eq!(keys, [&b"a"[..], b"\xff\x00", "ä".as_bytes()]);
    for item in &items {
        assert_eq!(item.versions, versions().to_bytes());
    }
    assert_eq!(items[2].line, 4);
    // Two exports in one file, with lines ended as elsewhere.
    let twice = [lines.clone(), export(&[b"b"])].concat().join("\r\n");
    assert_eq!(read(&twice).unwrap().len(), 4);
    assert_eq!(read(&export(&[]).join("\n")), Ok(Vec::new()));
}

#[test]
fn a_file_that_is_cut_off_is_noticed_wherever_that_was() {
    let whole = export(&[b"a", b"b"]).join("\n");
    for end in 0..whole.len() {
        if whole.is_char_boundary(end) {
            let flaw = read(&whole[..end]).unwrap_err();
            assert!(flaw.line <= 4, "{end}: {flaw}");
        }
    }
    assert!(read(&whole).is_ok());
}

#[test]
fn lost_doubled_and_exchanged_lines_are_noticed() {
    let lines = export(&[b"a", b"b", b"c"]);
    let with = |order: &[usize]| {
        let picked: Vec<_> = order.iter().map(|&at| lines[at].clone()).collect();
        read(&picked.join("\n"))
    };
    assert!(with(&[0, 1, 2, 3, 4]).is_ok());
    for order in [
        &[0, 1, 3, 4][..],
        &[0, 1, 2, 2, 3, 4],
        &[0, 2, 1, 3, 4],
        &[1, 2, 3, 4],
        &[0, 1, 2, 3],
        &[0, 1, 0, 2, 3, 4],
        &[0, 1, 2, 3, 4, 4],
        &[0, 1, 2, 3, 4, 1],
        &[4],
        &[],
    ] {
        assert!(with(order).is_err(), "{order:?}");
    }
}

/// Whatever one byte of an entry becomes, the entry is refused, or means the same.
#[test]
fn every_changed_byte_is_noticed_before_the_entry_is_used() {
    let lines = export(&[b"k"]);
    let good = read(&lines.join("\n")).unwrap();
    let entry = lines[1].as_bytes();
    for at in 0..entry.len() {
        for new in [b'0', b'1', b'x', b'"', b' '] {
            let mut changed = entry.to_vec();
            changed[at] = new;
            let Ok(changed) = String::from_utf8(changed) else {
                continue;
            };
            let mut lines = Lines::new(std::io::Cursor::new(format!("{}\n{changed}\n", lines[0])));
            match lines.next_item() {
                Ok(Some(item)) => assert_eq!(item, good[0], "{changed}"),
                Ok(None) => panic!("{changed}"),
                Err(flaw) => assert_eq!(flaw.line, 2, "{changed}"),
            }
        }
    }
}

#[test]
fn what_is_no_export_says_so() {
    let says = |text: &str, part: &str| {
        let flaw = read(text).unwrap_err();
        assert!(flaw.what.contains(part), "{flaw}");
    };
    says("", "no header");
    says("key,value\n", "no line of an export");
    says(&line(&Line::Entry(Entry::new(b"k", &versions()))), "header");
    let mut other = header();
    other.version = 2;
    says(&line(&Line::Header(other.clone())), "newer dynakv");
    other.format = "dump".to_owned();
    says(&line(&Line::Header(other)), "dump");
    let mut lines = export(&[b"k"]);
    lines[1] = lines[1].replace("\"dot\"", "\"dott\"");
    says(&lines.join("\n"), "dott");
    let beyond = export(&[b"k"])[1].replace("\"000000000000000a\":5", "\"000000000000000a\":4");
    says(&format!("{}\n{beyond}\n", lines[0]), "dot beyond its clock");
}

proptest! {
    #[test]
    fn any_state_comes_back(
        key in vec(any::<u8>(), 1..40),
        entries in vec((any::<u64>(), 1..=u64::MAX), 1..5),
        values in vec((option::of(vec(any::<u8>(), 0..40)), any::<u128>(), any::<u64>(), option::of(any::<u64>())), 0..5),
    ) {
        let clock: Clock = entries.iter().map(|&(actor, counter)| dot(actor, counter)).collect();
        let dots: Vec<Dot> = clock.iter().collect();
        let siblings = dots.iter().zip(values).map(|(&dot, (value, write_id, timestamp, expires_at_ms))| Sibling {
            dot,
            write_id: WriteId(write_id),
            timestamp,
            expires_at_ms,
            value: value.map_or(Value::Tombstone, |value| Value::Bytes(Bytes::from(value))),
        });
        let versions = Versions::from_parts(clock.clone(), siblings).unwrap();
        let text = line(&Line::Entry(Entry::new(&key, &versions)));
        prop_assert!(!text.contains('\n'));
        let Line::Entry(entry) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        let (item, opened) = entry.open(1).unwrap();
        prop_assert_eq!(opened, versions.clone());
        prop_assert_eq!(&item.key[..], &key[..]);
        prop_assert_eq!(item.versions, versions.to_bytes());
    }
}
