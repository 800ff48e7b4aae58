//! The dynakv client library.
//!
//! A [`Client`] holds one multiplexed, pipelined connection per node and a copy of the ring, so that a
//! request goes straight to a node that owns its key. It is cheap to clone; clone it into every task.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dynakv_client::Client;
//!
//! let client = Client::builder().seeds(["127.0.0.1:8080"]).build().await?;
//! client.put("greeting", "hello").await?;
//! let fetched = client.get("greeting").await?;
//! assert_eq!(fetched.value()?.map(|value| &value[..]), Some(&b"hello"[..]));
//! # Ok(()) }
//! ```
//!
//! # Conflicts
//! Writes that did not know of each other are all kept, as siblings. Whoever wants concurrent updates
//! noticed reads first and hands the read's [`Context`] to the write; it then replaces exactly what the
//! read saw.
//!
//! # Retries
//! Within its deadline a request is sent to one node after the other ([`retry`] says when). That is
//! safe for writes too: a write carries a random id, and the same id twice is one sibling.

mod admin;
mod answer;
mod builder;
mod client;
mod connection;
mod error;
mod node;
mod request;
pub mod retry;

pub use answer::{Conflict, Context, Fetched, Written};
pub use builder::{Builder, InvalidAddress, check_address};
pub use client::Client;
pub use error::Error;
pub use request::{DeleteRequest, GetRequest, PutRequest};

pub use dynakv_protocol::admin::{Explained, Exported, Imported};
pub use dynakv_protocol::client::{
    FetchedSibling, HealthReply, MemberStatus, RingReply, StatsReply, StatusReply,
};
pub use dynakv_protocol::gossip::MemberState;
pub use dynakv_protocol::{ErrorCode, ErrorReply};
