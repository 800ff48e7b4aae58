//! What one operation costs in the client: `cargo bench -p dynakv-client`.
//!
//! Many callers share one client on one thread, against a server on another thread that answers at
//! once. What is counted is the processor time of the client's thread and its allocations, neither of
//! which depends on how busy the machine is, and the rate, which does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dynakv_client::Client;
use dynakv_protocol::causal::Dot;
use dynakv_protocol::client::{Fetched, FetchedSibling, RingReply, Written};
use dynakv_protocol::frame::{BatchWriter, FrameDecoder, Header, put_frame, split_batch};
use dynakv_protocol::handshake::Welcome;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::{Member, RingDocument, Step};
use dynakv_protocol::{Actor, ClusterId, DirectoryId, Generation, NodeId, RingVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const OPERATIONS: u64 = 400_000;
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;
/// For a batch as a whole, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    // `cargo test --benches` asks for a list or a quick run: there is nothing to check here.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let (told, address) = mpsc::channel();
    std::thread::spawn(move || current_thread().block_on(serve(&told)));
    let address = address.recv().expect("the server listens").to_string();
    let runtime = current_thread();
    let client = runtime.block_on(async {
        let client = Client::builder().seeds([address]).build().await;
        client.expect("the server answers")
    });
    for callers in [1, 32, 256, 1024] {
        for what in ["get", "put", "get_many", "put_many"] {
            measure(&runtime, &client, what, callers);
        }
    }
}

fn current_thread() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("an event queue")
}

fn measure(runtime: &Runtime, client: &Client, what: &'static str, callers: u64) {
    let operations = if callers == 1 {
        OPERATIONS / 20
    } else {
        OPERATIONS
    };
    let (started, cpu) = (Instant::now(), cpu_ns());
    let allocated = allocation_counter::measure(|| {
        runtime.block_on(async {
            match what {
                "get_many" => get_many(client, operations, callers).await,
                "put_many" => put_many(client, operations, callers).await,
                _ => one_by_one(client, what, operations, callers).await,
            }
        });
    });
    let per = |count: u64| count as f64 / operations as f64;
    println!(
        "{what:>8}: {callers:>5} callers {:>9.0}/s {:>7.0} ns of processor time and {:>5.2} allocations each",
        operations as f64 / started.elapsed().as_secs_f64(),
        per(cpu_ns() - cpu),
        per(allocated.count_total),
    );
}

fn key(number: u64) -> [u8; 8] {
    (number % KEYS).to_be_bytes()
}

async fn one_by_one(client: &Client, what: &'static str, operations: u64, callers: u64) {
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (client, value, next) = (client.clone(), value.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= operations {
                    return;
                }
                if what == "get" {
                    let got = client.get(key(number)).send().await;
                    got.expect("an answer");
                } else {
                    let put = client.put(key(number), value.clone()).send().await;
                    put.expect("an answer");
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a caller ends");
    }
}

async fn get_many(client: &Client, operations: u64, callers: u64) {
    let request = client.get_many((0..operations).map(key));
    let request = request.window(callers as usize).timeout(TIMEOUT);
    for result in request.await.expect("options") {
        result.expect("an answer");
    }
}

async fn put_many(client: &Client, operations: u64, callers: u64) {
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let request = client.put_many((0..operations).map(|number| (key(number), value.clone())));
    let request = request.window(callers as usize).timeout(TIMEOUT);
    for result in request.await.expect("options") {
        result.expect("an answer");
    }
}

/// The processor time of this thread so far; 0 where the system does not tell.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|field| field.parse().ok());
    first.unwrap_or(0)
}

async fn serve(told: &mpsc::Sender<SocketAddr>) {
    let mut addresses = Vec::new();
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        addresses.push(listener.local_addr().expect("it is bound"));
        listeners.push(listener);
    }
    let ring = ring(&addresses);
    for listener in listeners {
        let ring = ring.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, ring.clone()));
            }
        });
    }
    told.send(addresses[0]).expect("somebody waits");
    std::future::pending::<()>().await;
}

async fn answer(mut stream: TcpStream, ring: Response) {
    let fetched = Response::Fetched(Fetched {
        siblings: vec![FetchedSibling {
            dot: Dot {
                actor: Actor(1),
                counter: 1,
            },
            timestamp_ms: 5,
            value: Bytes::from(vec![7; VALUE_BYTES]),
        }],
        context: Bytes::from_static(&[5; 40]),
        effective_r: 2,
    });
    let written = Response::Put(Written {
        context: Bytes::from_static(&[5; 40]),
        effective_w: 2,
        sloppy: false,
        replaced: 0,
    });
    stream.set_nodelay(true).expect("a socket");
    let decoder = FrameDecoder::new(1 << 26);
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    let mut batch = BatchWriter::default();
    loop {
        let mut push = |header: Header, out: &mut BytesMut| {
            let response = match header.kind {
                dynakv_protocol::message::kind::GET => &fetched,
                dynakv_protocol::message::kind::PUT => &written,
                _ => &ring,
            };
            let header = Header::new(response.kind(), header.request_id);
            batch.push(out, header, |out| response.encode(out));
        };
        while let Some(frame) = decoder.next(&mut buffer).expect("frames") {
            if frame.header.kind == dynakv_protocol::message::kind::HELLO {
                welcome(&frame, &mut out);
                continue;
            }
            split_batch(frame, |item| push(item.header, &mut out)).expect("a batch");
        }
        batch.finish(&mut out);
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        buffer.reserve(64 * 1024);
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn welcome(frame: &dynakv_protocol::frame::Frame, out: &mut BytesMut) {
    let Ok(Request::Hello(hello)) = Request::decode(frame.header.kind, &frame.body) else {
        panic!("no hello");
    };
    let welcome = Response::Welcome(Welcome {
        version: hello.common_version().expect("one version"),
        node_id: NodeId::new("scripted").expect("a name"),
        generation: Generation(1),
        nonce: 1,
        cluster_name: "dynakv".to_owned(),
        cluster_id: ClusterId(7),
        ring_version: RingVersion(1),
        directory_id: DirectoryId(1),
        limits: None,
        may_found: false,
    });
    let header = Header::new(welcome.kind(), frame.header.request_id);
    put_frame(out, header, |out| welcome.encode(out));
}

fn ring(addresses: &[SocketAddr]) -> Response {
    let member = |number: usize| Member {
        id: NodeId::new(&format!("node-{number}")).expect("a name"),
        address: "127.0.0.1:1".to_owned(),
        directory_id: DirectoryId(0),
        weight: 1,
        zone: String::new(),
    };
    Response::Ring(RingReply {
        document: RingDocument {
            cluster_id: ClusterId(7),
            cluster_name: "dynakv".to_owned(),
            version: RingVersion(1),
            step: Step::Final,
            n: 3,
            w: 2,
            r: 2,
            members: (1..=addresses.len()).map(member).collect(),
        },
        addresses: addresses.iter().map(SocketAddr::to_string).collect(),
    })
}
