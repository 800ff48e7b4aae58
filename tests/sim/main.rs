//! Whole clusters in one thread: the real node code on a simulated network, disk and clock.
//!
//! Everything that could differ from run to run comes from one seed: the order in which machines run,
//! the delay of every message, the moment of every fault, what clients ask, the nodes' own randomness,
//! and what of an unsynced write a power cut leaves. The same seed gives the same run, to the byte and
//! the microsecond (`determinism.rs` holds that up), so a failure is replayed by its seed:
//!
//! ```text
//! make sim SEEDS=1000             many seeds
//! make sim SEED=17                one of them again: the whole plan, all that clients saw, the verdict
//! make sim SEED=17 TEST=partition the same, in one test or in those of one file
//! DYNAKV_SIM_LOG=dynakv=debug make sim SEED=17 TEST=random::random_faults_lose_nothing
//! ```
//!
//! | Room | What it holds |
//! |---|---|
//! | [`world`], [`machine`], [`network`], [`resend`], [`clock`], [`owners`], [`hints`], [`hangs`] | the cluster, and the seams that it stands on |
//! | [`trace`] | everything that happened, in order |
//! | [`client`], [`workload`], [`blind_writer`], [`operator`], [`settle`] | who asks: by script, at random, for another ring, and once all is healed |
//! | [`plan`] | faults, drawn from a seed |
//! | [`history`] | what clients sent and saw |
//! | [`invariants`] | what must hold: one checker a file |
//! | [`chaos`], [`verdict`] | a plan under a random workload: one seed, one verdict |
//! | [`seeds`] | which seeds are run |
//! | [`random`], [`lost_disk`], [`crash`], [`partition`], [`blind`], [`sloppy`], [`damaged`], [`hanging`], [`leftovers`], [`growth`], [`leaving`], [`behind`] | the tests |
//! | [`determinism`] | the same seed is the same run |
//! | [`flaws`], [`flawed_store`], [`rewriting`], [`rerouting`] | rules of safety broken on purpose, and noticed |

mod behind;
mod blind;
mod blind_writer;
mod chaos;
mod client;
mod clock;
mod crash;
mod damaged;
mod determinism;
mod flawed_store;
mod flaws;
mod growth;
mod hanging;
mod hangs;
mod hints;
mod history;
mod invariants;
mod late;
mod leaving;
mod leftovers;
mod lost_disk;
mod machine;
mod network;
mod operator;
mod owners;
mod partition;
mod plan;
mod random;
mod rerouting;
mod resend;
mod rewriting;
mod seeds;
mod settle;
mod sloppy;
mod trace;
mod verdict;
mod workload;
mod world;
