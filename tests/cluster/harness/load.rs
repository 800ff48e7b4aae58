//! Load on a cluster while something happens to it, held against what was acknowledged.
//!
//! Each caller has keys of its own and waits for each answer, so it knows what every read has to give. The
//! cluster promises W + R > N: a read that misses what was just acknowledged is wrong, whatever happens
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dynakv_client::{Client, Error, Fetched, Update};
use dynakv_protocol::causal::Dot;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::data::{block_on, client, read_all};
use super::wait::eventually;

const CALLERS: u64 = 32;
const KEYS_PER_CALLER: u64 = 50;

/// What the callers have done so far, and what went wrong.
#[derive(Default)]
pub(crate) struct Load {
    stop: AtomicBool,
    done: AtomicU64,
    failures: Mutex<Vec<Error>>,
    /// The keys that were updated and got no answer once: that update may stand beside the next one.
    doubted: Mutex<BTreeSet<String>>,
    /// What each key must have, where the last write of it was a put and was acknowledged.
    written: Mutex<BTreeMap<String, String>>,
    /// Which value each dot was seen with.
    dots: Mutex<BTreeMap<Dot, String>>,
}

impl Load {
    /// Waits until so many more requests were answered.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: u64) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} more requests are answered"), || {
            let done = self.done.load(Ordering::Relaxed);
            if done >= goal {
                return Ok(());
            }
            let failures = self.failures.lock().unwrap();
            Err(format!(
                "{done} of {goal}, first failure: {:?}",
                failures.first()
            ))
        });
    }

    fn count<T>(&self, result: Result<T, Error>) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = result {
            self.failures.lock().unwrap().push(error);
        }
    }

    /// Whatever is shown was written under this key, and no dot names two writes.
    fn look_at(&self, key: &str, fetched: &Fetched) {
        for sibling in &fetched.siblings {
            let value = String::from_utf8_lossy(&sibling.value).into_owned();
            let (of, _) = value.split_once(' ').unwrap_or_default();
            assert_eq!(of, key, "nobody wrote {value:?} under {key}");
            let mut dots = self.dots.lock().unwrap();
            let before = dots.entry(sibling.dot).or_insert_with(|| value.clone());
            assert_eq!(*before, value, "{} names two writes", sibling.dot);
        }
    }

    /// The failed requests.
    pub(crate) fn take_failures(&self) -> Vec<Error> {
        std::mem::take(&mut *self.failures.lock().unwrap())
    }

    /// Whether an update of this key got no answer.
    pub(crate) fn is_in_doubt(&self, key: &str) -> bool {
        self.doubted.lock().unwrap().contains(key)
    }

    /// Panics if any request failed.
    #[track_caller]
    pub(crate) fn failed_nowhere(&self) {
        let failures = self.take_failures();
        let first = failures.first();
        assert!(
            failures.is_empty(),
            "{} requests failed: {first:?}",
            failures.len()
        );
    }

    /// Reads all keys whose last write is known, from this many owners each, and panics unless it is there.
    #[track_caller]
    pub(crate) fn is_all_there(&self, cluster: &Cluster, r: u8) {
        let written = self.written.lock().unwrap().clone();
        assert!(!written.is_empty(), "nothing was written");
        let found = block_on(async {
            let client = client(&cluster.addresses()).await;
            read_all(&client, written.keys().cloned(), r).await
        });
        for (key, value) in written {
            let found = &found[&key];
            assert!(
                found.contains(&value),
                "{key}: {value:?} is lost: {found:?}"
            );
        }
    }
}

/// Puts, gets, deletes with a context and updates, on keys of the caller's own.
async fn call(client: Client, load: Arc<Load>, caller: u64) {
    for number in 0_u64.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("caller-{caller}-{}", number % KEYS_PER_CALLER);
        let value = format!("{key} value-{number}");
        load.written.lock().unwrap().remove(&key);
        let put = client.put(&key, value.clone()).await;
        let is_written = put.is_ok();
        load.count(put);
        if is_written {
            load.written
                .lock()
                .unwrap()
                .insert(key.clone(), value.clone());
        }
        let got = client.get(&key).await;
        if let Ok(fetched) = &got {
            load.look_at(&key, fetched);
        }
        if let (true, Ok(fetched)) = (is_written, &got) {
            let mut values = fetched.siblings.iter().map(|sibling| &sibling.value);
            assert!(
                values.any(|found| *found == value),
                "{key}: what was just acknowledged is missing: {fetched:?}"
            );
        }
        let context = got.as_ref().ok().map(|fetched| fetched.context.clone());
        load.count(got);
        if let (Some(context), 0) = (context, number % 5) {
            load.written.lock().unwrap().remove(&key);
            load.count(client.delete(&key).context(context).await);
        }
        if number % 7 == 0 {
            // One writer a key: it never meets another.
            let own = format!("updated-{caller}");
            let value = format!("{own} value-{number}");
            let updated = client.update(&own, |_| Update::put(value.clone())).await;
            if updated.is_err() {
                load.doubted.lock().unwrap().insert(own);
            }
            load.count(updated);
        }
    }
}

/// Runs the load, on threads of its own, while `accident` happens to the cluster.
pub(crate) fn under_load(
    cluster: &mut Cluster,
    accident: impl FnOnce(&mut Cluster, &Load),
) -> Arc<Load> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tests need an event queue");
    let load = Arc::new(Load::default());
    let mut callers = JoinSet::new();
    let client = runtime.block_on(client(&cluster.addresses()));
    for caller in 0..CALLERS {
        let call = call(client.clone(), Arc::clone(&load), caller);
        callers.spawn_on(call, runtime.handle());
    }
    load.goes_on(500);
    accident(cluster, &load);
    load.stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
    });
    load
}
