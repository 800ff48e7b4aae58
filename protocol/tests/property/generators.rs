//! Random instances of everything that has an encoding.

use bytes::{Bytes, BytesMut};
use dynakv_protocol::admin::{
    Explain, Explained, ExplainedOwner, Export, Exported, ExportedItem, Import, Imported,
    OwnerState, SiblingDigest, ValueDigest,
};
use dynakv_protocol::causal::{Clock, Dot, Sibling, Value, Versions};
use dynakv_protocol::change_ring::{ChangeRing, MemberWish, RingWish};
use dynakv_protocol::client::{
    AwaitedFor, Fetched, FetchedSibling, Get, HandedOn, HealthReply, MemberStatus, OtherCluster,
    RingReply, StatsReply, StatusReply, Write, Written,
};
use dynakv_protocol::codec::{Wire, put_varint};
use dynakv_protocol::gossip::{
    Accept, Ballot, Gossip, Join, MemberEntry, MemberState, Prepare, Probe, Probed, Vote,
};
use dynakv_protocol::handshake::{ClientLimits, GoAway, Hello, Lane, PeerIdentity, Welcome};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::{Compare, Compared, List, Listed, ListedKey};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::moving::Moving;
use dynakv_protocol::peer::{Digest, KeepHint, MergeVersions, Merged, ReadVersions, VersionsReply};
use dynakv_protocol::repair::{Repair, RepairProgress};
use dynakv_protocol::ring_document::{
    Change, ChangePhase, Member, N_MAX, RingDocument, Stake, Step, WEIGHT_MAX,
};
use dynakv_protocol::snapshot::{Snapshot, SnapshotProgress};
use dynakv_protocol::unlock::{Replace, Unlock, Unlocked};
use dynakv_protocol::{
    Actor, ClusterId, DirectoryId, ErrorCode, ErrorReply, Generation, NodeId, RingVersion, WriteId,
};
use proptest::array;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::BoxedStrategy;

/// Numbers as they are met and as they are feared: small ones, every size of varint, the extremes.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..300_u64,
        any::<u64>(),
        (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift),
        Just(u64::MAX),
    ]
}

pub(crate) fn octets(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..8).prop_map(|letters| letters.into_iter().collect())
}

fn node_id() -> impl Strategy<Value = NodeId> {
    const LETTERS: &[u8] = b"ABCXYZabcxyz0189._-";
    vec(0..LETTERS.len(), 1..=64).prop_map(|picks| {
        let name: String = picks.iter().map(|&at| char::from(LETTERS[at])).collect();
        NodeId::new(&name).expect("made of permitted letters")
    })
}

fn cluster_id() -> impl Strategy<Value = ClusterId> {
    any::<u128>().prop_map(ClusterId)
}

fn generation() -> impl Strategy<Value = Generation> {
    number().prop_map(Generation)
}

fn ring_version() -> impl Strategy<Value = RingVersion> {
    number().prop_map(RingVersion)
}

fn quorum() -> impl Strategy<Value = Option<u8>> {
    // 0 is no quorum; a join spells "not told" with it.
    option::of(1..=u8::MAX)
}

pub(crate) fn dot() -> impl Strategy<Value = Dot> {
    (any::<u64>(), number()).prop_map(|(actor, counter)| Dot {
        actor: Actor(actor),
        counter: counter.max(1),
    })
}

pub(crate) fn clock() -> impl Strategy<Value = Clock> {
    vec(dot(), 0..12).prop_map(|dots| dots.into_iter().collect())
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Tombstone),
        3 => octets(40).prop_map(Value::Bytes),
    ]
}

fn sibling(dot: Dot) -> impl Strategy<Value = Sibling> {
    let expires_at_ms = prop_oneof![option::of(number()), option::of(0..2_u64)];
    (any::<u128>(), number(), expires_at_ms, value()).prop_map(
        move |(write_id, timestamp, expires_at_ms, value)| Sibling {
            dot,
            write_id: WriteId(write_id),
            timestamp,
            expires_at_ms,
            value,
        },
    )
}

