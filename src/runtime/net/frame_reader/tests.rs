use std::pin::Pin;
use std::task::{Context, Poll};

use dynakv_protocol::frame::{Header, put_frame};
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;

use super::*;

const KIB: usize = 1024;

fn ledger(bytes_max: usize) -> Arc<Ledger> {
    Arc::new(Ledger::new(bytes_max))
}

fn reader(ledger: &Arc<Ledger>) -> (FrameReader, DuplexStream) {
    let (near, far) = tokio::io::duplex(64 * KIB);
    let intake = Intake {
        malformed: Counter::noop(),
        ledger: ledger.clone(),
    };
    let reader = FrameReader::new(Box::new(near), FRAME_BYTES_MAX, intake, Source::Client);
    (reader, far)
}

fn frame(id: u64, bytes: usize) -> BytesMut {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(0x10, id), |out| {
        out.resize(out.len() + bytes, 7);
    });
    out
}

/// Reads to the end; how many frames came, and why it ended.
fn read_all(mut reader: FrameReader) -> JoinHandle<(usize, Option<ReadError>)> {
    tokio::spawn(async move {
        let mut frames = 0;
        loop {
            match reader.read_frames(&mut |_| frames += 1).await {
                Ok(true) => {}
                Ok(false) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    })
}

async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test]
async fn http_is_told_from_other_garbage() {
    for (sent, expected) in [
        ("GET / HTTP/1.1\r\n", true),
        ("OPTIONS * HTTP/1.1", true),
        ("GETTING", false),
        ("\u{7f}\u{7f}\u{7f}\u{7f}", false),
    ] {
        let (mut reader, mut far) = reader(&ledger(1 << 20));
        far.write_all(sent.as_bytes()).await.unwrap();
        let error = reader.next_frame().await.unwrap_err();
        assert_eq!(error.is_http(), expected, "{sent}");
    }
}

#[tokio::test]
async fn what_comes_in_is_in_the_books_until_it_is_gone() {
    let ledger = ledger(1 << 20);
    let (mut reader, mut far) = reader(&ledger);
    let sent = frame(1, 20 * KIB);
    far.write_all(&sent[..15 * KIB]).await.unwrap();
    let mut frames = Vec::new();
    let mut take = |frame| frames.push(frame);
    let mut read = Box::pin(reader.read_frames(&mut take));
    assert!(futures_pending(&mut read).await);
    assert_eq!(ledger.held(Kind::ClientReceiving), 15 * KIB);
    far.write_all(&sent[15 * KIB..]).await.unwrap();
    assert!(read.await.unwrap());
    assert_eq!(ledger.held(Kind::ClientReceiving), 0);
    assert_eq!(ledger.held(Kind::ClientRequests), sent.len());
    let key = frames.remove(0).body.slice(7..9);
    assert_eq!(ledger.held(Kind::ClientRequests), sent.len());
    drop(key);
    assert_eq!(ledger.held(Kind::ClientRequests), 0);
    far.write_all(&sent[..12 * KIB]).await.unwrap();
    let mut take = |_| {};
    let mut read = Box::pin(reader.read_frames(&mut take));
    assert!(futures_pending(&mut read).await);
    assert_eq!(ledger.held(Kind::ClientReceiving), 12 * KIB);
    drop(read);
    drop(reader);
    assert_eq!(ledger.held(Kind::ClientReceiving), 0);
}

/// Whether it still waits after everything else has settled.
async fn futures_pending(future: &mut (impl Future + Unpin)) -> bool {
    let polled = tokio::time::timeout(Duration::from_millis(50), future).await;
    polled.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_get_on_is_given_up_and_a_slow_one_is_not() {
    let ledger = ledger(64 << 20);
    let (stalling, mut stalled) = reader(&ledger);
    let (trickling, mut trickled) = reader(&ledger);
    let (slow, mut slowly) = reader(&ledger);
    let (idle, idly) = reader(&ledger);
    let ends = [stalling, trickling, slow, idle].map(read_all);
    let sent = frame(1, 2000 * KIB);
    stalled.write_all(&sent[..1000]).await.unwrap();
    for second in 0..300_usize {
        // A byte each second, and as much as is asked for.
        let _ended = trickled.write_all(&sent[second..=second]).await;
        let at = (second * 40 * KIB).min(sent.len());
        let to = (at + 40 * KIB).min(sent.len());
        slowly.write_all(&sent[at..to]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    drop((idly, slowly));
    let [stalling, trickling, slow, idle] = ends;
    let is_stalled = |end| matches!(end, (0, Some(ReadError::Stalled { .. })));
    assert!(is_stalled(stalling.await.unwrap()) && is_stalled(trickling.await.unwrap()));
    assert!(matches!(slow.await.unwrap(), (1, None)));
    assert!(matches!(idle.await.unwrap(), (0, None)));
    assert_eq!(ledger.held(Kind::ClientReceiving), 0);
}

/// However many begin large frames and leave them, they hold what they may together; small frames get
/// through at once, and a large one in its turn.
#[tokio::test(start_paused = true)]
async fn frames_that_are_left_unfinished_hold_no_more_than_they_may() {
    let ledger = ledger(8 << 20);
    let sent = frame(1, 1000 * KIB);
    let mut abandoned = Vec::new();
    for _ in 0..50 {
        let (reader, mut far) = reader(&ledger);
        let end = read_all(reader);
        let part = sent[..900 * KIB].to_vec();
        let write = tokio::spawn(async move {
            let _ended = far.write_all(&part).await;
            far
        });
        abandoned.push((end, write));
    }
    settle().await;
    let most = ledger.bytes_max(Kind::ClientReceiving) + 50 * (UNASKED_BYTES + READ_BYTES);
    assert!(ledger.is_full(Kind::ClientReceiving));
    assert!(ledger.held(Kind::ClientReceiving) <= most);
    let (small, mut far) = reader(&ledger);
    let small = read_all(small);
    far.write_all(&frame(2, 100)).await.unwrap();
    drop(far);
    settle().await;
    assert!(small.is_finished());
    // Those that came before make room once they have not got on for a while.
    sleep(Duration::from_millis(500)).await;
    let (large, mut far) = reader(&ledger);
    let large = read_all(large);
    far.write_all(&sent).await.unwrap();
    drop(far);
    assert!(matches!(large.await.unwrap(), (1, None)));
    assert!(ledger.held(Kind::ClientReceiving) <= most);
    drop(abandoned);
}

/// A socket that always has more to read, and counts what was taken.
struct Endless(Arc<AtomicUsize>);

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let bytes = into.remaining().min(READ_BYTES);
        into.put_slice(&vec![7; bytes]);
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        assert!(before < 1 << 30, "nobody else gets a turn");
        Poll::Ready(Ok(()))
    }
}

fn endless(begin: &[u8]) -> (FrameReader, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let socket = std::io::Cursor::new(begin.to_vec()).chain(Endless(taken.clone()));
    let intake = Intake {
        malformed: Counter::noop(),
        ledger: ledger(1 << 30),
    };
    let reader = FrameReader::new(Box::new(socket), FRAME_BYTES_MAX, intake, Source::Client);
    (reader, taken)
}

/// What a connection has to be hung up on for, and the rest of a large frame, may be there as a whole. The others
/// have their turn after each piece of it.
#[tokio::test]
async fn a_socket_that_has_much_does_not_keep_the_others_waiting() {
    let (mut thrown_away, taken) = endless(&[]);
    let discard = tokio::spawn(async move { thrown_away.discard().await });
    yield_now().await;
    assert!((1..=2 * READ_BYTES).contains(&taken.load(Ordering::Relaxed)));
    discard.abort();

    let large = frame(1, FRAME_BYTES_MAX / 2);
    let (reader, taken) = endless(&large[..UNASKED_BYTES]);
    let read = read_all(reader);
    yield_now().await;
    yield_now().await;
    assert!((1..=3 * READ_BYTES).contains(&taken.load(Ordering::Relaxed)));
    read.abort();
}
