//! What a node holds for others has bounds in bytes, and they are those of its memory: whatever is begun and
//! not finished, asked for and not read, or sent to a disk that hangs.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv_client::Client;
use dynakv_protocol::WriteId;
use dynakv_protocol::client::{Get, Write as Put};
use dynakv_protocol::message::Request;
use tokio::task::JoinSet;

use crate::harness::{BadDisks, Cluster, Fault, Node, block_on, client_of_one, eventually};
use crate::hostile::{frame, greeted, peak_bytes, read_frame};

const MIB: usize = 1024 * 1024;

/// What the bounds of these nodes come from.
const BYTES_MAX: (&str, &str) = ("DYNAKV_BYTES_IN_FLIGHT_MAX", "33554432");

/// How much memory a node may take, at its peak, beyond what it had: the sum of what its books allow is
/// five and a half times that setting, and the allocator takes a part on top.
const GROWTH_BYTES_MAX: u64 = 192 * MIB as u64;

fn get(key: &'static str) -> Vec<u8> {
    frame(&Request::Get(Get {
        timeout_ms: 60_000,
        key: Bytes::from_static(key.as_bytes()),
        r: None,
        repair_first: false,
    }))
}

fn put(key: &'static str, value: Vec<u8>) -> Vec<u8> {
    frame(&Request::Put(Put {
        timeout_ms: 60_000,
        write_id: WriteId(1),
        key: Bytes::from_static(key.as_bytes()),
        value: Some(Bytes::from(value)),
        context: None,
        w: None,
        ttl_ms: None,
        sloppy: false,
        again: false,
        if_no_conflict: false,
        sent_ms: None,
    }))
}

/// Panics if the node has taken more than it may since it had so much.
#[track_caller]
fn assert_grew_little(what: &str, pid: u32, before: u64) {
    let growth = peak_bytes(pid).saturating_sub(before);
    println!("{what}: the node grew by {} MiB", growth >> 20);
    assert!(
        growth < GROWTH_BYTES_MAX,
        "{what}: the node grew by {} MiB",
        growth >> 20
    );
}

#[track_caller]
fn put_large(node: &Node, key: &str) {
    let value = vec![b'x'; MIB];
    node.command(&["put", key, "-"]).input(value).run().exits(0);
}

/// Hundreds of connections send most of a request and leave it at that. They hold what they may together,
/// small requests are served at once, and large ones in their turn.
#[test]
fn requests_that_are_never_finished_do_not_fill_the_memory() {
    let mut cluster = Cluster::start_with(1, &[BYTES_MAX]);
    let pid = cluster[0].process_mut().pid();
    let node = &cluster[0];
    put_large(node, "before");
    let before = peak_bytes(pid);
    // Longer than any value may be, as requests that carry versions are.
    let part = put("never", vec![7; 5 * MIB]);
    let part = &part[..4 * MIB];
    let mut abandoned: Vec<(TcpStream, usize)> = Vec::new();
    for _ in 0..300 {
        let stream = greeted(node);
        stream.set_nonblocking(true).unwrap();
        abandoned.push((stream, 0));
    }
    // Until nobody takes more of it for a while; what the system takes is not the node's.
    let mut quiet = 0;
    while quiet < 50 {
        let mut any = false;
        for (stream, sent) in &mut abandoned {
            match stream.write(&part[*sent..]) {
                Ok(written) => {
                    *sent += written;
                    any |= written > 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It was hung up on.
                Err(_) => {}
            }
        }
        quiet = if any { 0 } else { quiet + 1 };
        std::thread::sleep(Duration::from_millis(10));
    }
    node.run(&["put", "small", "value"]).exits(0);
    assert_eq!(node.run(&["get", "small"]).exits(0).text(), "value");
    put_large(node, "large");
    assert_grew_little("unfinished requests", pid, before);
    let displaced = node.metric("dynakv_connections_closed_total", "reason=\"displaced\"");
    assert!(displaced.is_ok_and(|connections| connections > 0));
    drop(abandoned);
    eventually("nothing of it is held any more", || {
        match node.metric("dynakv_held_bytes", "kind=\"client_receiving\"")? {
            0 => Ok(()),
            bytes => Err(format!("{bytes} bytes")),
        }
    });
}

/// Many clients ask for much and read nothing. They are refused, then hung up on, and whoever reads is served.
#[test]
fn answers_that_nobody_reads_do_not_fill_the_memory() {
    let mut cluster = Cluster::start_with(1, &[BYTES_MAX]);
    let pid = cluster[0].process_mut().pid();
    let node = &cluster[0];
    put_large(node, "large");
    let before = peak_bytes(pid);
    let requests = get("large").repeat(64);
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = greeted(node);
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        // May be hung up on meanwhile.
        let _ended = stream.write_all(&requests);
        silent.push(stream);
    }
    eventually("those that do not read are hung up on", || {
        match node.metric("dynakv_connections_closed_total", "reason=\"unread\"")? {
            0 => Err("nobody was".to_owned()),
            _ => Ok(()),
        }
    });
    assert_eq!(node.run(&["get", "large"]).exits(0).stdout.len(), MIB);
    put_large(node, "other");
    assert_grew_little("unread answers", pid, before);
    drop(silent);
}

