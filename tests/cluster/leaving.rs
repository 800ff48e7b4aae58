//! Members that leave, are removed, are replaced and get other weights, while clients go on.

use std::fs;

use dynakv_client::{ErrorCode, MemberWish, RingWish};
use dynakv_protocol::ring_document::Stake;

use crate::harness::{
    Cluster, Consent, Node, QUICK, all_become_members, all_is_well, ask, ask_as, ask_until_granted,
    become_members, become_same, block_on, client_of_one, ends_as_removed, eventually,
    hold_what_they_own, is_all_of_before_there, is_gone, leaves, newcomer, newcomer_with,
    nothing_is_lost, ring_of, under_load, write_before,
};

/// What a node is refused.
#[track_caller]
fn refusal(node: &Node, wish: RingWish) -> String {
    let error = ask(node, wish).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ChangeRefused), "{error}");
    error.to_string()
}

#[track_caller]
fn counts_as_dead(node: &Node, to: &Node) {
    eventually(&format!("{} counts as dead", node.id), || {
        match to.opinion_of(&node.id)?.0 {
            state if state == "dead" => Ok(()),
            state => Err(state),
        }
    });
}

#[test]
fn two_of_five_leave_under_load_and_no_request_fails() {
    let mut cluster = Cluster::start_with(5, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        load.goes_on(200);
        let wishes = [leaves(&cluster[3]), leaves(&cluster[4])];
        ask_until_granted(&cluster[0], &wishes);
        for at in [4, 3] {
            ends_as_removed(&mut cluster.take_out(at));
        }
        all_become_members(cluster, 3);
        load.goes_on(500);
    });
    load.failed_nowhere();
    nothing_is_lost(&load, &mut cluster);
}

#[test]
#[ignore = "make changes"]
fn three_become_one_and_three_again_with_all_that_was_written() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        load.goes_on(200);
        // It misses some, which the two that go have.
        cluster[0].kill();
        load.goes_on(200);
        cluster[0].start_ready();
        let wishes = [leaves(&cluster[1]), leaves(&cluster[2])];
        ask_until_granted(&cluster[0], &wishes);
        let mut gone = [cluster.take_out(2), cluster.take_out(1)];
        gone.iter_mut().for_each(ends_as_removed);
        all_become_members(cluster, 1);
        load.goes_on(200);
        for mut node in gone {
            fs::remove_dir_all(node.data_dir()).unwrap();
            // The others had it as a seed from the beginning.
            node.start();
            cluster.add(node);
        }
        become_members(&[&cluster[0]], 3);
        load.goes_on(200);
    });
    drop(load.take_failures());
    load.is_all_there(&cluster, 2);
    is_all_of_before_there(&cluster);
    become_same(&cluster);
    all_is_well(&mut cluster);
}

#[test]
fn a_dead_member_is_removed_and_is_told_so_when_it_comes_back() {
    let mut cluster = Cluster::start_with(4, QUICK);
    write_before(&cluster);
    let alive = refusal(&cluster[0], RingWish::Members(vec![is_gone(&cluster[3])]));
    assert!(alive.contains("node-4 is not dead"), "{alive}");
    let load = under_load(&mut cluster, |cluster, load| {
        cluster[3].kill();
        load.goes_on(200);
        ask_until_granted(&cluster[1], &[is_gone(&cluster[3])]);
        let mut gone = cluster.take_out(3);
        all_become_members(cluster, 3);
        gone.start();
        ends_as_removed(&mut gone);
        load.goes_on(200);
    });
    drop(load.take_failures());
    nothing_is_lost(&load, &mut cluster);
}

