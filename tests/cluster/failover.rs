//! The client library through the loss of a node, under load: with its default retries no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dynakv_client::{Client, Error, Update};
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::harness::{Cluster, client, eventually};

const CALLERS: u64 = 32;

/// What the callers have done so far, and what went wrong.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicU64,
    failures: std::sync::Mutex<Vec<Error>>,
}

impl Load {
    /// Waits until so many more requests were answered.
    #[track_caller]
    fn goes_on(&self, more: u64) {
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
}

/// Puts, gets, deletes with a context and updates, on keys of the caller's own and on a shared one.
async fn call(client: Client, load: Arc<Load>, caller: u64) {
    for number in 0_u64.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("caller-{caller}-{}", number % 50);
        let value = format!("value-{number}");
        let put = client.put(&key, value.clone()).await;
        let is_written = put.is_ok();
        load.count(put);
        let got = client.get(&key).await;
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
            load.count(client.delete(&key).context(context).await);
        }
        if number % 7 == 0 {
            // One writer a key: it never meets another.
            let own = format!("updated-{caller}");
            load.count(client.update(own, |_| Update::put(value.clone())).await);
        }
    }
}

/// Runs the load, on threads of its own, while `accident` happens to the cluster.
fn under_load(cluster: &mut Cluster, accident: impl FnOnce(&mut Cluster, &Load)) -> Vec<Error> {
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
    std::mem::take(&mut *load.failures.lock().unwrap())
}

#[track_caller]
fn assert_none(failures: &[Error]) {
    let first = failures.first();
    assert!(
        failures.is_empty(),
        "{} requests failed: {first:?}",
        failures.len()
    );
}

#[test]
fn killing_one_of_three_fails_no_request_of_a_client() {
    let mut cluster = Cluster::start(3);
    let failures = under_load(&mut cluster, |cluster, load| {
        for index in [2, 0] {
            cluster[index].kill();
            load.goes_on(1000);
            cluster[index].start();
            cluster.wait_whole();
            load.goes_on(500);
        }
    });
    assert_none(&failures);
}

#[test]
fn freezing_one_of_three_fails_no_request_of_a_client() {
    let mut cluster = Cluster::start(3);
    let failures = under_load(&mut cluster, |cluster, load| {
        cluster[1].process_mut().signal(Signal::STOP);
        load.goes_on(1000);
        cluster[1].process_mut().signal(Signal::CONT);
        load.goes_on(1000);
        cluster.wait_whole();
    });
    assert_none(&failures);
}
