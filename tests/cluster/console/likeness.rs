//! Whether what was printed is what a document shows, but for what differs from run to run: actors and counters,
//! checksums, times, contexts, sizes, and the room between columns.

use std::collections::BTreeMap;

/// A run of such letters of this length and more is a context.
const CONTEXT_LETTERS_MIN: usize = 30;

/// Contexts as the document has them, and those that were met in their places.
#[derive(Debug, Default)]
pub(super) struct Contexts(BTreeMap<String, String>);

impl Contexts {
    /// A command of the document with the contexts that are meant.
    pub(super) fn fill_in(&self, command: &str) -> String {
        let mut filled = command.to_owned();
        for (shown, met) in &self.0 {
            filled = filled.replace(shown, met);
        }
        filled
    }

    /// Whether what was printed is what is shown. If so, its contexts are known from then on.
    pub(super) fn compare(&mut self, shown: &str, printed: &str) -> bool {
        let (shown_form, printed_form) = (form(shown), form(printed));
        if shown.contains('…') {
            return fits(&shown_form, &printed_form);
        }
        let pairs = || contexts(shown).zip(contexts(printed));
        let is_known = |(shown, printed): (&str, &str)| {
            let known = self.0.get(shown);
            known.is_none_or(|known| known == printed)
        };
        if shown_form != printed_form || !pairs().all(is_known) {
            return false;
        }
        let pairs = pairs().map(|(shown, printed)| (shown.to_owned(), printed.to_owned()));
        self.0.extend(pairs);
        true
    }
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '-'
}

fn contexts(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|letter| !is_word(letter));
    words.filter(|word| word.len() >= CONTEXT_LETTERS_MIN)
}

/// A line without what differs from run to run.
fn form(line: &str) -> String {
    let mut form = String::new();
    let mut rest = line;
    while let Some(letter) = rest.chars().next() {
        let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        if length == 0 {
            form.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(length);
        rest = after;
        // What stands before dots is the beginning of something.
        if rest.starts_with('…') && !word.contains('-') {
            continue;
        }
        let is_time = word.len() == 13 && word.as_bytes()[10] == b'T';
        if is_time {
            form.push_str("TIME");
            rest = rest.trim_start_matches(|letter: char| {
                letter.is_ascii_digit() || ":.Z".contains(letter)
            });
            continue;
        }
        let is_number = word.len() == 13 && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_sum = word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        form.push_str(match word {
            _ if word.len() >= CONTEXT_LETTERS_MIN => "CONTEXT",
            _ if is_number => "NUMBER",
            _ if is_sum => "SUM",
            _ => word,
        });
        // A counter belongs to it.
        let counter = rest.strip_prefix(':').unwrap_or_default();
        let digits = counter.find(|letter: char| !letter.is_ascii_digit());
        let digits = digits.unwrap_or(counter.len());
        if digits > 0 && (is_sum || word.starts_with("node-")) {
            form.push_str(":COUNTER");
            rest = &counter[digits..];
        }
    }
    // The default server need not be named.
    let form = form.replace("--server 127.0.0.1:8080 ", "");
    let mut words: Vec<&str> = form.split_whitespace().collect();
    for at in 1..words.len() {
        let is_unit = matches!(words[at], "B" | "KiB" | "MiB" | "GiB");
        if is_unit && words[at - 1].parse::<f64>().is_ok() {
            (words[at - 1], words[at]) = ("SIZE", "UNIT");
        }
    }
    // Clocks are in the order of their actors.
    for clock in words.chunk_by_mut(|a, b| a.ends_with(":COUNTER") && b.ends_with(":COUNTER")) {
        clock.sort_unstable();
    }
    words.join(" ")
}

/// Whether a line is what is shown, with something in the place of each `…`.
fn fits(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn what_differs_from_run_to_run_is_no_difference() {
    let mut contexts = Contexts::default();
    let like = |contexts: &mut Contexts, shown, printed| contexts.compare(shown, printed);
    for (shown, printed) in [
        ("a   b", "a b "),
        (
            "  064197ff18d1be1d:2  \"milk\"",
            "  aa4197ff18d1be1d:31  \"milk\"",
        ),
        ("node-1  547 B  34.6 %", "node-1  1.2 KiB  34.6 %"),
        ("node-2:2 node-3:1", "node-3:12 node-2:7"),
        (
            "at 2026-11-24T00:41:22.092Z  4 B",
            "at 2027-01-02T10:01:02.1Z  4 B",
        ),
        (
            "{\"context\":\"AZm…\",\"sloppy\":true}",
            "{\"context\":\"ByyH9ceKHvCAgZBl_8Y0b4dAt1v9\",\"sloppy\":true}",
        ),
        (
            "- \"a\" (through node-2, …) are: …",
            "- \"a\" (through node-2, 1 s ago) are: both",
        ),
        (
            "  next: dynakv --server 127.0.0.1:8080 status",
            "  next: dynakv status",
        ),
    ] {
        assert!(like(&mut contexts, shown, printed), "{shown} {printed}");
    }
    for (shown, printed) in [
        ("Bob", "Alice"),
        ("a", "a b"),
        ("node-1  34.6 %", "node-1  33.6 %"),
        ("127.0.0.1:8081", "127.0.0.1:8082"),
        (
            "\"milk\" 064197ff18d1be1d:2",
            "\"bread\" 064197ff18d1be1d:2",
        ),
        (
            "{\"context\":\"AZm…\",\"sloppy\":true}",
            "{\"context\":\"AZm\",\"sloppy\":false}",
        ),
        ("a … c", "a b d"),
    ] {
        assert!(!like(&mut contexts, shown, printed), "{shown} {printed}");
    }
}

#[test]
fn a_context_is_the_same_wherever_it_stands() {
    let mut contexts = Contexts::default();
    let (first, second) = ("A".repeat(40), "B".repeat(44));
    let shown = |context: &str| format!("context: {context}");
    assert!(contexts.compare(&shown(&first), &shown(&second)));
    assert!(contexts.compare(&shown(&first), &shown(&second)));
    let other = "C".repeat(44);
    assert!(!contexts.compare(&shown(&first), &shown(&other)));
    let filled = contexts.fill_in(&format!("put k v --context {first}"));
    assert_eq!(filled, format!("put k v --context {second}"));
}
