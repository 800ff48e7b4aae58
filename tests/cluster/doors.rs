//! Who gets in where a member is known: whoever is in its place, in its way, or in doubt about whether it lives.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dynakv_protocol::client::Get;
use dynakv_protocol::frame::{Header, put_frame};
use dynakv_protocol::gossip::Join;
use dynakv_protocol::handshake::{Hello, PeerIdentity};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::{Member, RingDocument};
use dynakv_protocol::{ClusterId, DirectoryId, ErrorCode, Generation};
use rustix::process::Signal;

use crate::harness::{Cluster, Node, QUICK, eventually};
use crate::strangers::{
    Stranger, assert_unharmed, connect, disguised_as, hello, id, nobody, receive, ring_of, send,
    welcome_of,
};

/// Somebody under the name of node-2, on a directory of its own, that is in no cluster.
fn namesake(ring: &RingDocument, directory: u64, nonce: u64) -> PeerIdentity {
    PeerIdentity {
        node_id: id("node-2"),
        directory_id: DirectoryId(directory),
        cluster_id: ClusterId::default(),
        nonce,
        ..nobody(ring)
    }
}

/// It has lost its data, it says, and wants the member's place.
fn join(ring: &RingDocument, namesake: &PeerIdentity) -> Request {
    let member = Member {
        directory_id: namesake.directory_id,
        address: namesake.address.clone(),
        ..ring.member(&namesake.node_id).unwrap().clone()
    };
    Request::Join(Join {
        member,
        n: None,
        w: None,
        r: None,
        is_rebuilding: true,
        knows_changes: true,
        waits: false,
    })
}

/// What node-1 answers to that.
fn answer_to_join(cluster: &Cluster, ring: &RingDocument, namesake: &PeerIdentity) -> Response {
    let mut stranger = connect(&cluster[0], hello(namesake)).expect("who joins may ask");
    stranger.ask(join(ring, namesake))
}

#[track_caller]
fn assert_refused(answer: &Response, expected: ErrorCode) {
    let Response::Error(error) = answer else {
        panic!("taken in: {answer:?}");
    };
    assert_eq!(error.code, expected, "{error}");
    assert_eq!(error.retryable, expected == ErrorCode::NotReady, "{error}");
}

/// A nonce tells whoever joins from whoever it calls, and everybody is told it.
#[test]
fn nobody_joins_with_the_nonce_of_the_member_that_lives() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let liar = namesake(&ring, 1, welcome_of(&cluster[1]).nonce);
    assert_refused(
        &answer_to_join(&cluster, &ring, &liar),
        ErrorCode::DuplicateNode,
    );
    assert_unharmed(&mut cluster, "a join");
    assert_eq!(ring_of(&cluster[0]), ring);
}

/// The ring says where a member was when it joined.
#[test]
fn a_member_that_has_moved_is_asked_where_it_is() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    assert_eq!(cluster[1].terminate().code(), Some(0));
    let moved = Node::new(cluster.root(), "node-2").with(&["--seed", &cluster[0].address()]);
    cluster[1] = moved.with_settings(&[("DYNAKV_GOSSIP_INTERVAL", "200ms")]);
    cluster[1].start();
    cluster.wait_healthy();
    let address = cluster[1].address();
    eventually("node-1 knows where it is", || {
        let status = cluster[0].run(&["status", "--output", "json"]);
        match status.text().contains(&address) {
            true => Ok(()),
            false => Err(status.text().to_owned()),
        }
    });
    let liar = namesake(&ring, 1, 0x77);
    assert_refused(
        &answer_to_join(&cluster, &ring, &liar),
        ErrorCode::DuplicateNode,
    );
    assert_unharmed(&mut cluster, "a move");
    assert_eq!(ring_of(&cluster[0]), ring);
}

