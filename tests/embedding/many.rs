//! Many keys in one call, without a socket.

use super::*;

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}

fn is_invalid<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Invalid { .. }))
}

/// Far more keys than the node takes in hand, and among them two that cannot be.
#[tokio::test]
async fn each_key_has_a_result_of_its_own_in_the_order_of_the_keys() {
    let root = tempfile::tempdir().unwrap();
    let config = Config {
        requests_in_flight_max: 8,
        ..config(root.path(), "many")
    };
    let node = Node::start(config).await.unwrap();
    let client = node.client();
    let mut keys = keys(1000);
    keys[300].clear();
    keys[700] = "k".repeat(4097);
    let pairs = keys.iter().map(|key| (key, format!("value of {key}")));
    let puts = client.put_many(pairs).w(1).timeout(PATIENCE).await.unwrap();
    let gets = node.get_many(&keys).r(1).timeout(PATIENCE).await.unwrap();
    assert_eq!((puts.len(), gets.len()), (1000, 1000));
    for (number, (put, get)) in puts.iter().zip(&gets).enumerate() {
        if number == 300 || number == 700 {
            assert!(is_invalid(put) && is_invalid(get), "{put:?}, {get:?}");
            continue;
        }
        assert_eq!(put.as_ref().unwrap().effective_w, 1);
        let value = format!("value of {}", keys[number]);
        assert_eq!(texts(get.as_ref().unwrap()), BTreeSet::from([value]));
    }
    assert_eq!(client.stats().await.unwrap().total_keys, 998);
    assert_eq!(metric(&node, "dynakv_requests_refused_total").await, 0.0);
    let nothing: [&str; 0] = [];
    assert!(client.get_many(nothing).await.unwrap().is_empty());
    shut_down([node]).await;
}

#[tokio::test]
async fn options_are_those_of_each_key_or_refused_for_all() {
    let (_root, _, node) = alone().await;
    let client = node.client();
    let puts = client.put_many([("a", "1"), ("b", "2")]);
    for put in puts.clone().w(2).await.unwrap() {
        assert_eq!(code(put), Some(ErrorCode::BadRequest));
    }
    for get in client.get_many(["a", "b"]).r(2).await.unwrap() {
        assert_eq!(code(get), Some(ErrorCode::BadRequest));
    }
    let passing = puts.clone().ttl(Duration::from_millis(10)).window(1);
    assert!(passing.await.unwrap().iter().all(Result::is_ok));
    eventually("both values expire", async || {
        let gets = client.get_many(["a", "b"]).repair_first().await.unwrap();
        gets.into_iter().all(|get| get.unwrap().is_absent())
    })
    .await;
    for wrong in [
        puts.clone().window(0),
        puts.clone().window(16 * 1024 + 1),
        puts.clone().timeout(Duration::ZERO),
        puts.timeout(Duration::from_secs(61)),
    ] {
        assert!(is_invalid(&wrong.await));
    }
    assert_eq!(client.get_many(["a"]).await.unwrap().len(), 1);
    shut_down([node]).await;
}

/// Keys that come after the deadline are not sent any more, however fast the node may be.
#[tokio::test]
async fn one_deadline_holds_for_all_keys() {
    const COUNT: usize = 20_000;
    let (_root, _, node) = alone().await;
    node.put("first", "x").await.unwrap();
    let client = node.client();
    let keys = keys(COUNT);
    let is_unsent = |error: Option<&Error>| {
        let timed_out = |error: &Error| matches!(error, Error::Timeout { .. });
        error.is_some_and(|error| timed_out(error) && !error.maybe_applied())
    };
    let short = Duration::from_millis(1);
    let puts = client.put_many(keys.iter().map(|key| (key, "x")));
    let puts = in_time("the puts", puts.timeout(short).into_future());
    let puts = puts.await.unwrap();
    assert_eq!(puts.len(), COUNT);
    let unsent = puts.iter().filter(|put| is_unsent(put.as_ref().err()));
    let unsent = unsent.count();
    assert!(is_unsent(puts[COUNT - 1].as_ref().err()) && unsent > COUNT / 2);
    let stored = client.stats().await.unwrap().total_keys;
    assert!(stored <= 1 + (COUNT - unsent) as u64, "{unsent}, {stored}");

    let gets = client.get_many(&keys).timeout(short).await.unwrap();
    assert!(is_unsent(gets[COUNT - 1].as_ref().err()));
    shut_down([node]).await;
}

#[tokio::test]
async fn after_the_end_of_the_node_every_key_says_so() {
    let (_root, _, node) = alone().await;
    let client = node.client();
    shut_down([node]).await;
    for get in client.get_many(["a", "b"]).await.unwrap() {
        let error = get.unwrap_err();
        assert!(error.to_string().contains("was shut down"), "{error}");
    }
}
