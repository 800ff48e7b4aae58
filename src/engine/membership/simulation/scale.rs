//! A hundred members: how fast news of a death is everywhere, that nobody is taken for dead falsely, and
//! that what a node sends does not grow.

use super::*;

const MEMBERS: usize = 100;

/// Of a hundred messages so many are lost.
const LOSS_PERCENT: u8 = 5;

/// In how many rounds of gossip news has to be everywhere.
const ROUNDS_MAX: f64 = 10.0;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;

/// The value that 99 of 100 do not exceed.
fn percentile_99(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * 99).div_ceil(100) - 1]
}

/// For each subject: from the first observer that changed its mind to this until the last one, in rounds
/// of gossip. Every running node must be among them.
fn rounds_until_all_thought(
    cluster: &Cluster,
    subjects: &[usize],
    state: MemberState,
    since_ms: u64,
) -> Vec<f64> {
    let rounds = |subject: &usize| {
        let minds: BTreeMap<usize, u64> = cluster
            .changes
            .iter()
            .filter(|(at, _, of, to)| *at >= since_ms && of == subject && *to == state)
            .map(|(at, observer, _, _)| (*observer, *at))
            .collect();
        for (observer, _) in cluster.running().filter(|(number, _)| number != subject) {
            assert!(
                minds.contains_key(&observer),
                "{observer} does not know that {subject} is {state:?}"
            );
        }
        let (first, last) = (minds.values().min().unwrap(), minds.values().max().unwrap());
        (last - first) as f64 / cluster.config.gossip_interval_ms as f64
    };
    subjects.iter().map(rounds).collect()
}

