//! `compare`: what two builds, or two settings, cost beside each other.
//!
//! Exit codes: 0 when there is a comparison, 1 when a file cannot be read or is no result of this program, 2 when an
//! option is wrong, 9 when B is worse than A by more than `--allow` permits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use super::output::{Form, json_document, print, say};
use super::{EXIT_FAILED, EXIT_USAGE, Failure};
use crate::compare::{Comparison, Turns, compare as compare_runs, table};
use crate::report::Report;

/// B is worse than A by more than was allowed.
pub(super) const EXIT_WORSE: u8 = 9;

/// `dynakv-bench compare`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct CompareArgs {
    /// What is compared with: files that `--json` wrote, comma-separated; one may hold a list of runs
    #[arg(value_name = "A.json", value_parser = parse_files)]
    a: Files,
    /// What is compared, the same; without it A is a file of `local --against`, which holds both
    #[arg(value_name = "B.json", value_parser = parse_files)]
    b: Option<Files>,
    /// End with exit code 9 when the whole 95 % interval of a figure is worse than A's by more than this share
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    allow: Option<f64>,
    /// What to write to standard output
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
}

/// The files of one side.
#[derive(Debug, Clone, PartialEq)]
struct Files(Vec<PathBuf>);

fn parse_files(text: &str) -> Result<Files, String> {
    let files: Vec<_> = text.split(',').map(PathBuf::from).collect();
    match files.iter().any(|file| file.as_os_str().is_empty()) {
        true => Err("write the name of a file, or of several with commas between them".to_owned()),
        false => Ok(Files(files)),
    }
}

/// Runs the command.
pub fn compare(args: &CompareArgs) -> ExitCode {
    match outcome(args) {
        Ok(comparison) => {
            print(&match args.output {
                Form::Table => table(&comparison),
                Form::Json => json_document(&comparison),
            });
            tell_warnings(&comparison);
            exit(&comparison)
        }
        Err(failure) => failure.tell(),
    }
}

/// What to keep in mind, on standard error.
pub(super) fn tell_warnings(comparison: &Comparison) {
    for warning in &comparison.warnings {
        say(&format!("dynakv-bench: note: {warning}\n"));
    }
}

/// 0, or 9.
pub(super) fn exit(comparison: &Comparison) -> ExitCode {
    match comparison.worse {
        true => ExitCode::from(EXIT_WORSE),
        false => ExitCode::SUCCESS,
    }
}

/// A share, from 0 % to 100 %.
pub(super) fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|it| it.trim().parse().ok());
    match number {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("write a percentage from 0% to 100%, such as 5%".to_owned()),
    }
}

fn outcome(args: &CompareArgs) -> Result<Comparison, Failure> {
    let (a, b) = match &args.b {
        Some(b) => (runs(&args.a)?, runs(b)?),
        None => both_sides(&args.a)?,
    };
    if a.is_empty() || b.is_empty() {
        let what = "a file holds no run, so that there is nothing to compare";
        return Err(Failure::new(EXIT_USAGE, what, "dynakv-bench help compare"));
    }
    Ok(compare_runs(&a, &b, args.allow))
}

fn runs(files: &Files) -> Result<Vec<Report>, Failure> {
    let mut runs = Vec::new();
    for path in &files.0 {
        match read(path)? {
            list @ Value::Array(_) => runs.extend(parsed::<Vec<Report>>(path, list)?),
            one => runs.push(parsed(path, one)?),
        }
    }
    Ok(runs)
}

/// Those of all files, each of which holds both.
fn both_sides(files: &Files) -> Result<(Vec<Report>, Vec<Report>), Failure> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for path in &files.0 {
        let document = read(path)?;
        if document.get("order").is_none() {
            let what = format!(
                "{} holds one side only: name a second file to compare it with",
                path.display()
            );
            return Err(Failure::new(EXIT_USAGE, what, "dynakv-bench help compare"));
        }
        let turns: Turns = parsed(path, document)?;
        a.extend(turns.a);
        b.extend(turns.b);
    }
    Ok((a, b))
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(
            EXIT_FAILED,
            what,
            "dynakv-bench local --json FILE (makes one)",
        )
    })?;
    serde_json::from_str(&text).map_err(|error| is_no_result(path, &error))
}

fn parsed<T: serde::de::DeserializeOwned>(path: &Path, document: Value) -> Result<T, Failure> {
    serde_json::from_value(document).map_err(|error| is_no_result(path, &error))
}

fn is_no_result(path: &Path, error: &serde_json::Error) -> Failure {
    let what = format!("{} is no result of dynakv-bench: {error}", path.display());
    Failure::new(
        EXIT_FAILED,
        what,
        "dynakv-bench local --json FILE (makes one)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert_eq!(parse_percent("2.5 %"), Ok(0.025));
        for text in ["5", "-1%", "101%", "NaN%", "%", ""] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
