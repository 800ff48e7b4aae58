//! After the load: has everybody handed over what was kept for others?

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::http;

/// The pause before it is looked again.
const INTERVAL: Duration = Duration::from_millis(500);

const WAITING_METRIC: &str = "dynakv_hints_waiting";
const HANDED_OVER_METRIC: &str = "dynakv_hints_handed_over_total";

/// What nodes say of their hints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// How many keys they keep for others.
    pub(super) waiting: u64,
    /// How many they have handed over since their starts, each owner counted.
    pub(super) handed_over: u64,
}

/// Asks all nodes whose metrics are at these addresses.
///
/// # Errors
/// When one does not answer, or says nothing of hints.
pub(super) async fn ask(addresses: &[String]) -> io::Result<Hints> {
    let mut all = Hints::default();
    for address in addresses {
        let page = http::get(address, "/metrics").await;
        let hints = page.and_then(|page| of_page(&page));
        let hints = hints.map_err(|error| io::Error::other(format!("{address}: {error}")))?;
        all.waiting += hints.waiting;
        all.handed_over += hints.handed_over;
    }
    Ok(all)
}

/// Waits until nobody keeps anything for others, or this time since the load is over; gives what is left.
///
/// # Errors
/// Those of [`ask`], when the time is over.
pub(super) async fn wait_until_handed_over(
    addresses: &[String],
    loaded_until: Instant,
    within: Duration,
) -> io::Result<Hints> {
    loop {
        let hints = ask(addresses).await;
        let is_done = hints.as_ref().is_ok_and(|hints| hints.waiting == 0);
        if is_done || loaded_until.elapsed() >= within {
            return hints;
        }
        sleep(INTERVAL).await;
    }
}

fn of_page(page: &str) -> io::Result<Hints> {
    Ok(Hints {
        waiting: number(page, WAITING_METRIC)?,
        handed_over: number(page, HANDED_OVER_METRIC)?,
    })
}

/// The number that a page of metrics shows for one of them.
pub(super) fn number(page: &str, metric: &str) -> io::Result<u64> {
    let value = page.lines().find_map(|line| {
        let labels = line.strip_prefix(metric)?.strip_prefix('{')?;
        labels.rsplit_once("} ")?.1.trim().parse().ok()
    });
    value.ok_or_else(|| io::Error::other(format!("shows no {metric}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_metric_and_no_other() {
        let page = "# TYPE dynakv_hints_waiting gauge\n\
                    dynakv_hints_waiting_counted{node=\"a\"} 2\n\
                    dynakv_hints_waiting{node=\"a\"} 3\n\
                    dynakv_hints_handed_over_total{node=\"a\"} 40\n";
        let hints = Hints {
            waiting: 3,
            handed_over: 40,
        };
        assert_eq!(of_page(page).unwrap(), hints);
        let without = page.replace("handed_over_total", "other_total");
        let error = of_page(&without).unwrap_err().to_string();
        assert!(error.contains(HANDED_OVER_METRIC), "{error}");
    }
}
