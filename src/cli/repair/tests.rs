//! Tests of what `repair` prints.

use dynakv_client::MemberStatus;
use dynakv_protocol::{ClusterId, Generation, NodeId, RingVersion};

use super::*;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn progress() -> RepairProgress {
    RepairProgress {
        run: 1,
        pairs_total: 2,
        pairs_done: 2,
        segments_differing: 40,
        keys_fetched: 30,
        keys_sent: 12,
        started_age_ms: Some(1500),
        finished_age_ms: Some(250),
        ..RepairProgress::none(id("node-1"))
    }
}

fn done(progress: RepairProgress, format: Format) -> Report {
    report(
        Followed::Done(Box::new(progress)),
        &Prompt::default(),
        format,
    )
}

#[test]
fn a_repair_has_this_json() {
    let expected = concat!(
        r#"{"node_id":"node-1","state":"done","pairs_total":2,"pairs_done":2,"pairs_failed":0,"#,
        r#""segments_differing":40,"keys_fetched":30,"keys_sent":12,"rebuilding_segments":0,"#,
        r#""accepted_segments":0,"took_ms":1250,"last_error":"","keys_locked":0}"#,
        "\n"
    );
    let printed = done(progress(), Format::Json);
    assert_eq!(printed, Report::data(Exit::Ok, expected));
}

#[test]
fn a_repair_is_summed_up_in_a_line() {
    let printed = done(progress(), Format::Plain);
    let expected = "node-1 compared with 2 of 2 members: 40 segments differed, 30 keys mended here, 12 at others\n";
    assert_eq!(printed, Report::data(Exit::Ok, expected));
}

#[test]
fn what_is_not_whole_is_degraded_and_says_why() {
    let failed = RepairProgress {
        pairs_failed: 1,
        last_error: "node-3 is dead".to_owned(),
        ..progress()
    };
    // The lines on the way there count as the last one does.
    assert_eq!(compared(&failed), 1);
    let printed = done(failed.clone(), Format::Table);
    assert_eq!(printed.exit, Exit::Degraded);
    assert!(
        String::from_utf8(printed.data)
            .unwrap()
            .contains("with 1 of 2")
    );
    assert!(
        printed.messages.contains("node-3 is dead"),
        "{}",
        printed.messages
    );
    assert!(printed.messages.contains("next: dynakv status"));
    let printed = done(failed, Format::Json);
    assert_eq!((printed.exit, &*printed.messages), (Exit::Degraded, ""));
    let rebuilding = RepairProgress {
        rebuilding_segments: 7,
        ..progress()
    };
    let printed = done(rebuilding, Format::Plain);
    assert_eq!(printed.exit, Exit::Degraded);
    assert!(
        printed.messages.contains("7 segments are still"),
        "{}",
        printed.messages
    );
    let accepted = RepairProgress {
        accepted_segments: 7,
        ..progress()
    };
    let printed = done(accepted, Format::Plain);
    assert_eq!(printed.exit, Exit::Ok);
    assert!(
        String::from_utf8(printed.data)
            .unwrap()
            .ends_with("7 segments count as rebuilt by your word\n")
    );
}

#[test]
fn who_stops_looking_is_told_that_it_goes_on() {
    let running = RepairProgress {
        running: true,
        pairs_done: 1,
        finished_age_ms: None,
        ..progress()
    };
    let printed = report(
        Followed::Left(Box::new(running)),
        &Prompt::default(),
        Format::Plain,
    );
    assert_eq!(printed.exit, Exit::Ok);
    assert!(
        printed.messages.contains("goes on at node-1"),
        "{}",
        printed.messages
    );
    let printed = report(Followed::Forgotten, &Prompt::default(), Format::Plain);
    assert_eq!(printed.exit, Exit::Error);
}

#[test]
fn progress_counts_pages_of_all_members() {
    let mut running = RepairProgress {
        running: true,
        pairs_done: 1,
        pages_compared: 128,
        comparing_with: Some(id("node-3")),
        ..progress()
    };
    assert_eq!(steps(&running), (384, 512));
    assert!(doing(&running).starts_with("comparing with node-3, 40 segments"));
    running.comparing_with = None;
    assert_eq!(steps(&running), (256, 512));
    running.rebuilding_segments = 9;
    assert_eq!(doing(&running), "rebuilding, 9 segments left");
    let nothing = RepairProgress::none(id("node-1"));
    assert_eq!(steps(&nothing), (0, 1));
}

#[test]
fn what_giving_up_means_names_who_is_away() {
    let member = |name: &str, state, rebuilding_segments| MemberStatus {
        id: id(name),
        address: "127.0.0.1:1".to_owned(),
        state,
        state_age_ms: 0,
        generation: Generation(1),
        zone: String::new(),
        keys: 0,
        disk_bytes: 0,
        owns_basis_points: 0,
        software: String::new(),
        rebuilding_segments,
        hints_waiting: 0,
        disk_hangs: false,
        disk_full: false,
        unreachable: false,
        moving: None,
    };
    let mut status = StatusReply {
        node_id: id("node-1"),
        cluster_name: "dynakv".to_owned(),
        cluster_id: ClusterId(1),
        ring_version: RingVersion(3),
        n: 3,
        w: 2,
        r: 2,
        members: vec![
            member("node-1", MemberState::Alive, 65_536),
            member("node-2", MemberState::Dead, 0),
        ],
        locked_keys: 0,
        locked_keys_named: Vec::new(),
        other_clusters: Vec::new(),
        awaited: Vec::new(),
        awaited_for: None,
        waiting: Vec::new(),
    };
    let text = meaning(&status);
    assert!(text.contains("rebuilding 65536 segments"), "{text}");
    assert!(text.contains("Not in reach: node-2"), "{text}");
    status.members.pop();
    assert!(!meaning(&status).contains("Not in reach"));
}
