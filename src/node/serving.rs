//! A node as a program of its own.

use std::io::Write;

use super::{Node, ServeError, system};
use crate::config::Config;
use crate::runtime::process::raise_descriptors;
use crate::runtime::systemd::{self, Notifier};

/// Runs a node until SIGTERM or Ctrl-C.
///
/// # Errors
/// [`ServeError`].
pub fn serve(config: Config) -> Result<(), ServeError> {
    raise_descriptors();
    // One thread for all of the network: the store has its own, and batches grow with the load.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system("a runtime", &error.to_string()))?;
    runtime.block_on(async {
        let announces = config.port == 0;
        let mut node = Node::start(config).await?;
        if announces {
            announce(&node);
        }
        if let Some(notifier) = Notifier::from_environment() {
            let (view, draining) = (node.view.clone(), node.stop.draining.clone());
            tokio::spawn(systemd::run(notifier, view, draining));
        }
        tokio::select! {
            biased;
            signal = stop_signal() => signal?,
            error = node.failed() => return Err(error),
        }
        node.shutdown().await;
        Ok(())
    })
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

async fn stop_signal() -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let refused = |error: std::io::Error| system("a signal handler", &error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
