//! The machine the generator runs on, as far as it tells.

use std::fs;
use std::time::Duration;

use crate::report::Host;

/// Describes it.
pub(super) fn describe() -> Host {
    let first_line = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let release = first_line("/proc/sys/kernel/osrelease");
    let system = match first_line("/proc/sys/kernel/ostype") {
        name if name.is_empty() => std::env::consts::OS.to_owned(),
        name => format!("{name} {release} {}", std::env::consts::ARCH),
    };
    let load = first_line("/proc/loadavg");
    Host {
        system,
        cpu: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        load_average: load
            .split(' ')
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or(0.0),
        bench_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// 0 where the system does not tell.
fn memory_bytes(meminfo: &str) -> u64 {
    let kibibytes = meminfo.lines().find_map(|line| {
        let value = line.strip_prefix("MemTotal:")?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kibibytes.unwrap_or(0) * 1024
}

/// CPU time of this process, user and system, all its threads.
pub(super) fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Other\n";
        assert_eq!(processor(cpuinfo), "Some CPU @ 3 GHz");
        assert_eq!(processor(""), std::env::consts::ARCH);
        assert_eq!(
            memory_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n"),
            2 * 1024 * 1024
        );
        assert_eq!(memory_bytes("garbage"), 0);
        assert!(describe().cores >= 1);
    }

    #[test]
    fn cpu_time_grows() {
        let before = process_cpu();
        let mut sum = 0_u64;
        while process_cpu() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
