//! The layering and the documents, held up as a test.
//!
//! Decisions are pure, I/O is thin, imports run one way. A compiler enforces that between crates only;
//! inside one, this test does. Each rule is a function from a source to what it objects to, and each is
//! shown to object to a small offender, so that a rule that sees nothing cannot pass for one that is
//! kept.

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/shape.rs"]
mod shape;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/tables.rs"]
mod tables;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Arrow;
use source::{Named, Source};

/// A file may have this many lines without its tests.
const LINES_MAX: usize = 500;
/// The table of safety rules.
const SAFETY: &str = "docs/design/safety.md";
/// A comment stands at most this many lines above the `unwrap` it justifies.
const COMMENT_LINES_ABOVE: usize = 3;

/// What is wrong, where, and what to do about it.
#[derive(Debug)]
struct Objection {
    path: String,
    line: usize,
    advice: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line + 1, self.advice)
    }
}

fn object(source: &Source, line: usize, advice: impl Into<String>) -> Objection {
    Objection {
        path: source.path.clone(),
        line,
        advice: advice.into(),
    }
}

/// What a room must not name, and what stands there instead.
struct Wall {
    room: &'static str,
    banned: &'static [&'static str],
    instead: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        room: "src/engine/",
        banned: &[
            "tokio",
            "tokio_util",
            "sled",
            "std::net",
            "std::fs",
            "std::thread",
            "socket2",
        ],
        instead: "the engine decides and does no I/O: return an effect and carry it out in src/runtime",
    },
    Wall {
        room: "src/engine/",
        banned: &["dynakv_storage", "dynakv_client"],
        instead: "the engine knows the protocol only: hand it what it needs as an argument",
    },
    Wall {
        room: "src/engine/",
        banned: &["crate::runtime", "crate::node", "crate::cli"],
        instead: "imports run from the top to the engine, never back: move the type down",
    },
    Wall {
        room: "src/engine/",
        banned: &[
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::hash::RandomState",
        ],
        instead: "its order is random in each process: use BTreeMap, a Vec, or rustc_hash and sort",
    },
    Wall {
        room: "src/engine/",
        banned: &["rand", "getrandom"],
        instead: "randomness is an argument: take a seeded `&mut fastrand::Rng`",
    },
    Wall {
        room: "src/runtime/",
        banned: &["crate::cli", "crate::node"],
        instead: "the runtime is built by node.rs and must not know it: take the handle as an argument",
    },
    Wall {
        room: "protocol/src/",
        banned: &["tokio", "sled", "dynakv", "dynakv_storage", "dynakv_client"],
        instead: "the protocol is bytes and types, shared by everybody: no sockets, no store",
    },
    Wall {
        room: "storage/src/",
        banned: &["tokio", "dynakv", "dynakv_client"],
        instead: "the store is blocking code on threads: the runtime makes it asynchronous",
    },
    Wall {
        room: "clients/rust/src/",
        banned: &["sled", "dynakv", "dynakv_storage"],
        instead: "the client speaks the protocol and nothing else",
    },
];

fn check_walls(source: &Source) -> Vec<Objection> {
    let walls = WALLS
        .iter()
        .filter(|wall| source.path.starts_with(wall.room));
    let walls: Vec<_> = walls.collect();
    if walls.is_empty() {
        return Vec::new();
    }
    let mut objections = Vec::new();
    for named in source.paths() {
        for wall in &walls {
            if let Some(banned) = wall.banned.iter().find(|banned| reaches(&named, banned)) {
                let room = wall.room.trim_end_matches('/');
                let advice = format!("{room} must not use {banned}: {}", wall.instead);
                objections.push(object(source, named.line, advice));
            }
        }
    }
    objections
}

/// Whether a path leads to what is banned. A crate's bare name may be a variable's, too, unless it is
/// imported; `super::super::node` is `crate::node` by another way.
fn reaches(named: &Named, banned: &str) -> bool {
    let is_crate = !banned.contains("::");
    if is_crate && named.segments.len() == 1 && !named.imported {
        return false;
    }
    if let Some(below) = banned.strip_prefix("crate::")
        && named.segments.iter().any(|s| s == "super")
    {
        let beyond = named
            .segments
            .iter()
            .find(|s| *s != "super" && *s != "self");
        return named.segments.iter().filter(|s| *s == "super").count() > 1
            && beyond.is_some_and(|s| s == below);
    }
    named.is_below(banned)
}

