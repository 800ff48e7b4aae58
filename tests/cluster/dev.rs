//! `dynakv dev`: a cluster to try things out.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Command, PATIENCE, Process, dynakv, eventually, free_ports, is_running};

struct Dev {
    process: Process,
    pids: Vec<u32>,
}

/// Starts `dev` and waits for its one line of JSON.
#[track_caller]
fn start(directory: &Path, port: u16, name: &str) -> Dev {
    start_with(directory, port, name, &[])
}

/// The same with more options.
#[track_caller]
fn start_with(directory: &Path, port: u16, name: &str, more: &[&str]) -> Dev {
    let port = port.to_string();
    let arguments = [
        "dev",
        "--base-port",
        &port,
        "--data-dir",
        "data",
        "--output",
        "json",
    ];
    let arguments = arguments.iter().chain(more);
    let arguments: Vec<String> = arguments.map(|word| (*word).to_owned()).collect();
    let mut process = Process::start(name, directory, &arguments, &[]).unwrap();
    let ready: Value = eventually("dev is ready", || {
        if let Some(status) = process.ended() {
            return Err(format!("it has ended: {status}: {}", process.stderr()));
        }
        serde_json::from_str(&process.stdout()).map_err(|error| error.to_string())
    });
    assert_eq!(ready["event"], "ready");
    assert_eq!(ready["ring"]["total_virtual_nodes"], 450, "{ready}");
    let nodes = ready["nodes"].as_array().unwrap();
    let pids = nodes
        .iter()
        .map(|node| node["pid"].as_u64().unwrap() as u32);
    let pids: Vec<u32> = pids.collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    Dev { process, pids }
}

impl Dev {
    /// Sends a signal, and panics unless it and all of its nodes end, in order.
    #[track_caller]
    fn ends_at(&mut self, signal: Signal) {
        self.process.signal(signal);
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "{}", self.process.stderr());
        assert!(
            !self.pids.iter().any(|pid| is_running(*pid)),
            "no node outlives it"
        );
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It ends its nodes, in order. No panic here: the test may be in one.
        self.process.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.process.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// One command gives three nodes that serve. Ctrl-C ends all of them; a second run has the data.
#[test]
fn dev_runs_a_cluster_until_ctrl_c_and_keeps_its_data() {
    let root = tempfile::tempdir().unwrap();
    let port = free_ports(3);
    let server = |index: u16| format!("127.0.0.1:{}", port + index);

    let mut dev = start(root.path(), port, "first-run");
    dynakv(["--server", &server(0), "put", "greeting", "hello"]).exits(0);
    let got = dynakv(["--server", &server(2), "get", "greeting"]).exits(0);
    assert_eq!(got.text(), "hello");
    dynakv(["--server", &server(1), "status"]).exits(0);
    dev.ends_at(Signal::INT);
    dynakv(["--server", &server(0), "health"]).exits(1);

    let mut dev = start(root.path(), port, "second-run");
    let got = dynakv(["--server", &server(1), "get", "greeting"]).exits(0);
    assert_eq!(got.text(), "hello");
    dev.ends_at(Signal::TERM);
}

/// For people it prints the ring and the next command to type, with the port in it.
#[test]
fn dev_says_what_to_type_next() {
    let root = tempfile::tempdir().unwrap();
    let port = free_ports(3);
    let base_port = port.to_string();
    let arguments = ["dev", "--base-port", &base_port, "--output", "table"].map(str::to_owned);
    let process = Process::start("dev", root.path(), &arguments, &[]).unwrap();
    let mut dev = Dev {
        process,
        pids: Vec::new(),
    };
    let said = eventually("dev is ready", || {
        let said = dev.process.stdout();
        if said.contains("Ctrl-C") {
            Ok(said)
        } else {
            Err(said)
        }
    });
    assert!(said.contains("3 nodes, 450 virtual nodes"), "{said}");
    let next = format!("dynakv --server 127.0.0.1:{port} put greeting hello");
    assert!(said.contains(&next), "{said}");
    assert!(
        root.path().join("dynakv-data/dev/node-1").is_dir(),
        "the default directory"
    );
    dev.ends_at(Signal::INT);
}

/// Killed it cannot end its nodes, so they see to it themselves; and their data is there for the next run.
#[test]
fn nodes_do_not_outlive_a_dev_that_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let port = free_ports(3);
    let mut dev = start(root.path(), port, "killed");
    let server = format!("127.0.0.1:{port}");
    dynakv(["--server", &server, "put", "k", "v"]).exits(0);
    dev.process.kill();
    eventually("its nodes have ended", || {
        // Their parent is gone, and whoever got them may leave them unreaped.
        let is_zombie = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| stat.contains(") Z "))
        };
        let running = dev.pids.iter().copied();
        let mut running = running.filter(|pid| is_running(*pid) && !is_zombie(*pid));
        running
            .next()
            .map_or(Ok(()), |pid| Err(format!("{pid} runs")))
    });
    let mut dev = start(root.path(), port, "again");
    let got = dynakv(["--server", &server, "get", "k"]).exits(0);
    assert_eq!(got.text(), "v");
    dev.ends_at(Signal::TERM);
}

