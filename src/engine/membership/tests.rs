use dynakv_protocol::gossip::Gossip;
use dynakv_protocol::ids::{DirectoryId, Generation};
use dynakv_protocol::moving::Moving;

use super::*;
use crate::engine::counters::{
    GENERATION_MAX, HEARTBEAT_JUMP_MAX, INCARNATION_JUMP_MAX, INCARNATION_MAX,
};

const ALIVE: MemberState = MemberState::Alive;
const SUSPECTED: MemberState = MemberState::Suspected;
const DEAD: MemberState = MemberState::Dead;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn entry(name: &str, generation: u64, heartbeat: u64) -> MemberEntry {
    MemberEntry {
        generation: Generation(generation),
        heartbeat,
        software: "test".to_owned(),
        nonce: generation,
        ..MemberEntry::new(id(name), format!("{name}:1"), DirectoryId(1))
    }
}

fn ring_member(name: &str, address: &str) -> RingMember {
    RingMember {
        id: id(name),
        directory_id: DirectoryId(1),
        address: address.to_owned(),
    }
}

/// Node `a` of a ring with these others, at time 0.
fn node(others: &[&str]) -> Membership {
    let random = fastrand::Rng::with_seed(7);
    let mut node = Membership::new(MembershipConfig::default(), entry("a", 1, 0), random, 0);
    let members = others
        .iter()
        .map(|name| ring_member(name, &format!("{name}:1")));
    let mut members: Vec<_> = members.collect();
    members.push(ring_member("a", "a:1"));
    assert_eq!(step(&mut node, Event::RingMembers(members), 0), []);
    node
}

fn step(node: &mut Membership, event: Event, now_ms: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    node.step(event, now_ms, &mut effects);
    effects
}

/// Ticks every 100 ms from after `from_ms` to `to_ms`; returns all effects but gossip, with times.
fn run(node: &mut Membership, from_ms: u64, to_ms: u64) -> Vec<(u64, Effect)> {
    let mut seen = Vec::new();
    for now_ms in (from_ms + 100..=to_ms).step_by(100) {
        let effects = step(node, Event::Tick, now_ms);
        let other = effects
            .into_iter()
            .filter(|e| !matches!(e, Effect::SendGossip { .. }));
        seen.extend(other.map(|effect| (now_ms, effect)));
    }
    seen
}

fn says(from: &str, entries: Vec<MemberEntry>) -> Event {
    Event::GossipReceived {
        from: id(from),
        gossip: Gossip {
            ring_version: RingVersion(0),
            entries,
        },
        is_reply: true,
    }
}

fn changed(name: &str, from: MemberState, to: MemberState) -> Effect {
    Effect::StateChanged {
        id: id(name),
        from,
        to,
    }
}

fn ping(name: &str) -> Effect {
    Effect::SendPing {
        target: id(name),
        address: format!("{name}:1"),
    }
}

fn probe(via: &str, target: &str) -> Effect {
    Effect::SendProbe {
        via: id(via),
        address: format!("{via}:1"),
        target: id(target),
    }
}

fn answered(target: &str, via: Option<&str>, alive: bool) -> Event {
    Event::ProbeAnswered {
        target: id(target),
        via: via.map(id),
        alive,
    }
}

#[test]
fn a_silent_member_is_probed_then_suspected_then_dead() {
    let mut node = node(&["b"]);
    step(&mut node, says("b", vec![entry("b", 1, 1)]), 0);
    let (probes, changes): (Vec<_>, Vec<_>) = run(&mut node, 0, 60_000)
        .into_iter()
        .partition(|(_, effect)| matches!(effect, Effect::SendPing { .. }));
    assert_eq!(
        changes,
        [
            (10_000, changed("b", ALIVE, SUSPECTED)),
            (30_000, changed("b", SUSPECTED, DEAD))
        ]
    );
    let before = |limit| probes.iter().filter(move |(at, _)| *at < limit);
    let first: Vec<u64> = before(10_000).map(|(at, _)| *at).collect();
    assert_eq!(first, [5_000, 6_300, 7_600, 8_900]);
    assert!(
        before(60_000).count() > before(30_000).count(),
        "a dead member is tried again"
    );
}

