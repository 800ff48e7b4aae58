//! What an audit comes to, for people and for scripts.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::grouped::grouped;

use super::books::{Books, Finding, Wrong};
use super::hints::Hints;
use super::value::WriteName;

/// How an audit ended. The numbers are those of `dynakv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// 0: all is there, and every request succeeded.
    Passed,
    /// 1: something is lost, or wrong in another way; or the audit could not be done.
    Failed,
    /// 2: an option is wrong.
    Usage,
    /// 6: all is there, but requests failed.
    RequestsFailed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Passed => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::RequestsFailed => 6,
        })
    }
}

/// All that is wrong, a line each, and the verdict as the last line.
pub(super) fn verdict(
    books: &Books,
    keys: usize,
    kills: Option<u64>,
    hints: Option<Hints>,
) -> (String, Exit) {
    let mut text = String::new();
    for (wrong, finding) in books.findings() {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{}", line(wrong, finding));
    }
    let counts = books.counts();
    let how_many = |wrong| books.how_many(wrong);
    let kinds = [
        (Wrong::Stale, "missed by reads meanwhile"),
        (Wrong::Returned, "back after they were replaced"),
        (
            Wrong::Undone,
            "blind writes in a row undone or beside older ones",
        ),
        (Wrong::SecondCopy, "second copies"),
        (Wrong::NeverSent, "never sent"),
    ];
    let lost = how_many(Wrong::Lost);
    let unreadable = how_many(Wrong::Unreadable);
    let differing = how_many(Wrong::Differing);
    let kept = hints.map_or(0, |hints| hints.waiting);
    let others: u64 = kinds.iter().map(|(wrong, _)| how_many(*wrong)).sum();
    let is_wrong = lost + unreadable + differing + kept + others > 0;
    let exit = if is_wrong || counts.acknowledged == 0 {
        Exit::Failed
    } else if counts.failed > 0 {
        Exit::RequestsFailed
    } else {
        Exit::Passed
    };
    let word = if exit == Exit::Passed {
        "passed"
    } else {
        "failed"
    };
    let mut last = format!(
        "audit {word}: {} acknowledged writes over {} keys, {} lost",
        grouped(counts.acknowledged),
        grouped(keys as u64),
        grouped(lost),
    );
    // Only what is not as it should be.
    for (wrong, name) in kinds {
        if how_many(wrong) > 0 {
            let _infallible = write!(last, ", {} {name}", grouped(how_many(wrong)));
        }
    }
    if unreadable > 0 {
        let _infallible = write!(last, ", {} keys unreadable", grouped(unreadable));
    }
    if differing > 0 {
        let _infallible = write!(
            last,
            ", {} keys not the same at all owners",
            grouped(differing)
        );
    }
    if kept > 0 {
        let _infallible = write!(last, ", {} hints not handed over", grouped(kept));
    }
    let _infallible = write!(last, ", {} failed requests", grouped(counts.failed));
    if let Some(kills) = kills {
        let _infallible = write!(last, ", {} kills", grouped(kills));
    }
    if let Some(hints) = hints {
        let _infallible = write!(last, ", {} hints handed over", grouped(hints.handed_over));
    }
    text.push_str(&last);
    text.push('\n');
    (text, exit)
}

fn line(wrong: Wrong, finding: &Finding) -> String {
    let key = finding.key;
    let write = match finding.write {
        Some(write) => format!("write {}", WriteName { key, write }),
        None => format!("key {key}"),
    };
    let ended = match finding.ended {
        Some(ended) => format!(", acknowledged at {}", seconds(ended)),
        None => String::new(),
    };
    let (noticed, found) = (seconds(finding.noticed), &finding.found);
    match wrong {
        Wrong::Lost => format!("lost: {write}{ended}; at {noticed} the key had {found}"),
        Wrong::Stale => format!("stale read: {write}{ended}; a read at {noticed} gave {found}"),
        Wrong::Returned => format!("came back: {write}{ended}; at {noticed} {found}"),
        Wrong::Undone => format!(
            "undone: {write}, the last one of the key's only client{ended}; a read at {noticed} gave {found}"
        ),
        Wrong::SecondCopy => format!("second copy: {write}{ended}; at {noticed} {found}"),
        Wrong::NeverSent => format!("never sent: {write}; at {noticed} {found}"),
        Wrong::Unreadable => format!("unreadable: {write}; at {noticed}: {found}"),
        Wrong::Differing => format!("not the same at all owners: {write}; at {noticed}: {found}"),
    }
}

fn seconds(at: Duration) -> String {
    format!("{:.3} s", at.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::value::RunId;
    use super::*;

    #[test]
    fn copies_that_differ_fail_an_audit_and_are_named() {
        let mut books = Books::new(RunId(7), 10);
        let how = "node-1 has it, node-2 does not".to_owned();
        books.differs(3, how, Duration::from_secs(2));
        let (text, exit) = verdict(&books, 1, None, None);
        assert_eq!(exit, Exit::Failed);
        assert!(
            text.contains("not the same at all owners: key 3; at 2.000 s: node-1 has it"),
            "{text}"
        );
        assert!(
            text.contains(", 1 keys not the same at all owners"),
            "{text}"
        );
    }

    #[test]
    fn hints_that_are_left_fail_an_audit() {
        let mut books = Books::new(RunId(7), 10);
        let name = books.begin(3, false, &None, Duration::ZERO).unwrap();
        let acknowledged = crate::history::Outcome::Acknowledged;
        books.end(name, acknowledged, Duration::ZERO).unwrap();
        let (text, exit) = verdict(&books, 1, Some(2), None);
        assert_eq!(exit, Exit::Passed, "{text}");
        let handed_over = 1234;
        for (waiting, expected) in [(0, Exit::Passed), (3, Exit::Failed)] {
            let hints = Hints {
                waiting,
                handed_over,
            };
            let (text, exit) = verdict(&books, 1, Some(2), Some(hints));
            assert_eq!(exit, expected, "{text}");
            assert!(
                text.ends_with(", 2 kills, 1,234 hints handed over\n"),
                "{text}"
            );
            assert_eq!(text.contains(", 3 hints not handed over"), waiting > 0);
        }
    }
}
