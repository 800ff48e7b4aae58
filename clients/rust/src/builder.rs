//! The settings of a client.

use std::sync::OnceLock;
use std::time::Duration;

use dynakv_protocol::limits::TIMEOUT_MS_DEFAULT;

use crate::checks::{check_address, check_timeout};
use crate::client::Client;
use crate::error::Error;
use crate::node::DialSettings;

/// How many requests may be in flight on one connection, unless the caller says otherwise.
const WINDOW_DEFAULT: u32 = 2048;

/// A node refuses clients long before.
const WINDOW_MAX: u32 = 1 << 20;

/// Builds a [`Client`]: see [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    pub(crate) seeds: Vec<String>,
    pub(crate) cluster_name: String,
    pub(crate) timeout: Duration,
    pub(crate) dial_timeout: Duration,
    pub(crate) ring_routing: bool,
    pub(crate) window: u32,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            seeds: Vec::new(),
            cluster_name: String::new(),
            timeout: Duration::from_millis(u64::from(TIMEOUT_MS_DEFAULT)),
            dial_timeout: Duration::from_secs(1),
            ring_routing: true,
            window: WINDOW_DEFAULT,
        }
    }

    /// Nodes to begin with, as `HOST:PORT`; any one that lives is enough. A name is resolved at each
    /// dial.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Talk to a cluster of this name only. Without it, to whichever the seeds belong to.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = name.into();
        self
    }

    /// How long an operation may take with all its attempts: 5 s by default, 60 s at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long connecting to one node may take: 1 s by default.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// Whether requests go straight to the owners of their key (the default). Without it the client
    /// talks to the seeds only, in their order: right for a single request, or where the members'
    /// addresses cannot be reached from here.
    pub fn ring_routing(mut self, enabled: bool) -> Self {
        self.ring_routing = enabled;
        self
    }

    /// How many requests may be in flight to one node: 2,048 by default. A request counts once, and once
    /// more for each 64 KiB of it.
    ///
    /// Callers beyond it wait, within their deadline, and the first to come is the first to go. A future
    /// that is dropped gives its place back at once. A small window bounds memory and keeps a burst from
    /// one process from crowding out others; the price is throughput over lines with a long delay.
    pub fn window(mut self, requests: u32) -> Self {
        self.window = requests;
        self
    }

    /// Connects to the first seed that answers and fetches the ring from it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that cannot be, otherwise the last seed's reason when none
    /// answers.
    pub async fn build(mut self) -> Result<Client, Error> {
        let mut seen = Vec::with_capacity(self.seeds.len());
        for seed in std::mem::take(&mut self.seeds) {
            check_address(&seed).map_err(|error| Error::invalid(error.to_string()))?;
            if !seen.contains(&seed) {
                seen.push(seed);
            }
        }
        self.seeds = seen;
        if self.seeds.is_empty() {
            return Err(Error::invalid(
                "a client needs at least one seed, such as 127.0.0.1:8080",
            ));
        }
        check_timeout(self.timeout)?;
        if !(1..=WINDOW_MAX).contains(&self.window) {
            return Err(Error::invalid(format!(
                "a window of {} requests is out of range: 1 to {WINDOW_MAX} are permitted",
                self.window
            )));
        }
        let settings = DialSettings {
            cluster_name: std::mem::take(&mut self.cluster_name),
            dial_timeout: self.dial_timeout,
            window: self.window,
            cluster_id: OnceLock::new(),
        };
        Client::connect(self.timeout, &self.seeds, self.ring_routing, settings).await
    }
}
