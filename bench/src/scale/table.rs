//! The result for people: a line for each number of nodes.

use super::{PhaseCost, ScaleReport};
use crate::aligned::aligned;
use crate::grouped::grouped;

const HEADINGS: [&str; 9] = [
    "nodes",
    "write us/op",
    "read us/op",
    "memory MB",
    "max MB",
    "idle %",
    "max %",
    "writes/s",
    "reads/s",
];

/// Server CPU for each operation, memory and CPU at rest of a node (mean and largest), and operations per second.
pub fn table(report: &ScaleReport) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report.clusters.iter().map(|cluster| {
        let megabytes = |bytes: f64| format!("{:.0}", bytes / 1e6);
        let percent = |percent: f64| format!("{percent:.2}");
        let per_second = |phase: &PhaseCost| grouped(phase.ops_per_second.round() as u64);
        [
            cluster.nodes.to_string(),
            cpu(&cluster.write),
            cpu(&cluster.read),
            megabytes(cluster.memory_bytes.mean),
            megabytes(cluster.memory_bytes.max),
            percent(cluster.idle_core_percent.mean),
            percent(cluster.idle_core_percent.max),
            per_second(&cluster.write),
            per_second(&cluster.read),
        ]
    }));
    aligned(&rows)
}

fn cpu(phase: &PhaseCost) -> String {
    match phase.server_cpu_us_per_op {
        Some(us) => format!("{us:.1}"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_cluster_is_one_line() {
        let mut report = report();
        report.clusters[1].read.server_cpu_us_per_op = None;
        assert_eq!(
            table(&report),
            "\
nodes  write us/op  read us/op  memory MB  max MB  idle %  max %  writes/s  reads/s
3             11.5         4.2         40      60    0.25   0.38    12,346   12,346
20            23.0           -         80     120    0.50   0.75     6,173    6,173
"
        );
    }
}
