//! The audit's log: every write that was begun, and how it ended, in lines that people can read.
//!
//! ```text
//! 9a3b04f1 audit 1 run 00c4d1a2b3f40519 keys 1000
//! 51f0c2aa begun 0.001734 17/0 put after nothing
//! 0c77e1d2 begun 0.001790 21/0 put blind
//! 3bb9a0f1 begun 0.001811 22/0 put alone
//! 7d20aa19 ended 0.004212 17/0 acknowledged
//! 60b1f4e8 begun 0.005001 17/1 delete after 0@064197ff18d1be1d:1
//! ```
//!
//! Each line begins with a checksum over the rest of it. `17/1` is the write number 1 of the key number
//! 17; the times are seconds since the audit began; `after` lists what the client had read: writes of the
//! same key, each with the dot it was shown with. `alone` is a blind write of a key that only this client
//! writes, only so, and one write after the other. A write is on its way only after its first line was handed to the operating system, and
//! counts as acknowledged only after its second one is on disk: one thread writes all that waits and
//! syncs once for it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dynakv_protocol::Actor;
use dynakv_protocol::causal::Dot;
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::xxh3_64;

use super::value::{Before, RunId, Shown, WriteName};
use crate::history::Outcome;

/// How many lines may wait for the thread.
const WAITING_MAX: usize = 4096;

/// Far longer than any line.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// The first line.
    Audit { run: RunId, keys: u32 },
    /// A write is about to be sent.
    Begun {
        at: Duration,
        name: WriteName,
        is_delete: bool,
        before: Before,
        /// A blind write of a key that only its client writes, each time so.
        is_alone: bool,
    },
    /// It is known how it ended, or that nobody knows.
    Ended {
        at: Duration,
        name: WriteName,
        outcome: Outcome,
    },
}

/// The log cannot be written any more: nothing may be counted as acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot write to the log {}: {source}", path.display())]
pub(super) struct LogError {
    path: PathBuf,
    source: Arc<io::Error>,
}

/// Hands lines to the thread that writes them.
#[derive(Debug, Clone)]
pub(super) struct Log {
    path: Arc<Path>,
    lines: mpsc::Sender<Line>,
}

#[derive(Debug)]
struct Line {
    text: String,
    must_be_durable: bool,
    done: oneshot::Sender<Result<(), Arc<io::Error>>>,
}

impl Log {
    /// Creates a log, which must not exist yet.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn create(path: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError {
            path: path.to_owned(),
            source: Arc::new(source),
        };
        let file = File::create_new(path).map_err(failed)?;
        // The name must be as durable as the lines.
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new(".")));
        directory
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
        let (lines, waiting) = mpsc::channel(WAITING_MAX);
        let thread = thread::Builder::new().name("audit-log".to_owned());
        thread.spawn(|| write_all(file, waiting)).map_err(failed)?;
        Ok(Self {
            path: path.into(),
            lines,
        })
    }

    /// Adds a line. An end is on disk when this returns, a beginning is at least with the operating
    /// system.
    ///
    /// # Errors
    /// [`LogError`], from the first failure on for ever.
    pub(super) async fn add(&self, entry: &Entry) -> Result<(), LogError> {
        let (done, is_done) = oneshot::channel();
        let line = Line {
            text: encode(entry),
            must_be_durable: matches!(entry, Entry::Ended { .. }),
            done,
        };
        let ended = || Arc::new(io::Error::other("an earlier line could not be written"));
        let written = match self.lines.send(line).await {
            Ok(()) => is_done.await.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(ended()),
        };
        written.map_err(|source| LogError {
            path: self.path.to_path_buf(),
            source,
        })
    }
}

/// Writes and syncs in groups until nobody is left to ask, or until it fails: what a failed sync has
/// kept, nobody knows, so there is no second attempt.
fn write_all(mut file: File, mut waiting: mpsc::Receiver<Line>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while let Ok(next) = waiting.try_recv() {
            group.push(next);
        }
        let text: String = group.iter().map(|line| line.text.as_str()).collect();
        let written = file.write_all(text.as_bytes()).map_err(Arc::new);
        let (durable, others): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|line| line.must_be_durable);
        answer(others, &written);
        let synced = match written {
            Ok(()) if durable.is_empty() => Ok(()),
            Ok(()) => file.sync_data().map_err(Arc::new),
            Err(error) => Err(error),
        };
        answer(durable, &synced);
        if synced.is_err() {
            return;
        }
    }
}

