//! What documents lead to: links, headings and files that exist; and the form of their lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{Objection, all_tests, assert_none, find, make_targets, relative, root};

/// The front page is one screen, and what one scrolls to find the way on.
const README_LINES_MAX: usize = 150;
/// A line of prose has this many columns at most.
const COLUMNS_MAX: usize = 120;
/// The page that leads to all others of its folder.
const INDEX: &str = "docs/README.md";
/// Names in backquotes that end like this and have a folder are files.
const FILE_ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".yml", ".yaml", ".json", ".service"];

/// A page, by its path from the root.
struct Document {
    path: String,
    text: String,
}

impl Document {
    /// The lines outside of fenced blocks, from 0 on.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut is_code = false;
        self.text.lines().enumerate().filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        })
    }

    /// What a link may name behind `#`.
    fn anchors(&self) -> BTreeSet<String> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let headings = self.prose().filter_map(|(_, line)| heading(line));
        headings
            .map(|heading| {
                let anchor = anchor(heading);
                let before = times.entry(anchor.clone()).or_default();
                *before += 1;
                match *before {
                    1 => anchor,
                    more => format!("{anchor}-{}", more - 1),
                }
            })
            .collect()
    }

    fn objection(&self, line: usize, advice: impl Into<String>) -> Objection {
        Objection {
            path: self.path.clone(),
            line,
            advice: advice.into(),
        }
    }
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    (1..=6)
        .contains(&level)
        .then(|| text.strip_prefix(' '))
        .flatten()
}

/// As GitHub makes it: small letters and digits, a hyphen for each space, and nothing of the rest.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then_some(letter),
    });
    kept.flat_map(char::to_lowercase).collect()
}

/// The targets of the links in a line; what stands in backquotes is no link.
fn links(line: &str) -> Vec<String> {
    let outside: String = line.split('`').step_by(2).collect();
    let targets = outside.split("](").skip(1);
    let ended = targets.filter_map(|rest| rest.split_once(')'));
    ended.map(|(target, _)| target.to_owned()).collect()
}

/// A line without the addresses of its links.
fn without_addresses(line: &str) -> String {
    let mut parts = line.split("](");
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        short.push(']');
        short += part.split_once(')').map_or(part, |(_, rest)| rest);
    }
    short
}

/// Where a relative link of this page leads, from the root on; nothing when that is outside.
fn resolve(page: &str, target: &str) -> Option<String> {
    let mut folders: Vec<&str> = page.split('/').collect();
    folders.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(folders.pop()?),
            name => folders.push(name),
        }
    }
    Some(folders.join("/"))
}

/// Links lead to files that exist, and behind `#` to headings that do.
fn check_links(
    document: &Document,
    pages: &BTreeMap<String, BTreeSet<String>>,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (number, line) in document.prose() {
        for link in links(line) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => Some(document.path.clone()),
                _ => resolve(&document.path, file),
            };
            let advice = match target {
                None => format!("{link} leads out of the repository"),
                Some(target) if !exists(&target) => format!("{link}: there is no {target}"),
                Some(target) => match pages.get(&target) {
                    Some(anchors) if !anchor.is_empty() && !anchors.contains(anchor) => {
                        format!("{link}: {target} has no heading of that name")
                    }
                    _ => continue,
                },
            };
            objections.push(document.objection(number, advice));
        }
    }
    objections
}

/// What is named in backquotes as a file or folder is there, from the root or from `src` on.
fn check_paths(document: &Document, exists: &dyn Fn(&str) -> bool) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (number, line) in document.prose() {
        for name in line.split('`').skip(1).step_by(2) {
            let is_path = name.contains('/')
                && !name.starts_with(['.', '/'])
                && !name.contains([' ', ':', '*', '{'])
                && (name.ends_with('/') || FILE_ENDINGS.iter().any(|end| name.ends_with(end)));
            let name = name.trim_end_matches('/');
            if is_path && !exists(name) && !exists(&format!("src/{name}")) {
                objections.push(document.objection(number, format!("there is no {name}")));
            }
        }
    }
    objections
}

/// `make NAME` is a target of the Makefile, also where it is typed in a `console` block.
fn check_targets(document: &Document, targets: &BTreeSet<String>) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (number, line) in document.text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        let commands = quoted.chain(line.strip_prefix("$ "));
        let named = commands.filter_map(|command| command.strip_prefix("make "));
        let named = named.filter_map(|rest| rest.split_whitespace().next());
        let is_name = |name: &&str| name.chars().all(|it| it.is_ascii_lowercase() || it == '-');
        for name in named.filter(is_name) {
            if !targets.contains(name) {
                let advice = format!("the Makefile has no target {name:?}");
                objections.push(document.objection(number, advice));
            }
        }
    }
    objections
}

