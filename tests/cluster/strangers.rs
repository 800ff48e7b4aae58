//! Whoever says that it is a node is not one yet: what strangers may say under a name of their own, and under
//! that of a member, changes nothing.
//!
//! The strangers here know more than one can learn from outside: the members' directories, read from the
//! disk of a member.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::causal::{Clock, Dot, Sibling, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{Frame, Header, put_frame, split_batch};
use dynakv_protocol::gossip::{Accept, Ballot, Gossip, Join, MemberEntry, Prepare, Probe};
use dynakv_protocol::handshake::{Hello, Lane, PeerIdentity, Welcome};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::{Compare, List};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{KeepHint, MergeVersions, ReadVersions};
use dynakv_protocol::ring_document::{Member, RingDocument, Step};
use dynakv_protocol::{
    Actor, ClusterId, DirectoryId, ErrorCode, ErrorReply, Generation, NodeId, RingVersion, WriteId,
};
use dynakv_storage::{DirectoryFiles, load_document};

use crate::harness::{Cluster, Node, PATIENCE, eventually};

/// How often, and how far apart, it is looked whether something happens that must not. Ten rounds of gossip.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A connection of somebody who says that it is a node.
pub(crate) struct Stranger {
    pub(crate) stream: TcpStream,
    pub(crate) welcome: Welcome,
}

pub(crate) fn send(stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(request.kind(), 7), |out| {
        request.encode(out)
    });
    stream.write_all(&out)
}

/// Kind and body of the next frame.
pub(crate) fn receive(stream: &mut TcpStream) -> std::io::Result<(u8, u64, Bytes)> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix)?;
    let length = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
    let mut rest = vec![0; length - 4];
    stream.read_exact(&mut rest)?;
    let id = rest[4..12].try_into().expect("eight bytes");
    Ok((
        rest[1],
        u64::from_be_bytes(id),
        Bytes::copy_from_slice(&rest[12..]),
    ))
}

fn answer(stream: &mut TcpStream) -> Response {
    let (kind, id, body) = receive(stream).expect("a node answers");
    let frame = Frame {
        header: Header::new(kind, id),
        body,
    };
    // Between nodes also a single answer may come as a batch.
    let mut frames = Vec::new();
    split_batch(frame, |frame| frames.push(frame)).expect("a whole batch");
    let [frame] = &frames[..] else {
        panic!("one answer to one question, not {}", frames.len());
    };
    Response::decode(frame.header.kind, &frame.body).expect("and in its own words")
}

pub(crate) fn connect(node: &Node, hello: Hello) -> Result<Stranger, ErrorReply> {
    let mut stream = TcpStream::connect(node.address()).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    send(&mut stream, &Request::Hello(hello)).unwrap();
    match answer(&mut stream) {
        Response::Welcome(welcome) => Ok(Stranger { stream, welcome }),
        Response::Error(error) => Err(error),
        other => panic!("no answer to a hello: {other:?}"),
    }
}

impl Stranger {
    pub(crate) fn ask(&mut self, request: Request) -> Response {
        send(&mut self.stream, &request).expect("the connection stands");
        answer(&mut self.stream)
    }
}