/// Members stop, a few at a time, and come back. Measured is, for each death, from the moment at which the
/// first of the others suspects the member (and again: takes it for dead) to the moment at which the last
/// one does; for a return, from its start. No mean is taken over the observers: each value is that of the
/// slowest of a hundred.
#[test]
fn a_death_is_known_to_all_within_ten_rounds() {
    let (mut suspected, mut dead, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..2 {
        let mut cluster = Cluster::new(MEMBERS, seed, LOSS_PERCENT);
        cluster.run(20 * SECOND_MS);
        for turn in 0..5 {
            let victims: Vec<usize> = (0..10).map(|i| (i * 7 + turn * 19) % MEMBERS).collect();
            let (stopped_ms, config) = (cluster.now_ms, cluster.config);
            for victim in &victims {
                cluster.stop(*victim);
            }
            cluster.run(config.dead_after_ms + 15 * config.gossip_interval_ms);
            let until_all = |state| rounds_until_all_thought(&cluster, &victims, state, stopped_ms);
            suspected.extend(until_all(MemberState::Suspected));
            dead.extend(until_all(MemberState::Dead));
            cluster.assert_all_think(|subject| !victims.contains(&subject), MemberState::Alive);
            let started_ms = cluster.now_ms;
            for victim in &victims {
                cluster.start(*victim, 2 + turn as u64);
            }
            cluster.run(15 * config.gossip_interval_ms);
            cluster.assert_all_think(|_| true, MemberState::Alive);
            for victim in &victims {
                let minds = cluster.changes.iter().filter(|(at, observer, of, to)| {
                    let is_of_it = of == victim && *to == MemberState::Alive;
                    *at >= started_ms && is_of_it && !victims.contains(observer)
                });
                let last_ms = minds.map(|(at, ..)| *at).max().unwrap();
                back.push((last_ms - started_ms) as f64 / config.gossip_interval_ms as f64);
            }
        }
    }
    assert_eq!(dead.len(), 100);
    for (what, rounds) in [
        ("suspected", &mut suspected),
        ("dead", &mut dead),
        ("back", &mut back),
    ] {
        let rounds_99 = percentile_99(rounds);
        println!(
            "{what}: 99th percentile {rounds_99}, longest {:?}",
            rounds.last()
        );
        assert!(rounds_99 <= ROUNDS_MAX, "{what}: {rounds_99} of {rounds:?}");
    }
}

#[test]
fn a_hundred_members_lose_messages_and_nobody_is_suspected() {
    let mut cluster = Cluster::new(MEMBERS, 12, LOSS_PERCENT);
    for _ in 0..5 {
        cluster.run(MINUTE_MS);
        assert_eq!(cluster.changes, [], "at {} ms", cluster.now_ms);
    }
}

#[test]
#[ignore = "make gossip"]
fn a_hundred_members_lose_messages_for_a_day_and_nobody_is_taken_for_dead() {
    let mut cluster = Cluster::new(MEMBERS, 13, LOSS_PERCENT);
    for hour in 1..=24 {
        cluster.run(60 * MINUTE_MS);
        let changes = &cluster.changes;
        let taken_for_dead =
            |(.., state): &&(u64, usize, usize, MemberState)| *state == MemberState::Dead;
        assert_eq!(changes.iter().find(taken_for_dead), None, "in hour {hour}");
        println!("hour {hour}: {} changes of mind so far", changes.len());
    }
}

/// What one node sends in one second: messages, entries in them, bytes.
fn sent_per_node_and_second(members: usize, loss_percent: u8) -> [f64; 3] {
    const SECONDS: u64 = 30;
    let mut cluster = Cluster::new(members, 2, loss_percent);
    cluster.run(20 * SECOND_MS);
    cluster.counts_bytes = true;
    (cluster.gossip_sent, cluster.probes_sent) = (0, 0);
    (cluster.entries_sent, cluster.bytes_sent) = (0, 0);
    cluster.run(SECONDS * SECOND_MS);
    assert_eq!(cluster.changes, [], "{members} members");
    assert!(cluster.entries_most <= cluster.config.message_entries_max);
    let messages = cluster.gossip_sent + cluster.probes_sent;
    [messages, cluster.entries_sent, cluster.bytes_sent]
        .map(|count| count as f64 / members as f64 / SECONDS as f64)
}

/// Messages do not grow with the cluster at all. Bytes grow with the members until a message is full, at 64
/// entries, and no further: judging by progress needs a heartbeat of everybody now and then.
#[test]
fn what_a_node_sends_is_the_same_for_ten_members_and_for_hundreds() {
    let sizes = [10, 30, 100, 200];
    let sent = sizes.map(|members| sent_per_node_and_second(members, LOSS_PERCENT));
    println!("messages, entries, bytes per node and second at {sizes:?}: {sent:?}");
    let [ten, thirty, hundred, two_hundred] = sent;
    let [messages, entries, bytes] = [0, 1, 2];
    for of in [thirty, hundred, two_hundred] {
        let ratio = of[messages] / ten[messages];
        assert!((0.9..1.1).contains(&ratio), "{of:?} and {ten:?}");
    }
    let entries_max = MembershipConfig::default().message_entries_max as f64;
    let bytes_per_entry = ten[bytes] / ten[entries];
    for of in [thirty, hundred, two_hundred] {
        assert!(of[entries] / of[messages] <= entries_max);
        assert!(of[bytes] / of[entries] < 1.1 * bytes_per_entry);
    }
    let ratio = two_hundred[bytes] / hundred[bytes];
    assert!(ratio < 1.1, "{two_hundred:?} and {hundred:?}");
}

/// Frozen for longer than it takes to be suspected, but not for as long as to be dead: the member finds
/// itself doubted, refutes that, and is alive to all again, in the same run and with all its counters.
#[test]
fn a_frozen_member_refutes_what_was_thought_of_it() {
    let mut cluster = Cluster::new(30, 4, LOSS_PERCENT);
    cluster.run(20 * SECOND_MS);
    let frozen = cluster.nodes[7].take();
    cluster.run(20 * SECOND_MS);
    cluster.assert_all_think(|subject| subject == 7, MemberState::Suspected);
    let thawed_ms = cluster.now_ms;
    cluster.nodes[7] = frozen;
    cluster.run(10 * SECOND_MS);
    cluster.assert_all_think(|_| true, MemberState::Alive);
    let incarnation = cluster.nodes[7].as_ref().map(|node| node.me().incarnation);
    assert!(incarnation > Some(0), "{incarnation:?}");
    // It holds its own pause against nobody, and nobody had given it up.
    let others = |observer: usize| observer != 7;
    for (at_ms, observer, subject, state) in &cluster.changes {
        assert!(others(*observer) && *subject == 7 && *state != MemberState::Dead);
        assert_eq!(*state == MemberState::Alive, *at_ms >= thawed_ms);
    }
}

/// One way only: what node 0 sends to node 1 is lost, what comes back is not.
#[test]
fn a_link_that_is_broken_one_way_makes_nobody_suspected() {
    for size in [3, 30] {
        let mut cluster = Cluster::new(size, 6, 0);
        cluster.dead_ways.insert((0, 1));
        cluster.run(120 * SECOND_MS);
        assert_eq!(cluster.changes, [], "{size} members");
    }
}
