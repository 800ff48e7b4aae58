//! What a table of the documents names: tests and files, which come to be renamed.

use std::collections::BTreeSet;

/// The table of safety rules in a document, by its first header cell.
const TABLE: &str = "| Rule | Kept in |";

/// Names in backquotes of the table of safety rules: functions, and paths of files or folders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mentioned<'a> {
    pub(super) functions: Vec<(usize, &'a str)>,
    pub(super) paths: Vec<(usize, &'a str)>,
}

/// What the table of safety rules of this document names, with the lines.
pub(super) fn mentioned(text: &str) -> Mentioned<'_> {
    let mut found = Mentioned::default();
    let rows = text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.starts_with(TABLE))
        .take_while(|(_, line)| line.starts_with('|'));
    for (number, row) in rows {
        // Every second piece stands between backquotes.
        for name in row.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                found.paths.push((number, name));
            } else if name.matches('_').count() > 1 && name.chars().all(is_of_a_name) {
                found.functions.push((number, name));
            }
        }
    }
    found
}

fn is_of_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The functions that stand right below a test attribute, or that a macro of tests is given.
pub(super) fn tests_in(text: &str) -> BTreeSet<String> {
    let mut is_test = false;
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line
            .strip_prefix("fn ")
            .or_else(|| line.strip_prefix("async fn "))
        {
            if is_test {
                names.extend(rest.split('(').next().map(str::to_owned));
            }
            is_test = false;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_table_and_of_no_other_are_found() {
        let text = "| Other | `not_this_one` |\n\n| Rule | Kept in | Seen |\n|---|---|---|\n\
                    | One | `engine/put.rs` | `a_test_of_it`, `HidesIt`, `two words_and_more` |\n\n`nor_this_one`";
        let expected = Mentioned {
            functions: vec![(4, "a_test_of_it")],
            paths: vec![(4, "engine/put.rs")],
        };
        assert_eq!(mentioned(text), expected);
    }

    #[test]
    fn only_tests_are_tests() {
        let text =
            "#[test]\n#[ignore]\nfn a() {\n    fn b() {}\n#[tokio::test(x)]\nasync fn c() {}\n";
        let expected = ["a", "c"].map(str::to_owned);
        assert_eq!(tests_in(text), expected.into());
    }
}
