//! The dynakv protocol: everything that has a fixed form on the wire or on disk.
//!
//! This crate knows no sockets, no disk and no clock. Servers, clients and test tools share it, so
//! there is one codec for all of them (`PROTOCOL.md` beside this crate is its specification).
//!
//! | Room | What it holds |
//! |---|---|
//! | [`ids`] | names of nodes, clusters, writers and writes |
//! | [`hash`] | positions on the ring and segments |
//! | [`causal`] | dots, clocks, versions, contexts: the dotted version vectors |
//! | [`codec`] | the primitives every body is made of |
//! | [`frame`] | the length-prefixed, checksummed envelope and batches |
//! | [`oversize`] | frames that are too long, passed over |
//! | [`handshake`], [`client`], [`admin`], [`peer`], [`gossip`] | the messages, by who speaks them |
//! | [`repair`], [`snapshot`] | what operators have a node do, and how far that is |
//! | [`change_ring`] | changing the members of the ring |
//! | [`unlock`] | mending a key that is beyond a limit |
//! | [`message`] | all of them as one [`message::Request`] and one [`message::Response`] |
//! | [`traffic`] | the class of traffic that a request belongs to |
//! | [`ring_document`] | the numbered document that says who the members are |
//! | [`placement`] | who owns what under it |
//! | [`limits`] | the bounds that hold before memory is allocated |
//! | [`shell`] | words of commands that are printed to be typed |

pub mod admin;
pub mod causal;
pub mod change_ring;
pub mod client;
pub mod codec;
pub mod error;
mod export;
pub mod frame;
pub mod gossip;
mod handed_on;
pub mod handshake;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod mend;
pub mod message;
pub mod moving;
pub mod oversize;
pub mod peer;
pub mod placement;
pub mod repair;
pub mod ring_document;
pub mod shell;
pub mod snapshot;
pub mod stats;
mod status;
pub mod traffic;
pub mod unlock;

pub use codec::DecodeError;
pub use error::{ErrorCode, ErrorReply};
pub use ids::{Actor, ClusterId, DirectoryId, Generation, NodeId, RingVersion, WriteId};
