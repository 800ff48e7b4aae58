//! A node as the client knows it: an address, and a connection that is dialled when it is needed.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dynakv_protocol::ClusterId;
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::message::{Request, Response};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::connection::{CallError, Cause, Connection};
use crate::dial::DialError;
use crate::error::Error;
use crate::wrong_port::at_port;

/// A node whose dial failed, or that has said that it leaves, is dialled again after this time, and meanwhile asked
/// last.
const REDIAL_AFTER: Duration = Duration::from_secs(1);

/// What every dial needs to know.
#[derive(Debug)]
pub(crate) struct DialSettings {
    /// The cluster's name; empty for whichever it is.
    pub(crate) cluster_name: String,
    /// How long a dial with its handshake may take.
    pub(crate) dial_timeout: Duration,
    /// How many requests may be in flight on one connection.
    pub(crate) window: u32,
    /// The cluster's id, pinned by the first node that tells one: a client never talks to two clusters.
    pub(crate) cluster_id: OnceLock<ClusterId>,
}

type DialResult = Result<Arc<Connection>, DialError>;

#[derive(Debug)]
enum Link {
    Idle,
    /// A task is dialling; everyone who needs the connection watches for its result.
    Dialling(watch::Receiver<Option<DialResult>>),
    Open(Arc<Connection>),
}

#[derive(Debug)]
struct State {
    link: Link,
    /// Set from a lost connection or failed dial until the next dial that succeeds.
    failed: bool,
    /// A node that failed is not dialled before, unless there is nobody else to ask.
    redial_at: Option<Instant>,
}

impl State {
    fn is_dialling(&self) -> bool {
        // A dial whose task died with its runtime never ends: it does not count.
        matches!(&self.link, Link::Dialling(watching) if watching.has_changed().is_ok())
    }
}

/// One node and the connection to it.
#[derive(Debug)]
pub(crate) struct Node {
    address: String,
    settings: Arc<DialSettings>,
    state: Mutex<State>,
}

impl Node {
    pub(crate) fn new(address: &str, settings: &Arc<DialSettings>) -> Arc<Self> {
        Arc::new(Self {
            address: address.to_owned(),
            settings: Arc::clone(settings),
            state: Mutex::new(State {
                link: Link::Idle,
                failed: false,
                redial_at: None,
            }),
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether it is worth asking before others: it has not failed since it was last connected.
    ///
    /// Nobody waits for a node that failed while others can be asked. It is dialled beside the requests
    /// that pass it over, now and then, and is back as soon as that succeeds.
    pub(crate) fn looks_alive(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        match &state.link {
            Link::Open(connection) if !connection.is_closed() => return true,
            Link::Open(connection) => {
                // A node that is about to end has nothing for who comes back at once.
                let pause = connection.was_left().then_some(REDIAL_AFTER);
                state.link = Link::Idle;
                state.failed = true;
                state.redial_at = pause.map(|pause| Instant::now() + pause);
            }
            Link::Idle | Link::Dialling(_) => {}
        }
        if !state.failed {
            return true;
        }
        let is_due = state.redial_at.is_none_or(|at| Instant::now() >= at);
        if is_due && !state.is_dialling() {
            self.begin_dial(&mut state);
        }
        false
    }

    /// Sends a request over the node's connection, which is dialled first if need be.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let is_write = match request {
            Request::Put(_) | Request::Delete(_) | Request::Import(_) => true,
            Request::ChangeRing(change) => !change.is_plan,
            _ => false,
        };
        let started = Instant::now();
        let connection = match timeout_at(deadline, self.connection()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.dial_error(error)),
            Err(_elapsed) => return Err(self.timed_out(started, false)),
        };
        let address = || self.address.clone();
        match connection.call(request, deadline).await {
            Ok(Response::Error(mut reply)) => {
                // Whatever a node says, a read applies nothing.
                reply.maybe_applied &= is_write;
                Err(Error::from_reply(&self.address, reply))
            }
            Ok(response) => Ok(response),
            Err(CallError { sent, cause }) => {
                let maybe_applied = sent && is_write;
                Err(match cause {
                    Cause::Closed(reason) => Error::ConnectionLost {
                        address: address(),
                        reason,
                        maybe_applied,
                    },
                    Cause::TimedOut => self.timed_out(started, maybe_applied),
                    Cause::Undecodable(error) => Error::Protocol {
                        address: address(),
                        reason: error.to_string(),
                        maybe_applied,
                    },
                })
            }
        }
    }

    async fn connection(self: &Arc<Self>) -> DialResult {
        let mut watching = match self.open_or_dial() {
            Ok(connection) => return Ok(connection),
            Err(watching) => watching,
        };
        let lost = || DialError::Network("the dial was given up".into());
        match watching.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(lost())),
            Err(_sender_gone) => Err(lost()),
        }
    }

    /// The open connection, or the dial to wait for. The dial is a task of its own, so that a caller
    /// who gives up does not take it away from the others.
    fn open_or_dial(
        self: &Arc<Self>,
    ) -> Result<Arc<Connection>, watch::Receiver<Option<DialResult>>> {
        let mut state = self.lock();
        match &state.link {
            Link::Open(connection) if !connection.is_closed() => Ok(Arc::clone(connection)),
            Link::Dialling(watching) if state.is_dialling() => Err(watching.clone()),
            Link::Open(_) | Link::Dialling(_) | Link::Idle => Err(self.begin_dial(&mut state)),
        }
    }

    fn begin_dial(self: &Arc<Self>, state: &mut State) -> watch::Receiver<Option<DialResult>> {
        let (sender, watching) = watch::channel(None);
        state.link = Link::Dialling(watching.clone());
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let result = node.dial().await;
            node.dialled(&result);
            let _nobody_waits = sender.send(Some(result));
        });
        watching
    }

    async fn dial(&self) -> DialResult {
        let settings = &*self.settings;
        let hello = Hello::client(&settings.cluster_name, settings.cluster_id.get().copied());
        let hello = hello.knowing_goaway();
        let connection = Connection::dial(
            &self.address,
            &hello,
            settings.dial_timeout,
            settings.window,
        )
        .await?;
        let told = connection.welcome().cluster_id;
        if !told.is_none() {
            let pinned = *settings.cluster_id.get_or_init(|| told);
            if pinned != told {
                return Err(DialError::Network(
                    format!("it belongs to cluster {told}, this client talks to {pinned}").into(),
                ));
            }
        }
        Ok(Arc::new(connection))
    }

    fn dialled(&self, result: &DialResult) {
        let mut state = self.lock();
        match result {
            Ok(connection) => {
                state.link = Link::Open(Arc::clone(connection));
                state.failed = false;
                state.redial_at = None;
            }
            Err(_) => {
                state.link = Link::Idle;
                state.failed = true;
                state.redial_at = Some(Instant::now() + REDIAL_AFTER);
            }
        }
    }

    fn dial_error(&self, error: DialError) -> Error {
        match error {
            DialError::Network(reason) => Error::Unreachable {
                address: self.address.clone(),
                reason,
                maybe_applied: false,
            },
            DialError::Refused(reply) => Error::from_reply(&self.address, reply),
            DialError::Http(data_port) => Error::WrongPort {
                address: self.address.clone(),
                data_address: data_port.and_then(|port| at_port(&self.address, port)),
                maybe_applied: false,
            },
        }
    }

    fn timed_out(&self, started: Instant, maybe_applied: bool) -> Error {
        Error::Timeout {
            address: self.address.clone(),
            waited: started.elapsed(),
            maybe_applied,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