/// Any well-formed state: siblings under dots that its clock covers, reachable or not.
pub(crate) fn versions() -> impl Strategy<Value = Versions> {
    vec(dot(), 0..8)
        .prop_flat_map(|dots| {
            let siblings: Vec<_> = dots.iter().map(|&dot| sibling(dot)).collect();
            (siblings, vec(dot(), 0..4), Just(dots))
        })
        .prop_map(|(siblings, more, dots)| {
            let clock: Clock = dots.into_iter().chain(more).collect();
            assemble(&clock, siblings)
        })
}

/// Two states collide only when they speak of the same few dots: three actors, counters up to five,
/// and so few contents that one dot often has two of them.
pub(crate) fn colliding_versions() -> impl Strategy<Value = Versions> {
    let actors = btree_map(1..=3_u64, (1..=5_u64, 0..32_u8, any::<u16>()), 0..=3);
    actors.prop_map(|actors| {
        let mut siblings = Vec::new();
        let mut clock = Clock::new();
        for (actor, (newest, present, contents)) in actors {
            let actor = Actor(actor);
            for counter in 1..=newest {
                let dot = Dot { actor, counter };
                clock.see(dot);
                if present & (1 << (counter - 1)) != 0 {
                    let content = (contents >> (3 * (counter - 1))) as u8 & 7;
                    siblings.push(colliding_sibling(dot, content));
                }
            }
        }
        assemble(&clock, siblings)
    })
}

fn colliding_sibling(dot: Dot, content: u8) -> Sibling {
    Sibling {
        dot,
        write_id: WriteId(u128::from(content & 1)),
        timestamp: u64::from(content >> 1 & 1),
        expires_at_ms: (content & 2 != 0).then_some(9),
        value: match content >> 2 {
            0 => Value::Tombstone,
            _ => Value::Bytes(Bytes::from_static(b"v")),
        },
    }
}

/// Builds a state through its encoding: there is no other way to one that no run has made.
pub(crate) fn assemble(clock: &Clock, mut siblings: Vec<Sibling>) -> Versions {
    siblings.sort();
    siblings.dedup_by_key(|sibling| sibling.dot);
    let mut out = BytesMut::from(&[1][..]);
    clock.encode(&mut out);
    put_varint(&mut out, siblings.len() as u64);
    for sibling in &siblings {
        sibling.encode(&mut out);
    }
    Versions::from_bytes(&out.freeze()).expect("sorted, and covered by its clock")
}

fn member() -> impl Strategy<Value = Member> {
    (node_id(), number(), text(), 1..=WEIGHT_MAX, text()).prop_map(
        |(id, directory_id, address, weight, zone)| Member {
            id,
            directory_id: DirectoryId(directory_id),
            address,
            weight,
            zone,
        },
    )
}

pub(crate) fn ring_document() -> impl Strategy<Value = RingDocument> {
    let quorums = (1..=N_MAX).prop_flat_map(|n| (Just(n), 1..=n, 1..=n));
    let phase = prop_oneof![Just(ChangePhase::WriteBoth), Just(ChangePhase::ReadNew)];
    let stakes = vec((1..=WEIGHT_MAX, text()), 5);
    let changing = (phase, number(), stakes).prop_map(|(phase, begun_at, stakes)| {
        let stake = |(weight, zone)| Stake { weight, zone };
        Step::Changing(Change {
            phase,
            begun_at: RingVersion(begun_at),
            target: stakes.into_iter().map(stake).collect(),
            stopped: Vec::new(),
        })
    });
    let step = prop_oneof![Just(Step::Open), Just(Step::Final), changing];
    (
        1..=u128::MAX,
        text(),
        1..=u64::MAX,
        step,
        quorums,
        vec(member(), 1..5),
    )
        .prop_map(
            |(cluster_id, cluster_name, version, mut step, (n, w, r), mut members)| {
                members.sort_by(|a, b| a.id.cmp(&b.id));
                members.dedup_by(|a, b| a.id == b.id);
                if let Step::Changing(change) = &mut step {
                    // One comes in, and another one goes.
                    change.target.truncate(members.len());
                    if members.len() > 1 {
                        members[0].weight = 0;
                        change.target[1].weight = 0;
                        // Somebody is left to decide.
                        if version % 2 == 0 && members.len() > 2 {
                            change.stopped = vec![members[1].id.clone()];
                        }
                    }
                }
                RingDocument {
                    cluster_id: ClusterId(cluster_id),
                    cluster_name,
                    version: RingVersion(version),
                    step,
                    n,
                    w,
                    r,
                    members,
                }
            },
        )
}

