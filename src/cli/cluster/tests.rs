//! Tests of what `cluster` plans, prints, and makes of what members say.

use std::time::Duration;

use clap::Parser;
use dynakv_client::{MemberState, MemberStatus, MemberWish, RingReply, RingWish};
use dynakv_protocol::client::AwaitedFor;
use dynakv_protocol::ring_document::{Member, RingDocument, Stake, Step};
use dynakv_protocol::{ClusterId, DirectoryId, ErrorReply, Generation, NodeId, RingVersion};

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
        moving: None,
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
        awaited_for: None,
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
    let first = id(1);
    let known = wish::Known {
        planned_on: question.planned_on,
        accept_loss: question.accept_loss,
        forced_by: question.is_forced.then_some(&first),
        state: &state,
        hints: &|_| 0,
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
        "remove node-3 node-2 --force",
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
        "leave node-3 --force",
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
        "remove node-3 node-2 --accept-loss --force",
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
            RingWish::Abort => Ok::<_, super::wish::Refusal>(Vec::new()),
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

/// Most of those that decide are gone: without a majority the plan says so, with force it says what that means.
#[test]
fn a_plan_says_who_decides() {
    let ring = ring(3, (3, 3, 1));
    let alone = status(&ring, &[2, 3], &[]);
    let plain = picture(&ring, &alone, "remove node-3");
    assert!(
        plain.contains("1 of the members that decide is there, and it takes 2."),
        "{plain}"
    );
    let forced = picture(&ring, &alone, "remove node-2 node-3 --accept-loss --force");
    assert!(forced.contains("decides by itself. Say this to one node only"));
    assert!(!forced.contains("nothing can be decided"), "{forced}");
    let next = "cluster remove node-2 node-3 --accept-loss --force --yes";
    assert!(forced.contains(next), "{forced}");
    // With everybody there it is not needed.
    let two = status(&ring, &[3], &[]);
    let refusal = next_of(&ring, &two, "remove node-3 --force").unwrap_err();
    assert!(refusal.to_string().contains("leave --force away"));
}

#[test]
fn a_plan_shows_who_holds_what_and_what_moves() {
    let ring = ring(3, (3, 2, 2));
    let status = status(&ring, &[], &[4]);
    let report = printed(&ring, &status, "join node-4", Format::Table);
    let expected = "\
ring 12 → join node-4                    3 → 4 nodes, n 3, w 2, r 2
        now                    after                       moves
node-1  ████████████ 100.0 %   ██████████    79.2 %     -4.2 GiB
node-2  ████████████ 100.0 %   █████████     78.0 %     -4.4 GiB
node-3  ████████████ 100.0 %   █████████     73.4 %     -5.3 GiB
node-4                 0.0 %   ████████      69.4 %      +14 GiB
moves about 14 GiB in 45,499 segments, the minimum
meanwhile any one node may fail
if node-4 dies before it has all that it gains, the change is given up after 5
  minutes
next: dynakv cluster join node-4 --yes
";
    assert_eq!(report, Report::data(Exit::Ok, expected));
}

#[test]
fn a_plan_has_this_json() {
    let ring = ring(1, (3, 2, 2));
    let status = status(&ring, &[], &[2]);
    let report = printed(&ring, &status, "join node-2", Format::Json);
    let expected = concat!(
        r#"{"ring_version":12,"wish":"join node-2","kind":"begins","n":3,"w":2,"r":2,"#,
        r#""nodes_before":1,"nodes_after":2,"copies_before":1,"copies_after":2,"members":["#,
        r#"{"id":"node-1","role":"stays","weight_before":1,"weight_after":1,"zone_before":"","zone_after":"","#,
        r#""segments_before":65536,"segments_after":65536,"segments_gained":0,"segments_lost":0,"#,
        r#""bytes_gained":0,"bytes_lost":0},"#,
        r#"{"id":"node-2","role":"comes","weight_before":0,"weight_after":1,"zone_before":"","zone_after":"","#,
        r#""segments_before":0,"segments_after":65536,"segments_gained":65536,"segments_lost":0,"#,
        r#""bytes_gained":21474836480,"bytes_lost":0}],"#,
        r#""segments_moved":65536,"bytes_moved":21474836480,"is_minimum":true,"#,
        r#""nodes_may_fail_meanwhile":0,"nodes_may_fail_afterwards":0,"held_up_by":[],"may_lose_writes":false,"#,
        r#""notes":["moves about 20 GiB in 65,536 segments, the minimum","keys will have 2 copies instead of 1","#,
        r#""meanwhile no node may fail, or some keys lack a quorum","#,
        r#""if node-2 dies before it has all that it gains, the change is given up after 5 minutes"],"#,
        r#""next":"dynakv cluster join node-2 --yes"}"#,
        "\n"
    );
    assert_eq!(report, Report::data(Exit::Ok, expected));
}

#[test]
fn a_plan_says_what_is_to_be_known() {
    let usual = ring(4, (3, 2, 2));
    let calm = status(&usual, &[], &[5]);
    // One that goes, and nothing is wrong.
    let text = picture(&usual, &calm, "leave node-4");
    for part in [
        "ring 12 → leave node-4",
        "4 → 3 nodes, n 3, w 2, r 2",
        " segments, the minimum\n",
        "meanwhile any one node may fail\n",
        "node-4 hands on what it has, and then ends by itself\n",
        "next: dynakv cluster leave node-4 --yes\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("copies instead"), "{text}");
    // One that is dead: nobody else may fail until it is over.
    let text = picture(&usual, &status(&usual, &[4], &[]), "remove node-4");
    for part in [
        "make sure that node-4 is stopped for good: nobody waits for it, and it is not let in again\n",
        "meanwhile no node may fail, or some keys lack a quorum\n",
        "afterwards any one node may fail\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("lost"), "{text}");
    // Two at once are more than a quorum does without.
    let text = picture(
        &usual,
        &status(&usual, &[3, 4], &[]),
        "remove node-3 node-4 --accept-loss",
    );
    for part in [
        "keys will have 2 copies instead of 3\n",
        "meanwhile some keys lack a quorum, as things stand\n",
        "afterwards no node may fail",
        "acknowledged writes may be lost: with w = 2 some may be nowhere but at node-3 and node-4\n",
        "next: dynakv cluster remove node-3 node-4 --accept-loss --yes\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Another weight: the others hold less.
    let text = picture(&usual, &calm, "set node-2 --weight 2 --zone east");
    let settings = "have the settings of node-2 say weight = 2 and zone = \"east\", too: ";
    assert!(text.contains(settings), "{text}");
    assert!(text.contains("4 nodes, n 3, w 2, r 2"), "{text}");
    assert!(!text.contains("ends by itself"), "{text}");
}

#[test]
fn a_plan_names_who_is_waited_for() {
    for (quorums, dead, awaited) in [
        ((3, 2, 2), 2, false),
        ((3, 1, 3), 2, true),
        ((3, 3, 1), 2, true),
    ] {
        let ring = ring(3, quorums);
        let text = picture(&ring, &status(&ring, &[dead], &[4]), "join node-4");
        let line = "node-2 is not in reach and is waited for: start it first\n";
        assert_eq!(text.contains(line), awaited, "{text}");
        let word = "every old owner has to be there";
        assert_eq!(text.contains(word), awaited, "{text}");
    }
    // With r = 1 it has to be true that who is gone is.
    let ring = ring(4, (3, 3, 1));
    let text = picture(&ring, &status(&ring, &[4], &[]), "remove node-4");
    assert!(text.contains("with r = 1 this matters"), "{text}");
    assert!(text.contains("every old owner that is not gone"), "{text}");
    assert!(!text.contains("start it first"), "{text}");
}

#[test]
fn a_change_under_way_is_given_up_or_waits_for_fewer() {
    let ring = ring(4, (3, 2, 2));
    let begun = next_of(&ring, &status(&ring, &[], &[5]), "replace node-4 node-5").unwrap();
    let ring = reply(begun);
    let text = picture(&ring, &status(&ring, &[], &[]), "abort");
    for part in [
        "ring 13 → abort",
        "the change that began with ring 13 is given up: all own what they owned before\n",
        "node-4 stays\n",
        "node-5 does not come in, and what was fetched is dropped. Stop what is not to come in",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('%'), "{text}");
    let text = picture(&ring, &status(&ring, &[4], &[]), "remove node-4");
    for part in [
        "the change that began with ring 13 goes on, and waits no more for who is gone\n",
        "make sure that node-4 is stopped for good",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn scripts_get_rows() {
    let ring = ring(1, (3, 2, 2));
    let report = printed(
        &ring,
        &status(&ring, &[], &[2]),
        "join node-2",
        Format::Plain,
    );
    let rows = format!(
        "node-1\t100.0\t100.0\t0\t0\nnode-2\t0.0\t100.0\t{}\t0\n",
        20 * GIB
    );
    assert_eq!(report.data, rows.into_bytes());
    assert!(
        report
            .messages
            .ends_with("  next: dynakv cluster join node-2 --yes\n")
    );
}

/// What members say while node-4 comes and node-3 goes, in this phase.
fn seen(document: &RingDocument, awaited: &[(usize, u32)]) -> Seen {
    let ring = reply(document.clone());
    let mut status = status(&ring, &[], &[]);
    for (number, segments_left) in awaited {
        status.awaited.push(id(*number));
        let member = status.members.iter_mut().find(|it| it.id == id(*number));
        member.unwrap().rebuilding_segments = *segments_left;
    }
    Seen {
        ring,
        status,
        address: "10.0.0.2:8080".to_owned(),
    }
}

fn rings_of_a_change() -> [RingDocument; 4] {
    let ring = ring(3, (3, 2, 2));
    let calm = status(&ring, &[], &[4]);
    let begun = next_of(&ring, &calm, "replace node-3 node-4").unwrap();
    let read_new = change::read_new(&begun).unwrap();
    let done = change::finish(&read_new).unwrap();
    let given_up = change::give_up(&begun).unwrap();
    [begun, read_new, done, given_up]
}

/// Follows a change of which this is said, one after the other; nothing stands for nobody who answers.
async fn watched(begun: &Begun, said: Vec<Option<Seen>>) -> (Watched, Vec<(u64, u64)>) {
    let mut said = said.into_iter();
    let look = async |_| said.next().flatten().ok_or(None);
    let mut shown = Vec::new();
    let show = |seen: &Seen| shown.push(segments_done_of(seen));
    let watched = watch(begun, look, show, Duration::ZERO).await;
    (watched, shown)
}

fn segments_done_of(seen: &Seen) -> (u64, u64) {
    course::segments_done(seen, 1000)
}

fn outcome(begun: &Begun, watched: Watched, format: Format) -> Report {
    let outcome = Outcome {
        words: "replace node-3 node-4",
        format,
    };
    outcome.of(begun, watched, "dynakv cluster status")
}

#[tokio::test]
async fn a_change_is_followed_to_its_end() {
    let [begun, read_new, done, _] = rings_of_a_change();
    let course = Begun::by(&begun).unwrap();
    let said = || {
        vec![
            Some(seen(&begun, &[(4, 0)])),
            Some(seen(&begun, &[(4, 700)])),
            None,
            Some(seen(&begun, &[(4, 100)])),
            Some(seen(&read_new, &[(3, 0)])),
            Some(seen(&done, &[])),
        ]
    };
    let (end, shown) = watched(&course, said()).await;
    // Nothing is said yet of how much is lacking, at first.
    let expected = [(0, 1000), (300, 1000), (900, 1000), (1000, 1000)];
    assert_eq!(shown, expected);
    let report = outcome(&course, end, Format::Plain);
    let expected = "done: ring 15 has 3 nodes: node-1, node-2, node-4\n";
    assert_eq!(report, Report::data(Exit::Ok, expected));
    let (end, _) = watched(&course, said()).await;
    let report = outcome(&course, end, Format::Json);
    let expected = concat!(
        r#"{"wish":"replace node-3 node-4","state":"done","begun_at":null,"ring_version":15,"#,
        r#""members":["node-1","node-2","node-4"]}"#,
        "\n"
    );
    assert_eq!(report, Report::data(Exit::Ok, expected));
}

#[tokio::test]
async fn a_change_that_is_given_up_is_a_failure() {
    let [begun, _, _, given_up] = rings_of_a_change();
    let course = Begun::by(&begun).unwrap();
    let mut dead = seen(&begun, &[(4, 700)]);
    for member in dead.status.members.iter_mut().filter(|it| it.id == id(4)) {
        member.state = MemberState::Dead;
    }
    let end = Some(seen(&given_up, &[]));
    let (watched_end, _) = watched(&course, vec![Some(dead), end.clone()]).await;
    let report = outcome(&course, watched_end, Format::Plain);
    let expected = "dynakv: the change was given up: node-4 died before it had all that it was to hold\n  \
                    next: dynakv cluster status\n";
    assert_eq!(report, Report::message(Exit::Error, expected));
    let (watched_end, _) = watched(&course, vec![end]).await;
    let report = outcome(&course, watched_end, Format::Plain);
    assert!(
        report.messages.contains("an operator gave it up"),
        "{report:?}"
    );
}

/// The next change may have begun before anybody has looked again.
#[tokio::test]
async fn a_later_change_tells_how_this_one_has_ended() {
    let [begun, _, done, given_up] = rings_of_a_change();
    let course = Begun::by(&begun).unwrap();
    let later = |ring: &RingDocument| {
        let ring = reply(ring.clone());
        let begun = next_of(&ring, &status(&ring, &[], &[]), "set node-1 --weight 3");
        begun.unwrap()
    };
    assert_eq!(course.stage(&later(&done)), Stage::Done);
    assert_eq!(course.stage(&later(&given_up)), Stage::GivenUp);
    let mut other = done.clone();
    other.members[0].weight = 7;
    assert_eq!(course.stage(&other), Stage::Other);
    let (end, _) = watched(&course, vec![Some(seen(&other, &[]))]).await;
    assert_eq!(outcome(&course, end, Format::Plain).exit, Exit::Error);
}

#[tokio::test]
async fn who_is_silent_for_long_leaves_it_open() {
    let [begun, ..] = rings_of_a_change();
    let course = Begun::by(&begun).unwrap();
    let (end, _) = watched(&course, vec![Some(seen(&begun, &[(4, 1)]))]).await;
    let report = outcome(&course, end, Format::Plain);
    assert_eq!(report.exit, Exit::Error);
    assert!(report.messages.contains("the change goes on"), "{report:?}");
    let end = Watched {
        end: End::Left,
        last: None,
    };
    let report = outcome(&course, end, Format::Plain);
    assert_eq!(report.exit, Exit::Ok);
    let expected = "dynakv: left alone, and the change goes on; this shows it:\n  next: dynakv cluster status\n";
    assert_eq!(report.messages, expected);
}

/// Who goes sends its clients away in the second step.
#[test]
fn those_that_stay_are_asked_first() {
    let [begun, ..] = rings_of_a_change();
    let ring = reply(begun.clone());
    let mut status = status(&ring, &[2], &[]);
    let order = whom_to_ask(&begun, &status, "localhost:8080");
    let expected = [
        "localhost:8080",
        "10.0.0.1:8080",
        "10.0.0.4:8080",
        "10.0.0.3:8080",
    ];
    assert_eq!(order, expected);
    status.node_id = id(3);
    let order = whom_to_ask(&begun, &status, "localhost:8080");
    let expected = [
        "10.0.0.1:8080",
        "10.0.0.4:8080",
        "localhost:8080",
        "10.0.0.3:8080",
    ];
    assert_eq!(order, expected);
}

#[test]
fn the_standing_is_told_with_what_can_be_done() {
    let told = |seen: &Seen, waiting: &[Member], format| {
        let prompt = Prompt::default();
        standing::report(&seen.status, &seen.ring, waiting, &prompt, format)
    };
    let [begun, read_new, done, _] = rings_of_a_change();
    let calm = seen(&done, &[]);
    let report = told(&calm, &[member(9)], Format::Plain);
    let expected =
        "ring 15 is final: 3 nodes, n 3, w 2, r 2\nnode-9 at 10.0.0.9:8080 waits to be let in\n";
    assert_eq!(report.data, expected.as_bytes());
    assert_eq!(report.messages, "  next: dynakv cluster plan join node-9\n");
    assert_eq!(told(&calm, &[], Format::Plain).messages, "");
    let report = told(&seen(&begun, &[(4, 700)]), &[], Format::Plain);
    let expected = "ring 13 changes: node-4 coming; node-3 going\nstep 1 of 2, waiting for node-4 (alive, 700 \
                    segments left) to fetch what they gain\n";
    assert_eq!(report.data, expected.as_bytes());
    assert!(
        report
            .messages
            .ends_with("next: dynakv cluster plan abort\n")
    );
    let mut going = seen(&read_new, &[(3, 0)]);
    going.status.awaited_for = Some(AwaitedFor::HandingOn);
    let report = told(&going, &[], Format::Plain);
    let text = String::from_utf8(report.data).unwrap();
    assert!(
        text.contains("waiting for node-3 (alive) to hand on what it has\n"),
        "{text}"
    );
    assert!(report.messages.ends_with("next: dynakv cluster status\n"));
    going.status.members[2].state = MemberState::Dead;
    let report = told(&going, &[], Format::Plain);
    assert!(
        report
            .messages
            .ends_with("next: dynakv cluster plan remove node-3\n")
    );
    let report = told(&going, &[member(9)], Format::Json);
    let expected = concat!(
        r#"{"ring_version":14,"step":"read-new","nodes":4,"n":3,"w":2,"r":2,"change":{"step":"read-new","#,
        r#""begun_at":13,"coming":["node-4"],"going":["node-3"],"gone":[],"#,
        r#""awaited":[{"id":"node-3","state":"dead","segments_left":0,"bytes":0,"bytes_per_s":0,"seconds_left":null,"hints_left":0}],"awaited_for":"handing-on"},"#,
        r#""waiting":[{"id":"node-9","address":"10.0.0.9:8080","weight":1,"zone":""}],"#,
        r#""next":"dynakv cluster plan remove node-3"}"#,
        "\n"
    );
    assert_eq!(report, Report::data(Exit::Ok, expected));
}
