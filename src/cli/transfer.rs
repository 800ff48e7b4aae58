//! `export` and `import`: all that nodes hold, as lines of JSON, out of a cluster and into one.

mod export;
mod format;
mod import;
mod progress;

pub(super) use export::{ExportArgs, export};
pub(super) use import::{ImportArgs, check, import};
