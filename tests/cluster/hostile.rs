//! Bytes that no friend sends: the connection they came on ends, and nothing else does.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dynakv_client::Client;
use dynakv_protocol::client::Get;
use dynakv_protocol::frame::{Header, put_frame};
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::message::{Request, kind};
use tokio::runtime::Runtime;

use crate::harness::{Cluster, Node, PATIENCE, client_of_one};

/// Where a frame's checksum begins.
const CHECKSUM_AT: usize = 4;
/// Where its version stands.
const VERSION_AT: usize = 8;
/// Where its kind stands.
const KIND_AT: usize = 9;

pub(crate) fn frame(request: &Request) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(request.kind(), 7), |out| {
        request.encode(out)
    });
    out.to_vec()
}

fn hello() -> Vec<u8> {
    frame(&Request::Hello(Hello::client("", None)))
}

fn changed(mut bytes: Vec<u8>, at: usize, to: impl Fn(u8) -> u8) -> Vec<u8> {
    bytes[at] = to(bytes[at]);
    bytes
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address()).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection past its handshake.
pub(crate) fn greeted(node: &Node) -> TcpStream {
    let mut stream = connect(node);
    stream.write_all(&hello()).unwrap();
    let kind_of_answer = read_frame(&mut stream)[VERSION_AT - 8 + 1];
    assert_eq!(
        kind_of_answer,
        kind::HELLO | kind::ANSWER,
        "the hello is welcome"
    );
    stream
}

/// One frame without its length and checksum.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).expect("the node answers");
    let length = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
    let mut rest = vec![0; length - 4];
    stream.read_exact(&mut rest).expect("a whole frame");
    rest
}

/// Panics unless the node closes the connection in good time.
#[track_caller]
fn assert_closed(name: &str, mut stream: TcpStream) {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{name}: not closed within {PATIENCE:?}: {error}"),
    }
}

/// A well-behaved connection that stands all the time, with the runtime that it lives on.
struct Bystander {
    runtime: Runtime,
    stream: TcpStream,
    client: Client,
}

impl Bystander {
    fn connect(node: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("tests need an event queue");
        Self {
            client: runtime.block_on(client_of_one(node)),
            stream: greeted(node),
            runtime,
        }
    }

    /// Panics unless the node still answers it on its old connections, and others on new ones.
    #[track_caller]
    fn assert_served(&mut self, node: &Node, after: &str) {
        let put = self
            .runtime
            .block_on(async { self.client.put("served", after.to_owned()).await });
        if let Err(error) = put {
            panic!("after {after}: {error}");
        }
        // The client would dial again; a bare connection cannot.
        self.stream
            .write_all(&frame(&Request::Ping))
            .expect("the old connection stands");
        let answer = read_frame(&mut self.stream);
        assert_eq!(
            answer[KIND_AT - VERSION_AT],
            kind::PING | kind::ANSWER,
            "after {after}"
        );
        assert_eq!(node.run(&["get", "served"]).exits(0).text(), after);
    }
}

