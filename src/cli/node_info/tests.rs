//! Tests of what the informing commands print.

use dynakv_client::OtherCluster;
use dynakv_protocol::client::AwaitedFor;
use dynakv_protocol::moving::Moving;
use dynakv_protocol::ring_document::{Member, RingDocument, Step};
use dynakv_protocol::{ClusterId, DirectoryId, Generation, NodeId, RingVersion};

use super::*;

fn id(number: usize) -> NodeId {
    NodeId::new(&format!("node-{number}")).unwrap()
}

fn status(n: u8, states: &[MemberState]) -> StatusReply {
    let member = |(number, state): (usize, &MemberState)| MemberStatus {
        id: id(number),
        address: format!("127.0.0.1:{}", 8079 + number),
        state: *state,
        state_age_ms: 1500,
        generation: Generation(2),
        zone: String::new(),
        keys: 10,
        disk_bytes: 2048,
        owns_basis_points: 3333,
        software: "0.1.0".to_owned(),
        rebuilding_segments: 0,
        hints_waiting: number as u64,
        disk_hangs: false,
        disk_full: false,
        unreachable: false,
        moving: None,
    };
    StatusReply {
        node_id: id(1),
        cluster_name: "dynakv".to_owned(),
        cluster_id: ClusterId(255),
        ring_version: RingVersion(3),
        n,
        w: 2,
        r: 2,
        members: (1..).zip(states).map(member).collect(),
        locked_keys: 0,
        locked_keys_named: Vec::new(),
        other_clusters: Vec::new(),
        awaited: Vec::new(),
        awaited_for: None,
        waiting: Vec::new(),
    }
}

pub(super) fn ring(n: u8, nodes: usize) -> RingReply {
    let mut members: Vec<Member> = (1..=nodes)
        .map(|number| Member {
            id: id(number),
            directory_id: DirectoryId(0),
            address: "127.0.0.1:1".to_owned(),
            weight: 1,
            zone: String::new(),
        })
        .collect();
    members.sort_by(|a, b| a.id.cmp(&b.id));
    RingReply {
        addresses: (0..nodes)
            .map(|at| format!("127.0.0.1:{}", 8080 + at))
            .collect(),
        document: RingDocument {
            cluster_id: ClusterId(255),
            cluster_name: "dynakv".to_owned(),
            version: RingVersion(3),
            step: Step::Final,
            n,
            w: 2,
            r: 2,
            members,
        },
    }
}

#[test]
fn stats_have_this_json() {
    let stats = StatsReply {
        node_id: id(1),
        address: "127.0.0.1:8080".to_owned(),
        total_keys: 0,
        total_versions: 0,
        conflict_keys: 0,
        n: 3,
        w: 2,
        r: 2,
        ring_version: RingVersion(1),
        total_nodes: 3,
        total_virtual_nodes: 450,
        virtual_nodes_per_node: 150,
        known_nodes: 3,
        alive_nodes: 3,
    };
    let expected = concat!(
        r#"{"node_id":"node-1","address":"127.0.0.1:8080","total_keys":0,"total_versions":0,"#,
        r#""conflict_keys":0,"n":3,"w":2,"r":2,"ring":{"version":1,"total_nodes":3,"#,
        r#""total_virtual_nodes":450,"virtual_nodes_per_node":150},"#,
        r#""gossip":{"known_nodes":3,"alive_nodes":3}}"#,
        "\n"
    );
    assert_eq!(
        stats_report(&stats, Format::Json),
        Report::data(Exit::Ok, expected)
    );
    let plain = String::from_utf8(stats_report(&stats, Format::Plain).data).unwrap();
    assert!(plain.starts_with("node_id\tnode-1\naddress\t127.0.0.1:8080\n"));
    assert!(plain.ends_with("gossip.alive_nodes\t3\n"));
}

