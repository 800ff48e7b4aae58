//! The proxy before a server that echoes: what is lost, late or broken is just what the rule says.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::frame::{Header, put_frame};
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::message::Request;

use super::{CLIENTS, Proxy, Rule};
use crate::harness::PATIENCE;

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(300);

const SERVER: &str = "server";

/// A server that sends back what it gets; it ends with the test process.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn frame(body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(0x05, 1), |out| {
        out.extend_from_slice(body)
    });
    out
}

/// A connection whose hello has come back.
fn connect(address: &str) -> TcpStream {
    let hello = Request::Hello(Hello::client("dynakv", None));
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(hello.kind(), 0), |out| {
        hello.encode(out)
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&out).unwrap();
    let mut back = vec![0; out.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, out);
    stream
}

fn comes_back(stream: &mut TcpStream, sent: &[u8]) {
    let mut back = vec![0; sent.len()];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, sent);
}

fn nothing_comes(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
}

fn is_reset(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn each_rule_does_what_it_says_and_no_more() {
    let proxy = Proxy::start(7);
    let address = proxy.front(SERVER, echo());
    let sent = frame(&[b'x'; 2000]);

    let mut stream = connect(&address);
    stream.write_all(&sent).unwrap();
    comes_back(&mut stream, &sent);

    // What waits arrives, be it the question or the answer.
    for (from, to) in [(CLIENTS, SERVER), (SERVER, CLIENTS)] {
        proxy.set(from, to, Rule::Hold);
        stream.write_all(&sent).unwrap();
        nothing_comes(&mut stream);
        proxy.heal();
        comes_back(&mut stream, &sent);
    }

    let late = Rule::Delay {
        least: A_WHILE + A_WHILE,
        jitter: A_WHILE,
    };
    proxy.set(SERVER, CLIENTS, late);
    stream.write_all(&sent).unwrap();
    nothing_comes(&mut stream);
    comes_back(&mut stream, &sent);
    proxy.heal();

    // What is swallowed is gone, and with it the connection, once there is a way again.
    let mut other = connect(&address);
    proxy.set(CLIENTS, SERVER, Rule::Swallow);
    stream.write_all(&sent).unwrap();
    nothing_comes(&mut stream);
    let swallowed = proxy.count(CLIENTS, SERVER).swallowed_bytes;
    assert_eq!(swallowed, sent.len() as u64);
    proxy.heal();
    is_reset(&mut stream);
    // One that has lost nothing goes on.
    other.write_all(&sent).unwrap();
    comes_back(&mut other, &sent);

    proxy.set(SERVER, CLIENTS, Rule::Cut);
    is_reset(&mut other);
    proxy.heal();

    // Each frame has a flipped bit, and nothing else changes.
    proxy.set(SERVER, CLIENTS, Rule::Pass);
    let mut stream = connect(&address);
    proxy.set(CLIENTS, SERVER, Rule::Corrupt { one_in: 1 });
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    let flipped = back.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones());
    assert_eq!(flipped.sum::<u32>(), 1);
    assert_eq!(proxy.count(CLIENTS, SERVER).corrupted_frames, 1);
}

#[test]
fn a_node_that_is_down_looks_down_and_a_proxy_that_was_dropped_is_gone() {
    let proxy = Proxy::start(8);
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let address = proxy.front(SERVER, port);
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    is_reset(&mut stream);
    drop(proxy);
    TcpStream::connect(&address).expect_err("nobody listens");
}
