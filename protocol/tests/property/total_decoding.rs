//! Any bytes give a value or a typed error: never a panic, never an allocation that the bytes present
//! do not pay for, and never two encodings of one clock or state.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use dynakv_protocol::ClusterId;
use dynakv_protocol::causal::{Clock, Versions, context};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{FrameDecoder, Header, put_frame, split_batch};
use dynakv_protocol::limits::BATCH_ITEMS_MAX;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::{RingDocument, Step};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use crate::generators::{octets, request, response, ring_document, versions};
use crate::round_trip::{request_body, response_body};
use crate::ten_thousand;

/// A decoded value may take this many bytes of memory for each byte on the wire (a dot of ten bytes
/// is held in sixteen, an empty string of one byte in twenty-four, and vectors grow by doubling), and
/// this many besides (the text of an error, the first growth of a vector).
const MEMORY_PER_BYTE: u64 = 64;
const MEMORY_FIXED: u64 = 1024;

/// Runs a decoder and holds the most memory it had in hand against the size of its input.
fn measured<T>(input: &Bytes, decode: impl FnOnce(&Bytes) -> T) -> Result<T, TestCaseError> {
    let mut outcome = None;
    let memory = measure(|| outcome = Some(decode(input)));
    let permitted = MEMORY_FIXED + MEMORY_PER_BYTE * input.len() as u64;
    prop_assert!(
        memory.bytes_max <= permitted,
        "{} input bytes took {} bytes of memory",
        input.len(),
        memory.bytes_max
    );
    outcome.ok_or_else(|| TestCaseError::fail("the decoder did not run"))
}

/// Clocks and states have one encoding: what decodes is what would have been encoded.
fn canonical<T: Wire>(input: &Bytes) -> Result<(), TestCaseError> {
    if let Ok(value) = measured(input, T::from_bytes)? {
        prop_assert_eq!(&value.to_bytes(), input);
    }
    Ok(())
}

/// Everything that reads bytes of others, on these bytes.
fn decode_all(input: &Bytes) -> Result<(), TestCaseError> {
    canonical::<Clock>(input)?;
    canonical::<Versions>(input)?;
    if let Ok(document) = measured(input, RingDocument::from_bytes)? {
        prop_assert_eq!(RingDocument::from_bytes(&document.to_bytes()), Ok(document));
    }
    let opened = measured(input, |input| context::open(ClusterId(1), b"key", input))?;
    if let Ok(clock) = opened {
        prop_assert_eq!(&context::seal(ClusterId(1), b"key", &clock), input);
    }
    for kind in 0..=u8::MAX {
        decode_request(kind, input)?;
        decode_response(kind, input)?;
    }
    decode_stream(input)
}

/// What decodes can be sent on and means the same there.
fn decode_request(kind: u8, input: &Bytes) -> Result<Option<Request>, TestCaseError> {
    let Ok(request) = measured(input, |input| Request::decode(kind, input))? else {
        return Ok(None);
    };
    let again = Request::decode(kind, &request_body(&request));
    prop_assert_eq!(again.as_ref(), Ok(&request));
    Ok(Some(request))
}

fn decode_response(kind: u8, input: &Bytes) -> Result<Option<Response>, TestCaseError> {
    let Ok(response) = measured(input, |input| Response::decode(kind, input))? else {
        return Ok(None);
    };
    let again = Response::decode(kind, &response_body(&response));
    prop_assert_eq!(again.as_ref(), Ok(&response));
    Ok(Some(response))
}

fn decode_stream(input: &Bytes) -> Result<(), TestCaseError> {
    measured(input, |input| {
        let decoder = FrameDecoder::new(1 << 20);
        let mut buffer = BytesMut::from(&input[..]);
        while let Ok(Some(frame)) = decoder.next(&mut buffer) {
            let mut items = 0;
            let _ = split_batch(frame, |_| items += 1);
            assert!(items <= BATCH_ITEMS_MAX);
        }
    })
}

