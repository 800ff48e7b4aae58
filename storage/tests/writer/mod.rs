//! A process that writes until it is ended from outside, and the check of what it left behind.
//!
//! Every write has a number, and its key and value follow from that number: what is found says which
//! write it was, and whether it is whole.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    DiskOptions, DiskStore, Footprint, Mutation, PageLimit, PositionRange, Store, Tally, Totals,
    check_store,
};

/// The highest write that was acknowledged for each key.
pub(crate) type Acknowledged = BTreeMap<Bytes, u64>;

/// What is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How many keys there are; no multiple of 7.
    pub(crate) keys: u64,
    /// How many writes share a sync.
    pub(crate) group: u64,
    /// How long the value of each write is, in bytes.
    pub(crate) length: fn(u64) -> u64,
}

impl Plan {
    /// Write number `counter`.
    pub(crate) fn write(&self, counter: u64) -> (Bytes, Versions) {
        let mut versions = Versions::new();
        let dot = Dot {
            actor: Actor(1),
            counter,
        };
        let length = (self.length)(counter) as usize;
        let incoming = Incoming {
            write_id: WriteId(u128::from(counter)),
            timestamp: counter,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from(vec![counter as u8; length])),
        };
        versions.write(&Clock::new(), dot, incoming);
        let key = counter.wrapping_mul(7) % self.keys;
        (Bytes::from(format!("key-{key}")), versions)
    }

    /// Applies write number `counter`, and gives its key.
    pub(crate) fn apply(&self, store: &DiskStore, counter: u64) -> Bytes {
        let (key, versions) = self.write(counter);
        let mutation = Mutation {
            before: footprint_of(&key, store.get(&key).unwrap()),
            after: Footprint::of(&key, &versions),
            key: key.clone(),
            versions: versions.to_bytes(),
        };
        store.apply(&[mutation]).unwrap();
        key
    }

    /// Writes in groups from `first` on, and says which are acknowledged.
    ///
    /// With `checkpoints` a thread of its own asks for one after the other, and says when each begins
    /// and ends.
    pub(crate) fn write_until_ended(
        &self,
        directory: &Path,
        options: DiskOptions,
        first: u64,
        checkpoints: bool,
    ) -> ! {
        let store = DiskStore::open(directory, options).unwrap();
        let say = |what: &str| {
            // One write, so that the threads' lines do not mix.
            let mut out = std::io::stdout().lock();
            out.write_all(format!("\n{what}\n").as_bytes()).unwrap();
            out.flush().unwrap();
        };
        std::thread::scope(|scope| {
            if checkpoints {
                scope.spawn(|| {
                    loop {
                        say("checkpoint begins");
                        store.checkpoint().unwrap();
                        say("checkpoint ended");
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                });
            }
            let mut from = first;
            loop {
                for counter in from..from + self.group {
                    self.apply(&store, counter);
                }
                store.sync().unwrap();
                from += self.group;
                say(&format!("synced {}", from - 1));
            }
        })
    }

    /// Everything acknowledged is there, whole, and the totals are those of what is there. Returns the
    /// highest write that was found.
    pub(crate) fn check(&self, store: &DiskStore, acknowledged: &Acknowledged) -> u64 {
        let mut highest = 0;
        for (key, &counter) in acknowledged {
            let stored = store.get(key).unwrap();
            let stored = stored.unwrap_or_else(|| panic!("{key:?} is lost, it had {counter}"));
            let found = highest_in(&stored);
            // A write that was not acknowledged may have got through: then it is there whole.
            assert!(
                found >= counter,
                "{key:?}: {counter} was acknowledged, {found} is there"
            );
        }
        let all = PageLimit {
            items_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        let items = store.scan(PositionRange::ALL, None, all).unwrap().items;
        assert!(items.len() >= acknowledged.len());
        let mut counted = Totals::default();
        for item in &items {
            let found = highest_in(&item.versions);
            let (key, versions) = self.write(found);
            assert_eq!(
                (&item.key, &item.versions),
                (&key, &versions.to_bytes()),
                "write {found} is there in another form"
            );
            highest = highest.max(found);
            let tally = Tally::of(&versions);
            counted.keys += 1;
            counted.versions += tally.versions;
            counted.live_bytes += tally.value_bytes;
        }
        let totals = store.totals();
        counted.disk_bytes = totals.disk_bytes;
        assert_eq!(totals, counted, "what is counted is not what is there");
        let checked = check_store(store, &mut |_, _, _| ()).unwrap();
        assert_eq!(checked.findings, []);
        highest
    }
}

/// The number of the write that these encoded versions are of.
fn highest_in(stored: &Bytes) -> u64 {
    let versions = Versions::from_bytes(stored).unwrap();
    versions.clock().counter(Actor(1))
}

fn footprint_of(key: &[u8], stored: Option<Bytes>) -> Footprint {
    stored.map_or(Footprint::default(), |stored| {
        Footprint::of(key, &Versions::from_bytes(&stored).unwrap())
    })
}
