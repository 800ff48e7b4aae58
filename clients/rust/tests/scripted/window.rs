//! The window: how much may be in flight on one connection.

use std::time::Duration;

use bytes::Bytes;
use dynakv_client::{Client, Error};
use dynakv_protocol::message::{Request, Response};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::server::{fetched, key_of, serve};

/// A node that notes the keys it is asked for and answers only pings and those that end in "!".
async fn noting() -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let (told, arrived) = mpsc::unbounded_channel();
    let server = serve(move |mut peer| {
        let told = told.clone();
        async move {
            while let Some((id, request)) = peer.request().await {
                if request == Request::Ping {
                    peer.answer(id, &Response::Pong).await;
                    continue;
                }
                let key = key_of(&request);
                told.send(key.clone()).unwrap();
                if key.ends_with(b"!") {
                    peer.answer(id, &fetched(&key)).await;
                }
            }
        }
    });
    (server.await, arrived)
}

async fn client_with_window(server: &str, window: u32) -> Result<Client, Error> {
    let builder = Client::builder().seeds([server]).ring_routing(false);
    builder.window(window).build().await
}

const MOMENT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn callers_beyond_the_window_wait_and_a_dropped_one_gives_its_place_back() {
    let (server, mut arrived) = noting().await;
    let client = client_with_window(&server, 2).await.unwrap();
    let get = |key: &'static str| tokio::spawn(client.get(key).send());
    let (first, second) = (get("a"), get("b"));
    arrived.recv().await.unwrap();
    arrived.recv().await.unwrap();
    let third = get("c!");
    let beyond = timeout(MOMENT, arrived.recv()).await;
    assert!(beyond.is_err(), "{beyond:?} is beyond the window");

    // One that waits is dropped: nothing changes.
    let impatient = get("d");
    assert!(timeout(MOMENT, arrived.recv()).await.is_err());
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    // One that is in flight is dropped: the next one goes.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(arrived.recv().await.unwrap(), "c!");
    third.await.unwrap().unwrap();
    // Its place is free again, too.
    client.get("e!").await.unwrap();
    second.abort();
}

#[tokio::test]
async fn the_deadline_holds_while_a_caller_waits_and_nothing_is_sent_after_it() {
    let (server, mut arrived) = noting().await;
    let client = client_with_window(&server, 1).await.unwrap();
    let long = tokio::spawn(client.get("long").send());
    assert_eq!(arrived.recv().await.unwrap(), "long");
    let put = client.put("k", "v").timeout(Duration::from_millis(100));
    let error = put.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(!error.maybe_applied(), "it was never sent");
    long.abort();
    client.get("next!").await.unwrap();
    assert_eq!(arrived.recv().await.unwrap(), "next!");
}

#[tokio::test]
async fn a_request_larger_than_the_window_goes_alone() {
    let (server, mut arrived) = noting().await;
    let client = client_with_window(&server, 3).await.unwrap();
    let large = client.put("large!", vec![1; 1 << 20]);
    // The answer is one to a get, which the client says it does not understand: it was sent.
    assert!(matches!(large.await, Err(Error::Protocol { .. })));
    assert_eq!(arrived.recv().await.unwrap(), "large!");
}

#[tokio::test]
async fn a_window_that_cannot_be_is_refused() {
    let (server, _arrived) = noting().await;
    for window in [0, u32::MAX] {
        let error = client_with_window(&server, window).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
}
