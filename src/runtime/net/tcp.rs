//! The real network: TCP with small packets sent at once and dead peers noticed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use dynakv_client::addresses::{first_of, io_error, resolve};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::runtime::shared::environment::{BoxFuture, Listener, Network, ReadHalf, WriteHalf};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// After how much silence the kernel begins to ask whether the other side is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);

/// How often it asks.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// TCP by the operating system.
#[derive(Debug, Clone, Copy)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<(ReadHalf, WriteHalf)>> {
        Box::pin(async move {
            let addresses = resolve(address).await?;
            let connected = first_of(&addresses, TcpStream::connect).await;
            halves(connected.map_err(io_error)?)
        })
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move {
            let addresses = resolve(address).await?.into_iter();
            Ok(addresses.map(|address| address.to_string()).collect())
        })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            // A node that restarts must not wait for its old connections to be forgotten.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(ReadHalf, WriteHalf, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = TcpListener::accept(self).await?;
            let (read, write) = halves(stream)?;
            Ok((read, write, from))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

fn halves(stream: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let (read, write) = stream.into_split();
    Ok((Box::new(read), Box::new(write)))
}