#[test]
fn health_is_one_line() {
    let mut health = HealthReply {
        node_id: id(1),
        ready: true,
        reason: String::new(),
    };
    let report = health_report(&health, Format::Plain);
    assert_eq!(report, Report::data(Exit::Ok, "ok node-1\n"));
    let report = health_report(&health, Format::Json);
    let expected = "{\"node_id\":\"node-1\",\"ready\":true,\"reason\":\"\"}\n";
    assert_eq!(report, Report::data(Exit::Ok, expected));
    health.ready = false;
    health.reason = "joining".to_owned();
    let report = health_report(&health, Format::Table);
    assert_eq!(
        report,
        Report::data(Exit::Degraded, "not ready node-1: joining\n")
    );
}

#[test]
fn the_verdict_follows_the_quorums() {
    use MemberState::{Alive, Dead, Suspected};
    let cases: [(u8, &[MemberState], Verdict); 7] = [
        (3, &[Alive], Verdict::Healthy),
        (3, &[Alive; 3], Verdict::Healthy),
        (3, &[Alive, Suspected, Alive], Verdict::Degraded),
        (3, &[Alive, Dead, Dead], Verdict::Unavailable),
        (3, &[Alive, Dead], Verdict::Unavailable),
        (3, &[Alive, Alive, Alive, Alive, Dead], Verdict::Degraded),
        (3, &[], Verdict::Unavailable),
    ];
    for (n, states, expected) in cases {
        let status = status(n, states);
        assert_eq!(verdict(&status, None), expected, "{states:?}");
        if !states.is_empty() {
            let ring = ring(n, states.len());
            assert_eq!(verdict(&status, Some(&ring)), expected, "{states:?}");
        }
    }
    // Two dead of five: some segment has both among its three owners.
    let status = status(3, &[Alive, Alive, Alive, Dead, Dead]);
    assert_eq!(verdict(&status, Some(&ring(3, 5))), Verdict::Unavailable);
}

#[test]
fn who_is_rebuilding_counts_for_writes_only() {
    let verdict_of = |rebuilding: &[u32]| {
        let mut status = status(3, &[MemberState::Alive; 3]);
        for (member, segments) in status.members.iter_mut().zip(rebuilding) {
            member.rebuilding_segments = *segments;
        }
        let ring = ring(3, 3);
        assert_eq!(verdict(&status, None), verdict(&status, Some(&ring)));
        verdict(&status, Some(&ring))
    };
    assert_eq!(verdict_of(&[0, 0, 0]), Verdict::Healthy);
    assert_eq!(verdict_of(&[65_536, 0, 0]), Verdict::Degraded);
    assert_eq!(verdict_of(&[65_536, 1, 0]), Verdict::Unavailable);
}

/// Whoever cannot be spoken to or takes no writes is no part of a quorum, whatever gossip still thinks of it.
#[test]
fn the_verdict_follows_what_is_so_and_not_what_is_thought() {
    let unreachable = |member: &mut MemberStatus| member.unreachable = true;
    let full = |member: &mut MemberStatus| member.disk_full = true;
    let hangs = |member: &mut MemberStatus| member.disk_hangs = true;
    type Befall = fn(&mut MemberStatus);
    let troubles: [(&str, Befall); 3] = [
        ("unreachable", unreachable),
        ("alive, disk full", full),
        ("alive, disk hangs", hangs),
    ];
    for (state, befall) in troubles {
        let mut status = status(3, &[MemberState::Alive; 3]);
        let ring = ring(3, 3);
        for (down, expected) in [(1, Verdict::Degraded), (2, Verdict::Unavailable)] {
            befall(&mut status.members[down]);
            assert_eq!(verdict(&status, None), expected, "{state}");
            assert_eq!(verdict(&status, Some(&ring)), expected, "{state}");
            let report = status_report(&status, Some(&ring), Format::Table);
            assert_eq!(report.exit, expected.exit());
            let text = String::from_utf8(report.data).unwrap();
            assert_eq!(text.matches(&format!("\n{state} ")).count(), down, "{text}");
        }
    }
    let mut status = status(3, &[MemberState::Alive, MemberState::Alive]);
    unreachable(&mut status.members[1]);
    let report = status_report(&status, None, Format::Table);
    assert_eq!(
        report.messages,
        "dynakv: node-2 does not answer node-1\n  next: dynakv --server 127.0.0.1:8081 health\n"
    );
    let text = String::from_utf8(report.data).unwrap();
    assert!(text.contains(": 1 of 2 members alive "), "{text}");
    // Once gossip knows, its word stands there.
    status.members[1].state = MemberState::Dead;
    let text = status_report(&status, None, Format::Plain).data;
    assert!(
        String::from_utf8(text)
            .unwrap()
            .contains("\ndead\tnode-2\t")
    );
}

