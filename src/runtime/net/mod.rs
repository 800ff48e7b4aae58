//! Connections: those that come in, those that go out, and the frames on them.
//!
//! | File | What it carries out |
//! |---|---|
//! | [`tcp`] | the real network |
//! | [`listener`], [`connection`] | connections that come in |
//! | [`admission`], [`other_clusters`] | who is let in, and who belongs elsewhere |
//! | [`frame_reader`], [`undecodable`] | frames on their way in, and what is said of broken ones |
//! | [`local`] | the connection of the program that the node runs in |
//! | [`outgoing`], [`link`], [`calls`] | connections that go out: dialled, for data, for one call |
//! | [`confirming`] | calling a member where it is said to be, before that is believed |
//! | [`replica_rpc`] | questions to the owners of keys, this node among them |

pub mod admission;
pub mod calls;
pub mod confirming;
pub mod connection;
pub mod frame_reader;
pub mod link;
pub mod listener;
pub mod local;
pub mod other_clusters;
pub mod outgoing;
pub mod replica_rpc;
pub mod tcp;
pub mod undecodable;