/// The disk of one of three nodes hangs. What the others send it does not pile up there.
#[test]
fn merges_behind_a_disk_that_hangs_do_not_fill_the_memory() {
    const WRITES: usize = 400;
    let root = tempfile::tempdir().unwrap();
    let Some(disks) = BadDisks::build(root.path()) else {
        return;
    };
    let mut nodes: Vec<Node> = Vec::new();
    for id in ["node-1", "node-2", "node-3"] {
        let mut node = Node::new(root.path(), id)
            .with(&["-n", "3", "-w", "2", "-r", "2"])
            .with_settings(&[BYTES_MAX, ("DYNAKV_GOSSIP_INTERVAL", "200ms")]);
        if let Some(first) = nodes.first() {
            node = node.with(&["--seed", &first.address()]);
        }
        let mut node = disks.under(node);
        node.start();
        nodes.push(node);
    }
    let mut cluster = Cluster::of(root, nodes);
    let pid = cluster[2].process_mut().pid();
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        write_large(&client, 0).await.unwrap();
        let before = peak_bytes(pid);
        disks.begin("node-3", Fault::Hanging);
        let mut writes = JoinSet::new();
        let mut written = 0;
        for number in 1..=WRITES {
            let client = client.clone();
            writes.spawn(async move { write_large(&client, number).await });
            if writes.len() >= 16 {
                written += usize::from(writes.join_next().await.unwrap().unwrap().is_ok());
            }
        }
        while let Some(ended) = writes.join_next().await {
            written += usize::from(ended.unwrap().is_ok());
        }
        assert!(written > WRITES / 2, "{written} of {WRITES} were written");
        assert_grew_little("merges behind a disk that hangs", pid, before);
    });
    disks.end("node-3", Fault::Hanging);
}

/// With a context, so that any owner coordinates it.
async fn write_large(client: &Client, number: usize) -> Result<(), dynakv_client::Error> {
    let key = format!("large-{number}");
    let context = client.get(&key).await?.context;
    let value = vec![number as u8; MIB];
    client.put(&key, value).context(context).await.map(|_| ())
}

/// One connection asks for as much as it can, and reads it; who asks for little is served in between.
#[test]
fn who_asks_for_much_takes_turns_with_the_others() {
    const READS: u32 = 2000;
    let mut cluster = Cluster::start(1);
    let node = &cluster[0];
    put_large(node, "large");
    node.run(&["put", "small", "value"]).exits(0);
    let mut greedy = greeted(node);
    let mut modest = greeted(node);
    let is_over = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU32::new(0));
    let requests = get("large").repeat(READS as usize);
    let mut writing = greedy.try_clone().unwrap();
    let writer = std::thread::spawn(move || writing.write_all(&requests));
    let reader = {
        let (is_over, answers) = (is_over.clone(), answers.clone());
        std::thread::spawn(move || {
            let mut found = 0;
            for _ in 0..READS {
                found += u32::from(read_frame(&mut greedy).len() > MIB);
                answers.fetch_add(1, Ordering::Relaxed);
            }
            is_over.store(true, Ordering::Relaxed);
            found
        })
    };
    eventually("the first answers are there", || {
        match answers.load(Ordering::Relaxed) {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    });
    let request = get("small");
    let mut served = 0;
    let mut longest = 0;
    while !is_over.load(Ordering::Relaxed) {
        let before = answers.load(Ordering::Relaxed);
        modest.write_all(&request).unwrap();
        read_frame(&mut modest);
        served += 1;
        longest = longest.max(answers.load(Ordering::Relaxed) - before);
    }
    writer.join().unwrap().unwrap();
    let found = reader.join().unwrap();
    println!(
        "{served} small reads beside {found} large ones; the longest waited for {longest} of them"
    );
    assert_eq!(found, READS, "who reads gets all that it asked for");
    assert!(
        served >= READS / 40,
        "{served} small reads beside {READS} large ones"
    );
    assert!(cluster[0].runs());
}
