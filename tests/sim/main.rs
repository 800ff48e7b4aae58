//! Whole clusters in one thread: the real node code on a simulated network, disk and clock.
//!
//! Everything that could differ from run to run comes from one seed: the order in which machines run,
//! the delay of every message, the moment of every fault, what clients ask, the nodes' own randomness,
//! and what of an unsynced write a power cut leaves. The same seed gives the same run, to the byte and
//! the microsecond (`determinism.rs` holds that up), so a failure is replayed by its seed:
//!
//! ```text
//! make sim SEEDS=1000             many seeds
//! make sim SEED=17                one of them again, with everything that its clients saw
//! DYNAKV_SIM_SEED=17 DYNAKV_SIM_LOG=dynakv=debug cargo test --test sim random -- --nocapture
//! ```
//!
//! | Room | What it holds |
//! |---|---|
//! | [`world`], [`machine`], [`network`], [`clock`] | the cluster, and the seams that it stands on |
//! | [`trace`] | everything that happened, in order |
//! | [`client`], [`workload`], [`settle`] | who asks: by script, at random, and once all is healed |
//! | [`plan`] | faults, drawn from a seed |
//! | [`history`] | what clients saw, and the checkers of the invariants |
//! | [`chaos`], [`verdict`] | a plan under a random workload: one seed, one verdict |
//! | [`seeds`] | which seeds are run |
//! | [`partition`], [`crash`], [`damaged`], [`determinism`], [`random`], [`lost_disk`], [`flaws`] | the tests |

mod chaos;
mod client;
mod clock;
mod crash;
mod damaged;
mod determinism;
mod flaws;
mod history;
mod lost_disk;
mod machine;
mod network;
mod partition;
mod plan;
mod random;
mod seeds;
mod settle;
mod trace;
mod verdict;
mod workload;
mod world;