#[test]
fn the_second_attempt_goes_through_others_as_well() {
    let mut node = node(&["b", "c", "d"]);
    step(&mut node, says("b", vec![entry("b", 1, 1)]), 0);
    let keep = |node: &mut Membership, beat, at| {
        step(
            node,
            says("c", vec![entry("c", 1, beat), entry("d", 1, beat)]),
            at,
        );
    };
    keep(&mut node, 1, 0);
    assert_eq!(run(&mut node, 0, 4_900), []);
    keep(&mut node, 2, 4_900);
    assert_eq!(run(&mut node, 4_900, 6_200), [(5_000, ping("b"))]);
    let mut second: Vec<Effect> = run(&mut node, 6_200, 6_300)
        .into_iter()
        .map(|e| e.1)
        .collect();
    assert_eq!(second.remove(0), ping("b"));
    second.sort_by_key(|effect| format!("{effect:?}"));
    assert_eq!(second, [probe("c", "b"), probe("d", "b")]);
}

#[test]
fn an_answer_through_another_postpones_suspicion_and_a_failed_one_does_not() {
    for (alive, suspected_ms) in [(true, 17_000), (false, 10_000)] {
        let mut node = node(&["b", "c"]);
        step(&mut node, says("b", vec![entry("b", 1, 1)]), 0);
        run(&mut node, 0, 7_000);
        assert_eq!(step(&mut node, answered("b", None, false), 7_000), []);
        assert_eq!(step(&mut node, answered("b", Some("c"), alive), 7_000), []);
        let seen = run(&mut node, 7_000, 20_000);
        let at = seen
            .iter()
            .find(|(_, e)| *e == changed("b", ALIVE, SUSPECTED));
        assert_eq!(at.map(|(at, _)| *at), Some(suspected_ms), "{alive}");
    }
}

#[test]
fn progress_makes_alive_and_old_news_does_not() {
    let mut node = node(&["b", "c"]);
    step(&mut node, says("b", vec![entry("b", 3, 50)]), 0);
    run(&mut node, 0, 31_000);
    assert_eq!(node.state_of(&id("b")), Some(DEAD));
    for old in [entry("b", 3, 50), entry("b", 3, 7), entry("b", 2, 900)] {
        assert_eq!(
            step(&mut node, says("c", vec![old]), 31_000),
            [changed("c", DEAD, ALIVE)][1..]
        );
    }
    let news = says("c", vec![entry("b", 3, 51)]);
    assert_eq!(step(&mut node, news, 31_000), [changed("b", DEAD, ALIVE)]);
}

#[test]
fn a_restarted_member_is_alive_at_once() {
    let mut node = node(&["b"]);
    step(&mut node, says("b", vec![entry("b", 3, 50)]), 0);
    run(&mut node, 0, 31_000);
    let news = says("b", vec![entry("b", 4, 0)]);
    assert_eq!(step(&mut node, news, 31_000), [changed("b", DEAD, ALIVE)]);
    assert_eq!(node.members()[1].generation, Generation(4));
    assert_eq!(node.members()[1].since_ms, 31_000);
}

#[test]
fn a_rumour_is_a_reason_to_look_and_no_more() {
    let mut node = node(&["b", "c"]);
    step(&mut node, says("b", vec![entry("b", 1, 5)]), 0);
    let rumour = |heartbeat, state| {
        let entry = MemberEntry {
            state,
            ..entry("b", 1, heartbeat)
        };
        says("c", vec![entry])
    };
    // Fresh evidence of one's own: nothing at all, also if the rumour's news is a little newer.
    assert_eq!(step(&mut node, rumour(5, DEAD), 100), []);
    assert_eq!(step(&mut node, rumour(6, DEAD), 200), []);
    assert_eq!(run(&mut node, 200, 2_500), []);
    // Some silence: a probe, sooner than it would have been.
    assert_eq!(step(&mut node, rumour(6, SUSPECTED), 2_500), []);
    assert_eq!(run(&mut node, 2_500, 4_000), [(2_600, ping("b"))]);
    // Older news than one's own: nothing.
    assert_eq!(step(&mut node, rumour(3, DEAD), 4_000), []);
    assert_eq!(run(&mut node, 4_000, 4_900), []);
    assert_eq!(node.state_of(&id("b")), Some(ALIVE));
}

