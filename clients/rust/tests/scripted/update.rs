//! Read, merge, write.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dynakv_client::{Error, ErrorCode, Fetched, Update};
use dynakv_protocol::causal::Dot;
use dynakv_protocol::client::{self as wire, FetchedSibling, Written};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{Actor, WriteId};

use crate::server::{answering, client_of, refused};

/// One key of a store that keeps siblings: a write drops what its context names, and nothing else.
#[derive(Default)]
struct Shelf {
    siblings: Vec<(u64, Bytes)>,
    writes: u64,
    seen: BTreeSet<WriteId>,
}

impl Shelf {
    fn context(&self) -> Bytes {
        let mut names = BytesMut::new();
        for (name, _) in &self.siblings {
            names.put_u64(*name);
        }
        names.freeze()
    }

    fn get(&self) -> Response {
        let sibling = |(name, value): &(u64, Bytes)| FetchedSibling {
            dot: Dot {
                actor: Actor(1),
                counter: *name,
            },
            timestamp_ms: 5,
            value: value.clone(),
        };
        Response::Fetched(wire::Fetched {
            siblings: self.siblings.iter().map(sibling).collect(),
            context: self.context(),
            effective_r: 2,
        })
    }

    fn write(&mut self, write: &wire::Write) -> Written {
        assert!(self.seen.insert(write.write_id), "each write is a new one");
        let context = write.context.clone().expect("an update is never blind");
        let dropped = |name: u64| {
            let mut names = context.chunks(8);
            names.any(|chunk| chunk == name.to_be_bytes())
        };
        self.siblings.retain(|(name, _)| !dropped(*name));
        if let Some(value) = &write.value {
            self.add(value.clone());
        }
        Written {
            context: self.context(),
            effective_w: 2,
            sloppy: false,
            replaced: 0,
        }
    }

    fn add(&mut self, value: Bytes) {
        self.writes += 1;
        self.siblings.push((self.writes, value));
    }
}

/// A server for one key; before each write is stored, `rival` may store something else.
async fn shelf(rival: impl Fn(&mut Shelf) + Send + Sync + 'static) -> (String, Arc<Mutex<Shelf>>) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let shared = Arc::clone(&shelf);
    let server = answering(move |request| {
        let mut shelf = shared.lock().unwrap();
        match request {
            Request::Get(_) => shelf.get(),
            Request::Put(write) => {
                rival(&mut shelf);
                Response::Put(shelf.write(&write))
            }
            Request::Delete(write) => {
                rival(&mut shelf);
                Response::Deleted(shelf.write(&write))
            }
            other => panic!("unexpected {other:?}"),
        }
    });
    (server.await, shelf)
}

fn nobody_else(_: &mut Shelf) {}

