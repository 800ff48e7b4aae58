//! Tables of the documents that have a row for each of something in the code.

use std::collections::BTreeSet;
use std::fs;

use super::root;

/// The first cells of the rows of the table under a header that begins like this.
fn first_cells<'a>(text: &'a str, header: &str) -> Vec<&'a str> {
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with(header))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('|').nth(1).map(str::trim))
        .collect()
}

/// The numbers that the variants of an enum come to, in the text of `fn number`.
fn numbers(code: &str) -> BTreeSet<&str> {
    let body = code.split("fn number(").nth(1).unwrap_or_default();
    let body = body.split("\n    }\n").next().unwrap_or_default();
    let arms = body.lines().filter_map(|line| line.split_once(" => "));
    arms.map(|(_, number)| number.trim_end_matches(','))
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Names and variables of the settings, in the text of the table of `src/settings.rs`.
fn settings(code: &str) -> Vec<(&str, &str)> {
    let table = code.split("\nsettings! {\n").nth(1).unwrap_or_default();
    let table = table.split("\n}\n").next().unwrap_or_default();
    let rows = table.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(": ")?;
        let variable = rest.split('"').nth(1)?;
        variable.starts_with("DYNAKV_").then_some((name, variable))
    });
    rows.collect()
}

/// Who looks for a setting looks there, under its name in the file or its variable.
#[test]
fn every_setting_stands_in_the_table_of_settings() {
    let (code, text) = (read("src/settings.rs"), read("docs/settings.md"));
    let settings = settings(&code);
    assert!(settings.len() > 25, "{settings:?}");
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let names = settings
        .iter()
        .flat_map(|&(name, variable)| [name, variable]);
    let lacking: Vec<&str> = names.filter(|name| !named.contains(name)).collect();
    assert!(lacking.is_empty(), "docs/settings.md lacks {lacking:?}");

    let cells = first_cells(&text, "| File | Variable |");
    let shown = cells
        .iter()
        .flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let unknown: Vec<&str> = shown
        .filter(|shown| !settings.iter().any(|(name, _)| name == shown))
        .collect();
    assert!(unknown.is_empty(), "docs/settings.md invents {unknown:?}");
}

/// Scripts are written by that table.
#[test]
fn every_exit_code_stands_in_the_table_of_exit_codes() {
    let (code, text) = (read("src/cli/exit.rs"), read("docs/cli.md"));
    let numbers = numbers(&code);
    assert!(numbers.len() > 7, "{numbers:?}");
    let shown: BTreeSet<&str> = first_cells(&text, "| Code | Meaning |")
        .into_iter()
        .collect();
    assert_eq!(shown, numbers);
}

#[test]
fn rows_are_those_of_the_table_and_of_no_other() {
    let text = "| Code | x |\n|---|---|\n| 9 | y |\n\n| Code | Meaning |\n|---|---|\n| 0 | a |\n| `b`, `c` | d |\n\n| 1 |";
    assert_eq!(first_cells(text, "| Code | Meaning |"), ["0", "`b`, `c`"]);
    assert_eq!(first_cells(text, "| None |"), [""; 0]);
}

#[test]
fn numbers_are_those_of_the_function() {
    let code = "impl Exit {\n    fn number(self) -> u8 {\n        match self {\n            Self::Ok => 0,\n            \
                Self::No => 12,\n        }\n    }\n    fn other() {\n        x => 3,\n    }\n";
    assert_eq!(numbers(code), ["0", "12"].into());
}

#[test]
fn settings_are_those_of_the_table() {
    let code = "let x: T = \"DYNAKV_X\";\nsettings! {\n    /// `--id`: \"it\".\n    id: String, \"DYNAKV_ID\",\n        \
                Bounds::text(1);\n    w: u8, \"DYNAKV_W\", Bounds::form(\"y\");\n}\ny: \"DYNAKV_Y\"\n";
    assert_eq!(settings(code), [("id", "DYNAKV_ID"), ("w", "DYNAKV_W")]);
}
