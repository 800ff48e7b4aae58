//! Tests of what `cluster` plans, prints, and makes of what members say.

use clap::Parser;
use dynakv_client::{MemberState, MemberStatus, MemberWish, RingReply, RingWish};
use dynakv_protocol::ring_document::{Member, RingDocument, Stake, Step};
use dynakv_protocol::{ClusterId, DirectoryId, ErrorReply, Generation, NodeId, RingVersion};
use tokio::time::Duration;

use super::course::Seen;
use super::watch::watch;
use super::*;
use crate::engine::layout::change::{self, Reads};
use crate::engine::layout::wish::{self, wished};

const GIB: u64 = 1024 * 1024 * 1024;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: ClusterCommand,
}

fn parse(line: &str) -> Result<ClusterCommand, clap::Error> {
    let words = ["cluster"].into_iter().chain(line.split(' '));
    Line::try_parse_from(words).map(|line| line.command)
}

fn wish_of(line: &str) -> WishCommand {
    match parse(&format!("plan {line}")).unwrap() {
        ClusterCommand::Plan { wish } => wish,
        other => panic!("{other:?}"),
    }
}

fn id(number: usize) -> NodeId {
    NodeId::new(&format!("node-{number}")).unwrap()
}

fn member(number: usize) -> Member {
    Member {
        id: id(number),
        directory_id: DirectoryId(number as u64),
        address: format!("10.0.0.{number}:8080"),
        weight: 1,
        zone: String::new(),
    }
}

fn ring(nodes: usize, (n, w, r): (u8, u8, u8)) -> RingReply {
    let members: Vec<Member> = (1..=nodes).map(member).collect();
    reply(RingDocument {
        cluster_id: ClusterId(255),
        cluster_name: "dynakv".to_owned(),
        version: RingVersion(12),
        step: Step::Final,
        n,
        w,
        r,
        members,
    })
}

fn reply(document: RingDocument) -> RingReply {
    let members = document.members.iter();
    RingReply {
        addresses: members.map(|member| member.address.clone()).collect(),
        document,
    }
}

/// What node-1 says while these are dead and those wait to be let in.
fn status(ring: &RingReply, dead: &[usize], waiting: &[usize]) -> StatusReply {
    let document = &ring.document;
    let is_dead = |id: &NodeId| dead.iter().any(|number| id == &self::id(*number));
    let member_status = |member: &Member| MemberStatus {
        id: member.id.clone(),
        address: member.address.clone(),
        state: match is_dead(&member.id) {
            true => MemberState::Dead,
            false => MemberState::Alive,
        },
        state_age_ms: 0,
        generation: Generation(1),
        zone: String::new(),
        keys: 10,
        disk_bytes: 20 * GIB,
        owns_basis_points: 3333,
        software: "0.1.0".to_owned(),
        rebuilding_segments: 0,
        hints_waiting: 0,
        disk_hangs: false,
        disk_full: false,
        unreachable: false,
    };
    StatusReply {
        node_id: id(1),
        cluster_name: document.cluster_name.clone(),
        cluster_id: document.cluster_id,
        ring_version: document.version,
        n: document.n,
        w: document.w,
        r: document.r,
        members: document.members.iter().map(member_status).collect(),
        locked_keys: 0,
        locked_keys_named: Vec::new(),
        other_clusters: Vec::new(),
        awaited: Vec::new(),
        waiting: waiting.iter().map(|number| member(*number)).collect(),
    }
}

/// What the node answers to that.
fn next_of(
    ring: &RingReply,
    status: &StatusReply,
    line: &str,
) -> Result<RingDocument, wish::WishRefusal> {
    let prompt = Prompt::default();
    let known = Known {
        status,
        ring,
        waiting: &status.waiting,
        prompt: &prompt,
    };
    let question = known.question(&wish_of(line)).unwrap();
    let state = |id: &NodeId| {
        let mut members = status.members.iter();
        let member = members.find(|member| member.id == *id);
        member.map_or(MemberState::Dead, |member| member.state)
    };
    let known = wish::Known {
        planned_on: question.planned_on,
        accept_loss: question.accept_loss,
        state: &state,
        reads: &|_| Reads::Changes,
    };
    wished(&ring.document, &question.wish, &known)
}

/// The plan as it is printed.
fn printed(ring: &RingReply, status: &StatusReply, line: &str, format: Format) -> Report {
    let next = next_of(ring, status, line).unwrap();
    let words = wish_of(line).words();
    let next_command = Prompt::default().command(&format!("cluster {words} --yes"));
    Plan::new(&ring.document, &next, status).report(&words, &next_command, format)
}

fn picture(ring: &RingReply, status: &StatusReply, line: &str) -> String {
    let text = printed(ring, status, line, Format::Table).data;
    let text = String::from_utf8(text).unwrap();
    let longest = text.lines().map(|line| line.chars().count()).max();
    let next = text.lines().last().unwrap();
    assert!(longest.unwrap() <= 80.max(next.len()), "{text}");
    // What was broken into lines is put together again.
    text.replace("\n  ", " ")
}

