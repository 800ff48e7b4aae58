//! What every test needs: nodes as processes, the command line, and patience.

mod bad_disk;
mod cluster;
mod command;
mod data;
mod http;
mod load;
mod node;
mod ports;
mod process;
mod proxy;
mod replicas;
mod ring;
mod wait;

pub(crate) use bad_disk::{BadDisks, Fault};
pub(crate) use cluster::{Cluster, MENDED_OFTEN, QUICK};
pub(crate) use command::{Command, Finished, binary, dynakv, in_shell};
pub(crate) use data::{block_on, client, client_of_one, read_all, write_all};
pub(crate) use http::http_get;
pub(crate) use load::under_load;
pub(crate) use node::Node;
pub(crate) use ports::{free_port, free_ports};
pub(crate) use process::{Process, is_running};
pub(crate) use proxy::{CLIENTS, Proxy, Rule};
pub(crate) use replicas::{all_is_well, become_same, hints_drain, stop_and_check};
pub(crate) use ring::{
    Consent, KEYS, all_become_members, ask, ask_as, ask_until_granted, become_members,
    ends_as_removed, hold_what_they_own, is_all_of_before_there, is_gone, keys, leaves, newcomer,
    newcomer_with, nothing_is_lost, ring_of, write_before,
};
pub(crate) use wait::{PATIENCE, eventually};