/// Time and randomness are arguments of the engine.
fn check_hidden_inputs(source: &Source) -> Vec<Objection> {
    if !source.path.starts_with("src/engine/") {
        return Vec::new();
    }
    let clock = "the engine has no clock: take `now` as an argument, a Duration or milliseconds";
    let random = "randomness is an argument: take a seeded `&mut fastrand::Rng`";
    let mut objections = Vec::new();
    for named in source.paths() {
        let has = |name: &str| named.segments.iter().any(|s| s == name);
        let fastrand = named.is_below("fastrand") && named.segments.len() > 1;
        let unseeded = has("Rng") && (has("new") || has("default"));
        if has("Instant") || has("SystemTime") {
            objections.push(object(source, named.line, clock));
        } else if has("thread_rng") || unseeded || (fastrand && !has("Rng")) {
            objections.push(object(source, named.line, random));
        }
    }
    objections
}

/// Nothing is left for later in the product.
fn check_unfinished(source: &Source) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (line, code) in source.code.iter().enumerate() {
        for word in ["todo!", "unimplemented!"] {
            if holds_word(code, word) {
                let advice = format!("{word}: finish it, or leave the feature out");
                objections.push(object(source, line, advice));
            }
        }
    }
    objections
}

fn holds_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn check_length(source: &Source) -> Vec<Objection> {
    let length = source.product_length();
    if length <= LINES_MAX {
        return Vec::new();
    }
    let advice = format!(
        "{length} lines without tests, {LINES_MAX} at most: find the two ideas in it and give each a file"
    );
    vec![object(source, 0, advice)]
}

/// Whoever takes a value out by force says why it must be there.
fn check_forced(source: &Source) -> Vec<Objection> {
    let rooms = [
        "src/runtime/",
        "src/engine/",
        "protocol/src/",
        "storage/src/",
        "clients/rust/src/",
    ];
    if !rooms.iter().any(|room| source.path.starts_with(room)) {
        return Vec::new();
    }
    let mut objections = Vec::new();
    for (line, code) in source.product_lines() {
        let above = line.saturating_sub(COMMENT_LINES_ABOVE);
        let explained = source.commented[above..=line].contains(&true);
        let forced = [".unwrap()", ".expect(", ".unwrap_err()"];
        if let Some(call) = forced.iter().find(|call| code.contains(**call))
            && !explained
        {
            let advice = format!(
                "{call} without a reason: return an error, or prove in a comment above it that it cannot fail"
            );
            objections.push(object(source, line, advice));
        }
    }
    objections
}

/// A test that `make test` leaves out says which target runs it, and that target exists.
fn check_ignored(source: &Source, targets: &BTreeSet<String>) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (line, code) in source.code.iter().enumerate() {
        if !code.trim_start().starts_with("#[ignore") {
            continue;
        }
        // The reason is a literal, so it stands in the raw text only.
        let reason = &source.raw[line];
        let mut words = reason.split(|c: char| c.is_whitespace() || "\"`,;:.".contains(c));
        let named = words
            .by_ref()
            .find(|word| *word == "make")
            .and_then(|_| words.next());
        let advice = match named {
            Some(target) if targets.contains(target) => continue,
            Some(target) => {
                format!("the Makefile has no target {target:?}: add it, or name another")
            }
            None => {
                "name the target that runs it, on this line: #[ignore = \"make soak\"]".to_owned()
            }
        };
        objections.push(object(source, line, advice));
    }
    objections
}

/// What a test leaves out is counted, so it is said in one way only.
fn check_skips(source: &Source) -> Vec<Objection> {
    if source.path == "tests/skipped/mod.rs" {
        return Vec::new();
    }
    let words = ["SKIPPED", "skipped: "];
    let says_so = |text: &str| {
        let text = text.trim_start();
        let begins = |word: &&str| text.starts_with(&format!("\"{word}"));
        let prints = |word: &&str| text.contains(&format!("(\"{word}"));
        words.iter().any(|word| begins(word) || prints(word))
    };
    let lines = source.raw.iter().enumerate();
    let said = lines.filter(|(_, text)| says_so(text));
    said.map(|(line, _)| object(source, line, "use `skipped!`, so that it is counted"))
        .collect()
}

