//! `dynakv dev`: a cluster to try things out.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{PATIENCE, Process, dynakv, eventually, free_ports, is_running};

struct Dev {
    process: Process,
    pids: Vec<u32>,
}

/// Starts `dev` and waits for its one line of JSON.
#[track_caller]
fn start(directory: &Path, port: u16, name: &str) -> Dev {
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
    let arguments = arguments.map(str::to_owned);
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
        // It ends its nodes; killed with SIGKILL it could not. No panic here: the test may be in one.
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
