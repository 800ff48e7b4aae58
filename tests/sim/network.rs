//! The network seam over turmoil's simulated TCP; everything that leaves a machine is traced, and now and
//! then a message of replication leaves it a second time, later ([`resend`](crate::resend)), or, where a
//! rule is broken on purpose, as another one ([`rewriting`](crate::rewriting)).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use dynakv::runtime::shared::environment::{BoxFuture, Listener, Network, ReadHalf, WriteHalf};
use tokio::io::AsyncWrite;
use turmoil::net::tcp::OwnedWriteHalf;
use turmoil::net::{TcpListener, TcpStream};

use crate::clock;
use crate::machine::Flaw;
use crate::rerouting::{Outgoing, Rerouting};
use crate::resend::{Resender, Second};
use crate::rewriting::Rewriting;
use crate::trace::Trace;

/// The network as one machine sees it, for one life of its node.
#[derive(Clone)]
pub(crate) struct SimulatedNetwork {
    machine: Arc<str>,
    trace: Trace,
    resender: Arc<Resender>,
    flaw: Flaw,
    rerouting: Option<Arc<Rerouting>>,
}

impl SimulatedNetwork {
    pub(crate) fn new(machine: &str, trace: Trace, resender: Resender, flaw: Flaw) -> Self {
        Self {
            flaw,
            rerouting: Rerouting::of(flaw).map(Arc::new),
            machine: Arc::from(machine),
            trace,
            resender: Arc::new(resender),
        }
    }

    /// `to` is given for a connection that was dialled.
    fn halves(&self, stream: TcpStream, to: Option<&str>) -> (ReadHalf, WriteHalf) {
        let (read, write) = stream.into_split();
        let mut read: ReadHalf = Box::new(read);
        let mut outgoing = None;
        if let (Some(rerouting), Some(to)) = (&self.rerouting, to) {
            let (sees, hears) = rerouting.link(to, read);
            outgoing = Some(sees);
            read = Box::new(hears);
        }
        let write = TracedWrite {
            write,
            network: self.clone(),
            second: to.and_then(|to| self.resender.connection(to)),
            rewriting: match to {
                // Answers leave over the others.
                Some(_) => Rewriting::of_requests(self.flaw),
                None => Rewriting::of(self.flaw),
            },
            outgoing,
        };
        (read, Box::new(write))
    }
}

impl Network for SimulatedNetwork {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<(ReadHalf, WriteHalf)>> {
        Box::pin(async move { Ok(self.halves(TcpStream::connect(address).await?, Some(address))) })
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
            let (read, write) = self.network.halves(stream, None);
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
    /// What leaves a second time.
    second: Option<Second>,
    /// What leaves as something else.
    rewriting: Option<Rewriting>,
    /// Whose answers are taken for those of others.
    outgoing: Option<Outgoing>,
}

impl TracedWrite {
    fn poll_traced(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.write).poll_write(context, bytes))?;
        let SimulatedNetwork { machine, trace, .. } = &self.network;
        trace.sent(machine, &bytes[..written]);
        Poll::Ready(Ok(written))
    }

    /// Writes what is due a second time, between two frames.
    fn poll_second(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(second) = &mut self.second else {
            return Poll::Ready(Ok(()));
        };
        if let Some(what) = second.take_due(clock::now()) {
            let SimulatedNetwork { machine, trace, .. } = &self.network;
            trace.line(machine, &what);
        }
        while let Some(bytes) = self.second.as_ref().and_then(Second::waiting) {
            let written = ready!(self.poll_traced(context, &bytes))?;
            if let Some(second) = &mut self.second {
                second.advance(written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl TracedWrite {
    /// Writes what has been rewritten and waits.
    fn poll_rewritten(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.rewriting.as_ref().map(|it| it.waiting.clone())
            && !bytes.is_empty()
        {
            let written = ready!(self.poll_traced(context, &bytes))?;
            if let Some(rewriting) = &mut self.rewriting {
                rewriting.waiting.advance(written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TracedWrite {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_second(context))?;
        if let Some(rewriting) = &mut self.rewriting {
            // Who was told to wait comes again with the same bytes.
            if rewriting.taken == 0 {
                rewriting.take(bytes);
            }
            ready!(self.poll_rewritten(context))?;
            let rewriting = self.rewriting.as_mut();
            let taken = rewriting.map(|it| std::mem::take(&mut it.taken));
            return Poll::Ready(Ok(taken.unwrap_or_default()));
        }
        let written = ready!(self.poll_traced(context, bytes))?;
        if let Some(second) = &mut self.second {
            second.see(&bytes[..written], clock::now());
        }
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.see(&bytes[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(context)
    }
}