fn make_targets(makefile: &str) -> BTreeSet<String> {
    let rules = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.', ' ']));
    let names = rules.filter_map(|line| line.split_once(':'));
    let names = names.filter(|(_, rest)| !rest.starts_with('='));
    names
        .flat_map(|(names, _)| names.split_whitespace().map(str::to_owned))
        .collect()
}

/// Which crate may be built on which: the layers of the workspace, from the bottom.
const LAYERS: &[(&str, &[&str])] = &[
    ("dynakv-protocol", &[]),
    ("dynakv-storage", &["dynakv-protocol"]),
    ("dynakv-client", &["dynakv-protocol"]),
    ("dynakv-bench", &["dynakv-protocol", "dynakv-client"]),
    (
        "dynakv-fuzz",
        &[
            "dynakv-protocol",
            "dynakv-storage",
            "dynakv-client",
            "dynakv",
        ],
    ),
    (
        "dynakv",
        &["dynakv-protocol", "dynakv-storage", "dynakv-client"],
    ),
];

/// Outside crates that must stay out of one of ours.
const OUTSIDE_BANNED: &[(&str, &[&str])] = &[
    ("dynakv-protocol", &["tokio", "sled"]),
    ("dynakv-storage", &["tokio"]),
    ("dynakv-client", &["sled"]),
];

/// The direction of the dependencies; those of tests alone are free.
fn check_manifest(path: &str, text: &str) -> Vec<Objection> {
    let complain = |line, advice: String| Objection {
        path: path.to_owned(),
        line,
        advice,
    };
    let manifest: toml::Table = match toml::from_str(text) {
        Ok(manifest) => manifest,
        Err(error) => return vec![complain(0, error.to_string())],
    };
    let package = manifest.get("package").and_then(|p| p.get("name"));
    let Some(package) = package.and_then(toml::Value::as_str) else {
        return Vec::new();
    };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == package) else {
        let advice =
            format!("{package} stands in no layer: give it a row in LAYERS of tests/tidy.rs");
        return vec![complain(0, advice)];
    };
    let banned = OUTSIDE_BANNED.iter().find(|(name, _)| *name == package);
    let banned = banned.map_or(&[][..], |(_, banned)| *banned);
    let tables = ["dependencies", "build-dependencies"];
    let dependencies = tables.iter().filter_map(|t| manifest.get(*t)?.as_table());
    let mut objections = Vec::new();
    for (name, value) in dependencies.flatten() {
        // `alias = { package = "real" }`
        let real = value
            .get("package")
            .and_then(toml::Value::as_str)
            .unwrap_or(name);
        let is_ours = LAYERS.iter().any(|(ours, _)| *ours == real);
        if (is_ours && !allowed.contains(&real)) || banned.contains(&real) {
            let line = text
                .lines()
                .position(|line| line.starts_with(name.as_str()));
            let advice =
                format!("{package} must not depend on {real}: imports run from the node down");
            objections.push(complain(line.unwrap_or(0), advice));
        }
    }
    objections
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The crates of the workspace, and where their sources are.
const CRATES: &[(&str, &str)] = &[
    ("dynakv_protocol", "protocol/src/"),
    ("dynakv_storage", "storage/src/"),
    ("dynakv_client", "clients/rust/src/"),
    ("dynakv_bench", "bench/src/"),
    ("dynakv", "src/"),
];

/// Files that need each other can only be read, moved and changed together.
fn check_circles(arrows: &[Arrow]) -> Vec<Objection> {
    let circles = imports::on_circles(arrows).into_iter();
    let object = |arrow: &Arrow| Objection {
        path: arrow.from.clone(),
        line: arrow.line,
        advice: format!(
            "uses {}, which leads back here: move what both need into a file of its own",
            arrow.to
        ),
    };
    circles.map(object).collect()
}

