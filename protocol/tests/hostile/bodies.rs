//! What stands inside a message: lengths, counts, numbers, names and tags.

use crate::body::{Body, invalid, too_long, truncated};
use allocation_counter::measure;
use bytes::Bytes;
use dynakv_protocol::causal::context::CONTEXT_BYTES_MAX;
use dynakv_protocol::causal::{Clock, Versions};
use dynakv_protocol::client::Get;
use dynakv_protocol::codec::{Reader, Wire};
use dynakv_protocol::frame::KIND_BATCH;
use dynakv_protocol::handshake::MAGIC;
use dynakv_protocol::limits::{
    CLOCK_ENTRIES_MAX, KEY_BYTES_MAX, MEMBERS_MAX, SIBLINGS_DECODED_MAX, VALUE_BYTES_MAX,
};
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};

fn get_with_key_length(length: u64, present: usize) -> Result<Request, DecodeError> {
    Body::new()
        .u32(0)
        .varint(length)
        .raw(&vec![b'k'; present])
        .request(kind::GET)
}

#[test]
fn keys_of_every_length() {
    // An empty key decodes: it is the node that refuses it, with an answer that says so.
    for length in [0, 1, KEY_BYTES_MAX - 1, KEY_BYTES_MAX] {
        let decoded = get_with_key_length(length as u64, length);
        assert!(matches!(decoded, Ok(Request::Get(Get { ref key, .. })) if key.len() == length));
    }
    let max = KEY_BYTES_MAX as u64;
    for length in [max + 1, u64::from(u32::MAX), u64::MAX] {
        assert!(too_long(&get_with_key_length(length, KEY_BYTES_MAX + 1)));
    }
    for length in [1, max] {
        assert!(truncated(&get_with_key_length(length, length as usize - 1)));
    }
}

#[test]
fn values_of_every_length() {
    let put = |length: usize| {
        Body::new()
            .u32(0)
            .u128(1)
            .text("k")
            .bytes(&vec![0; length])
            .request(kind::PUT)
    };
    for length in [0, 1, VALUE_BYTES_MAX - 1, VALUE_BYTES_MAX] {
        assert!(put(length).is_ok(), "{length}");
    }
    assert!(too_long(&put(VALUE_BYTES_MAX + 1)));
    for length in [u64::from(u32::MAX), u64::MAX] {
        let body = Body::new().u32(0).u128(1).text("k").varint(length);
        assert!(too_long(&body.request(kind::PUT)));
    }
}

#[test]
fn contexts_of_every_length() {
    let put = |length: usize| {
        let body = Body::new().u32(0).u128(1).text("k").text("v");
        body.tag(2, &vec![1; length]).request(kind::PUT)
    };
    for length in [0, 1, CONTEXT_BYTES_MAX] {
        assert!(put(length).is_ok(), "{length}");
    }
    assert!(too_long(&put(CONTEXT_BYTES_MAX + 1)));
}

