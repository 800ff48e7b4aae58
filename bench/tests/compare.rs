//! `dynakv-bench compare` over files, judged by its exit code and output. No node runs.

#[path = "common/command.rs"]
mod command;

use std::path::{Path, PathBuf};
use std::process::Output;

use command::{bench, said};
use dynakv_bench::compare::{Comparison, Measure, Method, Verdict};
use serde_json::{Value, json};

/// A run that took so many times the CPU and the time of the sample.
fn run(times: f64) -> Value {
    let mut run: Value = serde_json::from_str(include_str!("report.json")).unwrap();
    let scale = |value: &mut Value, times: f64| {
        *value = json!(value.as_f64().unwrap() * times);
    };
    scale(&mut run["ops_per_second"], 1.0 / times);
    scale(&mut run["server_cpu_us_per_op"], times);
    scale(&mut run["client_cpu_us_per_op"], times);
    for kind in ["read", "write"] {
        scale(&mut run["by_op"][kind]["ops_per_second"], 1.0 / times);
        for percentile in ["p50", "p99", "p999"] {
            scale(&mut run["by_op"][kind]["latency_ms"][percentile], times);
        }
    }
    run
}

fn write(folder: &Path, name: &str, document: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

fn compare(arguments: &[&str]) -> Output {
    bench(&[&["compare"], arguments].concat()).output().unwrap()
}

#[test]
fn a_slower_build_ends_with_its_own_exit_code_and_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let a: Vec<_> = [1.0, 1.02, 0.98].map(run).into();
    let a = write(folder.path(), "a.json", &Value::from(a));
    let slow: Vec<_> = [1.2, 1.21, 1.22]
        .into_iter()
        .enumerate()
        .map(|(number, times)| write(folder.path(), &format!("b{number}.json"), &run(times)))
        .map(|path| path.display().to_string())
        .collect();
    let (a, slow) = (a.to_str().unwrap(), slow.join(","));
    for (arguments, code) in [
        (&[a, &slow][..], 0),
        (&[a, &slow, "--allow", "5%"], 9),
        (&[a, &slow, "--allow", "50%"], 0),
        (&[&slow, a, "--allow", "0%"], 0),
        (&[a, a, "--allow", "0%"], 0),
    ] {
        let output = compare(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        let table = String::from_utf8(output.stdout).unwrap();
        for row in [
            "read ops/s",
            "write P99.9 ms",
            "server CPU us/op",
            "B: 3 runs of 0.1.0",
        ] {
            assert!(table.contains(row), "{row}: {table}");
        }
        assert_eq!(table.contains("worse than allowed"), code == 9, "{table}");
    }
}

#[test]
fn json_is_the_comparison_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, times: f64| {
        let path = write(
            folder.path(),
            name,
            &Value::from(vec![run(times), run(times * 1.01)]),
        );
        path.display().to_string()
    };
    let (a, b) = (of("a.json", 1.0), of("b.json", 0.5));
    let output = compare(&[&a, &b, "--output", "json", "--allow", "5%"]);
    assert!(output.status.success(), "{}", said(&output));
    let comparison: Comparison = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(comparison.method, Method::Runs);
    assert_eq!((comparison.a.runs, comparison.b.runs), (2, 2));
    assert!(!comparison.worse);
    let cpu = comparison.figures.iter();
    let mut cpu = cpu.filter(|figure| figure.figure == Measure::ServerCpu);
    let cpu = cpu.next().unwrap();
    assert!((cpu.ratio - 0.5).abs() < 1e-9, "{cpu:?}");
    assert_eq!(cpu.verdict, Verdict::Better);
    // The names that scripts look for.
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = document["figures"].as_array().unwrap().iter();
    let names: Vec<_> = names.filter_map(|it| it["figure"].as_str()).collect();
    for name in [
        "ops_per_second",
        "latency_p50_ms",
        "latency_p99_ms",
        "latency_p999_ms",
        "server_cpu_us_per_op",
        "client_cpu_us_per_op",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    // What the runs have to say stands on standard error.
    assert!(
        said(&output).contains("note: the generator used"),
        "{}",
        said(&output)
    );
}

#[test]
fn files_that_are_none_are_named_with_what_to_type_next() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good.json", &run(1.0));
    let other = write(folder.path(), "other.json", &json!({"pages": 7}));
    let text = folder.path().join("text.json");
    std::fs::write(&text, "no JSON").unwrap();
    let empty = write(folder.path(), "empty.json", &json!([]));
    let missing = folder.path().join("missing.json");
    for (file, code) in [(&other, 1), (&text, 1), (&missing, 1), (&empty, 2)] {
        let output = compare(&[good.to_str().unwrap(), file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(output.stdout.is_empty(), "{}", said(&output));
        assert!(
            said(&output).contains("next: dynakv-bench "),
            "{}",
            said(&output)
        );
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(
            code == 2 || said(&output).contains(name),
            "{}",
            said(&output)
        );
    }
    for arguments in [
        &[][..],
        &[good.to_str().unwrap()],
        &["a", "b", "--allow", "5"],
    ] {
        let output = compare(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    }
}
