//! Nodes inside a program: the operations without a socket, many nodes in one process, and the examples.

mod many;
mod updates;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynakv::embedded::{Error, Fetched, LocalClient};
use dynakv::node::{NotReady, ServeError};
use dynakv::runtime::net::tcp::TcpNetwork;
use dynakv::runtime::shared::environment::{Disk, Environment, StoreThreads, SystemClock};
use dynakv::{Config, Node, NodeId};
use dynakv_client::{Client, Context, ErrorCode};
use dynakv_storage::MemoryDisk;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Far longer than anything takes on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Within this every request must be answered, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Fails with what was waited for instead of hanging.
#[track_caller]
fn in_time<T>(what: &'static str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{place}: not within {PATIENCE:?}: {what}"),
        }
    }
}

async fn eventually(what: &str, mut attempt: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !attempt().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn config(root: &Path, id: &str) -> Config {
    Config::embedded(NodeId::new(id).unwrap(), root.join(id))
}

async fn alone() -> (TempDir, Config, Node) {
    let root = tempfile::tempdir().unwrap();
    let config = config(root.path(), "alone");
    let node = Node::start(config.clone()).await.unwrap();
    (root, config, node)
}

/// Nodes `node-1`, `node-2`, … of one cluster, all of them in its ring.
async fn cluster(root: &Path, count: usize, (n, w, r): (u8, u8, u8)) -> Vec<Node> {
    let mut nodes = Vec::<Node>::new();
    for number in 1..=count {
        let config = Config {
            n: Some(n),
            w: Some(w),
            r: Some(r),
            seeds: nodes
                .iter()
                .take(1)
                .map(|node| node.address().to_string())
                .collect(),
            ..config(root, &format!("node-{number}"))
        };
        nodes.push(Node::start(config).await.unwrap());
    }
    for node in &nodes {
        node.wait_for_members(count, PATIENCE).await.unwrap();
    }
    nodes
}

async fn shut_down(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        in_time("a shutdown", node.shutdown()).await;
    }
}

