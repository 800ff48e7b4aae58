//! `explain`: where a key lies, what each of its owners has of it, and what that means.

use dynakv_client::{Error, Explained};
use dynakv_protocol::admin::{ExplainedOwner, OwnerState, ValueDigest};
use dynakv_protocol::causal::Clock;
use dynakv_protocol::hash::Position;

use super::exit::Exit;
use super::key::{KeyArgs, shown};
use super::output::{Format, Heading, Report, Table, bytes_text, json_line};
use super::prompt::{Prompt, Session};
use crate::engine::key_words;

mod document;
mod verdict;

use document::Document;
use verdict::{Held, Standing, Verdict, cell_text, is_rebuilding, time_text};

/// `dynakv explain`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
}

/// Explains a key.
pub(crate) async fn explain(
    session: &Session,
    args: ExplainArgs,
    format: Format,
) -> Result<Report, Error> {
    let key = args.key.bytes();
    let explained = session.client.explain(&key).await?;
    Ok(explained_report(
        &key,
        &explained,
        &session.prompt(),
        format,
    ))
}

fn explained_report(key: &[u8], explained: &Explained, prompt: &Prompt, format: Format) -> Report {
    let verdict = Verdict::new(explained);
    let answered = explained.owners.iter();
    let answered = answered.filter(|owner| owner.answer.is_ok()).count();
    let exit = if answered == 0 {
        Exit::Unavailable
    } else if verdict.clock.is_empty() {
        Exit::NotFound
    } else {
        Exit::Ok
    };
    let sentences = sentences(key, explained, &verdict);
    let next = next_command(key, &verdict, prompt, exit);
    match format {
        Format::Json => {
            let document = Document::new(key, explained, &verdict, &sentences, &next);
            Report::data(exit, json_line(&document))
        }
        Format::Plain => Report::data(exit, plain(explained, &verdict)),
        Format::Table => Report::data(exit, table(key, explained, &verdict, &sentences, &next)),
    }
}

fn next_command(key: &[u8], verdict: &Verdict<'_>, prompt: &Prompt, exit: Exit) -> String {
    let key = key_words::positional(key);
    let words = match exit {
        Exit::Unavailable => "status".to_owned(),
        Exit::NotFound => format!("put {key} VALUE"),
        // A read of all owners mends those that are stale.
        _ if verdict.live().len() <= 1 && !verdict.agree() => {
            format!("get {key} -r {}", verdict.owner_count())
        }
        _ => format!("get {key}"),
    };
    prompt.command(&words)
}

/// What it means, in words.
fn sentences(key: &[u8], explained: &Explained, verdict: &Verdict<'_>) -> Vec<String> {
    let key = shown(key);
    let owners = explained.owners.len();
    let silent: Vec<&ExplainedOwner> = explained
        .owners
        .iter()
        .filter(|owner| owner.answer.is_err())
        .collect();
    let mut sentences = Vec::new();
    let answered = owners - silent.len();
    if answered == 0 {
        sentences.push(format!(
            "none of the {owners} owners answered: nothing is known of {key}"
        ));
    } else if verdict.clock.is_empty() {
        sentences.push(format!(
            "{key} was never written, as far as {answered} of {owners} owners know"
        ));
    } else if verdict.agree() {
        sentences.push(if silent.is_empty() {
            format!("all {owners} owners agree")
        } else {
            format!("the {answered} owners that answered agree")
        });
    } else {
        sentences.push("the owners do not agree".to_owned());
        for owner in &explained.owners {
            let id = owner.id.as_str();
            if matches!(verdict.standing(id), Standing::Stale | Standing::Lacks) {
                sentences.push(stale_sentence(id, verdict));
            }
        }
        sentences.push("a read of all owners mends those that are stale".to_owned());
    }
    for owner in explained.owners.iter().filter(|it| is_rebuilding(it)) {
        sentences.push(format!(
            "{} is rebuilding this segment: what it lacks it may have had, and its reads do not count here",
            owner.id
        ));
    }
    for owner in silent {
        if let Err(reason) = &owner.answer {
            sentences.push(format!(
                "{} at {} did not answer ({reason}); what it holds is not known",
                owner.id, owner.address
            ));
        }
    }
    if answered > 0 && !verdict.clock.is_empty() {
        let live = verdict.live().len();
        let now = explained.now_unix_ms;
        let hidden: Vec<_> = verdict.shown().filter(|held| !held.is_live(now)).collect();
        if live > 1 {
            sentences.push(format!(
                "conflict: {live} values stand beside each other; merge them, and put the result with the context \
                 that get prints"
            ));
        } else if live == 0 {
            let expired = hidden
                .iter()
                .any(|held| held.sibling.value != ValueDigest::Tombstone);
            let how = if expired { "has expired" } else { "is deleted" };
            sentences.push(format!(
                "the key {how}: readers are told that it does not exist"
            ));
        }
        if verdict.shown().count() > 1 {
            sentences.extend(verdict.why_siblings());
        }
    }
    sentences
}