/// The ring, as a member has it on its disk.
pub(crate) fn ring_of(node: &Node) -> RingDocument {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(node.data_dir().join("ring"), copy.path().join("ring")).unwrap();
    let files = DirectoryFiles::open(copy.path()).unwrap();
    let bytes = load_document(&files, "ring").unwrap().expect("it has one");
    RingDocument::from_bytes(&bytes).unwrap()
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// Somebody whom nobody knows.
pub(crate) fn nobody(ring: &RingDocument) -> PeerIdentity {
    PeerIdentity {
        node_id: id("stranger"),
        directory_id: DirectoryId(0x5757),
        cluster_id: ring.cluster_id,
        generation: Generation(1),
        nonce: 0x77,
        address: "127.0.0.1:1".to_owned(),
        lane: Lane::Control,
    }
}

/// What a node says of itself to whoever asks.
pub(crate) fn welcome_of(node: &Node) -> Welcome {
    let greeted = connect(node, Hello::client("", None));
    greeted.expect("clients are welcome").welcome
}

/// The very process of a member, as it introduces itself.
pub(crate) fn disguised_as(node: &Node, ring: &RingDocument) -> PeerIdentity {
    let welcome = welcome_of(node);
    let member = ring.member(&id(&node.id)).expect("it is a member");
    PeerIdentity {
        node_id: member.id.clone(),
        directory_id: member.directory_id,
        generation: welcome.generation,
        nonce: welcome.nonce,
        address: member.address.clone(),
        ..nobody(ring)
    }
}

pub(crate) fn hello(peer: &PeerIdentity) -> Hello {
    Hello::peer("dynakv", peer.clone())
}

/// News of a member, as somebody else tells them.
fn entry(member: &Member, generation: u64) -> MemberEntry {
    MemberEntry {
        generation: Generation(generation),
        heartbeat: 1,
        nonce: 0x99,
        ..MemberEntry::new(
            member.id.clone(),
            member.address.clone(),
            member.directory_id,
        )
    }
}

fn gossip(ring_version: u64, entries: Vec<MemberEntry>) -> Request {
    Request::Gossip(Gossip {
        ring_version: RingVersion(ring_version),
        entries,
    })
}

/// Panics unless all nodes run on through some rounds of gossip, and serve.
#[track_caller]
pub(crate) fn assert_unharmed(cluster: &mut Cluster, what: &str) {
    let version = cluster[0].stat("/ring/version");
    for _ in 0..LOOKS {
        std::thread::sleep(BETWEEN_LOOKS);
        for index in 0..cluster.nodes().len() {
            assert!(cluster[index].runs(), "after {what} node {index} has ended");
        }
    }
    cluster.wait_whole();
    assert_eq!(cluster[0].stat("/ring/version"), version, "after {what}");
    for node in cluster.nodes() {
        node.run(&["put", "after", what]).exits(0);
        assert_eq!(node.run(&["get", "after"]).exits(0).text(), what);
    }
}

/// Nodes in which nothing is to be rebuilt come back from a restart with all they had.
#[track_caller]
fn assert_restarts_whole(cluster: &mut Cluster) {
    for index in 0..cluster.nodes().len() {
        assert_eq!(cluster[index].terminate().code(), Some(0));
    }
    cluster.restart_all();
    for node in cluster.nodes() {
        let rebuilding = node.metric("dynakv_rebuilding_segments", "");
        assert_eq!(rebuilding, Ok(0), "{}", node.id);
        assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
    }
}

/// Counters that no process can have reached, those that one can have, under a name of its own and under that
/// of a member: no node takes its own run for an old one, and after a restart all is as it was.
#[test]
fn gossip_of_strangers_ends_nobody() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    for generation in [u64::MAX, 1 << 40, 7] {
        for index in 0..3 {
            let victim = ring.member(&id(&cluster[index].id)).unwrap();
            let liars = [
                nobody(&ring),
                disguised_as(&cluster[(index + 1) % 3], &ring),
            ];
            for liar in liars {
                let Ok(mut stranger) = connect(&cluster[index], hello(&liar)) else {
                    continue;
                };
                // About the node itself, and about all others.
                let others = ring.members.iter().map(|member| entry(member, generation));
                let entries = std::iter::once(entry(victim, generation)).chain(others);
                stranger.ask(gossip(ring.version.0, entries.collect()));
            }
        }
    }
    assert_unharmed(&mut cluster, "gossip");
    assert_restarts_whole(&mut cluster);
}

/// One hello, under a member's name and with its directory, or with another one, and the member would never be
/// let in again.
#[test]
fn a_hello_under_a_member_s_name_keeps_it_from_nothing() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let member = disguised_as(&cluster[1], &ring);
    let liars = |nonce: u64| {
        let generations = [u64::MAX, 1 << 40, member.generation.0 + 1];
        let directories = [member.directory_id, DirectoryId(1)];
        let pairs = directories.map(|directory| generations.map(|it| (directory, it)));
        let liar = |(directory_id, generation)| PeerIdentity {
            directory_id,
            generation: Generation(generation),
            nonce,
            ..member.clone()
        };
        pairs.into_iter().flatten().map(liar).collect::<Vec<_>>()
    };
    for index in [0, 2] {
        for liar in liars(0x99) {
            // Refused or not: what counts is what comes of it.
            drop(connect(&cluster[index], hello(&liar)));
        }
    }
    assert_unharmed(&mut cluster, "hellos");
    cluster[1].kill();
    for index in [0, 2] {
        // While it is down there is nobody to ask but for what no process can be.
        for liar in liars(0x98) {
            if liar.generation.0 > 1 << 32 || liar.directory_id == DirectoryId(1) {
                drop(connect(&cluster[index], hello(&liar)));
            }
        }
    }
    cluster[1].start();
    cluster.wait_whole();
    assert_restarts_whole(&mut cluster);
}

