//! Calls to other nodes, of the control task and of anti-entropy: one question, or some at once, over
//! pooled connections.
//!
//! There are few of them, so each has a connection to itself while it lasts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::NodeId;
use dynakv_protocol::frame::{Frame, FrameDecoder, Header, put_frame};
use dynakv_protocol::handshake::{Hello, Welcome};
use dynakv_protocol::message::{Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::frame_reader::FrameReader;
use super::link::{DIAL_TIMEOUT, DialError, Greeted, dial};
use super::outgoing::Outgoing;
use crate::runtime::shared::environment::WriteHalf;

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
    outgoing: Outgoing,
    hello: Hello,
    idle: Mutex<BTreeMap<String, Vec<Idle>>>,
    answer_bytes_max: usize,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    /// Calls this way; `hello` says who this node is.
    pub fn new(outgoing: Outgoing, hello: Hello) -> Self {
        Self {
            outgoing,
            hello,
            idle: Mutex::default(),
            answer_bytes_max: CONTROL_ANSWER_BYTES_MAX,
        }
    }

    /// The same, for questions about data: answers may be as large as frames are.
    pub fn about_data(outgoing: Outgoing, hello: Hello, answer_bytes_max: usize) -> Self {
        Self {
            answer_bytes_max,
            ..Self::new(outgoing, hello)
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
            let request = std::slice::from_ref(request);
            if let Some(idle) = self.take(address)
                && let Ok(answer) = self.ask(idle, address, expected, request).await
            {
                return Ok(answer);
            }
            let fresh = self.dial(address).await?;
            self.ask(fresh, address, expected, request).await
        };
        let call = async {
            let (answers, welcome) = call.await?;
            let answer = answers.into_iter().next();
            let answer = answer.ok_or_else(|| DialError::Malformed("no answer".to_owned()))?;
            Ok((answer, welcome))
        };
        timeout(within, call)
            .await
            .map_err(|_| DialError::Timeout)?
    }

    /// Asks the node at `address` many things at once, over one connection, and so one process of it; the
    /// answers are in the order of the requests. Only for requests that may be asked twice.
    ///
    /// # Errors
    /// [`DialError`]; a refusal by the node is the [`Response::Error`] it sent.
    pub async fn call_all(
        &self,
        address: &str,
        expected: &NodeId,
        requests: &[Request],
        within: Duration,
    ) -> Result<(Vec<Response>, Welcome), DialError> {
        let call = async {
            if let Some(idle) = self.take(address)
                && let Ok(answers) = self.ask(idle, address, Some(expected), requests).await
            {
                return Ok(answers);
            }
            let fresh = self.dial(address).await?;
            self.ask(fresh, address, Some(expected), requests).await
        };
        timeout(within, call)
            .await
            .map_err(|_| DialError::Timeout)?
    }

    /// Says to the node at `address` who this one is, over a connection of its own, and asks nothing but who is
    /// there now: a connection that is kept would tell who was.
    ///
    /// # Errors
    /// [`DialError`]; what the node has against this one is [`DialError::Refused`].
    pub async fn introduce(&self, address: &str) -> Result<Welcome, DialError> {
        let fresh = self.dial(address).await?;
        Ok(fresh.welcome)
    }

    /// The addresses that a name stands for now.
    ///
    /// # Errors
    /// It has none, or that cannot be found out in [`DIAL_TIMEOUT`].
    pub async fn addresses_of(&self, address: &str) -> io::Result<Vec<String>> {
        let resolved = self.outgoing.network.resolve(address);
        match timeout(DIAL_TIMEOUT, resolved).await {
            Ok(resolved) => resolved,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the name is not resolved in time",
            )),
        }
    }

    async fn dial(&self, address: &str) -> Result<Idle, DialError> {
        let mut hello = self.hello.clone();
        if let Some(peer) = &mut hello.peer {
            peer.cluster_id = self.outgoing.view.borrow().cluster_id;
        }
        let Outgoing {
            network,
            seen,
            intake,
            ..
        } = &self.outgoing;
        let dialled = dial(&**network, address, &hello, seen, intake);
        let Greeted {
            mut reader,
            write,
            welcome,
            ..
        } = dialled.await?;
        reader.decoder = FrameDecoder::new(self.answer_bytes_max);
        Ok(Idle {
            reader,
            write,
            welcome,
        })
    }

    /// As many answers as there are requests.
    async fn ask(
        &self,
        mut connection: Idle,
        address: &str,
        expected: Option<&NodeId>,
        requests: &[Request],
    ) -> Result<(Vec<Response>, Welcome), DialError> {
        if let Some(expected) = expected
            && connection.welcome.node_id != *expected
        {
            return Err(DialError::AnotherNode {
                expected: expected.clone(),
                found: connection.welcome.node_id,
            });
        }
        let malformed = |error: String| DialError::Malformed(error);
        // While they are written the answers to the first come in already, and must be read, or two
        // nodes wait for each other.
        let write = async {
            for (id, request) in (1..).zip(requests) {
                let mut out = BytesMut::new();
                put_frame(&mut out, Header::new(request.kind(), id), |out| {
                    request.encode(out)
                });
                connection.write.write_all(&out).await?;
            }
            Ok::<(), DialError>(())
        };
        let read = async {
            let mut answers: Vec<Option<Frame>> = Vec::new();
            answers.resize_with(requests.len(), || None);
            let mut left = requests.len();
            while left > 0 {
                let mut take = |frame: Frame| {
                    let place = usize::try_from(frame.header.request_id).unwrap_or(0);
                    // What nobody asked for is left out.
                    let place = place.checked_sub(1).and_then(|at| answers.get_mut(at));
                    if let Some(place @ None) = place {
                        *place = Some(frame);
                        left -= 1;
                    }
                };
                match connection.reader.read_frames(&mut take).await {
                    Ok(true) => {}
                    Ok(false) if left == 0 => {}
                    Ok(false) => return Err(malformed("it closed the connection".into())),
                    Err(error) => return Err(malformed(error.to_string())),
                }
            }
            Ok(answers)
        };
        let ((), answers) = tokio::try_join!(write, read)?;
        let decode = |frame: Frame| {
            Response::decode(frame.header.kind, &frame.body)
                .map_err(|error| malformed(error.to_string()))
        };
        let answers = answers.into_iter().flatten().map(decode);
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        let welcome = connection.welcome.clone();
        self.put_back(address, connection);
        Ok((answers, welcome))
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
