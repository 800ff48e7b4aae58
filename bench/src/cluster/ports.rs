//! Ports that stay a node's own over its restarts.
//!
//! What the system gives for port 0 comes from the range that outgoing connections take theirs from:
//! while its node is down, somebody's connection may sit on it, for as long as it likes. So ports are
//! taken from below that range, from a random place on, so that two runs side by side seldom meet.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// A node's HTTP port lies this far above its port.
pub(super) const HTTP_OFFSET: u16 = 1000;

/// Below are those of well-known services.
const FIRST: u16 = 10_000;

/// Where Linux begins with outgoing connections unless told otherwise.
const OUTGOING_FIRST: u16 = 32_768;

/// From where to where to look: below what the system gives to outgoing connections.
pub(super) fn range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok());
    let outgoing = outgoing.unwrap_or(OUTGOING_FIRST);
    // With a range as low as that there is nothing better than to try.
    let end = if outgoing > FIRST + 4 * HTTP_OFFSET {
        outgoing
    } else {
        OUTGOING_FIRST
    };
    (FIRST, end)
}

/// A port that is free, as is the one 1,000 above it, and that overlaps with none of `taken`.
pub(super) fn free_port(range: Range<u16>, taken: &[u16]) -> Option<u16> {
    // Only every other thousand: the ones between are those of HTTP ports.
    let candidates = range.start..range.end - HTTP_OFFSET;
    let candidates: Vec<u16> = candidates.filter(|port| port / 1000 % 2 == 0).collect();
    let start = fastrand::usize(..candidates.len().max(1));
    let turned = candidates[start..].iter().chain(&candidates[..start]);
    turned
        .copied()
        .find(|port| !taken.contains(port) && is_free(*port) && is_free(port + HTTP_OFFSET))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_below_those_of_outgoing_connections_and_never_the_same() {
        let (start, end) = range();
        let mut taken = Vec::new();
        for _ in 0..20 {
            let port = free_port(start..end, &taken).expect("some port is free");
            assert!((start..end).contains(&port) && port + HTTP_OFFSET < end);
            assert!(!taken.contains(&port) && !taken.contains(&(port + HTTP_OFFSET)));
            taken.push(port);
        }
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = busy.local_addr().unwrap().port();
        assert!(!is_free(port));
    }
}