/// Proposals of strangers, and of members in numbers that no member has counted to, promise nothing away: the
/// ring is still decided.
#[test]
fn proposals_of_strangers_end_no_decision() {
    let mut cluster = Cluster::start(3);
    let ring = ring_of(&cluster[0]);
    let slot = RingVersion(ring.version.0 + 1);
    let mut mine = ring.clone();
    mine.version = slot;
    mine.step = Step::Final;
    for round in [u64::MAX, 1 << 63, 1 << 40] {
        for index in 0..3 {
            let liars = [
                nobody(&ring),
                disguised_as(&cluster[(index + 1) % 3], &ring),
            ];
            for liar in liars {
                let ballot = Ballot {
                    round,
                    node: id("z"),
                };
                let Ok(mut stranger) = connect(&cluster[index], hello(&liar)) else {
                    continue;
                };
                let ballot_of = ballot.clone();
                stranger.ask(Request::Prepare(Prepare {
                    slot,
                    ballot: ballot_of,
                }));
                if index == 0 {
                    let document = mine.clone();
                    stranger.ask(Request::Accept(Accept { ballot, document }));
                }
            }
        }
    }
    assert_eq!(cluster[0].stat("/ring/version"), Ok(ring.version.0));
    cluster.seal("key", "value");
    assert_unharmed(&mut cluster, "proposals");
    assert_restarts_whole(&mut cluster);
}

/// Somebody who listens, and counts who comes.
struct Trap {
    address: String,
    visits: Arc<AtomicUsize>,
}

