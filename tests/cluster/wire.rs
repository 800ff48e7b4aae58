//! What PROTOCOL.md promises to whoever speaks it without our library: limits that are told, refusals that can be
//! read, and an end that leaves no doubt.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::client::{Get, Write as WriteRequest};
use dynakv_protocol::frame::{Frame, FrameDecoder, Header, KIND_BATCH, put_frame};
use dynakv_protocol::handshake::{Hello, Welcome};
use dynakv_protocol::limits::{
    BATCH_ITEMS_MAX, FRAME_BYTES_MAX, VALUE_BYTES_DEFAULT, frame_bytes_max,
};
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::{ErrorCode, ErrorReply, WriteId};
use rustix::process::Signal;

use crate::harness::{Cluster, Node, PATIENCE, eventually};

/// A client of a few lines, which decides itself when it reads.
struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    welcome: Welcome,
}

impl Raw {
    fn connect(node: &Node, hello: Hello) -> Self {
        let stream = TcpStream::connect(node.address()).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut stream = stream;
        stream.write_all(&frame(1, &Request::Hello(hello))).unwrap();
        let mut buffer = BytesMut::new();
        let answer = read_frame(&mut stream, &mut buffer).expect("an answer");
        match Response::decode(answer.header.kind, &answer.body).unwrap() {
            Response::Welcome(welcome) => Self {
                stream,
                buffer,
                welcome,
            },
            other => panic!("{other:?}"),
        }
    }

    fn client(node: &Node) -> Self {
        Self::connect(node, Hello::client("", None))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node takes it");
    }

    /// The next answer; nothing at the end.
    fn answer(&mut self) -> Option<(u64, Response)> {
        let frame = read_frame(&mut self.stream, &mut self.buffer)?;
        let response = Response::decode(frame.header.kind, &frame.body).unwrap();
        Some((frame.header.request_id, response))
    }

    /// So many answers, in the order of their ids.
    fn answers(&mut self, count: usize) -> Vec<(u64, Response)> {
        let answers = (0..count).map(|_| self.answer().expect("the connection lives"));
        let mut answers: Vec<_> = answers.collect();
        answers.sort_by_key(|(id, _)| *id);
        answers
    }

    /// All that comes until the node closes.
    fn read_to_the_end(mut self) -> Vec<(u64, Response)> {
        std::iter::from_fn(|| self.answer()).collect()
    }

    /// Panics unless it still stands.
    #[track_caller]
    fn assert_lives(&mut self) {
        self.send(&frame(77, &Request::Ping));
        assert_eq!(self.answer(), Some((77, Response::Pong)));
    }
}

fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Frame> {
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    loop {
        if let Some(frame) = decoder.next(buffer).expect("frames") {
            return Some(frame);
        }
        let mut piece = [0; 65_536];
        match stream.read(&mut piece) {
            Ok(0) => return None,
            Ok(count) => buffer.extend_from_slice(&piece[..count]),
            Err(error) => panic!("{error}"),
        }
    }
}

fn frame(id: u64, request: &Request) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(request.kind(), id), |out| {
        request.encode(out)
    });
    out.to_vec()
}

fn raw_frame(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(kind, id), |out| {
        out.extend_from_slice(body)
    });
    out.to_vec()
}

