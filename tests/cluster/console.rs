//! The README, typed: every command of its `console` blocks does and prints what stands there.

mod likeness;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use self::likeness::Contexts;
use crate::harness::{Cluster, Node, eventually, in_shell};

const README: &str = include_str!("../../README.md");

/// The servers of the README, which are those of `make run`.
const PORTS: [u16; 3] = [8080, 8081, 8082];

/// The only command of the block that shows the conflict from within.
const EXPLANATION: &str = "dynakv explain cart";

/// One command as the README shows it.
#[derive(Debug, Clone, Default)]
struct Typed {
    command: String,
    exit_code: i32,
    /// What it prints, line for line.
    lines: Vec<String>,
}

/// The commands of each `console` block.
fn blocks() -> Vec<Vec<Typed>> {
    let mut blocks: Vec<Vec<Typed>> = Vec::new();
    let mut is_inside = false;
    for line in README.lines() {
        if line.starts_with("```") {
            is_inside = line == "```console";
            if is_inside {
                blocks.push(Vec::new());
            }
            continue;
        }
        let Some(block) = blocks.last_mut().filter(|_| is_inside) else {
            continue;
        };
        if let Some(command) = line.strip_prefix("$ ") {
            let (command, remark) = command.split_once(" #").unwrap_or((command, ""));
            let code = remark.split_once("exit code ").map(|(_, code)| code);
            let code = code.and_then(|code| code.split(|it: char| !it.is_ascii_digit()).next());
            block.push(Typed {
                command: command.trim().to_owned(),
                exit_code: code.map_or(0, |code| code.parse().expect("an exit code")),
                lines: Vec::new(),
            });
        } else {
            let command = block.last_mut().expect("a block begins with a command");
            command.lines.push(line.to_owned());
        }
    }
    blocks
}

/// Whoever reads the README with a cluster before him.
struct Reader {
    cluster: Cluster,
    contexts: Contexts,
    /// What did not go as written.
    surprises: String,
}

impl Reader {
    fn of(cluster: Cluster) -> Self {
        Self {
            cluster,
            contexts: Contexts::default(),
            surprises: String::new(),
        }
    }

    /// Runs one line in a shell, in the directory that the nodes were started in.
    fn run(&self, command: &str) -> Output {
        let mut command = self.contexts.fill_in(command);
        for (port, node) in PORTS.iter().zip(self.cluster.nodes()) {
            command = command.replace(&format!("127.0.0.1:{port}"), &node.address());
        }
        // On a terminal this is the default.
        let informs = ["stats", "status", "ring", "explain"];
        let mut words = command.split_whitespace();
        if words.any(|word| informs.contains(&word)) && !command.contains("--output") {
            command += " --output table";
        }
        let mut shell = in_shell(&command);
        shell.current_dir(self.cluster.root());
        shell.env("DYNAKV_SERVERS", self.cluster[0].address());
        shell.output().expect("there is a shell")
    }

    /// Types a command, and notes what is not as it is shown.
    fn type_in(&mut self, typed: &Typed) {
        let output = self.run(&typed.command);
        let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !printed.is_empty() && !printed.ends_with('\n') {
            // So does a terminal.
            printed.push('\n');
        }
        printed += &String::from_utf8_lossy(&output.stderr);
        for (port, node) in PORTS.iter().zip(self.cluster.nodes()) {
            printed = printed.replace(&node.address(), &format!("127.0.0.1:{port}"));
        }
        let lines: Vec<&str> = printed.lines().collect();
        let mut differences = Vec::new();
        if output.status.code() != Some(typed.exit_code) {
            let expected = typed.exit_code;
            differences.push(format!("{:?} in place of {expected}", output.status.code()));
        }
        if lines.len() != typed.lines.len() {
            differences.push(format!(
                "{} lines in place of {}",
                lines.len(),
                typed.lines.len()
            ));
        }
        // Values that stand beside each other are in the order of their actors, which are drawn by lot.
        let mut left = lines;
        for shown in &typed.lines {
            let like = left
                .iter()
                .position(|printed| self.contexts.compare(shown, printed));
            match like {
                Some(at) => drop(left.remove(at)),
                None => differences.push(format!("nowhere: {shown}")),
            }
        }
        if !differences.is_empty() {
            let differences = differences.join("\n");
            let _ = write!(
                self.surprises,
                "$ {}\n{differences}\n{printed}\n",
                typed.command
            );
        }
    }

    fn type_all(&mut self, block: &[Typed]) {
        for typed in block {
            self.type_in(typed);
        }
    }

    fn status_exits(&self, code: i32) {
        eventually("status to notice", || {
            let status = self.cluster[0].run(&["status"]);
            match status.code == Some(code) {
                true => Ok(()),
                false => Err(format!("{status:?}")),
            }
        });
    }
}

