//! Whether settings are within their bounds and go with each other.

use std::net::SocketAddr;

use dynakv_client::check_address;
use dynakv_protocol::ids::check_name;

use super::{Layer, Span, Syncs};
use crate::config::Config;
use crate::engine::layout::founding::N_DEFAULT;

impl Layer {
    /// A config as a layer that says everything. What is not listed here is no setting: the compiler
    /// asks for each new field.
    fn of(config: &Config) -> Self {
        let Config {
            id,
            cluster_name,
            host,
            port,
            advertise,
            http_host,
            http_port,
            seeds,
            bootstrap,
            auto_join,
            data_dir,
            n,
            w,
            r,
            zone,
            weight,
            suspect_after,
            dead_after,
            gossip_interval,
            value_bytes_max,
            connections_max,
            requests_in_flight_max,
            bytes_in_flight_max,
            connection_bytes_max,
            shutdown_deadline,
            memory_bytes,
            log_bytes_max,
            anti_entropy_interval,
            disk_reserve_bytes,
            hints_bytes_max,
            hints_age_max,
            durability,
            // For one start, and any value is good.
            accept_loss: _,
        } = config.clone();
        Self {
            id: Some(id.to_string()),
            cluster: Some(cluster_name),
            host: Some(host),
            port: Some(port),
            advertise,
            http_host: Some(http_host),
            http_port,
            seed: Some(seeds),
            bootstrap: Some(bootstrap),
            auto_join: Some(auto_join),
            data_dir: Some(data_dir),
            n,
            w,
            r,
            zone: Some(zone),
            weight: Some(weight),
            suspect_after: Some(Span(suspect_after)),
            dead_after: Some(Span(dead_after)),
            gossip_interval: Some(Span(gossip_interval)),
            value_bytes_max: Some(value_bytes_max),
            connections_max: Some(connections_max),
            requests_in_flight_max: Some(requests_in_flight_max),
            bytes_in_flight_max: Some(bytes_in_flight_max),
            connection_bytes_max: Some(connection_bytes_max),
            shutdown_deadline: Some(Span(shutdown_deadline)),
            memory_bytes: Some(memory_bytes),
            log_bytes_max: Some(log_bytes_max),
            anti_entropy_interval: Some(Span(anti_entropy_interval)),
            disk_reserve_bytes,
            hints_bytes_max: Some(hints_bytes_max),
            hints_age_max: Some(Span(hints_age_max)),
            durability: Some(Syncs(durability)),
            // The program that a node runs in has a log of its own.
            log: None,
        }
    }
}

/// Holds settings against what they may be; the error names one and says what is permitted.
pub(crate) fn check_values(config: &Config) -> Result<(), (&'static str, String)> {
    Layer::of(config).check_bounds()?;
    let ensure = |good: bool, name: &'static str, reason: &str| {
        if good {
            Ok(())
        } else {
            Err((name, reason.to_owned()))
        }
    };
    check_name(&config.cluster_name).map_err(|error| ("cluster", error.to_string()))?;
    if !config.zone.is_empty() {
        check_name(&config.zone).map_err(|error| ("zone", error.to_string()))?;
    }
    for seed in &config.seeds {
        check_address(seed).map_err(|error| ("seed", error.to_string()))?;
    }
    if let Some(address) = &config.advertise {
        check_address(address).map_err(|error| ("advertise", error.to_string()))?;
    }
    check_reachable(config)?;
    if config.http_port.is_none() && config.port.checked_add(1000).is_none() {
        let reason = "port + 1000, the HTTP port, is above 65535: give --http-port as well";
        return Err(("port", reason.to_owned()));
    }
    let same = config.port != 0 && config.http_port == Some(config.port);
    ensure(!same, "http-port", "it is the port of the node itself")?;
    if let Some(n) = config.n {
        check_quorums(config, n)?;
    }
    let suspect = config
        .gossip_interval
        .checked_mul(3)
        .is_some_and(|least| config.suspect_after >= least);
    ensure(
        suspect,
        "suspect_after",
        "at least 3 gossip intervals are needed",
    )?;
    let dead = config.dead_after > config.suspect_after;
    ensure(dead, "dead_after", "it must be more than suspect_after")
}

/// Holds the settings of a node whose directory knows no ring against the cluster that it would found.
/// What asks its seeds learns from them how many copies there are.
pub(crate) fn check_founding(config: &Config) -> Result<(), (&'static str, String)> {
    let founds = config.seeds.is_empty() || config.bootstrap;
    if founds {
        check_quorums(config, config.n.unwrap_or(N_DEFAULT))?;
    }
    Ok(())
}

fn check_quorums(config: &Config, n: u8) -> Result<(), (&'static str, String)> {
    for (name, quorum) in [("w", config.w), ("r", config.r)] {
        let Some(quorum) = quorum.filter(|quorum| *quorum > n) else {
            continue;
        };
        let more = match config.n {
            Some(_) => format!("give -{name} {n} at most"),
            None => format!("a new cluster keeps {n} unless it is told: give -n {quorum} as well"),
        };
        let reason = format!("{quorum} of {n} copies cannot be waited for; {more}");
        return Err((name, reason));
    }
    Ok(())
}

/// Others connect to what a node announces, and `0.0.0.0` is nobody's address: the node would found or
/// join a cluster in which no other one reaches it.
fn check_reachable(config: &Config) -> Result<(), (&'static str, String)> {
    let named = config.advertise.as_deref();
    let address = match named {
        Some(named) => named.parse().map(|address: SocketAddr| address.ip()).ok(),
        None => Some(config.host),
    };
    match address {
        Some(ip) if ip.is_unspecified() => Err((
            "advertise",
            format!(
                "{} stands for all addresses of this machine, and nobody can connect to that: set \
                 advertise (--advertise HOST:PORT) to where the other nodes and the clients reach this one",
                named.map_or_else(|| format!("host {ip}"), str::to_owned)
            ),
        )),
        Some(_) | None => Ok(()),
    }
}
