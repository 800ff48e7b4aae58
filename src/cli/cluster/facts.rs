//! What a plan says to people beside its numbers: what is to be known before it is begun.

use dynakv_protocol::NodeId;

use super::command::joined;
use super::plan::{Kind, Plan, Role};
use crate::cli::output::bytes_text;
use crate::engine::layout::steps::GIVEN_UP_AFTER_MS;

/// All that is to be known, a sentence or two for each matter.
pub(super) fn facts(plan: &Plan) -> Vec<String> {
    match plan.kind {
        Kind::GivesUp => of_giving_up(plan),
        Kind::Begins | Kind::StopsWaiting | Kind::Forces => of_a_change(plan),
    }
}

fn of_a_change(plan: &Plan) -> Vec<String> {
    let mut facts = Vec::new();
    if plan.kind == Kind::StopsWaiting {
        let begun_at = plan.next.change().map_or(0, |change| change.begun_at.0);
        facts.push(format!(
            "the change that began with ring {begun_at} goes on, and waits no more for who is gone"
        ));
    }
    facts.extend(force(plan));
    facts.push(moves(plan));
    facts.extend(copies(plan));
    facts.extend(gone(plan));
    facts.extend(failures(plan));
    facts.extend(waits(plan));
    facts.extend(settings(plan));
    let coming = plan.of_role(Role::Comes);
    if !coming.is_empty() {
        facts.push(format!(
            "if {} dies before it has all that it gains, the change is given up after {} minutes",
            joined(&coming, " or "),
            GIVEN_UP_AFTER_MS / 60_000
        ));
    }
    let going = plan.of_role(Role::Goes);
    if !going.is_empty() {
        let names = joined(&going, " and ");
        facts.push(match going.len() {
            1 => format!("{names} hands on what it has, and then ends by itself"),
            _ => format!("{names} hand on what they have, and then end by themselves"),
        });
    }
    facts
}

/// Who decides on it.
fn force(plan: &Plan) -> Vec<String> {
    if let Some((there, needed)) = plan.too_few_decide {
        return vec![format!(
            "nothing can be decided as things stand: {there} of the members that decide {}, and it takes {needed}. Start \
             others, or remove those that are gone for good with --force",
            if there == 1 { "is there" } else { "are there" }
        )];
    }
    if plan.kind != Kind::Forces {
        return Vec::new();
    }
    let mut facts = vec![
        "the node that is asked decides by itself. Say this to one node only: where two have decided, and not the same, \
         the ring with the higher number wins, and what was written under the other one is lost"
            .to_owned(),
    ];
    if plan.present.change().is_some() {
        facts.push("the change that was under way is over with that".to_owned());
    }
    facts
}

fn moves(plan: &Plan) -> String {
    let (moved, least) = (plan.segments_moved(), plan.segments_least());
    if moved == 0 {
        return "nothing moves".to_owned();
    }
    let bytes = bytes_text(plan.bytes(moved));
    let minimum = match moved == least {
        true => ", the minimum".to_owned(),
        false => format!(" ({} at least)", grouped(least)),
    };
    format!(
        "moves about {bytes} in {} segments{minimum}",
        grouped(moved)
    )
}

fn copies(plan: &Plan) -> Vec<String> {
    let (before, after) = plan.copies;
    let mut facts = Vec::new();
    if before != after {
        let copies = if after == 1 { "copy" } else { "copies" };
        facts.push(format!(
            "keys will have {after} {copies} instead of {before}"
        ));
    }
    let (w, r) = (usize::from(plan.next.w), usize::from(plan.next.r));
    if after < w.max(r) {
        facts.push(format!(
            "w = {w} and r = {r} then come to {} and {}, as there are no more copies",
            w.min(after),
            r.min(after)
        ));
    }
    facts
}

