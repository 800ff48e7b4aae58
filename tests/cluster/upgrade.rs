//! A rolling upgrade: three nodes of an older version are replaced one by one, on their directories, while clients
//! write and read, and some of the nodes are killed in between.
//!
//! The older version is built from git. Without its commit, or without git, the test says so and passes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::harness::{
    Cluster, MENDED_OFTEN, Node, all_is_well, binary, block_on, client, client_of_one, eventually,
    hints_drain, read_all, under_load,
};

/// The last version whose nodes know neither GOAWAY nor what MERGE is answered with since.
const OLD_COMMIT: &str = "6f0a507";

/// What cargo gives to tests and must not reach another cargo.
const CARGO_VARIABLES: [&str; 7] = [
    "CARGO_PKG_",
    "CARGO_BIN_EXE_",
    "CARGO_MANIFEST_",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_TMPDIR",
    "OUT_DIR",
];

fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", said.trim()))
}

/// The binary of the older version, built once per target directory; why there is none, if there is none.
fn old_binary() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_old).clone()
}

fn build_old() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = Path::new(env!("CARGO_BIN_EXE_dynakv"));
    // target/debug/dynakv, or target/TRIPLE/debug/dynakv.
    let profile = ours.parent().ok_or("the binary lies nowhere")?;
    let home = profile.join("upgrade").join(OLD_COMMIT);
    let built = home.join("dynakv");
    if built.exists() {
        return Ok(built);
    }
    let git = || {
        let mut git = Command::new("git");
        git.arg("-C").arg(source);
        git
    };
    run(git().args(["cat-file", "-e", &format!("{OLD_COMMIT}^{{commit}}")]))
        .map_err(|error| format!("the older version is not here: {error}"))?;
    let began = Instant::now();
    eprintln!("building the version {OLD_COMMIT}, once: about a minute on two cores");
    let tree = home.join("source");
    std::fs::create_dir_all(&tree).map_err(|error| error.to_string())?;
    let archive = home.join("source.tar");
    run(git()
        .args(["archive", "--format=tar", "-o"])
        .arg(&archive)
        .arg(OLD_COMMIT))?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(&tree))?;
    // In a target directory of its own: in ours it would take the place of the binary under test. The libraries
    // that both use are compiled already, and are copied.
    let target = home.join("target");
    let into = target.join("debug");
    std::fs::create_dir_all(&into).map_err(|error| error.to_string())?;
    for part in ["build", ".fingerprint"] {
        run(Command::new("cp")
            .arg("-a")
            .arg(profile.join(part))
            .arg(&into))?;
    }
    copy_libraries(&profile.join("deps"), &into.join("deps"))?;
    eprintln!("its libraries are there after {:?}", began.elapsed());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if CARGO_VARIABLES
            .iter()
            .any(|variable| text.starts_with(variable))
        {
            cargo.env_remove(name);
        }
    }
    // As part of a small test: so the libraries have the features that they have in ours, and are the same.
    cargo
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", &target)
        .args(["test", "--no-run", "--locked", "--offline"])
        .args(["-p", "dynakv", "--test", "tidy"]);
    run(&mut cargo)?;
    eprintln!("it is built after {:?}", began.elapsed());
    // Complete or not there, also for another process that builds it at the same time.
    let ready = home.join(format!("dynakv.{}", std::process::id()));
    std::fs::copy(into.join("dynakv"), &ready).map_err(|error| error.to_string())?;
    std::fs::rename(&ready, &built).map_err(|error| error.to_string())?;
    // Of no use any more, and large.
    let _may_stay = std::fs::remove_dir_all(&target);
    Ok(built)
}

/// What the compiler reads of libraries of others; ours are compiled anew.
fn copy_libraries(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", from.display());
    std::fs::create_dir_all(to).map_err(failed)?;
    let (mut files, mut names) = (Vec::new(), std::fs::read_dir(from).map_err(failed)?);
    while let Some(entry) = names.next().transpose().map_err(failed)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name.contains("dynakv");
        let is_library = [".rlib", ".rmeta", ".so", ".d"]
            .iter()
            .any(|end| name.ends_with(end));
        if is_library && !is_ours {
            files.push(entry.path());
        }
    }
    // The times count: what looks newer than its sources were compiled is compiled again.
    run(Command::new("cp").arg("-a").args(files).arg(to)).map(|_| ())
}

