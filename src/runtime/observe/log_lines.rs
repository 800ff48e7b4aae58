//! Log lines on their way to standard error: diagnostics neither end nor block a node.
//!
//! Standard error may be a file on a full disk, a pipe that nobody empties, or one whose reader has gone. So
//! whoever logs only puts the line into a queue that is bounded in bytes, and a thread of its own writes it.
//! A line that finds no room, or that is not taken, is dropped and counted, and the next one that is written is
//! preceded by how many are lacking.
//!
//! The log belongs to the process, not to a node: so do the counters.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{Event, Level, Subscriber, callsite};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};

use crate::engine::log_pace::{LogPace, Verdict};

/// How many bytes of lines may wait. One line that is longer is dropped.
pub const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// How long the thread waits before it tries again to write to a descriptor that somebody else has made
/// non-blocking, and that is full.
const FULL_PAUSE: Duration = Duration::from_millis(20);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// How many lines of this process could not be written, since it began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// How many were left out because their place of the program had too many.
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line for people.
    Text,
    /// A JSON document a line.
    Json,
}

/// The queue. Clones are the same one.
#[derive(Debug, Clone)]
pub struct LogLines {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    form: Form,
    queue: Mutex<Queue>,
    arrived: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Whether the thread has some in hand.
    is_writing: bool,
    /// How many found no room behind them.
    lacking: u64,
}

impl LogLines {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn to_stderr(form: Form) -> io::Result<Self> {
        Self::start(form, io::stderr)
    }

    /// Starts a thread that writes to what `open` gives, anew for each list of lines.
    fn start<W: Write>(form: Form, open: impl Fn() -> W + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            form,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            written: Condvar::new(),
        });
        let theirs = shared.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || theirs.run(open))?;
        Ok(Self { shared })
    }

    /// Hands over one line, which ends with a newline. Never waits for whoever reads the log.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.waiting.len() + line.len() > WAITING_BYTES_MAX {
            queue.lacking += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.waiting.extend_from_slice(line);
        drop(queue);
        self.shared.arrived.notify_one();
    }

    /// A line of the log's own.
    fn note(&self, level: &str, message: &str) {
        self.push(self.shared.form.line(level, message).as_bytes());
    }

    /// Waits until all that was handed over is written, or this time is over.
    pub fn flush(&self, timeout: Duration) {
        let queue = self.shared.queue();
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.waiting.is_empty();
        // Whoever is late is left behind.
        let _ = self
            .shared
            .written
            .wait_timeout_while(queue, timeout, is_busy);
    }
}

impl Shared {
    /// A panic of another thread leaves whole lines.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<W: Write>(&self, open: impl Fn() -> W) {
        let mut lines = Vec::new();
        let mut end = End::default();
        loop {
            let queue = self.queue();
            let mut queue = self
                .arrived
                .wait_while(queue, |queue| queue.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut queue.waiting, &mut lines);
            let lacking = std::mem::take(&mut queue.lacking);
            queue.is_writing = true;
            drop(queue);
            end.write(self.form, &mut open(), &lines);
            end.lacking += lacking;
            lines.clear();
            self.queue().is_writing = false;
            self.written.notify_all();
        }
    }
}

/// How what was written before has ended.
#[derive(Debug, Default)]
struct End {
    /// Lines that found no room, or were not taken, since the last that was.
    lacking: u64,
    is_in_a_line: bool,
}

impl End {
    fn write(&mut self, form: Form, to: &mut impl Write, lines: &[u8]) {
        let mut head = Vec::new();
        if self.is_in_a_line {
            head.push(b'\n');
        }
        if self.lacking > 0 {
            head.extend_from_slice(form.lacking(self.lacking).as_bytes());
        }
        let (taken, outcome) = write_all(to, &head);
        if taken > 0 {
            self.is_in_a_line = head[taken - 1] != b'\n';
        }
        if outcome.is_err() {
            return self.lose(lines);
        }
        self.lacking = 0;
        let (taken, outcome) = write_all(to, lines);
        if taken > 0 {
            self.is_in_a_line = lines[taken - 1] != b'\n';
        }
        if outcome.is_err() {
            self.lose(&lines[taken..]);
        }
    }

    fn lose(&mut self, lines: &[u8]) {
        let count = lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.lacking += count;
        DROPPED.fetch_add(count, Ordering::Relaxed);
    }
}

/// Writes all of it, or as much as is taken.
fn write_all(to: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match to.write(&bytes[taken..]) {
            Ok(0) => return (taken, Err(ErrorKind::WriteZero.into())),
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

impl Form {
    fn lacking(self, lines: u64) -> String {
        self.line(
            "WARN",
            &format!("{lines} lines are lacking here: standard error did not take them"),
        )
    }

    /// As the other lines look. The message is the log's own, and needs no escapes.
    fn line(self, level: &str, message: &str) -> String {
        let time = humantime::format_rfc3339_micros(SystemTime::now());
        let target = module_path!();
        match self {
            Self::Text => format!("{time} {level:>5} {target}: {message}\n"),
            Self::Json => format!(
                "{{\"timestamp\":\"{time}\",\"level\":\"{level}\",\"message\":\"{message}\",\
                 \"target\":\"{target}\"}}\n"
            ),
        }
    }
}

/// One line while it is formatted.
#[derive(Debug)]
pub struct Line<'a> {
    lines: &'a LogLines,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.lines.push(&self.bytes);
        }
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            bytes: Vec::new(),
        }
    }
}

/// Leaves out what a place of the program logs too often. Who asks for more than the usual levels gets all of
/// those.
#[derive(Debug)]
pub struct Paced {
    lines: LogLines,
    began: Instant,
    places: Mutex<HashMap<callsite::Identifier, LogPace>>,
}

