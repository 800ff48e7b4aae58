//! Tells the service manager when this node is ready and when it stops: the `sd_notify` protocol, for
//! units of `Type=notify`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::view::View;

/// Where systemd tells a service to report.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
}

impl Notifier {
    /// The one that the environment names; `None` when nobody waits for news.
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os(VARIABLE).filter(|name| !name.is_empty())?;
        match Self::new(&name) {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                // A node that runs unannounced is better than none.
                tracing::warn!(%error, socket = %name.display(), "cannot reach {VARIABLE}");
                None
            }
        }
    }

    /// The manager at this socket: a path, or a name in the abstract namespace after an `@`.
    ///
    /// # Errors
    /// When the name is none, or the system gives no socket.
    pub fn new(name: &OsStr) -> io::Result<Self> {
        let manager = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up the node.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager })
    }

    fn tell(&self, news: &str) {
        if let Err(error) = self.socket.send_to_addr(news.as_bytes(), &self.manager) {
            tracing::warn!(%error, news, "cannot tell the service manager");
        }
    }
}

/// Reports until the node stops: ready once it is in its ring, and not before, because until then it
/// refuses all requests.
pub async fn run(
    notifier: Notifier,
    mut view: watch::Receiver<Arc<View>>,
    draining: CancellationToken,
) {
    notifier.tell("STATUS=listening; not in a cluster yet");
    let ready = tokio::select! {
        biased;
        () = draining.cancelled() => false,
        joined = view.wait_for(|view| view.ring.is_some()) => joined.is_ok(),
    };
    if ready {
        notifier.tell("READY=1\nSTATUS=ready");
        draining.cancelled().await;
    }
    notifier.tell("STOPPING=1\nSTATUS=finishing what is in hand");
}
