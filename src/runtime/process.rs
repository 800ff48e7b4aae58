//! What the operating system says of this process.

use std::fmt::Write;

/// The process's CPU time, memory and descriptors in Prometheus' text form.
///
/// Written by hand because the metrics crate counts in whole numbers, and CPU seconds are none. What
/// the system does not tell is left out.
pub fn render(node: &str) -> String {
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: String| {
        // Writing to a string can't fail.
        let _ = write!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{node=\"{node}\"}} {value}\n\n"
        );
    };
    let cpu = cpu_seconds();
    put(
        "process_cpu_seconds_total",
        "counter",
        "User and system CPU time of the process.",
        format!("{cpu:.6}"),
    );
    if let Some(bytes) = resident_bytes() {
        let help = "Resident memory of the process.";
        put(
            "process_resident_memory_bytes",
            "gauge",
            help,
            bytes.to_string(),
        );
    }
    if let Some(count) = open_descriptors() {
        let help = "Open file descriptors of the process.";
        put("process_open_fds", "gauge", help, count.to_string());
    }
    out
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows() {
        let before = cpu_seconds();
        let mut sum = 0_u64;
        while cpu_seconds() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(render("n").contains("process_cpu_seconds_total{node=\"n\"} "));
    }
}
