//! A node of dynakv inside your program: a Dynamo-style distributed key-value store.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dynakv::{Config, Node, NodeId};
//!
//! // Data in this directory; free ports on 127.0.0.1.
//! let config = Config::embedded(NodeId::new("inside")?, "/var/lib/my-program");
//! let node = Node::start(config).await?;
//!
//! node.put("greeting", "hello").await?;
//! let fetched = node.get("greeting").await?;
//! assert_eq!(fetched.value()?.map(|value| &value[..]), Some(&b"hello"[..]));
//!
//! node.shutdown().await; // in order; a node that is dropped has crashed, to its next start
//! # Ok(()) }
//! ```
//!
//! It needs a tokio runtime with its I/O and time drivers enabled, of either kind. Nothing else is shared:
//! any number of nodes live in one process, each with a directory of its own.
//!
//! # Where to go next
//! - [`Node`]: to start, wait for, and stop nodes. [`ServeError`] says why one could not start or go on.
//! - [`Config`]: the settings, with their units and limits. [`Config::embedded`] has the defaults for a
//!   node inside a program.
//! - [`LocalClient`]: what a program asks its node, from any number of tasks. [`Node`] has the operations on
//!   data itself, too. The requests, answers and errors are in [`embedded`].
//! - The crate `dynakv-client`: the same requests over the network, to a cluster of other processes.
//! - `docs/embedding.md` in the repository tells all of it in order, and `examples/` holds three programs
//!   with a cluster inside them.
//!
//! # Conflicts
//! Writes that did not know of each other are all kept, as siblings. Whoever changes a value that
//! depends on the value before uses [`Node::update`], or hands the context of a read to the write.

// The rest of the node, for its binary, its tests and whoever works on it. Three kinds of rooms, never
// mixed (`tests/tidy.rs` holds the walls up): `engine` decides, in pure state machines; `runtime` carries
// out; the top builds and owns everything and has the command line.
#[cfg_attr(not(dynakv_internals), doc(hidden))]
pub mod cli;
pub mod config;
mod descriptors;
pub mod embedded;
#[cfg_attr(not(dynakv_internals), doc(hidden))]
pub mod engine;
pub mod node;
#[cfg_attr(not(dynakv_internals), doc(hidden))]
pub mod runtime;
#[cfg_attr(not(dynakv_internals), doc(hidden))]
pub mod settings;

pub use config::Config;
pub use dynakv_protocol::NodeId;
pub use dynakv_storage::Durability;
pub use embedded::LocalClient;
pub use node::{Node, NotReady, ServeError};