#[test]
fn a_node_without_a_ring_is_unavailable() {
    let mut status = status(3, &[MemberState::Alive]);
    status.ring_version = RingVersion(0);
    assert_eq!(verdict(&status, None), Verdict::Unavailable);
}

#[test]
fn status_has_these_forms() {
    let status = status(3, &[MemberState::Alive, MemberState::Dead]);
    let report = status_report(&status, None, Format::Json);
    let expected = concat!(
        r#"{"verdict":"unavailable","node_id":"node-1","cluster":"dynakv","#,
        r#""cluster_id":"000000000000000000000000000000ff","ring_version":3,"n":3,"w":2,"r":2,"#,
        r#""members":[{"id":"node-1","address":"127.0.0.1:8080","state":"alive","#,
        r#""state_age_ms":1500,"generation":2,"zone":"","keys":10,"disk_bytes":2048,"rebuilding_segments":0,"#,
        r#""rebuilding_of_segments":0,"rebuilt_percent":100.0,"hints_waiting":1,"disk_hangs":false,"disk_full":false,"unreachable":false,"#,
        r#""owns_percent":33.33,"software":"0.1.0"},"#,
        r#"{"id":"node-2","address":"127.0.0.1:8081","state":"dead","#,
        r#""state_age_ms":1500,"generation":2,"zone":"","keys":10,"disk_bytes":2048,"rebuilding_segments":0,"#,
        r#""rebuilding_of_segments":0,"rebuilt_percent":100.0,"hints_waiting":2,"disk_hangs":false,"disk_full":false,"unreachable":false,"#,
        r#""owns_percent":33.33,"software":"0.1.0"}],"locked_keys":0,"locked_keys_named":[],"other_clusters":[],"change":null,"waiting":[]}"#,
        "\n"
    );
    assert_eq!(report, Report::data(Exit::Unavailable, expected));
    let report = status_report(&status, None, Format::Table);
    let expected = "\
unavailable: 1 of 2 members alive (cluster dynakv, ring 3, n = 3, w = 2, r = 2; seen by node-1)

State  Id      Address            Load    Owns  Keys  Hints  Zone  Version
alive  node-1  127.0.0.1:8080  2.0 KiB  33.3 %    10      1  -     0.1.0
dead   node-2  127.0.0.1:8081  2.0 KiB  33.3 %    10      2  -     0.1.0
";
    assert_eq!(report, Report::data(Exit::Unavailable, expected));
}

#[test]
fn a_node_whose_seed_is_in_another_cluster_is_not_healthy() {
    let mut status = status(3, &[MemberState::Alive; 3]);
    let other = |is_seed, address: &str| OtherCluster {
        is_seed,
        address: address.to_owned(),
        reason: "as it says".to_owned(),
    };
    // Anybody can call.
    status.other_clusters = vec![other(false, "10.0.0.7:1")];
    let report = status_report(&status, None, Format::Table);
    assert_eq!(report.exit, Exit::Ok);
    assert_eq!(
        report.messages,
        "dynakv: a node of another cluster, at 10.0.0.7:1, calls node-1: as it says\n  \
         next: dynakv --server 10.0.0.7:1 status\n"
    );
    status.other_clusters = vec![other(true, "seeds.example:1 ([::1]:1)")];
    let report = status_report(&status, None, Format::Table);
    assert_eq!(report.exit, Exit::Degraded);
    assert_eq!(
        report.messages,
        "dynakv: the seed seeds.example:1 ([::1]:1) of node-1 is in another cluster: as it says\n  \
         next: dynakv --server [::1]:1 status\n"
    );
    let report = status_report(&status, None, Format::Json);
    assert_eq!(report.exit, Exit::Degraded);
    let json: serde_json::Value = serde_json::from_slice(&report.data).unwrap();
    assert_eq!(json["verdict"], "degraded");
    assert_eq!(json["other_clusters"][0]["is_seed"], true);
    assert_eq!(json["other_clusters"][0]["reason"], "as it says");
}