fn hello() -> impl Strategy<Value = Hello> {
    let lane = prop_oneof![Just(Lane::Control), Just(Lane::Data)];
    let identity = (
        node_id(),
        number(),
        cluster_id(),
        generation(),
        number(),
        text(),
        lane,
    )
        .prop_map(
            |(node_id, directory_id, cluster_id, generation, nonce, address, lane)| PeerIdentity {
                node_id,
                directory_id: DirectoryId(directory_id),
                cluster_id,
                generation,
                nonce,
                address,
                lane,
            },
        );
    (
        any::<u8>(),
        any::<u8>(),
        text(),
        option::of(cluster_id()),
        any::<bool>(),
        option::of(identity),
    )
        .prop_map(
            |(version_min, version_max, cluster_name, cluster_id, knows_goaway, peer)| Hello {
                version_min,
                version_max,
                cluster_name,
                cluster_id,
                knows_goaway,
                peer,
            },
        )
}

fn get() -> impl Strategy<Value = Get> {
    (
        any::<u32>(),
        octets(64),
        option::of(any::<u8>()),
        any::<bool>(),
    )
        .prop_map(|(timeout_ms, key, r, repair_first)| Get {
            timeout_ms,
            key,
            r,
            repair_first,
        })
}

fn handed_on() -> impl Strategy<Value = HandedOn> {
    (number(), any::<u32>()).prop_map(|(sent_ms, within_ms)| HandedOn { sent_ms, within_ms })
}

fn write(value: impl Strategy<Value = Option<Bytes>>) -> impl Strategy<Value = Write> {
    (
        any::<u32>(),
        any::<u128>(),
        octets(64),
        value,
        option::of(octets(64)),
        option::of(any::<u8>()),
        (option::of(number()), option::of(handed_on())),
        any::<[bool; 3]>(),
    )
        .prop_map(
            |(
                timeout_ms,
                write_id,
                key,
                value,
                context,
                w,
                (ttl_ms, handed_on),
                [sloppy, again, if_no_conflict],
            )| {
                Write {
                    timeout_ms,
                    write_id: WriteId(write_id),
                    key,
                    value,
                    context,
                    w,
                    ttl_ms,
                    sloppy,
                    again,
                    if_no_conflict,
                    handed_on,
                }
            },
        )
}

fn member_state() -> impl Strategy<Value = MemberState> {
    prop_oneof![
        Just(MemberState::Alive),
        Just(MemberState::Suspected),
        Just(MemberState::Dead),
    ]
}

fn member_entry() -> impl Strategy<Value = MemberEntry> {
    (
        node_id(),
        text(),
        generation(),
        (number(), number()),
        member_state(),
        (number(), number()),
        text(),
    )
        .prop_map(
            |(
                id,
                address,
                generation,
                (incarnation, heartbeat),
                state,
                (keys, disk_bytes),
                software,
            )| {
                MemberEntry {
                    id,
                    address,
                    generation,
                    incarnation,
                    heartbeat,
                    state,
                    keys,
                    disk_bytes,
                    software,
                    rebuilding_segments: incarnation as u32,
                    hints_waiting: heartbeat,
                    disk_hangs: heartbeat % 2 == 1,
                    disk_full: heartbeat % 3 == 1,
                    ring_version: RingVersion(heartbeat % 5),
                    complete_since: RingVersion((heartbeat % 5) / 2),
                    settled_at: RingVersion((heartbeat % 5) / 3),
                    // It is told with the ring.
                    hints_counted: if heartbeat % 5 == 0 { 0 } else { heartbeat },
                    moving: moving(heartbeat),
                    directory_id: DirectoryId(keys),
                    // Without a directory it is not sent.
                    nonce: if keys == 0 { 0 } else { heartbeat },
                }
            },
        )
}