/// By one change: what the dead one had goes to the new one, and nothing else moves.
#[test]
fn a_dead_member_is_replaced_by_one_that_waits() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let before = ring_of(&cluster[0]).document.version.0;
    let load = under_load(&mut cluster, |cluster, load| {
        cluster[1].kill();
        let mut node = newcomer(cluster, 4).with(&["--auto-join", "false"]);
        node.start();
        let waiting = eventually("node-4 waits to be let in", || {
            let status = block_on(async { client_of_one(&cluster[0]).await.status().await });
            let waiting = status.map_err(|error| error.to_string())?.waiting;
            waiting.first().cloned().ok_or("nobody waits".to_owned())
        });
        assert_eq!(waiting.id.as_str(), "node-4");
        counts_as_dead(&cluster[1], &cluster[0]);
        let nothing = refusal(&cluster[0], RingWish::Members(vec![leaves(&cluster[1])]));
        assert!(nothing.contains("node-2 is dead"), "{nothing}");
        let wishes = [MemberWish::Joins(waiting), is_gone(&cluster[1])];
        ask_until_granted(&cluster[0], &wishes);
        drop(cluster.take_out(1));
        node.wait_ready();
        cluster.add(node);
        all_become_members(cluster, 3);
        load.goes_on(200);
    });
    drop(load.take_failures());
    assert_eq!(ring_of(&cluster[0]).document.version.0, before + 3);
    nothing_is_lost(&load, &mut cluster);
}

/// The change goes on without it once an operator says that it is gone.
#[test]
#[ignore = "make changes"]
fn a_member_dies_while_it_leaves() {
    let mut cluster = Cluster::start_with(4, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        ask_until_granted(&cluster[0], &[leaves(&cluster[3])]);
        cluster[3].kill();
        let mut gone = cluster.take_out(3);
        eventually("the change ends without node-4", || {
            let document = ring_of(&cluster[1]).document;
            if document.members.len() == 3 {
                return Ok(());
            }
            let wish = RingWish::Members(vec![is_gone(&gone)]);
            let refused = ask(&cluster[1], wish).err().map(|error| error.to_string());
            Err(format!("{}: {refused:?}", document.step.name()))
        });
        all_become_members(cluster, 3);
        gone.start();
        ends_as_removed(&mut gone);
        load.goes_on(200);
    });
    drop(load.take_failures());
    nothing_is_lost(&load, &mut cluster);
}

/// What the one that is down gains it has to fetch first.
#[test]
#[ignore = "make changes"]
fn a_member_leaves_while_another_one_is_down_and_status_says_who_is_waited_for() {
    let mut cluster = Cluster::start_with(5, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        cluster[1].kill();
        load.goes_on(200);
        counts_as_dead(&cluster[1], &cluster[0]);
        ask_until_granted(&cluster[0], &[leaves(&cluster[4])]);
        let waits = "node-5 going; step 1 of 2, waiting for node-2 (dead) to fetch what they gain";
        eventually("status names node-2", || {
            let said = format!("{:?}", cluster[0].run(&["status"]));
            said.contains(waits).then_some(()).ok_or(said)
        });
        load.goes_on(200);
        cluster[1].start_ready();
        ends_as_removed(&mut cluster.take_out(4));
        all_become_members(cluster, 4);
    });
    drop(load.take_failures());
    nothing_is_lost(&load, &mut cluster);
}

#[test]
fn a_weight_is_doubled_and_halved_again_under_load() {
    let mut cluster = Cluster::start_with(4, QUICK);
    write_before(&cluster);
    let share = |cluster: &Cluster| {
        let ring = dynakv_protocol::placement::Placement::new(&ring_of(&cluster[0]).document);
        let owned = (0..=u16::MAX).map(dynakv_protocol::hash::Segment);
        owned
            .filter(|&segment| ring.owners(segment).iter().any(|it| it.0 == 1))
            .count()
    };
    let before = share(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        for weight in [2, 1] {
            let stake = Stake {
                weight,
                zone: String::new(),
            };
            let wish = MemberWish::HasStake("node-2".parse().unwrap(), stake);
            ask_until_granted(&cluster[2], &[wish]);
            all_become_members(cluster, 4);
            match weight {
                1 => assert_eq!(share(cluster), before),
                _ => assert!(share(cluster) > before * 11 / 10),
            }
            hold_what_they_own(cluster);
            load.goes_on(200);
        }
    });
    load.failed_nowhere();
    nothing_is_lost(&load, &mut cluster);
}

