//! Tests of what `explain` prints.

use bytes::Bytes;
use dynakv_client::MemberState;
use dynakv_protocol::causal::{Dot, Mark, Sibling, Value, Versions};
use dynakv_protocol::{Actor, NodeId, RingVersion, WriteId};

use super::verdict::preview_text;
use super::*;

const NOW_MS: u64 = 1_700_000_000_000;

fn dot(actor: u64, counter: u64) -> Dot {
    let actor = Actor(actor);
    Dot { actor, counter }
}

fn sibling(dot: Dot, after_ms: u64, value: Option<&'static str>) -> Sibling {
    Sibling {
        dot,
        write_id: WriteId(u128::from(dot.actor.0) << 64 | u128::from(dot.counter)),
        timestamp: (NOW_MS + after_ms) << 16,
        expires_at_ms: None,
        value: value.map_or(Value::Tombstone, |text| {
            Value::Bytes(Bytes::from_static(text.as_bytes()))
        }),
    }
}

fn versions(clock: &[Dot], siblings: &[Sibling]) -> Versions {
    let clock = clock.iter().copied().collect();
    Versions::from_parts(clock, siblings.iter().cloned()).unwrap()
}

/// Owner `number` mints under actor `number`.
fn owner(number: u64, answer: Result<Versions, &str>) -> ExplainedOwner {
    ExplainedOwner {
        id: NodeId::new(&format!("node-{number}")).unwrap(),
        address: format!("127.0.0.1:{}", 8079 + number),
        state: MemberState::Alive,
        answer: match answer {
            Ok(versions) => Ok(OwnerState::of(&versions, Some(Actor(number)), false)),
            Err(reason) => Err(reason.to_owned()),
        },
    }
}

fn explained(owners: Vec<ExplainedOwner>) -> Explained {
    Explained {
        node_id: NodeId::new("node-1").unwrap(),
        ring_version: RingVersion(4),
        now_unix_ms: NOW_MS,
        owners,
    }
}

fn text(explained: &Explained) -> (Exit, String) {
    let report = explained_report(b"cart", explained, &Prompt::default(), Format::Table);
    assert!(report.messages.is_empty());
    (report.exit, String::from_utf8(report.data).unwrap())
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "not said: {part:?}\n{text}");
    }
}

#[test]
fn owners_that_agree_on_one_value() {
    let same = || {
        Ok(versions(
            &[dot(1, 2)],
            &[sibling(dot(1, 2), 0, Some("milk"))],
        ))
    };
    let explained = explained(vec![owner(1, same()), owner(2, same())]);
    let (exit, text) = text(&explained);
    assert_eq!(exit, Exit::Ok);
    let expected = "\
\"cart\": position 8d4ba0d7ec21a2a3, segment 8d4b, 2 owners under ring 4 (seen by node-1)

Owner   Address         Standing  Actor             Values  Clock
node-1  127.0.0.1:8080  current   0000000000000001       1  node-1:2
node-2  127.0.0.1:8081  current   0000000000000002       1  node-1:2

Dot                 Through  Written                   Size  Checksum          Value   Held by
0000000000000001:2  node-1   2023-11-14T22:13:20.000Z   4 B  CHECKSUM  \"milk\"  node-1, node-2

- all 2 owners agree
next: dynakv get cart
";
    let position = Position::of_key(b"cart");
    let expected = expected
        .replace("8d4ba0d7ec21a2a3", &format!("{:016x}", position.0))
        .replace("8d4b,", &format!("{:04x},", position.segment().0))
        .replace(
            "CHECKSUM",
            &format!("{:016x}", dynakv_protocol::hash::checksum(b"milk")),
        );
    assert_eq!(text, expected);
}