/// That a member does not answer at once says nothing; that it is silent for long does.
#[test]
fn a_member_that_is_silent_for_a_moment_keeps_its_place() {
    let mut cluster = Cluster::start_with(3, QUICK);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let liar = namesake(&ring, 1, 0x77);
    cluster[1].process_mut().signal(Signal::STOP);
    assert_refused(&answer_to_join(&cluster, &ring, &liar), ErrorCode::NotReady);
    cluster[1].process_mut().signal(Signal::CONT);
    assert_unharmed(&mut cluster, "silence");
    assert_eq!(ring_of(&cluster[0]), ring);
    // A machine that hangs for good is replaced as one that is gone.
    cluster[1].process_mut().signal(Signal::STOP);
    eventually(
        "it counts as dead and is replaced",
        || match answer_to_join(&cluster, &ring, &liar) {
            Response::Joined(_) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    cluster[1].process_mut().signal(Signal::CONT);
    let (code, said) = cluster[1].ends_by_itself();
    assert_eq!(code, Some(1), "{said}");
}

/// Somebody who is not a member any more is where it was, and answers nothing: to ask for its name a thousand times
/// makes few calls.
#[test]
fn the_holder_of_a_name_is_called_once_at_a_time() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let port = cluster[1].port;
    cluster[1].kill();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = visits.clone();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    let (first, second) = (namesake(&ring, 1, 0x77), namesake(&ring, 2, 0x78));
    let mut asking = connect(&cluster[0], hello(&first)).unwrap();
    for _ in 0..1000 {
        send(&mut asking.stream, &join(&ring, &first)).unwrap();
    }
    sleep(Duration::from_millis(200));
    assert_refused(
        &answer_to_join(&cluster, &ring, &second),
        ErrorCode::NotReady,
    );
    // The last of the first one's questions is answered, when the call has come to its end.
    let (kind, _, body) = receive(&mut asking.stream).unwrap();
    assert_refused(&Response::decode(kind, &body).unwrap(), ErrorCode::NotReady);
    let visits = visits.load(Ordering::SeqCst);
    assert!(visits < 100, "{visits} calls");
}

/// Who lives as its heartbeat says, and does not answer, is not taken for gone; who is silent altogether is.
#[test]
fn a_run_that_is_said_to_be_newer_waits_while_the_member_lives() {
    let mut cluster = Cluster::start_with(3, QUICK);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let member = disguised_as(&cluster[1], &ring);
    let newer = PeerIdentity {
        generation: Generation(member.generation.0 + 1),
        nonce: 0x99,
        ..member
    };
    cluster[1].process_mut().signal(Signal::STOP);
    let refused = connect(&cluster[0], hello(&newer)).map(|_| ());
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::NotReady)
    );
    cluster[1].process_mut().signal(Signal::CONT);
    assert_unharmed(&mut cluster, "a moment of silence");
    // A cluster may move as a whole, away from addresses that answer nothing.
    cluster[1].process_mut().signal(Signal::STOP);
    eventually("its silence counts", || {
        connect(&cluster[0], hello(&newer)).map_or_else(|error| Err(error.to_string()), |_| Ok(()))
    });
}

/// While nobody is there who could contradict, each claim goes to disk.
#[test]
fn runs_of_a_member_that_is_down_are_believed_once_a_second() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let member = disguised_as(&cluster[1], &ring);
    cluster[1].kill();
    let began = Instant::now();
    let believed = (1..=50).filter(|more| {
        let newer = PeerIdentity {
            generation: Generation(member.generation.0 + more),
            nonce: *more,
            ..member.clone()
        };
        connect(&cluster[0], hello(&newer)).is_ok()
    });
    let believed = believed.count() as u64;
    let at_most = 1 + began.elapsed().as_secs();
    assert!(
        (1..=at_most).contains(&believed),
        "{believed} in {:?}",
        began.elapsed()
    );
}

