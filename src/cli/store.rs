//! `store check` and `store rewrite`: what an operator does to the store of a node that is stopped.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use dynakv_protocol::shell::quoted;
use dynakv_storage::check::Step;
use dynakv_storage::disk::LOCK_FILE;
use dynakv_storage::{
    Checked, DirectoryFiles, HINTS_FILE, RewriteError, Rewritten, StoreError, check_directory,
    rewrite_directory,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::exit::Exit;
use super::output::{Format, Heading, Report, Table, bytes_text, json_line};
use crate::runtime::shared::data_directory::{SET_ASIDE, STORE_DIRECTORY};

/// How many findings are shown to people; JSON has more.
const FINDINGS_SHOWN: usize = 50;

/// `dynakv store`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything in the store of a stopped node and compare it with its checksums and hashes
    ///
    /// Nothing is changed. A copy is made beside it, so as much room is needed again.
    Check(DirectoryArgs),
    /// Write the store of a stopped node anew, without what it has grown by
    Rewrite(DirectoryArgs),
}

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct DirectoryArgs {
    /// The node's data directory, or the directory of a store
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs a `store` command.
pub(crate) fn run(command: StoreCommand, format: Format) -> Report {
    match command {
        StoreCommand::Check(args) => check(&args.directory, format),
        StoreCommand::Rewrite(args) => rewrite(&args.directory, format),
    }
}

/// A store that no node runs on, until this is dropped.
struct Stopped {
    store: PathBuf,
    /// The data directory around it, with its lock: a node takes that first.
    around: Option<DirectoryFiles>,
}

impl Stopped {
    fn open(given: &Path, format: Format) -> Result<Self, Report> {
        let given_text = given.display().to_string();
        let usage = |what: &str| {
            let next = "dynakv store check DATA_DIR, the directory that `serve --data-dir` names";
            Err(Report::error(Exit::Usage, format, what, next))
        };
        let directory = match fs::canonicalize(given) {
            Ok(directory) => directory,
            Err(error) => return usage(&format!("cannot open {given_text}: {error}")),
        };
        let is_store = |path: &Path| {
            let names = ["format", "log", "sled"];
            names.iter().filter(|name| path.join(name).exists()).count() >= 2
        };
        // Errors name the part that is damaged: its store is meant.
        let directory = match directory.parent() {
            Some(store) if !is_store(&directory) && is_store(store) => store.to_owned(),
            _ => directory,
        };
        let is_set_aside = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(SET_ASIDE)
        };
        let within = directory.join(STORE_DIRECTORY);
        let (store, around) = if is_store(&within) {
            (within, Some(directory))
        } else if is_set_aside(&directory) {
            // It is nobody's any more: its node may run, and the hints beside it are that one's.
            (directory, None)
        } else if is_store(&directory) {
            let around = directory.parent().map(Path::to_owned);
            (directory, around)
        } else {
            return usage(&format!("there is no store in {given_text}"));
        };
        let around = around.filter(|around| around.join(LOCK_FILE).exists());
        let lock = around.map(DirectoryFiles::open).transpose();
        match lock {
            Ok(around) => Ok(Self { store, around }),
            Err(error) => Err(store_error(&error, &given_text, format)),
        }
    }
}

fn store_error(error: &StoreError, directory: &str, format: Format) -> Report {
    let typed = quoted(directory);
    let (what, next) = match error {
        StoreError::Locked { .. } => (
            format!("a node runs on {directory}"),
            "stop it (Ctrl-C, or kill -TERM of its process), then give the command again"
                .to_owned(),
        ),
        error if error.is_corruption() => {
            (error.to_string(), format!("dynakv store check {typed}"))
        }
        StoreError::DiskFull { .. } => (
            format!("there is no room left beside the store in {directory}"),
            format!("df -h {typed}"),
        ),
        error => (error.to_string(), format!("ls -la {typed}")),
    };
    Report::error(Exit::Error, format, &what, &next)
}

/// A bar on standard error; nothing at all when that is no terminal.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg} {wide_bar} {percent}% ({eta})";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        }))
    }

    fn show(&self, step: Step, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(match step {
                Step::Copying => "copying",
                Step::Reading => "checking",
            });
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn check(given: &Path, format: Format) -> Report {
    let stopped = match Stopped::open(given, format) {
        Ok(stopped) => stopped,
        Err(report) => return report,
    };
    let bar = Bar::new();
    let checked = check_directory(&stopped.store, &mut |step, done, total| {
        bar.show(step, done, total);
    });
    drop(bar);
    let checked = checked.and_then(|mut checked| {
        if let Some(around) = &stopped.around {
            checked.add_hints(&around.directory().join(HINTS_FILE))?;
        }
        Ok(checked)
    });
    match checked {
        Ok(checked) => checked_report(&checked, &stopped.store, format),
        Err(error) => store_error(&error, &given.display().to_string(), format),
    }
}

#[derive(Serialize)]
struct CheckDocument<'a> {
    directory: String,
    clean: bool,
    keys: u64,
    bytes: u64,
    hint_records: Option<u64>,
    findings_total: u64,
    findings: Vec<FindingFields<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct FindingFields<'a> {
    place: &'a str,
    problem: &'a str,
}

