//! Where programs are.

use std::path::{Path, PathBuf};

use super::ClusterError;

/// The `dynakv` binary: the given one, else the one beside this executable.
///
/// # Errors
/// [`ClusterError::NoBinary`] says how to build it.
pub fn find_dynakv(given: Option<&Path>) -> Result<PathBuf, ClusterError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            let executable = std::env::current_exe().unwrap_or_default();
            executable.with_file_name("dynakv")
        }
    };
    // Made absolute, as the nodes run in a directory of their own.
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        Ok(_) | Err(_) => Err(ClusterError::NoBinary { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_an_error_that_says_how_to_build_it() {
        let error = find_dynakv(Some(Path::new("/nowhere/dynakv"))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/nowhere/dynakv") && text.contains("cargo build"),
            "{text}"
        );
        assert!(
            find_dynakv(Some(Path::new("/"))).is_err(),
            "a directory is no binary"
        );
    }
}
