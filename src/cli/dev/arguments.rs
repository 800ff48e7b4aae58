//! The options of `dynakv dev`.

use std::path::{Path, PathBuf};

use dynakv_protocol::shell::quoted;

use super::shape::Shape;

/// Where data and logs live unless told otherwise.
pub(super) const DATA_DIR: &str = "./dynakv-data/dev";

/// `dynakv dev`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(super) nodes: u16,
    /// The port of the first node; the others follow
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) base_port: u16,
    /// Where data and logs live, kept between runs
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub(super) data_dir: PathBuf,
    /// Replicas of each key
    #[arg(short, value_name = "N")]
    pub(super) n: Option<u8>,
    /// How many replicas a write waits for
    #[arg(short, value_name = "N")]
    pub(super) w: Option<u8>,
    /// How many replicas a read waits for
    #[arg(short, value_name = "N")]
    pub(super) r: Option<u8>,
    /// Begin anew: the cluster that was in the directory is moved into a directory of its own there
    #[arg(long)]
    pub(super) fresh: bool,
}

impl DevArgs {
    pub(super) fn shape(&self) -> Shape {
        Shape {
            nodes: self.nodes,
            base_port: self.base_port,
            n: self.n,
            w: self.w,
            r: self.r,
        }
    }

    /// The directory as an option, where it is not the default one.
    pub(super) fn data_dir_option(&self) -> String {
        if self.data_dir == Path::new(DATA_DIR) {
            return String::new();
        }
        let directory = self.data_dir.display().to_string();
        format!(" --data-dir {}", quoted(&directory))
    }
}