fn texts(fetched: &Fetched) -> BTreeSet<String> {
    let siblings = fetched.siblings.iter();
    siblings
        .map(|s| String::from_utf8_lossy(&s.value).into_owned())
        .collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<ErrorCode> {
    result.unwrap_err().code()
}

#[tokio::test]
async fn writes_reads_and_deletes_without_a_socket() {
    let (_root, _, node) = alone().await;
    let absent = node.get("a").await.unwrap();
    assert_eq!(absent.value().unwrap(), None);
    let written = node.set("a", "1").await.unwrap();
    assert_eq!((written.effective_w, written.sloppy), (1, false));
    assert_eq!(
        texts(&node.get("a").await.unwrap()),
        BTreeSet::from(["1".to_owned()])
    );
    node.put("a", vec![0, 255])
        .w(1)
        .timeout(TIMEOUT)
        .await
        .unwrap();
    let fetched = node
        .get("a")
        .r(1)
        .repair_first()
        .timeout(TIMEOUT)
        .await
        .unwrap();
    assert_eq!(fetched.value().unwrap().unwrap()[..], [0, 255]);
    node.delete("a").await.unwrap();
    assert!(node.get("a").await.unwrap().siblings.is_empty());

    node.put("passing", "x")
        .ttl(Duration::from_millis(10))
        .await
        .unwrap();
    eventually("the value expires", async || {
        node.get("passing").await.unwrap().siblings.is_empty()
    })
    .await;
    let client = node.client();
    assert_eq!(client.stats().await.unwrap().node_id.as_str(), "alone");
    assert_eq!(client.status().await.unwrap().members.len(), 1);
    assert!(client.health().await.unwrap().ready);
    assert_eq!(
        client.ring().await.unwrap().addresses,
        [node.address().to_string()]
    );
    shut_down([node]).await;
}

#[tokio::test]
async fn writes_that_did_not_know_of_each_other_become_siblings() {
    let (_root, _, node) = alone().await;
    node.put("cart", "empty").await.unwrap();
    let seen = node.get("cart").await.unwrap().context;
    node.put("cart", "milk")
        .context(seen.clone())
        .await
        .unwrap();
    // The one who comes second is known to the network client as well.
    let address = [node.address().to_string()];
    let remote = Client::builder().seeds(address).build().await.unwrap();
    remote.put("cart", "bread").context(seen).await.unwrap();
    let both = node.get("cart").await.unwrap();
    assert_eq!(both.value().unwrap_err().siblings, 2);
    assert_eq!(texts(&both), ["bread", "milk"].map(str::to_owned).into());
    node.put("cart", "milk, bread")
        .context(both.context.clone())
        .await
        .unwrap();
    assert_eq!(remote.get("cart").await.unwrap().siblings.len(), 1);

    // A context is good for its key only, and for whole bytes only.
    let elsewhere = node.put("other", "x").context(both.context).await;
    assert_eq!(code(elsewhere), Some(ErrorCode::BadRequest));
    let garbage = Context::from(bytes::Bytes::from_static(b"garbage"));
    let refused = node.delete("cart").context(garbage).await;
    assert_eq!(code(refused), Some(ErrorCode::BadRequest));
    assert_eq!(node.get("cart").await.unwrap().siblings.len(), 1);
    shut_down([node]).await;
}

/// What a clone sends as well is the same write, and leaves one sibling.
#[tokio::test]
async fn a_request_keeps_its_write_id() {
    let (_root, _, node) = alone().await;
    let seen = node.get("a").await.unwrap().context;
    let put = node.put("a", "1").context(seen.clone());
    let (first, second) = (put.clone().await.unwrap(), put.await.unwrap());
    assert_eq!(first.context, second.context, "the second changed nothing");
    node.put("a", "2").context(seen).await.unwrap();
    assert_eq!(node.get("a").await.unwrap().siblings.len(), 2);
    shut_down([node]).await;
}

#[tokio::test]
async fn limits_are_typed_errors_and_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let config = Config {
        value_bytes_max: 64 * 1024,
        ..config(root.path(), "small")
    };
    let node = Node::start(config).await.unwrap();
    let largest = vec![7; 64 * 1024];
    node.put("a", largest.clone()).await.unwrap();
    let too_large = vec![8; 64 * 1024 + 1];
    assert_eq!(
        code(node.put("a", too_large).await),
        Some(ErrorCode::TooLarge)
    );
    let invalid = |result: Result<_, Error>| matches!(result.err(), Some(Error::Invalid { .. }));
    assert!(invalid(node.put("a", vec![9; 16 * 1024 * 1024 + 1]).await));
    assert!(invalid(node.put("", "x").await));
    assert!(invalid(node.put(vec![b'k'; 4097], "x").await));
    assert!(invalid(node.put("a", "x").timeout(Duration::ZERO).await));
    assert!(invalid(
        node.put("a", "x").timeout(Duration::from_secs(61)).await
    ));
    assert!(invalid(node.put("a", "x").ttl(Duration::ZERO).await));
    assert_eq!(
        code(node.put("a", "x").w(2).await),
        Some(ErrorCode::BadRequest)
    );
    assert_eq!(code(node.get("a").r(0).await), Some(ErrorCode::BadRequest));
    let fetched = node.get("a").await.unwrap();
    assert_eq!(fetched.value().unwrap().unwrap()[..], largest[..]);
    node.put(vec![b'k'; 4096], "x").await.unwrap();
    shut_down([node]).await;
}

/// A value of the largest size that any setting permits, there and back, beside a hundred others.
#[tokio::test]
async fn large_values_come_back_whole() {
    let root = tempfile::tempdir().unwrap();
    let config = Config {
        value_bytes_max: 16 * 1024 * 1024,
        ..config(root.path(), "large")
    };
    let node = Node::start(config).await.unwrap();
    let value: Vec<u8> = (0..16 * 1024 * 1024_u32)
        .map(|at| (at / 251) as u8)
        .collect();
    node.put("large", value.clone())
        .timeout(TIMEOUT)
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let client = node.client();
        tasks.spawn(async move { client.get("large").timeout(TIMEOUT).await });
    }
    for fetched in in_time("ten large reads", tasks.join_all()).await {
        let fetched = fetched.unwrap();
        assert!(
            fetched.value().unwrap().unwrap()[..] == value[..],
            "it came back otherwise"
        );
    }
    shut_down([node]).await;
}

