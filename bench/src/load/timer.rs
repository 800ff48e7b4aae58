//! A timer that is exact enough for a schedule. The runtime's own rounds up to whole milliseconds, which
//! would stand in every latency of an open loop.

use std::io;
use std::time::Duration;

#[cfg(target_os = "linux")]
pub(super) use linux::Timer;
#[cfg(not(target_os = "linux"))]
pub(super) use other::Timer;

#[cfg(target_os = "linux")]
mod linux {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;

    use super::{Duration, io};

    /// The kernel's timer: a descriptor that can be read once the time is up. To the runtime it is the
    /// end of a pipe, which is read in the same way.
    #[derive(Debug)]
    pub(in super::super) struct Timer(Receiver);

    impl Timer {
        /// A timer that is not set.
        pub(in super::super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self(Receiver::from_owned_fd_unchecked(timer)?))
        }

        /// Waits for so long.
        pub(in super::super) async fn wait(&self, duration: Duration) -> io::Result<()> {
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let once = Itimerspec {
                it_interval: zero,
                it_value: Timespec {
                    tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                    // Zero would switch it off.
                    tv_nsec: duration.subsec_nanos().max(1).into(),
                },
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
            let mut expirations = [0; 8];
            loop {
                self.0.readable().await?;
                match self.0.try_read(&mut expirations) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => return outcome.map(drop),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::{Duration, io};

    /// The runtime's timer: up to a millisecond late.
    #[derive(Debug)]
    pub(in super::super) struct Timer;

    impl Timer {
        /// A timer.
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits for so long.
        pub(in super::super) async fn wait(&self, duration: Duration) -> io::Result<()> {
            tokio::time::sleep(duration).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_waits_as_long_as_told_again_and_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let timer = Timer::new().unwrap();
            for wait_us in [0, 1, 300, 20_000] {
                let wait = Duration::from_micros(wait_us);
                let begun = Instant::now();
                timer.wait(wait).await.unwrap();
                assert!(begun.elapsed() >= wait, "{wait:?}");
            }
        });
    }
}