#[test]
fn the_json_is_complete() {
    let milk = sibling(dot(1, 2), 0, Some("milk"));
    let explained = explained(vec![
        owner(1, Ok(versions(&[dot(1, 2)], &[milk]))),
        owner(2, Err("connection refused")),
    ]);
    let report = explained_report(b"cart", &explained, &Prompt::default(), Format::Json);
    assert_eq!(report.exit, Exit::Ok);
    let position = Position::of_key(b"cart");
    let expected = concat!(
        r#"{"key":"cart","found":true,"position":"POSITION","segment":SEGMENT,"ring_version":4,"#,
        r#""seen_by":"node-1","now_ms":1700000000000,"agree":true,"conflict":false,"owners":["#,
        r#"{"id":"node-1","address":"127.0.0.1:8080","state":"alive","answered":true,"reason":null,"#,
        r#""standing":"current","rebuilding":false,"actor":"0000000000000001","clock":[{"actor":"0000000000000001","#,
        r#""node":"node-1","counter":2}],"dots":["0000000000000001:2"],"missing":[],"replaced":[]},"#,
        r#"{"id":"node-2","address":"127.0.0.1:8081","state":"alive","answered":false,"#,
        r#""reason":"connection refused","standing":"no answer","rebuilding":false,"actor":null,"clock":[],"dots":[],"#,
        r#""missing":[],"replaced":[]}],"values":[{"dot":"0000000000000001:2","node":"node-1","#,
        r#""write_id":"00000000000000010000000000000002","timestamp_ms":1700000000000,"#,
        r#""expires_at_ms":null,"deleted":false,"live":true,"bytes":4,"checksum":"CHECKSUM","#,
        r#""preview":{"value":"milk","encoding":"utf8"},"held_by":["node-1"],"replaced_at":[]}],"#,
        r#""sentences":["the 1 owners that answered agree","#,
        r#""node-2 at 127.0.0.1:8081 did not answer (connection refused); what it holds is not known"],"#,
        r#""next":"dynakv get cart"}"#,
        "\n"
    )
    .replace("POSITION", &format!("{:016x}", position.0))
    .replace("SEGMENT", &position.segment().0.to_string())
    .replace(
        "CHECKSUM",
        &format!("{:016x}", dynakv_protocol::hash::checksum(b"milk")),
    );
    assert_eq!(String::from_utf8(report.data).unwrap(), expected);
}

#[test]
fn concurrent_writes_are_told_apart() {
    let (milk, bread) = (
        sibling(dot(1, 2), 0, Some("milk")),
        sibling(dot(2, 4), 1500, Some("bread")),
    );
    let both = || {
        Ok(versions(
            &[dot(1, 2), dot(2, 4)],
            &[milk.clone(), bread.clone()],
        ))
    };
    let (exit, said) = text(&explained(vec![owner(1, both()), owner(2, both())]));
    assert_eq!(exit, Exit::Ok);
    assert_says(
        &said,
        &[
            "conflict: 2 values",
            "\"milk\" (through node-1, 2023-11-14T22:13:20.000Z) and \"bread\" (through node-2, \
             2023-11-14T22:13:21.500Z) are concurrent: they came through different nodes, 1s 500ms apart",
            "next: dynakv get cart\n",
        ],
    );
    // Through one node: only an old context makes that.
    let eggs = sibling(dot(1, 3), 20, Some("eggs"));
    let one_node = || Ok(versions(&[dot(1, 3)], &[milk.clone(), eggs.clone()]));
    let (_, said) = text(&explained(vec![owner(1, one_node()), owner(2, one_node())]));
    assert_says(
        &said,
        &["both came through one node, 20ms apart", "context"],
    );
    // One write that two nodes took is shown once and is no conflict.
    let mut again = sibling(dot(2, 4), 30, Some("milk"));
    again.write_id = milk.write_id;
    let retried = || {
        Ok(versions(
            &[dot(1, 2), dot(2, 4)],
            &[milk.clone(), again.clone()],
        ))
    };
    let (_, said) = text(&explained(vec![owner(1, retried())]));
    assert_says(&said, &["one write that two nodes took"]);
    assert!(!said.contains("conflict"), "{said}");
}

#[test]
fn marks_are_no_values_and_other_copies_of_what_was_replaced_are_said_to_be_hidden() {
    let copy = sibling(dot(1, 1), 0, Some("milk"));
    let delete = sibling(dot(2, 9), 10, None);
    let retired = Mark::Retired.sibling(dot(2, 8), copy.write_id, copy.timestamp);
    let state = || {
        let siblings = [copy.clone(), retired.clone(), delete.clone()];
        Ok(versions(&[dot(1, 1), dot(2, 9)], &siblings))
    };
    let (exit, said) = text(&explained(vec![owner(1, state()), owner(2, state())]));
    assert_eq!(exit, Exit::Ok);
    assert_says(
        &said,
        &[
            "\"milk\" (hidden: another copy of this write was replaced)",
            "(write 00000000000000010000000000000001 is done with)",
            "the key is deleted: readers are told that it does not exist",
        ],
    );
    assert!(!said.contains("concurrent"), "{said}");
    assert!(!said.contains("expired"), "{said}");
}

