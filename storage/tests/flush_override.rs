//! sled's writes reach the disk through `flush_override`. Alone in its process, because the count of
//! calls is the process's.
#![cfg(target_os = "linux")]

use bytes::Bytes;
use dynakv_storage::flush_override::calls;
use dynakv_storage::{DiskOptions, DiskStore, Footprint, Mutation, Store};

#[test]
fn every_checkpoint_goes_through_the_override() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        memory_bytes: 16 * 1024 * 1024,
        ..DiskOptions::default()
    };
    let store = DiskStore::open(directory.path(), options).unwrap();
    for turn in 0..10_u8 {
        let mutation = Mutation {
            key: Bytes::from_static(b"key"),
            versions: Bytes::from(vec![turn; 100]),
            before: Footprint::default(),
            after: Footprint::default(),
        };
        store.apply(&[mutation]).unwrap();
        let before = calls();
        store.checkpoint().unwrap();
        assert!(calls() > before, "checkpoint {turn} did not reach the disk");
    }
}