/// Whatever is said before or after the handshake, that connection alone ends.
#[test]
fn malformed_bytes_end_their_own_connection_only() {
    let mut cluster = Cluster::start(1);
    let node = &cluster[0];
    let mut random = fastrand::Rng::with_seed(7);
    let garbage: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
    // The longest that a hello may be is 4 KiB; the frame says 16 MiB, the bytes never come.
    let long = 0x0100_0000_u32.to_be_bytes().to_vec();
    let batch_of_nothing_known = {
        let mut out = BytesMut::new();
        put_frame(&mut out, Header::new(0x04, 1), |out| {
            out.extend_from_slice(&[0xff; 64])
        });
        out.to_vec()
    };
    let ping = frame(&Request::Ping);
    let cases: Vec<(&str, bool, Vec<u8>)> = vec![
        ("garbage", false, garbage.clone()),
        (
            "HTTP",
            false,
            b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        ),
        (
            "TLS",
            false,
            vec![
                0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
            ],
        ),
        ("SSH", false, b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("a length of 4 GiB", false, vec![0xff; 4]),
        ("a length of 2 GiB", false, vec![0x7f, 0xff, 0xff, 0xff]),
        ("a length of 16 MiB before the handshake", false, long),
        ("a length of 0", false, vec![0; 8]),
        (
            "a length below a header",
            false,
            vec![0, 0, 0, 15, 0, 0, 0, 0],
        ),
        (
            "a wrong checksum",
            false,
            changed(hello(), CHECKSUM_AT, |byte| !byte),
        ),
        (
            "a flipped bit",
            false,
            changed(hello(), 21, |byte| byte ^ 1),
        ),
        (
            "an unknown frame version",
            false,
            changed(hello(), VERSION_AT, |_| 99),
        ),
        ("no hello first", false, ping.clone()),
        ("garbage after the handshake", true, garbage),
        ("4 GiB after the handshake", true, vec![0xff; 4]),
        ("a length of 0 after the handshake", true, vec![0; 8]),
        (
            "a wrong checksum after the handshake",
            true,
            changed(ping, CHECKSUM_AT, |byte| !byte),
        ),
        ("a batch that is none", true, batch_of_nothing_known),
    ];
    let mut bystander = Bystander::connect(node);
    for (name, after_handshake, bytes) in &cases {
        let mut stream = if *after_handshake {
            greeted(node)
        } else {
            connect(node)
        };
        // The node may close before it has taken all.
        let _closed_meanwhile = stream.write_all(bytes);
        assert_closed(name, stream);
        bystander.assert_served(node, name);
    }
    assert!(cluster[0].runs());
    let log = cluster[0].process_mut().stderr();
    assert!(!log.contains("panicked"), "{log}");
}

/// A frame cut off at each of its bytes is no harm: the node just waits, and forgets it at the end.
#[test]
fn a_hello_cut_off_anywhere_is_no_harm() {
    let cluster = Cluster::start(1);
    let node = &cluster[0];
    let mut bystander = Bystander::connect(node);
    let hello = hello();
    for length in 0..hello.len() {
        let mut stream = connect(node);
        stream.write_all(&hello[..length]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_closed(&format!("{length} bytes of a hello"), stream);
    }
    bystander.assert_served(node, "all cuts");
}

/// Whoever is silent or slow over the handshake is hung up on, and holds nobody up meanwhile.
#[test]
fn a_silent_connection_is_hung_up_on() {
    let cluster = Cluster::start(1);
    let node = &cluster[0];
    let mut bystander = Bystander::connect(node);
    let silent = connect(node);
    let mut one_byte = connect(node);
    one_byte.write_all(&[0]).unwrap();
    let mut slow = connect(node);
    bystander.assert_served(node, "silence");
    let begun = Instant::now();
    for byte in hello() {
        // Ends with an error once the node has hung up.
        if slow.write_all(&[byte]).is_err() || begun.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(700));
    }
    assert_closed("silence", silent);
    assert_closed("one byte, then silence", one_byte);
    assert_closed("one byte at a time", slow);
    bystander.assert_served(node, "slow hellos");
}

/// How many answers of 1 MiB are asked for and not read.
const ANSWERS: usize = 1024;

/// How much the node may grow for them.
const GROWTH_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A client that asks for far more than it may have waiting, and reads nothing, holds up nobody else.
#[test]
fn a_client_that_never_reads_is_held_back() {
    let settings = [("DYNAKV_CONNECTION_BYTES_MAX", "1048576")];
    let mut cluster = Cluster::start_with(1, &settings);
    let value = vec![b'x'; 1024 * 1024];
    cluster[0]
        .command(&["put", "large", "-"])
        .input(value)
        .run()
        .exits(0);
    let pid = cluster[0].process_mut().pid();
    let node = &cluster[0];
    let mut bystander = Bystander::connect(node);
    let before = resident_bytes(pid);

    let request = frame(&Request::Get(Get {
        timeout_ms: 60_000,
        key: bytes::Bytes::from_static(b"large"),
        r: None,
        repair_first: false,
    }));
    let mut stream = greeted(node);
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    for _ in 0..ANSWERS {
        // Times out once the node reads no more: what it should do.
        if stream.write_all(&request).is_err() {
            break;
        }
    }
    let mut most = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        most = most.max(resident_bytes(pid));
        std::thread::sleep(Duration::from_millis(50));
    }
    let growth = most.saturating_sub(before);
    assert!(
        growth < GROWTH_BYTES_MAX,
        "the node grew by {} MiB",
        growth >> 20
    );
    bystander.assert_served(node, "a client that never reads");
    drop(stream);
    bystander.assert_served(node, "its end");
}

/// The memory that a process occupies.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    memory_bytes(pid, "VmRSS:")
}

/// The most memory that a process has occupied.
pub(crate) fn peak_bytes(pid: u32) -> u64 {
    memory_bytes(pid, "VmHWM:")
}

fn memory_bytes(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes
        .and_then(|number| number.parse::<u64>().ok())
        .expect("Linux says it in kB")
        * 1024
}