#[test]
fn a_stale_owner_is_named_with_what_it_lacks_and_against_whom() {
    let (old, new) = (
        sibling(dot(1, 1), 0, Some("old")),
        sibling(dot(2, 4), 10, Some("new")),
    );
    let current = || {
        Ok(versions(
            &[dot(1, 1), dot(2, 4)],
            std::slice::from_ref(&new),
        ))
    };
    let explained = explained(vec![
        owner(1, Ok(versions(&[dot(1, 1)], &[old]))),
        owner(2, current()),
        owner(3, Ok(Versions::new())),
    ]);
    let (exit, said) = text(&explained);
    assert_eq!(exit, Exit::Ok);
    assert_says(
        &said,
        &[
            "the owners do not agree",
            "node-1 is stale: it lacks 0000000000000002:4, which node-2 holds; it still holds \
             0000000000000001:1, which was replaced: node-2 knows that (current: node-2)",
            "node-3 is stale: it lacks 0000000000000002:4",
            "\"old\" (replaced)",
            "next: dynakv get cart -r 3\n",
        ],
    );
    assert!(!said.contains("conflict"), "{said}");
    let plain = explained_report(b"cart", &explained, &Prompt::default(), Format::Plain);
    let plain = String::from_utf8(plain.data).unwrap();
    let lines: Vec<_> = plain.lines().collect();
    assert_eq!(lines.len(), 3, "{plain}");
    assert!(lines[0].starts_with("node-1\t127.0.0.1:8080\tstale\t0000000000000001:1\t"));
    assert_eq!(lines[2], "node-3\t127.0.0.1:8082\tlacks it\t");
}

#[test]
fn absent_deleted_expired_and_unknown_are_different_things() {
    let absent = explained(vec![owner(1, Ok(Versions::new())), owner(2, Err("gone"))]);
    let (exit, said) = text(&absent);
    assert_eq!(exit, Exit::NotFound);
    assert_says(
        &said,
        &["never written, as far as 1 of 2", "node-2 at", "gone"],
    );

    let silent = explained(vec![owner(1, Err("gone")), owner(2, Err("gone"))]);
    let (exit, said) = text(&silent);
    assert_eq!(exit, Exit::Unavailable);
    assert_says(
        &said,
        &["none of the 2 owners answered", "next: dynakv status"],
    );

    let deleted = versions(&[dot(1, 2)], &[sibling(dot(1, 2), 0, None)]);
    let (exit, said) = text(&explained(vec![owner(1, Ok(deleted))]));
    assert_eq!(exit, Exit::Ok);
    assert_says(&said, &["is deleted", "(deleted)"]);

    let mut gone = sibling(dot(1, 2), 0, Some("x"));
    gone.expires_at_ms = Some(NOW_MS);
    let expired = versions(&[dot(1, 2)], &[gone.clone()]);
    let (_, said) = text(&explained(vec![owner(1, Ok(expired))]));
    assert_says(
        &said,
        &["has expired", "(expired 2023-11-14T22:13:20.000Z)"],
    );
    gone.expires_at_ms = Some(NOW_MS + 1);
    let lives = versions(&[dot(1, 2)], &[gone]);
    let (_, said) = text(&explained(vec![owner(1, Ok(lives))]));
    assert_says(
        &said,
        &["(expires 2023-11-14T22:13:20.001Z)", "all 1 owners agree"],
    );
}

#[test]
fn an_actor_that_nobody_uses_any_more_keeps_its_number() {
    let old = versions(&[dot(0xab, 7)], &[sibling(dot(0xab, 7), 0, Some("x"))]);
    let (_, said) = text(&explained(vec![owner(1, Ok(old))]));
    assert_says(&said, &["actor 00000000000000ab", "00000000000000ab:7"]);
}

#[test]
fn values_are_shown_short_and_safe() {
    let digest = |bytes: &[u8]| ValueDigest::of(&Value::Bytes(Bytes::copy_from_slice(bytes)));
    assert_eq!(preview_text(&digest(b"a\x1b[31m")), "\"a\\u{1b}[31m\"");
    assert_eq!(preview_text(&digest(&[0xff, 1])), "b\"\\xff\\x01\"");
    let long = "ä".repeat(100);
    let shown = preview_text(&digest(long.as_bytes()));
    assert_eq!(shown, format!("\"{}\"…", "ä".repeat(16)));
    let odd = format!("x{long}");
    let shown = preview_text(&digest(odd.as_bytes()));
    assert_eq!(shown, format!("\"x{}\"…", "ä".repeat(15)));
    assert_eq!(time_text(u64::MAX), format!("{} ms", u64::MAX));
}

#[test]
fn an_owner_that_lost_data_there_is_named() {
    let held = || {
        Ok(versions(
            &[dot(1, 2)],
            &[sibling(dot(1, 2), 0, Some("milk"))],
        ))
    };
    let mut lost = owner(2, Ok(Versions::new()));
    if let Ok(state) = &mut lost.answer {
        state.rebuilding = true;
    }
    let explained = explained(vec![owner(1, held()), lost]);
    let (_, text) = text(&explained);
    assert_says(
        &text,
        &[
            "lacks it, rebuilding",
            "- node-2 is rebuilding this segment: what it lacks it may have had",
        ],
    );
    let json = explained_report(b"cart", &explained, &Prompt::default(), Format::Json);
    let json = String::from_utf8(json.data).unwrap();
    assert_says(&json, &[r#""standing":"lacks it","rebuilding":true"#]);
}
