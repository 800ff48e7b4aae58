//! What is under way in the store: its table, log, checkpoints and growth.

use dynakv_storage::{StoreStatus, Totals};
use metrics::{Counter, Gauge};

use super::registry::Registry;

/// Handles to what the store says of itself when it is asked.
pub struct StoreMetrics {
    dirty_bytes: Gauge,
    dirty_entries: Gauge,
    table_bytes: Gauge,
    table_hits: Counter,
    table_misses: Counter,
    table_evictions: Counter,
    log_bytes: Gauge,
    checkpoints: Counter,
    compactions: Counter,
    checkpoint_last_seconds: Gauge,
    checkpoints_seconds: Gauge,
    checkpoints_cpu_seconds: Gauge,
    window_used: Gauge,
    replay_seconds: Gauge,
    amplification: Gauge,
    damaged_reads: Counter,
    /// Merges that met two values of one write.
    pub contradicted_dots: Counter,
    /// Whether the disk answers: 0 while it hangs.
    pub usable: Gauge,
    /// How often it hung.
    pub hangs: Counter,
    /// Writes that left a longer clock than is good.
    pub long_clocks: Counter,
    locked_keys: Gauge,
    disk_free_bytes: Gauge,
    disk_reserve_bytes: Gauge,
}

impl StoreMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        let counter = |name, help| make.counter_of(name, help, &[]);
        let usable = gauge(
            "dynakv_store_usable",
            "1 while the disk answers, 0 while it hangs and this node takes no writes.",
        );
        usable.set(1.0);
        Self {
            usable,
            hangs: counter(
                "dynakv_store_hangs_total",
                "How often the disk did not come back with a sync or a read for a second.",
            ),
            dirty_bytes: gauge(
                "dynakv_store_dirty_bytes",
                "Memory of what was written and is not in the tree yet.",
            ),
            dirty_entries: gauge(
                "dynakv_store_dirty_entries",
                "Keys that were written and are not in the tree yet.",
            ),
            table_bytes: gauge(
                "dynakv_store_table_bytes",
                "Memory of all records in the table: what is not in the tree yet, and what was read or written lately.",
            ),
            table_hits: counter(
                "dynakv_store_table_hits_total",
                "How often a key was found in the table.",
            ),
            table_misses: counter(
                "dynakv_store_table_misses_total",
                "How often a key was looked for in the tree.",
            ),
            table_evictions: counter(
                "dynakv_store_table_evictions_total",
                "Records that were dropped from the table to make room for others.",
            ),
            log_bytes: gauge("dynakv_store_log_bytes", "Size of the commit log."),
            compactions: counter(
                "dynakv_store_compactions_total",
                "How often room of the tree was given back to the disk.",
            ),
            checkpoints: counter(
                "dynakv_store_checkpoints_total",
                "Generations that were carried into the tree.",
            ),
            checkpoint_last_seconds: gauge(
                "dynakv_store_checkpoint_last_seconds",
                "How long the last checkpoint took, its pauses included.",
            ),
            // A gauge, because counters hold whole numbers here.
            checkpoints_seconds: gauge(
                "dynakv_store_checkpoints_seconds",
                "How long all checkpoints took together, their pauses included.",
            ),
            checkpoints_cpu_seconds: gauge(
                "dynakv_store_checkpoints_cpu_seconds",
                "Processor time that checkpoints took together, without that of sled's own threads.",
            ),
            window_used: gauge(
                "dynakv_store_window_used_ratio",
                "How full the generation is that is being written; at 1 it goes into the tree.",
            ),
            replay_seconds: gauge(
                "dynakv_store_replay_seconds",
                "How long reading the commit log took when this node started.",
            ),
            amplification: gauge(
                "dynakv_store_amplification_ratio",
                "Bytes on disk for each byte of live values; 0 while there are none.",
            ),
            damaged_reads: counter(
                "dynakv_store_damaged_reads_total",
                "Reads that met a damaged value, which was not served.",
            ),
            contradicted_dots: counter(
                "dynakv_store_contradicted_dots_total",
                "Merges that met two values of one write, which takes damage or two nodes under one name.",
            ),
            long_clocks: counter(
                "dynakv_long_clocks_total",
                "Writes that added to a clock of 64 entries or more; each unclean start of an owner adds one.",
            ),
            locked_keys: gauge(
                "dynakv_locked_keys",
                "Keys known to be beyond a limit: not readable, or not writable by new actors, until they are mended.",
            ),
            disk_free_bytes: gauge(
                "dynakv_disk_free_bytes",
                "Bytes free on the disk that holds the store.",
            ),
            disk_reserve_bytes: gauge(
                "dynakv_disk_reserve_bytes",
                "Bytes kept free there: below them writes are refused, and reads go on.",
            ),
        }
    }

    /// Takes over what the store says.
    pub fn update(&self, totals: &Totals, status: &StoreStatus, locked_keys: usize) {
        self.locked_keys.set(locked_keys as f64);
        self.dirty_bytes.set(status.dirty_bytes as f64);
        self.dirty_entries.set(status.dirty_entries as f64);
        self.table_bytes.set(status.table_bytes as f64);
        self.table_hits.absolute(status.table_hits);
        self.table_misses.absolute(status.table_misses);
        self.table_evictions.absolute(status.table_evictions);
        self.log_bytes.set(status.log_bytes as f64);
        self.checkpoints.absolute(status.checkpoints);
        self.compactions.absolute(status.compactions);
        let last = status.last_checkpoint.as_secs_f64();
        self.checkpoint_last_seconds.set(last);
        let all = status.checkpoints_time.as_secs_f64();
        self.checkpoints_seconds.set(all);
        let cpu = status.checkpoints_cpu_time.as_secs_f64();
        self.checkpoints_cpu_seconds.set(cpu);
        self.window_used.set(status.window_used);
        self.replay_seconds.set(status.replay_time.as_secs_f64());
        let amplification = match totals.live_bytes {
            0 => 0.0,
            live_bytes => totals.disk_bytes as f64 / live_bytes as f64,
        };
        self.amplification.set(amplification);
        self.damaged_reads.absolute(status.damaged_reads);
        self.disk_free_bytes.set(status.disk_free_bytes as f64);
        self.disk_reserve_bytes
            .set(status.disk_reserve_bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use dynakv_storage::{StoreStatus, Totals};

    use crate::runtime::observe::metrics::Metrics;

    #[test]
    fn what_the_store_says_is_what_is_shown() {
        let metrics = Metrics::new("node-1").unwrap();
        let totals = Totals {
            live_bytes: 100,
            disk_bytes: 450,
            ..Totals::default()
        };
        let status = StoreStatus {
            dirty_bytes: 1,
            dirty_entries: 2,
            table_bytes: 9,
            table_hits: 10,
            table_misses: 11,
            table_evictions: 12,
            log_bytes: 3,
            checkpoints: 4,
            compactions: 13,
            last_checkpoint: Duration::from_millis(1500),
            checkpoints_time: Duration::from_millis(7000),
            checkpoints_cpu_time: Duration::from_millis(2250),
            window_used: 0.625,
            replay_time: Duration::from_millis(125),
            damaged_reads: 5,
            disk_free_bytes: 6,
            disk_reserve_bytes: 7,
            refuses_writes: true,
        };
        metrics.store.update(&totals, &status, 8);
        let text = metrics.render(Path::new("."));
        assert!(text.contains("dynakv_locked_keys{node=\"node-1\"} 8\n"));
        for (name, value) in [
            ("dirty_bytes", "1"),
            ("dirty_entries", "2"),
            ("table_bytes", "9"),
            ("table_hits_total", "10"),
            ("table_misses_total", "11"),
            ("table_evictions_total", "12"),
            ("log_bytes", "3"),
            ("checkpoints_total", "4"),
            ("compactions_total", "13"),
            ("checkpoint_last_seconds", "1.5"),
            ("checkpoints_seconds", "7"),
            ("checkpoints_cpu_seconds", "2.25"),
            ("window_used_ratio", "0.625"),
            ("replay_seconds", "0.125"),
            ("amplification_ratio", "4.5"),
            ("damaged_reads_total", "5"),
        ] {
            let expected = format!("dynakv_store_{name}{{node=\"node-1\"}} {value}");
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}\n{text}"
            );
        }
        metrics.store.update(&Totals::default(), &status, 0);
        let text = metrics.render(Path::new("."));
        assert!(text.contains("dynakv_store_amplification_ratio{node=\"node-1\"} 0\n"));
    }
}
