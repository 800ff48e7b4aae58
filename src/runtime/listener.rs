//! Takes connections in, as many as the settings allow.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::message::Response;
use dynakv_protocol::{ErrorCode, ErrorReply};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::connection::{self, Shared};
use super::environment::{Listener, WriteHalf};
use super::events::ConnectionId;
use super::outbox::Outbox;

/// How long to wait when the system has no more descriptors to give.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused connection may take to hear why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts connections until shutdown and serves each in a task of its own.
pub async fn run(
    mut listener: Box<dyn Listener>,
    connections_max: usize,
    shared: Shared,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let mut next_id = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (read, write) = match accepted {
            Ok((read, write, _from)) => (read, write),
            Err(error) => {
                // Descriptors run out under load and come back; the listener must not.
                tracing::warn!(%error, "could not accept a connection");
                sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            shared.metrics.connections_refused.increment(1);
            tasks.spawn(refuse(write, connections_max));
            continue;
        };
        next_id += 1;
        let (id, shared) = (ConnectionId(next_id), shared.clone());
        tasks.spawn(async move {
            connection::serve(id, read, write, shared).await;
            drop(place);
        });
    }
}

async fn refuse(write: WriteHalf, connections_max: usize) {
    let message = format!("this node has {connections_max} connections already; try another node");
    let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
    let outbox = Outbox::default();
    outbox.respond(0, &Response::Error(error));
    outbox.close();
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, outbox.write_to(write)).await;
}
