//! Calls to other nodes, of the control task and of the mender: one question, one answer, over pooled
//! connections.
//!
//! There are few of them, so each has a connection to itself while it lasts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::NodeId;
use dynakv_protocol::frame::{FrameDecoder, Header, put_frame};
use dynakv_protocol::handshake::{Hello, Welcome};
use dynakv_protocol::message::{Request, Response};
use metrics::Counter;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::FrameReader;
use super::environment::{Network, WriteHalf};
use super::link::{DialError, dial};
use super::seen::Seen;
use super::view::View;

/// How many idle connections are kept for each address.
const IDLE_PER_ADDRESS_MAX: usize = 16;

/// How many addresses have idle connections.
const IDLE_ADDRESSES_MAX: usize = 2048;

/// The largest answer: a ring document with the most members that there can be.
const CONTROL_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

struct Idle {
    reader: FrameReader,
    write: WriteHalf,
    welcome: Welcome,
}

/// Makes calls.
pub struct Calls {
    network: Arc<dyn Network>,
    hello: Hello,
    view: watch::Receiver<Arc<View>>,
    seen: Arc<Seen>,
    idle: Mutex<BTreeMap<String, Vec<Idle>>>,
    answer_bytes_max: usize,
    malformed: Counter,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    /// Calls over this network; `hello` says who this node is, the view which cluster it is in. Who is
    /// older than what was seen gets no call, and `malformed` counts what comes back and is no frame.
    pub fn new(
        network: Arc<dyn Network>,
        hello: Hello,
        view: watch::Receiver<Arc<View>>,
        seen: Arc<Seen>,
        malformed: Counter,
    ) -> Self {
        let idle = Mutex::default();
        Self {
            network,
            hello,
            view,
            seen,
            idle,
            answer_bytes_max: CONTROL_ANSWER_BYTES_MAX,
            malformed,
        }
    }

    /// The same, for questions about data: answers may be as large as frames are.
    pub fn about_data(
        network: Arc<dyn Network>,
        hello: Hello,
        view: watch::Receiver<Arc<View>>,
        seen: Arc<Seen>,
        answer_bytes_max: usize,
        malformed: Counter,
    ) -> Self {
        Self {
            answer_bytes_max,
            ..Self::new(network, hello, view, seen, malformed)
        }
    }

    /// Asks the node at `address`, and makes sure that it is `expected` when that is given. Control
    /// requests may be asked twice: a connection that broke while idle is made anew.
    ///
    /// # Errors
    /// [`DialError`]; a refusal by the node is the [`Response::Error`] it sent.
    pub async fn call(
        &self,
        address: &str,
        expected: Option<&NodeId>,
        request: &Request,
        within: Duration,
    ) -> Result<(Response, Welcome), DialError> {
        let call = async {
            if let Some(idle) = self.take(address)
                && let Ok(answer) = self.ask(idle, address, expected, request).await
            {
                return Ok(answer);
            }
            let fresh = self.dial(address).await?;
            self.ask(fresh, address, expected, request).await
        };
        timeout(within, call)
            .await
            .map_err(|_| DialError::Timeout)?
    }

    async fn dial(&self, address: &str) -> Result<Idle, DialError> {
        let mut hello = self.hello.clone();
        if let Some(peer) = &mut hello.peer {
            peer.cluster_id = self.view.borrow().cluster_id;
        }
        let dialled = dial(&*self.network, address, &hello, &self.seen, &self.malformed);
        let (mut reader, write, welcome) = dialled.await?;
        reader.decoder = FrameDecoder::new(self.answer_bytes_max);
        Ok(Idle {
            reader,
            write,
            welcome,
        })
    }

    async fn ask(
        &self,
        mut connection: Idle,
        address: &str,
        expected: Option<&NodeId>,
        request: &Request,
    ) -> Result<(Response, Welcome), DialError> {
        if let Some(expected) = expected
            && connection.welcome.node_id != *expected
        {
            return Err(DialError::AnotherNode {
                expected: expected.clone(),
                found: connection.welcome.node_id,
            });
        }
        let mut out = BytesMut::new();
        put_frame(&mut out, Header::new(request.kind(), 1), |out| {
            request.encode(out)
        });
        connection.write.write_all(&out).await?;
        let malformed = |error: String| DialError::Malformed(error);
        // One question is under way, so there is one answer, be it in a batch.
        let mut answer = None;
        let mut take = |frame| answer = Some(frame);
        let read = connection.reader.read_frames(&mut take).await;
        let frame = match (read, answer) {
            (Err(error), _) => return Err(malformed(error.to_string())),
            (Ok(_), Some(frame)) => frame,
            (Ok(_), None) => return Err(malformed("it closed the connection".into())),
        };
        let response = Response::decode(frame.header.kind, &frame.body)
            .map_err(|error| malformed(error.to_string()))?;
        let welcome = connection.welcome.clone();
        self.put_back(address, connection);
        Ok((response, welcome))
    }

    fn take(&self, address: &str) -> Option<Idle> {
        self.lock().get_mut(address)?.pop()
    }

    fn put_back(&self, address: &str, connection: Idle) {
        let mut idle = self.lock();
        if idle.len() >= IDLE_ADDRESSES_MAX && !idle.contains_key(address) {
            return;
        }
        let waiting = idle.entry(address.to_owned()).or_default();
        if waiting.len() < IDLE_PER_ADDRESS_MAX {
            waiting.push(connection);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Idle>>> {
        // The map is whole between any two operations.
        self.idle
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