/// Whoever asks without end does not keep a node from its heartbeats, nor from seeing that another one is gone.
#[test]
fn a_flood_of_questions_makes_nobody_suspect_the_node() {
    let mut cluster = Cluster::start_with(
        3,
        &[
            ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
            ("DYNAKV_SUSPECT_AFTER", "4s"),
            ("DYNAKV_DEAD_AFTER", "6s"),
        ],
    );
    cluster.seal("key", "value");
    let is_over = Arc::new(AtomicBool::new(false));
    let mut flood = Vec::new();
    let mut questions = BytesMut::new();
    for id in 1..=2000 {
        let header = Header::new(Request::Status.kind(), id);
        put_frame(&mut questions, header, |out| Request::Status.encode(out));
    }
    let questions = questions.freeze();
    for _ in 0..8 {
        let Stranger { mut stream, .. } = connect(&cluster[0], Hello::client("", None)).unwrap();
        let mut answers = stream.try_clone().unwrap();
        let (is_over, questions) = (is_over.clone(), questions.clone());
        flood.push(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) && stream.write_all(&questions).is_ok() {}
            // Ends the other thread, too.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }));
        flood.push(std::thread::spawn(move || {
            while std::io::copy(&mut answers, &mut std::io::sink()).is_ok_and(|count| count > 0) {}
        }));
    }
    cluster[2].kill();
    let until = Instant::now() + Duration::from_secs(12);
    let mut opinions = Vec::new();
    while Instant::now() < until {
        sleep(Duration::from_millis(250));
        opinions.push(cluster[1].opinion_of("node-1").map(|(state, _)| state));
    }
    // Asked at the other port.
    let dead = cluster[0].metric("dynakv_members", "state=\"dead\"");
    is_over.store(true, Ordering::Relaxed);
    for thread in flood {
        thread.join().unwrap();
    }
    assert!(
        opinions.iter().all(|it| it.as_deref() == Ok("alive")),
        "{opinions:?}"
    );
    assert_eq!(dead, Ok(1), "it has noticed nothing");
    cluster[2].start();
    assert_unharmed(&mut cluster, "a flood");
}

/// Whoever comes to a node that is about to end is sent on before it is let in.
#[test]
fn a_node_that_ends_lets_no_clients_in() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    for index in [1, 2] {
        cluster[index].process_mut().signal(Signal::STOP);
    }
    // Something to wait for.
    let mut held = connect(&cluster[0], Hello::client("", None)).unwrap();
    let get = Get {
        key: "key".into(),
        timeout_ms: 5000,
        r: Some(3),
        repair_first: false,
    };
    send(&mut held.stream, &Request::Get(get)).unwrap();
    let knowing = Hello::client("", None).knowing_goaway();
    let mut knowing = connect(&cluster[0], knowing).unwrap();
    cluster[0].process_mut().signal(Signal::TERM);
    let (kind, _, body) = receive(&mut knowing.stream).unwrap();
    assert!(matches!(
        Response::decode(kind, &body),
        Ok(Response::GoAway(_))
    ));
    let refused = connect(&cluster[0], Hello::client("", None)).map(|_| ());
    let refused = refused.map_err(|error| (error.code, error.retryable));
    assert_eq!(refused, Err((ErrorCode::NotReady, true)));
    for index in [1, 2] {
        cluster[index].process_mut().signal(Signal::CONT);
    }
}

/// Clients that have all places that they may have keep out no member.
#[test]
fn busy_clients_keep_no_member_out() {
    const PLACES: usize = 24;
    let places = PLACES.to_string();
    let settings = [
        ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
        ("DYNAKV_CONNECTIONS_MAX", &*places),
    ];
    let mut cluster = Cluster::start_with(3, &settings);
    cluster.seal("key", "value");
    let is_over = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    let addresses = [cluster[0].address(), cluster[2].address()];
    // They take each place that becomes free, and keep it.
    for address in addresses {
        for _ in 0..PLACES + 8 {
            let (is_over, address) = (is_over.clone(), address.clone());
            busy.push(std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = keep_busy(&address, &is_over);
                    sleep(Duration::from_millis(20));
                }
            }));
        }
    }
    eventually("the clients have all places", || {
        let status = cluster[0].run(&["status"]);
        match status.stderr.contains("connections already") {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    });
    for index in [1, 1] {
        cluster[index].kill();
        cluster[index].start();
        cluster[index].wait_ready();
        let sees_all = || {
            let status = cluster[index].run(&["status"]);
            match status.code {
                Some(0) => Ok(()),
                _ => Err(format!("{status:?}")),
            }
        };
        eventually("the member that was restarted finds all well", sees_all);
        eventually("all owners take writes", || {
            let put = cluster[index].run(&["put", "k", "v", "-w", "3"]);
            match put.code {
                Some(0) => Ok(()),
                _ => Err(format!("{put:?}")),
            }
        });
    }
    is_over.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
    cluster.wait_healthy();
}

/// A client that pings without end.
fn keep_busy(address: &str, is_over: &AtomicBool) -> std::io::Result<()> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    send(&mut stream, &Request::Hello(Hello::client("", None)))?;
    receive(&mut stream)?;
    while !is_over.load(Ordering::Relaxed) {
        send(&mut stream, &Request::Ping)?;
        stream.flush()?;
        receive(&mut stream)?;
        sleep(Duration::from_millis(200));
    }
    Ok(())
}
