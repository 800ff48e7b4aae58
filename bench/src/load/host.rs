//! The machine the generator runs on, as far as it tells.

use std::fs;
use std::path::Path;
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

/// The file system that a path lies on, as the system calls its kind; `None` where it does not tell.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let path = path.canonicalize().ok()?;
    file_system_in(&mounts, &path).map(str::to_owned)
}

/// The kind of the mount that is nearest to the path: the longest one, and the last of equals, which
/// covers those before it.
fn file_system_in<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let fitting = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        path.starts_with(at).then_some((at.len(), kind))
    });
    fitting
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
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
    fn the_nearest_mount_counts() {
        let mounts = "overlay / overlay rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n\
                      disk /tmp/data ext4 rw 0 0\n";
        let kind = |path: &str| file_system_in(mounts, Path::new(path));
        assert_eq!(kind("/tmp/x"), Some("tmpfs"));
        assert_eq!(kind("/tmp/data/x"), Some("ext4"));
        assert_eq!(kind("/tmpfile"), Some("overlay"));
        let covered = "disk /a ext4 rw 0 0\nmemory /a tmpfs rw 0 0\n";
        assert_eq!(file_system_in(covered, Path::new("/a/b")), Some("tmpfs"));
        assert_eq!(file_system_in("", Path::new("/a")), None);
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
