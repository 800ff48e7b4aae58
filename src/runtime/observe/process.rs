//! What the operating system says of this process and of the disk it writes to.

use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::log_lines;

/// The process's CPU time, memory, descriptors and start in Prometheus' text form, under the names that
/// Prometheus' own client libraries use, and the room on the disk of the data directory.
///
/// Written by hand because the metrics crate counts in whole numbers, and CPU seconds are none, and
/// because these are looked up only when somebody asks. What the system does not tell is left out.
pub fn render(node: &str, data_dir: &Path) -> String {
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
    let disk = rustix::fs::statvfs(data_dir).ok();
    put(
        "dynakv_disk_size_bytes",
        "gauge",
        "Size of the file system that holds the data directory.",
        disk.as_ref()
            .map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize).to_string()),
    );
    put(
        "dynakv_disk_available_bytes",
        "gauge",
        "Room left on the file system that holds the data directory.",
        disk.as_ref()
            .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize).to_string()),
    );
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
        "dynakv_log_lines_dropped_total",
        "counter",
        "Lines of the process's log that standard error did not take.",
        Some(log_lines::dropped().to_string()),
    );
    put(
        "dynakv_log_lines_left_out_total",
        "counter",
        "Lines of the process's log that were left out because one place of the program had too many.",
        Some(log_lines::left_out().to_string()),
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
    let time = clock_gettime(ClockId::ProcessCPUTime);
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

/// How many file descriptors the process may have at present. Nothing when there is no limit, or the system
/// does not tell.
pub fn descriptors_max() -> Option<u64> {
    descriptor_limits()?.0
}

/// How many it may give itself.
pub fn descriptors_possible() -> Option<u64> {
    descriptor_limits()?.1
}

/// The soft limit and the hard one. Read, not asked for: services are often forbidden the system call, which
/// can change limits too.
fn descriptor_limits() -> Option<(Option<u64>, Option<u64>)> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let name = "Max open files";
    let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = values.split_whitespace().map(|value| value.parse().ok());
    Some((values.next()?, values.next()?))
}

/// Takes all descriptors that the process may give itself. The usual soft limit of 1,024 is there for programs
/// that use `select`, which this one does not.
pub fn raise_descriptors() {
    let Some((Some(soft), hard)) = descriptor_limits() else {
        return;
    };
    if hard.is_some_and(|hard| hard <= soft) {
        return;
    }
    let raised = rustix::process::Rlimit {
        current: hard,
        maximum: hard,
    };
    match rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(from = soft, to = hard, "may open more files"),
        Err(error) => tracing::warn!(%error, limit = soft, "cannot raise the limit of open files"),
    }
}

/// Worked out once: a later step of the system's clock must not look like a restart.
fn start_seconds() -> Option<f64> {
    static START: LazyLock<Option<f64>> = LazyLock::new(|| {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the process may hold spaces and brackets; field 22 is the 20th after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let ticks: u64 = fields.nth(19)?.parse().ok()?;
        let since_boot = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let now = clock_gettime(ClockId::Boottime);
        let age = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9 - since_boot;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(unix.as_secs_f64() - age)
    });
    *START
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cpu_time_grows() {
        let before = cpu_seconds();
        let mut sum = 0_u64;
        while cpu_seconds() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(
            render("n", Path::new("/nowhere")).contains("process_cpu_seconds_total{node=\"n\"} ")
        );
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
    fn a_disk_has_room_and_one_that_is_not_there_is_left_out() {
        let value = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let here = render("n", Path::new("."));
        let size = value(&here, "dynakv_disk_size_bytes{").unwrap();
        let available = value(&here, "dynakv_disk_available_bytes{").unwrap();
        assert!(size > 0 && available <= size, "{available} of {size}");
        assert!(!render("n", Path::new("/nowhere")).contains("dynakv_disk"));
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
