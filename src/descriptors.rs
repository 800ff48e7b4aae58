//! How many connections a process can hold with the file descriptors that it may have.
//!
//! A connection takes a descriptor, and so does every file that the store opens. Were connections bounded by a
//! setting alone, enough of them would leave none for the next log file, for the links to other nodes and for
//! whoever asks how the node is. So the setting is an upper bound, and what the process may have is another.

use std::sync::Arc;

use crate::config::Config;
use crate::runtime::observe::http;
use crate::runtime::shared::places::Places;

/// Those that are nobody's connection: standard streams, the runtime's own, listeners, what the store, the
/// hints and the data directory hold open (about 30), and what is opened in passing for a new log file, a
/// document, a look at the process. With some to spare.
const OWN: u64 = 64;

/// Of what is left, this part is for connections that come in. The rest is for those that this node makes to
/// others, and for those that are just being refused.
const INCOMING_PARTS: u64 = 3;
/// Of so many.
const PARTS: u64 = 4;

/// With fewer connections than this a node is of no use: the other nodes alone take some each.
const CONNECTIONS_MIN: u64 = 16;

/// Of what the connections to other nodes have, this part may go to members that call while clients have all
/// places.
const MEMBERS_PARTS: u64 = 2;

/// The process may not have enough descriptors for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files and connections, a node needs {needed} at least: raise the limit \
     (LimitNOFILE= in the systemd unit, ulimits in compose, `ulimit -n {needed}` in a shell)"
)]
pub struct TooFewDescriptors {
    /// How many it may have.
    pub limit: u64,
    /// The least.
    pub needed: u64,
}

/// Lowers `connections_max` to what so many descriptors permit; says so if that was necessary.
///
/// # Errors
/// When they are too few for a node.
pub(crate) fn fit(config: &mut Config, limit: u64) -> Result<Option<String>, TooFewDescriptors> {
    let kept = OWN + http::CONNECTIONS_MAX as u64;
    let possible = limit.saturating_sub(kept) / PARTS * INCOMING_PARTS;
    if possible < CONNECTIONS_MIN {
        let needed = kept + CONNECTIONS_MIN.div_ceil(INCOMING_PARTS) * PARTS;
        return Err(TooFewDescriptors { limit, needed });
    }
    let asked = config.connections_max;
    // A limit beyond the address space is no limit.
    let possible = usize::try_from(possible).unwrap_or(usize::MAX);
    if asked <= possible {
        return Ok(None);
    }
    config.connections_max = possible;
    Ok(Some(format!(
        "connections_max is {possible} in place of {asked}: this process may open {limit} files and \
         connections, and keeps some for its store, the other nodes and the HTTP port. Raise the limit \
         (LimitNOFILE, ulimit -n) or lower connections_max"
    )))
}

/// So many places for whoever connects, and beside them as many for members alone as these descriptors permit.
pub(crate) fn places(connections_max: usize, limit: Option<u64>) -> Arc<Places> {
    Places::beside_members(connections_max, for_members(connections_max, limit))
}

fn for_members(connections_max: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else {
        return usize::MAX;
    };
    let taken = OWN + http::CONNECTIONS_MAX as u64 + connections_max as u64;
    let for_members = limit.saturating_sub(taken) / MEMBERS_PARTS;
    // A limit beyond the address space is no limit.
    usize::try_from(for_members).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_members_leave_as_many_descriptors_for_calls() {
        assert_eq!(for_members(96, Some(256)), 16);
        assert_eq!(for_members(16, Some(150)), 3);
        assert_eq!(for_members(4096, Some(64)), 0);
        assert_eq!(for_members(4096, None), usize::MAX);
    }

    fn fitted(connections_max: usize, limit: u64) -> (usize, bool) {
        let mut config = Config::new("a".parse().unwrap());
        config.connections_max = connections_max;
        let said = fit(&mut config, limit).unwrap();
        (config.connections_max, said.is_some())
    }

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(fitted(4096, 1 << 20), (4096, false));
        assert_eq!(fitted(4096, 1024), (672, true));
        assert_eq!(fitted(600, 1024), (600, false));
        assert_eq!(fitted(4096, 256), (96, true));
        assert_eq!(
            fitted(usize::MAX, u64::MAX).1,
            cfg!(target_pointer_width = "64")
        );
        for limit in 0..100_000_u64 {
            let mut config = Config::new("a".parse().unwrap());
            match fit(&mut config, limit) {
                Ok(_) => assert!(config.connections_max as u64 + OWN + 64 < limit),
                Err(error) => {
                    assert!(error.limit < error.needed, "{error}");
                    assert!(fit(&mut config, error.needed).is_ok(), "{error}");
                }
            }
        }
    }
}
