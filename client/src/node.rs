//! A node as the client knows it: an address, and a connection that is dialled when it is needed.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dynakv_protocol::ClusterId;
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::message::{Request, Response};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::connection::{CallError, Cause, Connection, DialError};
use crate::error::Error;

/// After a failed dial the node is asked last for this long.
const SHUN_FOR: Duration = Duration::from_secs(1);

/// What every dial needs to know.
#[derive(Debug)]
pub(crate) struct DialSettings {
    /// The cluster's name; empty for whichever it is.
    pub(crate) cluster_name: String,
    /// How long a dial with its handshake may take.
    pub(crate) dial_timeout: Duration,
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
    shunned_until: Option<Instant>,
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
                shunned_until: None,
            }),
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether it is worth asking before others: it did not just fail to connect.
    pub(crate) fn looks_alive(&self) -> bool {
        match self.lock().shunned_until {
            Some(until) => Instant::now() >= until,
            None => true,
        }
    }

    /// Sends a request over the node's connection, which is dialled first if need be.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let is_write = matches!(
            request,
            Request::Put(_) | Request::Delete(_) | Request::Import(_)
        );
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
            Link::Open(connection) if !connection.is_closed() => {
                return Ok(Arc::clone(connection));
            }
            // A dial whose task died with its runtime never ends: begin another.
            Link::Dialling(watching) if watching.has_changed().is_ok() => {
                return Err(watching.clone());
            }
            Link::Open(_) | Link::Dialling(_) | Link::Idle => {}
        }
        let (sender, watching) = watch::channel(None);
        state.link = Link::Dialling(watching.clone());
        drop(state);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let result = node.dial().await;
            node.dialled(&result);
            let _nobody_waits = sender.send(Some(result));
        });
        Err(watching)
    }

    async fn dial(&self) -> DialResult {
        let settings = &*self.settings;
        let hello = Hello::client(&settings.cluster_name, settings.cluster_id.get().copied());
        let connection = Connection::dial(&self.address, &hello, settings.dial_timeout).await?;
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
                state.shunned_until = None;
            }
            Err(_) => {
                state.link = Link::Idle;
                state.shunned_until = Some(Instant::now() + SHUN_FOR);
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
