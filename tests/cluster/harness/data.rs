//! Data through the client library.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use dynakv_client::{Client, Error};
use tokio::task::JoinSet;

use super::node::Node;

/// How many requests are under way at once.
const CONCURRENCY: usize = 16;

/// Within this every request must be answered, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("tests need an event queue").block_on(future)
}

/// A client of these nodes, which routes by the ring.
pub(crate) async fn client(seeds: &[String]) -> Client {
    let builder = Client::builder()
        .seeds(seeds.iter().cloned())
        .timeout(TIMEOUT)
        .dial_timeout(TIMEOUT);
    builder.build().await.expect("some seed answers")
}

/// A client that talks to this one node whatever happens, so it has nobody else to try.
pub(crate) async fn client_of_one(node: &Node) -> Client {
    let builder = Client::builder()
        .seeds([node.address()])
        .timeout(TIMEOUT)
        .dial_timeout(TIMEOUT)
        .ring_routing(false);
    builder.build().await.expect("the node answers")
}

/// Writes all of these; gives back those that were not acknowledged, and why.
pub(crate) async fn write_all(
    client: &Client,
    data: impl IntoIterator<Item = (String, String)>,
) -> Vec<(String, Error)> {
    let each = |client: Client, (key, value): (String, String)| async move {
        let written = client.put(&key, value).await;
        written.err().map(|error| (key, error))
    };
    for_each(client, data, each)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// Reads these keys with `r` owners each: a value, several, or none.
///
/// # Panics
/// When one cannot be read.
pub(crate) async fn read_all(
    client: &Client,
    keys: impl IntoIterator<Item = String>,
    r: u8,
) -> BTreeMap<String, Vec<String>> {
    let each = |client: Client, key: String| async move {
        match client.get(&key).r(r).await {
            Ok(fetched) => {
                let texts = fetched.siblings.iter();
                let texts =
                    texts.map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned());
                (key, texts.collect::<Vec<_>>())
            }
            Err(error) => panic!("{key}: {error}"),
        }
    };
    for_each(client, keys, each).await.into_iter().collect()
}

async fn for_each<T, R, F>(
    client: &Client,
    items: impl IntoIterator<Item = T>,
    each: impl Fn(Client, T) -> F,
) -> Vec<R>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut results = Vec::new();
    for item in items {
        if tasks.len() >= CONCURRENCY {
            results.extend(tasks.join_next().await);
        }
        tasks.spawn(each(client.clone(), item));
    }
    while let Some(result) = tasks.join_next().await {
        results.push(result);
    }
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
        .collect()
}