/// A directory remembers what its cluster was made for: anything else is refused with both ways out, and `--fresh`
/// begins anew without losing anything.
#[test]
fn dev_keeps_to_the_shape_of_its_directory() {
    let root = tempfile::tempdir().unwrap();
    let port = free_ports(3);
    let server = format!("127.0.0.1:{port}");
    let mut dev = start(root.path(), port, "first");
    dynakv(["--server", &server, "put", "k", "v"]).exits(0);
    let directory = root.path().join("data");
    std::fs::write(directory.join("notes.txt"), "of somebody else").unwrap();
    let run = |port: u16, more: &[&str]| {
        let port = port.to_string();
        let words = ["dev", "--base-port", &port, "--data-dir", "data"];
        let words = [&words[..], more].concat();
        Command::new(words).current_dir(root.path()).run()
    };
    // While it runs, its directory is not taken from it.
    let other = free_ports(3);
    run(other, &["--fresh"]).exits(1).says("in use");
    dev.ends_at(Signal::TERM);
    let made =
        format!("next: dynakv dev --nodes 3 --base-port {port} -n 3 -w 2 -r 2 --data-dir data\n");
    run(other, &[]).exits(2).says("--fresh").says(&made);
    for more in [["--nodes", "2"], ["-n", "2"], ["-w", "3"], ["-r", "1"]] {
        run(port, &more).exits(2).says("--fresh").says(&made);
    }
    assert!(!directory.join("before-1").exists());

    let mut dev = start_with(root.path(), port, "fresh", &["--fresh", "-w", "3"]);
    dynakv(["--server", &server, "get", "k"]).exits(3);
    let said = dev.process.stderr();
    assert!(said.contains("before-1"), "{said}");
    assert!(directory.join("before-1/node-3").is_dir());
    assert!(directory.join("notes.txt").is_file());
    dev.ends_at(Signal::TERM);
    run(port, &["-w", "2"]).exits(2);
}

/// What `dev` did not make is not moved.
#[test]
fn dev_moves_nothing_that_is_not_its_own() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    std::fs::create_dir_all(directory.join("node-1")).unwrap();
    let port = free_ports(3).to_string();
    let run = |more: &[&str]| {
        let words = ["dev", "--base-port", &port, "--data-dir", "data"];
        let words = [&words[..], more].concat();
        Command::new(words).current_dir(root.path()).run()
    };
    run(&["--fresh"]).exits(2).says("not marked as its own");
    run(&[]).exits(2).says("dynakv dev --nodes 1");
    let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A port in use is found before anything is started.
#[test]
fn dev_names_the_port_in_use() {
    let root = tempfile::tempdir().unwrap();
    let port = free_ports(3);
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let base_port = port.to_string();
    let directory = root.path().join("data");
    let directory = directory.to_str().unwrap();
    let finished = dynakv(["dev", "--base-port", &base_port, "--data-dir", directory]);
    finished
        .exits(1)
        .says(&format!("port {} is in use", port + 1))
        .says("next: dynakv dev");
    assert!(!Path::new(directory).exists());
}