/// Far more callers than the node takes in hand wait for each other and are not refused.
#[tokio::test]
async fn many_tasks_share_a_node_that_takes_little_in_hand() {
    let root = tempfile::tempdir().unwrap();
    let config = Config {
        requests_in_flight_max: 8,
        bytes_in_flight_max: 4 * 1024 * 1024,
        ..config(root.path(), "busy")
    };
    let node = Node::start(config).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..200_u32 {
        let client = node.client();
        tasks.spawn(async move {
            for step in 0..5 {
                let (key, value) = (format!("{task}/{step}"), vec![task as u8; 1000]);
                client.put(&key, value.clone()).timeout(PATIENCE).await?;
                let fetched = client.get(&key).timeout(PATIENCE).await?;
                assert_eq!(fetched.value().unwrap().unwrap()[..], value[..]);
            }
            Ok::<_, Error>(())
        });
    }
    for result in in_time("all tasks", tasks.join_all()).await {
        result.unwrap();
    }
    assert_eq!(node.client().stats().await.unwrap().total_keys, 1000);
    assert_eq!(metric(&node, "dynakv_requests_refused_total").await, 0.0);
    shut_down([node]).await;
}

/// Nodes on a runtime of several threads, asked from another runtime as well, which then ends first.
#[test]
fn nodes_live_on_any_runtime() {
    let root = tempfile::tempdir().unwrap();
    let runtime = |threads| {
        let builder = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build();
        builder.unwrap()
    };
    let (theirs, ours) = (runtime(4), runtime(2));
    let nodes = theirs.block_on(cluster(root.path(), 3, (3, 2, 2)));
    let ask = |client: LocalClient, task: usize| async move {
        for step in 0..20 {
            let (key, value) = (format!("{task}/{step}"), format!("{task} {step}"));
            let put = client.put(&key, value.clone()).timeout(TIMEOUT);
            put.await?;
            let fetched = client.get(&key).timeout(TIMEOUT).await?;
            assert_eq!(texts(&fetched), BTreeSet::from([value]));
        }
        Ok::<_, Error>(())
    };
    let mut asking = JoinSet::new();
    for task in 0..24 {
        let here = if task % 2 == 0 { &theirs } else { &ours };
        asking.spawn_on(ask(nodes[task % 3].client(), task), here.handle());
    }
    theirs.block_on(async {
        for result in in_time("all tasks", asking.join_all()).await {
            result.unwrap();
        }
    });
    drop(ours);
    theirs.block_on(async {
        nodes[0].put("last", "x").await.unwrap();
        shut_down(nodes).await;
    });
}

/// With one copy of each key, most requests reach a node that has none and forwards them.
#[tokio::test]
async fn any_node_serves_keys_that_it_does_not_own() {
    let root = tempfile::tempdir().unwrap();
    let nodes = cluster(root.path(), 3, (1, 1, 1)).await;
    let key = |number: usize| format!("key-{number}");
    for number in 0..60 {
        let node = &nodes[number % 3];
        node.put(key(number), number.to_string())
            .timeout(TIMEOUT)
            .await
            .unwrap();
    }
    for number in 0..60 {
        for node in &nodes {
            let fetched = node.get(key(number)).timeout(TIMEOUT).await.unwrap();
            assert_eq!(
                fetched.value().unwrap().unwrap()[..],
                *number.to_string().as_bytes()
            );
        }
    }
    let mut kept = Vec::new();
    for node in &nodes {
        kept.push(node.client().stats().await.unwrap().total_keys);
    }
    assert_eq!(kept.iter().sum::<u64>(), 60, "{kept:?}");
    assert!(
        kept.iter().all(|count| *count < 60),
        "one has all: {kept:?}"
    );
    nodes[1].delete(key(0)).timeout(TIMEOUT).await.unwrap();
    for node in &nodes {
        assert!(node.get(key(0)).await.unwrap().siblings.is_empty());
    }
    shut_down(nodes).await;
}

#[tokio::test]
async fn a_node_without_a_cluster_says_so() {
    let root = tempfile::tempdir().unwrap();
    // A port that nobody listens on once this is dropped.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = Config {
        seeds: vec![nobody.to_string()],
        ..config(root.path(), "waiting")
    };
    let node = Node::start(config).await.unwrap();
    assert_eq!(code(node.put("a", "1").await), Some(ErrorCode::NotReady));
    assert_eq!(code(node.get("a").await), Some(ErrorCode::NotReady));
    assert_eq!(
        code(node.client().status().await),
        Some(ErrorCode::NotReady)
    );
    let error = node.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, NotReady::TimedOut { .. }), "{error:?}");
    assert!(
        error.to_string().contains("not in a cluster yet"),
        "{error}"
    );
    shut_down([node]).await;
}

