//! Gives the cluster more nodes and fewer while the load goes on: how long each step takes, what moves, and how long
//! requests take meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::RingDocument;
use tokio::time::{Instant, sleep};

use super::hints::number;
use super::shared::Shared;
use crate::cluster::{Cluster, ClusterError};
use crate::grouped::grouped;
use crate::http;

/// How often the cluster is looked at while its ring changes.
const LOOK: Duration = Duration::from_millis(200);

/// How long a change may take. It is far longer than any, so one that takes as long hangs.
const PATIENCE: Duration = Duration::from_secs(900);

const FETCHED: &str = "dynakv_anti_entropy_fetched_bytes_total";
const SENT: &str = "dynakv_anti_entropy_sent_bytes_total";
const LIVE: &str = "dynakv_store_live_bytes";
const LEFT_OVER: &str = "dynakv_leftover_segments";

/// One change of the ring.
#[derive(Debug)]
struct Change {
    /// How long each of its rings was followed, by their names.
    steps: BTreeMap<&'static str, Duration>,
    moved_bytes: u64,
    /// How many bytes those that gained segments had to get.
    least_bytes: u64,
    /// How long afterwards nobody held anything that it did not own.
    settled_after: Duration,
}

/// What all changes came to.
#[derive(Debug, Default)]
pub(super) struct Report {
    changes: Vec<Change>,
}

/// What is done with the cluster.
pub(super) struct Course<'a> {
    /// How many nodes it is to have, one number after the other.
    pub(super) sizes: &'a [u16],
    /// How long nothing is done before, between and after.
    pub(super) calm: Duration,
    /// How many clients write each of their keys first.
    pub(super) clients: u32,
}

/// Resizes the cluster, once each key was written. Ends the load.
///
/// # Errors
/// [`ClusterError`] when a change does not come to its end.
pub(super) async fn resize(
    mut cluster: Cluster,
    course: Course<'_>,
    shared: &Arc<Shared>,
) -> Result<(Cluster, Report), ClusterError> {
    let Course { sizes, calm, .. } = course;
    let mut report = Report::default();
    eprintln!("writing each key once");
    while !shared.is_filled_by(course.clients) && !shared.is_stopped() {
        shared.sleep(LOOK).await;
    }
    for &size in sizes {
        let size = usize::from(size);
        shared.begin_spell(format!("{} nodes", cluster.size()));
        shared.sleep(calm).await;
        if shared.is_stopped() {
            return Ok((cluster, report));
        }
        eprintln!("resizing from {} nodes to {size}", cluster.size());
        shared.begin_spell(format!("{} -> {size}", cluster.size()));
        let change = change(&mut cluster, size).await?;
        report.changes.push(change);
    }
    shared.begin_spell(format!("{} nodes", cluster.size()));
    shared.sleep(calm).await;
    shared.end_spell();
    shared.stop.send_replace(true);
    Ok((cluster, report))
}

async fn change(cluster: &mut Cluster, size: usize) -> Result<Change, ClusterError> {
    let before = cluster.size();
    let mut traffic = Traffic::default();
    traffic.look(cluster).await;
    // What is written meanwhile comes to those that gain by itself, and what moves is held twice for a while.
    let (at_first, live_bytes) = (traffic.bytes(), traffic.live_bytes);
    let began = Instant::now();
    match size > before {
        true => cluster.start_more(size - before).await?,
        false => cluster.have_leave(size).await?,
    }
    let mut steps = BTreeMap::new();
    let mut least_bytes = 0;
    let mut looked = Instant::now();
    loop {
        traffic.look(cluster).await;
        let ring = match cluster.ring().await {
            Ok(ring) => ring,
            Err(reason) if began.elapsed() >= PATIENCE => {
                return Err(ClusterError::Change { reason });
            }
            Err(_) => {
                sleep(LOOK).await;
                continue;
            }
        };
        let is_over = ring.members.len() == size && ring.change().is_none();
        if is_over {
            break;
        }
        if ring.change().is_some() {
            *steps.entry(ring.step.name()).or_insert(Duration::ZERO) += looked.elapsed();
            // Once: whoever owns what does not change on the way, and to work it out takes its time.
            if least_bytes == 0 {
                least_bytes = least(&ring, live_bytes);
            }
        }
        looked = Instant::now();
        if began.elapsed() >= PATIENCE {
            let reason = format!("the ring is {} after {PATIENCE:?}", ring.step.name());
            return Err(ClusterError::Change { reason });
        }
        sleep(LOOK).await;
    }
    cluster.forget_those_that_left(size).await?;
    let ended = Instant::now();
    while traffic.look(cluster).await > 0 {
        if ended.elapsed() >= PATIENCE {
            let reason = "nodes still hold what they do not own".to_owned();
            return Err(ClusterError::Change { reason });
        }
        sleep(LOOK).await;
    }
    Ok(Change {
        steps,
        moved_bytes: traffic.bytes() - at_first,
        least_bytes,
        settled_after: ended.elapsed(),
    })
}

