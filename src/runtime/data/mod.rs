//! Requests about data.
//!
//! | File | What it carries out |
//! |---|---|
//! | [`coordinator`] | the one task that owns every request about data |
//! | [`dispatch`] | from a client's frame to a checked request |
//! | [`operations`], [`parking`], [`hedges`] | requests under way, those that wait, and reads that may ask one more |
//! | [`ahead`] | what nodes ask that follow a newer ring already |
//! | [`connections`] | who is answered |
//! | [`links`] | one data link to each other node |

pub mod ahead;
pub mod connections;
pub mod coordinator;
pub mod dispatch;
pub mod hedges;
pub mod links;
pub mod operations;
pub mod parking;
