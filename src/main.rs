//! The `dynakv` binary: see `dynakv::cli`.

use std::process::ExitCode;

/// sled allocates and frees tree nodes all the time. In the binary only, so that a program that embeds a
/// node keeps its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dynakv::cli::main()
}
