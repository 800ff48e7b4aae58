//! `dynakv-bench local --against` with small numbers: which runs there are, and what becomes of them. Both sides are
//! the same build, so what they come to is not looked at.

#[path = "common/command.rs"]
mod command;
mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use command::{bench, eventually, interrupt, leaves_nothing, nodes_in, said};
use common::dynakv;
use dynakv_bench::compare::{Comparison, FigureRatio, Turns};

/// Half a second of work for each run, whose data and logs lie in here.
fn against(temporary: &Path, more: &[&str]) -> Command {
    let dynakv = dynakv();
    let dynakv = dynakv.to_str().unwrap();
    let arguments = [
        "local",
        "--nodes",
        "1",
        "--dynakv",
        dynakv,
        "--against",
        dynakv,
    ];
    let work = [
        "--workload",
        "a",
        "--keys",
        "100",
        "--clients",
        "4",
        "--pipeline",
        "1",
    ];
    let mut command = bench(&[&arguments[..], &work, more].concat());
    command.env("TMPDIR", temporary);
    command
}

#[test]
fn runs_take_turns_and_their_file_can_be_compared_again() {
    let temporary = tempfile::tempdir().unwrap();
    let results = tempfile::tempdir().unwrap();
    let file = results.path().join("turns.json");
    let file = file.to_str().unwrap();
    let more = ["--duration", "500ms", "--rounds", "2", "--json", file];
    let output = against(temporary.path(), &more).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for row in [
        "read ops/s",
        "write P99 ms",
        "all server CPU us/op",
        "A: 2 runs",
        "B: 2 runs",
    ] {
        assert!(table.contains(row), "{row}: {}", said(&output));
    }
    for progress in [
        "run 1 of 4: A",
        "run 2 of 4: B",
        "run 3 of 4: B",
        "run 4 of 4: A",
    ] {
        let progress_count = said(&output).matches(progress).count();
        assert_eq!(progress_count, 2, "{progress}: {}", said(&output));
    }
    let text = std::fs::read_to_string(file).unwrap();
    let turns: Turns = serde_json::from_str(&text).unwrap();
    assert_eq!(turns.order, ["a", "b", "b", "a"]);
    assert_eq!((turns.a.len(), turns.b.len()), (2, 2));
    for run in turns.a.iter().chain(&turns.b) {
        assert!(
            run.by_op.values().all(|op| op.count > 0),
            "{}",
            said(&output)
        );
    }
    let again = bench(&["compare", file, "--output", "json"])
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", said(&again));
    let again: Comparison = serde_json::from_slice(&again.stdout).unwrap();
    let ratios = |comparison: &Comparison| {
        let figures = comparison.figures.iter();
        // Numbers come back from a file but for their last digit.
        let ratio = |it: &FigureRatio| (it.of.clone(), it.figure, (it.ratio * 1e9).round() as i64);
        figures.map(ratio).collect::<Vec<_>>()
    };
    assert_eq!(ratios(&again), ratios(&turns.comparison));
    leaves_nothing(temporary.path(), &[]);
}

#[test]
fn a_signal_ends_it_with_the_runs_that_are_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let more = ["--duration", "2s", "--rounds", "2"];
    let child = against(temporary.path(), &more)
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(log.path()).unwrap();
    // Within its first second, of which a line is written.
    eventually("the third run is under way", || {
        let third = log().split("run 3 of 4").nth(1).map(str::to_owned);
        third.is_some_and(|third| third.contains(" ops/s "))
    });
    let pids = nodes_in(temporary.path());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", log());
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("A: 1 run ") && table.contains("B: 1 run "),
        "{table}"
    );
    leaves_nothing(temporary.path(), &pids);
}

#[test]
fn what_cannot_be_is_said_before_anything_runs() {
    let temporary = tempfile::tempdir().unwrap();
    let dynakv = dynakv();
    let dynakv = dynakv.to_str().unwrap();
    for (arguments, code, part) in [
        (&["--against", "/nowhere/dynakv"][..], 1, "/nowhere/dynakv"),
        (&["--against", dynakv, "--svg", "a.svg"], 2, "--svg"),
        (&["--rounds", "2"], 2, "--against"),
        (&["--allow", "5%"], 2, "--against"),
        (&["--against", dynakv, "--allow", "5"], 2, "5%"),
        (&["--against", dynakv, "--kill-at", "1h"], 2, "--kill-at"),
    ] {
        let local = ["local", "--dynakv", dynakv];
        let mut command = bench(&[&local[..], arguments].concat());
        let output = command.env("TMPDIR", temporary.path()).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains(part),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(output.stdout.is_empty(), "{}", said(&output));
    }
    leaves_nothing(temporary.path(), &[]);
}