fn answer(lines: Vec<Line>, result: &Result<(), Arc<io::Error>>) {
    for line in lines {
        let _nobody_waits = line.done.send(result.clone());
    }
}

fn encode(entry: &Entry) -> String {
    let body = match entry {
        Entry::Audit { run, keys } => format!("audit 1 run {run} keys {keys}"),
        Entry::Begun {
            at,
            name,
            is_delete,
            before,
            is_alone,
        } => {
            let what = if *is_delete { "delete" } else { "put" };
            let mut body = format!("begun {} {name} {what} ", seconds(*at));
            match before.as_deref() {
                None if *is_alone => body.push_str("alone"),
                None => body.push_str("blind"),
                Some([]) => body.push_str("after nothing"),
                Some(read) => {
                    for (index, Shown { write, dot }) in read.iter().enumerate() {
                        let between = if index == 0 { "after " } else { "," };
                        // Writing to a string cannot fail.
                        let _infallible = write!(body, "{between}{write}@{dot}");
                    }
                }
            }
            body
        }
        Entry::Ended { at, name, outcome } => {
            let outcome = match outcome {
                Outcome::Acknowledged => "acknowledged",
                Outcome::Unknown => "unknown",
                Outcome::NotApplied => "not-applied",
            };
            format!("ended {} {name} {outcome}", seconds(*at))
        }
    };
    format!("{:08x} {body}\n", checksum(&body))
}

fn seconds(at: Duration) -> String {
    format!("{}.{:06}", at.as_secs(), at.subsec_micros())
}

fn checksum(body: &str) -> u32 {
    // Half of the hash is enough against a torn line.
    xxh3_64(body.as_bytes()) as u32
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// What is torn at the end was never counted on; this was.
    #[error(
        "line {line} is damaged, and whole lines follow it: nothing can be proved with this log"
    )]
    Damaged { line: usize },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a log line by line.
pub(super) struct Entries<R> {
    input: R,
    line: usize,
    torn_bytes: usize,
}

impl<R: BufRead> Entries<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            torn_bytes: 0,
        }
    }

    /// How many bytes at the end are no line, once the end is reached: the audit died while it wrote.
    pub(super) fn torn_bytes(&self) -> usize {
        self.torn_bytes
    }

    /// The next line, decoded if it is whole; and its length, 0 at the end.
    fn read(&mut self) -> io::Result<(Option<Entry>, usize)> {
        let mut line = Vec::new();
        // A line that does not end is none, however long it gets.
        let length = (&mut self.input)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        Ok((decode(&line), length))
    }

    fn advance(&mut self) -> Result<Option<Entry>, ReadError> {
        self.line += 1;
        let (entry, length) = self.read()?;
        if entry.is_some() || length == 0 {
            return Ok(entry);
        }
        self.torn_bytes = length;
        loop {
            match self.read()? {
                (None, 0) => return Ok(None),
                (None, length) => self.torn_bytes += length,
                (Some(_), _) => return Err(ReadError::Damaged { line: self.line }),
            }
        }
    }
}

impl<R: BufRead> Iterator for Entries<R> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

fn decode(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, body) = line.split_once(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != checksum(body) {
        return None;
    }
    let words: Vec<&str> = body.split(' ').collect();
    match words[..] {
        ["audit", "1", "run", run, "keys", keys] => Some(Entry::Audit {
            run: run.parse().ok()?,
            keys: keys.parse().ok()?,
        }),
        ["begun", at, name, what, ref how @ ..] => Some(Entry::Begun {
            at: decode_seconds(at)?,
            name: decode_name(name)?,
            is_delete: match what {
                "put" => false,
                "delete" => true,
                _ => return None,
            },
            before: match how {
                ["blind"] | ["alone"] => None,
                ["after", "nothing"] => Some(Vec::new()),
                ["after", read] => Some(read.split(',').map(decode_shown).collect::<Option<_>>()?),
                _ => return None,
            },
            is_alone: *how == ["alone"],
        }),
        ["ended", at, name, outcome] => Some(Entry::Ended {
            at: decode_seconds(at)?,
            name: decode_name(name)?,
            outcome: match outcome {
                "acknowledged" => Outcome::Acknowledged,
                "unknown" => Outcome::Unknown,
                "not-applied" => Outcome::NotApplied,
                _ => return None,
            },
        }),
        _ => None,
    }
}

