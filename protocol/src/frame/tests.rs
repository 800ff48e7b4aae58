use super::*;

fn frame(kind: u8, request_id: u64, body: &[u8]) -> Frame {
    Frame {
        header: Header::new(kind, request_id),
        body: Bytes::copy_from_slice(body),
    }
}

#[test]
fn a_frame_has_these_bytes() {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(0x05, 7), |out| out.put_slice(b"ab"));
    let checked = [&[1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], b"ab"].concat();
    let mut expected = vec![0, 0, 0, 18];
    expected.extend(crc32fast::hash(&checked).to_be_bytes());
    expected.extend(checked);
    assert_eq!(out, expected);
}

#[test]
fn frames_come_whole_or_not_at_all() {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, Header::new(0x10, 1), |out| {
        out.put_slice(b"one")
    });
    let first_len = bytes.len();
    put_frame(&mut bytes, Header::new(0x11, 2), |_| {});
    let decoder = FrameDecoder::new(1024);
    for cut in 0..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..cut]);
        let mut got = 0;
        while decoder.next(&mut buffer).unwrap().is_some() {
            got += 1;
        }
        assert_eq!(got, usize::from(cut >= first_len));
    }
    assert_eq!(decoder.next(&mut bytes), Ok(Some(frame(0x10, 1, b"one"))));
    assert_eq!(decoder.next(&mut bytes), Ok(Some(frame(0x11, 2, b""))));
    assert_eq!(decoder.next(&mut bytes), Ok(None));
}

#[test]
fn whole_frames_are_those_that_come_one_by_one() {
    let mut bytes = BytesMut::new();
    for (id, body) in [&b"one"[..], b"", b"three"].into_iter().enumerate() {
        put_frame(&mut bytes, Header::new(0x10, id as u64), |out| {
            out.put_slice(body);
        });
    }
    let end = bytes.len();
    bytes.put_slice(&[0, 0, 0, 3]);
    let decoder = FrameDecoder::new(1024);
    for cut in 0..=bytes.len() {
        let mut one_by_one = BytesMut::from(&bytes[..cut.min(end)]);
        let whole = decoder.whole_bytes(&bytes[..cut]);
        let mut whole = Bytes::copy_from_slice(&bytes[..whole]);
        while let Some(frame) = decoder.next(&mut one_by_one).unwrap() {
            assert_eq!(decoder.next_whole(&mut whole), Ok(Some(frame)));
        }
        assert_eq!(decoder.next_whole(&mut whole), Ok(None));
        assert!(whole.is_empty());
    }
}

#[test]
fn impossible_lengths_are_refused_at_once() {
    let decoder = FrameDecoder::new(1024);
    for length in [0, 1, 15, 1025, u32::MAX] {
        let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
        assert!(decoder.next(&mut buffer).is_err(), "{length}");
    }
    for length in [16_u32, 1024] {
        let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
        assert_eq!(decoder.next(&mut buffer), Ok(None), "{length}");
    }
}

#[test]
fn a_batch_gives_back_its_items() {
    let mut out = BytesMut::new();
    let mut batch = BatchWriter::default();
    for id in 0..5_u64 {
        batch.push(&mut out, Header::new(0x20, id), |out| {
            out.put_bytes(b'x', id as usize);
        });
    }
    batch.finish(&mut out);
    batch.finish(&mut out);
    let whole = FrameDecoder::new(1 << 20).next(&mut out).unwrap().unwrap();
    assert!(out.is_empty());
    let mut items = Vec::new();
    split_batch(whole.clone(), |item| items.push(item)).unwrap();
    let expected: Vec<_> = (0..5)
        .map(|id| frame(0x20, id, &vec![b'x'; id as usize]))
        .collect();
    assert_eq!(items, expected);

    let cut = Frame {
        header: whole.header,
        body: whole.body.slice(..whole.body.len() - 1),
    };
    assert!(split_batch(cut, |_| {}).is_err());
}

#[test]
fn items_of_a_batch_fail_alone() {
    let mut items = BytesMut::new();
    let mut item = |kind: u8, id: u64| {
        items.put_u8(kind);
        items.put_u16(0);
        items.put_u64(id);
        items.put_u32(0);
    };
    item(0x05, 1);
    item(KIND_BATCH, 2);
    for id in 3..BATCH_ITEMS_MAX as u64 + 3 {
        item(0x05, id);
    }
    let header = Header::new(KIND_BATCH, 0);
    let body = items.clone().freeze();
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    let take = |frame: Frame| taken.push(frame.header.request_id);
    let refuse = |header: Header, error: DecodeError| {
        refused.push((
            header.request_id,
            matches!(error, DecodeError::TooLong { .. }),
        ));
        Ok(())
    };
    split_batch_refusing(Frame { header, body }, take, refuse).unwrap();
    assert_eq!(taken.len(), BATCH_ITEMS_MAX - 1);
    let last = BATCH_ITEMS_MAX as u64;
    assert_eq!(refused, [(2, false), (last + 1, true), (last + 2, true)]);

    let body = Bytes::from([&items[..], &items[..]].concat());
    assert!(split_batch_refusing(Frame { header, body }, |_| {}, |_, _| Ok(())).is_err());
}

#[test]
fn what_is_too_long_leaves_no_trace() {
    let mut out = BytesMut::new();
    let header = Header::new(0x20, 1);
    assert!(!try_put_frame(&mut out, header, 116, |out| out.put_bytes(b'x', 101)));
    assert!(out.is_empty());
    assert!(try_put_frame(&mut out, header, 116, |out| out.put_bytes(b'x', 100)));
    let whole = FrameDecoder::new(116).next(&mut out).unwrap().unwrap();
    assert_eq!((whole.header, whole.body.len()), (header, 100));
    let mut batch = BatchWriter::default();
    let mut push = |out: &mut BytesMut, id, bytes| {
        batch.try_push(out, Header::new(0x20, id), 200, |out| {
            out.put_bytes(b'x', bytes);
        })
    };
    assert!(!push(&mut out, 1, 300));
    assert!(out.is_empty());
    assert!(push(&mut out, 2, 100));
    assert!(!push(&mut out, 3, 100));
    assert!(push(&mut out, 4, 10));
    batch.finish(&mut out);
    let whole = FrameDecoder::new(200).next(&mut out).unwrap().unwrap();
    let mut items = Vec::new();
    split_batch(whole, |item| items.push(item.header.request_id)).unwrap();
    assert_eq!(items, [2, 4]);
}

#[test]
fn batches_do_not_nest() {
    let mut out = BytesMut::new();
    let mut batch = BatchWriter::default();
    batch.push(&mut out, Header::new(KIND_BATCH, 1), |_| {});
    batch.finish(&mut out);
    let whole = FrameDecoder::new(1024).next(&mut out).unwrap().unwrap();
    assert!(split_batch(whole, |_| {}).is_err());
}
