//! The envelope: lengths, checksums, versions, and other protocols that knock at this port.

use allocation_counter::measure;
use bytes::{BufMut, BytesMut};
use dynakv_protocol::frame::{Frame, FrameDecoder, FrameError, Header, LENGTH_MIN, put_frame};
use dynakv_protocol::limits::HANDSHAKE_FRAME_BYTES_MAX;
use dynakv_protocol::message::kind;

/// The first frame of a stream, by a connection that accepts frames of up to 1 KiB.
fn frame(stream: &[u8]) -> Result<Option<Frame>, FrameError> {
    FrameDecoder::new(1024).next(&mut BytesMut::from(stream))
}

#[test]
fn lengths_from_nothing_to_four_gigabytes() {
    let with_length = |length: u32| [&length.to_be_bytes()[..], &[0; 60]].concat();
    for length in [0, 1, 2, LENGTH_MIN as u32 - 1] {
        let refused = Err(FrameError::TooShort { length });
        assert_eq!(frame(&with_length(length)), refused);
    }
    for length in [1025, 65_536, i32::MAX as u32, u32::MAX - 3, u32::MAX] {
        let refused = Err(FrameError::TooLong { length, max: 1024 });
        assert_eq!(frame(&with_length(length)), refused);
    }
    // Within bounds, but not all there: wait, and reserve nothing.
    for length in [1023, 1024] {
        assert_eq!(frame(&with_length(length)), Ok(None));
    }
    let stream = with_length(1024);
    let memory = measure(|| {
        let _ = frame(&stream);
    });
    assert!(memory.bytes_max < 256, "{memory:?}");
}

#[test]
fn before_the_handshake_four_kibibytes_are_the_limit() {
    let decoder = FrameDecoder::new(HANDSHAKE_FRAME_BYTES_MAX);
    let length = |length: usize| BytesMut::from(&(length as u32).to_be_bytes()[..]);
    assert_eq!(decoder.next(&mut length(4096)), Ok(None));
    assert!(decoder.next(&mut length(4097)).is_err());
}

#[test]
fn other_protocols_on_this_port() {
    let strays: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for stray in strays {
        let refused = frame(stray);
        assert!(
            matches!(refused, Err(FrameError::TooLong { .. })),
            "{refused:?}"
        );
    }
    assert!(matches!(frame(&[0; 64]), Err(FrameError::TooShort { .. })));
}

#[test]
fn a_wrong_checksum_or_version() {
    let mut good = BytesMut::new();
    put_frame(&mut good, Header::new(kind::PING, 1), |_| {});
    assert!(matches!(frame(&good), Ok(Some(_))));
    let mut bad = good.clone();
    bad[4] ^= 1;
    assert!(matches!(frame(&bad), Err(FrameError::Checksum { .. })));
    for version in [0, 2, 255] {
        let mut other = good.clone();
        other[8] = version;
        let checksum = crc32(&other[8..]);
        other[4..8].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(frame(&other), Err(FrameError::Version { version }));
    }
}

/// CRC-32/ISO-HDLC bit by bit, from its definition: a second opinion on the checksum of frames.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 * (crc & 1));
        }
    }
    !crc
}

#[test]
fn the_checksum_is_crc_32_iso_hdlc() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    let mut stream = BytesMut::new();
    put_frame(&mut stream, Header::new(0x10, 9), |out| {
        out.put_slice(b"body")
    });
    assert_eq!(stream[4..8], crc32(&stream[8..]).to_be_bytes());
}
