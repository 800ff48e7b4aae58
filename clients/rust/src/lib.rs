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
//! `clients/rust/examples/` holds six programs to run against a cluster; `dynakv dev` starts one.
//!
//! # Requests
//! [`Client::get`], [`put`](Client::put) and [`delete`](Client::delete) make a request that `.await`
//! sends. Options come before it: `.r()` or `.w()` for the replicas that must answer, `.timeout()` for
//! all attempts together, `.context()`, `.ttl()`. [`Client::get_many`] and
//! [`put_many`](Client::put_many) take any number of keys, with a result for each.
//!
//! # Conflicts
//! Writes that did not know of each other are all kept, as siblings. Whoever wants concurrent updates
//! noticed reads first and hands the read's [`Context`] to the write; it then replaces exactly what the
//! read saw. [`Client::update`] does so, and again while others write:
//!
//! ```
//! use std::collections::BTreeSet;
//! use dynakv_client::{Fetched, Update};
//!
//! /// Adds a line to a set of lines: the union of all siblings, which is the same however often and
//! /// in whatever order it is taken.
//! fn with_line(found: &Fetched, line: &str) -> Update {
//!     let texts = found.siblings.iter().map(|sibling| String::from_utf8_lossy(&sibling.value));
//!     let mut lines: BTreeSet<String> =
//!         texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
//!     if !lines.insert(line.to_owned()) && found.siblings.len() == 1 {
//!         return Update::Keep;
//!     }
//!     Update::put(lines.into_iter().collect::<Vec<_>>().join("\n"))
//! }
//!
//! async fn add(client: &dynakv_client::Client) -> Result<(), dynakv_client::Error> {
//!     client.update("guests", |found| with_line(found, "Ann")).await?;
//!     Ok(())
//! }
//! ```
//!
//! # Retries
//! Within its deadline (5 s by default) a request is sent to one node after the other; [`retry`] has
//! the table. That is safe for writes too: a write carries a random id, and a replica that has it takes no
//! second one. So one node that is killed, stopped or cut off fails no request while a quorum is up. What
//! remains: a write whose coordinator died half-way may be stored twice, and shows as one value; a writer
//! who replaced it having seen only one of the two may see the value come back once.
//!
//! # Errors
//! [`Error`] answers two questions: [`is_retryable`](Error::is_retryable) and
//! [`maybe_applied`](Error::maybe_applied). After "may have been applied" a write that is made anew is
//! another write: put the same value again, give it the context of a new read, or
//! [`update`](Client::update).
//!
//! # Bounds
//! At most 2,048 requests are in flight to one node ([`Builder::window`]); callers beyond it wait within
//! their deadline, so a program slows down rather than fill its memory or the node's. Every future may
//! be dropped at any time and gives its place back; a request that was sent may still be carried out.
//!
//! # A node inside the program
//! A program that runs a node inside itself (the crate `dynakv`) makes the same requests of that node's
//! `LocalClient`, without a socket. They are the types of this crate with another [`Transport`], which
//! is [`Client`] where none is named.
//!
//! # Runtime
//! A client needs a tokio runtime with its I/O and time drivers enabled, of either kind. Connections are
//! tasks of the runtime that first used them.

#[doc(hidden)]
pub mod addresses;
mod admin;
mod answer;
mod builder;
mod checks;
mod client;
mod connection;
mod dial;
mod error;
mod execute;
mod many;
mod node;
mod node_client;
mod operations;
mod request;
pub mod retry;
mod routing;
pub mod transport;
mod unasked;
mod update;
mod wrong_port;

pub use answer::{Conflict, Context, Fetched, Written};
pub use builder::Builder;
pub use checks::{InvalidAddress, check_address};
pub use client::Client;
pub use error::Error;
pub use many::{GetManyRequest, PutManyRequest};
pub use node_client::NodeClient;
pub use request::{DeleteRequest, GetRequest, PutRequest};
pub use transport::Transport;
pub use update::{Update, UpdateRequest, Updated};

pub use dynakv_protocol::admin::{Explained, Exported, Imported};
pub use dynakv_protocol::change_ring::{ChangeRing, MemberWish, RingWish};
pub use dynakv_protocol::client::{
    FetchedSibling, HealthReply, MemberStatus, OtherCluster, RingReply, StatsReply, StatusReply,
};
pub use dynakv_protocol::gossip::MemberState;
pub use dynakv_protocol::repair::{Repair, RepairProgress};
pub use dynakv_protocol::snapshot::{Snapshot, SnapshotProgress};
pub use dynakv_protocol::unlock::Unlocked;
pub use dynakv_protocol::{ErrorCode, ErrorReply};
