//! File systems that are soon full.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

pub(super) const DISK_BYTES: u64 = 128 * 1024 * 1024;

/// A small file system, which is there until this is dropped.
pub(super) struct SmallDisk {
    pub(super) mounted_at: PathBuf,
    _root: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one; why it cannot, when it cannot.
    pub(super) fn mount(kind: &str) -> Result<Self, String> {
        Self::mount_of(kind, DISK_BYTES)
    }

    pub(super) fn mount_of(kind: &str, bytes: u64) -> Result<Self, String> {
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted_at = root.path().join("disk");
        std::fs::create_dir(&mounted_at).map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        if kind == "ext4" {
            let file = root.path().join("disk.img");
            File::create(&file)
                .and_then(|file| file.set_len(bytes))
                .map_err(|error| error.to_string())?;
            // What is kept for root does not count as free, and root takes it all the same.
            let mut format = Command::new("mkfs.ext4");
            run(format.args(["-q", "-F", "-m", "0"]).arg(&file))?;
            mount.arg("-o").arg("loop").arg(&file);
        } else {
            let size = format!("size={bytes}");
            mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        }
        run(mount.arg(&mounted_at))?;
        Ok(Self {
            mounted_at,
            _root: root,
        })
    }

    pub(super) fn store(&self) -> PathBuf {
        self.mounted_at.join("store")
    }

    /// Takes so much.
    pub(super) fn take(&self, bytes: u64) {
        let file = File::create(self.mounted_at.join("other"));
        file.unwrap().write_all(&vec![1; bytes as usize]).unwrap();
    }

    /// Takes all the room there is.
    pub(super) fn fill(&self) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(self.mounted_at.join("other"))
            .unwrap();
        let block = vec![1; 1024 * 1024];
        // Smaller and smaller pieces, until not a byte is left.
        for length in [block.len(), 4096, 1] {
            while file.write_all(&block[..length]).is_ok() {}
        }
    }

    /// Leaves so much of it.
    pub(super) fn give_back(&self, bytes: u64) {
        let file = File::options()
            .append(true)
            .open(self.mounted_at.join("other"));
        let file = file.unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(bytes)).unwrap();
    }

    pub(super) fn clear(&self) {
        std::fs::remove_file(self.mounted_at.join("other")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that failed may still have a file open there.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mounted_at));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", said.trim()))
}
