//! The fault proxy: all traffic between the nodes of a cluster goes through it, and a test decides at any
//! moment what becomes of it.
//!
//! It listens once for each node, and the nodes advertise these addresses. Who dials is told by the hello,
//! the first frame of every connection. A rule is about a *flow*: the bytes that travel from one node to
//! another, whoever dialled. So "nothing from a to b" takes the requests of a's connections and the
//! answers on b's connections, data and gossip alike, as a broken cable would.
//!
//! | Room | What it holds |
//! |---|---|
//! | [`rules`] | what can happen to a flow, and what happens to which at present |
//! | [`frames`] | where frames begin in a stream of bytes, and the bit that is flipped |
//! | [`pump`] | carries the bytes of one direction of one connection |

use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::frame::FrameDecoder;
use dynakv_protocol::limits::HANDSHAKE_FRAME_BYTES_MAX;
use dynakv_protocol::message::Request;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

mod frames;
mod pump;
mod rules;
#[cfg(test)]
mod tests;

use self::pump::{Pump, Reset, pump};
pub(crate) use self::rules::{Count, Rule, Rules};
use self::rules::{Flow, Traffic};

/// The name of everybody who is no node.
pub(crate) const CLIENTS: &str = "clients";

/// More connections than this are reset as they come.
const CONNECTIONS_MAX: usize = 4096;

/// How long somebody who connects may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after an accept that failed, for want of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A proxy that runs on a thread of its own, until it is dropped.
pub(crate) struct Proxy {
    world: World,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What all connections share.
#[derive(Clone)]
struct World {
    rules: Arc<watch::Sender<Rules>>,
    traffic: Traffic,
    random: Arc<Mutex<fastrand::Rng>>,
    places: Arc<Semaphore>,
}

impl Proxy {
    /// Starts one in front of nobody; everything passes. Jitter and flipped bits come of the seed.
    pub(crate) fn start(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("tests need an event queue");
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // Told or forgotten, it ends; the runtime takes all connections with it.
            let _either = runtime.block_on(stopped);
        });
        Self {
            world: World {
                rules: Arc::new(watch::Sender::new(Rules::default())),
                traffic: Traffic::default(),
                random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
                places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            },
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Listens for a node; gives the address that it is to advertise. The node need not run.
    pub(crate) fn front(&self, id: &str, port: u16) -> String {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        listener.set_nonblocking(true).expect("sockets can do that");
        let (world, id) = (self.world.clone(), id.to_owned());
        self.runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("the runtime runs");
            listen(listener, id, port, world).await;
        });
        address.to_string()
    }

    /// What happens to the bytes from one node to another from now on.
    pub(crate) fn set(&self, from: &str, to: &str, rule: Rule) {
        self.world
            .rules
            .send_modify(|rules| rules.set(from, to, rule));
    }

    /// The same for both directions between each of these and each of those.
    pub(crate) fn between(&self, these: &[&str], those: &[&str], rule: Rule) {
        self.world.rules.send_modify(|rules| {
            for this in these {
                for that in those {
                    rules.set(this, that, rule);
                    rules.set(that, this, rule);
                }
            }
        });
    }

    /// Everything passes again. Connections that have lost bytes are reset.
    pub(crate) fn heal(&self) {
        self.world.rules.send_replace(Rules::default());
    }

    /// What has become of the bytes from one node to another so far.
    pub(crate) fn count(&self, from: &str, to: &str) -> Count {
        self.world.traffic.count(&Flow::new(from, to))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its thread may have panicked: then there is nobody to tell.
        let _told = self.stop.take().map(|stop| stop.send(()));
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

impl World {
    fn random(&self) -> fastrand::Rng {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.fork()
    }
}

async fn listen(listener: TcpListener, id: String, port: u16, world: World) {
    loop {
        let Ok((dialler, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = world.places.clone().try_acquire_owned() else {
            reset(dialler);
            continue;
        };
        let (id, world) = (id.clone(), world.clone());
        tokio::spawn(async move {
            connect(dialler, id, port, world).await;
            drop(place);
        });
    }
}

/// Serves one connection to its end.
async fn connect(mut dialler: TcpStream, to: String, port: u16, world: World) {
    let Ok(Ok((from, first))) = timeout(HELLO_TIMEOUT, hello(&mut dialler)).await else {
        return;
    };
    let (forth, back) = (Flow::new(&from, &to), Flow::new(&to, &from));
    // A node that cannot be reached does not even see that somebody tries.
    let mut rules = world.rules.subscribe();
    let was_swallowed = rules.borrow().of(&forth) == Rule::Swallow;
    let waited = rules.wait_for(|rules| !rules.of(&forth).hides()).await;
    let is_cut = |rules: &Rules| {
        [&forth, &back]
            .map(|flow| rules.of(flow))
            .contains(&Rule::Cut)
    };
    if was_swallowed || waited.map_or(true, |rules| is_cut(&rules)) {
        return reset(dialler);
    }
    let Ok(mut node) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return reset(dialler);
    };
    // Small frames must not wait for each other; a socket that refuses is as good as closed.
    let _closed = (dialler.set_nodelay(true), node.set_nodelay(true));
    world.traffic.add(&forth, |count| count.connections += 1);
    let ended = {
        let (dialler_read, dialler_write) = dialler.split();
        let (node_read, node_write) = node.split();
        let forth = Pump {
            flow: forth.clone(),
            reverse: back.clone(),
            rules: world.rules.subscribe(),
            traffic: world.traffic.clone(),
            random: world.random(),
        };
        let back = Pump {
            flow: back,
            reverse: forth.flow.clone(),
            random: world.random(),
            ..forth.clone()
        };
        tokio::try_join!(
            pump(forth, first, dialler_read, node_write),
            pump(back, Bytes::new(), node_read, dialler_write),
        )
    };
    if let Err(Reset) = ended {
        reset(dialler);
        reset(node);
    }
}

/// Reads who dials, and gives back all that was read.
async fn hello(dialler: &mut TcpStream) -> std::io::Result<(String, Bytes)> {
    let decoder = FrameDecoder::new(HANDSHAKE_FRAME_BYTES_MAX);
    let mut read = BytesMut::with_capacity(HANDSHAKE_FRAME_BYTES_MAX);
    loop {
        if dialler.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let from = match decoder.next(&mut read.clone()) {
            Ok(None) => continue,
            Ok(Some(frame)) => match Request::decode(frame.header.kind, &frame.body) {
                Ok(Request::Hello(hello)) => hello.peer.map(|peer| peer.node_id.to_string()),
                _ => None,
            },
            // No frame of ours: the node will say so.
            Err(_) => None,
        };
        let from = from.unwrap_or_else(|| CLIENTS.to_owned());
        return Ok((from, read.freeze()));
    }
}

/// Closes a connection so that the other end sees it broken and not ended.
fn reset(stream: TcpStream) {
    // When this fails it is closed in the usual way.
    let _refused = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
