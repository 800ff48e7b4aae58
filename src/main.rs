//! The `dynakv` binary: see [`dynakv::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dynakv::cli::main()
}