/// The items of a batch.
fn batch(items: &[(u8, u64, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, id, item) in items {
        body.push(*kind);
        body.extend([0, 0]);
        body.extend(id.to_be_bytes());
        body.extend((item.len() as u32).to_be_bytes());
        body.extend(item);
    }
    raw_frame(KIND_BATCH, 0, &body)
}

fn put(key: &str, value_bytes: usize) -> Request {
    Request::Put(write(key, value_bytes))
}

fn write(key: &str, value_bytes: usize) -> WriteRequest {
    WriteRequest {
        timeout_ms: 30_000,
        write_id: WriteId(fastrand::u128(..)),
        key: Bytes::from(key.to_owned()),
        value: Some(Bytes::from(vec![b'x'; value_bytes])),
        context: None,
        w: None,
        ttl_ms: None,
        sloppy: false,
        again: false,
        if_no_conflict: false,
        sent_ms: None,
    }
}

fn get(key: &str) -> Request {
    Request::Get(Get {
        timeout_ms: 30_000,
        key: Bytes::from(key.to_owned()),
        r: None,
        repair_first: false,
    })
}

fn code(response: &Response) -> Option<ErrorCode> {
    match response {
        Response::Error(error) => Some(error.code),
        _ => None,
    }
}

fn codes(answers: &[(u64, Response)]) -> Vec<(u64, Option<ErrorCode>)> {
    answers.iter().map(|(id, it)| (*id, code(it))).collect()
}

/// Larger than any frame that a node with the default limits takes.
const TOO_LARGE: usize = frame_bytes_max(VALUE_BYTES_DEFAULT) + 1024 * 1024;

#[test]
fn the_welcome_tells_the_limits() {
    let settings = [
        ("DYNAKV_VALUE_BYTES_MAX", "4096"),
        ("DYNAKV_REQUESTS_IN_FLIGHT_MAX", "99"),
    ];
    let cluster = Cluster::start_with(1, &settings);
    let limits = Raw::client(&cluster[0])
        .welcome
        .limits
        .expect("they are told");
    assert_eq!(limits.value_bytes_max, 4096);
    assert_eq!(limits.frame_bytes_max as usize, frame_bytes_max(4096));
    assert_eq!(limits.batch_items_max as usize, BATCH_ITEMS_MAX);
    assert_eq!(limits.requests_in_flight_max, 99);
}

/// A client that writes all it has before it reads anything, as one that never reads after a failed write: not one
/// write fails, and everything has its answer.
#[test]
fn a_frame_that_is_too_large_is_answered_and_its_companions_are_not_lost() {
    let cluster = Cluster::start(1);
    let mut client = Raw::client(&cluster[0]);
    for id in 1..=100 {
        client.send(&frame(id, &put(&format!("before-{id}"), 10)));
    }
    client.send(&frame(101, &put("large", TOO_LARGE)));
    for id in 102..=200 {
        client.send(&frame(id, &put(&format!("behind-{id}"), 10)));
    }
    let answers = client.answers(200);
    for (id, response) in &answers {
        let expected = (*id == 101).then_some(ErrorCode::TooLarge);
        assert_eq!(code(response), expected, "{id}: {response:?}");
    }
    // One that reads after each.
    for id in 300..303 {
        client.send(&frame(id, &put("large", TOO_LARGE)));
        assert_eq!(codes(&client.answers(1)), [(id, Some(ErrorCode::TooLarge))]);
    }
    client.assert_lives();
    // Within the frame limit it is the value that is refused, and the largest value is taken.
    client.send(&frame(400, &put("k", VALUE_BYTES_DEFAULT + 1)));
    client.send(&frame(401, &put("k", VALUE_BYTES_DEFAULT)));
    let expected = [(400, Some(ErrorCode::TooLarge)), (401, None)];
    assert_eq!(codes(&client.answers(2)), expected);
    // In a batch every item has its answer.
    let large = frame(0, &put("large", TOO_LARGE))[20..].to_vec();
    let small = frame(0, &get("k"))[20..].to_vec();
    client.send(&batch(&[
        (kind::GET, 500, small.clone()),
        (kind::PUT, 501, large),
        (kind::GET, 502, small),
    ]));
    let expected = [
        (500, Some(ErrorCode::Overloaded)),
        (501, Some(ErrorCode::TooLarge)),
        (502, Some(ErrorCode::Overloaded)),
    ];
    assert_eq!(codes(&client.answers(3)), expected);
    client.assert_lives();
    // Beyond what any setting allows there is no way round, but it is said.
    client.send(&[0xff; 64]);
    let last = client.read_to_the_end();
    assert_eq!(codes(&last), [(0, Some(ErrorCode::Malformed))], "{last:?}");
}

#[test]
fn items_of_a_batch_fail_alone() {
    let cluster = Cluster::start(1);
    let mut client = Raw::client(&cluster[0]);
    let good = frame(0, &get("k"))[20..].to_vec();
    let cut = good[..good.len() - 1].to_vec();
    client.send(&batch(&[
        (kind::GET, 1, good.clone()),
        (kind::GET, 2, cut),
        (KIND_BATCH, 3, Vec::new()),
        (0x7e, 4, Vec::new()),
        (kind::PING, 5, vec![1, 2, 3]),
        (kind::GET, 6, good),
    ]));
    let expected = [
        (1, None),
        (2, Some(ErrorCode::BadRequest)),
        (3, Some(ErrorCode::BadRequest)),
        (4, Some(ErrorCode::UnknownKind)),
        (5, Some(ErrorCode::BadRequest)),
        (6, None),
    ];
    assert_eq!(codes(&client.answers(6)), expected);
    let many: Vec<_> = (1..=BATCH_ITEMS_MAX as u64 + 1)
        .map(|id| (kind::PING, id, Vec::new()))
        .collect();
    client.send(&batch(&many));
    let mut answers = client.answers(many.len());
    let last = answers.pop().unwrap();
    assert_eq!(
        (last.0, code(&last.1)),
        (BATCH_ITEMS_MAX as u64 + 1, Some(ErrorCode::TooLarge))
    );
    assert!(
        answers
            .iter()
            .all(|(_, response)| *response == Response::Pong)
    );
    client.assert_lives();
}

#[test]
fn a_ping_with_a_body_is_refused_and_the_id_0_ends_the_connection() {
    let cluster = Cluster::start(1);
    let mut client = Raw::client(&cluster[0]);
    client.send(&raw_frame(kind::PING, 9, b"abc"));
    assert_eq!(
        codes(&client.answers(1)),
        [(9, Some(ErrorCode::BadRequest))]
    );
    // What a newer client may add to it is skipped.
    client.send(&raw_frame(kind::PING, 10, &[200, 1, 7]));
    assert_eq!(client.answers(1), [(10, Response::Pong)]);
    client.send(&frame(0, &put("without-an-id", 3)));
    let last = client.read_to_the_end();
    assert_eq!(codes(&last), [(0, Some(ErrorCode::Malformed))]);
    cluster[0].run(&["get", "without-an-id"]).exits(3);
}

#[test]
fn a_node_that_has_not_joined_refuses_what_is_malformed() {
    let root = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", crate::harness::free_port());
    let mut node = Node::new(root.path(), "node-1").with(&["--seed", &nobody]);
    node.start();
    eventually("it listens", || match TcpStream::connect(node.address()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    let mut client = Raw::client(&node);
    let good = frame(1, &get("k"));
    client.send(&good);
    client.send(&raw_frame(kind::GET, 2, &good[20..good.len() - 1]));
    client.send(&raw_frame(kind::PUT, 3, b"?"));
    let expected = [
        (1, Some(ErrorCode::NotReady)),
        (2, Some(ErrorCode::BadRequest)),
        (3, Some(ErrorCode::BadRequest)),
    ];
    assert_eq!(codes(&client.answers(3)), expected);
}

/// Whoever knows how hears, when the node is told to stop, up to which request it may wait; whoever does not hears
/// what it always did.
#[test]
fn a_node_that_is_told_to_stop_says_what_it_took() {
    let mut cluster = Cluster::start(1);
    let mut knowing = Raw::connect(&cluster[0], Hello::client("", None).knowing_goaway());
    let mut old = Raw::client(&cluster[0]);
    for client in [&mut knowing, &mut old] {
        // What is refused comes before what is taken: the last one is the last of the stream.
        let taken = frame(0, &put("k", 10))[20..].to_vec();
        client.send(&batch(&[
            (KIND_BATCH, 4, Vec::new()),
            (kind::PUT, 5, taken),
        ]));
        let expected = [(4, Some(ErrorCode::BadRequest)), (5, None)];
        assert_eq!(codes(&client.answers(2)), expected);
    }
    cluster[0].process_mut().signal(Signal::TERM);
    let mut said = knowing.answer();
    if let Some((0, Response::GoAway(goaway))) = &said {
        assert_eq!(goaway.last_id, 5);
        assert!(
            goaway.drain_ms > 0 && !goaway.reason.is_empty(),
            "{goaway:?}"
        );
        // Sent behind it, it gets no answer and is not carried out.
        let _it_may_have_closed = knowing.stream.write_all(&frame(6, &put("behind", 10)));
        said = knowing.answer();
    } else {
        panic!("{said:?}");
    }
    assert_eq!(said, None, "nothing follows");
    assert!(old.read_to_the_end().is_empty());
    assert!(cluster[0].process_mut().wait().success());
    cluster[0].start();
    cluster[0].wait_ready();
    cluster[0].run(&["get", "k"]).exits(0);
    cluster[0].run(&["get", "behind"]).exits(3);
}

/// A quorum error names the quorum that was asked for, also where the request was handed on to nobody.
#[test]
fn needed_is_the_quorum_that_was_asked_for() {
    let mut cluster = Cluster::start(4);
    cluster.seal("sealed", "yes");
    for index in [1, 2, 3] {
        cluster[index].kill();
    }
    let mut client = Raw::client(&cluster[0]);
    let mut ids = 0;
    for number in 0..20 {
        let Request::Put(mut write) = put(&format!("key-{number}"), 1) else {
            unreachable!();
        };
        (write.timeout_ms, write.w) = (3000, Some(3));
        ids += 1;
        client.send(&frame(ids, &Request::Put(write)));
    }
    for (_, response) in client.answers(20) {
        let Response::Error(ErrorReply { needed, .. }) = response else {
            panic!("{response:?}");
        };
        assert_eq!(needed, Some(3), "{response:?}");
    }
}

/// A node hands a write on and gives it to another owner a second later. What comes late all the same would replace what
/// was written since: it is not begun. (The client below plays a node whose clock is far ahead.)
#[test]
fn a_first_attempt_that_comes_late_is_not_begun() {
    const CLOCK_MS: u64 = 100_000;
    let cluster = Cluster::start(1);
    let mut client = Raw::client(&cluster[0]);
    let mut id = 0;
    let mut answer = |request: &Request| {
        id += 1;
        client.send(&frame(id, request));
        client.answers(1).remove(0).1
    };
    let handed_on = |value: &'static str, sent_ms| WriteRequest {
        value: Some(Bytes::from_static(value.as_bytes())),
        sent_ms: Some(sent_ms),
        ..write("key", 0)
    };
    let began = Instant::now();
    let fetched = |answer: &mut dyn FnMut(&Request) -> Response| match answer(&get("key")) {
        Response::Fetched(fetched) => {
            let values = fetched.siblings.iter();
            let values: Vec<_> = values.map(|it| it.value.clone()).collect();
            (values, fetched.context)
        }
        other => panic!("{other:?}"),
    };
    let in_time = answer(&Request::Put(handed_on("in time", CLOCK_MS)));
    assert!(matches!(in_time, Response::Put(_)), "{in_time:?}");
    // By the same clock, two seconds ago.
    let past = || CLOCK_MS + began.elapsed().as_millis() as u64 - 2_000;
    match answer(&Request::Put(handed_on("late", past()))) {
        Response::Error(error) => {
            assert_eq!(error.code, ErrorCode::Timeout);
            assert!(error.retryable && !error.maybe_applied, "{error}");
        }
        other => panic!("{other:?}"),
    }
    let (values, context) = fetched(&mut answer);
    assert_eq!(values, [Bytes::from_static(b"in time")]);
    // What replaces only what it names, or is known to be a later attempt, may come when it comes.
    for (value, write) in [
        (
            "late, with a context",
            WriteRequest {
                context: Some(context),
                ..handed_on("late, with a context", past())
            },
        ),
        (
            "late, and again",
            WriteRequest {
                again: true,
                ..handed_on("late, and again", past())
            },
        ),
    ] {
        let response = answer(&Request::Put(write));
        assert!(
            matches!(response, Response::Put(_)),
            "{value}: {response:?}"
        );
        assert_eq!(fetched(&mut answer).0, [Bytes::from(value)]);
    }
}
