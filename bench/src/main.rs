//! The `dynakv-bench` binary: see [`dynakv_bench::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dynakv_bench::cli::main()
}