fn gone(plan: &Plan) -> Vec<String> {
    let gone = plan.of_role(Role::IsGone);
    if gone.is_empty() {
        return Vec::new();
    }
    let names = joined(&gone, " and ");
    let (is, it) = match gone.len() {
        1 => ("is", "it is"),
        _ => ("are", "they are"),
    };
    let mut facts = vec![format!(
        "make sure that {names} {is} stopped for good: nobody waits for it, and {it} not let in again"
    )];
    if plan.next.r == 1 {
        facts.push(
            "with r = 1 this matters: one that still runs, cut off from the others, answers reads by itself, with old \
             values"
                .to_owned(),
        );
    }
    if plan.may_lose_writes {
        facts.push(format!(
            "acknowledged writes may be lost: with w = {} some may be nowhere but at {names}",
            plan.next.w
        ));
    }
    facts
}

/// Whether more nodes may fail.
fn failures(plan: &Plan) -> Vec<String> {
    let (meanwhile, afterwards) = plan.may_fail;
    let said = |when: &str, spare: i64| match spare {
        ..0 => format!("{when} some keys lack a quorum, as things stand"),
        0 => format!("{when} no node may fail, or some keys lack a quorum"),
        1 => format!("{when} any one node may fail"),
        _ => format!("{when} any {spare} nodes may fail"),
    };
    let mut facts = vec![said("meanwhile", meanwhile)];
    if afterwards != meanwhile {
        facts.push(said("afterwards", afterwards));
    }
    facts
}

/// Whom it waits for.
fn waits(plan: &Plan) -> Vec<String> {
    let mut facts = Vec::new();
    let (w, r) = (plan.next.w, plan.next.r);
    if w.min(r) == 1 && plan.segments_moved() > 0 {
        let which = if w == 1 { "w = 1" } else { "r = 1" };
        let but = match plan.of_role(Role::IsGone).is_empty() {
            true => "",
            false => " that is not gone",
        };
        facts.push(format!(
            "with {which} every old owner{but} has to be there until the change is over, or it waits"
        ));
    }
    let away = &plan.held_up_by;
    if !away.is_empty() {
        let (is, it) = match away.len() {
            1 => ("is not in reach and is", "it"),
            _ => ("are not in reach and are", "them"),
        };
        facts.push(format!(
            "{} {is} waited for: start {it} first",
            joined(away, " and ")
        ));
    }
    facts
}

/// Which settings have to say the same from then on.
fn settings(plan: &Plan) -> Vec<String> {
    let mut facts = Vec::new();
    for share in plan.shares.iter().filter(|it| it.role == Role::Stays) {
        let (before, after) = (&share.before, &share.after);
        let mut settings = Vec::new();
        if after.weight != before.weight {
            settings.push(format!("weight = {}", after.weight));
        }
        if after.zone != before.zone {
            settings.push(format!("zone = {:?}", after.zone));
        }
        if !settings.is_empty() {
            facts.push(format!(
                "have the settings of {} say {}, too: the ring counts, and with others it warns at each start",
                share.id,
                settings.join(" and ")
            ));
        }
    }
    facts
}

fn of_giving_up(plan: &Plan) -> Vec<String> {
    let Some(change) = plan.present.change() else {
        return Vec::new();
    };
    let members = plan.present.members.iter().zip(&change.target);
    let (mut coming, mut going): (Vec<NodeId>, Vec<NodeId>) = Default::default();
    for (member, target) in members {
        match (member.weight, target.weight) {
            (0, _) => coming.push(member.id.clone()),
            (_, 0) => going.push(member.id.clone()),
            _ => {}
        }
    }
    let mut facts = vec![format!(
        "the change that began with ring {} is given up: all own what they owned before",
        change.begun_at
    )];
    if !going.is_empty() {
        let stay = if going.len() == 1 { "stays" } else { "stay" };
        facts.push(format!("{} {stay}", joined(&going, " and ")));
    }
    if !coming.is_empty() {
        facts.push(format!(
            "{} and what was fetched is dropped. Stop what is not to come in: with auto_join it asks again at once",
            match coming.len() {
                1 => format!("{} does not come in,", coming[0]),
                _ => format!("{} do not come in,", joined(&coming, " and ")),
            }
        ));
    }
    facts
}

/// With a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
