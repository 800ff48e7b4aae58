//! One data connection to another node, from the dial to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::NodeId;
use dynakv_protocol::frame::{FrameDecoder, Header, put_frame};
use dynakv_protocol::handshake::{Hello, Welcome};
use dynakv_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX};
use dynakv_protocol::message::{Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::frame_reader::{FrameReader, Intake, Source};
use crate::engine::counters::Impossible;
use crate::engine::membership::generations::{Process, Sighting};
use crate::engine::placement::preference::NodeSlot;
use crate::runtime::shared::environment::{Network, WriteHalf};
use crate::runtime::shared::events::{CoordinatorEvent, CoordinatorSender, Epoch};
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::ledger::Kind;
use crate::runtime::shared::outbox::Outbox;

/// How long dialling and shaking hands may take together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom to dial, and as what.
#[derive(Debug, Clone)]
pub struct Target {
    /// Who should answer there.
    pub node_id: NodeId,
    /// `host:port`.
    pub address: String,
    /// What to say first.
    pub hello: Hello,
    /// What was seen of the nodes.
    pub seen: Arc<KnownProcesses>,
    /// Into what answers are taken.
    pub intake: Intake,
}

/// Why a node could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection, or it broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It did not answer in time.
    #[error("no answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
    /// It refused.
    #[error("refused: {0}")]
    Refused(dynakv_protocol::ErrorReply),
    /// What answers there is no dynakv node, or ended the connection.
    #[error("not a dynakv node: {0}")]
    Malformed(String),
    /// A process answers there that says it was started more often than any can be.
    #[error("{node} answers there and says what cannot be: {impossible}")]
    Impossible {
        /// The node that says so.
        node: NodeId,
        /// What cannot be.
        impossible: Impossible,
    },
    /// A process answers there that is older than one that was seen of its node.
    #[error(
        "an old run of {node} answers there, or one on an old copy of its data directory; it is told so \
         when it dials"
    )]
    Outdated {
        /// The node whose run is known to be over.
        node: NodeId,
    },
    /// What was seen could not be noted.
    #[error(transparent)]
    Disk(#[from] dynakv_storage::StoreError),
    /// Another node answers there.
    #[error("{found} answers there, not {expected}")]
    AnotherNode {
        /// Who should.
        expected: NodeId,
        /// Who does.
        found: NodeId,
    },
}

/// A connection over which hands were shaken.
pub struct Greeted {
    /// Takes what comes.
    pub reader: FrameReader,
    /// Takes what goes.
    pub write: WriteHalf,
    /// What the node said of itself.
    pub welcome: Welcome,
    /// When that came.
    pub since: Instant,
}

/// Dials and shakes hands, as any side may. What answers there is taken at its word, and nothing is kept of it.
/// What comes over the connection is entered in `intake`.
///
/// # Errors
/// [`DialError`].
pub async fn greet(
    network: &dyn Network,
    address: &str,
    hello: &Hello,
    intake: &Intake,
) -> Result<Greeted, DialError> {
    let (read, mut write) = network.dial(address).await?;
    let request = Request::Hello(hello.clone());
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(request.kind(), 0), |out| {
        request.encode(out);
    });
    write.write_all(&out).await?;
    let mut reader = FrameReader::new(
        read,
        HANDSHAKE_FRAME_BYTES_MAX,
        intake.clone(),
        Source::Node,
    );
    let frame = match reader.next_frame().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(DialError::Malformed("it closed the connection".into())),
        Err(error) => return Err(DialError::Malformed(error.to_string())),
    };
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::Welcome(welcome)) => Ok(Greeted {
            reader,
            write,
            welcome,
            since: Instant::now(),
        }),
        Ok(Response::Error(error)) => Err(DialError::Refused(error)),
        Ok(_) => Err(DialError::Malformed("no welcome".into())),
        Err(error) => Err(DialError::Malformed(error.to_string())),
    }
}

/// Dials and shakes hands. A newer run of the node there than was seen before is durable when this returns: a
/// member that is called where it is known to be need not be asked whether it is itself.
/// What comes over the connection is entered in `intake`.
///
/// # Errors
/// [`DialError`].
pub async fn dial(
    network: &dyn Network,
    address: &str,
    hello: &Hello,
    seen: &KnownProcesses,
    intake: &Intake,
) -> Result<Greeted, DialError> {
    let handshake = async {
        let greeted = greet(network, address, hello, intake).await?;
        match seen.see(&Process::from(&greeted.welcome))? {
            Sighting::Known | Sighting::News => Ok(greeted),
            Sighting::Outdated => Err(DialError::Outdated {
                node: greeted.welcome.node_id,
            }),
            Sighting::Impossible(impossible) => Err(DialError::Impossible {
                node: greeted.welcome.node_id,
                impossible,
            }),
        }
    };
    timeout(DIAL_TIMEOUT, handshake)
        .await
        .map_err(|_| DialError::Timeout)?
}

/// Dials a node and carries its frames to the coordinator until the connection ends.
pub async fn run(
    network: Arc<dyn Network>,
    node: NodeSlot,
    epoch: Epoch,
    target: Target,
    coordinator: CoordinatorSender,
) {
    let reason = match connect_and_read(&*network, node, epoch, target, &coordinator).await {
        Ok(()) => "the connection ended".to_owned(),
        Err(error) => error.to_string(),
    };
    let down = CoordinatorEvent::LinkDown {
        node,
        epoch,
        reason,
    };
    // A coordinator that is gone needs no telling.
    let _ = coordinator.send(down).await;
}

async fn connect_and_read(
    network: &dyn Network,
    node: NodeSlot,
    epoch: Epoch,
    target: Target,
    coordinator: &CoordinatorSender,
) -> Result<(), DialError> {
    let Target {
        address,
        hello,
        seen,
        intake,
        ..
    } = &target;
    let dialled = dial(network, address, hello, seen, intake);
    let Greeted {
        mut reader,
        write,
        welcome,
        since,
    } = dialled.await?;
    if welcome.node_id != target.node_id {
        return Err(DialError::AnotherNode {
            expected: target.node_id,
            found: welcome.node_id,
        });
    }
    reader.decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let ledger = intake.ledger.clone();
    let outbox = Arc::new(Outbox::counted(ledger, Kind::NodeRequests));
    let up = CoordinatorEvent::LinkUp {
        node,
        epoch,
        outbox: outbox.clone(),
        since,
    };
    if coordinator.send(up).await.is_err() {
        return Ok(());
    }
    let result = tokio::select! {
        biased;
        read = read_answers(&mut reader, node, epoch, coordinator) => read,
        written = outbox.write_to(write) => written.map_err(DialError::from),
    };
    outbox.close();
    result
}

async fn read_answers(
    reader: &mut FrameReader,
    node: NodeSlot,
    epoch: Epoch,
    coordinator: &CoordinatorSender,
) -> Result<(), DialError> {
    loop {
        let mut frames = Vec::new();
        let more = reader
            .read_frames(&mut |frame| frames.push(frame))
            .await
            .map_err(|error| DialError::Malformed(error.to_string()))?;
        if !frames.is_empty() {
            let answers = CoordinatorEvent::LinkFrames {
                node,
                epoch,
                frames,
            };
            if coordinator.send(answers).await.is_err() {
                return Ok(());
            }
        }
        if !more {
            return Ok(());
        }
    }
}
