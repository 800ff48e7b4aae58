//! What the operating system says of this process.

use std::fmt::Write;

/// The process's CPU time, memory, descriptors and start in Prometheus' text form, under the names that
/// Prometheus' own client libraries use.
///
/// Written by hand because the metrics crate counts in whole numbers, and CPU seconds are none. What
/// the system does not tell is left out.
pub fn render(node: &str) -> String {
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: Option<String>| {
        let Some(value) = value else {
            return;
        };
        // Writing to a string can't fail.
        let _ = write!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{node=\"{node}\"}} {value}\n\n"
        );
    };
    put(
        "process_cpu_seconds_total",
        "counter",
        "User and system CPU time of the process.",
        Some(format!("{:.6}", cpu_seconds())),
    );
    put(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory of the process.",
        memory_bytes(RESIDENT).map(|bytes| bytes.to_string()),
    );
    put(
        "process_virtual_memory_bytes",
        "gauge",
        "Address space of the process.",
        memory_bytes(VIRTUAL).map(|bytes| bytes.to_string()),
    );
    put(
        "process_open_fds",
        "gauge",
        "Open file descriptors of the process.",
        open_descriptors().map(|count| count.to_string()),
    );
    put(
        "process_max_fds",
        "gauge",
        "How many file descriptors the process may have.",
        descriptors_max().map(|count| count.to_string()),
    );
    put(
        "process_start_time_seconds",
        "gauge",
        "When the process started, in seconds since 1970.",
        start_seconds().map(|seconds| format!("{seconds:.2}")),
    );
    out
}

/// Fields of `/proc/self/statm`.
const VIRTUAL: usize = 0;
const RESIDENT: usize = 1;

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn memory_bytes(field: usize) -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(field)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_descriptors() -> Option<usize> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is that of the directory itself.
    Some(entries.saturating_sub(1))
}

/// Nothing when there is no limit.
fn descriptors_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

fn start_seconds() -> Option<f64> {
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    // The name of the process may hold spaces and brackets; field 22 is the 20th after it.
    let ticks: u64 = own
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let boot = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let boot: u64 = boot.trim().parse().ok()?;
    Some(boot as f64 + ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

    #[test]
    fn an_open_file_is_counted() {
        let before = open_descriptors().unwrap();
        let files: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null")).collect();
        // Other tests of this process open and close files meanwhile, but not as many.
        let now = open_descriptors().unwrap();
        assert!(
            now > before + 50,
            "{before} before, {now} with {} more",
            files.len()
        );
        assert!(descriptors_max().is_none_or(|most| most >= now as u64));
    }

    #[test]
    fn memory_and_start_are_those_of_this_process() {
        let (resident, mapped) = (
            memory_bytes(RESIDENT).unwrap(),
            memory_bytes(VIRTUAL).unwrap(),
        );
        assert!(resident > 0 && mapped >= resident, "{resident} of {mapped}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - start_seconds().unwrap();
        // Boot time is known to the second; a test binary does not run for a day.
        let day = Duration::from_secs(86_400).as_secs_f64();
        assert!((-2.0..day).contains(&age), "started {age} s ago");
    }
}