#[test]
fn a_rumour_is_believed_by_a_node_that_has_just_started() {
    let mut node = node(&["b", "c"]);
    let dead = MemberEntry {
        state: DEAD,
        ..entry("b", 1, 5)
    };
    assert_eq!(
        step(&mut node, says("c", vec![dead]), 100),
        [changed("b", ALIVE, DEAD)]
    );
    assert_eq!(
        run(&mut node, 100, 1_000)
            .iter()
            .filter(|(_, e)| *e != ping("b"))
            .count(),
        0
    );
    let news = says("b", vec![entry("b", 1, 6)]);
    assert_eq!(step(&mut node, news, 1_000), [changed("b", DEAD, ALIVE)]);
}

#[test]
fn doubts_about_oneself_are_refuted() {
    let mut node = node(&["b"]);
    let doubt = |generation, incarnation, heartbeat, state| {
        let entry = entry("a", generation, heartbeat);
        says(
            "b",
            vec![MemberEntry {
                incarnation,
                state,
                ..entry
            }],
        )
    };
    for (generation, incarnation, state, expected) in [
        (1, 0, ALIVE, 0),
        (1, 0, SUSPECTED, 1),
        (1, 0, DEAD, 1), // answered already
        (1, 4, DEAD, 5),
        (0, 90, DEAD, 5), // an older run of this node
        (1, 7, ALIVE, 8), // never said so
    ] {
        let effects = step(&mut node, doubt(generation, incarnation, 0, state), 0);
        assert_eq!(effects, []);
        assert_eq!(node.me().incarnation, expected);
    }
    // What is that far ahead of it nobody believes.
    for absurd in [9 + INCARNATION_JUMP_MAX, INCARNATION_MAX, u64::MAX] {
        step(&mut node, doubt(1, absurd, 0, DEAD), 0);
        assert_eq!(node.me().incarnation, 8);
    }
    step(&mut node, doubt(1, 8, u64::MAX, DEAD), 0);
    assert_eq!(node.me().incarnation, 8);
    step(&mut node, doubt(1, 8, 0, DEAD), 0);
    assert_eq!(node.me().incarnation, 9);
}