/// Runs a command of this binary against a node and checks how it ends.
#[track_caller]
fn cli(binary: &Path, node: &Node, arguments: &[&str], code: i32) -> String {
    let mut command = Command::new(binary);
    command.args(["--server", &node.address()]).args(arguments);
    let output = command.output().expect("it was just built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both command lines through every node, and what one writes the other reads.
fn everybody_understands_everybody(cluster: &Cluster, old: &Path, round: &str) {
    let new = PathBuf::from(binary().get_program());
    for (writer, reader) in [(old, &*new), (&*new, old)] {
        for node in cluster.nodes() {
            let key = format!("{round}-{}", node.id);
            cli(writer, node, &["put", &key, round], 0);
            for other in cluster.nodes() {
                assert_eq!(cli(reader, other, &["get", &key], 0), round);
            }
            cli(writer, node, &["delete", &key], 0);
            cli(reader, node, &["get", &key], 3);
            cli(reader, node, &["health"], 0);
            cli(reader, node, &["stats"], 0);
            cli(reader, node, &["status"], 0);
        }
    }
}

#[test]
fn nodes_are_replaced_one_by_one_while_clients_go_on() {
    let old = match old_binary() {
        Ok(old) => old,
        Err(reason) => {
            skipped!("{reason}");
            return;
        }
    };
    let began = Instant::now();
    let said = |what: &str| eprintln!("{:>6.1} s: {what}", began.elapsed().as_secs_f64());
    let root = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=3 {
        let mut node = Node::new(root.path(), &format!("node-{number}"))
            .with(&["-n", "3", "-w", "2", "-r", "2"])
            .with_settings(MENDED_OFTEN)
            .with_binary(Some(old.as_path()));
        if let Some(first) = nodes.first() {
            node = node.with(&["--seed", &first.address()]);
        }
        node.start();
        nodes.push(node);
    }
    let mut cluster = Cluster::of(root, nodes);
    cluster.seal("sealed", "by the old ones");
    let load = under_load(&mut cluster, |cluster, load| {
        for index in 0..3 {
            said(&format!(
                "node-{} is killed and comes back as it was",
                index + 1
            ));
            cluster[index].kill();
            load.goes_on(300);
            cluster[index].start();
            cluster.wait_healthy();
            said(&format!("node-{} is replaced", index + 1));
            assert!(cluster[index].terminate().success(), "it ends in order");
            load.goes_on(300);
            cluster[index].set_binary(None);
            cluster[index].start();
            cluster.wait_healthy();
            load.goes_on(300);
            everybody_understands_everybody(cluster, &old, &format!("round-{index}"));
            if index == 1 {
                said("a new one is killed among old ones");
                cluster[0].kill();
                load.goes_on(300);
                cluster[0].start();
                cluster.wait_healthy();
            }
        }
        // And back to front: a new one is killed among new ones.
        cluster[2].kill();
        load.goes_on(300);
        cluster[2].start();
        cluster.wait_healthy();
    });
    said("all are new");
    // A kill may leave a request without an answer; none that was answered is lost.
    let failures = load.take_failures();
    assert!(
        failures.len() < 50,
        "{} requests failed: {:?}",
        failures.len(),
        failures.first()
    );
    hints_drain(&cluster);
    load.is_all_there(&cluster, 2);
    // Keys with one writer, who reads before he writes, have one value: the versions did not disagree.
    let keys: Vec<String> = (0..32).map(|caller| format!("updated-{caller}")).collect();
    for node in cluster.nodes() {
        let found = block_on(async { read_all(&client_of_one(node).await, keys.clone(), 3).await });
        for (key, values) in found {
            // An update without an answer may stand beside the next one.
            let is_one = values.len() == 1 || load.is_in_doubt(&key);
            assert!(is_one, "a false conflict: {key}: {values:?}");
        }
    }
    block_on(async {
        let client = client(&cluster.addresses()).await;
        let sealed = client.get("sealed").await.unwrap();
        assert_eq!(sealed.value().unwrap().unwrap(), "by the old ones");
    });
    eventually("each knows the others' version", || {
        let status = cluster[0]
            .run(&["status", "--output", "json"])
            .exits(0)
            .json();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        match members.iter().all(|member| member["software"] == version) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
    all_is_well(&mut cluster);
    said("converged");
}
