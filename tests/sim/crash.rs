//! Power cuts that lose what was not synced, at one machine and then at all, under load.

use std::time::Duration;

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES};
use crate::machine::Flaw;
use crate::plan::{Fault, Plan};
use crate::seeds::{for_each_seed, replayed};

#[test]
fn power_cuts_lose_no_acknowledged_write() {
    let total = for_each_seed(3, "power_cuts_lose_no_acknowledged_write", |seed| {
        chaos::run_with(MACHINES, seed, Flaw::None, cuts).into_result()
    });
    // Or the disks would have been in no danger.
    assert!(
        total.undone > 0 || replayed().is_some(),
        "no power cut has undone anything"
    );
}

/// Each machine goes dark once, at its own moment, and then all of them at one moment.
fn cuts(random: &mut fastrand::Rng) -> Plan {
    let mut plan = Plan::default();
    let window = (FAULTS_UNTIL - FAULTS_FROM) / (MACHINES as u32 + 1);
    let mut moment = |number: usize| {
        let offset = Duration::from_millis(random.u64(..window.as_millis() as u64 / 2));
        FAULTS_FROM + window * number as u32 + offset
    };
    for node in 0..MACHINES {
        let at = moment(node);
        plan.add(at, Fault::power_cut(node, 0));
        plan.add(at + window / 3, Fault::Start { node });
    }
    let at = moment(MACHINES);
    for node in 0..MACHINES {
        let cut = Fault::PowerCut {
            node,
            kept_percent: 0,
            is_malicious: false,
        };
        plan.add(at, cut);
    }
    for node in 0..MACHINES {
        plan.add(at + window / 3, Fault::Start { node });
    }
    plan
}
