//! Read, merge, write, without a socket.

use dynakv::embedded::Update;

use super::*;

/// The lines of all siblings.
fn lines(found: &Fetched) -> BTreeSet<String> {
    let texts = texts(found);
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.map(str::to_owned).collect()
}

/// Adds a line to a set of lines.
fn with_line(found: &Fetched, line: &str) -> Update {
    let mut lines = lines(found);
    if !lines.insert(line.to_owned()) && found.siblings.len() == 1 {
        return Update::Keep;
    }
    Update::put(lines.into_iter().collect::<Vec<_>>().join("\n"))
}

/// Through all nodes of a cluster and from the network, at once.
#[tokio::test]
async fn concurrent_updates_lose_nobodys_change() {
    let root = tempfile::tempdir().unwrap();
    let nodes = cluster(root.path(), 3, (3, 2, 2)).await;
    let seeds = [nodes[0].address().to_string()];
    let remote = Client::builder().seeds(seeds).build().await.unwrap();
    // Too many rounds are no loss: the siblings stay, and the next update merges them.
    let is_kept = |error: &Error| matches!(error, Error::Contended { .. });
    let mut tasks = JoinSet::new();
    let mut expected = BTreeSet::new();
    for task in 0..12 {
        let line = |step: usize| format!("{task}/{step}");
        expected.extend((0..4).map(line));
        let (local, remote) = (nodes[task % 3].client(), remote.clone());
        tasks.spawn(async move {
            for step in 0..4 {
                let line = format!("{task}/{step}");
                let change = |found: &Fetched| with_line(found, &line);
                let updated = match task % 4 {
                    3 => remote.update("lines", change).timeout(TIMEOUT).await,
                    _ => local.update("lines", change).timeout(TIMEOUT).await,
                };
                match updated {
                    Err(error) if !is_kept(&error) => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        });
    }
    for result in in_time("all updates", tasks.join_all()).await {
        result.unwrap();
    }
    let last = nodes[1].update("lines", |found| with_line(found, "last"));
    let last = last.timeout(TIMEOUT).await.unwrap();
    expected.insert("last".to_owned());
    assert_eq!(last.fetched.siblings.len(), 1);
    assert_eq!(lines(&last.fetched), expected);
    shut_down(nodes).await;
}

/// Writes a sibling beside what an update is about to write.
fn write_beside(client: &LocalClient, found: &Fetched, value: &'static str) {
    let put = client.put("cart", value).context(found.context.clone());
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| handle.block_on(put.into_future())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_sees_who_came_between_and_merges() {
    let (_root, _, node) = alone().await;
    let rival = node.client();
    let mut asked = 0;
    let updated = node.update("cart", |found| {
        asked += 1;
        if asked == 1 {
            write_beside(&rival, found, "bread");
        }
        with_line(found, "milk")
    });
    let updated = updated.timeout(TIMEOUT).w(1).r(1).await.unwrap();
    assert_eq!((updated.rounds, asked), (2, 2));
    let both = ["bread", "milk"].map(str::to_owned).into();
    assert_eq!(lines(&updated.fetched), both);
    assert_eq!(updated.fetched, node.get("cart").await.unwrap());

    // With one round it gives up, and loses nothing.
    let contended = node.update("cart", |found| {
        write_beside(&rival, found, "bread\nmilk\ntea");
        with_line(found, "salt")
    });
    match contended.rounds(1).await {
        Err(Error::Contended { rounds: 1, last }) => {
            assert_eq!(last.siblings.len(), 2);
            let all = ["bread", "milk", "salt", "tea"].map(str::to_owned).into();
            assert_eq!(lines(&last), all);
        }
        other => panic!("{other:?}"),
    }
    shut_down([node]).await;
}

#[tokio::test]
async fn an_update_may_keep_or_delete_and_its_options_are_checked() {
    let (_root, _, node) = alone().await;
    let client = node.client();
    node.put("a", "1").await.unwrap();
    let kept = client.update("a", |_| Update::Keep).await.unwrap();
    assert_eq!((kept.written, kept.rounds), (None, 1));
    assert_eq!(texts(&kept.fetched), BTreeSet::from(["1".to_owned()]));
    // Of a tombstone the time to live is of no account.
    let deleted = client.update("a", |_| Update::Delete);
    let deleted = deleted.ttl(Duration::from_secs(9)).await.unwrap();
    assert!(deleted.fetched.is_absent() && deleted.written.is_some());
    let passing = client.update("b", |_| Update::put("x"));
    passing.ttl(Duration::from_millis(10)).await.unwrap();
    eventually("the value expires", async || {
        client.get("b").await.unwrap().is_absent()
    })
    .await;
    let never = |_: &Fetched| -> Update { panic!("nothing was read") };
    for wrong in [
        client.update("a", never).rounds(0),
        client.update("a", never).timeout(Duration::ZERO),
        client.update("", never),
    ] {
        let result = wrong.await;
        assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    }
    shut_down([node]).await;
}
