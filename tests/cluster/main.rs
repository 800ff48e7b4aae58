//! Real processes on loopback: started, killed, restarted and looked at from outside, through the
//! command line and the client library alone.
//!
//! Nothing here waits for a fixed time and then asserts: machines are slow and noisy, so a test polls
//! for what must become true, with a deadline far beyond what it takes, and asserts what must never
//! happen. Every cluster has its own ports and its own directory, so tests run side by side; the logs
//! of a test's nodes are printed when it fails.

#[macro_use]
#[path = "../skipped/mod.rs"]
mod skipped;
#[path = "../preload/mod.rs"]
mod preload;

mod actors;

mod alone;
mod availability;
mod backups;
mod bad_links;
mod blackout;
mod blind_writes;
mod causality;
mod changing;
mod command_line;
mod console;
mod crashes;
mod damage;
mod dashboard;
mod deployment;
mod descriptors;
mod dev;
mod doors;
mod examples;
mod explain;
mod failing_disk;
mod failover;
mod full_disk;
mod growth;
mod handoff;
mod hanging_disk;
mod harness;
mod hostile;
mod leaving;
mod limits;
mod locked;
mod logging;
mod membership;
mod memory;
mod mending;
mod not_owned;
mod observability;
mod partitions;
mod python;
mod readme;
mod reads;
mod repairing;
mod seeds;
mod service;
mod settings;
mod shortages;
mod snapshots;
mod strangers;
mod transfer;
mod upgrade;
mod usage;
mod wire;
