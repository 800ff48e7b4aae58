//! A node's settings, checked once.
//!
//! Everything below works with this struct; nobody else parses a setting.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dynakv_protocol::handshake::ClientLimits;
use dynakv_protocol::ids::NodeId;
use dynakv_protocol::limits;
use dynakv_storage::Durability;

/// A node's settings. [`Config::new`] gives the defaults for a node of this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `--id`: the node's name, for ever.
    pub id: NodeId,
    /// `--cluster`: only nodes and clients of the same name are let in.
    pub cluster_name: String,
    /// `--host`: the address to listen on.
    pub host: IpAddr,
    /// `--port`: where to listen; 0 takes a free one.
    pub port: u16,
    /// `--advertise HOST:PORT`: where others reach this node; host and port when absent, and never absent
    /// where the host is `0.0.0.0` or `::`.
    pub advertise: Option<String>,
    /// `--http-host`: the address of the HTTP port (metrics and health).
    pub http_host: IpAddr,
    /// `--http-port`: port + 1000 when absent, a free one when `port` is 0.
    pub http_port: Option<u16>,
    /// `--seed HOST:PORT`: nodes to ask for the cluster. None and an empty directory: found one.
    pub seeds: Vec<String>,
    /// `--bootstrap`: found a cluster although seeds are given, if all of them say that they are in none. Nodes that
    /// have it must be among each other's seeds: the one with the smallest id founds.
    pub bootstrap: bool,
    /// `--auto-join`: whether nodes come into a cluster that holds data without an operator's word. Where it is false, here
    /// or at the node that this one asks, this one waits for `dynakv cluster join`, and so does who asks this one.
    pub auto_join: bool,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `-n`: replicas of each key; the ring's when absent (3 for a new ring).
    pub n: Option<u8>,
    /// `-w`: the default write quorum; the ring's when absent (2 for a new ring). At most n.
    pub w: Option<u8>,
    /// `-r`: the default read quorum; the ring's when absent (2 for a new ring). At most n.
    pub r: Option<u8>,
    /// `--zone`: replicas of a key go to distinct zones first. Empty for none. The ring keeps it: a node that is
    /// started again with another one is refused.
    pub zone: String,
    /// `--weight`: multiplies the number of virtual nodes, 1 to 100. The ring keeps it, as the zone.
    pub weight: u16,
    /// How long without news before a node is suspected. At least 3 gossip intervals.
    pub suspect_after: Duration,
    /// How long without news before a node counts as dead. More than `suspect_after`.
    pub dead_after: Duration,
    /// How often a node gossips.
    pub gossip_interval: Duration,
    /// The largest value a client may store, in bytes; at most 16 MiB.
    pub value_bytes_max: usize,
    /// The most client and peer connections at once; more are refused.
    pub connections_max: usize,
    /// The most requests in hand at once; more are refused as overloaded.
    pub requests_in_flight_max: usize,
    /// The most bytes of clients' requests in hand at once, over all connections, and of those of nodes. What
    /// else is held for others has parts of it as bounds: in all it is at most five and a half times this.
    pub bytes_in_flight_max: usize,
    /// The most bytes of answers that wait for one slow reader before the node stops reading its
    /// requests, and that the reads of one client in hand may bring.
    pub connection_bytes_max: usize,
    /// How long a clean shutdown may take before the process ends anyway.
    pub shutdown_deadline: Duration,
    /// Memory that the store aims at, in bytes, 1 MiB at least: half of it for the records that were written or read
    /// lately, half for sled's page cache, which goes beyond that, the more the larger the values are.
    pub memory_bytes: u64,
    /// How large the commit log may be, in bytes, before what is in it has to be in the tree: bounds the time that a
    /// start takes. On small disks it is less.
    pub log_bytes_max: u64,
    /// How often the copies of each other node are compared with this one's, and mended. A node that has
    /// come back is compared with soon, whatever this says.
    pub anti_entropy_interval: Duration,
    /// How much of the disk is left free, in bytes: below it writes are refused and reads go on. `None`
    /// for 5 % of the file system, at most 1 GiB, and on small ones what a checkpoint may need.
    pub disk_reserve_bytes: Option<u64>,
    /// How many bytes of hints are kept for other nodes. At the bound sloppy writes are refused here;
    /// reminders of what an owner missed may take half of it, and are then left to anti-entropy.
    pub hints_bytes_max: u64,
    /// How long a reminder is kept that an owner missed a write. Hints that a sloppy write counts on are
    /// kept until enough owners have them.
    pub hints_age_max: Duration,
    /// `--durability`: when a write counts as on disk.
    pub durability: Durability,
    /// `--accept-loss`: what this node has counts as all there is. If the store is damaged beyond opening it
    /// begins with an empty one, and nothing is rebuilt. What only this node had is then lost for good,
    /// and reads say "absent".
    pub accept_loss: bool,
}

impl Config {
    /// The defaults for a node inside a program: its data in `data_dir`, its ports free ones of this
    /// machine. Any number of such nodes can live in one process; all but the first are given the
    /// address of another one as a seed.
    pub fn embedded(id: NodeId, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            port: 0,
            data_dir: data_dir.into(),
            ..Self::new(id)
        }
    }

    /// The defaults for a node of this name.
    pub fn new(id: NodeId) -> Self {
        let data_dir = PathBuf::from("dynakv-data").join(id.as_str());
        Self {
            id,
            cluster_name: "dynakv".to_owned(),
            host: IpAddr::from([127, 0, 0, 1]),
            port: 8080,
            advertise: None,
            http_host: IpAddr::from([127, 0, 0, 1]),
            http_port: None,
            seeds: Vec::new(),
            bootstrap: false,
            auto_join: true,
            data_dir,
            n: None,
            w: None,
            r: None,
            zone: String::new(),
            weight: 1,
            suspect_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            gossip_interval: Duration::from_secs(1),
            value_bytes_max: limits::VALUE_BYTES_DEFAULT,
            connections_max: 4096,
            requests_in_flight_max: 32_768,
            bytes_in_flight_max: 256 * 1024 * 1024,
            connection_bytes_max: 16 * 1024 * 1024,
            shutdown_deadline: Duration::from_secs(20),
            memory_bytes: 1024 * 1024 * 1024,
            log_bytes_max: 2 * 1024 * 1024 * 1024,
            anti_entropy_interval: Duration::from_secs(600),
            disk_reserve_bytes: None,
            hints_bytes_max: 256 * 1024 * 1024,
            hints_age_max: Duration::from_secs(3 * 3600),
            durability: Durability::Sync,
            accept_loss: false,
        }
    }

    /// What clients are told in the welcome. What is beyond a field's range is as good as unbounded.
    pub(crate) fn client_limits(&self) -> ClientLimits {
        let fitting = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        ClientLimits {
            value_bytes_max: fitting(self.value_bytes_max),
            frame_bytes_max: fitting(limits::frame_bytes_max(self.value_bytes_max)),
            batch_items_max: fitting(limits::BATCH_ITEMS_MAX),
            requests_in_flight_max: fitting(self.requests_in_flight_max),
        }
    }
}