/// A name of so many words is a test's: settings and metrics are shorter, or begin with a prefix.
const UNDERSCORES_OF_TESTS_MIN: usize = 4;

/// Tests that are named exist.
fn check_tests(document: &Document, tests: &BTreeSet<String>) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (number, line) in document.prose() {
        for name in line.split('`').skip(1).step_by(2) {
            let is_test = name.matches('_').count() >= UNDERSCORES_OF_TESTS_MIN
                && name.chars().all(|it| it.is_ascii_lowercase() || it == '_')
                && !name.starts_with("dynakv_");
            if is_test && !tests.contains(name) {
                let advice = format!("no test is called {name}");
                objections.push(document.objection(number, advice));
            }
        }
    }
    objections
}

/// Lines of prose can be read in a terminal. Rows of tables, and addresses of links, cannot be broken.
fn check_columns(document: &Document) -> Vec<Objection> {
    let prose = document.prose().filter(|(_, line)| !line.starts_with('|'));
    let columns = prose.map(|(number, line)| (number, without_addresses(line).chars().count()));
    let long = columns.filter(|(_, columns)| *columns > COLUMNS_MAX);
    long.map(|(number, columns)| {
        let advice = format!("{columns} columns, {COLUMNS_MAX} at most: break the line");
        document.objection(number, advice)
    })
    .collect()
}

fn check_front_page(document: &Document) -> Vec<Objection> {
    let lines = document.text.lines().count();
    if lines <= README_LINES_MAX {
        return Vec::new();
    }
    let advice = format!("{lines} lines, {README_LINES_MAX} at most: move something into docs/");
    vec![document.objection(README_LINES_MAX, advice)]
}

/// Each page of `docs` is led to from its index.
fn check_index(index: &Document, pages: &[&str]) -> Vec<Objection> {
    let links = index.prose().flat_map(|(_, line)| links(line));
    let led_to: BTreeSet<String> = links.filter_map(|it| resolve(&index.path, &it)).collect();
    let below = pages.iter().filter(|page| page.starts_with("docs/"));
    let lacking = below.filter(|page| **page != INDEX && !led_to.contains(**page));
    lacking
        .map(|page| index.objection(0, format!("nothing leads to {page}: give it a row")))
        .collect()
}

fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    let is_page = |path: &Path| path.extension().is_some_and(|e| e == "md");
    find(&root(), &is_page, &mut paths);
    paths.sort();
    let documents: Vec<_> = paths
        .iter()
        .map(|path| Document {
            path: relative(path),
            text: fs::read_to_string(path).unwrap(),
        })
        .collect();
    for page in ["README.md", INDEX, "CONTRIBUTING.md"] {
        assert!(documents.iter().any(|it| it.path == page), "no {page}");
    }
    documents
}

fn exists(path: &str) -> bool {
    root().join(path).exists()
}

#[test]
fn links_of_documents_lead_somewhere() {
    let documents = documents();
    let pages = documents.iter().map(|it| (it.path.clone(), it.anchors()));
    let pages: BTreeMap<_, _> = pages.collect();
    let check = |document| check_links(document, &pages, &exists);
    assert_none(&documents.iter().flat_map(check).collect::<Vec<_>>());
}

/// A changelog tells of what there was, and other folders speak of their own.
#[test]
fn what_documents_name_is_there() {
    let documents = documents();
    let told = documents.iter().filter(|it| {
        it.path.starts_with("docs/") || ["README.md", "CONTRIBUTING.md"].contains(&&*it.path)
    });
    let targets = make_targets(&fs::read_to_string(root().join("Makefile")).unwrap());
    let tests = all_tests();
    let check = |document| {
        let mut objections = check_paths(document, &exists);
        objections.extend(check_targets(document, &targets));
        objections.extend(check_tests(document, &tests));
        objections
    };
    assert_none(&told.flat_map(check).collect::<Vec<_>>());
}

#[test]
fn documents_can_be_read() {
    let documents = documents();
    let read = |it: &&Document| {
        it.path.starts_with("docs/") || ["README.md", "CONTRIBUTING.md"].contains(&&*it.path)
    };
    let long = documents.iter().filter(read).flat_map(check_columns);
    let front = documents.iter().filter(|it| it.path == "README.md");
    let front = front.flat_map(check_front_page);
    let index = documents.iter().filter(|it| it.path == INDEX);
    let pages: Vec<&str> = documents.iter().map(|it| &*it.path).collect();
    let index = index.flat_map(|index| check_index(index, &pages));
    assert_none(&long.chain(front).chain(index).collect::<Vec<_>>());
}

