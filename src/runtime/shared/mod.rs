//! What several tasks of a node hold together: the world behind seams, the view, the books of bytes.
//!
//! | File | What it is |
//! |---|---|
//! | [`environment`] | the network, the clock and the randomness, behind seams |
//! | [`data_directory`] | the names in a data directory |
//! | [`view`] | the snapshot of ring and members that the control task publishes |
//! | [`events`], [`outbox`] | what connections tell the tasks, and what the tasks answer |
//! | [`ledger`], [`places`] | how many bytes are held for others, and how many connections |
//! | [`known_processes`] | the newest process seen of each node, on both ends of a connection |
//! | [`mod@unreachable`] | which nodes no call has reached, and why |
//! | [`disk_progress`] | how far the disk's threads are, and whether the disk hangs |
//! | [`alarm`] | one timer, set to the next time that matters |

pub mod alarm;
pub mod data_directory;
pub mod disk_progress;
pub mod environment;
pub mod events;
pub mod known_processes;
pub mod ledger;
pub mod outbox;
pub mod places;
pub mod settling;
pub mod unreachable;
pub mod view;
