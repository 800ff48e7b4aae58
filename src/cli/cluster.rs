//! `cluster`: changes the members of the ring. What is to be done is planned first, by the cluster itself, then confirmed,
//! begun on the ring that was planned on, and followed to its end.

mod command;
mod course;
mod facts;
mod finding;
mod plan;
mod shown;
mod standing;
mod watch;
mod wish;

use std::io::{self, Write};

use dynakv_client::{ChangeRing, Error, ErrorCode, StatusReply};
use dynakv_protocol::ring_document::RingDocument;
use serde::Serialize;

pub(crate) use self::command::ClusterCommand;
use self::command::{Consent, WishCommand};
use self::course::{Begun, Stage, whom_to_ask};
use self::plan::{Kind, Plan};
use self::watch::{End, Members, Watched, follow};
use self::wish::Known;
use super::exit::Exit;
use super::output::{Format, Report, json_line};
use super::prompt::{Prompt, Session, confirmed, is_asked};

/// Runs one of the commands.
pub(crate) async fn run(
    session: &Session,
    command: ClusterCommand,
    format: Format,
) -> Result<Report, Error> {
    let (wish, consent) = match command {
        ClusterCommand::Status => return standing::status(session, format).await,
        ClusterCommand::Plan { wish } => {
            let planned = planned(session, &wish, format).await?;
            return Ok(match planned {
                Ok(planned) => planned.report(&session.prompt(), format),
                Err(report) => report,
            });
        }
        ClusterCommand::Join(begin) => (WishCommand::Join(begin.wish), begin.consent),
        ClusterCommand::Leave(begin) => (WishCommand::Leave(begin.wish), begin.consent),
        ClusterCommand::Remove(begin) => (WishCommand::Remove(begin.wish), begin.consent),
        ClusterCommand::Replace(begin) => (WishCommand::Replace(begin.wish), begin.consent),
        ClusterCommand::Set(begin) => (WishCommand::Set(begin.wish), begin.consent),
        ClusterCommand::Abort { yes } => {
            let consent = Consent { yes, no_wait: true };
            (WishCommand::Abort, consent)
        }
    };
    match planned(session, &wish, format).await? {
        Ok(planned) => carry_out(session, planned, consent, format).await,
        Err(report) => Ok(report),
    }
}

/// A change that can be begun, and what it was planned on.
struct Planned {
    /// What was typed behind `cluster`.
    words: String,
    question: ChangeRing,
    plan: Plan,
    status: StatusReply,
}

impl Planned {
    /// What carries it out without a question.
    fn command(&self, prompt: &Prompt) -> String {
        prompt.command(&format!("cluster {} --yes", self.words))
    }

    fn report(&self, prompt: &Prompt, format: Format) -> Report {
        self.plan.report(&self.words, &self.command(prompt), format)
    }
}

/// Asks the cluster which ring it would be; a report where it cannot be.
async fn planned(
    session: &Session,
    command: &WishCommand,
    format: Format,
) -> Result<Result<Planned, Report>, Error> {
    let client = &session.client;
    let status = client.status().await?;
    let ring = client.ring().await?;
    let waiting = match command.joining() {
        [] => Vec::new(),
        ids => finding::waiting(client, &status, ids).await,
    };
    let prompt = session.prompt();
    let known = Known {
        status: &status,
        ring: &ring,
        waiting: &waiting,
        prompt: &prompt,
    };
    let question = match known.question(command) {
        Ok(question) => question,
        Err(refusal) => {
            let report = Report::error(Exit::Error, format, &refusal.what, &refusal.next);
            return Ok(Err(report));
        }
    };
    let next = match client.change_ring(question.clone()).await {
        Ok(next) => next,
        Err(error) => {
            return refused(&error, format, |message| known.next_after(command, message))
                .map(Err)
                .ok_or(error);
        }
    };
    Ok(Ok(Planned {
        words: command.words(),
        plan: Plan::new(&ring.document, &next, &status),
        question,
        status,
    }))
}

/// The node's own words, and what to type next. Nothing for an error of another kind.
fn refused(error: &Error, format: Format, next: impl FnOnce(&str) -> String) -> Option<Report> {
    let Error::Refused { reply, .. } = error else {
        return None;
    };
    (reply.code == ErrorCode::ChangeRefused).then(|| {
        let next = next(&reply.message);
        Report::client_error_as(format, error, &reply.message, &next)
    })
}

