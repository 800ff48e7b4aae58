//! The bytes of the protocol, pinned: an encoding that changes by accident is a cluster that cannot
//! read its own disks.
//!
//! `golden.txt` holds at least one instance of everything with an encoding. Messages stand in it as
//! whole frames, so it doubles as a set of test vectors for clients in other languages.

mod golden_file;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::admin::{
    Explain, Explained, ExplainedOwner, Export, Exported, ExportedItem, Import, Imported,
    OwnerState,
};
use dynakv_protocol::causal::{Clock, Dot, Incoming, Mark, Value, Versions, context};
use dynakv_protocol::change_ring::{ChangeRing, MemberWish, RingWish};
use dynakv_protocol::client::{
    AwaitedFor, Fetched, FetchedSibling, Get, HandedOn, HealthReply, MemberStatus, OtherCluster,
    RingReply, StatsReply, StatusReply, Write, Written,
};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{
    BatchWriter, FLAG_FORWARDED, Frame, FrameDecoder, Header, put_frame, split_batch,
};
use dynakv_protocol::gossip::{
    Accept, Ballot, Gossip, Join, MemberEntry, MemberState, Prepare, Probe, Probed, Vote,
};
use dynakv_protocol::handshake::{ClientLimits, GoAway, Hello, Lane, PeerIdentity, Welcome};
use dynakv_protocol::hash::{Position, Segment};
use dynakv_protocol::mend::{Compare, Compared, List, Listed, ListedKey};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::moving::Moving;
use dynakv_protocol::peer::{Digest, KeepHint, MergeVersions, Merged, ReadVersions, VersionsReply};
use dynakv_protocol::repair::{Repair, RepairProgress};
use dynakv_protocol::ring_document::{Change, ChangePhase, Member, RingDocument, Stake, Step};
use dynakv_protocol::snapshot::{Snapshot, SnapshotProgress};
use dynakv_protocol::unlock::{Replace, Unlock, Unlocked};
use dynakv_protocol::{
    Actor, ClusterId, DecodeError, DirectoryId, ErrorCode, ErrorReply, Generation, NodeId,
    RingVersion, WriteId,
};

/// Set this to `write` to pin the bytes of today.
const VARIABLE: &str = "DYNAKV_GOLDEN";

const HEADING: &str = "\
# Pinned encodings: a name, a space, hexadecimal. PROTOCOL.md explains them.
# request.* and response.* are whole frames of protocol version 1 with request id 0x0102030405060708.
#
# Written by `DYNAKV_GOLDEN=write cargo test -p dynakv-protocol --test golden`.
# A changed line is a changed protocol: nodes and clients in the field, and every disk, have the old one.
";

const REQUEST_ID: u64 = 0x0102_0304_0506_0708;
const CLUSTER: ClusterId = ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const WRITE: WriteId = WriteId(0xf0f1_f2f3_f4f5_f6f7_f8f9_fafb_fcfd_feff);
const KEY: &[u8] = b"user:123";

/// One pinned encoding, and the value that it must decode to.
enum Golden {
    Request(Request, u16),
    Response(Response),
    Frames(Bytes, Vec<Frame>),
    Clock(Clock),
    Versions(Versions),
    Context(Clock),
    RingDocument(RingDocument),
    Position(Position),
}

impl Golden {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Request(request, flags) => {
                let mut header = Header::new(request.kind(), REQUEST_ID);
                header.flags = *flags;
                put_frame(&mut out, header, |out| request.encode(out));
            }
            Self::Response(response) => {
                let header = Header::new(response.kind(), REQUEST_ID);
                put_frame(&mut out, header, |out| response.encode(out));
            }
            Self::Frames(bytes, _) => return bytes.clone(),
            Self::Clock(clock) => clock.encode(&mut out),
            Self::Versions(versions) => versions.encode(&mut out),
            Self::Context(clock) => return context::seal(CLUSTER, KEY, clock),
            Self::RingDocument(document) => document.encode(&mut out),
            Self::Position(position) => return Bytes::copy_from_slice(&position.0.to_be_bytes()),
        }
        out.freeze()
    }

    /// Decodes pinned bytes and compares them with the value.
    fn verify(&self, name: &str, pinned: &Bytes) {
        match self {
            Self::Request(request, flags) => {
                let frame = only_frame(name, pinned);
                assert_eq!(frame.header.flags, *flags, "{name}");
                let decoded = Request::decode(frame.header.kind, &frame.body);
                assert_eq!(decoded.as_ref(), Ok(request), "{name}");
            }
            Self::Response(response) => {
                let frame = only_frame(name, pinned);
                let decoded = Response::decode(frame.header.kind, &frame.body);
                assert_eq!(decoded.as_ref(), Ok(response), "{name}");
            }
            Self::Frames(_, expected) => assert_eq!(&messages(name, pinned), expected, "{name}"),
            Self::Clock(clock) => {
                assert_eq!(Clock::from_bytes(pinned).as_ref(), Ok(clock), "{name}");
            }
            Self::Versions(versions) => {
                assert_eq!(
                    Versions::from_bytes(pinned).as_ref(),
                    Ok(versions),
                    "{name}"
                );
            }
            Self::Context(clock) => {
                let opened = context::open(CLUSTER, KEY, pinned);
                assert_eq!(opened.as_ref(), Ok(clock), "{name}");
            }
            Self::RingDocument(document) => {
                let decoded = RingDocument::from_bytes(pinned);
                assert_eq!(decoded.as_ref(), Ok(document), "{name}");
            }
            Self::Position(position) => {
                assert_eq!(position.0.to_be_bytes()[..], pinned[..], "{name}");
            }
        }
    }
}

