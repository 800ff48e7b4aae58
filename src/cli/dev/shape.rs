//! What a development cluster's directory was made for, and how it is made empty again.
//!
//! `dev` marks a directory as its own with a small document. Only what such a directory has of `dev` is ever moved,
//! and nothing is ever removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::cli::output::json_line;

/// The mark in the directory.
const MARK: &str = "dev.json";

/// What the directory's cluster was begun with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) nodes: u16,
    pub(super) base_port: u16,
    /// Unknown until the cluster was ready once, unless it was asked for.
    pub(super) n: Option<u8>,
    pub(super) w: Option<u8>,
    pub(super) r: Option<u8>,
}

impl Shape {
    /// Whether a cluster of this shape is what is asked for. What is left open fits.
    pub(super) fn fits(&self, asked: &Self) -> bool {
        let quorum =
            |own: Option<u8>, asked: Option<u8>| own.is_none() || asked.is_none() || own == asked;
        self.nodes == asked.nodes
            && self.base_port == asked.base_port
            && quorum(self.n, asked.n)
            && quorum(self.w, asked.w)
            && quorum(self.r, asked.r)
    }

    /// As options of `dev`.
    pub(super) fn options(&self) -> String {
        let mut options = format!("--nodes {} --base-port {}", self.nodes, self.base_port);
        for (flag, quorum) in [("-n", self.n), ("-w", self.w), ("-r", self.r)] {
            if let Some(quorum) = quorum {
                options.push_str(&format!(" {flag} {quorum}"));
            }
        }
        options
    }
}

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing of a cluster.
    Nothing,
    /// A cluster that `dev` made.
    Cluster(Shape),
    /// Nodes without the mark: of how many `dev` would start there are this many.
    Unmarked(u16),
}

/// Looks at a directory.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidData`] when the mark is no document of ours.
pub(super) fn look(directory: &Path) -> io::Result<Found> {
    match fs::read(directory.join(MARK)) {
        Ok(text) => {
            let shape = serde_json::from_slice(&text)?;
            return Ok(Found::Cluster(shape));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let nodes = (1..=50).take_while(|number| directory.join(format!("node-{number}")).is_dir());
    Ok(match nodes.count() {
        0 => Found::Nothing,
        // At most 50.
        nodes => Found::Unmarked(nodes as u16),
    })
}

/// Marks a directory.
///
/// # Errors
/// The system's.
pub(super) fn mark(directory: &Path, shape: &Shape) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let new = directory.join(".dev.json.new");
    let mut file = File::create(&new)?;
    file.write_all(json_line(shape).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, directory.join(MARK))
}

/// Where the next cluster that makes room goes, within the directory.
pub(super) fn aside(directory: &Path) -> PathBuf {
    let mut free = (1_u32..).map(|number| directory.join(format!("before-{number}")));
    // A directory has no room for so many.
    free.find(|path| !path.exists())
        .unwrap_or_else(|| directory.join("before"))
}

/// Moves a marked cluster there: its nodes, their logs, and at last the mark.
///
/// # Errors
/// The system's. What was moved stays there, and the mark says that there is more.
pub(super) fn move_aside(directory: &Path, plans: &[Plan], aside: &Path) -> io::Result<()> {
    fs::create_dir(aside)?;
    let own = plans.iter().flat_map(|plan| [&plan.data_dir, &plan.log]);
    let mark = directory.join(MARK);
    for path in own.chain([&mark]) {
        let Some(name) = path.file_name() else {
            continue;
        };
        match fs::rename(path, aside.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(nodes: u16, base_port: u16, n: Option<u8>) -> Shape {
        Shape {
            nodes,
            base_port,
            n,
            w: None,
            r: None,
        }
    }

    #[test]
    fn what_is_left_open_fits() {
        let made = shape(3, 8080, Some(3));
        assert!(made.fits(&shape(3, 8080, None)) && made.fits(&shape(3, 8080, Some(3))));
        assert!(shape(3, 8080, None).fits(&made));
        for other in [
            shape(5, 8080, None),
            shape(3, 18080, None),
            shape(3, 8080, Some(2)),
        ] {
            assert!(!made.fits(&other), "{other:?}");
        }
        assert_eq!(made.options(), "--nodes 3 --base-port 8080 -n 3");
    }

    #[test]
    fn a_directory_is_known_by_its_mark() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()).unwrap(), Found::Nothing);
        assert_eq!(look(&root.path().join("none")).unwrap(), Found::Nothing);
        fs::create_dir(root.path().join("node-1")).unwrap();
        assert_eq!(look(root.path()).unwrap(), Found::Unmarked(1));
        let made = shape(1, 8080, Some(3));
        mark(root.path(), &made).unwrap();
        assert_eq!(look(root.path()).unwrap(), Found::Cluster(made));
        fs::write(root.path().join(MARK), "{}").unwrap();
        assert!(look(root.path()).is_err());
    }
}
