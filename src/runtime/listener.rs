//! Takes connections in, as many as the settings allow.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::message::Response;
use dynakv_protocol::{ErrorCode, ErrorReply};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::connection::{self, Shared};
use super::environment::{Listener, WriteHalf};
use super::events::ConnectionId;
use super::outbox::Outbox;
use super::places::{Places, Shortage, Taken};

/// How long a refused connection may take to hear why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How many are told at once why they are refused; each has a descriptor. More are hung up on.
const REFUSALS_MAX: usize = 16;

/// Accepts connections until shutdown and serves each in a task of its own.
pub async fn run(
    mut listener: Box<dyn Listener>,
    connections_max: usize,
    shared: Shared,
    tasks: TaskTracker,
) {
    let places = Places::new(connections_max);
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut shortage = Shortage::default();
    let mut next_id = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (read, write) = match accepted {
            Ok((read, write, _from)) => (read, write),
            // Descriptors run out under load and come back; the listener must not end.
            Err(error) => {
                shortage.wait(&error, &places).await;
                continue;
            }
        };
        shortage.is_over();
        let Some(Taken { place, made_room }) = places.take() else {
            shared.metrics.connections_refused.increment(1);
            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                tasks.spawn(async move {
                    refuse(write, connections_max).await;
                    drop(permit);
                });
            }
            continue;
        };
        next_id += 1;
        let (id, shared) = (ConnectionId(next_id), shared.clone());
        if made_room {
            shared.metrics.connections_refused.increment(1);
        }
        tasks.spawn(connection::serve(id, read, write, place, shared));
        if made_room {
            // The one that is closed lets go of its descriptor before the next one comes.
            tokio::task::yield_now().await;
        }
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