#[test]
fn the_ring_has_these_forms() {
    let ring = ring(3, 1);
    let expected = concat!(
        r#"{"version":3,"step":"final","cluster":"dynakv","#,
        r#""cluster_id":"000000000000000000000000000000ff","n":3,"w":2,"r":2,"total_nodes":1,"#,
        r#""total_virtual_nodes":150,"members":[{"id":"node-1","address":"127.0.0.1:8080","#,
        r#""weight":1,"zone":"","virtual_nodes":150,"rebuilding_segments":0}]}"#,
        "\n"
    );
    assert_eq!(ring_text(&ring, &[], Format::Json), expected);
    assert_eq!(
        ring_text(&ring, &[], Format::Plain),
        "node-1\t127.0.0.1:8080\t1\t150\t-\t-\n"
    );
}

#[test]
fn rebuilding_is_told_with_its_progress() {
    // Of five members each owns about three fifths.
    let mut status = status(3, &[MemberState::Alive; 5]);
    let ring = ring(3, 5);
    status.members[1].rebuilding_segments = 10_000;
    let report = status_report(&status, Some(&ring), Format::Json);
    let json: serde_json::Value = serde_json::from_slice(&report.data).unwrap();
    let member = &json["members"][1];
    let of = member["rebuilding_of_segments"].as_u64().unwrap();
    assert!((30_000..50_000).contains(&of), "{of}");
    let expected = 100.0 - 1_000_000.0 / of as f64;
    let percent = member["rebuilt_percent"].as_f64().unwrap();
    assert!((expected - 0.1..=expected).contains(&percent), "{percent}");
    assert_eq!(json["members"][0]["rebuilding_of_segments"], 0);
    assert_eq!(json["members"][0]["rebuilt_percent"], 100.0);
    let report = status_report(&status, Some(&ring), Format::Plain);
    let text = String::from_utf8(report.data).unwrap();
    let left_percent = 1_000_000.0 / of as f64;
    let part = format!("\nalive, rebuilding {left_percent:.1} %\tnode-2\t");
    assert!(text.contains(&part), "{text}");
    let expected = format!("dynakv: node-2 has 10000 of {of} segments to rebuild\n");
    assert_eq!(report.messages, expected);
    // At the beginning it counts what it does not own, too.
    status.members[1].rebuilding_segments = 65_536;
    let text = status_report(&status, Some(&ring), Format::Table).data;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("\nalive, rebuilding 100.0 %  node-2  "),
        "{text}"
    );
    let text = ring_text(&ring, &status.members, Format::Table);
    let line = text.lines().find(|line| line.starts_with("node-2 "));
    assert!(line.unwrap().ends_with("65536 segments"), "{text}");
}