#[tokio::test]
async fn waiting_for_members_says_how_many_there_are() {
    let (_root, _, node) = alone().await;
    node.ready(PATIENCE).await.unwrap();
    node.wait_for_members(1, PATIENCE).await.unwrap();
    let error = node
        .wait_for_members(2, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("1 members"), "{error}");
    shut_down([node]).await;
}

/// Wrong settings are refused before anything is touched.
#[tokio::test]
async fn wrong_settings_are_named() {
    let root = tempfile::tempdir().unwrap();
    let good = config(root.path(), "wrong");
    let wrong = [
        (
            "w",
            Config {
                n: Some(2),
                w: Some(3),
                ..good.clone()
            },
        ),
        (
            "dead_after",
            Config {
                dead_after: Duration::ZERO,
                ..good.clone()
            },
        ),
        (
            "value_bytes_max",
            Config {
                value_bytes_max: usize::MAX,
                ..good.clone()
            },
        ),
        (
            "seed",
            Config {
                seeds: vec!["nowhere".to_owned()],
                ..good.clone()
            },
        ),
    ];
    for (setting, config) in wrong {
        match Node::start(config).await {
            Err(ServeError::Setting { name, .. }) => assert_eq!(name, setting),
            other => panic!("{setting}: {other:?}"),
        }
    }
    assert!(!good.data_dir.exists());
}

#[tokio::test]
async fn a_directory_serves_one_node_at_a_time() {
    let (_root, config, node) = alone().await;
    let error = Node::start(config).await.unwrap_err();
    assert!(error.to_string().contains("uses this directory"), "{error}");
    node.put("a", "1").await.unwrap();
    shut_down([node]).await;
}

/// Started again and again in one process, at once, with the same directory.
#[tokio::test]
async fn a_node_can_be_stopped_and_started_again() {
    let (_root, config, mut node) = alone().await;
    let mut actors = BTreeSet::new();
    for round in 0..5 {
        node.put(format!("round-{round}"), "x").await.unwrap();
        shut_down([node]).await;
        node = Node::start(config.clone()).await.unwrap();
        node.ready(PATIENCE).await.unwrap();
        for earlier in 0..=round {
            let fetched = node.get(format!("round-{earlier}")).await.unwrap();
            actors.insert(fetched.siblings[0].dot.actor.to_string());
        }
    }
    assert_eq!(actors.len(), 1, "every stop was a clean one: {actors:?}");
    shut_down([node]).await;
}

/// A node of a cluster comes back on other ports, and the others find it.
#[tokio::test]
async fn a_node_may_come_back_on_another_port() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes = cluster(root.path(), 3, (3, 2, 2)).await;
    nodes[0].put("a", "1").timeout(TIMEOUT).await.unwrap();
    shut_down(nodes.pop()).await;
    nodes[0].put("a", "2").timeout(TIMEOUT).await.unwrap();
    // No seed, no port: it knows the others from its directory.
    let back = Node::start(config(root.path(), "node-3")).await.unwrap();
    back.ready(PATIENCE).await.unwrap();
    let fetched = back.get("a").timeout(TIMEOUT).await.unwrap();
    assert_eq!(texts(&fetched), BTreeSet::from(["2".to_owned()]));
    nodes.push(back);
    eventually("a write of all three owners", async || {
        nodes[0].put("a", "3").w(3).timeout(TIMEOUT).await.is_ok()
    })
    .await;
    shut_down(nodes).await;
}

/// Writes until the node ends; gives back what was acknowledged, and the error at the end.
async fn write_until_the_end(client: LocalClient, writer: u32) -> (Vec<String>, Error) {
    let mut acknowledged = Vec::new();
    loop {
        let key = format!("{writer}/{}", acknowledged.len());
        match client.put(&key, key.clone()).timeout(TIMEOUT).await {
            Ok(_) => acknowledged.push(key),
            Err(error) => return (acknowledged, error),
        }
    }
}