/// Shows the plan, has it confirmed, begins it and follows it.
async fn carry_out(
    session: &Session,
    planned: Planned,
    consent: Consent,
    format: Format,
) -> Result<Report, Error> {
    let prompt = session.prompt();
    let picture = planned.plan.picture(&planned.words);
    let question = match planned.plan.kind {
        Kind::GivesUp => "Give it up?",
        Kind::Begins | Kind::StopsWaiting | Kind::Forces => "Do it?",
    };
    if consent.yes || !is_asked() {
        // It stands in the script's log.
        let _nowhere_to_say_so = io::stderr().write_all(picture.as_bytes());
    }
    if !consent.yes && !confirmed(&picture, question) {
        let again = planned.command(&prompt);
        let what = "nothing was begun: this has to be confirmed";
        return Ok(Report::error(Exit::Usage, format, what, &again));
    }
    let wish = ChangeRing {
        is_plan: false,
        ..planned.question
    };
    let looks = prompt.command("cluster status");
    match session.client.change_ring(wish).await {
        Ok(_) => {}
        Err(error) if error.maybe_applied() => {
            let what = format!("{error}; it may have begun all the same");
            return Ok(Report::client_error_as(format, &error, &what, &looks));
        }
        Err(error) => {
            let plan = || prompt.command(&format!("cluster plan {}", planned.words));
            return refused(&error, format, |_| plan()).ok_or(error);
        }
    }
    let outcome = Outcome {
        words: &planned.words,
        format,
    };
    // Another ring than the one that was planned is not decided.
    let Some(begun) = Begun::by(&planned.plan.next) else {
        let state = match planned.plan.kind {
            Kind::Forces => "done",
            Kind::Begins | Kind::StopsWaiting | Kind::GivesUp => "given_up",
        };
        return Ok(outcome.at_rest(&planned.plan.next, state, Exit::Ok));
    };
    if consent.no_wait {
        return Ok(outcome.running(&begun, "the change is under way", &looks));
    }
    let asked = session.client.asked_address();
    let order = whom_to_ask(&planned.plan.next, &planned.status, asked);
    let mut members = Members::new(&session.client, order);
    let watched = follow(&begun, &mut members, planned.plan.segments_moved()).await;
    let looks = match &watched.last {
        // Who was asked may be gone by now.
        Some(seen) if seen.address != asked => Prompt::of(&seen.address).command("cluster status"),
        Some(_) | None => looks,
    };
    Ok(outcome.of(&begun, watched, &looks))
}

/// How the end of a command is told.
struct Outcome<'a> {
    words: &'a str,
    format: Format,
}

#[derive(Serialize)]
struct Document<'a> {
    wish: &'a str,
    state: &'static str,
    begun_at: Option<u64>,
    ring_version: Option<u64>,
    members: Vec<&'a str>,
}

impl Outcome<'_> {
    fn of(&self, begun: &Begun, watched: Watched, looks: &str) -> Report {
        let format = self.format;
        match watched.end {
            End::At(Stage::Done, seen) => self.at_rest(&seen.ring.document, "done", Exit::Ok),
            End::At(Stage::GivenUp, _) => {
                let last = watched.last.as_ref().map(|seen| &seen.status);
                let why = begun.why_given_up(last);
                let what = format!("the change was given up: {why}");
                Report::error(Exit::Error, format, &what, looks)
            }
            End::At(Stage::Other | Stage::UnderWay, seen) => {
                let what = format!(
                    "the ring was changed otherwise meanwhile, and is {} now",
                    seen.ring.document.version
                );
                Report::error(Exit::Error, format, &what, looks)
            }
            End::Left => self.running(begun, "left alone, and the change goes on", looks),
            End::Silent(Some(error)) => {
                let what = format!("nobody tells any more how far it is, and it goes on: {error}");
                Report::client_error_as(format, &error, &what, looks)
            }
            End::Silent(None) => {
                let what = "all that answer follow an older ring, and the change goes on";
                Report::error(Exit::Error, format, what, looks)
            }
        }
    }

    /// The ring does not change any more.
    fn at_rest(&self, document: &RingDocument, state: &'static str, exit: Exit) -> Report {
        let members = document.members.iter().map(|member| member.id.as_str());
        let members: Vec<&str> = members.collect();
        let text = match self.format {
            Format::Json => json_line(&Document {
                wish: self.words,
                state,
                begun_at: None,
                ring_version: Some(document.version.0),
                members,
            }),
            Format::Table | Format::Plain => format!(
                "{}: ring {} has {} nodes: {}\n",
                state.replace('_', " "),
                document.version,
                members.len(),
                members.join(", ")
            ),
        };
        Report::data(exit, text)
    }

    fn running(&self, begun: &Begun, what: &str, looks: &str) -> Report {
        let begun_at = begun.begun_at();
        let text = match self.format {
            Format::Json => json_line(&Document {
                wish: self.words,
                state: "running",
                begun_at: Some(begun_at.0),
                ring_version: None,
                members: Vec::new(),
            }),
            Format::Table | Format::Plain => format!("begun with ring {begun_at}\n"),
        };
        let mut report = Report::data(Exit::Ok, text);
        report.messages = format!("dynakv: {what}; this shows it:\n  next: {looks}\n");
        report
    }
}

#[cfg(test)]
mod tests;
