//! Which file of a crate names something of which other one, and where that goes round in a circle.
//!
//! A name that is re-exported stands where it is defined, and not where it is handed on. A `pub use` of what
//! stands below, and the declaration of a module, are no arrows: so a room's `mod.rs` may show what is in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Named, Source};

/// How many re-exports of re-exports are followed.
const RE_EXPORTS_MAX: u32 = 8;

/// That a file names something that stands in another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Where it does, counted from 0.
    pub(crate) line: usize,
}

/// The arrows between the files of the crate of this name, below this folder. Tests have none.
pub(crate) fn arrows(name: &str, folder: &str, sources: &[Source]) -> Vec<Arrow> {
    let files = Files::of(name, folder, sources);
    let mut arrows = Vec::new();
    for (module, file) in &files.by_module {
        for named in &file.named {
            // A single word names nothing of another file.
            if !named.imported && named.segments.len() == 1 {
                continue;
            }
            let inline = file.source.inline_modules(named.line);
            let base = [&module[..], &inline[..]].concat();
            let Some(to) = files.home_of(&base, &named.segments, 0) else {
                continue;
            };
            if to == *module || (named.public && to.starts_with(module)) {
                continue;
            }
            arrows.push(Arrow {
                from: file.source.path.clone(),
                to: files.by_module[&to].source.path.clone(),
                line: named.line,
            });
        }
    }
    arrows
}

/// Those of the arrows whose end leads back to their beginning.
pub(crate) fn on_circles(arrows: &[Arrow]) -> Vec<&Arrow> {
    let mut onward: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for arrow in arrows {
        onward.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    let leads_back = |arrow: &&Arrow| {
        let mut reached = BTreeSet::from([arrow.to.as_str()]);
        let mut to_see = vec![arrow.to.as_str()];
        while let Some(file) = to_see.pop() {
            let next = onward.get(file).into_iter().flatten();
            to_see.extend(next.filter(|file| reached.insert(file)));
        }
        reached.contains(arrow.from.as_str())
    };
    arrows.iter().filter(leads_back).collect()
}

struct File<'a> {
    source: &'a Source,
    named: Vec<Named>,
}

/// The files of a crate, each by its path as a module.
struct Files<'a> {
    name: &'a str,
    by_module: BTreeMap<Vec<String>, File<'a>>,
}

impl<'a> Files<'a> {
    fn of(name: &'a str, folder: &str, sources: &'a [Source]) -> Self {
        let mut by_module = BTreeMap::new();
        for source in sources.iter().filter(|source| !source.is_test()) {
            let Some(path) = source.path.strip_prefix(folder) else {
                continue;
            };
            let mut module: Vec<_> = path
                .trim_end_matches(".rs")
                .split('/')
                .map(str::to_owned)
                .collect();
            // The binary is a crate of its own, and stays beside the others.
            if module
                .last()
                .is_some_and(|last| last == "mod" || last == "lib")
            {
                module.pop();
            }
            let named = source.paths();
            by_module.insert(module, File { source, named });
        }
        Self { name, by_module }
    }

    /// The module whose file defines what this path leads to; nothing for what other crates define.
    fn home_of(&self, base: &[String], segments: &[String], followed: u32) -> Option<Vec<String>> {
        let ups = segments.iter().take_while(|it| *it == "super").count();
        let first = segments.first()?;
        let (mut module, mut rest) = match first.as_str() {
            "super" => (
                base[..base.len().checked_sub(ups)?].to_vec(),
                &segments[ups..],
            ),
            "self" => (base.to_vec(), &segments[1..]),
            first if first == "crate" || first == self.name => (Vec::new(), &segments[1..]),
            _ if self.by_module.contains_key(&below(base, first)) => (base.to_vec(), segments),
            _ => return None,
        };
        while let Some((next, behind)) = rest.split_first() {
            let inner = below(&module, next);
            if !self.by_module.contains_key(&inner) {
                break;
            }
            (module, rest) = (inner, behind);
        }
        // An inline module stands in the file around it.
        while !self.by_module.contains_key(&module) {
            module.pop()?;
        }
        let Some(name) = rest.first().filter(|_| followed < RE_EXPORTS_MAX) else {
            return Some(module);
        };
        let file = &self.by_module[&module];
        let handed_on = |named: &&Named| {
            let is_it = named.imported && named.segments.last() == Some(name);
            // What an inline module imports is its own.
            is_it && named.segments.len() > 1 && file.source.inline_modules(named.line).is_empty()
        };
        match file.named.iter().find(handed_on) {
            Some(import) => self.home_of(&module, &import.segments, followed + 1),
            None => Some(module),
        }
    }
}

fn below(module: &[String], name: &str) -> Vec<String> {
    [module, &[name.to_owned()]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arrows between these files, and those of them that are on a circle.
    fn drawn(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let sources = files.iter().map(|(path, text)| Source::new(path, text));
        let sources: Vec<_> = sources.collect();
        let arrows = arrows("dynakv", "src/", &sources);
        let shown = |arrow: &Arrow| format!("{} {}", arrow.from, arrow.to).replace("src/", "");
        let circles = on_circles(&arrows).into_iter().map(shown).collect();
        (arrows.iter().map(shown).collect(), circles)
    }

    #[test]
    fn two_files_that_need_each_other_are_a_circle() {
        let (all, circles) = drawn(&[
            ("src/lib.rs", "pub mod a; pub mod b; pub mod c;"),
            ("src/a.rs", "use crate::b::{self, B};"),
            ("src/b.rs", "fn f() { super::c::g(); }"),
            ("src/c.rs", "use crate::a; use crate::d::D;"),
            ("src/d.rs", "struct D;"),
        ]);
        assert_eq!(all.last().unwrap(), "c.rs d.rs");
        assert_eq!(
            circles,
            ["a.rs b.rs", "a.rs b.rs", "b.rs c.rs", "c.rs a.rs"]
        );
    }

    #[test]
    fn so_are_a_parent_and_a_child() {
        let child = ("src/a/b.rs", "use super::A;");
        let (_, circles) = drawn(&[("src/a.rs", "mod b; use self::b::B; struct A;"), child]);
        assert_eq!(circles, ["a.rs a/b.rs", "a/b.rs a.rs"]);
        let (all, circles) = drawn(&[
            ("src/a/mod.rs", "mod b; struct A; fn f() { b::g(); }"),
            child,
        ]);
        assert_eq!(all.len(), 2);
        assert_eq!(circles.len(), 2);
    }

    #[test]
    fn a_name_stands_where_it_is_defined() {
        let (all, circles) = drawn(&[
            (
                "src/a/mod.rs",
                "mod b; mod c; pub use b::B; pub(crate) use self::c::C;",
            ),
            ("src/a/b.rs", "use super::C;"),
            ("src/a/c.rs", "pub struct C;"),
            ("src/d.rs", "use crate::a::B;"),
        ]);
        assert_eq!(all, ["a/b.rs a/c.rs", "d.rs a/b.rs"]);
        assert!(circles.is_empty());
    }

    #[test]
    fn tests_visibility_and_other_crates_are_no_arrows() {
        let (all, _) = drawn(&[
            (
                "src/a.rs",
                "mod b; use bytes::Bytes; use std::fmt; fn f() { B::new(); }",
            ),
            (
                "src/a/b.rs",
                "pub(super) fn f() {}\npub(in crate::a) fn g() {}\nmod inner {\n    use super::f;\n}\n\
                 #[cfg(test)]\nmod tests { use super::super::A; }",
            ),
            ("src/a/tests.rs", "use super::A;"),
        ]);
        assert!(all.is_empty(), "{all:?}");
    }
}