/// node-3 goes, node-4 comes and has much to fetch yet.
#[test]
fn a_change_of_the_ring_names_who_is_waited_for() {
    use dynakv_protocol::ring_document::{Change, ChangePhase, Stake};
    let mut ring = ring(3, 4);
    ring.document.members[3].weight = 0;
    let weights = [1, 1, 0, 1];
    let mut change = Change {
        phase: ChangePhase::WriteBoth,
        begun_at: RingVersion(3),
        target: weights
            .map(|weight| Stake {
                weight,
                zone: String::new(),
            })
            .to_vec(),
        stopped: Vec::new(),
    };
    ring.document.step = Step::Changing(change.clone());
    let mut status = status(3, &[MemberState::Alive; 4]);
    status.members[3].rebuilding_segments = 700;
    status.awaited = vec![id(4)];
    status.awaited_for = Some(AwaitedFor::Fetching);
    let report = status_report(&status, Some(&ring), Format::Table);
    let line = "dynakv: the ring changes (ring 3): node-4 coming; node-3 going; step 1 of 2, waiting for node-4 \
                (alive, 700 segments left) to fetch what they gain\n";
    assert!(report.messages.starts_with(line), "{}", report.messages);
    let json = status_report(&status, Some(&ring), Format::Json).data;
    let json = String::from_utf8(json).unwrap();
    let expected = concat!(
        r#""change":{"step":"write-both","begun_at":3,"coming":["node-4"],"going":["node-3"],"gone":[],"#,
        r#""awaited":[{"id":"node-4","state":"alive","segments_left":700,"bytes":0,"bytes_per_s":0,"seconds_left":null,"#,
        r#""hints_left":0}],"awaited_for":"fetching"},"waiting":[]}"#
    );
    assert!(json.contains(expected), "{json}");
    // What it fetches counts, also where nothing of it was lost, and how fast that goes.
    status.members[3].rebuilding_segments = 0;
    status.members[3].moving = Some(Moving {
        segments_left: 600,
        bytes: 3 << 20,
        bytes_per_s: 1 << 19,
        seconds_left: Some(75),
    });
    let messages = status_report(&status, Some(&ring), Format::Table).messages;
    let told = "(alive, 600 segments left) to fetch what they gain: 3.0 MiB so far, 512 KiB/s, about 1m 15s left\n";
    assert!(messages.contains(told), "{messages}");
    status.members[3].moving = None;
    status.members[3].rebuilding_segments = 700;
    // Those that are read are all there, and of the two sides that are written each has its quorum.
    assert_eq!(report.exit, Exit::Degraded);
    status.members[3].state = MemberState::Dead;
    let report = status_report(&status, Some(&ring), Format::Table);
    assert!(
        report.messages.contains("(dead, 700 "),
        "{}",
        report.messages
    );
    assert_eq!(report.exit, Exit::Degraded);
    status.members[0].state = MemberState::Dead;
    // node-2 alone is left of those that are to be.
    assert_eq!(verdict(&status, Some(&ring)), Verdict::Unavailable);
    change.phase = ChangePhase::ReadNew;
    ring.document.step = Step::Changing(change.clone());
    status.awaited_for = Some(AwaitedFor::Following);
    let said = |status: &StatusReply, ring: &RingReply| {
        status_report(status, Some(ring), Format::Table).messages
    };
    let messages = said(&status, &ring);
    assert!(messages.contains("step 2 of 2, waiting"), "{messages}");
    assert!(messages.contains(" to follow it\n"), "{messages}");
    // One that goes has to follow it first, too.
    status.awaited = vec![id(3)];
    let messages = said(&status, &ring);
    assert!(messages.contains(" to follow it\n"), "{messages}");
    status.awaited_for = Some(AwaitedFor::HandingOn);
    status.members[2].hints_waiting = 9;
    let messages = said(&status, &ring);
    let told = "node-3 (alive, 9 hints left) to hand on what it has\n";
    assert!(messages.contains(told), "{messages}");
    change.stopped = vec![id(3)];
    ring.document.step = Step::Changing(change);
    let messages = said(&status, &ring);
    assert!(messages.contains("node-3 (gone) going"), "{messages}");
    status.awaited.clear();
    let report = status_report(&status, Some(&ring), Format::Table);
    let messages = &report.messages;
    assert!(messages.contains("the next is due"), "{messages}");
}

#[test]
fn who_waits_to_be_let_in_is_shown() {
    let mut status = status(3, &[MemberState::Alive; 3]);
    let mut waiting = ring(3, 4).document.members.remove(3);
    waiting.zone = "east".to_owned();
    status.waiting = vec![waiting];
    let json = status_report(&status, None, Format::Json).data;
    let expected =
        r#""waiting":[{"id":"node-4","address":"127.0.0.1:1","weight":1,"zone":"east"}]}"#;
    assert!(String::from_utf8(json).unwrap().contains(expected));
    assert_eq!(
        waiting::text(&status, &Prompt::of("a:1")),
        "dynakv: node-4 at 127.0.0.1:1 waits to be let in\n  next: dynakv --server a:1 cluster join node-4\n"
    );
}
