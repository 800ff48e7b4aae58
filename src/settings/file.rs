//! Settings from a TOML file.

use std::collections::BTreeMap;
use std::path::Path;

use super::nearest::nearest;
use super::renamed::RENAMED;
use super::{Layer, SettingsError};

/// In which line of the settings file each key stands.
pub type KeyLines = BTreeMap<String, usize>;

/// Reads a settings file. Says what is better written otherwise.
///
/// # Errors
/// [`SettingsError::Unreadable`], [`SettingsError::Malformed`], [`SettingsError::UnknownKey`].
pub fn read_file(path: &Path) -> Result<(Layer, KeyLines, Vec<String>), SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let malformed = |source| SettingsError::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let mut lines = key_lines(&text).map_err(malformed)?;
    let mut warnings = Vec::new();
    for renamed in RENAMED {
        if let Some(line) = lines.remove(renamed.before) {
            warnings.push(format!("{}, line {line}: {renamed}", path.display()));
            lines.entry(renamed.now.to_owned()).or_insert(line);
        }
    }
    let is_known = |key: &str| Layer::NAMES.iter().any(|(name, _)| *name == key);
    if let Some((key, line)) = lines.iter().find(|(key, _)| !is_known(key)) {
        let names = Layer::NAMES.iter().map(|(name, _)| *name);
        return Err(SettingsError::UnknownKey {
            path: path.to_owned(),
            line: *line,
            key: key.clone(),
            meant: nearest(key, names),
        });
    }
    let layer = toml::from_str(&text).map_err(malformed)?;
    Ok((layer, lines, warnings))
}

fn key_lines(text: &str) -> Result<KeyLines, toml::de::Error> {
    let table = toml::de::DeTable::parse(text)?;
    let line_of = |at: usize| {
        1 + text.as_bytes()[..at]
            .iter()
            .filter(|&&b| b == b'\n')
            .count()
    };
    let keys = table.get_ref().iter();
    let lines = keys.map(|(key, _)| (key.get_ref().to_string(), line_of(key.span().start)));
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_name_is_taken_with_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dynakv.toml");
        std::fs::write(&path, "id = \"a\"\ncache_bytes = 5000000\n").unwrap();
        let (layer, lines, warnings) = read_file(&path).unwrap();
        assert_eq!(layer.memory_bytes, Some(5_000_000));
        assert_eq!(lines["memory_bytes"], 2);
        assert!(
            warnings[0].contains("line 2") && warnings[0].contains("memory_bytes"),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dynakv.toml");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_file(&path).unwrap_err().to_string()
        };
        let error = refused("id = \"a\"\nprot = 1\n");
        assert!(
            error.contains("line 2") && error.contains("\"prot\", did you mean \"port\"?"),
            "{error}"
        );
        let error = refused("[tls]\nkey = 1\n");
        assert!(
            error.contains("line 1") && !error.contains("did you mean"),
            "{error}"
        );
        let error = refused("cache_bytes = 1\nmemory_bytes = 2\n");
        assert!(error.contains("duplicate"), "{error}");
        let missing = read_file(&directory.path().join("missing.toml"));
        assert!(matches!(missing, Err(SettingsError::Unreadable { .. })));
    }
}