impl Trap {
    /// Answers whoever comes as this node would that has this ring.
    fn set(identity: Welcome, forged: RingDocument) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let visits = Arc::new(AtomicUsize::new(0));
        let counted = visits.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                let (identity, forged) = (identity.clone(), forged.clone());
                let Ok(mut stream) = stream else { continue };
                std::thread::spawn(move || {
                    while let Ok((kind, request_id, body)) = receive(&mut stream) {
                        let response = match Request::decode(kind, &body) {
                            Ok(Request::Hello(_)) => Response::Welcome(identity.clone()),
                            Ok(Request::FetchRing) => Response::RingDocument(forged.clone()),
                            Ok(_) => Response::Pong,
                            Err(_) => return,
                        };
                        let mut out = BytesMut::new();
                        let header = Header::new(response.kind(), request_id);
                        put_frame(&mut out, header, |out| response.encode(out));
                        if stream.write_all(&out).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, visits }
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

/// Addresses in gossip are not dialled because they are there, and a ring that somebody offers is not followed
/// because its number is higher.
#[test]
fn nobody_is_sent_to_an_address_by_gossip() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let forged = |members: Vec<Member>| RingDocument {
        version: RingVersion(ring.version.0 + 100),
        members,
        ..ring.clone()
    };
    let stranger = nobody(&ring);
    let traps: Vec<Trap> = [stranger.clone(), disguised_as(&cluster[1], &ring)]
        .map(|liar| {
            let identity = Welcome {
                version: 1,
                node_id: liar.node_id.clone(),
                generation: liar.generation,
                nonce: liar.nonce,
                cluster_name: ring.cluster_name.clone(),
                cluster_id: ring.cluster_id,
                ring_version: RingVersion(ring.version.0 + 100),
                directory_id: liar.directory_id,
                limits: None,
                may_found: false,
            };
            let member = Member {
                id: liar.node_id.clone(),
                directory_id: liar.directory_id,
                address: liar.address.clone(),
                weight: 1,
                zone: String::new(),
            };
            Trap::set(identity, forged(vec![member]))
        })
        .into();
    for (trap, liar) in traps
        .iter()
        .zip([stranger.clone(), disguised_as(&cluster[1], &ring)])
    {
        let liar = PeerIdentity {
            address: trap.address.clone(),
            ..liar
        };
        for round in 0..20 {
            let Ok(mut caller) = connect(&cluster[0], hello(&liar)) else {
                continue;
            };
            // Of itself, and of each member: the same run as it has, and a newer one, at the trap.
            let mut entries = vec![MemberEntry {
                id: liar.node_id.clone(),
                directory_id: liar.directory_id,
                nonce: liar.nonce,
                generation: liar.generation,
                address: trap.address.clone(),
                heartbeat: 1 << 30,
                ..entry(&ring.members[1], 1)
            }];
            for member in &ring.members[1..] {
                for generation in [1, 2 + round] {
                    entries.push(MemberEntry {
                        address: trap.address.clone(),
                        heartbeat: 1 << 30,
                        ..entry(member, generation)
                    });
                }
            }
            caller.ask(gossip(ring.version.0 + 100, entries));
            caller.ask(Request::Probe(Probe {
                target: id("node-3"),
            }));
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
    assert_unharmed(&mut cluster, "addresses");
    let visits: Vec<usize> = traps.iter().map(Trap::visits).collect();
    assert_eq!(visits, [0, 0], "dialled because gossip said so");
}

/// Versions with one value, that no node has written.
pub(crate) fn one_value(value: &'static [u8]) -> Bytes {
    let dot = Dot {
        actor: Actor(1),
        counter: 1,
    };
    let sibling = Sibling {
        dot,
        write_id: WriteId(1),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from_static(value)),
    };
    let clock: Clock = [dot].into_iter().collect();
    Versions::from_parts(clock, [sibling]).unwrap().to_bytes()
}

/// What nodes ask of each other about data is not answered to strangers, and what they hand over is not taken.
#[test]
fn strangers_neither_give_nor_get_copies() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let versions = one_value(b"forged");
    let (ring_version, timeout_ms, key) = (ring.version, 5_000, Bytes::from_static(b"key"));
    let asked = [
        Request::Merge(MergeVersions {
            ring_version,
            timeout_ms,
            key: key.clone(),
            versions: versions.clone(),
            tell_beside: false,
        }),
        Request::Read(ReadVersions {
            ring_version,
            timeout_ms,
            key: key.clone(),
            tell_actor: true,
            digest_above: None,
        }),
        Request::Hint(KeepHint {
            ring_version,
            timeout_ms,
            key: key.clone(),
            versions,
            owed: vec![id("node-2")],
            needed: 1,
        }),
        Request::Compare(Compare {
            ring_version,
            node_id: id("node-2"),
            page: None,
        }),
        Request::List(List {
            ring_version,
            segment: Segment::of_key(b"key"),
            bytes_max: 1 << 20,
            with_versions: true,
            after_key: None,
        }),
        Request::FetchRing,
        gossip(ring.version.0, Vec::new()),
        Request::Probe(Probe {
            target: id("node-2"),
        }),
    ];
    let member = disguised_as(&cluster[1], &ring);
    let liars = [
        nobody(&ring),
        // A member's name with another directory, a member's directory under another name.
        PeerIdentity {
            directory_id: DirectoryId(1),
            ..member.clone()
        },
        PeerIdentity {
            node_id: id("stranger"),
            ..member
        },
    ];
    for liar in &liars {
        for lane in [Lane::Control, Lane::Data] {
            let liar = PeerIdentity {
                lane,
                ..liar.clone()
            };
            for request in &asked {
                let refused = match connect(&cluster[0], hello(&liar)) {
                    Ok(mut stranger) => match stranger.ask(request.clone()) {
                        Response::Error(error) => error,
                        // It may be the process on a directory that the member had before, or one that was being
                        // taken in: that is to find out. Any client may ask for as much.
                        Response::Gossip(told) if told.entries.is_empty() => continue,
                        Response::RingDocument(_) => continue,
                        given => panic!("{request:?} of a stranger is answered: {given:?}"),
                    },
                    Err(error) => error,
                };
                // What is about data is for data connections, on which no stranger is let in.
                let is_refused = match refused.code {
                    ErrorCode::NotReady => refused.message.contains("the ring of this node"),
                    ErrorCode::BadRequest => refused.message.contains("only nodes of the cluster"),
                    _ => false,
                };
                assert!(is_refused, "{request:?}: {refused}");
            }
        }
    }
    assert_eq!(cluster[0].run(&["get", "key"]).exits(0).text(), "value");
    for node in cluster.nodes() {
        assert_eq!(node.metric("dynakv_hints_waiting", ""), Ok(0));
    }
    assert_unharmed(&mut cluster, "requests");
}

/// While a member lives, nobody joins in its place.
#[test]
fn nobody_joins_under_the_name_of_a_member_that_lives() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    let ring = ring_of(&cluster[0]);
    let liar = PeerIdentity {
        node_id: id("node-2"),
        directory_id: DirectoryId(1),
        cluster_id: ClusterId::default(),
        ..nobody(&ring)
    };
    let mut stranger = connect(&cluster[0], hello(&liar)).expect("who joins may ask");
    let member = Member {
        directory_id: liar.directory_id,
        address: liar.address.clone(),
        ..ring.member(&id("node-2")).unwrap().clone()
    };
    let join = Request::Join(Join {
        member,
        n: None,
        w: None,
        r: None,
        is_rebuilding: true,
        knows_changes: true,
        waits: false,
    });
    let answer = stranger.ask(join);
    let Response::Error(error) = answer else {
        panic!("taken in: {answer:?}");
    };
    assert_eq!(error.code, ErrorCode::DuplicateNode, "{error}");
    assert_unharmed(&mut cluster, "a join");
    eventually("the ring to be as it was", || {
        match ring_of(&cluster[0]) == ring {
            true => Ok(()),
            false => Err("it has changed".to_owned()),
        }
    });
}
