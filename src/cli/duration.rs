//! Durations on the command line.

use std::time::Duration;

/// `500ms`, `5s`, `10m`, `1h 30m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a number with a unit, such as 500ms, 5s or 10m"))
}