#[test]
fn a_change_is_given_up_by_a_word() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let nothing = refusal(&cluster[0], RingWish::Abort);
    assert!(nothing.contains("there is nothing to give up"), "{nothing}");
    let mut node = newcomer(&cluster, 4);
    node.start();
    node.wait_ready();
    node.kill();
    eventually("the change was begun", || {
        let step = ring_of(&cluster[1]).document.step.name();
        (step == "write-both").then_some(()).ok_or(step.to_owned())
    });
    let running = refusal(&cluster[0], RingWish::Members(vec![leaves(&cluster[2])]));
    assert!(running.contains("is not over"), "{running}");
    ask(&cluster[1], RingWish::Abort).unwrap();
    all_become_members(&cluster, 3);
    // It asks anew.
    node.start();
    node.wait_ready();
    cluster.add(node);
    all_become_members(&cluster, 4);
    is_all_of_before_there(&cluster);
    all_is_well(&mut cluster);
}

/// Three nodes of these W and R.
fn three_with([w, r]: [&str; 2]) -> Cluster {
    let root = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=3 {
        let mut node = Node::new(root.path(), &format!("node-{number}"))
            .with(&["-n", "3", "-w", w, "-r", r])
            .with_settings(QUICK);
        if let Some(first) = nodes.first() {
            node = node.with(&["--seed", &first.address()]);
        }
        node.start();
        nodes.push(node);
    }
    Cluster::of(root, nodes)
}

/// Two of three decide, and are gone for good. With w = 3 the last one has all that was acknowledged.
#[test]
fn the_last_of_three_goes_on_alone_by_force() {
    let mut cluster = three_with(["3", "1"]);
    write_before(&cluster);
    for at in [1, 2] {
        cluster[at].kill();
    }
    for at in [1, 2] {
        counts_as_dead(&cluster[at], &cluster[0]);
    }
    let remove = ["cluster", "remove", "node-2", "node-3", "--yes"];
    cluster[0].run(&remove).exits(4).says("it takes 2");
    // What was written without it nobody can tell.
    let forced = [&remove[..], &["--force"]].concat();
    let next = "cluster plan remove node-2 node-3 --force --accept-loss";
    cluster[0].run(&forced).exits(1).says(next);
    let forced = cluster[0]
        .run(&[&remove[..], &["--force", "--accept-loss"]].concat())
        .exits(0);
    assert!(forced.text().starts_with("done: ring "), "{forced:?}");
    let mut gone = [cluster.take_out(2), cluster.take_out(1)];
    all_become_members(&cluster, 1);
    is_all_of_before_there(&cluster);
    cluster[0].run(&["put", "key", "value"]).exits(0);
    // Who was not gone after all follows what was forced.
    for node in &mut gone {
        node.start();
        ends_as_removed(node);
    }
    // From there on all goes its usual way, and also after a restart.
    cluster[0].kill();
    cluster[0].start_ready();
    let mut next = newcomer_with(&cluster, 4, ["3", "1"]);
    next.start();
    cluster.add(next);
    all_become_members(&cluster, 2);
    is_all_of_before_there(&cluster);
    become_same(&cluster);
    all_is_well(&mut cluster);
}

/// With w = 1 the one that is gone may be the only one that has a write.
#[test]
fn who_may_have_the_only_copy_is_not_removed_without_a_word() {
    let mut cluster = three_with(["1", "3"]);
    write_before(&cluster);
    cluster[2].kill();
    let wish = RingWish::Members(vec![is_gone(&cluster[2])]);
    eventually("a word is asked for", || {
        match ask(&cluster[0], wish.clone()) {
            Err(error) if error.to_string().contains("--accept-loss") => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(_) => panic!("it may have been the only one"),
        }
    });
    let to_loss = Consent {
        to_loss: true,
        ..Consent::default()
    };
    ask_as(&cluster[0], wish, to_loss).unwrap();
    drop(cluster.take_out(2));
    all_become_members(&cluster, 2);
    cluster[1].run(&["put", "key", "value"]).exits(0);
    let found = cluster[0].run(&["get", "key"]).exits(0);
    assert_eq!(found.text(), "value");
}
