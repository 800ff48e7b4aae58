//! `dynakv-bench`: puts load on a cluster and measures it, and audits that no acknowledged write is lost.

#[cfg(test)]
#[macro_use]
#[path = "../../tests/skipped/mod.rs"]
mod skipped;

mod aligned;
pub mod audit;
pub mod cli;
pub mod cluster;
pub mod compare;
mod drawing;
mod grouped;
pub mod history;
pub mod html;
mod http;
pub mod load;
pub mod picture;
pub mod replicas;
pub mod report;
pub mod scale;
pub mod sweep;
