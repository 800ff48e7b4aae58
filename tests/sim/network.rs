//! The network seam over turmoil's simulated TCP; everything that leaves a machine is traced.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use dynakv::runtime::environment::{BoxFuture, Listener, Network, ReadHalf, WriteHalf};
use tokio::io::AsyncWrite;
use turmoil::net::tcp::OwnedWriteHalf;
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::Trace;

/// The network as one machine sees it.
#[derive(Clone)]
pub(crate) struct SimulatedNetwork {
    machine: Arc<str>,
    trace: Trace,
}

impl SimulatedNetwork {
    pub(crate) fn new(machine: &str, trace: Trace) -> Self {
        Self {
            machine: Arc::from(machine),
            trace,
        }
    }

    fn halves(&self, stream: TcpStream) -> (ReadHalf, WriteHalf) {
        let (read, write) = stream.into_split();
        let write = TracedWrite {
            write,
            network: self.clone(),
        };
        (Box::new(read), Box::new(write))
    }
}

impl Network for SimulatedNetwork {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<(ReadHalf, WriteHalf)>> {
        Box::pin(async move { Ok(self.halves(TcpStream::connect(address).await?)) })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = SimulatedListener {
                listener: TcpListener::bind(address).await?,
                network: self.clone(),
            };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

struct SimulatedListener {
    listener: TcpListener,
    network: SimulatedNetwork,
}

impl Listener for SimulatedListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(ReadHalf, WriteHalf, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            let (read, write) = self.network.halves(stream);
            Ok((read, write, from))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct TracedWrite {
    write: OwnedWriteHalf,
    network: SimulatedNetwork,
}

impl AsyncWrite for TracedWrite {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.write).poll_write(context, bytes))?;
        let SimulatedNetwork { machine, trace } = &self.network;
        trace.sent(machine, &bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(context)
    }
}
