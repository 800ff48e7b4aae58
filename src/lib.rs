//! dynakv: a Dynamo-style distributed key-value store.
//!
//! Three kinds of rooms, never mixed (`tests/tidy.rs` holds the walls up):
//!
//! - [`engine`] decides. Pure state machines: events and the time go in, effects come out.
//! - [`runtime`] carries out. Sockets, timers, the store and the HTTP port; it decides nothing.
//! - the top: [`config`] (settings, checked once), [`node`] (the one place that builds and owns
//!   everything), [`embedded`] (data operations of the program a node runs in), and the command line in
//!   [`cli`].
//!
//! To run a node inside a program, begin at [`Node::start`].

pub mod cli;
pub mod config;
mod descriptors;
pub mod embedded;
pub mod engine;
pub mod node;
pub mod runtime;
pub mod settings;

pub use config::Config;
pub use dynakv_protocol::NodeId;
pub use dynakv_storage::Durability;
pub use node::Node;