fn checked_report(checked: &Checked, store: &Path, format: Format) -> Report {
    let directory = store.display().to_string();
    let exit = if checked.is_clean() {
        Exit::Ok
    } else {
        Exit::Error
    };
    let next = (!checked.is_clean()).then(|| {
        format!(
            "start the node of {directory}: where its data is damaged its reads count no more until the \
             others have given it what they have, and `dynakv status` says so; damaged hints are lost"
        )
    });
    if format == Format::Json {
        let findings = checked.findings.iter().map(|finding| FindingFields {
            place: &finding.place,
            problem: &finding.problem,
        });
        let document = CheckDocument {
            directory,
            clean: checked.is_clean(),
            keys: checked.keys,
            bytes: checked.bytes,
            hint_records: checked.hint_records,
            findings_total: checked.findings_total,
            findings: findings.collect(),
            next,
        };
        return Report::data(exit, json_line(&document));
    }
    let Some(next) = next else {
        let mut table = Table::new(&[
            Heading::Left("Store"),
            Heading::Left("State"),
            Heading::Right("Keys"),
            Heading::Right("Bytes"),
            Heading::Right("Hint records"),
        ]);
        let [keys, bytes] = [checked.keys, checked.bytes].map(|number| number.to_string());
        // A store that was set aside has none beside it.
        let hints = checked.hint_records.map(|records| records.to_string());
        let hints = hints.unwrap_or_else(|| "-".to_owned());
        table.push([directory, "clean".to_owned(), keys, bytes, hints]);
        return Report::data(exit, text(&table, format));
    };
    let mut table = Table::new(&[Heading::Left("Place"), Heading::Left("Problem")]);
    for finding in checked.findings.iter().take(FINDINGS_SHOWN) {
        table.push([finding.place.clone(), finding.problem.clone()]);
    }
    let more = checked.findings_total.saturating_sub(FINDINGS_SHOWN as u64);
    let more = match more {
        0 => String::new(),
        more => format!("  {more} more are not shown; --output json shows up to 1000\n"),
    };
    let messages = format!(
        "dynakv: {} findings in {directory}; {} keys could be read\n{more}  next: {next}\n",
        checked.findings_total, checked.keys
    );
    Report {
        exit,
        data: text(&table, format).into_bytes(),
        messages,
    }
}

fn text(table: &Table, format: Format) -> String {
    match format {
        Format::Plain => table.plain(),
        Format::Table | Format::Json => table.aligned(),
    }
}

fn rewrite(given: &Path, format: Format) -> Report {
    let stopped = match Stopped::open(given, format) {
        Ok(stopped) => stopped,
        Err(report) => return report,
    };
    let bar = Bar::new();
    let rewritten = rewrite_directory(&stopped.store, &mut |step, done, total| {
        bar.show(step, done, total);
    });
    drop(bar);
    match rewritten {
        Ok(rewritten) => rewritten_report(&rewritten, &stopped.store, format),
        Err(error) => rewrite_error(&error, &given.display().to_string(), format),
    }
}

fn rewrite_error(error: &RewriteError, directory: &str, format: Format) -> Report {
    let typed = quoted(directory);
    let (what, next) = match error {
        RewriteError::Store(error) => return store_error(error, directory, format),
        RewriteError::NoRoom { .. } => (
            format!("{error}; nothing was changed"),
            format!("df -h {typed}"),
        ),
        error => (
            format!(
                "the store does not hold what was written into it, so it was left as it is: {error}"
            ),
            format!("dynakv store check {typed}"),
        ),
    };
    Report::error(Exit::Error, format, &what, &next)
}

#[derive(Serialize)]
struct RewriteDocument {
    directory: String,
    keys: u64,
    bytes_before: u64,
    bytes_after: u64,
}

fn rewritten_report(rewritten: &Rewritten, store: &Path, format: Format) -> Report {
    let Rewritten {
        keys,
        bytes_before,
        bytes_after,
    } = *rewritten;
    let directory = store.display().to_string();
    if format == Format::Json {
        let document = RewriteDocument {
            directory,
            keys,
            bytes_before,
            bytes_after,
        };
        return Report::data(Exit::Ok, json_line(&document));
    }
    let mut table = Table::new(&[
        Heading::Left("Store"),
        Heading::Right("Keys"),
        Heading::Right("Before"),
        Heading::Right("After"),
    ]);
    let size = |bytes: u64| match format {
        Format::Plain => bytes.to_string(),
        Format::Table | Format::Json => bytes_text(bytes),
    };
    table.push([
        directory,
        keys.to_string(),
        size(bytes_before),
        size(bytes_after),
    ]);
    Report::data(Exit::Ok, text(&table, format))
}

#[cfg(test)]
mod tests;
