//! A server whose every answer, silence and accident is the test's.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dynakv_client::{Client, ErrorCode};
use dynakv_protocol::causal::Dot;
use dynakv_protocol::client::{Fetched, FetchedSibling, RingReply, Written};
use dynakv_protocol::frame::{Frame, FrameDecoder, Header, put_frame, split_batch};
use dynakv_protocol::handshake::Welcome;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::{Member, RingDocument, Step};
use dynakv_protocol::{Actor, ClusterId, DirectoryId, ErrorReply, Generation, NodeId, RingVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The server's side of one connection, behind the handshake.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
    /// What came in one frame with others.
    items: VecDeque<Frame>,
    /// How many frames have come.
    pub(crate) frames: usize,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            items: VecDeque::new(),
            frames: 0,
        }
    }

    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let decoder = FrameDecoder::new(1 << 26);
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(item);
            }
            if let Some(frame) = decoder.next(&mut self.buffer).unwrap() {
                self.frames += 1;
                split_batch(frame, |item| self.items.push_back(item)).unwrap();
                continue;
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next request; `None` once the client has gone.
    pub(crate) async fn request(&mut self) -> Option<(u64, Request)> {
        let frame = self.frame().await?;
        let request = Request::decode(frame.header.kind, &frame.body).unwrap();
        Some((frame.header.request_id, request))
    }

    pub(crate) async fn answer(&mut self, id: u64, response: &Response) {
        let mut out = BytesMut::new();
        put_frame(&mut out, Header::new(response.kind(), id), |out| {
            response.encode(out);
        });
        let _gone = self.stream.write_all(&out).await;
    }

    pub(crate) async fn shake_hands(&mut self, cluster_id: ClusterId) {
        let (id, hello) = self.request().await.unwrap();
        let Request::Hello(hello) = hello else {
            panic!("first message is {hello:?}");
        };
        let welcome = Welcome {
            version: hello.common_version().unwrap(),
            node_id: NodeId::new("scripted").unwrap(),
            generation: Generation(1),
            nonce: 1,
            cluster_name: "dynakv".to_owned(),
            cluster_id,
            ring_version: RingVersion(1),
            directory_id: DirectoryId(1),
            limits: None,
            may_found: false,
        };
        self.answer(id, &Response::Welcome(welcome)).await;
    }
}

/// Listens, and runs the script for every connection after its handshake.
pub(crate) async fn serve<F, S>(script: S) -> String
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Peer) -> F + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve_on(listener, ClusterId(7), script)
}

pub(crate) fn serve_on<F, S>(listener: TcpListener, cluster_id: ClusterId, script: S) -> String
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Peer) -> F + Send + Sync + 'static,
{
    let address = listener.local_addr().unwrap().to_string();
    let script = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = Arc::clone(&script);
            tokio::spawn(async move {
                let mut peer = Peer::new(stream);
                peer.shake_hands(cluster_id).await;
                script(peer).await;
            });
        }
    });
    address
}

/// A server that answers each request on its own.
pub(crate) async fn answering(
    answer: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> String {
    let answer = Arc::new(answer);
    serve(move |mut peer| {
        let answer = Arc::clone(&answer);
        async move {
            while let Some((id, request)) = peer.request().await {
                let response = match request {
                    Request::Ping => Response::Pong,
                    other => answer(other),
                };
                peer.answer(id, &response).await;
            }
        }
    })
    .await
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

pub(crate) async fn client_of(seeds: &[&String]) -> Client {
    Client::builder()
        .seeds(seeds.iter().map(|seed| seed.as_str()))
        .ring_routing(false)
        .build()
        .await
        .unwrap()
}

pub(crate) fn fetched(value: &[u8]) -> Response {
    Response::Fetched(Fetched {
        siblings: vec![FetchedSibling {
            dot: Dot {
                actor: Actor(1),
                counter: 1,
            },
            timestamp_ms: 5,
            value: Bytes::copy_from_slice(value),
        }],
        context: Bytes::from_static(b"context"),
        effective_r: 2,
    })
}

pub(crate) fn done() -> Written {
    Written {
        context: Bytes::from_static(b"context"),
        effective_w: 2,
        sloppy: false,
        replaced: 0,
    }
}

pub(crate) fn written() -> Response {
    Response::Put(done())
}

pub(crate) fn refused(code: ErrorCode) -> Response {
    Response::Error(ErrorReply::new(code, "scripted"))
}

pub(crate) fn key_of(request: &Request) -> Bytes {
    match request {
        Request::Get(get) => get.key.clone(),
        Request::Put(write) | Request::Delete(write) => write.key.clone(),
        other => panic!("unexpected {other:?}"),
    }
}

pub(crate) fn ring(version: u64, n: u8, addresses: &[String]) -> Response {
    let member = |number: usize| Member {
        id: NodeId::new(&format!("node-{number}")).unwrap(),
        address: "127.0.0.1:1".to_owned(),
        directory_id: DirectoryId(0),
        weight: 1,
        zone: String::new(),
    };
    Response::Ring(RingReply {
        document: RingDocument {
            cluster_id: ClusterId(7),
            cluster_name: "dynakv".to_owned(),
            version: RingVersion(version),
            step: Step::Final,
            n,
            w: 1,
            r: 1,
            members: (1..=addresses.len()).map(member).collect(),
        },
        addresses: addresses.to_vec(),
    })
}
