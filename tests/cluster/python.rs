//! The client in Python, a second implementation of the protocol that was written from its document.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::harness::{Cluster, PATIENCE, QUICK, eventually, free_port, hints_drain};

/// How many writes must succeed before the next thing happens to the cluster.
const WRITES: u64 = 200;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients/python")
}

/// Python in the folder of the client; `None`, with a message, when there is none or it is too old.
fn python(arguments: &[&str]) -> Option<Command> {
    let recent = "import sys; sys.exit(sys.version_info < (3, 9))";
    match Command::new("python3").args(["-c", recent]).output() {
        Ok(output) if output.status.success() => {}
        Ok(_) => {
            skipped!("python3 is older than 3.9 here");
            return None;
        }
        Err(error) => {
            skipped!("python3 does not run here ({error})");
            return None;
        }
    }
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .args(arguments)
        .current_dir(folder())
        .env("PYTHONPATH", folder())
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DYNAKV_") {
            command.env_remove(name);
        }
    }
    Some(command)
}

/// Runs it to its end; gives its exit code and all that it wrote.
fn run(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("its version could be asked for");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into())
}

/// Its own tests: vectors and scripted nodes, and everything that needs a cluster, with the command line
/// beside it.
#[test]
fn the_python_client_passes_its_tests() {
    let Some(mut command) = python(&["-W", "error", "-m", "unittest", "-v"]) else {
        return;
    };
    let cluster = Cluster::start(3);
    command
        .env("DYNAKV_TEST_SERVERS", cluster.addresses().join(","))
        .env("DYNAKV_TEST_BINARY", env!("CARGO_BIN_EXE_dynakv"));
    let (code, text) = run(command);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("(skipped="), "nothing is left out: {text}");
}

/// The example ends well, also the second time, and says what is wrong when nobody is there.
#[test]
fn the_python_example_runs() {
    if python(&[]).is_none() {
        return;
    }
    let cluster = Cluster::start(3);
    let example = |address: &str| python(&["-W", "error", "example.py", address]).map(run);
    for node in [&cluster[0], &cluster[0], &cluster[2]] {
        let (code, text) = example(&node.address()).expect("python3 is here");
        assert_eq!(code, Some(0), "{text}");
        for part in ["'hello'", "['bread', 'milk']", "all as written", "3 of 3"] {
            assert!(text.contains(part), "not said: {part:?}: {text}");
        }
    }
    let nobody = format!("127.0.0.1:{}", free_port());
    let (code, text) = example(&nobody).expect("python3 is here");
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&nobody) && text.contains("Start a cluster"),
        "{text}"
    );
    assert!(!text.contains("Traceback"), "{text}");
}

/// A Python program that writes without pause, and says how far it is.
struct Writer {
    child: Child,
    stdin: Option<ChildStdin>,
    counts: Receiver<u64>,
    written: u64,
}

impl Writer {
    fn start(cluster: &Cluster) -> Option<Self> {
        let servers = cluster.addresses().join(",");
        let mut command = python(&["tests/steady_writer.py", &servers])?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("its version could be asked for");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, counts) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let count = line.parse().expect("each line is a count");
                if sender.send(count).is_err() {
                    return;
                }
            }
        });
        Some(Self {
            stdin: child.stdin.take(),
            child,
            counts,
            written: 0,
        })
    }

    /// Waits until so many more writes were tried.
    #[track_caller]
    fn goes_on(&mut self) {
        let goal = self.written + WRITES;
        while self.written < goal {
            match self.counts.recv_timeout(PATIENCE) {
                Ok(count) => self.written = count,
                Err(error) => panic!("stuck after {} writes: {error}", self.written),
            }
        }
    }

    /// Ends it; it reads everything again, and must have no failure to tell of.
    #[track_caller]
    fn ends_without_failure(mut self) {
        drop(self.stdin.take());
        let status = eventually("the writer ends", || {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            ended.ok_or_else(|| "it runs".to_owned())
        });
        assert!(status.success(), "requests failed, see standard error");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Nodes are killed one after the other and come back, in the midst of writing; the client's defaults
/// retry elsewhere, and the program notices nothing.
#[test]
fn a_killed_node_costs_the_python_client_no_request() {
    let mut cluster = Cluster::start(3);
    let Some(mut writer) = Writer::start(&cluster) else {
        return;
    };
    writer.goes_on();
    for index in 0..3 {
        cluster[index].kill();
        writer.goes_on();
        cluster[index].start();
        cluster.wait_whole();
        writer.goes_on();
    }
    writer.ends_without_failure();
}

/// With three nodes of five away, sloppy writes are taken that strict ones are not, and the owners have them
/// afterwards.
#[test]
fn the_python_client_writes_sloppily_while_owners_are_down() {
    let mut cluster = Cluster::start_with(5, QUICK);
    cluster.seal("first", "value");
    let script = |what: &str, address: &str| {
        python(&["-W", "error", "tests/sloppy_writes.py", what, address]).map(run)
    };
    for index in 2..5 {
        cluster[index].kill();
    }
    let Some((code, text)) = script("write", &cluster[0].address()) else {
        return;
    };
    assert_eq!(code, Some(0), "{text}");
    for index in 2..5 {
        cluster[index].start();
    }
    cluster.wait_whole();
    hints_drain(&cluster);
    let (code, text) = script("read", &cluster[4].address()).expect("python3 is here");
    assert_eq!(code, Some(0), "{text}");
}

/// The whole cluster is restarted: the client connects again by itself.
#[test]
fn the_python_client_outlives_a_restart_of_all_nodes() {
    let mut cluster = Cluster::start(3);
    let Some(mut writer) = Writer::start(&cluster) else {
        return;
    };
    writer.goes_on();
    for index in 0..3 {
        let status = cluster[index].terminate();
        assert!(status.success(), "{status}");
    }
    cluster.restart_all();
    writer.goes_on();
    writer.ends_without_failure();
}
