//! Which name was meant by one that does not exist.

/// Of these names the one that is written most alike, if one is alike enough: a third of the letters may
/// be others, left out, doubled or swapped.
pub(super) fn nearest(
    given: &str,
    names: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let distances = names.map(|name| {
        let distance = strsim::damerau_levenshtein(&given, &name.to_ascii_lowercase());
        (distance, name)
    });
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    let most = (given.chars().count() / 3).max(1);
    // A name of one letter is like every other one.
    (distance <= most && given.chars().count() > 1).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::Layer;
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let meant = |given| nearest(given, Layer::NAMES.iter().map(|(name, _)| *name));
        for (given, name) in [
            ("prot", "port"),
            ("data-dir", "data_dir"),
            ("datadir", "data_dir"),
            ("seeds", "seed"),
            ("zones", "zone"),
            ("memory_byte", "memory_bytes"),
            ("Host", "host"),
        ] {
            assert_eq!(meant(given), Some(name), "{given}");
        }
        for given in ["replication_factor", "x", "", "tls_certificate"] {
            assert_eq!(meant(given), None, "{given}");
        }
    }
}
