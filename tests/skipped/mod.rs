//! Says that a test, or a part of it, is left out. The output of a test that passes is not shown, so it is also
//! written into the file that the variable `SKIPPED_FILE` names; `make test` counts and prints what stands there.

use std::fs::OpenOptions;
use std::io::Write;

/// Notes what is left out and why, in the form of `format!`.
macro_rules! skipped {
    ($($reason:tt)*) => { $crate::skipped::note(&format!($($reason)*)) };
}

/// See [`skipped!`].
pub(crate) fn note(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("SKIPPED: {reason}");
    let Some(path) = std::env::var_os("SKIPPED_FILE") else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let noted = file.and_then(|mut file| file.write_all(format!("{test}: {reason}\n").as_bytes()));
    noted.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
