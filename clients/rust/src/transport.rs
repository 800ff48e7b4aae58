//! What carries requests to a node.
//!
//! [`GetRequest`](crate::GetRequest) and its like hold the options of a request, check its bounds and
//! read its answer. How it gets to a node, and when it is sent again, is the business of a [`Transport`].

use std::time::Duration;

use dynakv_protocol::WriteId;
use dynakv_protocol::message::{Request, Response};
use tokio::time::Instant;

use crate::error::Error;

/// Carries requests to a node, and brings their answers back.
///
/// Programs have no need of it: [`Client`](crate::Client) is the one over the network, and a program
/// that runs a node inside itself gets the same requests from that node's `LocalClient`. It is public
/// so that the crate `dynakv` can implement it for the latter. A test may, too, to stand in for a cluster; it
/// has to hold to what the methods say. Methods may be added in any version.
pub trait Transport: Clone + Send + Sync + 'static {
    /// How long a request may take that is given no timeout: more than 0, and 60 s at most.
    fn timeout(&self) -> Duration;

    /// The id of another write. Nobody else ever gives the same one, and a later one of this transport
    /// and its clones is greater.
    fn next_write_id(&self) -> WriteId;

    /// The most requests that it has under way at once, at least 1; whoever comes beyond it waits. A call
    /// for many keys begins no more than that at a time. Unbounded unless the transport says so.
    fn requests_in_flight_max(&self) -> usize {
        usize::MAX
    }

    /// Sends a get, a put or a delete, as often as it sees fit until `deadline`, and gives what `extract`
    /// makes of the answer. `extract` gives `None` for an answer to another kind of request.
    ///
    /// What differs between the attempts is written into the request by [`begin_attempt`]. All attempts
    /// of a write carry the same write id. The future may be dropped at any time.
    ///
    /// # Errors
    /// [`Error`], which says of a write whether any of the attempts may have applied it. Once the deadline
    /// has passed nothing more is sent.
    fn execute<A>(
        &self,
        request: Request,
        deadline: Instant,
        extract: impl Fn(Response) -> Option<A> + Send,
    ) -> impl Future<Output = Result<A, Error>> + Send;
}

/// Readies a request for an attempt: `timeout_ms` is how many milliseconds the node has for it, and
/// `again` says that an earlier attempt may have been applied.
///
/// A node that is told `again` reckons with copies of the write. Nobody listens to the earlier attempt
/// any more, and this one stands for its copies.
pub fn begin_attempt(request: &mut Request, timeout_ms: u32, again: bool) {
    match request {
        Request::Get(get) => get.timeout_ms = timeout_ms,
        Request::Put(write) | Request::Delete(write) => {
            write.timeout_ms = timeout_ms;
            write.again |= again;
        }
        Request::Explain(explain) => explain.timeout_ms = timeout_ms,
        Request::Import(import) => import.timeout_ms = timeout_ms,
        // The others have no deadline of their own.
        _ => {}
    }
}
