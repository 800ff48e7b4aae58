//! Many keys in one call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dynakv_client::{Error, ErrorCode};
use dynakv_protocol::message::{Request, Response};
use rustc_hash::FxHashSet;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::server::{Peer, answering, client_of, fetched, key_of, refused, serve, written};

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}

#[tokio::test]
async fn results_are_in_the_order_of_the_keys_and_fail_one_by_one() {
    let server = answering(|request| {
        let key = key_of(&request);
        match request {
            _ if key.ends_with(b"7") => refused(ErrorCode::BadRequest),
            Request::Put(write) => {
                assert_eq!(write.value, Some(key));
                assert_eq!(write.w, Some(3));
                assert_eq!(write.ttl_ms, Some(9000));
                written()
            }
            Request::Get(get) => {
                assert_eq!(get.r, Some(1));
                fetched(&key)
            }
            other => panic!("unexpected {other:?}"),
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let keys = keys(1000);
    let puts = client.put_many(keys.iter().map(|key| (key, key.clone())));
    let puts = puts.w(3).ttl(Duration::from_secs(9)).await.unwrap();
    let gets = client.get_many(&keys).r(1).window(7).await.unwrap();
    assert_eq!((puts.len(), gets.len()), (1000, 1000));
    for ((key, put), get) in keys.iter().zip(puts).zip(gets) {
        if key.ends_with('7') {
            assert_eq!(put.unwrap_err().code(), Some(ErrorCode::BadRequest));
            assert_eq!(get.unwrap_err().code(), Some(ErrorCode::BadRequest));
        } else {
            put.unwrap();
            assert_eq!(get.unwrap().value().unwrap().unwrap(), key.as_bytes());
        }
    }
    let nothing: [&str; 0] = [];
    assert!(client.get_many(nothing).await.unwrap().is_empty());
    let empty_key = client.get_many(["", "a"]).r(1).await.unwrap();
    assert!(matches!(empty_key[0], Err(Error::Invalid { .. })));
    assert!(empty_key[1].is_ok());
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_sent() {
    let server = answering(|request| panic!("unexpected {request:?}")).await;
    let client = client_of(&[&server]).await;
    for request in [
        client.get_many(["k"]).window(0),
        client.get_many(["k"]).window(1 << 20),
        client.get_many(["k"]).timeout(Duration::ZERO),
    ] {
        assert!(matches!(request.await, Err(Error::Invalid { .. })));
    }
}

#[tokio::test]
async fn a_hundred_thousand_keys_leave_in_few_frames() {
    const COUNT: usize = 100_000;
    let frames = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&frames);
    let server = serve(move |mut peer: Peer| {
        let counted = Arc::clone(&counted);
        async move {
            while let Some((id, request)) = peer.request().await {
                counted.store(peer.frames, Ordering::Relaxed);
                let response = match request {
                    Request::Ping => Response::Pong,
                    other => fetched(&key_of(&other)),
                };
                peer.answer(id, &response).await;
            }
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let keys = keys(COUNT);
    let gets = client.get_many(&keys).timeout(Duration::from_secs(60));
    let results = gets.await.unwrap();
    for (key, result) in keys.iter().zip(results) {
        let value = result.unwrap();
        assert_eq!(value.value().unwrap().unwrap(), key.as_bytes());
    }
    let frames = frames.load(Ordering::Relaxed);
    assert!(frames < COUNT / 4, "{COUNT} requests in {frames} frames");
}

/// A server that tells of every data request and answers when it is told to.
async fn on_demand() -> (String, mpsc::UnboundedReceiver<Bytes>, mpsc::Sender<()>) {
    let (told, arrived) = mpsc::unbounded_channel();
    let (go, gone) = mpsc::channel(1024);
    let gone = Arc::new(tokio::sync::Mutex::new(gone));
    let server = serve(move |mut peer| {
        let (told, gone) = (told.clone(), Arc::clone(&gone));
        async move {
            let mut held = Vec::new();
            loop {
                let mut gone = gone.lock().await;
                tokio::select! {
                    request = peer.request() => match request {
                        None => return,
                        Some((id, Request::Ping)) => peer.answer(id, &Response::Pong).await,
                        Some((id, request)) => {
                            let key = key_of(&request);
                            held.push((id, key.clone()));
                            told.send(key).unwrap();
                        }
                    },
                    Some(()) = gone.recv() => {
                        let (id, key) = held.pop().unwrap();
                        peer.answer(id, &fetched(&key)).await;
                    }
                }
            }
        }
    })
    .await;
    (server, arrived, go)
}

#[tokio::test]
async fn no_more_than_the_window_is_under_way_and_dropping_ends_it() {
    const WINDOW: usize = 10;
    let (server, mut arrived, answer) = on_demand().await;
    let client = client_of(&[&server]).await;
    let many = client.get_many(keys(100)).window(WINDOW).send();
    let task = tokio::spawn(many);
    for _ in 0..WINDOW {
        arrived.recv().await.unwrap();
    }
    let moment = Duration::from_millis(50);
    let beyond = timeout(moment, arrived.recv()).await;
    assert!(beyond.is_err(), "{beyond:?} is beyond the window");
    // One answer, one more request.
    answer.send(()).await.unwrap();
    arrived.recv().await.unwrap();
    assert!(timeout(moment, arrived.recv()).await.is_err());

    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // The lanes are gone: answers set no new requests off.
    for _ in 0..WINDOW {
        answer.send(()).await.unwrap();
    }
    let after = timeout(moment, arrived.recv()).await;
    assert!(after.is_err(), "{after:?} after the end");
}

#[tokio::test]
async fn one_deadline_holds_for_all() {
    // Ten are answered, then there is silence (but for pings).
    let server = serve(|mut peer| async move {
        let mut left = 10;
        while let Some((id, request)) = peer.request().await {
            match request {
                Request::Ping => peer.answer(id, &Response::Pong).await,
                _ if left == 0 => {}
                request => {
                    left -= 1;
                    peer.answer(id, &fetched(&key_of(&request))).await;
                }
            }
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let many = client.get_many(keys(5000)).window(20);
    let many = many.timeout(Duration::from_secs(2));
    // One after the other 250 lots of 20 would take 500 s.
    let results = timeout(Duration::from_secs(50), many.send()).await;
    let results = results.expect("one deadline for all").unwrap();
    assert_eq!(results.len(), 5000);
    let answered = results.iter().filter(|result| result.is_ok()).count();
    assert!((1..=10).contains(&answered), "{answered} were answered");
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }
}

#[tokio::test]
async fn overload_is_waited_for_key_by_key() {
    // Every key is refused three times.
    let refusals = Mutex::new(rustc_hash::FxHashMap::<Bytes, u32>::default());
    let stored = Arc::new(Mutex::new(FxHashSet::default()));
    let taken = Arc::clone(&stored);
    let server = answering(move |request| {
        let key = key_of(&request);
        let mut refusals = refusals.lock().unwrap();
        let refused_before = refusals.entry(key.clone()).or_default();
        *refused_before += 1;
        if *refused_before <= 3 {
            return refused(ErrorCode::Overloaded);
        }
        assert!(taken.lock().unwrap().insert(key), "stored once");
        written()
    })
    .await;
    let client = client_of(&[&server]).await;
    let pairs = keys(500).into_iter().map(|key| (key, "value"));
    let many = client.put_many(pairs).timeout(Duration::from_secs(60));
    let results = many.await.unwrap();
    for result in results {
        result.unwrap();
    }
    assert_eq!(stored.lock().unwrap().len(), 500);
}
