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

use crate::runtime::shared::view::View;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_manager_is_found_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notifier::new(path.as_os_str()).unwrap().tell("READY=1");
        assert_eq!(received(&manager), "READY=1");

        // Unique on this machine: its path is.
        let name = path.as_os_str().as_bytes();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let name = [b"@", name].concat();
        let notifier = Notifier::new(OsStr::from_bytes(&name)).unwrap();
        notifier.tell("STOPPING=1");
        assert_eq!(received(&manager), "STOPPING=1");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _silent = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.as_os_str()).unwrap();
        // Far more than a socket's queue takes.
        for _ in 0..10_000 {
            notifier.tell("STATUS=still here");
        }
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        let long = "x".repeat(1000);
        Notifier::new(OsStr::new(&long)).unwrap_err();
        Notifier::new(OsStr::new(&format!("@{long}"))).unwrap_err();
    }
}
