//! Whether all copies are the same, found out without a read that could mend them.

use dynakv_bench::replicas::compare;

use super::cluster::Cluster;
use super::command::dynakv;
use super::data::block_on;
use super::wait::eventually;

/// How many keys are named when some differ.
const NAMED_MAX: usize = 5;

/// Waits until all owners of each key hold the same bytes; gives how many keys there are. Nobody may
/// write meanwhile.
#[track_caller]
pub(crate) fn become_same(cluster: &Cluster) -> usize {
    let addresses = cluster.addresses();
    eventually("all owners hold the same", || {
        let compared = block_on(compare(&addresses)).map_err(|error| error.to_string())?;
        if compared.differing.is_empty() {
            return Ok(compared.keys);
        }
        let named = compared.differing.iter().take(NAMED_MAX);
        let named: Vec<_> = named.map(ToString::to_string).collect();
        Err(format!(
            "{} of {} keys differ: {}",
            compared.differing.len(),
            compared.keys,
            named.join("; ")
        ))
    })
}

/// Waits until nobody keeps anything for anybody.
#[track_caller]
pub(crate) fn hints_drain(cluster: &Cluster) {
    for node in cluster.nodes() {
        let what = format!("the hints at {} to be handed over", node.id);
        eventually(&what, || match node.metric("dynakv_hints_waiting", "")? {
            0 => Ok(()),
            waiting => Err(format!("{waiting} wait")),
        });
    }
}

/// Waits until all are well and their copies the same, without a read; then ends them and checks their
/// stores.
#[track_caller]
pub(crate) fn all_is_well(cluster: &mut Cluster) {
    cluster.wait_healthy();
    become_same(cluster);
    stop_and_check(cluster);
}

/// Ends all nodes in order and lets each store be held against itself: its checksums, its totals, and the
/// hashes of its segments. Equal copies and right hashes are equal hashes.
#[track_caller]
pub(crate) fn stop_and_check(cluster: &mut Cluster) {
    for index in 0..cluster.nodes().len() {
        if cluster[index].runs() {
            let status = cluster[index].terminate();
            assert!(status.success(), "{}: {status}", cluster[index].id);
        }
    }
    for node in cluster.nodes() {
        let directory = node.data_dir();
        let checked = dynakv([
            "store".as_ref(),
            "check".as_ref(),
            directory.as_os_str(),
            "--output".as_ref(),
            "json".as_ref(),
        ]);
        let checked = checked.exits(0);
        assert_eq!(checked.json()["clean"], true, "{checked:?}");
    }
}
