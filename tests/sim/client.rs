//! A client of few lines that speaks the protocol over simulated connections, one request at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::change_ring::ChangeRing;
use dynakv_protocol::client::{Fetched, Get, StatsReply, StatusReply, Write, Written};
use dynakv_protocol::frame::{FrameDecoder, Header, put_frame};
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::ids::WriteId;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::RingDocument;

use dynakv_protocol::{ErrorReply, RingVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::hangs::Hangs;
use crate::invariants::{convergence, hints_drain, owners_only};
use crate::machine::{Machine, address};
use crate::owners::Owners;
use crate::trace::Trace;

/// How long a connection may take to stand.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to say what it knows, and the members to decide on a ring.
const ASKED_WITHIN: Duration = Duration::from_secs(1);
const DECIDED_WITHIN: Duration = Duration::from_secs(6);

/// How much later than its deadline an answer may come: the way there and back, and two turns.
const SLACK: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// The node refused.
    Refused(ErrorReply),
    /// There was no connection to send the request over.
    NotSent(String),
    /// The connection ended before the answer came: nobody knows what came of the request.
    Broken,
    /// The deadline and more has passed, the connection stands, and there is no answer: a defect.
    Silent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "{}, {}", error.code.name(), error.message),
            Self::NotSent(why) => write!(f, "not sent, {why}"),
            Self::Broken => f.write_str("connection broke"),
            Self::Silent => f.write_str("SILENCE"),
        }
    }
}

/// What one request came to.
pub(crate) type Answer<T> = Result<T, Failure>;

/// A client with at most one connection to each node.
pub(crate) struct Client {
    name: String,
    machines: Vec<Rc<Machine>>,
    /// How many of them are there from the beginning.
    founders: usize,
    owners: Rc<Owners>,
    trace: Trace,
    connections: BTreeMap<usize, Connection>,
    requests: u64,
}

struct Connection {
    stream: TcpStream,
    decoder: FrameDecoder,
    buffer: BytesMut,
}

impl Client {
    pub(crate) fn new(
        name: &str,
        (machines, founders): (Vec<Rc<Machine>>, usize),
        owners: Rc<Owners>,
        trace: Trace,
    ) -> Self {
        Self {
            name: name.to_owned(),
            machines,
            founders,
            owners,
            trace,
            connections: BTreeMap::new(),
            requests: 0,
        }
    }

    /// How the copies of these keys differ, if they do, as no client could see it.
    pub(crate) fn difference(&self, keys: &[String], with_hashes: bool) -> Option<String> {
        keys.iter().find_map(|key| {
            let owners = self.owners.or_all(key).into_iter();
            let copies = owners.map(|owner| self.machines[owner].copy(key, with_hashes));
            convergence::check(key, &copies.collect::<Vec<_>>())
        })
    }

    /// What some machine holds and does not own, if one does.
    pub(crate) fn left_over(&self) -> Option<String> {
        let machines = (0..).zip(&self.machines);
        let mut members = machines.filter(|(number, _)| self.owners.stays(*number));
        members.find_map(|(number, machine)| {
            let stored = machine.all_stored();
            let keys = stored.iter().map(|(key, _)| key.as_str());
            let owns = |key: &str| self.owners.or_all(key).contains(&number);
            owners_only::check(&machine.name, keys, owns)
        })
    }

    /// What some machine keeps for others, if one does.
    pub(crate) fn kept_for_others(&self) -> Option<String> {
        let machines = (0..).zip(&self.machines);
        let mut members = machines.filter(|(number, _)| self.owners.stays(*number));
        members.find_map(|(_, it)| hints_drain::check(&it.name, &it.hints_waiting()))
    }

    /// Why the ring is not the one that the run is to end with, if it is not; or who runs on without being a member.
    pub(crate) fn unsettled(&self) -> Option<String> {
        self.owners.missed().or_else(|| self.owners.outstaying())
    }

    /// The machines that are to be members in the end.
    pub(crate) fn staying(&self) -> Vec<usize> {
        self.owners.staying()
    }

    /// The ring has become what it is to be, with this version.
    pub(crate) fn reached(&self, version: RingVersion) {
        self.owners.reached(version);
    }

    /// A change of the ring was given up, as it was asked for.
    pub(crate) fn given_up(&self) {
        self.owners.given_up.set(self.owners.given_up.get() + 1);
    }

    /// Where a machine lies.
    pub(crate) fn zone(&self, node: usize) -> String {
        self.machines[node].zone()
    }

    /// How many machines are there from the beginning.
    pub(crate) fn founders(&self) -> usize {
        self.founders
    }

    /// The machines that own a key, in the order of preference; all, as long as that is not settled.
    pub(crate) fn owners(&self, key: &str) -> Vec<usize> {
        self.owners.or_all(key)
    }

    /// Whether a machine is known to own a key.
    pub(crate) fn is_owner(&self, node: usize, key: &str) -> bool {
        let owners = self.owners.of_key(key);
        owners.is_some_and(|owners| owners.contains(&node))
    }

    /// When the disk of a machine hung.
    pub(crate) fn hangs(&self, node: usize) -> &Hangs {
        &self.machines[node].hangs
    }

    /// How many machines the cluster has.
    pub(crate) fn machines(&self) -> usize {
        self.machines.len()
    }

    /// Puts a line into the trace.
    pub(crate) fn line(&self, text: &str) {
        self.trace.line(&self.name, text);
    }

