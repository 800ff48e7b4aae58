//! Which folder of the node may use which others: its rooms, from the bottom up.

use crate::Objection;
use crate::imports::Arrow;
use crate::source::Source;

/// The rooms, and what each may use beside itself. Files right in a folder are a room, too.
const ROOMS: &[(&str, &[&str])] = &[
    ("src/engine/", &[]),
    ("src/engine/placement/", &["src/engine/"]),
    ("src/engine/membership/", &["src/engine/"]),
    (
        "src/engine/layout/",
        &["src/engine/", "src/engine/placement/"],
    ),
    (
        "src/engine/read/",
        &["src/engine/", "src/engine/placement/"],
    ),
    (
        "src/engine/write/",
        &["src/engine/", "src/engine/placement/"],
    ),
    (
        "src/engine/anti_entropy/",
        &["src/engine/", "src/engine/placement/"],
    ),
    (
        "src/engine/operation/",
        &[
            "src/engine/",
            "src/engine/placement/",
            "src/engine/read/",
            "src/engine/write/",
        ],
    ),
    ("src/runtime/", &[]),
    ("src/runtime/shared/", &[]),
    ("src/runtime/observe/", &["src/runtime/shared/"]),
    (
        "src/runtime/net/",
        &["src/runtime/shared/", "src/runtime/observe/"],
    ),
    (
        "src/runtime/store/",
        &["src/runtime/shared/", "src/runtime/observe/"],
    ),
    ("src/runtime/anti_entropy/", BELOW_ANTI_ENTROPY),
    ("src/runtime/data/", BELOW_REQUESTS),
    ("src/runtime/control/", BELOW_REQUESTS),
];

const BELOW_ANTI_ENTROPY: &[&str] = &[
    "src/runtime/shared/",
    "src/runtime/observe/",
    "src/runtime/net/",
    "src/runtime/store/",
];

/// Requests about data and requests about nodes know nothing of each other.
const BELOW_REQUESTS: &[&str] = &[
    "src/runtime/shared/",
    "src/runtime/observe/",
    "src/runtime/net/",
    "src/runtime/store/",
    "src/runtime/anti_entropy/",
];

/// The two halves of the node that have rooms. The lower one may be used from everywhere in the upper one.
const LOWER: &str = "src/engine/";
const UPPER: &str = "src/runtime/";

/// What these arrows between the node's files do that the table does not allow.
pub(crate) fn check(arrows: &[Arrow]) -> Vec<Objection> {
    let mut objections = Vec::new();
    for arrow in arrows {
        let Some(from) = room_of(&arrow.from) else {
            continue;
        };
        let to = room_of(&arrow.to);
        let row = ROOMS.iter().find(|(room, _)| *room == from);
        let advice = match (row, to) {
            (None, _) => format!("{from} is no room: give it a row in tests/tidy/rooms.rs"),
            (_, None) => format!("uses {}, which stands above it: move it down", arrow.to),
            (Some((_, below)), Some(to)) => {
                let is_lower = from.starts_with(UPPER) && to.starts_with(LOWER);
                if to == from || is_lower || below.contains(&to) {
                    continue;
                }
                format!(
                    "{from} must not use {to} ({}): move what it needs down",
                    arrow.to
                )
            }
        };
        objections.push(Objection {
            path: arrow.from.clone(),
            line: arrow.line,
            advice,
        });
    }
    objections
}

/// The rows of the table that no file stands in any more.
pub(crate) fn without_files(sources: &[Source]) -> Vec<&'static str> {
    let rooms = ROOMS.iter().map(|(room, _)| *room);
    let is_empty = |room: &&str| {
        let mut rooms = sources.iter().map(|source| room_of(&source.path));
        !rooms.any(|other| other == Some(room))
    };
    rooms.filter(is_empty).collect()
}

/// The room that a file stands in, if it is in one of the halves that have rooms.
fn room_of(path: &str) -> Option<&str> {
    let half = [LOWER, UPPER]
        .into_iter()
        .find(|half| path.starts_with(half))?;
    match path[half.len()..].find('/') {
        Some(end) => Some(&path[..half.len() + end + 1]),
        None => Some(&path[..half.len()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(from: &str, to: &str) -> bool {
        let (from, to) = (from.to_owned(), to.to_owned());
        check(&[Arrow { from, to, line: 0 }]).is_empty()
    }

    #[test]
    fn what_runs_up_is_objected_to() {
        let get = "src/engine/read/get.rs";
        assert!(is_allowed(get, "src/engine/read/pace.rs"));
        assert!(is_allowed(get, "src/engine/placement/ring/mod.rs"));
        assert!(is_allowed("src/runtime/data/links.rs", get));
        assert!(is_allowed("src/cli/mod.rs", get));
        for (from, to) in [
            (get, "src/engine/write/put.rs"),
            (get, "src/runtime/shared/view.rs"),
            (get, "src/node.rs"),
            ("src/engine/quorum.rs", get),
            ("src/runtime/net/link.rs", "src/runtime/data/links.rs"),
            ("src/runtime/data/links.rs", "src/runtime/control/mod.rs"),
            ("src/runtime/net/link.rs", "src/settings.rs"),
            ("src/runtime/new/link.rs", "src/runtime/new/other.rs"),
        ] {
            assert!(!is_allowed(from, to), "{from} may use {to}");
        }
    }

    #[test]
    fn a_room_is_lower_or_the_same_and_no_two_use_each_other() {
        for (index, (room, below)) in ROOMS.iter().enumerate() {
            let lower = &ROOMS[..index];
            for other in *below {
                let is_lower = lower.iter().any(|(room, _)| room == other);
                assert!(is_lower, "{room} stands before {other}");
            }
        }
    }
}
