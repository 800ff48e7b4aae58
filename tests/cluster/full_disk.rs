//! A node whose disk is full: it writes nothing, reads on, and is as before once there is room.
//!
//! The disk is a file system of 64 MiB in memory. Mounting it needs root; without it the tests say so and
//! pass.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;

use dynakv_client::{Client, ErrorCode};

use crate::harness::{Cluster, Node, block_on, client, client_of_one, eventually};

const DISK_BYTES: usize = 64 * 1024 * 1024;
const VALUE_BYTES: usize = 16 * 1024;

/// More writes than the disk has room for.
const WRITES: usize = DISK_BYTES / VALUE_BYTES;

/// A small file system, which is there until this is dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one over a directory; why it cannot, when it cannot.
    pub(crate) fn mount(at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let size = format!("size={DISK_BYTES}");
        let mut mount = process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        let output = mount
            .output()
            .map_err(|error| format!("{mount:?}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{mount:?}: {}", said.trim()));
        }
        Ok(Self(at.to_owned()))
    }

    fn other(&self) -> PathBuf {
        self.0.join("of-another-program")
    }

    /// Another program takes so much, or all that there is.
    pub(crate) fn take(&self, bytes: usize) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(self.other())
            .unwrap();
        let block = vec![1; 4096];
        for _ in 0..bytes / block.len() {
            if file.write_all(&block).is_err() {
                return;
            }
        }
    }

    pub(crate) fn clear(&self) {
        std::fs::remove_file(self.other()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The node may still have files open there.
        let mut umount = process::Command::new("umount");
        let _ = umount.arg("--lazy").arg(&self.0).output();
    }
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn value(number: usize) -> Vec<u8> {
    let mut value = format!("{number} ").into_bytes();
    value.resize(VALUE_BYTES, number as u8);
    value
}

async fn check(client: &Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let fetched = client.get(key(number)).await;
        let fetched = fetched.unwrap_or_else(|error| panic!("{}: {error}", key(number)));
        let found = fetched.siblings.first().map(|sibling| &*sibling.value);
        assert!(found == Some(&*value(number)), "{} is gone", key(number));
    }
}

/// A put that must be refused because of the disk.
async fn is_refused(client: &Client) {
    let error = client.put("more", "v").await.expect_err("there is no room");
    assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{error}");
    assert!(error.to_string().contains("Free some space"), "{error}");
}

#[test]
fn a_node_on_a_full_disk_reads_on_and_recovers_without_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::new(root.path(), "node-1");
    let disk = match SmallDisk::mount(&node.data_dir()) {
        Ok(disk) => disk,
        Err(reason) => {
            skipped!("no disk of its own here ({reason}); run it as root");
            return;
        }
    };
    disk.take(DISK_BYTES / 3);
    let mut node = node;
    node.start();
    node.wait_ready();
    let written = block_on(async {
        let client = client_of_one(&node).await;
        let mut written = 0;
        let error = loop {
            match client.put(key(written), value(written)).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < WRITES, "the disk never became full");
        };
        assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{error}");
        assert!(!error.maybe_applied(), "{error}");
        assert!(written > 100, "{written}");
        check(&client, 0..written).await;
        // What makes room goes on.
        client.delete(key(0)).await.unwrap();
        // Another program takes the rest.
        disk.take(DISK_BYTES);
        is_refused(&client).await;
        check(&client, 1..written).await;
        written
    });
    eventually("the metrics to tell", || {
        let page = node.page("/metrics")?.body;
        let refused = |line: &str| {
            let rest = line.strip_prefix("dynakv_disk_writes_refused_total{node=\"node-1\"} ");
            rest.is_some_and(|count| count != "0")
        };
        match page.lines().any(refused) && page.contains("dynakv_disk_free_bytes") {
            true => Ok(()),
            false => Err(page),
        }
    });
    eventually("status to tell", || {
        let status = node.run(&["status", "--output", "table"]);
        match status.code == Some(4) && status.text().contains("alive, disk full  node-1  ") {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    });
    // It starts on a full disk, too.
    node.kill();
    node.start();
    node.wait_ready();
    block_on(async {
        let client = client_of_one(&node).await;
        check(&client, 1..written).await;
        disk.take(DISK_BYTES);
        is_refused(&client).await;
        check(&client, 1..written).await;
    });
    // There is room again.
    let process = node.process_mut().pid();
    disk.clear();
    block_on(async {
        let client = client_of_one(&node).await;
        // It looks at the disk now and then.
        eventually("the node to write again", || {
            let put = node.run(&["put", "more", "v"]);
            match put.code {
                Some(0) => Ok(()),
                _ => Err(put.stderr),
            }
        });
        for number in written..written + 50 {
            client.put(key(number), value(number)).await.unwrap();
        }
        check(&client, 1..written + 50).await;
    });
    assert!(node.runs() && node.process_mut().pid() == process);
    node.terminate();
    node.start();
    node.wait_ready();
    block_on(async { check(&client_of_one(&node).await, 1..written + 50).await });
}

#[test]
fn a_cluster_writes_on_while_one_of_its_nodes_has_a_full_disk() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes: Vec<_> = (1..=3)
        .map(|number| Node::new(root.path(), &format!("node-{number}")))
        .collect();
    let disk = match SmallDisk::mount(&nodes[0].data_dir()) {
        Ok(disk) => disk,
        Err(reason) => {
            skipped!("no disk of its own here ({reason}); run it as root");
            return;
        }
    };
    disk.take(DISK_BYTES / 3);
    let seed = nodes[0].address();
    nodes = nodes
        .into_iter()
        .enumerate()
        .map(|(number, node)| match number {
            0 => node,
            _ => node.with(&["--seed", &seed]),
        })
        .collect();
    for node in &mut nodes {
        node.start();
    }
    let mut cluster = Cluster::of(root, nodes);
    block_on(async {
        let client = client(&cluster.addresses()).await;
        let lonely = client_of_one(&cluster[0]).await;
        // Through the ring, and through the node that has no room, first owner of a third of the keys.
        for number in 0..WRITES / 2 {
            let client = [&client, &lonely][number % 2];
            let written = client.put(key(number), value(number)).await;
            written.unwrap_or_else(|error| panic!("{}: {error}", key(number)));
        }
        let refused = cluster[0].page("/metrics").unwrap().body;
        let counted = "dynakv_disk_writes_refused_total{node=\"node-1\"} 0\n";
        assert!(!refused.contains(counted), "its disk never became full");
        for client in [&client, &lonely] {
            check(client, 0..WRITES / 2).await;
        }
    });
    for node in 0..3 {
        assert!(cluster[node].process_mut().ended().is_none());
    }
}