fn decode_name(text: &str) -> Option<WriteName> {
    let (key, write) = text.split_once('/')?;
    Some(WriteName {
        key: key.parse().ok()?,
        write: write.parse().ok()?,
    })
}

fn decode_shown(text: &str) -> Option<Shown> {
    let (write, dot) = text.split_once('@')?;
    let (actor, counter) = dot.split_once(':')?;
    let dot = Dot {
        actor: Actor(u64::from_str_radix(actor, 16).ok()?),
        counter: counter.parse().ok()?,
    };
    let write = write.parse().ok()?;
    Some(Shown { write, dot })
}

fn decode_seconds(text: &str) -> Option<Duration> {
    let (seconds, micros) = text.split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    let nanos = micros.parse::<u32>().ok()?.checked_mul(1000)?;
    (nanos < 1_000_000_000).then_some(())?;
    Some(Duration::new(seconds.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: WriteName = WriteName { key: 17, write: 1 };

    fn samples() -> Vec<Entry> {
        let shown = |write, counter| Shown {
            write,
            dot: Dot {
                actor: Actor(0xab),
                counter,
            },
        };
        let begun = |is_delete, before| Entry::Begun {
            at: Duration::from_micros(1_000_234),
            name: NAME,
            is_delete,
            before,
            is_alone: false,
        };
        let ended = |outcome| Entry::Ended {
            at: Duration::from_micros(5),
            name: NAME,
            outcome,
        };
        vec![
            Entry::Audit {
                run: RunId(0xabc),
                keys: 1000,
            },
            begun(false, None),
            Entry::Begun {
                at: Duration::from_micros(7),
                name: NAME,
                is_delete: true,
                before: None,
                is_alone: true,
            },
            begun(true, Some(vec![])),
            begun(false, Some(vec![shown(3, 1), shown(5, u64::MAX)])),
            ended(Outcome::Acknowledged),
            ended(Outcome::Unknown),
            ended(Outcome::NotApplied),
        ]
    }

    fn text() -> Vec<u8> {
        let lines: String = samples().iter().map(encode).collect();
        lines.into_bytes()
    }

    fn read(text: &[u8]) -> Result<(Vec<Entry>, usize), ReadError> {
        let mut reader = Entries::new(text);
        let entries = reader.by_ref().collect::<Result<_, _>>()?;
        Ok((entries, reader.torn_bytes()))
    }

    #[test]
    fn lines_come_back_as_they_were_and_can_be_read() {
        assert_eq!(read(&text()).unwrap(), (samples(), 0));
        let text = String::from_utf8(text()).unwrap();
        assert!(
            text.contains(" begun 1.000234 17/1 put after 3@00000000000000ab:1,5@"),
            "{text}"
        );
        assert!(
            text.contains(" ended 0.000005 17/1 acknowledged\n"),
            "{text}"
        );
    }

    #[test]
    fn a_log_may_end_anywhere() {
        let text = text();
        for length in 0..text.len() {
            let (entries, torn_bytes) = read(&text[..length]).unwrap();
            let whole = entries.len();
            assert_eq!(entries, samples()[..whole]);
            let lines: usize = samples()[..whole].iter().map(|e| encode(e).len()).sum();
            assert_eq!(lines + torn_bytes, length);
        }
        let mut zeros = text.clone();
        zeros.extend([0; 200_000]);
        assert_eq!(read(&zeros).unwrap(), (samples(), 200_000));
    }

    #[test]
    fn damage_before_the_end_is_an_error() {
        let text = text();
        let last = encode(samples().last().unwrap()).len();
        // The last line break but one is left out: without it the two last lines are one torn one.
        for index in 0..text.len() - last - 1 {
            let mut damaged = text.clone();
            damaged[index] ^= 1;
            let error = read(&damaged).unwrap_err();
            assert!(matches!(error, ReadError::Damaged { .. }), "at {index}");
        }
    }

    #[test]
    fn an_end_is_in_the_file_when_it_was_added() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        runtime.block_on(async {
            let log = Log::create(&path).unwrap();
            for entry in samples() {
                log.add(&entry).await.unwrap();
            }
        });
        assert_eq!(std::fs::read(&path).unwrap(), text());
        assert!(
            Log::create(&path).is_err(),
            "another audit's log is not overwritten"
        );
    }
}