/// Every rule, tried on offenders and on their innocent neighbours.
mod rules_can_object {
    use super::*;

    fn page(path: &str, text: &str) -> Document {
        Document {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn lines(objections: &[Objection]) -> Vec<usize> {
        objections.iter().map(|o| o.line + 1).collect()
    }

    #[test]
    fn headings_have_anchors() {
        let text = "# A put\n## N, W & `R`: the owner's\n```\n# no heading\n```\n## A put\n#no\n";
        let expected = ["a-put", "a-put-1", "n-w--r-the-owners"];
        assert_eq!(
            page("a.md", text).anchors(),
            expected.map(str::to_owned).into()
        );
    }

    #[test]
    fn to_links_that_lead_nowhere() {
        let other = page("docs/design/put.md", "# A put\n## Blind writes\n");
        let text = "# Here\n[a](design/put.md#blind-writes), [b](../src), [c](#here)\n\
                    [gone](design/get.md)\n\
                    [`code`](design/put.md) and [gone](design/put.md#replicating)\n\
                    [gone](#there)\n[out](../../elsewhere.md)\n\
                    [far](https://example.org/x.md) `[no](link.md)`\n\
                    ```\n[no](link.md)\n```\n";
        let document = page("docs/page.md", text);
        let pages = [&document, &other].map(|it| (it.path.clone(), it.anchors()));
        let pages = BTreeMap::from(pages);
        let exists = |path: &str| path == "src" || pages.contains_key(path);
        let objections = check_links(&document, &pages, &exists);
        assert_eq!(lines(&objections), [3, 4, 5, 6], "{objections:?}");
    }

    #[test]
    fn to_files_that_are_gone() {
        let text = "`src/node.rs`, `engine/put.rs`, `/metrics`, `a/b` and `./data/x.rs`\n\
                    `src/gone.rs`\n`src/` and `gone/`\n```\n`src/gone.rs`\n```\n";
        let exists = |path: &str| ["src", "src/node.rs", "src/engine/put.rs"].contains(&path);
        let objections = check_paths(&page("docs/page.md", text), &exists);
        assert_eq!(lines(&objections), [2, 3], "{objections:?}");
    }

    #[test]
    fn to_targets_that_are_gone() {
        let targets = ["run", "sim"].map(str::to_owned).into();
        let text = "`make run`, `make sim SEEDS=9`, `make NAME`\n`make coffee`\n$ make tea # hot\nmake room";
        let objections = check_targets(&page("docs/page.md", text), &targets);
        assert_eq!(lines(&objections), [2, 3], "{objections:?}");
    }

    #[test]
    fn to_tests_that_are_gone() {
        let tests = ["a_node_that_is_killed_comes_back".to_owned()].into();
        let text = "`a_node_that_is_killed_comes_back` and `requests_in_flight_max`\n\
                    `a_node_that_was_killed_comes_back`\n`dynakv_requests_in_flight_bytes`";
        let objections = check_tests(&page("docs/page.md", text), &tests);
        assert_eq!(lines(&objections), [2], "{objections:?}");
    }

    #[test]
    fn to_lines_without_end() {
        let (fits, long) = ("x".repeat(COLUMNS_MAX), "x".repeat(COLUMNS_MAX + 1));
        let text = format!(
            "{fits}\n{long}\n| {long} |\n```\n{long}\n```\n[{}](https://example.org/{long})\n",
            "x".repeat(COLUMNS_MAX - 2),
        );
        assert_eq!(lines(&check_columns(&page("docs/page.md", &text))), [2]);
    }

    #[test]
    fn to_a_front_page_of_two_screens() {
        let of = |count: usize| check_front_page(&page("README.md", &"x\n".repeat(count)));
        assert_eq!(lines(&of(README_LINES_MAX)), []);
        assert_eq!(lines(&of(README_LINES_MAX + 1)), [README_LINES_MAX + 1]);
    }

    #[test]
    fn to_pages_that_nothing_leads_to() {
        let index = page(INDEX, "[put](design/put.md) and [out](../README.md)\n");
        let led_to = [
            "README.md",
            INDEX,
            "docs/design/put.md",
            "storage/README.md",
        ];
        assert_eq!(lines(&check_index(&index, &led_to)), []);
        assert_eq!(lines(&check_index(&index, &["docs/design/get.md"])), [1]);
    }
}