/// Requests under way when the node stops end, with an answer or an error; what was acknowledged stays.
#[tokio::test]
async fn a_shutdown_leaves_nobody_waiting_and_loses_nothing() {
    let (_root, config, node) = alone().await;
    node.put("first", "x").await.unwrap();
    let client = node.client();
    let mut tasks = JoinSet::new();
    for writer in 0..50 {
        tasks.spawn(write_until_the_end(client.clone(), writer));
    }
    eventually("some writes are acknowledged", async || {
        client.stats().await.unwrap().total_keys > 100
    })
    .await;
    shut_down([node]).await;
    let mut acknowledged = Vec::new();
    for (keys, error) in in_time("every writer ends", tasks.join_all()).await {
        let is_end = error.code() == Some(ErrorCode::NotReady)
            || matches!(
                error,
                Error::ConnectionLost { .. } | Error::Unreachable { .. }
            );
        assert!(is_end && error.is_retryable(), "{error:?}");
        acknowledged.extend(keys);
    }
    let error = client.get("first").await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("the node was shut down"),
        "{error}"
    );
    assert!(client.health().await.is_err());

    let node = Node::start(config).await.unwrap();
    for key in acknowledged {
        assert_eq!(texts(&node.get(&key).await.unwrap()), BTreeSet::from([key]));
    }
    shut_down([node]).await;
}

#[tokio::test]
async fn a_dropped_node_leaves_nobody_waiting() {
    let (_root, _, node) = alone().await;
    node.put("first", "x").await.unwrap();
    let client = node.client();
    let writer = tokio::spawn(write_until_the_end(client.clone(), 1));
    tokio::task::yield_now().await;
    drop(node);
    let (_, error) = in_time("the writer ends", writer).await.unwrap();
    assert!(error.is_retryable(), "{error:?}");
    eventually("the client knows that the node is gone", async || {
        let error = client.get("first").await.unwrap_err();
        error.to_string().contains("the node was dropped")
    })
    .await;
}

/// A disk that takes nothing more: whoever asks is told, and nothing hangs or panics on the way out.
#[tokio::test]
async fn a_failed_disk_ends_the_node_with_a_reason() {
    let root = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new();
    let environment = Environment {
        network: Arc::new(TcpNetwork),
        clock: Arc::new(SystemClock),
        seed: 1,
        disk: Disk {
            store: Arc::new(disk.store()),
            hints: disk.hints(),
            files: Arc::new(disk.files()),
            threads: StoreThreads::Own,
        },
    };
    let config = config(root.path(), "failing");
    let mut node = Node::start_in(config, environment).await.unwrap();
    node.put("a", "1").await.unwrap();
    disk.break_writes();
    let error = node.put("a", "2").await.unwrap_err();
    assert!(error.maybe_applied(), "{error:?}");
    let failure = in_time("the failure", node.failed()).await;
    assert!(matches!(&failure, ServeError::DiskFailed(_)), "{failure:?}");
    let error = node.put("a", "3").await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("disk"), "{error}");
    assert!(node.ready(PATIENCE).await.is_err());
    shut_down([node]).await;
}

/// A node that its cluster does not want: everybody who asks is told why, and it can still be shut down.
#[tokio::test]
async fn a_refused_node_says_why_wherever_it_is_asked() {
    let root = tempfile::tempdir().unwrap();
    let founder = Node::start(config(root.path(), "founder")).await.unwrap();
    founder.put("a", "1").await.unwrap();
    let late = Config {
        seeds: vec![founder.address().to_string()],
        // The cluster keeps three copies.
        n: Some(5),
        ..config(root.path(), "late")
    };
    let directory = late.data_dir.clone();
    let mut node = Node::start(late).await.unwrap();
    let error = node.ready(PATIENCE).await.unwrap_err();
    assert!(matches!(&error, NotReady::Ended { .. }), "{error:?}");
    assert!(error.to_string().contains("refused this node"), "{error}");
    let again = node.ready(PATIENCE).await.unwrap_err();
    assert_eq!(again, error, "at once, and the same");
    let failure = in_time("the failure", node.failed()).await;
    assert!(matches!(&failure, ServeError::Control(_)), "{failure:?}");
    let health = node.client().health().await;
    assert!(
        health
            .unwrap_err()
            .to_string()
            .contains("refused this node")
    );
    shut_down([node]).await;
    let marker = directory.join("clean-stop");
    assert!(!marker.exists(), "its next start is an unclean one");
    shut_down([founder]).await;
    let marker = root.path().join("founder/clean-stop");
    assert!(marker.exists(), "where the marker of a clean stop is");
}

