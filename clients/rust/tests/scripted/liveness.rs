//! Nodes that fall silent, die, and come back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dynakv_client::{Client, Error};
use dynakv_protocol::handshake::GoAway;
use dynakv_protocol::message::{Request, Response};
use tokio::net::TcpListener;

use crate::server::{
    answering, client_of, fetched, key_of, nobody, ring, serve, serve_on, written,
};

/// A node that answers until it is frozen, and then nothing more, as a stopped process does: its
/// connections stay open, and the system goes on accepting new ones.
async fn freezing(frozen: &Arc<AtomicBool>, asked: &Arc<AtomicUsize>) -> String {
    let (frozen, asked) = (Arc::clone(frozen), Arc::clone(asked));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            if frozen.load(Ordering::Relaxed) {
                open.push(stream);
                continue;
            }
            let (frozen, asked) = (Arc::clone(&frozen), Arc::clone(&asked));
            tokio::spawn(async move {
                let mut peer = crate::server::Peer::new(stream);
                peer.shake_hands(dynakv_protocol::ClusterId(7)).await;
                while let Some((id, request)) = peer.request().await {
                    let is_ping = request == Request::Ping;
                    if !is_ping {
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    if frozen.load(Ordering::Relaxed) {
                        continue;
                    }
                    let response = match request {
                        Request::Ping => Response::Pong,
                        _ => written(),
                    };
                    peer.answer(id, &response).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_frozen_node_costs_little_once_and_nothing_afterwards() {
    let (frozen, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let freezing = freezing(&frozen, &asked).await;
    let alive = answering(|_| written()).await;
    let client = client_of(&[&freezing, &alive]).await;
    client.put("k", "v").await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    frozen.store(true, Ordering::Relaxed);
    let mut tasks = Vec::new();
    let started = Instant::now();
    for _ in 0..20 {
        let put = client.put("k", "v").timeout(Duration::from_secs(60));
        tasks.push(tokio::spawn(put.send()));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // Without looking at the connection each would have waited for half of its minute.
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(25), "{waited:?}");
    let asked_before = asked.load(Ordering::Relaxed);
    for _ in 0..50 {
        client.put("k", "v").await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), asked_before);
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_while_pings_are_answered() {
    // Twice as long as a connection may be silent.
    const SLOW: Duration = Duration::from_millis(2500);
    let (connections, pings) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, heard) = (Arc::clone(&connections), Arc::clone(&pings));
    let server = serve(move |mut peer| {
        counted.fetch_add(1, Ordering::Relaxed);
        let heard = Arc::clone(&heard);
        async move {
            let mut held = None;
            loop {
                tokio::select! {
                    request = peer.request() => match request {
                        None => return,
                        Some((id, Request::Ping)) => {
                            heard.fetch_add(1, Ordering::Relaxed);
                            peer.answer(id, &Response::Pong).await;
                        }
                        Some((id, request)) => {
                            held = Some((id, key_of(&request), tokio::time::Instant::now() + SLOW));
                        }
                    },
                    () = tokio::time::sleep_until(held.as_ref().map_or_else(
                        || tokio::time::Instant::now() + SLOW,
                        |(_, _, due)| *due,
                    )), if held.is_some() => {
                        let (id, key, _) = held.take().unwrap();
                        peer.answer(id, &fetched(&key)).await;
                    }
                }
            }
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let get = client.get("k").timeout(Duration::from_secs(60));
    get.await.unwrap();
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let pings = pings.load(Ordering::Relaxed);
    assert!(pings > 1, "{pings} pings, the first is the client's own");
}

#[tokio::test]
async fn a_node_that_comes_back_is_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Accepts one connection, answers one ping, and is gone.
    let first = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut peer = crate::server::Peer::new(stream);
        peer.shake_hands(dynakv_protocol::ClusterId(7)).await;
        let (id, _ping) = peer.request().await.unwrap();
        peer.answer(id, &Response::Pong).await;
    });
    let alive = answering(|_| written()).await;
    let client = client_of(&[&address.to_string(), &alive]).await;
    first.await.unwrap();
    for _ in 0..20 {
        client.put("k", "v").await.unwrap();
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let listener = TcpListener::bind(address).await.unwrap();
    serve_on(listener, dynakv_protocol::ClusterId(7), move |mut peer| {
        let counted = Arc::clone(&counted);
        async move {
            while let Some((id, _)) = peer.request().await {
                counted.fetch_add(1, Ordering::Relaxed);
                peer.answer(id, &written()).await;
            }
        }
    });
    // Requests pass it over until somebody has connected it beside them.
    let patience = Instant::now() + Duration::from_secs(60);
    while asked.load(Ordering::Relaxed) == 0 {
        client.put("k", "v").await.unwrap();
        assert!(Instant::now() < patience, "the node was never asked again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_single_node_that_restarts_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (took, taken) = tokio::sync::oneshot::channel();
    let first = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut peer = crate::server::Peer::new(stream);
        peer.shake_hands(dynakv_protocol::ClusterId(7)).await;
        let (id, _ping) = peer.request().await.unwrap();
        peer.answer(id, &Response::Pong).await;
        let _put = peer.request().await.unwrap();
        // It ends with the request in hand, and listens again at once.
        took.send(TcpListener::bind(address).await.unwrap())
            .unwrap();
    });
    let second = tokio::spawn(async move {
        let listener = taken.await.unwrap();
        serve_on(
            listener,
            dynakv_protocol::ClusterId(7),
            |mut peer| async move {
                while let Some((id, _)) = peer.request().await {
                    peer.answer(id, &written()).await;
                }
            },
        );
    });
    let client = client_of(&[&address.to_string()]).await;
    client.put("k", "v").await.unwrap();
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test]
async fn reads_of_one_key_take_turns_and_its_writes_do_not() {
    let shown = Arc::new(Mutex::new(None));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut addresses = Vec::new();
    for number in 0..3 {
        let (shown, asked) = (Arc::clone(&shown), Arc::clone(&asked));
        let server = answering(move |request| match request {
            Request::Ring => Option::clone(&shown.lock().unwrap()).unwrap(),
            Request::Get(get) => {
                asked.lock().unwrap().push(("get", number));
                fetched(&get.key)
            }
            _ => {
                asked.lock().unwrap().push(("put", number));
                written()
            }
        });
        addresses.push(server.await);
    }
    *shown.lock().unwrap() = Some(ring(1, 3, &addresses));
    let client = Client::builder().seeds([&addresses[0]]).build().await;
    let client = client.unwrap();
    for _ in 0..60 {
        client.get("hot").await.unwrap();
        client.put("hot", "v").await.unwrap();
    }
    let asked: BTreeSet<_> = asked.lock().unwrap().iter().copied().collect();
    let of = |what: &str| asked.iter().filter(|(asked, _)| *asked == what).count();
    assert_eq!(of("get"), 3, "{asked:?}");
    assert_eq!(of("put"), 1, "{asked:?}");
}

#[tokio::test]
async fn a_named_node_answers_for_itself_alone() {
    let (first, second) = (
        answering(|_| written()).await,
        answering(|_| written()).await,
    );
    let client = client_of(&[&first]).await;
    assert_eq!(client.node_addresses(), [first.as_str()]);
    let other = client.node(&second).unwrap();
    assert_eq!(other.address(), second);
    // The script has no answer to this question.
    let error = other.stats().await.unwrap_err();
    assert!(
        matches!(&error, Error::Protocol { address, .. } if *address == second),
        "{error}"
    );
    let gone = client.node(&nobody().await).unwrap();
    let error = gone.health().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(matches!(client.node("nowhere"), Err(Error::Invalid { .. })));
}

/// A node that is about to end is not asked over and over whether it still is.
#[tokio::test]
async fn a_node_that_leaves_is_dialled_again_after_a_pause() {
    let hellos = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hellos);
    let leaving = serve(move |mut peer| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let goaway = GoAway {
                last_id: 0,
                drain_ms: 1000,
                reason: "shutting down".to_owned(),
            };
            if let Some((id, Request::Ping)) = peer.request().await {
                peer.answer(id, &Response::Pong).await;
            }
            peer.answer(0, &Response::GoAway(goaway)).await;
            while peer.request().await.is_some() {}
        }
    })
    .await;
    let other = answering(|_| written()).await;
    let client = client_of(&[&leaving, &other]).await;
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        client.put("k", "v").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let hellos = hellos.load(Ordering::Relaxed);
    assert!(hellos <= 2, "{hellos} hellos within the pause");
}

/// A node that says up to which request it has taken them: that one is waited for, those behind it go elsewhere at
/// once and are in no doubt.
#[tokio::test]
async fn what_a_leaving_node_did_not_take_goes_elsewhere_without_doubt() {
    const TAKEN: usize = 3;
    const COUNT: usize = 10;
    let hellos = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hellos);
    let leaving = serve(move |mut peer| {
        let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if !is_first {
                return;
            }
            let mut requests = Vec::new();
            while requests.len() < COUNT {
                match peer.request().await.unwrap() {
                    (id, Request::Ping) => peer.answer(id, &Response::Pong).await,
                    request => requests.push(request),
                }
            }
            let (last_id, _) = requests[TAKEN - 1];
            let goaway = GoAway {
                last_id,
                drain_ms: 1000,
                reason: "shutting down".to_owned(),
            };
            peer.answer(0, &Response::GoAway(goaway)).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            for (id, _) in &requests[..TAKEN] {
                peer.answer(*id, &written()).await;
            }
            // Pings are answered to the end.
            while let Some((id, request)) = peer.request().await {
                assert_eq!(request, Request::Ping, "nothing new comes here");
                peer.answer(id, &Response::Pong).await;
            }
        }
    })
    .await;
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&elsewhere);
    let other = answering(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        written()
    })
    .await;
    let client = client_of(&[&leaving, &other]).await;
    let mut tasks = Vec::new();
    for number in 0..COUNT {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            client.put(format!("key-{number}"), "v").await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(elsewhere.load(Ordering::Relaxed), COUNT - TAKEN);

    // With nobody else to ask, the error says that nothing was applied.
    let refusing = serve(|mut peer| async move {
        while let Some((id, request)) = peer.request().await {
            if request == Request::Ping {
                peer.answer(id, &Response::Pong).await;
                continue;
            }
            let goaway = GoAway {
                last_id: id - 1,
                drain_ms: 0,
                reason: "shutting down".to_owned(),
            };
            peer.answer(0, &Response::GoAway(goaway)).await;
        }
    })
    .await;
    let client = client_of(&[&refusing]).await;
    let error = client.put("k", "v").await.unwrap_err();
    assert!(!error.maybe_applied() && error.is_retryable(), "{error:?}");
}
