//! What a run leaves behind: the text, the JSON file, the page, the warnings.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::text;
use crate::html;
use crate::picture::picture;
use crate::report::Report;

/// Where results go besides the terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    /// `-` is standard output.
    pub(super) json: Option<&'a Path>,
    pub(super) html: Option<&'a Path>,
    pub(super) svg: Option<&'a Path>,
}

/// The form in which a result goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// A table
    Table,
    /// One document
    Json,
}

/// A result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub(super) struct OutputError {
    path: PathBuf,
    source: io::Error,
}

/// Writes a message to standard error.
pub(super) fn say(message: &str) {
    let _nowhere_to_say_so = io::stderr().write_all(message.as_bytes());
}

/// Prints a result, says what is to be known beside it, and writes its picture.
///
/// # Errors
/// [`OutputError`] of the picture.
pub(super) fn show_all(
    text: &str,
    warnings: &[String],
    drawn: Option<(&Path, String)>,
) -> Result<(), OutputError> {
    print(text);
    for warning in warnings {
        say(&format!("dynakv-bench: note: {warning}\n"));
    }
    drawn.map_or(Ok(()), |(path, picture)| write_file(path, &picture))
}

/// Checks that the files can be written, before the work and not after it.
///
/// # Errors
/// [`OutputError`] for the first that cannot.
pub(super) fn check(files: Files<'_>) -> Result<(), OutputError> {
    let json = files.json.filter(|path| !is_standard_output(path));
    let files = [json, files.html, files.svg];
    files.into_iter().flatten().try_for_each(check_file)
}

/// Checks that a file can be written, without changing it.
///
/// # Errors
/// [`OutputError`].
pub(super) fn check_file(path: &Path) -> Result<(), OutputError> {
    let opened = fs::File::options().create(true).append(true).open(path);
    opened.map_err(|source| failed(path, source))?;
    Ok(())
}

/// Writes a file, and says so.
///
/// # Errors
/// [`OutputError`].
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), OutputError> {
    fs::write(path, text).map_err(|source| failed(path, source))?;
    say(&format!("wrote {}\n", path.display()));
    Ok(())
}

/// Writes the report: as text to standard output, or to standard error when the JSON goes there.
///
/// # Errors
/// [`OutputError`] for the first file that could not be written; the others are.
pub(super) fn write(report: &Report, files: Files<'_>) -> Result<(), OutputError> {
    let Files { json, html, svg } = files;
    let text = text::render(report);
    let document = json.map(|_| json_document(report));
    if json.is_some_and(is_standard_output) {
        say(&text);
        print(document.as_deref().unwrap_or_default());
    } else {
        print(&text);
    }
    for warning in &report.warnings {
        say(&format!("dynakv-bench: note: {warning}\n"));
    }
    let to_file = json.filter(|path| !is_standard_output(path)).zip(document);
    let page = html.map(|path| (path, html::page(report)));
    let picture = svg.map(|path| (path, picture(report)));
    let written = [to_file, page, picture]
        .into_iter()
        .flatten()
        .map(|(path, text)| write_file(path, &text));
    let outcomes: Vec<_> = written.collect();
    outcomes.into_iter().collect()
}

fn failed(path: &Path, source: io::Error) -> OutputError {
    OutputError {
        path: path.to_owned(),
        source,
    }
}

/// Whether this stands for standard output.
pub(super) fn is_standard_output(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Writes to standard output. A reader that has closed its end (`| head`) is no failure.
pub(super) fn print(text: &str) {
    let _closed = io::stdout().write_all(text.as_bytes());
}

/// A result as JSON.
pub(super) fn json_document(report: &impl Serialize) -> String {
    // All keys are strings and all numbers finite, so that there is a document.
    let mut document = serde_json::to_string_pretty(report).unwrap_or_default();
    document.push('\n');
    document
}
