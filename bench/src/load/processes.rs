//! What processes of this machine take, as its system tells: from outside, so that asking costs them nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

/// CPU time that a process has used, user and system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// Of the whole process, in the system's ticks, which are coarse.
    whole: Duration,
    /// Of each thread that lives, by its id: to the nanosecond, and gone with the thread.
    by_thread: BTreeMap<u32, Duration>,
}

impl CpuTime {
    /// How much was used since an earlier reading: what its threads used or, when one has ended meanwhile, what the
    /// process has to the tick.
    pub(super) fn since(&self, before: &Self) -> Duration {
        let mut threads = before.by_thread.keys();
        let is_whole =
            !self.by_thread.is_empty() && threads.all(|it| self.by_thread.contains_key(it));
        if !is_whole {
            return self.whole.saturating_sub(before.whole);
        }
        let used = self.by_thread.iter().map(|(thread, used)| {
            let before = before.by_thread.get(thread).copied().unwrap_or_default();
            used.saturating_sub(before)
        });
        used.sum()
    }
}

/// The CPU time of a process up to now.
///
/// # Errors
/// When the process is gone, or the system does not tell.
pub(super) fn cpu_time(pid: u32) -> io::Result<CpuTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).ok_or_else(|| unreadable("stat"))?;
    let whole =
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    let mut by_thread = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let thread = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // A thread may end while it is read. Some systems do not tell it at all.
        let used = fs::read_to_string(entry.path().join("schedstat")).ok();
        let used = used.as_deref().and_then(nanoseconds);
        if let (Some(thread), Some(used)) = (thread, used) {
            by_thread.insert(thread, used);
        }
    }
    Ok(CpuTime { whole, by_thread })
}

/// How much memory of a process is resident, in bytes.
///
/// # Errors
/// When the process is gone, or the system does not tell.
pub(super) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or_else(|| unreadable("statm"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn unreadable(file: &str) -> io::Error {
    let why = format!("the system writes its {file} in another form than Linux");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// User and system time. The name of the process may hold spaces and brackets; field 14 is the twelfth after it.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn nanoseconds(schedstat: &str) -> Option<Duration> {
    let used = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(whole_ms: u64, threads: &[(u32, u64)]) -> CpuTime {
        let threads = threads.iter();
        CpuTime {
            whole: Duration::from_millis(whole_ms),
            by_thread: threads
                .map(|(thread, used_us)| (*thread, Duration::from_micros(*used_us)))
                .collect(),
        }
    }

    #[test]
    fn threads_tell_it_exactly_and_the_process_when_one_has_ended() {
        let before = reading(10, &[(1, 5_000), (2, 7_000)]);
        let with_a_new_one = reading(20, &[(1, 5_100), (2, 7_020), (3, 3)]);
        assert_eq!(with_a_new_one.since(&before), Duration::from_micros(123));
        let one_ended = reading(20, &[(1, 5_100)]);
        assert_eq!(one_ended.since(&before), Duration::from_millis(10));
        // A system that knows processes only.
        let whole = reading(40, &[]).since(&reading(10, &[]));
        assert_eq!(whole, Duration::from_millis(30));
    }

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 9 0 100 0";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(nanoseconds("1500 2 3\n"), Some(Duration::from_nanos(1500)));
    }

    #[test]
    fn this_process_is_read_and_none_that_is_not_there() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 100_000);
        let before = cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_time(pid).unwrap().since(&before).is_zero() {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(u32::MAX).is_err());
    }
}
