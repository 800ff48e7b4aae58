//! **owners_only**: once all is healed, every member holds what it owns and nothing else, within a bounded time: what a
//! change of the ring took from it is with its owners, and gone here.

pub(crate) const NAME: &str = "owners_only";

/// What a machine holds and does not own, if there is something; `owns` says of a key whether it does.
pub(crate) fn check<'a>(
    machine: &str,
    keys: impl Iterator<Item = &'a str>,
    owns: impl Fn(&str) -> bool,
) -> Option<String> {
    let foreign: Vec<&str> = keys.filter(|key| !owns(key)).collect();
    let first = foreign.first()?;
    let count = foreign.len();
    Some(format!(
        "{machine} holds {count} keys that it does not own, {first} among them"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stayed_behind_is_told() {
        let keys = || ["a", "b"].into_iter();
        assert_eq!(check("node-1", keys(), |_| true), None);
        let what = check("node-1", keys(), |key| key == "a").unwrap();
        assert!(
            what.contains("node-1 holds 1 keys") && what.contains("b among"),
            "{what}"
        );
    }
}