/// What nodes have told of their traffic. Those that have ended keep what they told last.
#[derive(Debug, Default)]
struct Traffic {
    of: BTreeMap<String, u64>,
    live_bytes: u64,
}

impl Traffic {
    /// Asks all nodes. How many segments are left over; one at least where a node does not answer.
    async fn look(&mut self, cluster: &Cluster) -> u64 {
        let (mut left, mut live) = (0, 0);
        for address in cluster.http_addresses() {
            let page = http::get(&address, "/metrics").await;
            let of = |metric| {
                page.as_ref()
                    .ok()
                    .and_then(|page| number(page, metric).ok())
            };
            let all = (of(FETCHED), of(SENT), of(LIVE), of(LEFT_OVER));
            let (Some(fetched), Some(sent), Some(bytes), Some(segments)) = all else {
                left += 1;
                continue;
            };
            self.of.insert(address, fetched + sent);
            left += segments;
            live += bytes;
        }
        self.live_bytes = live;
        left
    }

    fn bytes(&self) -> u64 {
        self.of.values().sum()
    }
}

/// What those have to get that come to own segments, where all nodes together have so many bytes.
fn least(ring: &RingDocument, live_bytes: u64) -> u64 {
    let Some((old, new)) = Placement::before_and_after(ring) else {
        return 0;
    };
    let segments = || (0..=u16::MAX).map(Segment);
    let gained: usize = segments()
        .map(|segment| {
            let had = old.owners(segment);
            let new = new.owners(segment).iter();
            new.filter(|owner| !had.contains(owner)).count()
        })
        .sum();
    let copies = SEGMENTS * old.copies();
    (live_bytes as f64 * gained as f64 / copies as f64) as u64
}

impl Report {
    /// For people: one line for each spell, and what moved in each change.
    pub(super) fn text(&self, shared: &Shared) -> String {
        let mut text = String::new();
        for spell in shared.spells() {
            let per_second = spell.requests as f64 / spell.took.as_secs_f64().max(0.001);
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                text,
                "{:10} {:6.1} s {:>8} requests/s, p50 {:7.2} ms, p99 {:7.2} ms, longest pause {:5.0} ms",
                spell.name,
                spell.took.as_secs_f64(),
                grouped(per_second as u64),
                spell.p50.as_secs_f64() * 1000.0,
                spell.p99.as_secs_f64() * 1000.0,
                spell.longest_pause.as_secs_f64() * 1000.0,
            );
        }
        for (number, change) in self.changes.iter().enumerate() {
            let steps = change.steps.iter().rev();
            let steps = steps.map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()));
            let _infallible = writeln!(
                text,
                "change {}: {}; moved {:.1} MB, at least {:.1} MB have to ({:.2} x); nobody holds what it does not own \
                 after {:.1} s more",
                number + 1,
                steps.collect::<Vec<_>>().join(", "),
                change.moved_bytes as f64 / 1e6,
                change.least_bytes as f64 / 1e6,
                change.moved_bytes as f64 / change.least_bytes.max(1) as f64,
                change.settled_after.as_secs_f64(),
            );
        }
        text
    }
}