fn stale_sentence(id: &str, verdict: &Verdict<'_>) -> String {
    let dots = |held: &[&Held<'_>]| {
        let dots = held.iter().map(|held| held.sibling.dot.to_string());
        dots.collect::<Vec<_>>().join(", ")
    };
    let who = |ids: &[&str]| ids.join(", ");
    let (missing, obsolete) = (verdict.missing(id), verdict.obsolete(id));
    let mut parts = Vec::new();
    if !missing.is_empty() {
        let mut by: Vec<&str> = missing.iter().flat_map(|held| held.by.clone()).collect();
        by.sort_unstable();
        by.dedup();
        parts.push(format!(
            "lacks {}, which {} holds",
            dots(&missing),
            who(&by)
        ));
    }
    if !obsolete.is_empty() {
        let mut at: Vec<&str> = obsolete
            .iter()
            .flat_map(|held| held.replaced_at.clone())
            .collect();
        at.sort_unstable();
        at.dedup();
        parts.push(format!(
            "still holds {}, which was replaced: {} knows that",
            dots(&obsolete),
            who(&at)
        ));
    }
    if parts.is_empty() {
        parts.push(
            "holds the same values, but has not seen every write that led to them".to_owned(),
        );
    }
    let against = match &verdict.complete()[..] {
        [] => String::new(),
        complete => format!(" (current: {})", who(complete)),
    };
    format!("{id} is stale: it {}{against}", parts.join("; it "))
}

fn table(
    key: &[u8],
    explained: &Explained,
    verdict: &Verdict<'_>,
    sentences: &[String],
    next: &str,
) -> String {
    let position = Position::of_key(key);
    let mut owners = Table::new(&[
        Heading::Left("Owner"),
        Heading::Left("Address"),
        Heading::Left("Standing"),
        Heading::Left("Actor"),
        Heading::Right("Values"),
        Heading::Left("Clock"),
    ]);
    for owner in &explained.owners {
        let mut standing = verdict.standing(owner.id.as_str()).name().to_owned();
        if is_rebuilding(owner) {
            standing.push_str(", rebuilding");
        }
        let (actor, values, clock) = match &owner.answer {
            Ok(state) => (
                actor_text(state),
                state.siblings.len().to_string(),
                verdict.clock_text(&state.clock),
            ),
            Err(_) => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        owners.push([
            owner.id.to_string(),
            owner.address.clone(),
            standing,
            actor,
            values,
            clock,
        ]);
    }
    let mut text = format!(
        "{}: position {:016x}, segment {:04x}, {} owners under ring {} (seen by {})\n\n{}",
        shown(key),
        position.0,
        position.segment().0,
        explained.owners.len(),
        explained.ring_version,
        explained.node_id,
        owners.aligned()
    );
    if !verdict.held.is_empty() {
        let mut values = Table::new(&[
            Heading::Left("Dot"),
            Heading::Left("Through"),
            Heading::Left("Written"),
            Heading::Right("Size"),
            Heading::Left("Checksum"),
            Heading::Left("Value"),
            Heading::Left("Held by"),
        ]);
        for held in &verdict.held {
            values.push(value_cells(held, explained, verdict));
        }
        text.push('\n');
        text.push_str(&values.aligned());
    }
    text.push('\n');
    for sentence in sentences {
        text.push_str(&format!("- {sentence}\n"));
    }
    text.push_str(&format!("next: {next}\n"));
    text
}

fn actor_text(state: &OwnerState) -> String {
    let actor = state.actor.map(|actor| actor.to_string());
    actor.unwrap_or_else(|| "-".to_owned())
}

fn value_cells(held: &Held<'_>, explained: &Explained, verdict: &Verdict<'_>) -> [String; 7] {
    let sibling = held.sibling;
    let (size, checksum) = match &sibling.value {
        ValueDigest::Tombstone => ("-".to_owned(), "-".to_owned()),
        ValueDigest::Bytes {
            length, checksum, ..
        } => (bytes_text(*length), format!("{checksum:016x}")),
    };
    let mut value = cell_text(sibling);
    if held.is_replaced() {
        value.push_str(" (replaced)");
    } else if verdict.is_retired(held) {
        value.push_str(" (hidden: another copy of this write was replaced)");
    } else if let (Some(at), None) = (sibling.expires_at_ms, held.mark()) {
        let word = if at <= explained.now_unix_ms {
            "expired"
        } else {
            "expires"
        };
        value.push_str(&format!(" ({word} {})", time_text(at)));
    }
    [
        sibling.dot.to_string(),
        verdict.coordinator(sibling.dot.actor),
        time_text(sibling.timestamp_ms()),
        size,
        checksum,
        value,
        held.by.join(", "),
    ]
}

/// One line for each owner and each value that it holds: tabs between id, address, standing, clock, dot,
/// time, size, checksum, value.
fn plain(explained: &Explained, verdict: &Verdict<'_>) -> String {
    let mut table = Table::new(&[]);
    for owner in &explained.owners {
        let id = owner.id.as_str();
        let mut first = vec![
            id.to_owned(),
            owner.address.clone(),
            verdict.standing(id).name().to_owned(),
        ];
        match &owner.answer {
            Err(reason) => first.push(reason.replace(['\t', '\n'], " ")),
            Ok(state) => {
                first.push(raw_clock(&state.clock));
                if state.siblings.is_empty() {
                    table.push(first);
                    continue;
                }
                for sibling in &state.siblings {
                    let (size, checksum) = match &sibling.value {
                        ValueDigest::Tombstone => ("-".to_owned(), "-".to_owned()),
                        ValueDigest::Bytes {
                            length, checksum, ..
                        } => (length.to_string(), format!("{checksum:016x}")),
                    };
                    let cells = [
                        sibling.dot.to_string(),
                        sibling.timestamp_ms().to_string(),
                        size,
                        checksum,
                        cell_text(sibling),
                    ];
                    table.push(first.iter().cloned().chain(cells));
                }
                continue;
            }
        }
        table.push(first);
    }
    table.plain()
}

fn raw_clock(clock: &Clock) -> String {
    let dots = clock.iter().map(|dot| dot.to_string());
    dots.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