#[test]
fn whoever_is_suspected_is_told_so_in_every_message_to_it() {
    let others: Vec<String> = (0..100).map(|i| format!("n-{i}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let mut node = node(&others);
    let entries = others.iter().map(|name| entry(name, 1, 1)).collect();
    step(&mut node, says("n-0", entries), 0);
    let mut told = 0;
    for now_ms in (100..=60_000).step_by(100) {
        for effect in step(&mut node, Event::Tick, now_ms) {
            let Effect::SendGossip { to, gossip, .. } = effect else {
                continue;
            };
            assert_eq!(gossip.entries[0].id, id("a"));
            assert_eq!(gossip.entries[1].id, to);
            assert_eq!(gossip.entries[1].state, node.state_of(&to).unwrap());
            assert!(gossip.entries.len() <= 64);
            told += 1;
        }
    }
    // Three a round while they seem alive, one a round when all are dead.
    assert!(told > 60, "{told}");
}

#[test]
fn everybody_is_told_of_in_turn() {
    let others: Vec<String> = (0..100).map(|i| format!("n-{i}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let mut node = node(&others);
    let mut told = BTreeMap::new();
    let mut messages = 0;
    for round in 1..=60 {
        let entries = others.iter().map(|name| entry(name, 1, round)).collect();
        step(&mut node, says("n-0", entries), round * 1_000);
        for effect in step(&mut node, Event::Tick, round * 1_000) {
            let Effect::SendGossip { gossip, .. } = effect else {
                continue;
            };
            messages += 1;
            for entry in gossip.entries {
                *told.entry(entry.id).or_insert(0) += 1;
            }
        }
    }
    // 62 places for 100 members, after this node itself and the receiver.
    assert_eq!(told.len(), 101);
    let least = told.values().min().unwrap();
    assert!(least * 2 > messages, "{least} of {messages} messages");
}

#[test]
fn entries_for_strangers_and_absurd_counters_do_no_harm() {
    let mut node = node(&["b", "c"]);
    let strangers = (0..1000).map(|i| entry(&format!("x-{i}"), 1, 1)).collect();
    assert_eq!(step(&mut node, says("b", strangers), 0), []);
    assert_eq!(node.members().len(), 3);
    step(&mut node, says("b", vec![entry("c", 1, 0)]), 0);
    let numbers = [0, 1, HEARTBEAT_JUMP_MAX + 1, u64::MAX];
    for (incarnation, heartbeat) in numbers.iter().flat_map(|i| numbers.map(|h| (*i, h))) {
        for generation in [1, GENERATION_MAX + 1, u64::MAX] {
            let is_possible = generation == 1 && incarnation.max(heartbeat) <= 1;
            let absurd = MemberEntry {
                incarnation,
                keys: 99,
                ..entry("c", generation, heartbeat)
            };
            if !is_possible {
                step(&mut node, says("b", vec![absurd]), 0);
            }
        }
    }
    let seen = &node.members()[2];
    assert_eq!(
        (seen.generation, seen.keys),
        (Generation(1), 0),
        "not believed"
    );
    let false_counters = MemberEntry {
        incarnation: 1 << 20,
        address: String::new(),
        ..entry("c", 1, 1 << 20)
    };
    step(&mut node, says("b", vec![false_counters]), 0);
    assert_eq!(
        node.members()[2].address,
        "c:1",
        "an empty address is not taken over"
    );
    // Its true news now looks old, but it answers probes and so stays alive.
    for second in 1..=100 {
        let now_ms = second * 1_000;
        step(
            &mut node,
            says("c", vec![entry("c", 1, second)]),
            now_ms - 1_000,
        );
        for (at, effect) in run(&mut node, now_ms - 1_000, now_ms) {
            match effect {
                Effect::SendPing { target, .. } if target == id("c") => {
                    step(&mut node, answered("c", None, true), at);
                }
                other => assert_ne!(other, changed("c", ALIVE, SUSPECTED)),
            }
        }
    }
}

#[test]
fn a_lost_connection_brings_one_probe_and_no_suspicion() {
    let mut node = node(&["b", "c"]);
    step(
        &mut node,
        says("b", vec![entry("b", 1, 1), entry("c", 1, 1)]),
        0,
    );
    let lost = || Event::ConnectionLost { node: id("b") };
    assert_eq!(step(&mut node, lost(), 500), [ping("b")]);
    assert_eq!(
        step(&mut node, lost(), 600),
        [],
        "not twice in one interval"
    );
    let stranger = Event::ConnectionLost { node: id("x") };
    assert_eq!(step(&mut node, stranger, 700), []);
    assert_eq!(node.state_of(&id("b")), Some(ALIVE));
    assert_eq!(step(&mut node, answered("b", None, false), 800), []);
    assert_eq!(node.state_of(&id("b")), Some(ALIVE));
}

#[test]
fn probes_for_others_are_made_once_and_always_answered() {
    let mut node = node(&["b", "c"]);
    let request = |token, target: &str| Event::ProbeRequested {
        token,
        target: id(target),
        from: id("c"),
    };
    let answer = |token, target: &str, alive| Effect::AnswerProbe {
        token,
        to: id("c"),
        target: id(target),
        alive,
    };
    assert_eq!(step(&mut node, request(1, "a"), 0), [answer(1, "a", true)]);
    assert_eq!(step(&mut node, request(2, "x"), 0), [answer(2, "x", false)]);
    assert_eq!(step(&mut node, request(3, "b"), 0), [ping("b")]);
    assert_eq!(
        step(&mut node, request(4, "b"), 0),
        [],
        "one ping serves both"
    );
    assert_eq!(
        step(&mut node, answered("b", Some("c"), false), 0),
        [],
        "another's attempt is no answer"
    );
    assert_eq!(
        step(&mut node, answered("b", None, true), 10),
        [answer(3, "b", true), answer(4, "b", true)]
    );
    assert_eq!(step(&mut node, request(5, "b"), 20), [ping("b")]);
    let expired = run(&mut node, 20, 5_020);
    assert_eq!(
        expired
            .iter()
            .filter(|(_, e)| *e == answer(5, "b", false))
            .count(),
        1
    );
    let refused = (0..1000).filter(|token| {
        step(&mut node, request(*token, "b"), 5_020) == [answer(*token, "b", false)]
    });
    assert_eq!(refused.count(), 1000 - 256, "bounded");
}

#[test]
fn a_pause_of_ones_own_is_not_held_against_the_others() {
    let mut node = node(&["b"]);
    step(&mut node, says("b", vec![entry("b", 1, 1)]), 0);
    run(&mut node, 0, 3_000);
    let effects = step(&mut node, Event::Tick, 100_000);
    assert!(!effects.contains(&changed("b", ALIVE, DEAD)));
    let seen = run(&mut node, 100_000, 108_000);
    let at = seen
        .iter()
        .find(|(_, e)| *e == changed("b", ALIVE, SUSPECTED));
    assert_eq!(
        at.map(|(at, _)| *at),
        Some(107_000),
        "3 s before the pause and 7 s after it"
    );
}

#[test]
fn a_clock_that_goes_back_does_no_harm() {
    let mut node = node(&["b"]);
    run(&mut node, 0, 4_000);
    let mut again = run(&mut node, 100, 4_000);
    again.retain(|(_, effect)| matches!(effect, Effect::StateChanged { .. }));
    assert_eq!(again, []);
}

#[test]
fn a_newer_ring_is_fetched_once_per_interval() {
    let mut node = node(&["b"]);
    let newer = |from: &str, version| Event::GossipReceived {
        from: id(from),
        gossip: Gossip {
            ring_version: RingVersion(version),
            entries: vec![entry(from, 1, 1)],
        },
        is_reply: true,
    };
    let fetch = |from: &str| Effect::FetchRing {
        from: id(from),
        address: format!("{from}:1"),
    };
    step(&mut node, Event::RingVersion(RingVersion(4)), 0);
    assert_eq!(step(&mut node, newer("b", 4), 0), []);
    assert_eq!(step(&mut node, newer("b", 5), 0), [fetch("b")]);
    assert_eq!(step(&mut node, newer("b", u64::MAX), 500), []);
    assert_eq!(
        step(&mut node, newer("b", u64::MAX), 1_000),
        [],
        "no ring has come so far"
    );
    // A stranger may be the one that knows: it may have joined with that very version.
    assert_eq!(step(&mut node, newer("z", 5), 1_000), [fetch("z")]);
    step(&mut node, Event::RingVersion(RingVersion(5)), 1_100);
    assert_eq!(step(&mut node, newer("b", 5), 3_000), []);
}

#[test]
fn a_reply_says_what_the_asker_does_not_know() {
    let mut node = node(&["b", "c", "d"]);
    let news = vec![entry("b", 1, 9), entry("c", 1, 9), entry("d", 1, 9)];
    step(&mut node, says("b", news), 0);
    let moving = Some(Moving {
        segments_left: 7,
        bytes: 8,
        bytes_per_s: 9,
        seconds_left: None,
    });
    step(
        &mut node,
        Event::LocalLoad {
            keys: 3,
            disk_bytes: 4,
            rebuilding_segments: 5,
            hints_waiting: 6,
            disk_full: true,
            complete_since: RingVersion(2),
            settled_at: RingVersion(2),
            hints_counted: 4,
            moving,
        },
        0,
    );
    step(&mut node, Event::RingVersion(RingVersion(3)), 0);
    let push = Event::GossipReceived {
        from: id("b"),
        gossip: Gossip {
            ring_version: RingVersion(0),
            entries: vec![entry("b", 1, 10), entry("c", 1, 9), entry("d", 1, 8)],
        },
        is_reply: false,
    };
    let me = MemberEntry {
        keys: 3,
        disk_bytes: 4,
        rebuilding_segments: 5,
        hints_waiting: 6,
        disk_full: true,
        ring_version: RingVersion(3),
        complete_since: RingVersion(2),
        settled_at: RingVersion(2),
        hints_counted: 4,
        moving,
        ..entry("a", 1, 0)
    };
    assert_eq!(
        step(&mut node, push, 0),
        [Effect::SendGossip {
            to: id("b"),
            address: "b:1".to_owned(),
            gossip: Gossip {
                ring_version: RingVersion(3),
                entries: vec![me, entry("b", 1, 10), entry("d", 1, 9)],
            },
            is_reply: true,
        }]
    );
}

#[test]
fn a_disk_that_hangs_is_told_to_all_at_once_and_passed_on_first() {
    let mut node = node(&["b", "c"]);
    step(&mut node, Event::Tick, 0);
    let told = |effects: &[Effect], hangs| {
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::SendGossip { to, gossip, .. } => {
                let me = &gossip.entries[0];
                assert_eq!((me.id.as_str(), me.disk_hangs), ("a", hangs));
                Some((to.as_str().to_owned(), me.heartbeat))
            }
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let before = node.me().heartbeat;
    for (hangs, later) in [(true, 1), (false, 2)] {
        let effects = step(&mut node, Event::LocalDisk { hangs }, 10);
        // With a new heartbeat, or it would be no news to them.
        let both = ["b", "c"].map(|name| (name.to_owned(), before + later));
        assert_eq!(told(&effects, hangs), both);
        assert_eq!(step(&mut node, Event::LocalDisk { hangs }, 20), []);
    }
    // Others pass it on, and believe it until they hear otherwise.
    let hanging = MemberEntry {
        disk_hangs: true,
        ..entry("b", 1, 7)
    };
    step(&mut node, says("b", vec![hanging]), 30);
    let hangs = |node: &Membership| {
        node.members()
            .iter()
            .map(|it| it.disk_hangs)
            .collect::<Vec<_>>()
    };
    assert_eq!(hangs(&node), [false, true, false]);
    step(&mut node, says("c", vec![entry("b", 1, 6)]), 40);
    assert_eq!(hangs(&node), [false, true, false]);
    step(&mut node, says("c", vec![entry("b", 1, 8)]), 50);
    assert_eq!(hangs(&node), [false, false, false]);
}

#[test]
fn members_follow_the_ring_and_addresses_the_gossip() {
    let mut node = node(&["b", "c"]);
    let moved = MemberEntry {
        address: "moved:2".to_owned(),
        ..entry("b", 1, 1)
    };
    step(&mut node, says("b", vec![moved]), 0);
    let ring = ["b", "d"].map(|name| ring_member(name, "ring:3"));
    step(&mut node, Event::RingMembers(ring.to_vec()), 0);
    let members = node.members();
    let seen: Vec<_> = members
        .iter()
        .map(|m| (m.id.as_str(), m.address.as_str()))
        .collect();
    assert_eq!(seen, [("a", "a:1"), ("b", "moved:2"), ("d", "ring:3")]);
    assert_eq!(node.state_of(&id("c")), None);
    assert_eq!(node.state_of(&id("a")), Some(ALIVE));
}

#[test]
fn any_settings_and_any_order_of_events_are_borne() {
    let mut random = fastrand::Rng::with_seed(3);
    for seed in 0..300 {
        let tiny = |random: &mut fastrand::Rng| random.u64(0..4) * random.u64(0..2000);
        let config = MembershipConfig {
            gossip_interval_ms: tiny(&mut random),
            suspect_after_ms: tiny(&mut random),
            dead_after_ms: tiny(&mut random),
            fanout: random.usize(0..4),
            probe_through: random.usize(0..4),
            message_entries_max: random.usize(0..5),
        };
        let own_random = fastrand::Rng::with_seed(seed);
        let mut node = Membership::new(config, entry("a", 1, 0), own_random, 0);
        for _ in 0..100 {
            let name = ["a", "b", "c", "d", "e"];
            let who = |random: &mut fastrand::Rng| name[random.usize(0..5)];
            let number = |random: &mut fastrand::Rng| [0, 1, 2, u64::MAX][random.usize(0..4)];
            let event = match random.u8(0..6) {
                0 => Event::Tick,
                1 => Event::RingMembers(vec![RingMember {
                    directory_id: DirectoryId(random.u64(0..3)),
                    ..ring_member(who(&mut random), "x")
                }]),
                2 => Event::ProbeRequested {
                    token: 1,
                    target: id(who(&mut random)),
                    from: id(who(&mut random)),
                },
                3 => answered(who(&mut random), None, random.bool()),
                4 => Event::ConnectionLost {
                    node: id(who(&mut random)),
                },
                _ => Event::GossipReceived {
                    from: id(who(&mut random)),
                    gossip: Gossip {
                        ring_version: RingVersion(number(&mut random)),
                        entries: vec![MemberEntry {
                            incarnation: number(&mut random),
                            state: [ALIVE, SUSPECTED, DEAD][random.usize(0..3)],
                            ..entry(who(&mut random), number(&mut random), number(&mut random))
                        }],
                    },
                    is_reply: random.bool(),
                },
            };
            let now_ms = [random.u64(0..9_000), u64::MAX][usize::from(random.u8(0..50) == 0)];
            step(&mut node, event, now_ms);
        }
    }
}

#[test]
fn a_run_of_an_old_copy_learns_it_from_anybody() {
    let of_me = |generation, nonce| MemberEntry {
        nonce,
        ..entry("a", generation, 0)
    };
    let outdated = |generation| {
        vec![Effect::Outdated {
            from: id("b"),
            generation: Generation(generation),
        }]
    };
    let mut node = node(&["b"]);
    let mut hear = |said| step(&mut node, says("b", vec![said]), 0);
    assert_eq!(hear(of_me(1, 1)), []);
    assert_eq!(hear(of_me(0, 7)), [], "an earlier run");
    assert_eq!(hear(of_me(2, 2)), outdated(2));
    assert_eq!(hear(of_me(1, 7)), outdated(1), "two of one copy");
    let elsewhere = MemberEntry {
        directory_id: DirectoryId(2),
        ..of_me(9, 9)
    };
    assert_eq!(hear(elsewhere), [], "that is for the ring to say");
    let unsaid = MemberEntry {
        directory_id: DirectoryId(0),
        ..of_me(9, 9)
    };
    assert_eq!(hear(unsaid), [], "an older version does not tell");
}

/// A directory that was lost has had many starts, the one that the ring has now is at its first: its low
/// counters are news all the same, and those of the former one are not.
#[test]
fn a_member_with_a_new_directory_begins_anew() {
    let mut node = node(&["b", "c"]);
    let former = || entry("b", 9, 500);
    let present = |heartbeat| MemberEntry {
        directory_id: DirectoryId(2),
        keys: 7,
        ..entry("b", 1, heartbeat)
    };
    let generation_of_b = |node: &Membership| node.members()[1].generation;
    step(&mut node, says("b", vec![former()]), 0);
    // The ring that has it is not known here yet.
    step(&mut node, says("c", vec![present(3)]), 0);
    assert_eq!(generation_of_b(&node), Generation(9));
    let ring = [
        RingMember {
            directory_id: DirectoryId(2),
            ..ring_member("b", "b:1")
        },
        ring_member("c", "c:1"),
    ];
    step(&mut node, Event::RingMembers(ring.to_vec()), 0);
    assert_eq!(node.state_of(&id("b")), Some(ALIVE));
    step(&mut node, says("c", vec![former()]), 0);
    assert_eq!(generation_of_b(&node), Generation(0));
    step(&mut node, says("c", vec![present(3)]), 0);
    assert_eq!(generation_of_b(&node), Generation(1));
    assert_eq!(node.members()[1].keys, 7);
    // Heartbeats of the former one are no evidence that it lives.
    for second in 1..=40 {
        let stale = MemberEntry {
            heartbeat: 500 + second,
            ..former()
        };
        step(&mut node, says("c", vec![stale]), second * 1_000);
        run(&mut node, (second - 1) * 1_000, second * 1_000);
    }
    assert_eq!(node.state_of(&id("b")), Some(DEAD));
}
