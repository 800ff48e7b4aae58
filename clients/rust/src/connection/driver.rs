//! The task that owns a connection's socket: one half writes, one reads, and a third part watches for a node that has
//! stopped answering.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::frame::{FrameDecoder, split_batch};
use dynakv_protocol::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::sleep;

use super::shared::Shared;
use crate::unasked::{connection_error, goaway};

/// A read asks for at least this much room, so that one system call brings many answers.
const READ_BYTES_MIN: usize = 16 * 1024;

/// And at most for this much, whatever the length field of a frame claims.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// A write buffer that has grown beyond this is given back.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// How often the connection is looked at while somebody waits on it. The looks are counted and not the
/// time, so that a pause of this process is not held against the node.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// After how many looks without a byte from the node it is taken for dead. At the first it is pinged,
/// and a node answers a ping whatever its requests wait for, so slow requests do no harm.
const SILENT_LOOKS_MAX: u64 = 5;

/// One look more for each of these bytes that are on their way to the node: over a slow line the ping
/// arrives behind them.
const LOOK_BYTES: u64 = 256 * 1024;

/// Owns the socket until it fails or the connection is dropped.
pub(super) async fn drive(
    shared: Arc<Shared>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: BytesMut,
) {
    // Reading first: what has come counts before the watch looks.
    let reason = tokio::select! {
        biased;
        reason = read_answers(&shared, reader, buffer) => reason,
        reason = write_requests(&shared, writer) => reason,
        reason = watch(&shared) => reason,
    };
    shared.close(reason);
}

async fn write_requests(shared: &Shared, mut writer: OwnedWriteHalf) -> Arc<str> {
    let mut chunk = BytesMut::new();
    loop {
        if shared.take_outgoing(&mut chunk) {
            let bytes = chunk.len() as u64;
            shared.unanswered_bytes.fetch_add(bytes, Ordering::Relaxed);
            if let Err(error) = writer.write_all(&chunk).await {
                return error.to_string().into();
            }
            chunk.clear();
            if chunk.capacity() > SPARE_BYTES_MAX {
                chunk = BytesMut::new();
            }
        } else if let Some(reason) = shared.lock().closed.clone() {
            return reason;
        } else {
            shared.to_write.notified().await;
        }
    }
}

/// Ends when the node says nothing for so long, although it is asked, that it must be dead, stopped, or
/// behind a cut. A request that merely takes long does not look like that: the ping is answered.
async fn watch(shared: &Shared) -> Arc<str> {
    let mut silent_looks = 0;
    let mut reads_before = shared.reads.load(Ordering::Relaxed);
    loop {
        if !shared.is_watched() {
            shared.to_watch.notified().await;
            silent_looks = 0;
            reads_before = shared.reads.load(Ordering::Relaxed);
        }
        sleep(LOOK_INTERVAL).await;
        let reads = shared.reads.load(Ordering::Relaxed);
        if reads != reads_before {
            reads_before = reads;
            silent_looks = 0;
            continue;
        }
        silent_looks += 1;
        let on_their_way = shared.unanswered_bytes.load(Ordering::Relaxed);
        if silent_looks == 1 {
            shared.ping();
        } else if silent_looks >= SILENT_LOOKS_MAX + on_their_way / LOOK_BYTES {
            return "the node has stopped answering".into();
        }
    }
}

async fn read_answers(
    shared: &Shared,
    mut reader: OwnedReadHalf,
    mut buffer: BytesMut,
) -> Arc<str> {
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut answers = Vec::new();
    loop {
        let damage = loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => match split_batch(frame, |item| answers.push(item)) {
                    Ok(()) => {}
                    Err(error) => break Some(error),
                },
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let ended = answers.iter().find_map(connection_error);
        let goaway = answers.iter().find_map(goaway);
        shared.complete(&mut answers);
        if let Some(goaway) = goaway {
            shared.leave(&goaway);
        }
        if let Some(error) = damage {
            return format!("the node sent garbage: {error}").into();
        }
        if let Some(reply) = ended {
            return reply.to_string().into();
        }
        let room = decoder.lacking(&buffer);
        buffer.reserve(room.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return "closed by the node".into(),
            Ok(_) => {
                shared.reads.fetch_add(1, Ordering::Relaxed);
                shared.unanswered_bytes.store(0, Ordering::Relaxed);
            }
            Err(error) => return error.to_string().into(),
        }
    }
}