#[test]
fn commands_are_understood() {
    let ClusterCommand::Join(begin) = parse("join node-4 node-5 --yes --no-wait").unwrap() else {
        panic!();
    };
    assert_eq!(begin.wish.ids, [id(4), id(5)]);
    assert!(begin.consent.yes && begin.consent.no_wait);
    for line in [
        "plan join node-4",
        "plan remove node-3 node-2 --accept-loss",
        "leave node-3",
        "remove node-3 --accept-loss --yes",
        "replace node-3 node-4 --accept-loss",
        "set node-2 --weight 2",
        "set node-2 --zone",
        "abort --yes",
        "status",
    ] {
        let line = line.replace("--zone", "--zone=");
        assert!(parse(&line).is_ok(), "{line}");
    }
    for line in [
        "join",
        "plan",
        "plan join node-4 --yes",
        "leave a/b",
        "leave node-3 --accept-loss",
        "replace node-3",
        "set node-2",
        "set node-2 --weight 0",
        "set node-2 --weight 101",
        "status node-1",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

/// What is printed can be typed again.
#[test]
fn words_are_those_that_were_typed() {
    for line in [
        "join node-4 node-5",
        "remove node-3 --accept-loss",
        "replace node-3 node-4",
        "set node-2 --weight 2 --zone east",
        "abort",
    ] {
        assert_eq!(wish_of(line).words(), line);
    }
    let cleared = "set node-2 --zone=";
    assert_eq!(wish_of(cleared).words(), "set node-2 --zone ''");
}

#[test]
fn wishes_are_told_by_what_is_known() {
    let ring = ring(3, (3, 2, 2));
    let prompt = Prompt::default();
    let asked = |line: &str, dead: &[usize]| {
        let status = status(&ring, dead, &[4]);
        let known = Known {
            status: &status,
            ring: &ring,
            waiting: &status.waiting,
            prompt: &prompt,
        };
        let question = known.question(&wish_of(line))?;
        assert!(question.is_plan);
        assert_eq!(question.planned_on, RingVersion(12));
        match question.wish {
            RingWish::Members(wishes) => Ok(wishes),
            RingWish::Abort => Ok(Vec::new()),
        }
    };
    let joins = || MemberWish::Joins(member(4));
    assert_eq!(asked("join node-4", &[]), Ok(vec![joins()]));
    let leaves = MemberWish::Leaves(id(3));
    assert_eq!(
        asked("replace node-3 node-4", &[]),
        Ok(vec![joins(), leaves])
    );
    let is_gone = MemberWish::IsGone(id(3));
    assert_eq!(
        asked("replace node-3 node-4", &[3]),
        Ok(vec![joins(), is_gone])
    );
    let stake = Stake {
        weight: 1,
        zone: "east".to_owned(),
    };
    let has_stake = MemberWish::HasStake(id(2), stake);
    assert_eq!(asked("set node-2 --zone east", &[]), Ok(vec![has_stake]));
    let nobody = asked("join node-5", &[]).unwrap_err();
    assert_eq!(
        nobody.next,
        "dynakv serve --id node-5 --seed 10.0.0.1:8080 --auto-join false"
    );
    let already = asked("join node-3", &[]).unwrap_err();
    assert_eq!(already.next, "dynakv status");
    assert!(asked("set node-7 --weight 2", &[]).is_err());
}

/// The node says why, and the command what to type.
#[test]
fn refusals_end_with_the_command_that_helps() {
    let prompt = Prompt::default();
    let next = |quorums, line: &str, dead: &[usize]| {
        let ring = ring(4, quorums);
        let status = status(&ring, dead, &[]);
        let refusal = next_of(&ring, &status, line).unwrap_err();
        let known = Known {
            status: &status,
            ring: &ring,
            waiting: &[],
            prompt: &prompt,
        };
        known.next_after(&wish_of(line), &refusal.to_string())
    };
    let usual = (3, 2, 2);
    assert_eq!(
        next(usual, "leave node-2 node-3", &[3]),
        "dynakv cluster plan remove node-3"
    );
    assert_eq!(
        next(usual, "remove node-3", &[]),
        "dynakv cluster plan leave node-3"
    );
    assert_eq!(next(usual, "remove node-9", &[]), "dynakv status");
    assert_eq!(next(usual, "set node-2 --weight 1", &[]), "dynakv status");
    assert_eq!(
        next((3, 1, 3), "remove node-3", &[3]),
        "dynakv cluster plan remove node-3 --accept-loss"
    );
    let mut ring = ring(4, usual);
    let begun = next_of(&ring, &status(&ring, &[], &[]), "leave node-4").unwrap();
    ring = reply(begun);
    let known = Known {
        status: &status(&ring, &[], &[]),
        ring: &ring,
        waiting: &[],
        prompt: &prompt,
    };
    let next = known.next_after(&wish_of("leave node-3"), "");
    assert_eq!(next, "dynakv cluster status");
    let reply = ErrorReply::new(ErrorCode::ChangeRefused, "node-3 is dead");
    let error = Error::Refused {
        address: "10.0.0.1:8080".to_owned(),
        reply: Box::new(reply),
    };
    let report = refused(&error, Format::Plain, |_| "dynakv status".to_owned()).unwrap();
    let expected = "dynakv: node-3 is dead\n  next: dynakv status\n";
    assert_eq!(report, Report::message(Exit::Error, expected));
}

#[test]
fn a_plan_shows_who_holds_what_and_what_moves() {
    let ring = ring(3, (3, 2, 2));
    let status = status(&ring, &[], &[4]);
    let report = printed(&ring, &status, "join node-4", Format::Table);
    let text = String::from_utf8(report.data).unwrap();
    assert_eq!(text, "");
}

#[test]
fn a_plan_has_this_json() {
    let ring = ring(1, (3, 2, 2));
    let status = status(&ring, &[], &[2]);
    let report = printed(&ring, &status, "join node-2", Format::Json);
    let text = String::from_utf8(report.data).unwrap();
    assert_eq!(text, "");
}