/// Five nodes, of which one owner of the key of the block is down.
fn write_sloppily(block: &[Typed]) -> String {
    let cluster = Cluster::start(5);
    cluster.seal("first", "value");
    let explained = cluster[0].run(&["explain", "cart:7", "--output", "json"]);
    let owners = explained.json()["owners"].clone();
    let owners: Vec<String> = (owners.as_array().into_iter().flatten())
        .filter_map(|owner| owner["id"].as_str())
        .map(str::to_owned)
        .collect();
    assert_eq!(owners.len(), 3, "{explained:?}");
    let mut reader = Reader::of(cluster);
    let is_owner = |node: &Node| owners.contains(&node.id);
    let down: Vec<usize> = (1..5)
        .filter(|&at| is_owner(&reader.cluster[at]))
        .take(2)
        .collect();
    assert_eq!(down.len(), 2);
    for at in down {
        reader.cluster[at].kill();
    }
    reader.status_exits(4);
    reader.type_all(block);
    reader.surprises
}

/// A node that has set its store aside, because a file of it was lost.
fn look_after_stores(block: &[Typed]) -> String {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    cluster[2].stop();
    let store = cluster[2].data_dir().join("store");
    std::fs::remove_file(store.join("format")).unwrap();
    cluster[2].start();
    cluster.wait_healthy();
    let set_aside = std::fs::read_dir(cluster[2].data_dir()).unwrap();
    let mut set_aside = set_aside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let set_aside = set_aside.find(|name| name.starts_with("store.damaged-"));
    let set_aside = set_aside.expect("the store was set aside");
    let mut reader = Reader::of(cluster);
    for typed in block {
        let mut typed = typed.clone();
        if let Some((before, _)) = typed.command.split_once("store.damaged-") {
            typed.command = format!("{before}{set_aside}");
        } else if reader.cluster[2].runs() {
            reader.cluster[2].stop();
        }
        let output = reader.run(&typed.command);
        // What they print is in no document, and so only how they end is.
        if output.status.code() != Some(typed.exit_code) {
            let _ = writeln!(reader.surprises, "$ {}\n{output:?}", typed.command);
        }
    }
    reader.surprises
}

/// What takes minutes, or a cluster of the reader's own: the options exist, and so do the targets.
fn know_the_words(block: &[Typed]) -> String {
    let mut surprises = String::new();
    for typed in block {
        let command = if typed.command.starts_with("make ") {
            format!("{} --dry-run --silent", typed.command)
        } else {
            format!("{} --help", typed.command)
        };
        let mut shell = in_shell(&command);
        shell.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = shell.output().expect("there is a shell");
        if !output.status.success() {
            let _ = writeln!(surprises, "$ {command}\n{output:?}");
        }
    }
    surprises
}

/// Every block is typed; of one that is new it must be said here what it is typed at.
#[test]
fn the_readme_can_be_typed() {
    let mut reader = Reader::of(Cluster::start(3));
    let mut surprises = String::new();
    let blocks = blocks();
    assert!(blocks.len() >= 5, "{}", blocks.len());
    for block in &blocks {
        let first = block.first().expect("a block has a command");
        let mut words = first.command.split_whitespace();
        let begins: Vec<&str> = words.by_ref().take(3).collect();
        match begins[..] {
            ["dynakv", "put", "user:1"] => reader.type_all(block),
            // What explains the conflict does it before the merge, with which the block ends.
            ["dynakv", "put", "cart"] => {
                let is_explanation = |block: &&Vec<Typed>| block[0].command == EXPLANATION;
                let explanation = blocks.iter().find(is_explanation);
                let (before, merge) = block.split_at(block.len() - 2);
                reader.type_all(before);
                reader.type_all(explanation.expect("a block with an explanation"));
                reader.type_all(merge);
            }
            _ if first.command == EXPLANATION => {}
            // Two nodes are down, and what was written before is at all.
            ["dynakv", "put", "user:3"] => {
                let bob = ["put", "user:2", "Bob", "-w", "3"];
                reader.cluster[0].run(&bob).exits(0);
                for at in [1, 2] {
                    reader.cluster[at].kill();
                }
                reader.status_exits(4);
                reader.type_all(block);
            }
            ["dynakv", "put", "cart:7"] => surprises += &write_sloppily(block),
            ["dynakv", "store", "check"] => surprises += &look_after_stores(block),
            ["dynakv-bench" | "make", ..] => {
                let bench = Path::new(env!("CARGO_BIN_EXE_dynakv")).with_file_name("dynakv-bench");
                match bench.exists() {
                    true => surprises += &know_the_words(block),
                    false => skipped!("dynakv-bench is not built: cargo test --workspace"),
                }
            }
            _ => panic!("nobody says how this block is typed: {first:?}"),
        }
    }
    surprises += &reader.surprises;
    assert!(surprises.is_empty(), "it went otherwise:\n{surprises}");
}
