//! What is checked before anything is sent.

use std::time::Duration;

use dynakv_protocol::ids::NAME_BYTES_MAX;
use dynakv_protocol::limits::TIMEOUT_MS_MAX;

use crate::error::Error;

/// An address is not of the form `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is no address: write HOST:PORT, such as 127.0.0.1:8080")]
pub struct InvalidAddress {
    address: String,
}

/// Checks the form `HOST:PORT` (`[HOST]:PORT` for IPv6); a name is not resolved.
///
/// # Errors
/// [`InvalidAddress`], also for port 0.
pub fn check_address(address: &str) -> Result<(), InvalidAddress> {
    let good = address.len() <= NAME_BYTES_MAX
        && !address.contains(char::is_whitespace)
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            let host_is_whole =
                !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
            !host.is_empty() && host_is_whole && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if good {
        Ok(())
    } else {
        Err(InvalidAddress {
            // A hostile address must not flood a log line.
            address: address.chars().take(NAME_BYTES_MAX).collect(),
        })
    }
}

/// Checks a deadline against what a request may carry.
pub(crate) fn check_timeout(timeout: Duration) -> Result<(), Error> {
    let max = Duration::from_millis(u64::from(TIMEOUT_MS_MAX));
    if timeout.is_zero() || timeout > max {
        return Err(Error::invalid(format!(
            "a timeout of {timeout:?} is out of range: more than 0 and at most {max:?} are permitted"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["127.0.0.1:8080", "localhost:1", "[::1]:8080", "a.b-c:65535"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        let bad = [
            "",
            "localhost",
            ":8080",
            "a:0",
            "a:65536",
            "a:b",
            "::1:8080",
            "a b:1",
        ];
        for bad in bad {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
