//! The tokio shell: it turns sockets, timers and the store's answers into events, and carries the
//! engine's effects out. It decides nothing.
//!
//! ```text
//!  clients, nodes ──▶ listener ──▶ connection ──┬── data ────▶ coordinator ──▶ store_worker (threads)
//!                                    ▲          │                │  ▲  │            │
//!                                    │          └── the rest ─┐  │  │  └── links ──▶ link ──▶ nodes
//!                                    └──── outbox ◀── answers ┼──┘  │
//!                                                             ▼     │ view
//!                                                          control ─┘ ── calls ──▶ nodes
//! ```
//!
//! | Room | What it carries out |
//! |---|---|
//! | [`shared`] | what several tasks hold together: seams, view, books |
//! | [`observe`] | what operators and service managers look at |
//! | [`net`] | connections and frames, in and out |
//! | [`store`] | the store and the hint log on their threads |
//! | [`anti_entropy`] | making copies the same again: hints, comparing, rebuilding |
//! | [`data`] | requests about data |
//! | [`control`] | requests about nodes: gossip, joins, ring decisions, status |
//!
//! Imports run from the bottom of this table up; `tests/tidy.rs` holds them to it.

pub mod anti_entropy;
pub mod control;
pub mod data;
pub mod net;
pub mod observe;
pub mod shared;
pub mod store;
