//! `repair`: has a node compare its copies with all others' now, and shows how far it is.

use std::ffi::OsString;
use std::io::{self, Write};

use bytes::Bytes;
use dynakv_client::{
    Error, MemberState, MemberStatus, Repair, RepairProgress, StatusReply, Unlocked,
};
use serde::Serialize;

use super::exit::Exit;
use super::following::{Bar, Followed, Progress, follow};
use super::key::{KeyFields, bytes_of, parse_base64, shown};
use super::output::{Format, Report, json_line};
use super::prompt::{Prompt, Session, confirmed};

/// Pages of the tree that two nodes compare.
const PAGES: u64 = 256;

/// `dynakv repair`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct RepairArgs {
    /// Mend this one key, which is locked: give up entries of its clock under which no value stands and, where that is
    /// not enough, its oldest values. All its owners must be alive
    #[arg(long, value_name = "KEY", requires = "accept_loss")]
    key: Option<OsString>,
    /// The same for a key that is no text, or begins with -: in base64
    #[arg(
        long,
        value_name = "KEY",
        requires = "accept_loss",
        conflicts_with = "key",
        value_parser = parse_base64
    )]
    key_base64: Option<Bytes>,
    /// Give up what no member in reach can bring back: segments that the node is still rebuilding at the end
    /// count as rebuilt, though acknowledged writes may be missing from them
    #[arg(long)]
    accept_loss: bool,
    /// Do not ask back before giving up
    #[arg(long, requires = "accept_loss")]
    yes: bool,
}

/// Begins a repair and follows it to its end.
pub(crate) async fn repair(
    session: &Session,
    args: RepairArgs,
    format: Format,
) -> Result<Report, Error> {
    let client = &session.client;
    let given = args.key.as_deref().map(bytes_of);
    if let Some(key) = given.or_else(|| args.key_base64.clone()) {
        return unlock(session, &key, args.yes, format).await;
    }
    if args.accept_loss {
        let status = client.status().await?;
        let meaning = meaning(&status);
        if !args.yes && !agreed(&meaning) {
            let next = session.prompt().command("repair --accept-loss --yes");
            let what = format!("{meaning}\n  nothing was begun: this has to be confirmed");
            return Ok(Report::error(Exit::Usage, format, &what, &next));
        }
        if args.yes {
            // It stands in the script's log.
            let _nowhere_to_say_so = writeln!(io::stderr(), "dynakv: {meaning}");
        }
    }
    let before = client.repair(Repair::Look).await?;
    let wish = match args.accept_loss {
        true => Repair::AcceptLoss,
        false => Repair::Start,
    };
    let begun = client.repair(wish).await?;
    if before.running {
        let _nowhere_to_say_so = writeln!(
            io::stderr(),
            "dynakv: a repair is under way at {} already: this shows that one",
            begun.node_id
        );
    }
    let bar = Bar::start();
    let mut told = 0;
    let look = async || client.repair(Repair::Look).await;
    let followed = follow(begun, look, |progress| show(progress, &bar, &mut told)).await;
    drop(bar);
    Ok(report(followed?, &session.prompt(), format))
}

/// On a terminal a bar, otherwise a line for each member on standard error.
fn show(progress: &RepairProgress, bar: &Bar, told: &mut u32) {
    if !bar.show(steps(progress), || doing(progress)) && progress.pairs_done > *told {
        *told = progress.pairs_done;
        let _nowhere_to_say_so = writeln!(
            io::stderr(),
            "dynakv: compared with {} of {} members, {}",
            compared(progress),
            progress.pairs_total,
            counted(progress)
        );
    }
}

/// Mends a locked key.
async fn unlock(session: &Session, key: &[u8], yes: bool, format: Format) -> Result<Report, Error> {
    let command = session.prompt().unlock(key);
    let meaning = format!(
        "this gives up entries of the clock of {} under which no value stands and, where that is not enough, its \
         oldest values; a value that was replaced or deleted may come back from a hint that still holds it",
        shown(key)
    );
    if !yes && !agreed(&meaning) {
        let what = format!("{meaning}\n  nothing was begun: this has to be confirmed");
        return Ok(Report::error(
            Exit::Usage,
            format,
            &what,
            &format!("{command} --yes"),
        ));
    }
    if yes {
        // It stands in the script's log.
        let _nowhere_to_say_so = writeln!(io::stderr(), "dynakv: {meaning}");
    }
    let unlocked = session.client.unlock(key).await?;
    Ok(unlocked_report(key, &unlocked, format))
}

#[derive(Serialize)]
struct UnlockedDocument<'a> {
    node_id: &'a str,
    #[serde(flatten)]
    key: KeyFields,
    owners: u8,
    clock_entries_before: u64,
    clock_entries: u64,
    values: u64,
    values_given_up: u64,
}

fn unlocked_report(key: &[u8], unlocked: &Unlocked, format: Format) -> Report {
    match format {
        Format::Json => Report::data(
            Exit::Ok,
            json_line(&UnlockedDocument {
                node_id: unlocked.node_id.as_str(),
                key: KeyFields::new(key),
                owners: unlocked.owners,
                clock_entries_before: unlocked.clock_entries_before,
                clock_entries: unlocked.clock_entries,
                values: unlocked.siblings,
                values_given_up: unlocked.siblings_given_up,
            }),
        ),
        Format::Table | Format::Plain => Report::data(
            Exit::Ok,
            format!(
                "{} is mended at its {} owners: {} of {} clock entries are left, {} values, {} given up\n",
                shown(key),
                unlocked.owners,
                unlocked.clock_entries,
                unlocked.clock_entries_before,
                unlocked.siblings,
                unlocked.siblings_given_up
            ),
        ),
    }
}

