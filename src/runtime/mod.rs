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
//! | [`environment`], [`tcp`] | the world behind seams, and the real network |
//! | [`listener`], [`places`], [`connection`], [`admission`], [`outbox`] | connections that come in |
//! | [`frame_reader`], [`ledger`] | frames on their way in, and how many bytes are held for others |
//! | [`seen`] | the newest process seen of each node, on both ends of a connection |
//! | [`local`] | the connection of the program that the node runs in |
//! | [`coordinator`], [`dispatch`], [`operations`], [`parking`], [`connections`], [`links`], [`link`] | requests about data |
//! | [`store_worker`] | the store's writer and reader |
//! | [`disk_progress`] | how far they are, and whether the disk hangs |
//! | [`quarantine`], [`power`], [`rebuilding`] | a store that is damaged or lost its end, and what the node then does not know |
//! | [`control`], [`calls`], [`view`] | requests about nodes: gossip, joins, ring decisions, status |
//! | [`mender`], [`repairs`] | comparing and mending copies, and what operators want of that |
//! | [`unlocking`] | mending keys that are beyond a limit |
//! | [`http`], [`metrics`], [`process`], [`systemd`], [`log_lines`] | what operators and service managers look at |

pub mod admission;
pub mod alarm;
pub mod asking;
pub mod calls;
pub mod confirming;
pub mod connection;
pub mod connections;
pub mod control;
pub mod coordinator;
pub mod disk_progress;
pub mod dispatch;
pub mod environment;
pub mod events;
pub mod frame_reader;
pub mod handoff;
pub mod hedges;
pub mod hint_worker;
pub mod http;
pub mod ledger;
pub mod link;
pub mod links;
pub mod listener;
pub mod local;
pub mod log_lines;
pub mod mender;
pub mod metrics;
pub mod operations;
pub mod other_clusters;
pub mod outbox;
pub mod outgoing;
pub mod parking;
pub mod places;
pub mod power;
pub mod process;
pub mod quarantine;
pub mod rebuilding;
pub mod repairs;
pub mod seen;
pub mod store_worker;
pub mod systemd;
pub mod tcp;
pub mod unlocking;
pub mod unreachable;
pub mod view;
