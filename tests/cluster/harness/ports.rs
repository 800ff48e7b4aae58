//! Ports that stay the same over a node's restarts.
//!
//! A port that the system gives for "any" comes from the range that outgoing connections take theirs
//! from: while its node is down, somebody's connection may sit on it. So ports are taken from below
//! that range, each at most once per process, and from a random place on, so that two test runs side by
//! side do not meet.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::Mutex;

/// Below what Linux gives to outgoing connections (32768 and up).
const PORTS: Range<u16> = 10_000..30_000;

/// A node's HTTP port lies this far above its port.
const HTTP_PORT_OFFSET: u16 = 1000;

static NEXT: Mutex<Option<u16>> = Mutex::new(None);

/// A port that is free, as is the one 1,000 above it; nobody else in this process is given either.
pub(crate) fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` such ports in a row.
pub(crate) fn free_ports(count: u16) -> u16 {
    let mut next = NEXT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let start = next.unwrap_or_else(|| fastrand::u16(PORTS));
    let mut first = start;
    for _ in PORTS {
        let last = first + count - 1;
        // Only every other thousand: the ones between are those of HTTP ports.
        let in_one_thousand = first / 1000 == last / 1000;
        if !in_one_thousand || first / 1000 % 2 == 1 {
            first = (first / 1000 + 1) * 1000;
        } else if (first..=last).all(|port| is_free(port) && is_free(port + HTTP_PORT_OFFSET)) {
            *next = Some(last + 1);
            return first;
        } else {
            first += 1;
        }
        if first >= PORTS.end {
            first = PORTS.start;
        }
    }
    panic!("no free ports from {start} on");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