/// Each node counts for itself, and the program's own requests are no connection.
#[tokio::test]
async fn nodes_in_one_process_keep_their_metrics_apart() {
    let root = tempfile::tempdir().unwrap();
    let a = Node::start(config(root.path(), "a")).await.unwrap();
    let b = Node::start(config(root.path(), "b")).await.unwrap();
    for _ in 0..3 {
        a.get("x").await.unwrap();
    }
    b.get("x").await.unwrap();
    let gets = r#"dynakv_requests_total{node="NODE",op="get",result="ok"}"#;
    for (node, name, count) in [(&a, "a", 3.0), (&b, "b", 1.0)] {
        assert_eq!(metric(node, &gets.replace("NODE", name)).await, count);
        assert_eq!(metric(node, "dynakv_connections{").await, 0.0);
    }
    shut_down([a, b]).await;
}

/// The value of the first metric whose line begins like this.
async fn metric(node: &Node, prefix: &str) -> f64 {
    let mut stream = TcpStream::connect(node.http_address().unwrap())
        .await
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find(|line| line.starts_with(prefix));
    let line = line.unwrap_or_else(|| panic!("no {prefix} in {page}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

mod examples {
    use super::*;

    /// Where cargo puts the examples that it builds together with this test.
    fn executable(name: &str) -> PathBuf {
        let test = std::env::current_exe().unwrap();
        let built = test.parent().and_then(Path::parent).unwrap();
        let path = built.join("examples").join(name);
        let advice = "build the examples first: cargo build -p dynakv --examples";
        let modified = |path: &Path| path.metadata().and_then(|found| found.modified());
        let built = modified(&path).unwrap_or_else(|e| panic!("{}: {e}; {advice}", path.display()));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        for source in [
            folder.join(format!("{name}.rs")),
            folder.join("support/mod.rs"),
        ] {
            assert!(
                modified(&source).unwrap() <= built,
                "{name} is out of date; {advice}"
            );
        }
        path
    }

    /// Runs an example to its end; it must succeed and say all of this, in this order.
    #[track_caller]
    fn tells(name: &str, sentences: &[&str]) {
        let output = std::process::Command::new(executable(name))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}\n{told}\n{complaint}",
            output.status
        );
        let mut rest = &told[..];
        for sentence in sentences {
            match rest.split_once(sentence) {
                Some((_, after)) => rest = after,
                None => panic!("{name} does not say {sentence:?} (any more) in:\n{told}"),
            }
        }
    }

    #[test]
    fn a_shopping_cart_takes_every_item() {
        tells(
            "shopping_cart",
            &[
                "N = 3, W = 1, R = 1",
                r#"two siblings: {"bread\nmilk", "eggs\nmilk"}"#,
                r#"union is {"bread", "eggs", "milk"}"#,
                "node-3 is stopped.",
                "node-1 took the tea all the same",
                "node-2 is stopped.",
                "Even the last node alone takes an item",
                "No addition was refused and none was lost.",
            ],
        );
    }

    #[test]
    fn an_inventory_sells_nothing_that_a_copy_does_not_know_of() {
        tells(
            "inventory",
            &[
                "N = 3, W = 3, R = 1",
                "2 left, at each of the 3 nodes, read with R = 1.",
                "no compare-and-swap",
                "-1 teapots left",
                "order-4 is cancelled",
                "order-5 is refused: 3 owners are needed, 2 can be reached.",
                "2 left, at each of the 2 nodes, read with R = 1.",
                "order-5 takes one.",
                "Every sale that was acknowledged is in every copy.",
            ],
        );
    }

    #[test]
    fn a_user_profile_survives_a_node() {
        tells(
            "user_profile",
            &[
                "N = 3, W = 2, R = 2",
                "Read at node-2 and node-3 at once",
                "saved at node-2, read at node-1",
                "node-3 is back",
                "That read has mended node-3",
                "the read needs 2 owners",
                "the write needs 2 owners",
                "No read missed an acknowledged write.",
            ],
        );
    }
}
