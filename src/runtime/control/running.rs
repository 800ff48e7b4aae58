//! The control task: what it waits on, in which order.

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{CallEnd, Control, ControlError, ControlEvent, Parts, TICK, UPKEEP};

/// The running task, and what it waits on.
pub struct Runner {
    control: Control,
    events: mpsc::Receiver<ControlEvent>,
    ends: mpsc::UnboundedReceiver<CallEnd>,
    shutdown: CancellationToken,
}

/// Loads what the directory knows; a cluster is founded here where that is due.
///
/// # Errors
/// [`ControlError`] says what to do.
pub fn prepare(mut parts: Parts) -> Result<Runner, ControlError> {
    let (ends_out, ends) = mpsc::unbounded_channel();
    let (_, closed) = mpsc::channel(1);
    let events = std::mem::replace(&mut parts.events, closed);
    let shutdown = parts.shutdown.clone();
    let control = Control::load(parts, ends_out)?;
    Ok(Runner {
        control,
        events,
        ends,
        shutdown,
    })
}

/// Runs until shutdown.
///
/// # Errors
/// [`ControlError`] when the node can't go on: the cluster refused it, or the disk failed.
pub async fn run(runner: Runner) -> Result<(), ControlError> {
    let Runner {
        mut control,
        mut events,
        mut ends,
        shutdown,
    } = runner;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            // Before what others ask for: whoever asks without end must not keep this node from its heartbeats.
            _ = ticks.tick() => control.tick(),
            _ = upkeep.tick() => control.upkeep(),
            Some(end) = ends.recv() => control.on_call_end(end),
            Some(event) = events.recv() => control.on_event(event),
        }
        if let Some(error) = control.end.take() {
            return Err(error);
        }
    }
}