/// One piece of damage, as a disk, a wire or an attacker does it.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// A number in place of what stood there: counts and lengths of every size.
    Count(Index, u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let counts = prop_oneof![
        Just(0),
        Just(u64::from(u32::MAX)),
        Just(u64::MAX),
        0..70_000_u64,
    ];
    prop_oneof![
        (any::<Index>(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any::<Index>(), vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), 1..6_usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        (any::<Index>(), counts).prop_map(|(at, count)| Damage::Count(at, count)),
    ]
}

fn damaged(bytes: &Bytes, damages: &[Damage]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        let length = bytes.len();
        match damage {
            Damage::Flip(at, bits) if length > 0 => bytes[at.index(length)] ^= bits,
            Damage::Flip(..) => {}
            Damage::Insert(at, more) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(at, count) => {
                let at = at.index(length + 1);
                bytes.drain(at..(at + count).min(length));
            }
            Damage::Count(at, count) => {
                let at = at.index(length + 1);
                let mut number = BytesMut::new();
                dynakv_protocol::codec::put_varint(&mut number, *count);
                bytes.splice(at..(at + 1).min(length), number);
            }
        }
    }
    Bytes::from(bytes)
}

proptest! {
    #![proptest_config(ten_thousand())]

    #[test]
    fn random_bytes_are_decoded_or_refused(input in octets(300)) {
        decode_all(&input)?;
    }

    #[test]
    fn damaged_requests_are_decoded_or_refused(
        request in request(),
        damages in vec(damage(), 1..4),
    ) {
        let input = damaged(&request_body(&request), &damages);
        decode_request(request.kind(), &input)?;
    }

    #[test]
    fn damaged_responses_are_decoded_or_refused(
        response in response(),
        damages in vec(damage(), 1..4),
    ) {
        let input = damaged(&response_body(&response), &damages);
        decode_response(response.kind(), &input)?;
    }

    #[test]
    fn damaged_versions_have_one_encoding_or_none(
        versions in versions(),
        damages in vec(damage(), 1..4),
    ) {
        canonical::<Versions>(&damaged(&versions.to_bytes(), &damages))?;
        canonical::<Clock>(&damaged(&versions.clock().to_bytes(), &damages))?;
    }

    #[test]
    fn damaged_ring_documents_are_decoded_or_refused(
        document in ring_document(),
        damages in vec(damage(), 1..4),
    ) {
        measured(&damaged(&document.to_bytes(), &damages), RingDocument::from_bytes)?.ok();
    }

    /// CRC-32 notices every burst of damage up to 32 bits: one changed byte never passes.
    #[test]
    fn a_frame_with_a_changed_byte_is_never_taken(
        (request_id, body, at, bits) in (any::<u64>(), octets(200), any::<Index>(), 1..=u8::MAX),
    ) {
        let mut stream = BytesMut::new();
        put_frame(&mut stream, Header::new(0x10, request_id), |out| out.extend_from_slice(&body));
        let at = at.index(stream.len());
        stream[at] ^= bits;
        prop_assert!(!matches!(FrameDecoder::new(1 << 20).next(&mut stream), Ok(Some(_))));
    }

    /// A prefix is refused, or it is the whole encoding of a message with fewer optional fields.
    #[test]
    fn a_request_cut_at_any_byte_is_no_other_request(request in request()) {
        let body = request_body(&request);
        for cut in 0..body.len() {
            let prefix = body.slice(..cut);
            if let Some(shorter) = decode_request(request.kind(), &prefix)? {
                prop_assert_eq!(request_body(&shorter), prefix);
            }
        }
    }

    #[test]
    fn a_response_cut_at_any_byte_is_no_other_response(response in response()) {
        let body = response_body(&response);
        for cut in 0..body.len() {
            let prefix = body.slice(..cut);
            if let Some(shorter) = decode_response(response.kind(), &prefix)? {
                prop_assert_eq!(response_body(&shorter), prefix);
            }
        }
    }

    /// States and clocks have no optional fields, and documents one, at their end: no other prefix of one is one.
    #[test]
    fn what_is_kept_on_disk_is_whole_or_refused(
        versions in versions(),
        document in ring_document(),
    ) {
        for bytes in [versions.to_bytes(), versions.clock().to_bytes()] {
            for cut in 0..bytes.len() {
                canonical::<Versions>(&bytes.slice(..cut))?;
                canonical::<Clock>(&bytes.slice(..cut))?;
            }
        }
        let state = versions.to_bytes();
        for cut in 0..state.len() {
            prop_assert!(Versions::from_bytes(&state.slice(..cut)).is_err());
        }
        let mut without_stopped = document.clone();
        if let Step::Changing(change) = &mut without_stopped.step {
            change.stopped.clear();
        }
        let (document, without_stopped) = (document.to_bytes(), without_stopped.to_bytes());
        for cut in 0..document.len() {
            let prefix = document.slice(..cut);
            let is_whole = measured(&prefix, RingDocument::from_bytes)?.is_ok();
            prop_assert_eq!(is_whole, prefix == without_stopped);
        }
    }
}