/// All messages of a stream, those in batches too.
fn messages(name: &str, stream: &Bytes) -> Vec<Frame> {
    let mut buffer = BytesMut::from(&stream[..]);
    let mut messages = Vec::new();
    while let Some(frame) = FrameDecoder::new(1 << 20)
        .next(&mut buffer)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
    {
        split_batch(frame, |message| messages.push(message))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(buffer.is_empty(), "{name}: half a frame at the end");
    messages
}

fn only_frame(name: &str, stream: &Bytes) -> Frame {
    let mut frames = messages(name, stream);
    assert_eq!(frames.len(), 1, "{name}");
    let frame = frames.remove(0);
    assert_eq!(frame.header.request_id, REQUEST_ID, "{name}");
    frame
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn moving() -> Moving {
    Moving {
        segments_left: 300,
        bytes: 5_000_000,
        bytes_per_s: 40_000,
        seconds_left: Some(61),
    }
}

/// A status with nothing to tell.
fn status() -> StatusReply {
    StatusReply {
        node_id: node("node-1"),
        cluster_name: "dynakv".to_owned(),
        cluster_id: CLUSTER,
        ring_version: RingVersion(3),
        n: 3,
        w: 2,
        r: 2,
        members: Vec::new(),
        locked_keys: 0,
        locked_keys_named: Vec::new(),
        other_clusters: Vec::new(),
        awaited: Vec::new(),
        awaited_for: None,
        waiting: Vec::new(),
    }
}

fn dot(actor: u64, counter: u64) -> Dot {
    let actor = Actor(actor);
    Dot { actor, counter }
}

fn clock() -> Clock {
    [
        dot(0x0a0a_0a0a_0a0a_0a0a, 5),
        dot(0x0b0b_0b0b_0b0b_0b0b, 300),
    ]
    .into_iter()
    .collect()
}

/// Two concurrent writes, one of them a delete, over a third that the first had seen.
fn versions() -> Versions {
    let incoming = |write_id, value, expires_at_ms| Incoming {
        write_id: WriteId(write_id),
        timestamp: 1_700_000_000_000 << 16 | 1,
        expires_at_ms,
        value,
    };
    let (alice, bob) = (0x0a0a_0a0a_0a0a_0a0a, 0x0b0b_0b0b_0b0b_0b0b);
    let mut versions = Versions::new();
    let old = Value::Bytes(Bytes::from_static(b"old"));
    versions.write(&Clock::new(), dot(alice, 4), incoming(1, old, None));
    let mut other = versions.clone();
    let seen = versions.clock().clone();
    let new = Value::Bytes(Bytes::from_static(b"Alice"));
    let expires_at_ms = Some(1_700_000_060_000);
    versions.write(&seen, dot(alice, 5), incoming(2, new, expires_at_ms));
    other.write(&seen, dot(bob, 300), incoming(3, Value::Tombstone, None));
    versions.merge(&other);
    versions
}

/// A write that was sent more than once, over another that was too.
fn with_marks() -> Versions {
    let alice = 0x0a0a_0a0a_0a0a_0a0a;
    let timestamp = 1_700_000_000_000 << 16 | 1;
    let mut versions = Versions::new();
    let incoming = Incoming {
        write_id: WriteId(2),
        timestamp,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from_static(b"Alice")),
    };
    versions.write(&Clock::new(), dot(alice, 5), incoming);
    versions.add(Mark::Retired.sibling(dot(alice, 3), WriteId(1), timestamp));
    versions.add(Mark::Again.sibling(dot(alice, 4), WriteId(2), timestamp));
    versions
}

fn member(id: &str, port: u16, zone: &str) -> Member {
    Member {
        id: node(id),
        directory_id: DirectoryId(0x0d0d_0d0d_0d0d_0000 | u64::from(port)),
        address: format!("127.0.0.1:{port}"),
        weight: 1,
        zone: zone.to_owned(),
    }
}

fn ring_document() -> RingDocument {
    RingDocument {
        cluster_id: CLUSTER,
        cluster_name: "dynakv".to_owned(),
        version: RingVersion(3),
        step: Step::Final,
        n: 3,
        w: 2,
        r: 2,
        members: vec![
            member("node-1", 8080, "a"),
            member("node-2", 8081, "b"),
            member("node-3", 8082, ""),
        ],
    }
}

/// node-3 makes room for node-4, and the first node gets more.
fn changing_ring_document() -> RingDocument {
    let mut document = ring_document();
    document.members.push(Member {
        weight: 0,
        ..member("node-4", 8083, "c")
    });
    let stake = |weight, zone: &str| Stake {
        weight,
        zone: zone.to_owned(),
    };
    document.step = Step::Changing(Change {
        phase: ChangePhase::ReadNew,
        begun_at: RingVersion(2),
        target: vec![stake(2, "a"), stake(1, "b"), stake(0, ""), stake(1, "c")],
        stopped: vec![node("node-3")],
    });
    document
}

fn ballot() -> Ballot {
    Ballot {
        round: 2,
        node: node("node-1"),
    }
}

fn gossip() -> Gossip {
    Gossip {
        ring_version: RingVersion(3),
        entries: vec![MemberEntry {
            id: node("node-2"),
            address: "127.0.0.1:8081".to_owned(),
            generation: Generation(4),
            incarnation: 1,
            heartbeat: 1000,
            state: MemberState::Suspected,
            keys: 12_345,
            disk_bytes: 67_890_000,
            software: "0.1.0".to_owned(),
            rebuilding_segments: 300,
            hints_waiting: 0,
            disk_hangs: false,
            disk_full: false,
            ring_version: RingVersion(0),
            complete_since: RingVersion(0),
            settled_at: RingVersion(0),
            hints_counted: 0,
            moving: None,
            directory_id: DirectoryId(0),
            nonce: 0,
        }],
    }
}

/// Of a member that says which ring it follows, and that it has what it gained.
fn gossip_of_a_change() -> Gossip {
    let mut gossip = gossip();
    for entry in &mut gossip.entries {
        (entry.ring_version, entry.complete_since) = (RingVersion(7), RingVersion(5));
        (entry.settled_at, entry.hints_counted) = (RingVersion(5), 300);
        entry.moving = Some(moving());
    }
    gossip
}

/// As it is sent today: it names the run that the counters are of.
fn gossip_of_a_run() -> Gossip {
    let mut gossip = gossip();
    for entry in &mut gossip.entries {
        entry.directory_id = DirectoryId(0x0d0d_0d0d_0d0d_0d0d);
        entry.nonce = 0x0e0e_0e0e_0e0e_0e0e;
    }
    gossip
}

/// The sender keeps something for others.
fn gossip_of_hints() -> Gossip {
    let mut gossip = gossip_of_a_run();
    for entry in &mut gossip.entries {
        entry.hints_waiting = 5;
    }
    gossip
}

/// The sender's disk hangs.
fn gossip_of_a_hanging_disk() -> Gossip {
    let mut gossip = gossip_of_a_run();
    for entry in &mut gossip.entries {
        entry.disk_hangs = true;
    }
    gossip
}

/// The sender's disk is full.
fn gossip_of_a_full_disk() -> Gossip {
    let mut gossip = gossip_of_a_run();
    for entry in &mut gossip.entries {
        entry.disk_full = true;
    }
    gossip
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        node_id: node("node-1"),
        generation: Generation(4),
        nonce: 0x0c0c_0c0c_0c0c_0c0c,
        cluster_name: "dynakv".to_owned(),
        cluster_id: CLUSTER,
        ring_version: RingVersion(3),
        directory_id: DirectoryId(0),
        limits: None,
        may_found: false,
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    let key = Bytes::from_static(KEY);
    let sealed = context::seal(CLUSTER, KEY, &clock());
    let get = Get {
        timeout_ms: 5000,
        key: key.clone(),
        r: None,
        repair_first: false,
    };
    let put = Write {
        timeout_ms: 5000,
        write_id: WRITE,
        key: key.clone(),
        value: Some(Bytes::from_static(b"Alice")),
        context: None,
        w: None,
        ttl_ms: None,
        sloppy: false,
        again: false,
        if_no_conflict: false,
        handed_on: None,
    };
    let delete = Write {
        value: None,
        ..put.clone()
    };
    let plain_put = put.clone();
    let identity = PeerIdentity {
        node_id: node("node-1"),
        directory_id: DirectoryId(0x0d0d_0d0d_0d0d_0d0d),
        cluster_id: CLUSTER,
        generation: Generation(4),
        nonce: 0x0c0c_0c0c_0c0c_0c0c,
        address: "127.0.0.1:8080".to_owned(),
        lane: Lane::Data,
    };
    vec![
        (
            "hello.client",
            Request::Hello(Hello::client("dynakv", None)),
        ),
        (
            "hello.client.pinned",
            Request::Hello(Hello::client("", Some(CLUSTER))),
        ),
        (
            "hello.client.goaway",
            Request::Hello(Hello::client("dynakv", None).knowing_goaway()),
        ),
        (
            "hello.peer",
            Request::Hello(Hello::peer("dynakv", identity)),
        ),
        ("ping", Request::Ping),
        ("get", Request::Get(get.clone())),
        (
            "get.all-options",
            Request::Get(Get {
                r: Some(1),
                repair_first: true,
                ..get
            }),
        ),
        ("put", Request::Put(put.clone())),
        (
            "put.all-options",
            Request::Put(Write {
                context: Some(sealed.clone()),
                w: Some(3),
                ttl_ms: Some(60_000),
                sloppy: true,
                ..put.clone()
            }),
        ),
        (
            "put.if-no-conflict",
            Request::Put(Write {
                if_no_conflict: true,
                ..put
            }),
        ),
        (
            "put.handed-on",
            Request::Put(Write {
                handed_on: Some(HandedOn {
                    sent_ms: 61_000,
                    within_ms: 900,
                }),
                ..plain_put.clone()
            }),
        ),
        (
            "put.again",
            Request::Put(Write {
                again: true,
                ..plain_put
            }),
        ),
        ("delete", Request::Delete(delete.clone())),
        (
            "delete.with-context",
            Request::Delete(Write {
                context: Some(sealed),
                ..delete
            }),
        ),
        ("stats", Request::Stats),
        ("health", Request::Health),
        ("status", Request::Status),
        ("ring", Request::Ring),
        (
            "explain",
            Request::Explain(Explain {
                timeout_ms: 5000,
                key: key.clone(),
            }),
        ),
        (
            "export",
            Request::Export(Export {
                bytes_max: 1_048_576,
                after_key: None,
            }),
        ),
        (
            "export.go-on",
            Request::Export(Export {
                bytes_max: 1_048_576,
                after_key: Some(key.clone()),
            }),
        ),
        (
            "unlock",
            Request::Unlock(Unlock {
                timeout_ms: 5000,
                key: key.clone(),
            }),
        ),
        (
            "replace",
            Request::Replace(Replace {
                ring_version: RingVersion(3),
                timeout_ms: 1000,
                key: key.clone(),
                expected: Some(Digest::of(b"versions")),
                versions: versions().to_bytes(),
            }),
        ),
        (
            "replace.nothing",
            Request::Replace(Replace {
                ring_version: RingVersion(3),
                timeout_ms: 1000,
                key: key.clone(),
                expected: None,
                versions: versions().to_bytes(),
            }),
        ),
        ("repair", Request::Repair(Repair::Start)),
        ("repair.look", Request::Repair(Repair::Look)),
        ("repair.accept-loss", Request::Repair(Repair::AcceptLoss)),
        (
            "snapshot",
            Request::Snapshot(Snapshot::Start {
                name: "before-upgrade".to_owned(),
            }),
        ),
        ("snapshot.look", Request::Snapshot(Snapshot::Look)),
        (
            "change-ring",
            Request::ChangeRing(ChangeRing {
                planned_on: RingVersion(3),
                is_plan: false,
                accept_loss: true,
                is_forced: false,
                wish: RingWish::Members(vec![
                    MemberWish::Joins(member("node-4", 8083, "c")),
                    MemberWish::Leaves(node("node-1")),
                    MemberWish::IsGone(node("node-2")),
                    MemberWish::HasStake(
                        node("node-3"),
                        Stake {
                            weight: 2,
                            zone: "b".to_owned(),
                        },
                    ),
                ]),
            }),
        ),
        (
            "change-ring.abort",
            Request::ChangeRing(ChangeRing {
                planned_on: RingVersion(4),
                is_plan: true,
                accept_loss: false,
                is_forced: false,
                wish: RingWish::Abort,
            }),
        ),
        (
            "change-ring.forced",
            Request::ChangeRing(ChangeRing {
                planned_on: RingVersion(4),
                is_plan: false,
                accept_loss: true,
                is_forced: true,
                wish: RingWish::Members(vec![MemberWish::IsGone(node("node-2"))]),
            }),
        ),
        (
            "hint",
            Request::Hint(KeepHint {
                ring_version: RingVersion(3),
                timeout_ms: 1000,
                key: Bytes::from_static(KEY),
                versions: versions().to_bytes(),
                owed: vec![node("node-1"), node("node-2")],
                needed: 2,
            }),
        ),
        (
            "compare",
            Request::Compare(Compare {
                ring_version: RingVersion(3),
                node_id: node("node-1"),
                page: None,
            }),
        ),
        (
            "compare.page",
            Request::Compare(Compare {
                ring_version: RingVersion(3),
                node_id: node("node-1"),
                page: Some(7),
            }),
        ),
        (
            "list",
            Request::List(List {
                ring_version: RingVersion(3),
                segment: Segment(0x0102),
                bytes_max: 1_048_576,
                with_versions: false,
                after_key: None,
            }),
        ),
        (
            "list.go-on",
            Request::List(List {
                ring_version: RingVersion(3),
                segment: Segment(0x0102),
                bytes_max: 1_048_576,
                with_versions: true,
                after_key: Some(key.clone()),
            }),
        ),
        (
            "import",
            Request::Import(Import {
                timeout_ms: 5000,
                key: key.clone(),
                versions: versions().to_bytes(),
                w: None,
            }),
        ),
        (
            "import.all-options",
            Request::Import(Import {
                timeout_ms: 5000,
                key: key.clone(),
                versions: versions().to_bytes(),
                w: Some(3),
            }),
        ),
        (
            "merge",
            Request::Merge(MergeVersions {
                ring_version: RingVersion(3),
                timeout_ms: 4000,
                key: key.clone(),
                versions: versions().to_bytes(),
                tell_beside: false,
            }),
        ),
        (
            "merge.tell-beside",
            Request::Merge(MergeVersions {
                ring_version: RingVersion(3),
                timeout_ms: 4000,
                key: key.clone(),
                versions: versions().to_bytes(),
                tell_beside: true,
            }),
        ),
        (
            "read",
            Request::Read(ReadVersions {
                ring_version: RingVersion(3),
                timeout_ms: 4000,
                key: key.clone(),
                tell_actor: false,
                digest_above: None,
            }),
        ),
        (
            "read.tell-actor",
            Request::Read(ReadVersions {
                ring_version: RingVersion(3),
                timeout_ms: 4000,
                key: key.clone(),
                tell_actor: true,
                digest_above: None,
            }),
        ),
        (
            "read.digest-above",
            Request::Read(ReadVersions {
                ring_version: RingVersion(3),
                timeout_ms: 4000,
                key,
                tell_actor: false,
                digest_above: Some(4096),
            }),
        ),
        ("gossip", Request::Gossip(gossip())),
        ("gossip.run", Request::Gossip(gossip_of_a_run())),
        ("gossip.hints", Request::Gossip(gossip_of_hints())),
        (
            "gossip.disk_hangs",
            Request::Gossip(gossip_of_a_hanging_disk()),
        ),
        ("gossip.changing", Request::Gossip(gossip_of_a_change())),
        ("gossip.disk_full", Request::Gossip(gossip_of_a_full_disk())),
        (
            "probe",
            Request::Probe(Probe {
                target: node("node-3"),
            }),
        ),
        (
            "join",
            Request::Join(Join {
                member: member("node-4", 8083, "c"),
                n: Some(3),
                w: None,
                r: None,
                is_rebuilding: true,
                knows_changes: false,
                waits: false,
            }),
        ),
        (
            "join.changing",
            Request::Join(Join {
                member: member("node-4", 8083, "c"),
                n: None,
                w: None,
                r: None,
                is_rebuilding: false,
                knows_changes: true,
                waits: true,
            }),
        ),
        ("fetch-ring", Request::FetchRing),
        (
            "prepare",
            Request::Prepare(Prepare {
                slot: RingVersion(4),
                ballot: ballot(),
            }),
        ),
        (
            "accept",
            Request::Accept(Accept {
                ballot: ballot(),
                document: ring_document(),
            }),
        ),
    ]
}

fn responses() -> Vec<(&'static str, Response)> {
    let sealed = context::seal(CLUSTER, KEY, &clock());
    let sibling = |actor, counter, value: &'static [u8]| FetchedSibling {
        dot: dot(actor, counter),
        timestamp_ms: 1_700_000_000_000,
        value: Bytes::from_static(value),
    };
    let written = Written {
        context: sealed.clone(),
        effective_w: 2,
        sloppy: false,
        replaced: 0,
    };
    let vote = Vote {
        slot: RingVersion(4),
        granted: true,
        promised: ballot(),
        accepted: None,
        decided: None,
    };
    let error = ErrorReply::new(ErrorCode::BadRequest, "the key is empty");
    let unavailable = ErrorReply::new(ErrorCode::QuorumUnavailable, "1 of 2 replicas answered")
        .retryable()
        .maybe_applied(true)
        .with_quorum(2, 1)
        .with_ring_version(RingVersion(3));
    vec![
        ("error", Response::Error(error)),
        ("error.all-options", Response::Error(unavailable)),
        ("welcome", Response::Welcome(welcome())),
        (
            "welcome.directory",
            Response::Welcome(Welcome {
                directory_id: DirectoryId(0x0d0d_0d0d_0d0d_0d0d),
                ..welcome()
            }),
        ),
        (
            "welcome.limits",
            Response::Welcome(Welcome {
                limits: Some(ClientLimits {
                    value_bytes_max: 1_048_576,
                    frame_bytes_max: 5_767_168,
                    batch_items_max: 4096,
                    requests_in_flight_max: 32_768,
                }),
                ..welcome()
            }),
        ),
        (
            "welcome.may-found",
            Response::Welcome(Welcome {
                cluster_id: ClusterId(0),
                ring_version: RingVersion(0),
                may_found: true,
                ..welcome()
            }),
        ),
        (
            "goaway",
            Response::GoAway(GoAway {
                last_id: 7,
                drain_ms: 20_000,
                reason: "shutting down".to_owned(),
            }),
        ),
        ("pong", Response::Pong),
        (
            "fetched.absent",
            Response::Fetched(Fetched {
                siblings: Vec::new(),
                context: context::seal(CLUSTER, KEY, &Clock::new()),
                effective_r: 2,
            }),
        ),
        (
            "fetched.siblings",
            Response::Fetched(Fetched {
                siblings: vec![
                    sibling(0x0a0a_0a0a_0a0a_0a0a, 5, b"Alice"),
                    sibling(0x0b0b_0b0b_0b0b_0b0b, 300, b"Bob"),
                ],
                context: sealed,
                effective_r: 2,
            }),
        ),
        ("put", Response::Put(written.clone())),
        (
            "deleted.sloppy",
            Response::Deleted(Written {
                sloppy: true,
                ..written.clone()
            }),
        ),
        (
            "put.replaced",
            Response::Put(Written {
                replaced: 3,
                ..written
            }),
        ),
        (
            "stats",
            Response::Stats(StatsReply {
                node_id: node("node-1"),
                address: "127.0.0.1:8080".to_owned(),
                total_keys: 150,
                total_versions: 155,
                conflict_keys: 5,
                n: 3,
                w: 2,
                r: 2,
                ring_version: RingVersion(3),
                total_nodes: 3,
                total_virtual_nodes: 450,
                virtual_nodes_per_node: 150,
                known_nodes: 3,
                alive_nodes: 2,
            }),
        ),
        (
            "health",
            Response::Health(HealthReply {
                node_id: node("node-1"),
                ready: false,
                reason: "joining".to_owned(),
            }),
        ),
        (
            "status",
            Response::Status(StatusReply {
                members: vec![MemberStatus {
                    id: node("node-2"),
                    address: "127.0.0.1:8081".to_owned(),
                    state: MemberState::Dead,
                    state_age_ms: 61_000,
                    generation: Generation(4),
                    zone: "b".to_owned(),
                    keys: 150,
                    disk_bytes: 1_048_576,
                    owns_basis_points: 3345,
                    software: "0.1.0".to_owned(),
                    rebuilding_segments: 65_536,
                    hints_waiting: 0,
                    disk_hangs: false,
                    disk_full: false,
                    unreachable: false,
                    moving: None,
                }],
                ..status()
            }),
        ),
        (
            "status.troubled-member",
            Response::Status(StatusReply {
                members: vec![MemberStatus {
                    id: node("node-2"),
                    address: "127.0.0.1:8081".to_owned(),
                    state: MemberState::Alive,
                    state_age_ms: 61_000,
                    generation: Generation(4),
                    zone: String::new(),
                    keys: 150,
                    disk_bytes: 1_048_576,
                    owns_basis_points: 3345,
                    software: "0.1.0".to_owned(),
                    rebuilding_segments: 0,
                    hints_waiting: 0,
                    disk_hangs: true,
                    disk_full: true,
                    unreachable: true,
                    moving: Some(moving()),
                }],
                ..status()
            }),
        ),
        (
            "status.locked",
            Response::Status(StatusReply {
                locked_keys: 300,
                locked_keys_named: vec![Bytes::from_static(KEY)],
                ..status()
            }),
        ),
        (
            "status.changing",
            Response::Status(StatusReply {
                awaited: vec![node("node-2"), node("node-4")],
                awaited_for: Some(AwaitedFor::HandingOn),
                ..status()
            }),
        ),
        (
            "status.waiting",
            Response::Status(StatusReply {
                waiting: vec![member("node-4", 8083, "c")],
                ..status()
            }),
        ),
        (
            "status.other-clusters",
            Response::Status(StatusReply {
                other_clusters: vec![
                    OtherCluster {
                        is_seed: true,
                        address: "127.0.0.1:8090".to_owned(),
                        reason: "another cluster".to_owned(),
                    },
                    OtherCluster {
                        is_seed: false,
                        address: "127.0.0.1:8091".to_owned(),
                        reason: "node-9 of another cluster".to_owned(),
                    },
                ],
                ..status()
            }),
        ),
        (
            "ring",
            Response::Ring(RingReply {
                document: ring_document(),
                addresses: vec![
                    "127.0.0.1:8080".to_owned(),
                    "127.0.0.1:8081".to_owned(),
                    "127.0.0.1:9082".to_owned(),
                ],
            }),
        ),
        (
            "explained",
            Response::Explained(Explained {
                node_id: node("node-1"),
                ring_version: RingVersion(3),
                now_unix_ms: 1_700_000_000_000,
                owners: vec![
                    ExplainedOwner {
                        id: node("node-2"),
                        address: "127.0.0.1:8081".to_owned(),
                        state: MemberState::Alive,
                        answer: Ok(OwnerState::of(
                            &versions(),
                            Some(Actor(0x0b0b_0b0b_0b0b_0b0b)),
                            false,
                        )),
                    },
                    ExplainedOwner {
                        id: node("node-3"),
                        address: "127.0.0.1:8082".to_owned(),
                        state: MemberState::Dead,
                        answer: Err("no answer in time".to_owned()),
                    },
                ],
            }),
        ),
        (
            "exported",
            Response::Exported(Exported {
                node_id: node("node-1"),
                cluster_name: "dynakv".to_owned(),
                cluster_id: CLUSTER,
                ring_version: RingVersion(3),
                items: vec![ExportedItem {
                    key: Bytes::from_static(KEY),
                    versions: versions().to_bytes(),
                }],
                damaged: Vec::new(),
                locked: Vec::new(),
                next: Some(Bytes::from_static(KEY)),
            }),
        ),
        (
            "exported.last-damaged",
            Response::Exported(Exported {
                node_id: node("node-1"),
                cluster_name: "dynakv".to_owned(),
                cluster_id: CLUSTER,
                ring_version: RingVersion(3),
                items: Vec::new(),
                damaged: vec![Bytes::from_static(KEY)],
                locked: Vec::new(),
                next: None,
            }),
        ),
        (
            "exported.locked",
            Response::Exported(Exported {
                node_id: node("node-1"),
                cluster_name: "dynakv".to_owned(),
                cluster_id: CLUSTER,
                ring_version: RingVersion(3),
                items: Vec::new(),
                damaged: vec![Bytes::from_static(KEY)],
                locked: vec![Bytes::from_static(KEY)],
                next: None,
            }),
        ),
        (
            "unlocked",
            Response::Unlocked(Unlocked {
                node_id: node("node-1"),
                owners: 3,
                clock_entries_before: 4097,
                clock_entries: 1,
                siblings: 1,
                siblings_given_up: 0,
            }),
        ),
        ("replaced", Response::Replaced),
        ("hint-kept", Response::HintKept),
        (
            "compared",
            Response::Compared(Compared {
                hashes: (0..256).map(|number| number << 64 | 0xff).collect(),
                rebuilding: [0x11; 32],
                not_shared: [0; 32],
            }),
        ),
        (
            "compared.not-shared",
            Response::Compared(Compared {
                hashes: vec![0; 256],
                rebuilding: [0; 32],
                not_shared: [0xfe; 32],
            }),
        ),
        (
            "listed",
            Response::Listed(Listed {
                rebuilding: true,
                keys: vec![ListedKey {
                    key: Bytes::from_static(KEY),
                    hash: 0x0102_0304_0506_0708,
                    versions: versions().to_bytes(),
                }],
                next: Some(Bytes::from_static(KEY)),
            }),
        ),
        (
            "listed.last",
            Response::Listed(Listed {
                rebuilding: false,
                keys: vec![ListedKey {
                    key: Bytes::from_static(KEY),
                    hash: 1,
                    versions: Bytes::new(),
                }],
                next: None,
            }),
        ),
        (
            "repairing.none",
            Response::Repairing(RepairProgress::none(node("node-1"))),
        ),
        (
            "repairing",
            Response::Repairing(RepairProgress {
                node_id: node("node-1"),
                run: 2,
                running: true,
                pairs_total: 4,
                pairs_done: 2,
                pairs_failed: 1,
                pages_compared: 17,
                segments_differing: 300,
                keys_fetched: 1000,
                keys_sent: 5,
                rebuilding_segments: 9,
                accepted_segments: 3,
                started_age_ms: Some(1500),
                finished_age_ms: Some(500),
                comparing_with: Some(node("node-3")),
                last_error: "node-2 is dead".to_owned(),
                keys_locked: 0,
            }),
        ),
        (
            "repairing.locked",
            Response::Repairing(RepairProgress {
                keys_locked: 2,
                ..RepairProgress::none(node("node-1"))
            }),
        ),
        (
            "snapshotting.none",
            Response::Snapshotting(SnapshotProgress::none(node("node-1"))),
        ),
        (
            "snapshotting",
            Response::Snapshotting(SnapshotProgress {
                node_id: node("node-1"),
                run: 2,
                running: false,
                name: "before-upgrade".to_owned(),
                keys_done: 1000,
                keys_total: 1200,
                bytes: 123_456,
                started_age_ms: Some(1500),
                finished_age_ms: Some(500),
                path: "/data/snapshots/before-upgrade".to_owned(),
                error: "no room".to_owned(),
            }),
        ),
        ("imported", Response::Imported(Imported { effective_w: 2 })),
        (
            "merged",
            Response::Merged(Merged {
                rebuilding: false,
                beside: None,
            }),
        ),
        (
            "merged.nothing-beside",
            Response::Merged(Merged {
                rebuilding: false,
                beside: Some(Bytes::new()),
            }),
        ),
        (
            "merged.beside",
            Response::Merged(Merged {
                rebuilding: false,
                beside: Some(versions().to_bytes()),
            }),
        ),
        (
            "versions",
            Response::Versions(VersionsReply {
                rebuilding: false,
                versions: versions().to_bytes(),
                actor: None,
                digest: None,
            }),
        ),
        (
            "versions.with-actor",
            Response::Versions(VersionsReply {
                rebuilding: false,
                versions: versions().to_bytes(),
                actor: Some(Actor(0x0b0b_0b0b_0b0b_0b0b)),
                digest: None,
            }),
        ),
        (
            "versions.absent-rebuilding",
            Response::Versions(VersionsReply {
                rebuilding: true,
                versions: Bytes::new(),
                actor: None,
                digest: None,
            }),
        ),
        (
            "versions.digest",
            Response::Versions(VersionsReply {
                rebuilding: false,
                versions: Bytes::new(),
                actor: None,
                digest: Some(Digest::of(&versions().to_bytes())),
            }),
        ),
        ("gossip", Response::Gossip(gossip())),
        ("gossip.run", Response::Gossip(gossip_of_a_run())),
        (
            "probed",
            Response::Probed(Probed {
                target: node("node-3"),
                alive: true,
            }),
        ),
        ("joined", Response::Joined(ring_document())),
        ("ring-document", Response::RingDocument(ring_document())),
        ("ring-changed", Response::RingChanged(ring_document())),
        ("promise", Response::Promise(vote.clone())),
        (
            "promise.accepted-before",
            Response::Promise(Vote {
                accepted: Some((ballot(), ring_document())),
                ..vote.clone()
            }),
        ),
        ("accepted", Response::Accepted(vote.clone())),
        (
            "accepted.decided-already",
            Response::Accepted(Vote {
                granted: false,
                decided: Some(Box::new(ring_document())),
                ..vote
            }),
        ),
    ]
}

