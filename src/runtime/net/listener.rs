//! Takes connections in, as many as the settings allow.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::ErrorReply;
use dynakv_protocol::message::Response;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::connection::{self, Shared};
use crate::runtime::shared::environment::{Listener, ReadHalf, WriteHalf};
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::outbox::Outbox;
use crate::runtime::shared::places::{Places, Shortage, Taken};

/// How long a refused connection may take to hear why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How many are told at once why they are refused; each has a descriptor. More are hung up on.
const REFUSALS_MAX: usize = 16;

/// Accepts connections until shutdown and serves each in a task of its own.
pub async fn run(
    mut listener: Box<dyn Listener>,
    places: Arc<Places>,
    shared: Shared,
    tasks: TaskTracker,
) {
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
        let Some(Taken { place, made_room }) = places.take(shared.admission.members()) else {
            shared.metrics.doors.refused.increment(1);
            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                let refusal = places.full();
                tasks.spawn(async move {
                    refuse(read, write, refusal).await;
                    drop(permit);
                });
            }
            continue;
        };
        next_id += 1;
        let (id, shared) = (ConnectionId(next_id), shared.clone());
        if made_room {
            shared.metrics.doors.refused.increment(1);
        }
        tasks.spawn(connection::serve(id, read, write, place, shared));
        if made_room {
            // The one that is closed lets go of its descriptor before the next one comes.
            places.others_are_gone().await;
        }
    }
}

async fn refuse(mut read: ReadHalf, write: WriteHalf, error: ErrorReply) {
    let outbox = Outbox::default();
    outbox.respond(0, &Response::Error(error));
    outbox.close();
    let told = async {
        let _ = outbox.write_to(write).await;
        // To close a connection with its hello unread takes from the other side what it has not read.
        let mut unheard = [0; 1024];
        while read.read(&mut unheard).await.is_ok_and(|count| count > 0) {}
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, told).await;
}
