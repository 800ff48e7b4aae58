//! A node as a program of its own.

use std::io::Write;
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Node, ServeError, system};
use crate::config::Config;
use crate::runtime::observe::process::raise_descriptors;
use crate::runtime::observe::systemd::{self, Notifier};

/// Runs a node until SIGTERM or Ctrl-C. SIGHUP ends it at no time: `reload` runs then, on a thread of its
/// own, for it may read files.
///
/// # Errors
/// [`ServeError`].
pub fn serve(config: Config, reload: impl FnMut() + Send + 'static) -> Result<(), ServeError> {
    raise_descriptors();
    // One thread for all of the network: the store has its own, and batches grow with the load.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system("a runtime", &error.to_string()))?;
    let end = runtime.block_on(async {
        // Before a start that may take long.
        hang_ups(reload)?;
        let mut stop = StopSignals::listen()?;
        let announces = config.port == 0;
        let mut node = tokio::select! {
            biased;
            () = stop.come() => {
                tracing::warn!("told to stop before it had started; the next start is an unclean one");
                return Ok(());
            }
            node = Node::start(config) => node?,
        };
        if announces {
            announce(&node);
        }
        if let Some(notifier) = Notifier::from_environment() {
            let (view, draining) = (node.view.clone(), node.stop.draining.clone());
            tokio::spawn(systemd::run(notifier, view, draining));
        }
        tokio::select! {
            biased;
            () = stop.come() => {}
            error = node.failed() => return Err(error),
        }
        node.shutdown().await;
        Ok(())
    });
    // A disk that hangs must not keep the process from ending.
    runtime.shutdown_background();
    end
}

/// Tells a script that asked for free ports which they are.
fn announce(node: &Node) {
    // The fields in the order that is documented, which a JSON map would not keep.
    let line = format!(
        r#"{{"event":"listening","port":{},"http_port":{}}}"#,
        node.address.port(),
        node.http_address.map_or(0, |address| address.port()),
    );
    let mut out = std::io::stdout();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::warn!(%error, line, "standard output does not take which ports were chosen");
    }
}

/// Has `reload` run after each SIGHUP, once for those that come while it runs. The process does not wait for
/// its thread: a disk that hangs under the settings file must not keep a node from ending.
fn hang_ups(mut reload: impl FnMut() + Send + 'static) -> Result<(), ServeError> {
    let refused = |what, error: std::io::Error| system(what, &error.to_string());
    let mut hang_up = signal(SignalKind::hangup()).map_err(|e| refused("a signal handler", e))?;
    let (ring, rings) = mpsc::sync_channel(1);
    let reloading = move || {
        while let Ok(()) = rings.recv() {
            reload();
        }
    };
    let thread = thread::Builder::new().name("reload".to_owned());
    thread
        .spawn(reloading)
        .map_err(|e| refused("a thread", e))?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            // One that waits already reads what there is then.
            let _one_waits = ring.try_send(());
        }
    });
    Ok(())
}

/// SIGTERM and Ctrl-C. From [`listen`](Self::listen) on they end no process by themselves, and none is missed.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, ServeError> {
        let listen =
            |kind| signal(kind).map_err(|error| system("a signal handler", &error.to_string()));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
