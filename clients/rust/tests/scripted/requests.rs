//! One request at a time: routing, retries, errors.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dynakv_client::{Client, Error, ErrorCode};
use dynakv_protocol::client::HealthReply;
use dynakv_protocol::frame::{BatchWriter, Header, put_frame};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::placement::Placement;
use dynakv_protocol::{ClusterId, ErrorReply, NodeId, RingVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::{
    answering, client_of, done, fetched, key_of, nobody, refused, ring, serve, serve_on, written,
};

#[tokio::test]
async fn answers_may_come_in_any_order_and_in_batches() {
    const COUNT: usize = 100;
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    let server = serve(move |mut peer| {
        *counted.lock().unwrap() += 1;
        async move {
            let (id, ping) = peer.request().await.unwrap();
            assert_eq!(ping, Request::Ping);
            peer.answer(id, &Response::Pong).await;
            // Not one answer before all requests are there: they must be in flight together.
            let mut waiting = Vec::new();
            while waiting.len() < COUNT {
                waiting.push(peer.request().await.unwrap());
            }
            waiting.reverse();
            let mut out = BytesMut::new();
            let mut batch = BatchWriter::default();
            for (id, request) in waiting {
                let response = fetched(&key_of(&request));
                // An answer nobody waits for stands before each and must do no harm.
                for id in [id + 1_000_000, id] {
                    let header = Header::new(response.kind(), id);
                    batch.push(&mut out, header, |out| response.encode(out));
                }
            }
            batch.finish(&mut out);
            // In pieces, so that frames arrive cut.
            for piece in out.chunks(997) {
                peer.stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let _until_the_client_goes = peer.request().await;
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let mut tasks = Vec::new();
    for number in 0..COUNT {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let key = format!("key-{number}");
            let fetched = client.get(&key).await.unwrap();
            assert_eq!(fetched.value().unwrap().unwrap(), key.as_bytes());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_dead_seed_is_passed_over() {
    let alive = answering(|request| fetched(&key_of(&request))).await;
    let client = client_of(&[&nobody().await, &alive]).await;
    let fetched = client.get("k").await.unwrap();
    assert_eq!(fetched.value().unwrap().unwrap(), "k");
    assert_eq!(fetched.effective_r, 2);
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let started = Instant::now();
    let address = nobody().await;
    let error = Client::builder()
        .seeds([address.as_str()])
        .build()
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::Unreachable { address: at, .. } if *at == address));
    assert!(error.is_retryable() && !error.maybe_applied());
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_write_keeps_its_id_from_node_to_node() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let record = |ids: &Arc<Mutex<Vec<_>>>, request: &Request| {
        let Request::Put(write) = request else {
            panic!("unexpected {request:?}");
        };
        ids.lock().unwrap().push((write.write_id, write.again));
    };
    // The first takes the write and hangs up, the second has too much to do, the third accepts.
    let seen = Arc::clone(&ids);
    let hangs_up = serve(move |mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some((id, request)) = peer.request().await {
                if request == Request::Ping {
                    peer.answer(id, &Response::Pong).await;
                } else {
                    record(&seen, &request);
                    return;
                }
            }
        }
    })
    .await;
    let seen = Arc::clone(&ids);
    let overloaded = answering(move |request| {
        record(&seen, &request);
        refused(ErrorCode::Overloaded)
    })
    .await;
    let seen = Arc::clone(&ids);
    let accepts = answering(move |request| {
        record(&seen, &request);
        written()
    })
    .await;
    let client = client_of(&[&hangs_up, &overloaded, &accepts]).await;
    client.put("k", "v").await.unwrap();
    client.put("k", "v").await.unwrap();
    let ids = ids.lock().unwrap();
    assert_eq!(ids.len(), 6);
    let (first, second) = (ids[0].0, ids[3].0);
    // The one that hung up may have taken it; what comes after it says so.
    let attempts = |id| [(id, false), (id, true), (id, true)];
    assert_eq!(ids[..3], attempts(first));
    assert_eq!(ids[3..], attempts(second));
    assert!(first.precedes(second) && !second.precedes(first));
}

#[tokio::test]
async fn an_attempt_after_a_refusal_is_as_good_as_the_first() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let server = answering(move |request| {
        let (Request::Put(write) | Request::Delete(write)) = request else {
            panic!("unexpected {request:?}");
        };
        let mut seen = record.lock().unwrap();
        seen.push(write.again);
        match (seen.len(), write.value) {
            (1 | 3, _) => refused(ErrorCode::Overloaded),
            (_, Some(_)) => Response::Put(done()),
            (_, None) => Response::Deleted(done()),
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    client.put("k", "v").await.unwrap();
    client.delete("k").await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [false; 4]);
}

#[tokio::test]
async fn the_id_of_another_write_is_an_error_of_the_caller() {
    // As a node answers it: nothing is acknowledged, and nothing is tried again.
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let server = answering(move |_| {
        *counted.lock().unwrap() += 1;
        refused(ErrorCode::BadRequest)
    })
    .await;
    let client = client_of(&[&server]).await;
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BadRequest));
    assert_eq!(*count.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_lost_connection_fails_all_that_wait_on_it() {
    const COUNT: usize = 20;
    // The first connection takes them all and ends; those that come after it end at once.
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    let server = serve(move |mut peer| {
        let number = {
            let mut count = counted.lock().unwrap();
            *count += 1;
            *count
        };
        async move {
            if number > 1 {
                return;
            }
            let (id, _ping) = peer.request().await.unwrap();
            peer.answer(id, &Response::Pong).await;
            for _ in 0..COUNT {
                let _unanswered = peer.request().await.unwrap();
            }
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let mut tasks = Vec::new();
    for number in 0..COUNT {
        let client = client.clone();
        let is_write = number % 2 == 0;
        tasks.push(tokio::spawn(async move {
            let error = if is_write {
                client.put("k", "v").await.unwrap_err()
            } else {
                client.get("k").await.unwrap_err()
            };
            let lost = matches!(error, Error::ConnectionLost { .. });
            assert!(
                lost || matches!(error, Error::Unreachable { .. }),
                "{error}"
            );
            assert_eq!(error.maybe_applied(), is_write, "{error}");
            assert!(error.is_retryable());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn an_earlier_attempt_that_may_have_worked_is_not_forgotten() {
    let hangs_up = serve(|mut peer| async move {
        let (id, _ping) = peer.request().await.unwrap();
        peer.answer(id, &Response::Pong).await;
        let _put = peer.request().await;
    })
    .await;
    let refuses = answering(|_| refused(ErrorCode::TooManySiblings)).await;
    let client = client_of(&[&hangs_up, &refuses]).await;
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooManySiblings));
    assert!(error.maybe_applied());

    let client = client_of(&[&refuses]).await;
    let error = client.put("k", "v").await.unwrap_err();
    assert!(!error.maybe_applied());
}

#[tokio::test]
async fn a_refusal_is_not_repeated_elsewhere() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let refuses = answering(move |_| {
        *count.lock().unwrap() += 1;
        refused(ErrorCode::BadRequest)
    })
    .await;
    let count = Arc::clone(&asked);
    let also = answering(move |_| {
        *count.lock().unwrap() += 1;
        written()
    })
    .await;
    let client = client_of(&[&refuses, &also]).await;
    let error = client.put("k", "v").w(9).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BadRequest));
    assert!(!error.is_retryable());
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_missing_quorum_is_typed() {
    let server = answering(|_| {
        let reply = ErrorReply::new(ErrorCode::QuorumUnavailable, "too few replicas");
        Response::Error(reply.retryable().maybe_applied(true).with_quorum(2, 1))
    })
    .await;
    let client = client_of(&[&server]).await;
    let error = client.put("k", "v").await.unwrap_err();
    let expected = "too few replicas (1 of 2 replicas answered)";
    assert_eq!(error.to_string(), expected);
    assert!(matches!(
        error,
        Error::QuorumUnavailable {
            needed: 2,
            got: 1,
            maybe_applied: true,
            ..
        }
    ));
    let error = client.get("k").await.unwrap_err();
    assert!(!error.maybe_applied(), "a read applies nothing");
}

#[tokio::test]
async fn overload_that_passes_is_waited_for() {
    let refusals = Arc::new(Mutex::new(2));
    let left = Arc::clone(&refusals);
    let server = answering(move |request| {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return refused(ErrorCode::Overloaded);
        }
        fetched(&key_of(&request))
    })
    .await;
    let client = client_of(&[&server]).await;
    client.get("k").await.unwrap();
    assert_eq!(*refusals.lock().unwrap(), 0);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (told, mut timeouts) = tokio::sync::mpsc::unbounded_channel();
    let server = serve(move |mut peer| {
        let told = told.clone();
        async move {
            while let Some((id, request)) = peer.request().await {
                match request {
                    Request::Ping => peer.answer(id, &Response::Pong).await,
                    Request::Put(write) => told.send(write.timeout_ms).unwrap(),
                    Request::Get(get) => told.send(get.timeout_ms).unwrap(),
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let started = Instant::now();
    let limit = Duration::from_millis(300);
    let error = client.put("k", "v").timeout(limit).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(error.maybe_applied());
    assert!(started.elapsed() >= limit && started.elapsed() < limit * 5);
    let told = timeouts.recv().await.unwrap();
    assert!((150..300).contains(&told), "{told} ms");
    let error = client.get("k").timeout(limit).await.unwrap_err();
    assert!(!error.maybe_applied());
}

#[tokio::test]
async fn a_silent_node_leaves_time_for_the_next() {
    let silent = serve(|mut peer| async move {
        let (id, _ping) = peer.request().await.unwrap();
        peer.answer(id, &Response::Pong).await;
        while peer.request().await.is_some() {}
    })
    .await;
    let alive = answering(|_| written()).await;
    let client = client_of(&[&silent, &alive]).await;
    let write = client.put("k", "v").timeout(Duration::from_millis(600));
    write.await.unwrap();
}

/// A server whose first connections send garbage in place of their first answer.
async fn garbage_at_first(connections: &Arc<Mutex<u32>>, bad: u32) -> String {
    let counted = Arc::clone(connections);
    serve(move |mut peer| {
        let number = {
            let mut count = counted.lock().unwrap();
            *count += 1;
            *count
        };
        async move {
            while let Some((id, request)) = peer.request().await {
                match request {
                    Request::Ping => peer.answer(id, &Response::Pong).await,
                    _ if number <= bad => {
                        let _gone = peer.stream.write_all(&[0xff; 64]).await;
                    }
                    other => peer.answer(id, &fetched(&key_of(&other))).await,
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn garbage_ends_the_connection_and_the_request_goes_over_another() {
    let connections = Arc::new(Mutex::new(0));
    let server = garbage_at_first(&connections, 1).await;
    let client = client_of(&[&server]).await;
    client.get("k").await.unwrap();
    client.get("k").await.unwrap();
    assert_eq!(*connections.lock().unwrap(), 2);
}

#[tokio::test]
async fn nothing_but_garbage_is_told_to_the_caller() {
    let connections = Arc::new(Mutex::new(0));
    let server = garbage_at_first(&connections, u32::MAX).await;
    let client = client_of(&[&server]).await;
    let error = client.get("k").await.unwrap_err();
    assert!(error.to_string().contains("garbage"), "{error}");
    let connections = *connections.lock().unwrap();
    assert!((2..=6).contains(&connections), "{connections} connections");
}

#[tokio::test]
async fn a_body_that_makes_no_sense_fails_only_its_own_call() {
    let server = serve(|mut peer| async move {
        while let Some((id, request)) = peer.request().await {
            match request {
                Request::Ping => peer.answer(id, &Response::Pong).await,
                Request::Get(get) if get.key == "damaged" => {
                    let mut out = BytesMut::new();
                    put_frame(&mut out, Header::new(0x90, id), |out| {
                        out.extend_from_slice(&[0xee; 9]);
                    });
                    peer.stream.write_all(&out).await.unwrap();
                }
                Request::Get(get) if get.key == "other kind" => peer.answer(id, &written()).await,
                other => peer.answer(id, &fetched(&key_of(&other))).await,
            }
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    for key in ["damaged", "other kind"] {
        let error = client.get(key).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        client.get("k").await.unwrap();
    }
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let reply = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(reply).await.unwrap();
        let _until_closed = stream.read(&mut [0; 64]).await;
    });
    let build = Client::builder().seeds([address]).build();
    let error = build.await.unwrap_err().to_string();
    assert!(error.contains("answers with HTTP"), "{error}");
}

#[tokio::test]
async fn a_client_never_talks_to_two_clusters() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = serve_on(listener, ClusterId(1), |mut peer| async move {
        while let Some((id, request)) = peer.request().await {
            let response = match request {
                Request::Ping => Response::Pong,
                _ => refused(ErrorCode::NotReady),
            };
            peer.answer(id, &response).await;
        }
    });
    let written_elsewhere = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&written_elsewhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = serve_on(listener, ClusterId(2), move |mut peer| {
        let flag = Arc::clone(&flag);
        async move {
            while let Some((id, _)) = peer.request().await {
                *flag.lock().unwrap() = true;
                peer.answer(id, &written()).await;
            }
        }
    });
    let client = client_of(&[&first, &second]).await;
    let put = client.put("k", "v").timeout(Duration::from_millis(1500));
    let error = put.await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotReady));
    assert!(!*written_elsewhere.lock().unwrap());
}

/// Three nodes that all show the same ring (set later) and note the keys they are asked for.
async fn ring_of_three(
    shown: &Arc<Mutex<Option<Response>>>,
    asked: &Arc<Mutex<Vec<(usize, Bytes)>>>,
) -> Vec<String> {
    let mut addresses = Vec::new();
    for number in 0..3 {
        let (shown, asked) = (Arc::clone(shown), Arc::clone(asked));
        let server = answering(move |request| {
            if request == Request::Ring {
                return shown.lock().unwrap().clone().unwrap();
            }
            let key = key_of(&request);
            asked.lock().unwrap().push((number, key.clone()));
            fetched(&key)
        });
        addresses.push(server.await);
    }
    addresses
}

#[tokio::test]
async fn requests_go_to_the_owner() {
    let (shown, asked) = (Arc::default(), Arc::default());
    let addresses = ring_of_three(&shown, &asked).await;
    let document = ring(1, 1, &addresses);
    *shown.lock().unwrap() = Some(document.clone());
    let Response::Ring(reply) = document else {
        unreachable!()
    };
    let client = Client::builder()
        .seeds([addresses[2].as_str()])
        .build()
        .await
        .unwrap();
    let placement = Placement::new(&reply.document);
    let mut expected = Vec::new();
    for number in 0..60 {
        let key = format!("user:{number}");
        client.get(&key).await.unwrap();
        let owner = placement.owners_of_key(key.as_bytes())[0].slot();
        expected.push((owner, Bytes::from(key)));
    }
    let asked = asked.lock().unwrap();
    assert_eq!(*asked, expected);
    let nodes: BTreeSet<usize> = asked.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes.len(), 3, "the keys spread over all nodes");
}

#[tokio::test]
async fn a_newer_ring_is_fetched_when_a_node_tells_of_it() {
    // The old node refuses under its newer ring, which names the new node only.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let new = answering(move |request| {
        noted.lock().unwrap().push(key_of(&request));
        fetched(&key_of(&request))
    })
    .await;
    let rings = Arc::new(Mutex::new(Vec::<Response>::new()));
    let shown = Arc::clone(&rings);
    let refusals = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&refusals);
    let old = answering(move |request| {
        if request == Request::Ring {
            let mut shown = shown.lock().unwrap();
            return if shown.len() > 1 {
                shown.remove(0)
            } else {
                shown[0].clone()
            };
        }
        *counted.lock().unwrap() += 1;
        let reply = ErrorReply::new(ErrorCode::NotOwner, "moved");
        Response::Error(reply.retryable().with_ring_version(RingVersion(2)))
    })
    .await;
    *rings.lock().unwrap() = vec![
        ring(1, 1, std::slice::from_ref(&old)),
        ring(2, 1, std::slice::from_ref(&new)),
    ];
    let client = Client::builder().seeds([old]).build().await.unwrap();
    for _ in 0..5 {
        client.get("k").await.unwrap();
    }
    assert_eq!(*refusals.lock().unwrap(), 1);
    assert_eq!(asked.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn administration_is_answered_by_the_node_named() {
    let health = |name: &'static str| {
        move |_| {
            Response::Health(HealthReply {
                node_id: NodeId::new(name).unwrap(),
                ready: true,
                reason: String::new(),
            })
        }
    };
    let (first, second) = (
        answering(health("one")).await,
        answering(health("two")).await,
    );
    let client = client_of(&[&second, &first]).await;
    assert_eq!(client.health().await.unwrap().node_id.as_str(), "two");
    // Of several the first that answers.
    let client = client_of(&[&nobody().await, &first]).await;
    assert_eq!(client.health().await.unwrap().node_id.as_str(), "one");
    assert_eq!(client.asked_address(), first);
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_it_is_sent() {
    let server = answering(|request| panic!("unexpected {request:?}")).await;
    let client = client_of(&[&server]).await;
    let too_long = vec![b'k'; 4097];
    let too_large = vec![0; 16 * 1024 * 1024 + 1];
    let minute = Duration::from_secs(61);
    for error in [
        client.get("").await.unwrap_err(),
        client.get(&too_long).await.unwrap_err(),
        client.put("k", too_large).await.unwrap_err(),
        client.put("k", "v").ttl(Duration::ZERO).await.unwrap_err(),
        client.get("k").timeout(minute).await.unwrap_err(),
        client.get("k").timeout(Duration::ZERO).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(!error.is_retryable() && !error.maybe_applied());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_a_window_that_is_smaller_than_they_are() {
    // 5,000 puts of 100 KiB are beyond the window by far: they wait for each other and all end.
    let server = answering(|_| written()).await;
    let client = client_of(&[&server]).await;
    let value = Bytes::from(vec![7; 100 * 1024]);
    let mut tasks = Vec::new();
    for number in 0..5_000_u32 {
        let put = client.put(number.to_be_bytes(), value.clone());
        tasks.push(tokio::spawn(put.timeout(Duration::from_secs(30)).send()));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[test]
fn segments_are_the_unit_of_ownership() {
    // Two keys of one segment have the same owners: what `Routing` relies on.
    assert_eq!(Segment::of_key(b"user:123").0, 0xe7fe);
}
