//! After the load and before the last reads: do all owners of each key come to hold the same, without
//! anybody reading it?

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::shared::Shared;
use super::value;
use crate::replicas::{CompareError, Difference, compare};

/// The pause before it is looked again.
const INTERVAL: Duration = Duration::from_millis(500);

/// Waits until they do, and notes in the books which keys do not within this time since the load.
///
/// # Errors
/// [`CompareError`] when a node could not be asked in the end.
pub(super) async fn wait_until_same(
    shared: &Shared,
    servers: &[String],
    loaded_until: Instant,
    within: Duration,
) -> Result<(), CompareError> {
    let keys = shared.books().written_keys();
    let names: BTreeMap<String, u32> = keys
        .into_iter()
        .map(|key| (value::key_name(shared.run, key), key))
        .collect();
    loop {
        let compared = compare(servers).await.map(|compared| {
            let differing = compared.differing.into_iter();
            let of_ours = |difference: &Difference| {
                std::str::from_utf8(&difference.key)
                    .ok()
                    .and_then(|name| names.get(name))
                    .copied()
            };
            let differing = differing.filter_map(|it| Some((of_ours(&it)?, it)));
            differing.collect::<Vec<_>>()
        });
        match compared {
            Ok(differing) if differing.is_empty() => {
                eprintln!(
                    "all owners of each of {} keys hold the same, {:.1} s after the load and without a read",
                    names.len(),
                    loaded_until.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            Ok(differing) if loaded_until.elapsed() >= within => {
                for (key, difference) in differing {
                    let now = shared.now();
                    shared.books().differs(key, difference.to_string(), now);
                }
                return Ok(());
            }
            Err(error) if loaded_until.elapsed() >= within => return Err(error),
            Ok(_) | Err(_) => sleep(INTERVAL).await,
        }
    }
}