/// A get and a put in one batch frame, as [`BatchWriter`] makes them.
fn batch() -> Golden {
    let key = Bytes::from_static(KEY);
    let get = Request::Get(Get {
        timeout_ms: 5000,
        key,
        r: None,
        repair_first: false,
    });
    let (mut stream, mut writer) = (BytesMut::new(), BatchWriter::default());
    let mut items = Vec::new();
    for (request, request_id) in [(Request::Ping, 7), (get, 8)] {
        let header = Header::new(request.kind(), request_id);
        writer.push(&mut stream, header, |out| request.encode(out));
        let mut body = BytesMut::new();
        request.encode(&mut body);
        let body = body.freeze();
        items.push(Frame { header, body });
    }
    writer.finish(&mut stream);
    Golden::Frames(stream.freeze(), items)
}

fn all() -> Vec<(String, Golden)> {
    let mut all = vec![
        ("batch".to_owned(), batch()),
        ("clock.empty".to_owned(), Golden::Clock(Clock::new())),
        ("clock".to_owned(), Golden::Clock(clock())),
        ("context".to_owned(), Golden::Context(clock())),
        (
            "context.nothing-read".to_owned(),
            Golden::Context(Clock::new()),
        ),
        ("versions".to_owned(), Golden::Versions(versions())),
        ("versions.marks".to_owned(), Golden::Versions(with_marks())),
        (
            "ring-document".to_owned(),
            Golden::RingDocument(ring_document()),
        ),
        (
            "ring-document.changing".to_owned(),
            Golden::RingDocument(changing_ring_document()),
        ),
        (
            "position.key".to_owned(),
            Golden::Position(Position::of_key(KEY)),
        ),
        (
            "position.virtual-node-0".to_owned(),
            Golden::Position(Position::of_virtual_node(&node("node-1"), 0)),
        ),
        (
            "position.virtual-node-149".to_owned(),
            Golden::Position(Position::of_virtual_node(&node("node-1"), 149)),
        ),
    ];
    for (name, request) in requests() {
        if name == "put" {
            let forwarded = Golden::Request(request.clone(), FLAG_FORWARDED);
            all.push(("request.put.forwarded".to_owned(), forwarded));
        }
        all.push((format!("request.{name}"), Golden::Request(request, 0)));
    }
    for (name, response) in responses() {
        all.push((format!("response.{name}"), Golden::Response(response)));
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn render(all: &[(String, Golden)]) -> String {
    let mut text = HEADING.to_owned();
    for (name, golden) in all {
        text.push_str(name);
        text.push(' ');
        for byte in golden.encode() {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_pinned_bytes_are_what_is_encoded_and_decode_to_what_was_meant() {
    let all = all();
    if std::env::var(VARIABLE).as_deref() == Ok("write") {
        std::fs::write(golden_file::path(), render(&all)).unwrap();
    }
    let pinned = golden_file::read();
    let mut changed = Vec::new();
    for (name, golden) in &all {
        match pinned.get(name) {
            // What older nodes have sent and stored must be understood whatever is sent today.
            Some(pinned) => {
                golden.verify(name, &Bytes::copy_from_slice(pinned));
                if golden.encode() != pinned[..] {
                    changed.push(format!("{name}: encoded differently"));
                }
            }
            None => changed.push(format!("{name}: not pinned")),
        }
    }
    let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    for name in pinned.keys().filter(|name| !names.contains(name.as_str())) {
        changed.push(format!("{name}: pinned, but nothing here makes it"));
    }
    assert!(
        changed.is_empty(),
        "the bytes of the protocol have changed:\n  {}\n\
         Nodes, clients and disks in the field have the old ones. If that is meant and PROTOCOL.md says \
         so, pin the new ones:\n  {VARIABLE}=write cargo test -p dynakv-protocol --test golden",
        changed.join("\n  ")
    );
}

/// Which kinds a decoder knows: all but those it answers with [`DecodeError::UnknownKind`].
fn known_kinds<T>(decode: fn(u8, &Bytes) -> Result<T, DecodeError>) -> BTreeSet<u8> {
    (0..=u8::MAX)
        .filter(|&kind| {
            let decoded = decode(kind, &Bytes::new());
            !matches!(decoded, Err(DecodeError::UnknownKind { .. }))
        })
        .collect()
}

#[test]
fn no_message_is_left_out() {
    let pinned: BTreeSet<u8> = requests()
        .iter()
        .map(|(_, request)| request.kind())
        .collect();
    assert_eq!(pinned, known_kinds(Request::decode));
    let pinned: BTreeSet<u8> = responses()
        .iter()
        .map(|(_, response)| response.kind())
        .collect();
    assert_eq!(pinned, known_kinds(Response::decode));
}