impl Paced {
    /// For the lines of this queue.
    pub fn new(lines: LogLines) -> Self {
        Self {
            lines,
            began: Instant::now(),
            places: Mutex::default(),
        }
    }
}

impl<S: Subscriber> Layer<S> for Paced {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let place = event.metadata();
        if *place.level() > Level::INFO {
            return true;
        }
        let now = self.began.elapsed();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = places.entry(place.callsite()).or_default().take(now);
        drop(places);
        let name = || {
            format!(
                "{}:{}",
                place.file().unwrap_or_default(),
                place.line().unwrap_or_default()
            )
        };
        match verdict {
            Verdict::Written { left_out: 0 } => true,
            Verdict::Written { left_out } => {
                let message = format!("{left_out} lines of {} were left out", name());
                self.lines.note("INFO", &message);
                true
            }
            Verdict::FirstLeftOut => {
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                let message = format!(
                    "too many lines of {}: further ones are left out, but for one a second \
                     (dynakv_log_lines_left_out_total counts them)",
                    name()
                );
                self.lines.note("WARN", &message);
                false
            }
            Verdict::LeftOut => {
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// What takes lines, or doesn't, as the test says.
    #[derive(Debug, Clone, Default)]
    struct Reader(Arc<Mutex<Taking>>);

    #[derive(Debug, Default)]
    struct Taking {
        text: Vec<u8>,
        room: Option<usize>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taking = self.0.lock().unwrap();
            let count = taking.room.unwrap_or(bytes.len()).min(bytes.len());
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            taking.room = taking.room.map(|room| room - count);
            taking.text.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Reader {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().text.clone()).unwrap()
        }

        fn has_room(&self, room: Option<usize>) {
            self.0.lock().unwrap().room = room;
        }
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let reader = Reader::default();
        let theirs = reader.clone();
        let lines = LogLines::start(Form::Text, move || theirs.clone()).unwrap();
        for number in 0..1000 {
            lines.push(format!("{number}\n").as_bytes());
        }
        lines.flush(PATIENCE);
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(reader.text(), expected);
    }

    /// A full disk takes the beginning of a line, then nothing, then there is room again.
    #[test]
    fn what_was_not_taken_is_said_in_front_of_what_is() {
        let reader = Reader::default();
        let theirs = reader.clone();
        let lines = LogLines::start(Form::Json, move || theirs.clone()).unwrap();
        let push = |text: &str| {
            lines.push(text.as_bytes());
            lines.flush(PATIENCE);
        };
        reader.has_room(Some(6));
        let before = dropped();
        push("one\n");
        push("two\n");
        push("three\n");
        // Other tests of this process may drop lines, too.
        assert!(dropped() >= before + 2);
        reader.has_room(None);
        push("four\n");
        push("five\n");
        let text = reader.text();
        let (begin, rest) = text.split_at(7);
        assert_eq!(begin, "one\ntw\n");
        let (note, rest) = rest.split_once('\n').unwrap();
        let note: serde_json::Value = serde_json::from_str(note).unwrap();
        let message = note["message"].as_str().unwrap();
        assert!(message.starts_with("2 lines are lacking here"), "{note}");
        assert_eq!((&note["level"], rest), (&"WARN".into(), "four\nfive\n"));
    }

    /// Nobody reads: whoever logs goes on, and so does whoever ends; memory is bounded.
    #[test]
    fn a_reader_that_stands_still_holds_nobody_up() {
        let (go_on, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let reader = Reader::default();
        let theirs = reader.clone();
        let lines = LogLines::start(Form::Text, move || {
            let _gone = gate.lock().unwrap().recv();
            theirs.clone()
        })
        .unwrap();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let pushed = 3 * WAITING_BYTES_MAX / line.len();
        for _ in 0..pushed {
            lines.push(&line);
        }
        lines.flush(Duration::from_millis(10));
        assert_eq!(reader.text(), "");
        assert!(lines.shared.queue().waiting.len() <= WAITING_BYTES_MAX);
        // It reads again.
        drop(go_on);
        lines.flush(PATIENCE);
        lines.push(b"later\n");
        lines.flush(PATIENCE);
        let text = reader.text();
        let taken = text.matches("xxx\n").count();
        let lacking = format!("{} lines are lacking here", pushed - taken);
        assert!(
            taken < pushed && text.contains(&lacking),
            "{taken} of {pushed}"
        );
        assert!(text.ends_with("\nlater\n"));
    }

    #[test]
    fn a_place_that_logs_without_end_is_cut_short_and_the_others_are_not() {
        use tracing_subscriber::layer::SubscriberExt;
        let reader = Reader::default();
        let theirs = reader.clone();
        let lines = LogLines::start(Form::Text, move || theirs.clone()).unwrap();
        let written = tracing_subscriber::fmt::layer()
            .with_writer(lines.clone())
            .with_ansi(false)
            .log_internal_errors(false);
        let log = tracing_subscriber::registry()
            .with(Paced::new(lines.clone()))
            .with(written);
        let before = left_out();
        tracing::subscriber::with_default(log, || {
            for number in 0..10_000 {
                tracing::info!(number, "refused");
            }
            for number in 0..1000 {
                tracing::debug!(number, "asked for");
            }
            tracing::error!("damaged");
        });
        lines.flush(PATIENCE);
        let text = reader.text();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert!(
            (100..1000).contains(&count("refused")),
            "{}",
            count("refused")
        );
        assert_eq!((count("asked for"), count("damaged")), (1000, 1));
        assert!(text.contains("further ones are left out"), "{text}");
        assert!(left_out() >= before + 9000);
    }
}
