//! Data operations of a program on the node that it runs itself, without a socket.
//!
//! [`LocalClient`] is made like `dynakv_client::Client`: its requests are the same types, with the same
//! options, answers and errors, so that code can move from one to the other. A request goes to this one
//! node, which forwards it when it owns no copy of the key; the network client, for its part, asks one
//! node after the other. Code for both takes any [`Transport`].

mod attempts;
mod operations;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dynakv_client::Transport;
use dynakv_protocol::message::{Request, Response};
use tokio::time::Instant;

use crate::runtime::net::local::Local;

pub use dynakv_client::{
    Conflict, Context, Error, ErrorCode, Fetched, FetchedSibling, Update, Updated, Written,
};
pub use dynakv_protocol::client::{HealthReply, RingReply, StatsReply, StatusReply};

/// A read that has not been sent yet: see [`LocalClient::get`].
pub type GetRequest = dynakv_client::GetRequest<LocalClient>;

/// A put that has not been sent yet: see [`LocalClient::put`].
pub type PutRequest = dynakv_client::PutRequest<LocalClient>;

/// A delete that has not been sent yet: see [`LocalClient::delete`].
pub type DeleteRequest = dynakv_client::DeleteRequest<LocalClient>;

/// An update that has not been sent yet: see [`LocalClient::update`].
pub type UpdateRequest<'f> = dynakv_client::UpdateRequest<'f, LocalClient>;

/// Reads of many keys that have not been sent yet: see [`LocalClient::get_many`].
pub type GetManyRequest = dynakv_client::GetManyRequest<LocalClient>;

/// Puts of many values that have not been sent yet: see [`LocalClient::put_many`].
pub type PutManyRequest = dynakv_client::PutManyRequest<LocalClient>;

/// Asks the node of this process. Cheap to clone; it may outlive the node, and then says that it ended.
///
/// Many tasks may use it at once. They may have half of the requests and bytes under way that the
/// node's settings allow in all; whoever comes when that is used up waits, within its deadline. A request
/// may take 5 s unless it is given a timeout.
#[derive(Debug, Clone)]
pub struct LocalClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: Arc<Local>,
    /// Where others reach the node: it stands in errors.
    address: String,
    /// The upper half of its write ids.
    writer: u64,
    writes: AtomicU64,
}

impl LocalClient {
    pub(crate) fn new(local: Arc<Local>, address: String, writer: u64) -> Self {
        let writes = AtomicU64::new(0);
        Self {
            inner: Arc::new(Inner {
                local,
                address,
                writer,
                writes,
            }),
        }
    }

    /// The node's statistics.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn stats(&self) -> Result<StatsReply, Error> {
        self.ask(Request::Stats, |response| match response {
            Response::Stats(stats) => Some(stats),
            _ => None,
        })
        .await
    }

    /// Whether the node is ready, and why not.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn health(&self) -> Result<HealthReply, Error> {
        self.ask(Request::Health, |response| match response {
            Response::Health(health) => Some(health),
            _ => None,
        })
        .await
    }

    /// The cluster as the node sees it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self) -> Result<StatusReply, Error> {
        self.ask(Request::Status, |response| match response {
            Response::Status(status) => Some(status),
            _ => None,
        })
        .await
    }

    /// The ring as the node knows it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ring(&self) -> Result<RingReply, Error> {
        self.ask(Request::Ring, |response| match response {
            Response::Ring(ring) => Some(ring),
            _ => None,
        })
        .await
    }

    async fn ask<A>(
        &self,
        request: Request,
        extract: impl Fn(Response) -> Option<A> + Send,
    ) -> Result<A, Error> {
        let deadline = Instant::now() + self.timeout();
        self.execute(request, deadline, extract).await
    }
}
