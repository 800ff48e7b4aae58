//! The `dynakv` binary: see [`dynakv::cli`].

fn main() {}
