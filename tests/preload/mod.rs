//! Small libraries in C that stand before calls of the C library (`LD_PRELOAD`): faults that no other way brings about.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a library of this name and source in a directory; says why it cannot, when it cannot.
pub(crate) fn build(directory: &Path, name: &str, source: &str) -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("this is not Linux".to_owned());
    }
    let file = directory.join(format!("{name}.c"));
    let library = directory.join(format!("lib{name}.so"));
    std::fs::write(&file, source).map_err(|error| error.to_string())?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    let output = compiler.arg(&file).output();
    let output = output.map_err(|error| format!("{compiler:?}: {error}"))?;
    match output.status.success() {
        true => Ok(library),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