/// All files of this extension or name, below the root, but for what is built or stored.
fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let skipped = name.starts_with('.') || name == "target" || name.ends_with("-data");
        if path.is_dir() && !skipped {
            find(&path, wanted, found);
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap();
    path.to_string_lossy().replace('\\', "/")
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    let is_rust = |path: &Path| path.extension().is_some_and(|e| e == "rs");
    find(&root(), &is_rust, &mut paths);
    paths.sort();
    let read = |path: &PathBuf| Source::new(&relative(path), &fs::read_to_string(path).unwrap());
    let mut sources: Vec<_> = paths.iter().map(read).collect();
    // A module declared under #[cfg(test)] is a test, wherever it lives.
    let test_modules: Vec<_> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        if test_modules
            .iter()
            .any(|m| stem == m || stem.starts_with(&format!("{m}/")))
        {
            source.test.fill(true);
        }
    }
    sources
}

fn assert_none(objections: &[Objection]) {
    let lines: Vec<_> = objections.iter().map(Objection::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

fn each_source(check: impl Fn(&Source) -> Vec<Objection>) {
    let sources = sources();
    for room in [
        "src/engine/",
        "src/runtime/",
        "protocol/src/",
        "storage/src/",
        "clients/rust/src/",
    ] {
        let seen = sources.iter().any(|source| source.path.starts_with(room));
        assert!(
            seen,
            "{room} has no sources: was it renamed? Then rename it in tests/tidy.rs"
        );
    }
    assert_none(&sources.iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn imports_run_one_way() {
    each_source(check_walls);
}

#[test]
fn no_files_go_round_in_a_circle() {
    let sources = sources();
    let mut objections = Vec::new();
    for (name, folder) in CRATES {
        let arrows = imports::arrows(name, folder, &sources);
        assert!(arrows.len() > 20, "{folder} has no imports: was it moved?");
        objections.extend(check_circles(&arrows));
    }
    assert_none(&objections);
}

#[test]
fn rooms_use_only_what_stands_below_them() {
    let sources = sources();
    let arrows = imports::arrows("dynakv", "src/", &sources);
    assert_none(&rooms::check(&arrows));
    let empty = rooms::without_files(&sources);
    assert!(
        empty.is_empty(),
        "tests/tidy/rooms.rs names {empty:?}, and there are no such folders"
    );
}

#[test]
fn the_engine_has_no_clock_and_no_dice() {
    each_source(check_hidden_inputs);
}

#[test]
fn nothing_is_left_unfinished() {
    each_source(check_unfinished);
}

#[test]
fn files_hold_one_idea() {
    each_source(check_length);
}

#[test]
fn functions_are_read_in_one_go() {
    each_source(shape::check_functions);
}

#[test]
fn documentation_tells_and_does_not_ask() {
    each_source(shape::check_questions);
}

#[test]
fn nothing_is_taken_by_force() {
    each_source(check_forced);
}

#[test]
fn ignored_tests_have_a_target() {
    let targets = make_targets(&fs::read_to_string(root().join("Makefile")).unwrap());
    for target in [
        "build", "test", "run", "clean", "lint", "help", "doc", "profile",
    ] {
        assert!(
            targets.contains(target),
            "the Makefile lost its target {target}"
        );
    }
    each_source(|source| check_ignored(source, &targets));
}

#[test]
fn what_tests_leave_out_is_counted() {
    each_source(check_skips);
}

/// Whoever is woken by an alert looks it up.
#[test]
fn every_alert_stands_in_the_table_of_alerts() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (rules, table) = (
        read("deploy/prometheus/rules/alerts.yml"),
        read("deploy/README.md"),
    );
    let names = rules
        .lines()
        .filter_map(|line| line.split_once("- alert: "));
    let names: Vec<&str> = names.map(|(_, name)| name.trim()).collect();
    assert!(names.len() > 20, "the alerts are found");
    let lacking = |name: &&str| !table.contains(&format!("`{name}`"));
    let lacking: Vec<&str> = names.into_iter().filter(lacking).collect();
    assert!(lacking.is_empty(), "deploy/README.md lacks {lacking:?}");
}

/// The names of all tests.
fn all_tests() -> BTreeSet<String> {
    let mut paths = Vec::new();
    let is_rust = |path: &Path| path.extension().is_some_and(|it| it == "rs");
    find(&root(), &is_rust, &mut paths);
    let mut tests = BTreeSet::new();
    for path in paths {
        tests.extend(documents::tests_in(&fs::read_to_string(path).unwrap()));
    }
    tests
}

/// A rule whose test was renamed or is gone would be held by nobody.
#[test]
fn what_the_table_of_safety_rules_names_is_there() {
    let text = fs::read_to_string(root().join(SAFETY)).unwrap();
    let mentioned = documents::mentioned(&text);
    assert!(mentioned.functions.len() > 100, "the table is found");
    let tests = all_tests();
    let objection = |line: usize, advice: String| Objection {
        path: SAFETY.to_owned(),
        line,
        advice,
    };
    let mut objections = Vec::new();
    for (line, name) in mentioned.functions {
        if !tests.contains(name) {
            objections.push(objection(line, format!("no test is called {name}")));
        }
    }
    for (line, path) in mentioned.paths {
        // Those of the node itself are told from its own folder on.
        let places = [root().join(path), root().join("src").join(path)];
        if !places.iter().any(|place| place.exists()) {
            objections.push(objection(line, format!("there is no {path}")));
        }
    }
    assert_none(&objections);
}

#[test]
fn crates_stand_in_layers() {
    let mut manifests = Vec::new();
    find(
        &root(),
        &|path| path.ends_with("Cargo.toml"),
        &mut manifests,
    );
    assert!(manifests.len() >= 4, "{manifests:?}");
    let check =
        |path: &PathBuf| check_manifest(&relative(path), &fs::read_to_string(path).unwrap());
    assert_none(&manifests.iter().flat_map(check).collect::<Vec<_>>());
}

/// Every rule, tried on offenders and on their innocent neighbours.
mod rules_can_object {
    use super::*;

    fn lines(objections: &[Objection]) -> Vec<usize> {
        objections.iter().map(|o| o.line + 1).collect()
    }

    fn caught(check: fn(&Source) -> Vec<Objection>, path: &str, text: &str) -> Vec<usize> {
        lines(&check(&Source::new(path, text)))
    }

    #[test]
    fn to_a_breach_of_every_wall() {
        for wall in WALLS {
            let path = format!("{}some/file.rs", wall.room);
            for banned in wall.banned {
                let (first, last) = banned.rsplit_once("::").unwrap_or(("", banned));
                let offenders = [
                    format!("\nuse {banned}::Thing;"),
                    format!("\nuse ::{banned};"),
                    format!("\nfn f() {{ {banned}::thing(); }}"),
                    format!("\nuse {first}::{{other, {last}::{{Thing, self}}}};"),
                ];
                for offender in offenders {
                    let caught = caught(check_walls, &path, &offender);
                    assert!(!caught.is_empty(), "{path} with {offender}");
                    assert!(
                        caught.iter().all(|line| *line == 2),
                        "{offender} at {caught:?}"
                    );
                }
            }
        }
        let way_round = "use super::super::runtime::Peer;";
        assert_eq!(caught(check_walls, "src/engine/ring.rs", way_round), [1]);
    }

    #[test]
    fn but_not_to_what_only_looks_like_one() {
        let innocent = "// tokio::spawn\n/// [`sled::Db`]\nlet s = \"std::net::TcpStream\"; let tokio = 1;\n\
                        use std::collections::BTreeMap; use super::node::Node;\n\
                        #[cfg(test)]\nmod tests { use std::fs; }";
        assert_eq!(caught(check_walls, "src/engine/ring.rs", innocent), []);
        assert_eq!(
            caught(
                check_walls,
                "src/runtime/listener.rs",
                "use tokio::net::TcpListener;"
            ),
            []
        );
    }

    #[test]
    fn to_circles() {
        let sources = [
            Source::new("src/a.rs", "\nuse crate::b::B;"),
            Source::new("src/b.rs", "use crate::a::A; use crate::c::C;"),
            Source::new("src/c.rs", "struct C;"),
        ];
        let objections = check_circles(&imports::arrows("dynakv", "src/", &sources));
        assert_eq!(lines(&objections), [2, 1]);
        let without = check_circles(&imports::arrows("dynakv", "src/", &sources[1..]));
        assert_eq!(lines(&without), []);
    }

    #[test]
    fn to_clocks_and_dice() {
        let path = "src/engine/get.rs";
        for offender in [
            "let now = Instant::now();",
            "use std::time::{Duration, SystemTime};",
            "let roll = fastrand::u64(..);",
            "let rng = fastrand::Rng::new();",
            "use fastrand::shuffle;",
            "let rng = rand::thread_rng();",
        ] {
            assert_eq!(
                caught(check_hidden_inputs, path, offender),
                [1],
                "{offender}"
            );
            assert_eq!(
                caught(check_hidden_inputs, "src/runtime/workers.rs", offender),
                []
            );
        }
        let innocent = "use fastrand::Rng; fn f(rng: &mut fastrand::Rng, now: Duration) {}\n\
                        let rng = fastrand::Rng::with_seed(7);";
        assert_eq!(caught(check_hidden_inputs, path, innocent), []);
    }

    #[test]
    fn to_unfinished_work() {
        let text =
            "fn a() { todo!() }\nfn b() { unimplemented!(\"later\") }\n// todo!\nmy_todo!();";
        assert_eq!(caught(check_unfinished, "src/cli/mod.rs", text), [1, 2]);
    }

    #[test]
    fn to_files_without_end() {
        let long = "fn a() {}\n".repeat(LINES_MAX);
        assert_eq!(caught(check_length, "src/node.rs", &long), [1]);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}");
        assert_eq!(caught(check_length, "src/node.rs", &tested), []);
    }

    #[test]
    fn to_force_without_a_reason() {
        let text = "let a = x.unwrap();\n\n\n// A reason.\nlet b = x\n    .y\n    .expect(\"why\");\n\
                    let c = x.unwrap_or(1);\n/// Documentation is no proof.\nlet d = x.expect(\"\");";
        assert_eq!(caught(check_forced, "storage/src/store.rs", text), [1, 10]);
        assert_eq!(caught(check_forced, "src/cli/mod.rs", text), []);
        let test = "#[cfg(test)]\nmod tests {\n    fn a() { x.unwrap(); }\n}";
        assert_eq!(caught(check_forced, "src/engine/get.rs", test), []);
    }

    #[test]
    fn to_tests_that_nobody_runs() {
        let targets = make_targets(".PHONY: x\nX := 1\nsoak power: build\n\tcargo test\n");
        assert_eq!(targets, ["power", "soak"].map(str::to_owned).into());
        let text = "#[ignore]\n#[ignore = \"slow\"]\n#[ignore = \"make coffee\"]\n#[ignore = \"an hour: make soak\"]";
        let objections = check_ignored(&Source::new("tests/soak.rs", text), &targets);
        assert_eq!(lines(&objections), [1, 2, 3]);
    }

    #[test]
    fn to_crates_that_look_up() {
        let manifest = |name: &str, rest: &str| {
            let text = format!("[package]\nname = \"{name}\"\n[dependencies]\n{rest}\n");
            lines(&check_manifest("x/Cargo.toml", &text))
        };
        assert_eq!(
            manifest("dynakv-protocol", "bytes = \"1\"\ntokio = \"1\""),
            [5]
        );
        assert_eq!(manifest("dynakv-storage", "tokio.workspace = true"), [4]);
        assert_eq!(
            manifest("dynakv-client", "dynakv-storage.workspace = true"),
            [4]
        );
        assert_eq!(
            manifest(
                "dynakv-client",
                "x = { package = \"dynakv\", path = \"..\" }"
            ),
            [4]
        );
        assert_eq!(manifest("dynakv-new", ""), [1]);
        assert_eq!(
            manifest("dynakv", "dynakv-client = { path = \"clients/rust\" }"),
            []
        );
        let tests_only = "[dev-dependencies]\ntokio = \"1\"";
        assert_eq!(manifest("dynakv-protocol", tests_only), []);
    }

    #[test]
    fn with_a_place_and_advice() {
        let source = Source::new("src/engine/ring.rs", "\nuse tokio::spawn;");
        let objections: Vec<_> = check_walls(&source)
            .iter()
            .map(Objection::to_string)
            .collect();
        assert_eq!(
            objections,
            [
                "src/engine/ring.rs:2: src/engine must not use tokio: the engine decides and does no I/O: \
              return an effect and carry it out in src/runtime"
            ]
        );
    }
}
