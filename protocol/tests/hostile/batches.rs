//! Many messages in one frame.

use bytes::{BufMut, Bytes, BytesMut};
use dynakv_protocol::causal::context::CONTEXT_BYTES_MAX;
use dynakv_protocol::causal::{Clock, Dot};
use dynakv_protocol::client::Write;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{
    BatchWriter, Frame, FrameDecoder, FrameError, Header, KIND_BATCH, split_batch,
};
use dynakv_protocol::limits::{
    BATCH_BYTES_SOFT_MAX, BATCH_ITEMS_MAX, CLOCK_ENTRIES_MAX, KEY_BYTES_MAX, SIBLINGS_MAX,
    VALUE_BYTES_DEFAULT, VERSIONS_BYTES_FACTOR, frame_bytes_max,
};
use dynakv_protocol::message::{Request, kind};
use dynakv_protocol::peer::MergeVersions;
use dynakv_protocol::{Actor, RingVersion, WriteId};

fn split(body: Bytes) -> (usize, Result<(), FrameError>) {
    let header = Header::new(KIND_BATCH, 0);
    let mut items = 0;
    let outcome = split_batch(Frame { header, body }, |_| items += 1);
    (items, outcome)
}

fn item(kind: u8, length: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    out.put_u16(0);
    out.put_u64(1);
    out.put_u32(length);
    out.to_vec()
}

#[test]
fn an_empty_batch_is_no_message() {
    assert_eq!(split(Bytes::new()), (0, Ok(())));
}

#[test]
fn as_many_items_as_permitted_and_one_more() {
    let full = item(kind::PING, 0).repeat(BATCH_ITEMS_MAX);
    assert_eq!(split(full.clone().into()), (BATCH_ITEMS_MAX, Ok(())));
    let over = [full, item(kind::PING, 0)].concat();
    let (items, outcome) = split(over.into());
    assert_eq!(items, BATCH_ITEMS_MAX);
    assert!(outcome.is_err());
}

#[test]
fn lengths_that_lie() {
    for length in [1, 2, 65_536, u32::MAX] {
        let (items, outcome) = split(item(kind::PING, length).into());
        assert_eq!(items, 0);
        assert!(outcome.is_err(), "{length}");
    }
    let good = item(kind::PING, 0);
    for cut in 1..good.len() {
        assert!(
            split(Bytes::copy_from_slice(&good[..cut])).1.is_err(),
            "{cut}"
        );
    }
}

#[test]
fn a_batch_within_a_batch() {
    assert!(split(item(KIND_BATCH, 0).into()).1.is_err());
}

/// A writer closes a batch after the item that fills it; that frame must still be accepted, for
/// every limit of values that a node can be set to.
#[test]
fn the_fullest_batch_fits_into_a_frame() {
    let clock: Clock = (1..=CLOCK_ENTRIES_MAX as u64)
        .map(|actor| Dot {
            actor: Actor(actor),
            counter: u64::MAX,
        })
        .collect();
    for value_bytes_max in [0, 1, 1024, 65_536, VALUE_BYTES_DEFAULT] {
        let versions_bytes = VERSIONS_BYTES_FACTOR * value_bytes_max
            + clock.to_bytes().len()
            // Dot, write id, timestamp, flags, expiry and length of each sibling.
            + SIBLINGS_MAX * (18 + 16 + 8 + 1 + 8 + 4)
            + 8;
        let largest = [
            Request::Put(Write {
                timeout_ms: u32::MAX,
                write_id: WriteId(1),
                key: Bytes::from(vec![b'k'; KEY_BYTES_MAX]),
                value: Some(Bytes::from(vec![b'v'; value_bytes_max])),
                context: Some(Bytes::from(vec![1; CONTEXT_BYTES_MAX])),
                w: Some(1),
                ttl_ms: Some(1),
                sloppy: true,
                again: true,
                if_no_conflict: true,
                sent_ms: None,
            }),
            Request::Merge(MergeVersions {
                ring_version: RingVersion(1),
                timeout_ms: 1,
                key: Bytes::from(vec![b'k'; KEY_BYTES_MAX]),
                versions: Bytes::from(vec![1; versions_bytes]),
                tell_beside: true,
            }),
        ];
        for message in largest {
            let (mut out, mut writer) = (BytesMut::new(), BatchWriter::default());
            let header = Header::new(message.kind(), 1);
            let filler = BATCH_BYTES_SOFT_MAX - 20 - 15 - 1;
            writer.push(&mut out, header, |out| out.put_bytes(0, filler));
            writer.push(&mut out, header, |out| message.encode(out));
            writer.finish(&mut out);
            let decoder = FrameDecoder::new(frame_bytes_max(value_bytes_max));
            let whole = decoder.next(&mut out).unwrap().expect("a whole frame");
            let mut items = 0;
            split_batch(whole, |_| items += 1).unwrap();
            assert_eq!(items, 2, "both in one batch, or this tests nothing");
        }
    }
}
