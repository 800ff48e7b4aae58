//! How long functions are, and what comments say.

use crate::Objection;
use crate::source::Source;

/// The most lines of a function outside tests.
const FUNCTION_LINES_MAX: usize = 100;

/// Words that ask and do not tell.
const QUESTIONS: &[&str] = &[
    "Who.",
    "Whom.",
    "Whose.",
    "What.",
    "Which.",
    "When.",
    "Where.",
    "Why.",
    "How.",
    "To whom.",
    "For whom.",
    "From whom.",
    "From where.",
    "What for.",
];

/// Functions that are too long to be read in one go.
pub(crate) fn check_functions(source: &Source) -> Vec<Objection> {
    let mut objections = Vec::new();
    for (line, code) in source.product_lines() {
        let Some(name) = function_that_begins(code) else {
            continue;
        };
        let indent = &code[..code.len() - code.trim_start().len()];
        let end = format!("{indent}}}");
        let length = source.code[line..].iter().position(|it| *it == end);
        let length = length.map_or(0, |last| last + 1);
        if length > FUNCTION_LINES_MAX {
            let advice = format!(
                "fn {name} has {length} lines, {FUNCTION_LINES_MAX} at most: give each of its ideas a function"
            );
            objections.push(Objection {
                path: source.path.clone(),
                line,
                advice,
            });
        }
    }
    objections
}

/// The name of the function whose first line this is.
fn function_that_begins(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    let is_keyword = |word: &str| {
        matches!(word, "pub" | "async" | "const" | "unsafe") || word.starts_with("pub(")
    };
    if !before.split_whitespace().all(is_keyword) {
        return None;
    }
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    Some(&after[..end]).filter(|name| !name.is_empty())
}

/// Documentation that is a bare question word: the name beside it says as much.
pub(crate) fn check_questions(source: &Source) -> Vec<Objection> {
    let lines = source.raw.iter().enumerate();
    let asks = lines.filter(|(_, text)| {
        let text = text.trim_start().strip_prefix("///");
        text.is_some_and(|text| QUESTIONS.contains(&text.trim()))
    });
    asks.map(|(line, text)| Objection {
        path: source.path.clone(),
        line,
        advice: format!("{}: say what it is", text.trim()),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_are_found_and_short_ones_are_not() {
        let of = |lines: usize| {
            let body = "    let x = 1;\n".repeat(lines - 2);
            Source::new(
                "src/a.rs",
                &format!("\npub(crate) async fn long(\n{body}}}\n"),
            )
        };
        assert!(check_functions(&of(FUNCTION_LINES_MAX)).is_empty());
        let found = check_functions(&of(FUNCTION_LINES_MAX + 1));
        assert!(found.len() == 1 && found[0].line == 1 && found[0].advice.contains("fn long"));
        // Neither a call nor a word.
        let innocent = Source::new(
            "src/a.rs",
            "let f = fn_of(1);\n// fn no\nlet t: fn () = x;\n",
        );
        assert!(check_functions(&innocent).is_empty());
    }

    #[test]
    fn bare_questions_are_found_and_answers_are_not() {
        let text =
            "/// Who.\nstruct A {\n    /// To whom.\n    b: u8,\n    /// Who it is.\n    c: u8,\n}";
        let found = check_questions(&Source::new("src/a.rs", text));
        let lines: Vec<_> = found.iter().map(|it| it.line).collect();
        assert_eq!(lines, [0, 2]);
    }
}