/// What giving up means, for the node that answered.
fn meaning(status: &StatusReply) -> String {
    let own = status.members.iter().find(|it| it.id == status.node_id);
    let segments = own.map_or(0, |member| member.rebuilding_segments);
    let away = status.members.iter();
    let is_away = |it: &&MemberStatus| it.state != MemberState::Alive || it.unreachable;
    let away = away.filter(|it| is_away(it) && it.id != status.node_id);
    let away: Vec<&str> = away.map(|member| member.id.as_str()).collect();
    let mut text = format!(
        "{} is rebuilding {segments} segments. With --accept-loss those that no member in reach can bring back \
         count as rebuilt: a write that was acknowledged and that only lost copies had is then answered as \
         \"not found\", or as an older value",
        status.node_id
    );
    if !away.is_empty() {
        text.push_str(&format!(
            ". Not in reach: {}; if they can be started, start them first, because they may have it",
            away.join(", ")
        ));
    }
    text
}

/// Asks on a terminal whether what this means is to be done.
fn agreed(meaning: &str) -> bool {
    confirmed(&format!("{meaning}.\n"), "Give it up?")
}

/// How many pages of how many are compared, all members together.
fn steps(progress: &RepairProgress) -> (u64, u64) {
    let pages = match progress.comparing_with {
        Some(_) => u64::from(progress.pages_compared),
        None => 0,
    };
    let done = u64::from(progress.pairs_done) * PAGES + pages;
    (done, (u64::from(progress.pairs_total) * PAGES).max(1))
}

fn doing(progress: &RepairProgress) -> String {
    match &progress.comparing_with {
        Some(node) => format!("comparing with {node}, {}", counted(progress)),
        None if progress.rebuilding_segments > 0 => {
            format!("rebuilding, {} segments left", progress.rebuilding_segments)
        }
        None => counted(progress),
    }
}

/// With how many members the copies were compared; those that could not be are done, too.
fn compared(progress: &RepairProgress) -> u32 {
    progress.pairs_done.saturating_sub(progress.pairs_failed)
}

fn counted(progress: &RepairProgress) -> String {
    format!(
        "{} segments differed, {} keys mended here, {} at others",
        progress.segments_differing, progress.keys_fetched, progress.keys_sent
    )
}

#[derive(Serialize)]
struct Document<'a> {
    node_id: &'a str,
    state: &'static str,
    pairs_total: u32,
    pairs_done: u32,
    pairs_failed: u32,
    segments_differing: u64,
    keys_fetched: u64,
    keys_sent: u64,
    rebuilding_segments: u32,
    accepted_segments: u32,
    took_ms: Option<u64>,
    last_error: &'a str,
    keys_locked: u64,
}

fn report(followed: Followed<RepairProgress>, prompt: &Prompt, format: Format) -> Report {
    let (progress, state) = match followed {
        Followed::Done(progress) => (progress, "done"),
        Followed::Left(progress) => (progress, "running"),
        Followed::Forgotten => {
            let what = "the node was restarted, and its repair ended with it";
            return Report::error(Exit::Error, format, what, &prompt.command("repair"));
        }
    };
    let is_done = state == "done";
    let is_whole = is_done
        && progress.pairs_failed == 0
        && progress.rebuilding_segments == 0
        && progress.keys_locked == 0;
    // One that was left to itself says nothing about copies.
    let exit = match is_whole || !is_done {
        true => Exit::Ok,
        false => Exit::Degraded,
    };
    let mut report = match format {
        Format::Json => Report::data(
            exit,
            json_line(&Document {
                node_id: progress.node_id.as_str(),
                state,
                pairs_total: progress.pairs_total,
                pairs_done: progress.pairs_done,
                pairs_failed: progress.pairs_failed,
                segments_differing: progress.segments_differing,
                keys_fetched: progress.keys_fetched,
                keys_sent: progress.keys_sent,
                rebuilding_segments: progress.rebuilding_segments,
                accepted_segments: progress.accepted_segments,
                took_ms: progress.took_ms(),
                last_error: &progress.last_error,
                keys_locked: progress.keys_locked,
            }),
        ),
        Format::Table | Format::Plain => {
            let compared = compared(&progress);
            let verb = if is_done { "compared" } else { "has compared" };
            let mut text = format!(
                "{} {verb} with {compared} of {} members: {}\n",
                progress.node_id,
                progress.pairs_total,
                counted(&progress)
            );
            if progress.accepted_segments > 0 {
                text.push_str(&format!(
                    "{} segments count as rebuilt by your word\n",
                    progress.accepted_segments
                ));
            }
            Report::data(exit, text)
        }
    };
    if !is_done {
        report.messages = format!(
            "dynakv: left alone, and it goes on at {}; this shows it again:\n  next: {}\n",
            progress.node_id,
            prompt.command("repair")
        );
    } else if !is_whole && format != Format::Json {
        let mut left = match progress.rebuilding_segments {
            0 => String::new(),
            segments => format!("; {segments} segments are still being rebuilt"),
        };
        if progress.keys_locked > 0 {
            left.push_str(&format!("; {} keys are locked", progress.keys_locked));
        }
        report.messages = format!(
            "dynakv: not everything could be compared or brought back{left}: {}\n  next: {}\n",
            progress.last_error,
            prompt.command("status")
        );
    }
    report
}

#[cfg(test)]
mod tests;
