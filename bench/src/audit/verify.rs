//! The end of an audit: every key is read from all of its owners and held against the books.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynakv_client::{Client, Error, Fetched};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::books::Trust;
use super::shared::Shared;
use super::value;

/// So many keys are read at once.
const READERS: usize = 16;

/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a read is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What the cluster promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quorums {
    /// Owners of a key.
    pub(super) n: u8,
    /// How many of them a write waits for.
    pub(super) w: u8,
    /// How many a read asks.
    pub(super) r: u8,
}

impl Quorums {
    /// Asks the servers for them, one after the other.
    ///
    /// # Errors
    /// What the last one said.
    pub(super) async fn ask(servers: &[String]) -> Result<Self, Error> {
        let mut failure = None;
        for server in servers {
            let client = Client::builder().seeds([server]).ring_routing(false);
            let ring = match client.build().await {
                Ok(client) => client.ring().await,
                Err(error) => Err(error),
            };
            match ring {
                Ok(ring) => {
                    let n = ring.document.effective_n() as u8;
                    return Ok(Self {
                        n,
                        w: ring.document.w.min(n),
                        r: ring.document.r.min(n),
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Invalid {
            what: "an audit needs at least one server".to_owned(),
        }))
    }

    /// Whether each read meets each write.
    pub(super) fn are_strict(self) -> bool {
        self.w + self.r > self.n
    }

    /// The smallest R that meets each write.
    fn meeting(self) -> u8 {
        self.n + 1 - self.w
    }
}

/// Reads all keys. Gives how many were read from fewer than all owners, because some did not answer.
pub(super) async fn read_everything(
    clients: &[Client],
    shared: &Arc<Shared>,
    quorums: Quorums,
    patience: Duration,
) -> usize {
    let keys = Arc::new(Mutex::new(shared.books().written_keys()));
    let deadline = Instant::now() + patience;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let client = clients[reader % clients.len()].clone();
        let (keys, shared) = (Arc::clone(&keys), Arc::clone(shared));
        readers.spawn(async move {
            let mut with_fewer = 0;
            loop {
                // Nothing panics while it holds the lock.
                let key = keys.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(key) = key else { break with_fewer };
                let was_read = read(&client, &shared, key, quorums, deadline).await;
                with_fewer += usize::from(was_read == Some(Owners::Enough));
            }
        });
    }
    let mut with_fewer = 0;
    while let Some(ended) = readers.join_next().await {
        match ended {
            Ok(keys) => with_fewer += keys,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    with_fewer
}

/// Whom a read has asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owners {
    All,
    Enough,
}

/// Reads one key, from all owners while there is time, then from as many as meet each write.
async fn read(
    client: &Client,
    shared: &Shared,
    key: u32,
    quorums: Quorums,
    deadline: Instant,
) -> Option<Owners> {
    let name = value::key_name(shared.run, key);
    loop {
        let (r, owners) = if Instant::now() < deadline {
            (quorums.n, Owners::All)
        } else {
            (quorums.meeting(), Owners::Enough)
        };
        let began = shared.now();
        let get = client.get(&name).r(r).repair_first().timeout(READ_TIMEOUT);
        match get.send().await {
            Ok(fetched) => {
                note(shared, key, fetched, began);
                return Some(owners);
            }
            Err(error) if owners == Owners::Enough => {
                let now = shared.now();
                shared.books().unreadable(key, error.to_string(), now);
                return None;
            }
            Err(_) => sleep(RETRY_INTERVAL).await,
        }
    }
}

fn note(shared: &Shared, key: u32, fetched: Fetched, began: Duration) {
    let values: Vec<_> = fetched
        .siblings
        .into_iter()
        .map(|s| (s.value, s.dot))
        .collect();
    let now = shared.now();
    shared
        .books()
        .on_read(key, &values, Trust::Final, began, now);
}