fn words(fetched: &Fetched) -> BTreeSet<String> {
    let texts = fetched.siblings.iter();
    let texts = texts.map(|sibling| String::from_utf8(sibling.value.to_vec()).unwrap());
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn with_word(fetched: &Fetched, word: &str) -> Update {
    let mut words = words(fetched);
    words.insert(word.to_owned());
    Update::put(words.into_iter().collect::<Vec<_>>().join("\n"))
}

#[tokio::test]
async fn an_absent_key_is_given_as_absent_and_written_once() {
    let (server, shelf) = shelf(nobody_else).await;
    let client = client_of(&[&server]).await;
    let mut asked = Vec::new();
    // The closure may borrow.
    let updated = client
        .update("k", |found| {
            asked.push(found.is_absent());
            Update::put("v")
        })
        .await
        .unwrap();
    assert_eq!(asked, [true]);
    assert_eq!(updated.rounds, 1);
    assert!(updated.written.is_some());
    assert_eq!(updated.fetched.value().unwrap().unwrap(), "v");
    assert_eq!(shelf.lock().unwrap().writes, 1);
}

#[tokio::test]
async fn a_lost_race_is_merged_in_the_next_round() {
    let raced = AtomicU32::new(0);
    let (server, shelf) = shelf(move |shelf| {
        if raced.fetch_add(1, Ordering::Relaxed) < 2 {
            let number = raced.load(Ordering::Relaxed);
            shelf.add(format!("rival-{number}").into());
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let mut asked = Vec::new();
    let updated = client
        .update("k", |found| {
            asked.push(found.siblings.len());
            with_word(found, "own")
        })
        .await
        .unwrap();
    assert_eq!(updated.rounds, 3);
    assert_eq!(asked, [0, 2, 2], "the closure gets all siblings");
    let expected = ["own", "rival-1", "rival-2"].map(str::to_owned);
    assert_eq!(words(&updated.fetched), BTreeSet::from(expected));
    assert_eq!(shelf.lock().unwrap().siblings.len(), 1);
}

#[tokio::test]
async fn a_race_in_every_round_ends_with_the_last_state_in_hand() {
    let (server, shelf) = shelf(|shelf| shelf.add("rival".into())).await;
    let client = client_of(&[&server]).await;
    let update = client.update("k", |found| with_word(found, "own"));
    let error = update.rounds(3).await.unwrap_err();
    assert!(error.is_retryable() && error.maybe_applied());
    assert!(error.to_string().contains("update it again"), "{error}");
    let Error::Contended { rounds, last } = error else {
        panic!("{error}");
    };
    assert_eq!(rounds, 3);
    assert_eq!(last.siblings.len(), 2);
    assert!(words(&last).contains("own"));
    assert_eq!(shelf.lock().unwrap().seen.len(), 3);
}

#[tokio::test]
async fn what_is_kept_is_not_written_and_what_is_deleted_is_gone() {
    let (server, shelf) = shelf(nobody_else).await;
    let client = client_of(&[&server]).await;
    let kept = client.update("k", |_| Update::Keep).await.unwrap();
    assert_eq!((kept.written, kept.rounds), (None, 1));
    assert!(shelf.lock().unwrap().seen.is_empty());

    client.update("k", |_| Update::put("v")).await.unwrap();
    let deleted = client.update("k", |_| Update::Delete).await.unwrap();
    assert!(deleted.written.is_some() && deleted.fetched.is_absent());
    assert!(shelf.lock().unwrap().siblings.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_among_many_writers() {
    const WRITERS: usize = 12;
    let (server, shelf) = shelf(nobody_else).await;
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        let client = client_of(&[&server]).await;
        tasks.push(tokio::spawn(async move {
            let word = format!("word-{number}");
            let update = client.update("set", |found| {
                if words(found).contains(&word) && found.siblings.len() == 1 {
                    return Update::Keep;
                }
                with_word(found, &word)
            });
            update
                .rounds(1000)
                .timeout(Duration::from_secs(50))
                .await
                .unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let client = client_of(&[&server]).await;
    let found = words(&client.get("set").await.unwrap());
    let expected: BTreeSet<_> = (0..WRITERS).map(|n| format!("word-{n}")).collect();
    assert_eq!(found, expected);
    assert_eq!(shelf.lock().unwrap().siblings.len(), 1);
}

#[tokio::test]
async fn errors_come_through_and_say_whether_something_was_written() {
    let server = answering(|_| refused(ErrorCode::BadRequest)).await;
    let client = client_of(&[&server]).await;
    let update = client.update("k", |_| panic!("nothing was read"));
    let error = update.await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BadRequest));
    assert!(!error.maybe_applied());

    // The read after the write fails: the write stands.
    let shelf = Mutex::new(Shelf::default());
    let server = answering(move |request| {
        let mut shelf = shelf.lock().unwrap();
        match request {
            Request::Put(write) => Response::Put(shelf.write(&write)),
            _ if shelf.writes > 0 => refused(ErrorCode::BadRequest),
            _ => shelf.get(),
        }
    })
    .await;
    let client = client_of(&[&server]).await;
    let error = client.update("k", |_| Update::put("v")).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BadRequest));
    assert!(error.maybe_applied());

    let none = client.update("k", |_| Update::Keep).rounds(0);
    assert!(matches!(none.await, Err(Error::Invalid { .. })));
}

/// What was read is gone, a write that never came to be: its context is refused, and another read has another one.
/// Where it has the same one, the write itself is what is wrong.
#[tokio::test]
async fn a_context_of_what_is_gone_is_read_again_and_no_other_refusal_is() {
    for is_gone in [true, false] {
        let reads = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&reads);
        let server = answering(move |request| match request {
            Request::Get(_) => {
                let read = counted.fetch_add(1, Ordering::Relaxed);
                let context = if is_gone && read > 0 { "there" } else { "gone" };
                Response::Fetched(wire::Fetched {
                    siblings: Vec::new(),
                    context: Bytes::from_static(context.as_bytes()),
                    effective_r: 2,
                })
            }
            Request::Put(write) if write.context == Some(Bytes::from_static(b"there")) => {
                Response::Put(Written {
                    context: Bytes::new(),
                    effective_w: 2,
                    sloppy: false,
                    replaced: 0,
                })
            }
            _ => refused(ErrorCode::BadRequest),
        });
        let client = client_of(&[&server.await]).await;
        let updated = client.update("k", |_| Update::put("v")).await;
        match is_gone {
            true => assert_eq!(updated.unwrap().rounds, 2),
            false => {
                assert_eq!(updated.unwrap_err().code(), Some(ErrorCode::BadRequest));
                assert_eq!(reads.load(Ordering::Relaxed), 2);
            }
        }
    }
}