fn moving(number: u64) -> Option<Moving> {
    (number % 2 == 1).then_some(Moving {
        segments_left: number as u32,
        bytes: number / 3,
        bytes_per_s: number / 5,
        seconds_left: (number % 3 == 1).then_some(number as u32),
    })
}

fn gossip() -> impl Strategy<Value = Gossip> {
    (ring_version(), vec(member_entry(), 0..5)).prop_map(|(ring_version, entries)| Gossip {
        ring_version,
        entries,
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (number(), node_id()).prop_map(|(round, node)| Ballot { round, node })
}

fn change_ring() -> impl Strategy<Value = ChangeRing> {
    let stake = (any::<u16>(), text()).prop_map(|(weight, zone)| Stake { weight, zone });
    let wish = prop_oneof![
        member().prop_map(MemberWish::Joins),
        node_id().prop_map(MemberWish::Leaves),
        node_id().prop_map(MemberWish::IsGone),
        (node_id(), stake).prop_map(|(id, stake)| MemberWish::HasStake(id, stake)),
    ];
    let wish = prop_oneof![
        Just(RingWish::Abort),
        vec(wish, 0..4).prop_map(RingWish::Members)
    ];
    (ring_version(), any::<[bool; 3]>(), wish).prop_map(
        |(planned_on, [is_plan, accept_loss, is_forced], wish)| ChangeRing {
            planned_on,
            is_plan,
            accept_loss,
            is_forced,
            wish,
        },
    )
}

/// Every request, all kinds equally often.
pub(crate) fn request() -> BoxedStrategy<Request> {
    let merge_fields = (
        ring_version(),
        any::<u32>(),
        octets(64),
        octets(64),
        any::<bool>(),
    );
    let merge = merge_fields.prop_map(|(ring_version, timeout_ms, key, versions, tell_beside)| {
        MergeVersions {
            ring_version,
            timeout_ms,
            key,
            versions,
            tell_beside,
        }
    });
    let read_fields = (
        ring_version(),
        any::<u32>(),
        octets(64),
        any::<bool>(),
        option::of(any::<u32>()),
    );
    let read = read_fields.prop_map(
        |(ring_version, timeout_ms, key, tell_actor, digest_above)| ReadVersions {
            ring_version,
            timeout_ms,
            key,
            tell_actor,
            digest_above,
        },
    );
    let join = (member(), quorum(), quorum(), quorum(), any::<bool>()).prop_map(
        |(member, n, w, r, is_rebuilding)| Join {
            knows_changes: !is_rebuilding,
            waits: is_rebuilding,
            member,
            n,
            w,
            r,
            is_rebuilding,
        },
    );
    let explain =
        (any::<u32>(), octets(64)).prop_map(|(timeout_ms, key)| Explain { timeout_ms, key });
    let export = (any::<u32>(), option::of(octets(64))).prop_map(|(bytes_max, after_key)| Export {
        bytes_max,
        after_key,
    });
    let compare = (ring_version(), node_id(), option::of(any::<u8>())).prop_map(
        |(ring_version, node_id, page)| Compare {
            ring_version,
            node_id,
            page,
        },
    );
    let list = (
        ring_version(),
        any::<u16>(),
        any::<u32>(),
        any::<bool>(),
        option::of(octets(64)),
    )
        .prop_map(
            |(ring_version, segment, bytes_max, with_versions, after_key)| List {
                ring_version,
                segment: Segment(segment),
                bytes_max,
                with_versions,
                after_key,
            },
        );
    let hint = (
        ring_version(),
        any::<u32>(),
        octets(64),
        octets(64),
        vec(node_id(), 1..5),
        any::<u8>(),
    )
        .prop_map(
            |(ring_version, timeout_ms, key, versions, owed, needed)| KeepHint {
                ring_version,
                timeout_ms,
                key,
                versions,
                owed,
                needed,
            },
        );
    let import = (any::<u32>(), octets(64), octets(64), quorum()).prop_map(
        |(timeout_ms, key, versions, w)| Import {
            timeout_ms,
            key,
            versions,
            w,
        },
    );
    let prepare = (ring_version(), ballot()).prop_map(|(slot, ballot)| Prepare { slot, ballot });
    let accept =
        (ballot(), ring_document()).prop_map(|(ballot, document)| Accept { ballot, document });
    let repair = prop_oneof![
        Just(Repair::Look),
        Just(Repair::Start),
        Just(Repair::AcceptLoss)
    ];
    let snapshot = prop_oneof![
        Just(Snapshot::Look),
        node_id().prop_map(|name| Snapshot::Start {
            name: name.as_str().to_owned()
        }),
    ];
    prop_oneof![
        hello().prop_map(Request::Hello),
        Just(Request::Ping),
        get().prop_map(Request::Get),
        write(octets(200).prop_map(Some)).prop_map(Request::Put),
        write(Just(None)).prop_map(Request::Delete),
        Just(Request::Stats),
        Just(Request::Health),
        Just(Request::Status),
        Just(Request::Ring),
        explain.prop_map(Request::Explain),
        export.prop_map(Request::Export),
        import.prop_map(Request::Import),
        repair.prop_map(Request::Repair),
        snapshot.prop_map(Request::Snapshot),
        change_ring().prop_map(Request::ChangeRing),
        unlock().prop_map(Request::Unlock),
        replace().prop_map(Request::Replace),
        merge.prop_map(Request::Merge),
        read.prop_map(Request::Read),
        compare.prop_map(Request::Compare),
        list.prop_map(Request::List),
        hint.prop_map(Request::Hint),
        gossip().prop_map(Request::Gossip),
        node_id().prop_map(|target| Request::Probe(Probe { target })),
        join.prop_map(Request::Join),
        Just(Request::FetchRing),
        prepare.prop_map(Request::Prepare),
        accept.prop_map(Request::Accept),
    ]
    .boxed()
}

fn unlock() -> impl Strategy<Value = Unlock> {
    (any::<u32>(), octets(40)).prop_map(|(timeout_ms, key)| Unlock { timeout_ms, key })
}

fn replace() -> impl Strategy<Value = Replace> {
    let expected = option::of((any::<u128>(), 1..=u32::MAX));
    let expected = expected.prop_map(|it| it.map(|(hash, bytes)| Digest { hash, bytes }));
    (
        ring_version(),
        any::<u32>(),
        octets(40),
        expected,
        octets(64),
    )
        .prop_map(
            |(ring_version, timeout_ms, key, expected, versions)| Replace {
                ring_version,
                timeout_ms,
                key,
                expected,
                versions,
            },
        )
}

fn unlocked() -> impl Strategy<Value = Unlocked> {
    (node_id(), any::<u8>(), any::<[u64; 4]>()).prop_map(|(node_id, owners, numbers)| Unlocked {
        node_id,
        owners,
        clock_entries_before: numbers[0],
        clock_entries: numbers[1],
        siblings: numbers[2],
        siblings_given_up: numbers[3],
    })
}

fn error() -> impl Strategy<Value = ErrorReply> {
    (
        any::<u16>().prop_map(|number| ErrorCode::from_number(number % 40)),
        any::<bool>(),
        any::<bool>(),
        text(),
        option::of(any::<u8>()),
        option::of(any::<u8>()),
        option::of(ring_version()),
        option::of(ring_document().prop_map(Box::new)),
    )
        .prop_map(
            |(
                code,
                maybe_applied,
                retryable,
                message,
                needed,
                got,
                ring_version,
                ring_document,
            )| ErrorReply {
                code,
                maybe_applied,
                retryable,
                message,
                needed,
                got,
                ring_version,
                ring_document,
            },
        )
}

fn client_limits() -> impl Strategy<Value = ClientLimits> {
    any::<[u32; 4]>().prop_map(|[value, frame, items, requests]| ClientLimits {
        value_bytes_max: value,
        frame_bytes_max: frame,
        batch_items_max: items,
        requests_in_flight_max: requests,
    })
}

fn goaway() -> impl Strategy<Value = GoAway> {
    (number(), any::<u32>(), text()).prop_map(|(last_id, drain_ms, reason)| GoAway {
        last_id,
        drain_ms,
        reason,
    })
}

fn welcome() -> impl Strategy<Value = Welcome> {
    (
        any::<u8>(),
        node_id(),
        generation(),
        number(),
        text(),
        cluster_id(),
        ring_version(),
        option::of(client_limits()),
    )
        .prop_map(
            |(
                version,
                node_id,
                generation,
                nonce,
                cluster_name,
                cluster_id,
                ring_version,
                limits,
            )| {
                Welcome {
                    version,
                    node_id,
                    generation,
                    nonce,
                    cluster_name,
                    cluster_id,
                    ring_version,
                    directory_id: DirectoryId(nonce >> 1),
                    limits,
                    may_found: nonce % 2 == 1,
                }
            },
        )
}

fn fetched() -> impl Strategy<Value = Fetched> {
    let sibling =
        (dot(), number(), octets(40)).prop_map(|(dot, timestamp_ms, value)| FetchedSibling {
            dot,
            timestamp_ms,
            value,
        });
    (any::<u8>(), octets(64), vec(sibling, 0..5)).prop_map(|(effective_r, context, siblings)| {
        Fetched {
            siblings,
            context,
            effective_r,
        }
    })
}

fn written() -> impl Strategy<Value = Written> {
    (any::<u8>(), any::<bool>(), octets(64), number()).prop_map(
        |(effective_w, sloppy, context, replaced)| Written {
            context,
            effective_w,
            sloppy,
            replaced,
        },
    )
}

fn stats() -> impl Strategy<Value = StatsReply> {
    (
        node_id(),
        text(),
        (number(), number(), number()),
        any::<(u8, u8, u8)>(),
        ring_version(),
        any::<(u32, u32, u32, u32, u32)>(),
    )
        .prop_map(
            |(node_id, address, keys, (n, w, r), ring_version, nodes)| StatsReply {
                node_id,
                address,
                total_keys: keys.0,
                total_versions: keys.1,
                conflict_keys: keys.2,
                n,
                w,
                r,
                ring_version,
                total_nodes: nodes.0,
                total_virtual_nodes: nodes.1,
                virtual_nodes_per_node: nodes.2,
                known_nodes: nodes.3,
                alive_nodes: nodes.4,
            },
        )
}

fn member_status() -> impl Strategy<Value = MemberStatus> {
    (
        node_id(),
        (text(), text(), text()),
        member_state(),
        (number(), number(), number()),
        generation(),
        any::<u16>(),
    )
        .prop_map(
            |(id, texts, state, numbers, generation, owns_basis_points)| MemberStatus {
                id,
                address: texts.0,
                state,
                state_age_ms: numbers.0,
                generation,
                zone: texts.1,
                keys: numbers.1,
                disk_bytes: numbers.2,
                owns_basis_points,
                software: texts.2,
                rebuilding_segments: numbers.0 as u32,
                hints_waiting: numbers.1,
                disk_hangs: numbers.1 % 2 == 1,
                disk_full: numbers.1 % 3 == 1,
                unreachable: numbers.2 % 2 == 1,
                moving: moving(numbers.2),
            },
        )
}

fn other_cluster() -> impl Strategy<Value = OtherCluster> {
    (any::<bool>(), text(), text()).prop_map(|(is_seed, address, reason)| OtherCluster {
        is_seed,
        address,
        reason,
    })
}

fn status() -> impl Strategy<Value = StatusReply> {
    (
        node_id(),
        text(),
        cluster_id(),
        ring_version(),
        any::<(u8, u8, u8)>(),
        vec(member_status(), 0..4),
        (1..=u64::MAX, vec(octets(40), 0..3), any::<bool>()),
        (vec(other_cluster(), 0..3), vec(member(), 0..3)),
    )
        .prop_map(
            |(
                node_id,
                cluster_name,
                cluster_id,
                ring_version,
                (n, w, r),
                members,
                locked,
                (other_clusters, waiting),
            )| {
                StatusReply {
                    node_id,
                    cluster_name,
                    cluster_id,
                    ring_version,
                    n,
                    w,
                    r,
                    locked_keys: if locked.2 { locked.0 } else { 0 },
                    locked_keys_named: if locked.2 { locked.1 } else { Vec::new() },
                    awaited_for: match n % 4 {
                        0 => None,
                        1 => Some(AwaitedFor::Fetching),
                        2 => Some(AwaitedFor::Following),
                        _ => Some(AwaitedFor::HandingOn),
                    },
                    awaited: members.iter().take(2).map(|it| it.id.clone()).collect(),
                    waiting,
                    members,
                    other_clusters,
                }
            },
        )
}

fn ring_reply() -> impl Strategy<Value = RingReply> {
    ring_document()
        .prop_flat_map(|document| {
            let addresses = vec(text(), document.members.len());
            (Just(document), addresses)
        })
        .prop_map(|(document, addresses)| RingReply {
            document,
            addresses,
        })
}

fn vote() -> impl Strategy<Value = Vote> {
    (
        ring_version(),
        any::<bool>(),
        ballot(),
        option::of((ballot(), ring_document())),
        option::of(ring_document().prop_map(Box::new)),
    )
        .prop_map(|(slot, granted, promised, accepted, decided)| Vote {
            slot,
            granted,
            promised,
            accepted,
            decided,
        })
}

fn sibling_digest() -> impl Strategy<Value = SiblingDigest> {
    let value = prop_oneof![
        Just(ValueDigest::Tombstone),
        (number(), any::<u64>(), octets(64)).prop_map(|(length, checksum, preview)| {
            ValueDigest::Bytes {
                length,
                checksum,
                preview,
            }
        }),
    ];
    (dot(), any::<u128>(), number(), option::of(number()), value).prop_map(
        |(dot, write_id, timestamp, expires_at_ms, value)| SiblingDigest {
            dot,
            write_id: WriteId(write_id),
            timestamp,
            expires_at_ms,
            value,
        },
    )
}

fn explained_owner() -> impl Strategy<Value = ExplainedOwner> {
    // Actor 0 stands for "not told".
    let actor = option::of((1..u64::MAX).prop_map(Actor));
    let state = (any::<bool>(), actor, clock(), vec(sibling_digest(), 0..4)).prop_map(
        |(rebuilding, actor, clock, siblings)| OwnerState {
            rebuilding,
            actor,
            clock,
            siblings,
        },
    );
    let answer = prop_oneof![state.prop_map(Ok), text().prop_map(Err)];
    (node_id(), text(), member_state(), answer).prop_map(|(id, address, state, answer)| {
        ExplainedOwner {
            id,
            address,
            state,
            answer,
        }
    })
}

fn explained() -> impl Strategy<Value = Explained> {
    (
        node_id(),
        ring_version(),
        number(),
        vec(explained_owner(), 0..4),
    )
        .prop_map(|(node_id, ring_version, now_unix_ms, owners)| Explained {
            node_id,
            ring_version,
            now_unix_ms,
            owners,
        })
}

fn compared() -> impl Strategy<Value = Compared> {
    let bits = || prop_oneof![Just([0; 32]), array::uniform32(any::<u8>())];
    (vec(any::<u128>(), 256), bits(), bits()).prop_map(|(hashes, rebuilding, not_shared)| {
        Compared {
            hashes,
            rebuilding,
            not_shared,
        }
    })
}

fn listed() -> impl Strategy<Value = Listed> {
    let key = (octets(40), any::<u64>(), octets(40)).prop_map(|(key, hash, versions)| ListedKey {
        key,
        hash,
        versions,
    });
    let next = option::of(octets(40));
    (any::<bool>(), vec(key, 0..4), next).prop_map(|(rebuilding, keys, next)| Listed {
        rebuilding,
        keys,
        next,
    })
}

fn repairing() -> impl Strategy<Value = RepairProgress> {
    let counts = (
        any::<[u32; 6]>(),
        any::<[u64; 4]>(),
        any::<(Option<u64>, Option<u64>)>(),
    );
    (
        node_id(),
        any::<bool>(),
        counts,
        option::of(node_id()),
        text(),
    )
        .prop_map(
            |(node_id, running, (small, large, ages), comparing_with, last_error)| RepairProgress {
                running,
                run: large[0],
                pairs_total: small[0],
                pairs_done: small[1],
                pairs_failed: small[2],
                pages_compared: small[3],
                segments_differing: large[1],
                keys_fetched: large[2],
                keys_sent: large[3],
                rebuilding_segments: small[4],
                accepted_segments: small[5],
                started_age_ms: ages.0,
                finished_age_ms: ages.1,
                comparing_with,
                last_error,
                keys_locked: large[1],
                ..RepairProgress::none(node_id)
            },
        )
}

fn snapshotting() -> impl Strategy<Value = SnapshotProgress> {
    (
        node_id(),
        any::<bool>(),
        any::<([u64; 4], Option<u64>, Option<u64>)>(),
        text(),
        text(),
        text(),
    )
        .prop_map(
            |(node_id, running, (counts, started, finished), name, path, error)| SnapshotProgress {
                running,
                run: counts[0],
                name,
                keys_done: counts[1],
                keys_total: counts[2],
                bytes: counts[3],
                started_age_ms: started,
                finished_age_ms: finished,
                path,
                error,
                ..SnapshotProgress::none(node_id)
            },
        )
}

fn exported() -> impl Strategy<Value = Exported> {
    let item = (octets(40), octets(40)).prop_map(|(key, versions)| ExportedItem { key, versions });
    (
        node_id(),
        text(),
        cluster_id(),
        ring_version(),
        vec(item, 0..4),
        (vec(octets(40), 0..4), vec(octets(40), 0..4)),
        option::of(octets(40)),
    )
        .prop_map(
            |(node_id, cluster_name, cluster_id, ring_version, items, (damaged, locked), next)| {
                Exported {
                    node_id,
                    cluster_name,
                    cluster_id,
                    ring_version,
                    items,
                    damaged,
                    locked,
                    next,
                }
            },
        )
}

/// Every response, all kinds equally often.
pub(crate) fn response() -> BoxedStrategy<Response> {
    let health =
        (node_id(), any::<bool>(), text()).prop_map(|(node_id, ready, reason)| HealthReply {
            node_id,
            ready,
            reason,
        });
    let versions_reply = (any::<bool>(), octets(64), option::of(number())).prop_map(
        |(rebuilding, versions, actor)| VersionsReply {
            rebuilding,
            versions,
            actor: actor.map(Actor),
            digest: None,
        },
    );
    let digest_reply =
        (any::<bool>(), any::<u128>(), any::<u32>()).prop_map(|(rebuilding, hash, bytes)| {
            VersionsReply {
                rebuilding,
                versions: Bytes::new(),
                actor: None,
                digest: Some(Digest { hash, bytes }),
            }
        });
    let versions_reply = prop_oneof![versions_reply, digest_reply];
    let probed = (node_id(), any::<bool>()).prop_map(|(target, alive)| Probed { target, alive });
    prop_oneof![
        error().prop_map(Response::Error),
        welcome().prop_map(Response::Welcome),
        goaway().prop_map(Response::GoAway),
        Just(Response::Pong),
        fetched().prop_map(Response::Fetched),
        written().prop_map(Response::Put),
        written().prop_map(Response::Deleted),
        stats().prop_map(Response::Stats),
        health.prop_map(Response::Health),
        status().prop_map(Response::Status),
        ring_reply().prop_map(Response::Ring),
        explained().prop_map(Response::Explained),
        exported().prop_map(Response::Exported),
        compared().prop_map(Response::Compared),
        listed().prop_map(Response::Listed),
        Just(Response::HintKept),
        Just(Response::Replaced),
        unlocked().prop_map(Response::Unlocked),
        repairing().prop_map(Response::Repairing),
        snapshotting().prop_map(Response::Snapshotting),
        any::<u8>().prop_map(|effective_w| Response::Imported(Imported { effective_w })),
        (any::<bool>(), option::of(octets(64)))
            .prop_map(|(rebuilding, beside)| Response::Merged(Merged { rebuilding, beside })),
        versions_reply.prop_map(Response::Versions),
        gossip().prop_map(Response::Gossip),
        probed.prop_map(Response::Probed),
        ring_document().prop_map(Response::Joined),
        ring_document().prop_map(Response::RingChanged),
        ring_document().prop_map(Response::RingDocument),
        vote().prop_map(Response::Promise),
        vote().prop_map(Response::Accepted),
    ]
    .boxed()
}