/// Counts of four billion things in a handful of bytes, wherever something is counted.
#[test]
fn counts_that_lie_cost_nothing() {
    let document = || {
        let body = Body::new().u128(1).text("c").u64(1);
        body.raw(&[1, 3, 2, 2])
    };
    type Decode = fn(Bytes) -> Option<DecodeError>;
    let request = |kind: u8| -> Decode {
        match kind {
            kind::GOSSIP => |body| Request::decode(kind::GOSSIP, &body).err(),
            kind::ACCEPT => |body| Request::decode(kind::ACCEPT, &body).err(),
            kind::JOIN => |body| Request::decode(kind::JOIN, &body).err(),
            _ => |body| Request::decode(kind::MERGE, &body).err(),
        }
    };
    let mut checked = 0;
    for count in [u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        let bodies: Vec<(&str, Body, Decode)> = vec![
            ("clock", Body::new(), |body| Clock::from_bytes(&body).err()),
            ("versions' clock", Body::new().raw(&[1]), |body| {
                Versions::from_bytes(&body).err()
            }),
            ("versions' siblings", Body::new().raw(&[1, 0]), |body| {
                Versions::from_bytes(&body).err()
            }),
            (
                "value",
                Body::new()
                    .raw(&[1, 1])
                    .dot(1, 1)
                    .raw(&[1])
                    .dot(1, 1)
                    .u128(0)
                    .u64(0)
                    .raw(&[0]),
                |body| Versions::from_bytes(&body).err(),
            ),
            ("ring members", document(), |body| {
                RingDocument::from_bytes(&body).err()
            }),
            ("cluster name", Body::new().u128(1), |body| {
                RingDocument::from_bytes(&body).err()
            }),
            ("gossip entries", Body::new().u64(1), request(kind::GOSSIP)),
            (
                "gossip entry",
                Body::new().u64(1).raw(&[1]),
                request(kind::GOSSIP),
            ),
            (
                "proposed document",
                Body::new().varint(1).text("n"),
                request(kind::ACCEPT),
            ),
            ("joining member", Body::new(), request(kind::JOIN)),
            (
                "merged versions",
                Body::new().u64(1).u32(1).text("k"),
                request(kind::MERGE),
            ),
            (
                "tagged field",
                Body::new().u64(1).u32(1).text("k").text("").raw(&[9]),
                request(kind::MERGE),
            ),
            (
                "fetched siblings",
                Body::new().raw(&[2]).text("c"),
                |body| Response::decode(kind::GET | kind::ANSWER, &body).err(),
            ),
            ("fetched context", Body::new().raw(&[2]), |body| {
                Response::decode(kind::GET | kind::ANSWER, &body).err()
            }),
            ("ring's document", Body::new(), |body| {
                Response::decode(kind::RING | kind::ANSWER, &body).err()
            }),
            (
                "status members",
                Body::new()
                    .text("n")
                    .text("c")
                    .u128(1)
                    .u64(1)
                    .raw(&[3, 2, 2]),
                |body| Response::decode(kind::STATUS | kind::ANSWER, &body).err(),
            ),
            (
                "status member",
                Body::new()
                    .text("n")
                    .text("c")
                    .u128(1)
                    .u64(1)
                    .raw(&[3, 2, 2, 1]),
                |body| Response::decode(kind::STATUS | kind::ANSWER, &body).err(),
            ),
            ("replica's versions", Body::new().raw(&[0]), |body| {
                Response::decode(kind::READ | kind::ANSWER, &body).err()
            }),
            ("error message", Body::new().u16(1).raw(&[0, 0]), |body| {
                Response::decode(kind::ERROR, &body).err()
            }),
            ("reason", Body::new().text("n").raw(&[0]), |body| {
                Response::decode(kind::HEALTH | kind::ANSWER, &body).err()
            }),
        ];
        for (name, body, decode) in bodies {
            let input = body.varint(count).raw(&[0; 8]).done();
            let mut error = None;
            let memory = measure(|| error = decode(input));
            assert!(
                matches!(
                    error,
                    Some(DecodeError::TooLong { .. } | DecodeError::Truncated { .. })
                ),
                "{name}, {count}: {error:?}"
            );
            assert!(memory.bytes_max < 512, "{name}, {count}: {memory:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, 60);
}

#[test]
fn one_more_than_each_decoder_accepts() {
    let dots = |count: usize| {
        let mut body = Body::new().varint(count as u64);
        for actor in 0..count as u64 {
            body = body.dot(actor, 1);
        }
        body
    };
    assert!(dots(CLOCK_ENTRIES_MAX).decode::<Clock>().is_ok());
    assert!(too_long(&dots(CLOCK_ENTRIES_MAX + 1).decode::<Clock>()));

    let siblings = |count: usize| {
        let mut body = Body::new()
            .raw(&[1, 1])
            .dot(1, u64::MAX)
            .varint(count as u64);
        for counter in 1..=count as u64 {
            body = body.dot(1, counter).u128(0).u64(0).raw(&[1]);
        }
        body
    };
    let most = siblings(SIBLINGS_DECODED_MAX).decode::<Versions>().unwrap();
    assert_eq!(most.siblings().len(), SIBLINGS_DECODED_MAX);
    assert!(too_long(
        &siblings(SIBLINGS_DECODED_MAX + 1).decode::<Versions>()
    ));

    let gossip = |count: usize| {
        let entry = Body::new()
            .text("n")
            .text("")
            .u64(1)
            .raw(&[0, 0, 1, 0, 0, 0, 0])
            .done();
        let mut body = Body::new().u64(1).varint(count as u64);
        for _ in 0..count {
            body = body.bytes(&entry);
        }
        body
    };
    assert!(gossip(MEMBERS_MAX).request(kind::GOSSIP).is_ok());
    assert!(too_long(&gossip(MEMBERS_MAX + 1).request(kind::GOSSIP)));
}

#[test]
fn varints_that_are_no_varints() {
    let varint = |bytes: &[u8]| Reader::new(&Bytes::copy_from_slice(bytes)).varint();
    let most = [&[0xff; 9][..], &[0x01]].concat();
    assert_eq!(varint(&most), Ok(u64::MAX));
    let malformed: [&[u8]; 6] = [
        &[0x80, 0x00],
        &[0x81, 0x80, 0x00],
        &[0xff; 10],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        &[0x80; 11],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
    ];
    for bytes in malformed {
        assert_eq!(
            varint(bytes),
            Err(DecodeError::MalformedVarint),
            "{bytes:02x?}"
        );
    }
    assert!(truncated(&varint(&[])));
    assert!(truncated(&varint(&[0x80])));
}

#[test]
fn kinds_that_nobody_knows() {
    for unknown in [0x00, 0x02, KIND_BATCH, 0x0f, 0x1f, 0x2f, 0x36, 0x7f, 0xff] {
        let refused = Err(DecodeError::UnknownKind { kind: unknown });
        assert_eq!(Request::decode(unknown, &Bytes::new()), refused);
    }
    // Answers are no requests, and requests no answers.
    for answer in [kind::ERROR, kind::GET | kind::ANSWER] {
        assert!(Request::decode(answer, &Bytes::new()).is_err());
    }
    for request in [kind::HELLO, kind::GET, kind::MERGE] {
        assert!(Response::decode(request, &Bytes::new()).is_err());
    }
}

#[test]
fn something_left_over() {
    // A body may end in tags; a lone byte is none.
    for kind in [kind::PING, kind::STATS, kind::FETCH_RING] {
        assert!(Body::new().request(kind).is_ok());
        assert!(truncated(&Body::new().raw(&[7]).request(kind)));
        assert!(Body::new().tag(7, b"later").request(kind).is_ok());
    }
    let clock = Body::new().varint(0).raw(&[0]).decode::<Clock>();
    assert_eq!(clock, Err(DecodeError::TrailingBytes { left: 1 }));
    let versions = Body::new().raw(&[1, 0, 0, 0]).decode::<Versions>();
    assert_eq!(versions, Err(DecodeError::TrailingBytes { left: 1 }));
}

#[test]
fn truth_values_that_are_neither() {
    let decode = |value: u8| {
        let answer = |kind: u8| kind | kind::ANSWER;
        let ballot = || Body::new().u64(1).raw(&[value]).varint(1).text("n");
        [
            Body::new().raw(&[value]).response(answer(kind::MERGE)),
            Body::new().raw(&[value, 0]).response(answer(kind::READ)),
            Body::new().raw(&[2, value, 0]).response(answer(kind::PUT)),
            Body::new()
                .raw(&[2, value, 0])
                .response(answer(kind::DELETE)),
            Body::new()
                .text("n")
                .raw(&[value, 0])
                .response(answer(kind::HEALTH)),
            Body::new()
                .text("n")
                .raw(&[value])
                .response(answer(kind::PROBE)),
            Body::new().u16(1).raw(&[value, 0, 0]).response(kind::ERROR),
            Body::new().u16(1).raw(&[0, value, 0]).response(kind::ERROR),
            ballot().response(answer(kind::PREPARE)),
            ballot().response(answer(kind::ACCEPT)),
        ]
    };
    for value in [0, 1] {
        for decoded in decode(value) {
            assert!(decoded.is_ok(), "{decoded:?}");
        }
    }
    for value in [2, 0x80, 0xff] {
        for decoded in decode(value) {
            assert!(invalid(decoded).is_some(), "{value}");
        }
    }
}

#[test]
fn tagged_fields_of_a_wrong_size() {
    let get = || Body::new().u32(0).text("k");
    let quorum = |body: Body| match body.request(kind::GET) {
        Ok(Request::Get(get)) => Ok(get.r),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(quorum(get().tag(1, &[2])), Ok(Some(2)));
    // It has grown in a newer version: what is known of it counts.
    assert_eq!(quorum(get().tag(1, &[2, 9, 9])), Ok(Some(2)));
    // The last one wins.
    assert_eq!(quorum(get().tag(1, &[2]).tag(1, &[3])), Ok(Some(3)));
    assert!(truncated(&quorum(get().tag(1, &[]))));
    assert!(truncated(&quorum(get().raw(&[1, 5, 2]))));
    assert_eq!(
        invalid(get().tag(4, &[2]).request(kind::GET)),
        Some("repair first")
    );
}

/// A digest says nothing about a key but by its bytes; beside versions it would leave open which of the two
/// holds.
#[test]
fn digests_that_are_none() {
    let answer = kind::READ | kind::ANSWER;
    let digest = [7; 20];
    let none = || Body::new().raw(&[0, 0]);
    let read = |body: Body| match body.response(answer) {
        Ok(Response::Versions(reply)) => Ok(reply.digest),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(read(none()), Ok(None));
    let known = read(none().tag(2, &digest)).unwrap().unwrap();
    assert_eq!(known.bytes, 0x0707_0707);
    let longer = read(none().tag(2, &[7; 24])).unwrap();
    assert_eq!(longer, Some(known));
    for length in [0, 1, 15, 16, 19] {
        assert!(truncated(&read(none().tag(2, &digest[..length]))));
    }
    let both = Body::new().raw(&[0]).text("v").tag(2, &digest);
    assert_eq!(
        invalid(both.response(answer)),
        Some("versions beside their digest")
    );
    let question = |field: &[u8]| {
        let read = Body::new().u64(3).u32(0).text("k").tag(2, field);
        read.request(kind::READ)
    };
    assert!(question(&[0; 4]).is_ok() && question(&[0xff; 4]).is_ok());
    assert!(truncated(&question(&[0; 3])));
}

#[test]
fn names_that_are_none() {
    let probe = |name: &[u8]| Body::new().bytes(name).request(kind::PROBE);
    assert!(probe(b"node-1").is_ok());
    for name in [
        &b""[..],
        b"a b",
        b"a/b",
        b"a\0",
        b"\xff\xfe",
        b"../..",
        "ä".as_bytes(),
    ] {
        assert_eq!(invalid(probe(name)), Some("node id"), "{name:?}");
    }
    assert!(too_long(&probe(&[b'x'; 65])));
    let hello = Body::new().raw(&MAGIC).raw(&[1, 1, 1]).bytes(b"\xff");
    assert_eq!(invalid(hello.request(kind::HELLO)), Some("cluster name"));
}

#[test]
fn errors_of_a_newer_or_a_talkative_node() {
    let error = Body::new().u16(999).raw(&[0, 1]).text("new");
    match error.response(kind::ERROR) {
        Ok(Response::Error(error)) => assert_eq!(error.code, ErrorCode::Other(999)),
        other => panic!("{other:?}"),
    }
    let long = Body::new().u16(1).raw(&[0, 0]).bytes(&[b'x'; 4097]);
    assert!(too_long(&long.response(kind::ERROR)));
    // One's own messages are cut at a character, so that they never come to that.
    let talkative = ErrorReply::new(ErrorCode::Internal, "ä".repeat(5000) + "x");
    let sent = ErrorReply::from_bytes(&talkative.to_bytes()).unwrap();
    assert_eq!(sent.message, "ä".repeat(2048));
    let odd = ErrorReply::new(ErrorCode::Internal, "x".to_owned() + &"ä".repeat(5000));
    let sent = ErrorReply::from_bytes(&odd.to_bytes()).unwrap();
    assert_eq!(sent.message.len(), 4095);
}