    /// Reads a key.
    pub(crate) async fn get(&mut self, node: usize, get: Get) -> Answer<Fetched> {
        let within = Duration::from_millis(get.timeout_ms.into());
        match self.ask(node, Request::Get(get), within).await? {
            Response::Fetched(fetched) => Ok(fetched),
            other => panic!("a get was answered with {other:?}"),
        }
    }

    /// Stores a value or deletes a key.
    pub(crate) async fn write(&mut self, node: usize, write: Write) -> Answer<Written> {
        let within = Duration::from_millis(write.timeout_ms.into());
        let request = match write.value {
            Some(_) => Request::Put(write),
            None => Request::Delete(write),
        };
        match self.ask(node, request, within).await? {
            Response::Put(written) | Response::Deleted(written) => Ok(written),
            other => panic!("a write was answered with {other:?}"),
        }
    }

    /// The ring that a node follows.
    pub(crate) async fn ring(&mut self, node: usize) -> Answer<RingDocument> {
        match self.ask(node, Request::Ring, ASKED_WITHIN).await? {
            Response::Ring(ring) => Ok(ring.document),
            other => panic!("the ring was asked for and answered with {other:?}"),
        }
    }

    /// The cluster as a node sees it.
    pub(crate) async fn status(&mut self, node: usize) -> Answer<StatusReply> {
        match self.ask(node, Request::Status, ASKED_WITHIN).await? {
            Response::Status(status) => Ok(status),
            other => panic!("the status was asked for and answered with {other:?}"),
        }
    }

    /// Asks for other members. The ring that begins the change.
    pub(crate) async fn change_ring(
        &mut self,
        node: usize,
        change: ChangeRing,
    ) -> Answer<RingDocument> {
        match self
            .ask(node, Request::ChangeRing(change), DECIDED_WITHIN)
            .await?
        {
            Response::RingChanged(document) => Ok(document),
            other => panic!("another ring was asked for and answered with {other:?}"),
        }
    }

    /// Waits until each node that is there from the beginning sees all of those in the ring and alive.
    pub(crate) async fn wait_for_cluster(&mut self) {
        for node in 0..self.founders {
            while !self.sees_all(node).await {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn sees_all(&mut self, node: usize) -> bool {
        let founders = self.founders;
        let is_all = |stats: StatsReply| {
            stats.total_nodes as usize >= founders && stats.alive_nodes as usize >= founders
        };
        let within = Duration::from_secs(1);
        match self.ask(node, Request::Stats, within).await {
            Ok(Response::Stats(stats)) => is_all(stats),
            Ok(_) | Err(_) => false,
        }
    }

    /// Asks a node, and waits for a little longer than the node may take.
    async fn ask(&mut self, node: usize, request: Request, within: Duration) -> Answer<Response> {
        let mut connection = match self.connections.remove(&node) {
            Some(connection) => connection,
            None => match timeout(DIAL_TIMEOUT, Connection::dial(node)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return Err(Failure::NotSent(error.to_string())),
                Err(_) => return Err(Failure::NotSent("no connection in time".to_owned())),
            },
        };
        self.requests += 1;
        let outages = self.machines[node].outages();
        let conversation = connection.converse(self.requests, &request);
        // A connection that failed or is out of step is dropped with this.
        let response = match timeout(within + SLACK, conversation).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => return Err(Failure::Broken),
            // The dead can't answer.
            Err(_) if !self.machines[node].is_on() || self.machines[node].outages() > outages => {
                return Err(Failure::Broken);
            }
            Err(_) => return Err(Failure::Silent),
        };
        self.connections.insert(node, connection);
        match response {
            Response::Error(error) => Err(Failure::Refused(error)),
            answer => Ok(answer),
        }
    }
}

impl Connection {
    async fn dial(node: usize) -> io::Result<Self> {
        let mut connection = Self {
            stream: TcpStream::connect(address(node)).await?,
            decoder: FrameDecoder::new(16 * 1024 * 1024),
            buffer: BytesMut::new(),
        };
        let hello = Request::Hello(Hello::client("", None));
        match connection.converse(0, &hello).await? {
            Response::Welcome(_) => Ok(connection),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// Sends a request and waits for the answer to it.
    async fn converse(&mut self, id: u64, request: &Request) -> io::Result<Response> {
        let mut out = BytesMut::new();
        put_frame(&mut out, Header::new(request.kind(), id), |out| {
            request.encode(out);
        });
        self.stream.write_all(&out).await?;
        loop {
            let frame = self.decoder.next(&mut self.buffer);
            if let Some(frame) = frame.map_err(io::Error::other)? {
                assert_eq!(frame.header.request_id, id, "the answer to another request");
                let response = Response::decode(frame.header.kind, &frame.body);
                return response.map_err(io::Error::other);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A read with the defaults.
pub(crate) fn get(key: &str, timeout: Duration) -> Get {
    Get {
        timeout_ms: timeout.as_millis() as u32,
        key: Bytes::copy_from_slice(key.as_bytes()),
        r: None,
        repair_first: false,
    }
}

/// A blind write with the defaults.
pub(crate) fn write(key: &str, id: WriteId, value: Option<Bytes>, timeout: Duration) -> Write {
    Write {
        timeout_ms: timeout.as_millis() as u32,
        write_id: id,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value,
        context: None,
        w: None,
        ttl_ms: None,
        sloppy: false,
        again: false,
        if_no_conflict: false,
        handed_on: None,
    }
}
