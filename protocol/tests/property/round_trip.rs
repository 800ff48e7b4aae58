//! What is encoded comes back, and comes back from one encoding only.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::causal::{Clock, Versions, context};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{BatchWriter, Frame, FrameDecoder, Header, put_frame, split_batch};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{ClusterId, DecodeError};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use proptest::{prop_assert, prop_assert_eq};

use crate::generators::{clock, octets, request, response, ring_document, versions};
use crate::ten_thousand;

pub(crate) fn request_body(request: &Request) -> Bytes {
    let mut out = BytesMut::new();
    request.encode(&mut out);
    out.freeze()
}

pub(crate) fn response_body(response: &Response) -> Bytes {
    let mut out = BytesMut::new();
    response.encode(&mut out);
    out.freeze()
}

/// A body as a newer version may send it: with tags at its end that nobody here knows.
fn with_unknown_tag(body: &Bytes, field: &[u8]) -> Bytes {
    let mut out = BytesMut::from(&body[..]);
    dynakv_protocol::codec::put_tag_bytes(&mut out, 0xf7, field);
    out.freeze()
}

/// Which kinds a decoder knows: all but those it answers with [`DecodeError::UnknownKind`].
fn known_kinds<T>(decode: fn(u8, &Bytes) -> Result<T, DecodeError>) -> BTreeSet<u8> {
    (0..=u8::MAX)
        .filter(|&kind| {
            !matches!(
                decode(kind, &Bytes::new()),
                Err(DecodeError::UnknownKind { .. })
            )
        })
        .collect()
}

#[test]
fn the_generators_leave_out_no_kind() {
    let mut runner = TestRunner::deterministic();
    let mut drawn = |requests: bool| -> BTreeSet<u8> {
        (0..1000)
            .map(|_| match requests {
                true => request().new_tree(&mut runner).unwrap().current().kind(),
                false => response().new_tree(&mut runner).unwrap().current().kind(),
            })
            .collect()
    };
    assert_eq!(drawn(true), known_kinds(Request::decode));
    assert_eq!(drawn(false), known_kinds(Response::decode));
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 200_000, ..ten_thousand() })]

    /// 20 kinds, 10,000 cases each.
    #[test]
    fn every_request_comes_back(request in request()) {
        let body = request_body(&request);
        prop_assert_eq!(Request::decode(request.kind(), &body), Ok(request.clone()));
        let newer = with_unknown_tag(&body, b"later");
        prop_assert_eq!(Request::decode(request.kind(), &newer), Ok(request));
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 210_000, ..ten_thousand() })]

    /// 21 kinds, 10,000 cases each.
    #[test]
    fn every_response_comes_back(response in response()) {
        let body = response_body(&response);
        prop_assert_eq!(Response::decode(response.kind(), &body), Ok(response.clone()));
        let newer = with_unknown_tag(&body, b"later");
        prop_assert_eq!(Response::decode(response.kind(), &newer), Ok(response));
    }
}

proptest! {
    #![proptest_config(ten_thousand())]

    #[test]
    fn clocks_come_back(clock in clock()) {
        prop_assert_eq!(Clock::from_bytes(&clock.to_bytes()), Ok(clock));
    }

    #[test]
    fn versions_come_back(versions in versions()) {
        prop_assert_eq!(Versions::from_bytes(&versions.to_bytes()), Ok(versions));
    }

    #[test]
    fn ring_documents_come_back(document in ring_document()) {
        prop_assert_eq!(RingDocument::from_bytes(&document.to_bytes()), Ok(document));
    }

    #[test]
    fn contexts_open_for_their_key_and_cluster_only(
        clock in clock(),
        key in octets(40),
        other_key in octets(40),
        (cluster, other_cluster) in any::<(u128, u128)>(),
    ) {
        let (cluster, other_cluster) = (ClusterId(cluster), ClusterId(other_cluster));
        let sealed = context::seal(cluster, &key, &clock);
        prop_assert!(sealed.len() <= context::CONTEXT_BYTES_MAX);
        prop_assert_eq!(context::open(cluster, &key, &sealed), Ok(clock));
        if key != other_key {
            let opened = context::open(cluster, &other_key, &sealed);
            prop_assert_eq!(opened, Err(context::ContextError::WrongKey));
        }
        if cluster != other_cluster {
            let opened = context::open(other_cluster, &key, &sealed);
            prop_assert_eq!(opened, Err(context::ContextError::WrongKey));
        }
    }

    /// Whether messages travel alone or in batches, and however the network cuts the stream, the
    /// receiver sees the same messages in the same order.
    #[test]
    fn a_stream_gives_back_its_messages(
        messages in vec((5..=u8::MAX, any::<u16>(), any::<u64>(), octets(60), any::<bool>()), 0..20),
        cuts in vec(1..200_usize, 1..20),
    ) {
        let mut stream = BytesMut::new();
        let mut batch = BatchWriter::default();
        let mut sent = Vec::new();
        for (kind, flags, request_id, body, alone) in messages {
            let header = Header { kind, flags, request_id };
            if alone {
                batch.finish(&mut stream);
                put_frame(&mut stream, header, |out| out.extend_from_slice(&body));
            } else {
                batch.push(&mut stream, header, |out| out.extend_from_slice(&body));
            }
            sent.push(Frame { header, body });
        }
        batch.finish(&mut stream);

        let decoder = FrameDecoder::new(1 << 20);
        let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        while !stream.is_empty() {
            let cut = cuts.next().unwrap_or(1).min(stream.len());
            prop_assert!(decoder.lacking(&buffer) >= 1);
            buffer.extend_from_slice(&stream.split_to(cut));
            while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                split_batch(frame, |message| received.push(message)).unwrap();
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(received, sent);
    }
}
