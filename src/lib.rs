//! dynakv: a Dynamo-style distributed key-value store.
//!
//! Three kinds of rooms, never mixed (`tests/tidy.rs` holds the walls up):
//!
//! - [`engine`] decides. Pure state machines: events and the time go in, effects come out.
//! - [`runtime`] carries out. Sockets, timers, the store and the HTTP port; it decides nothing.
//! - the top: [`config`] (settings, checked once), [`node`] (the one place that builds and owns
//!   everything), and the command line in [`cli`].

pub mod cli;
pub mod config;
pub mod engine;
pub mod node;
pub mod runtime;
pub mod settings;
