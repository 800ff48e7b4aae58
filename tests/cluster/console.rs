//! The documents, typed: every command of their `console` blocks does and prints what stands there.

mod likeness;
mod scenes;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Output;

use self::likeness::Contexts;
use crate::harness::{Cluster, eventually, in_shell};

/// The servers of the documents, which are those of `make run`.
const PORTS: [u16; 3] = [8080, 8081, 8082];

/// The only command of the block that shows the conflict from within.
const EXPLANATION: &str = "dynakv explain cart";

macro_rules! typed {
    ($($name:ident: $path:literal;)*) => {
        /// The documents with blocks, each typed in a test of its own, from the top to the bottom.
        const DOCUMENTS: &[&str] = &[$($path),*];

        $(#[test]
        fn $name() {
            type_document($path);
        })*
    };
}

typed! {
    the_readme_can_be_typed: "README.md";
    the_command_line_can_be_typed: "docs/cli.md";
    consistency_can_be_typed: "docs/consistency.md";
    failures_can_be_typed: "docs/failures.md";
    operating_can_be_typed: "docs/operating.md";
    performance_can_be_typed: "docs/performance.md";
}

/// One command as a document shows it.
#[derive(Debug, Clone, Default)]
struct Typed {
    command: String,
    exit_code: i32,
    /// What it prints, line for line.
    lines: Vec<String>,
}

/// The commands of each `console` block.
fn blocks(text: &str) -> Vec<Vec<Typed>> {
    let mut blocks: Vec<Vec<Typed>> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
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

/// Whoever reads a document with a cluster before him.
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

    /// Ends a node as Ctrl-C does.
    fn end(&mut self, at: usize) {
        self.cluster[at].stop();
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

/// Every block is typed; of one that is new it must be said here what it is typed at.
fn type_document(path: &str) {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "{path} has no blocks any more");
    // Most are typed at one cluster, in which the ones find what the others have left.
    let mut usual: Option<Reader> = None;
    let (mut strong, mut available): (Option<Reader>, Option<Reader>) = (None, None);
    let mut surprises = String::new();
    for block in &blocks {
        let first = block.first().expect("a block has a command");
        let start = || Reader::of(Cluster::start(3));
        match &first.command[..] {
            "dynakv put greeting hello" => usual.get_or_insert_with(start).type_all(block),
            command if command.starts_with("dynakv put user:1 ") => {
                usual.get_or_insert_with(start).type_all(block);
            }
            // What explains the conflict does it before the merge, with which the block ends.
            "dynakv put cart empty" => {
                let reader = usual.get_or_insert_with(start);
                let is_explanation = |block: &&Vec<Typed>| block[0].command == EXPLANATION;
                let explanation = blocks.iter().find(is_explanation);
                let (before, merge) = block.split_at(block.len() - 2);
                reader.type_all(before);
                reader.type_all(explanation.expect("a block with an explanation"));
                reader.type_all(merge);
            }
            EXPLANATION => {}
            "dynakv put profile:1 Alice" => {
                let reader = usual.get_or_insert_with(start);
                reader.end(2);
                reader.type_all(block);
            }
            "dynakv put stock:1 7" => {
                let reader = strong.insert(Reader::of(scenes::cluster_of("3", "1")));
                reader.type_all(block);
            }
            "dynakv put stock:1 6" => {
                let reader = strong.as_mut().expect("the block before it");
                reader.end(2);
                reader.status_exits(4);
                reader.type_all(block);
            }
            "dynakv put basket:1 milk" => {
                let reader = available.insert(Reader::of(scenes::cluster_of("1", "1")));
                reader.type_all(block);
            }
            "dynakv put basket:1 'milk, bread'" => {
                let reader = available.as_mut().expect("the block before it");
                reader.end(1);
                reader.end(2);
                reader.type_all(block);
            }
            // Two nodes are down, and what was written before is at all.
            "dynakv put user:3 Carol" => {
                let reader = usual.get_or_insert_with(start);
                let bob = ["put", "user:2", "Bob", "-w", "3"];
                reader.cluster[0].run(&bob).exits(0);
                for at in [1, 2] {
                    reader.cluster[at].kill();
                }
                reader.status_exits(4);
                reader.type_all(block);
            }
            command if command.starts_with("dynakv put cart:7 ") => {
                surprises += &scenes::write_sloppily(block);
            }
            command if command.starts_with("dynakv store check ") => {
                surprises += &scenes::look_after_stores(block);
            }
            command if command.starts_with("dynakv-bench ") || command.starts_with("make ") => {
                let bench = Path::new(env!("CARGO_BIN_EXE_dynakv")).with_file_name("dynakv-bench");
                match bench.exists() {
                    true => surprises += &scenes::know_the_words(block),
                    false => skipped!("dynakv-bench is not built: cargo test --workspace"),
                }
            }
            _ => panic!("{path}: nobody says how this block is typed: {first:?}"),
        }
    }
    for reader in [usual, strong, available].into_iter().flatten() {
        surprises += &reader.surprises;
    }
    assert!(surprises.is_empty(), "{path} went otherwise:\n{surprises}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents below a folder that have blocks.
fn with_blocks(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            with_blocks(&path, found);
        } else if path.extension().is_some_and(|it| it == "md") {
            let text = fs::read_to_string(&path).unwrap();
            if text.lines().any(|line| line == "```console") {
                let path = path.strip_prefix(root()).unwrap();
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn no_document_with_blocks_is_left_out() {
    let mut found = BTreeSet::from(["README.md".to_owned()]);
    with_blocks(&root().join("docs"), &mut found);
    let typed: BTreeSet<String> = DOCUMENTS.iter().map(|&path| path.to_owned()).collect();
    assert_eq!(typed, found);
}
