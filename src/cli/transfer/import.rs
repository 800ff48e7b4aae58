//! `import`: an export from standard input, merged key by key into a cluster.

use std::io::{self, BufReader, Read};
use std::time::Duration;

use dynakv_client::{Client, Error, ErrorCode};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::format::{Flaw, Header, Item, Lines, Trailer};
use super::progress::Progress;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Report, json_line};
use crate::cli::prompt::{Prompt, Session};

/// How many keys are under way at once.
const WINDOW_KEYS: usize = 128;

/// How many bytes of them, unless it is a single key.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// From here on a key travels alone: a node that takes no frame as large as that ends the connection,
/// which must not fail other keys.
const LARGE_BYTES: usize = 256 * 1024;

/// How many keys wait between the reader and the network.
const READ_AHEAD: usize = 16;

/// How often a key is sent before the import gives up.
const ATTEMPTS_MAX: u32 = 6;

/// How long the first pause between two attempts is; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(200);

/// `dynakv import`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct ImportArgs {
    /// How many replicas must have each key on disk [default: the node's]
    #[arg(short, value_name = "N")]
    w: Option<u8>,
    /// Only check that the export is whole and undamaged; nothing is sent
    #[arg(long)]
    pub(crate) check: bool,
}

/// What the reading thread hands over.
enum Piece {
    Item(Item),
    /// The file ends here, and is whole.
    End(Vec<Header>, Trailer),
    Flaw(Flaw),
}

/// How an import ended.
#[derive(Debug)]
struct Done {
    /// Keys that the cluster has for certain.
    imported: u64,
    end: Result<(Vec<Header>, Trailer), Failure>,
}

#[derive(Debug)]
enum Failure {
    Flaw(Flaw),
    /// A key could not be imported.
    Refused {
        line: u64,
        bytes: usize,
        error: Error,
    },
}

/// Checks standard input without a server.
pub(crate) fn check(format: Format) -> Report {
    report(
        &check_all(io::stdin().lock()),
        true,
        &Prompt::default(),
        format,
    )
}

fn check_all(input: impl Read) -> Done {
    let mut lines = Lines::new(BufReader::new(input));
    let mut checked = 0;
    let mut progress = Progress::start("checked");
    let end = loop {
        match lines.next_item() {
            Ok(Some(item)) => {
                checked += 1;
                progress.add(item.versions.len());
            }
            Ok(None) => break Ok(lines.summary()),
            Err(flaw) => break Err(Failure::Flaw(flaw)),
        }
    };
    Done {
        imported: checked,
        end,
    }
}

/// Merges standard input into the cluster.
pub(crate) async fn import(
    session: &Session,
    args: ImportArgs,
    format: Format,
) -> Result<Report, Error> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    // A thread, so that a slow pipe does not keep answers from being read. It ends with its input, or
    // when nobody takes its lines any more.
    std::thread::spawn(move || read_all(io::stdin().lock(), &sender));
    let done = send_all(&session.client, args.w, receiver).await;
    Ok(report(&done, false, &session.prompt(), format))
}

fn read_all(input: impl Read, sender: &mpsc::Sender<Piece>) {
    let mut lines = Lines::new(BufReader::new(input));
    let last = loop {
        match lines.next_item() {
            Ok(Some(item)) => {
                if sender.blocking_send(Piece::Item(item)).is_err() {
                    return;
                }
            }
            Ok(None) => {
                let (headers, totals) = lines.summary();
                break Piece::End(headers, totals);
            }
            Err(flaw) => break Piece::Flaw(flaw),
        }
    };
    // Nobody may be waiting any more.
    let _ = sender.blocking_send(last);
}

async fn send_all(client: &Client, w: Option<u8>, mut lines: mpsc::Receiver<Piece>) -> Done {
    let mut sending: JoinSet<(Item, Result<(), Error>)> = JoinSet::new();
    let mut bytes_waiting = 0;
    let mut imported = 0;
    let mut end = None;
    let mut failure: Option<Failure> = None;
    // A large one that waits until it can travel alone.
    let mut held: Option<Item> = None;
    let mut progress = Progress::start("imported");
    loop {
        if sending.is_empty()
            && failure.is_none()
            && let Some(item) = held.take()
        {
            bytes_waiting += weight(&item);
            sending.spawn(send(client.clone(), item, w));
        }
        let has_room =
            sending.is_empty() || (sending.len() < WINDOW_KEYS && bytes_waiting < WINDOW_BYTES);
        let reads = end.is_none() && failure.is_none() && held.is_none();
        tokio::select! {
            biased;
            Some(sent) = sending.join_next() => {
                let (item, result) = match sent {
                    Ok(sent) => sent,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                };
                bytes_waiting -= weight(&item);
                match result {
                    Ok(()) => {
                        imported += 1;
                        progress.add(item.versions.len());
                    }
                    Err(error) => {
                        let (line, bytes) = (item.line, item.versions.len());
                        note_refused(&mut failure, Failure::Refused { line, bytes, error });
                    }
                }
            }
            line = lines.recv(), if reads && has_room => match line {
                Some(Piece::Item(item)) if item.versions.len() > LARGE_BYTES => held = Some(item),
                Some(Piece::Item(item)) => {
                    bytes_waiting += weight(&item);
                    sending.spawn(send(client.clone(), item, w));
                }
                Some(Piece::End(headers, totals)) => end = Some((headers, totals)),
                Some(Piece::Flaw(flaw)) => failure = Some(Failure::Flaw(flaw)),
                None => {
                    let what = "the reading thread has ended".to_owned();
                    failure = Some(Failure::Flaw(Flaw { line: 0, what }));
                }
            },
            else => break,
        }
    }
    let end = match (failure, end) {
        (None, Some(end)) => Ok(end),
        (Some(failure), _) => Err(failure),
        // The loop ends with one of them.
        (None, None) => {
            let what = "the import ended before the file".to_owned();
            Err(Failure::Flaw(Flaw { line: 0, what }))
        }
    };
    Done { imported, end }
}

/// How much of the window a key takes: all of it, if it is large.
fn weight(item: &Item) -> usize {
    match item.versions.len() {
        bytes if bytes > LARGE_BYTES => WINDOW_BYTES,
        bytes => bytes,
    }
}

/// Keeps the failure of the lowest line: others were on their way when it failed.
fn note_refused(known: &mut Option<Failure>, refused: Failure) {
    let line = |failure: &Failure| match failure {
        Failure::Flaw(flaw) => flaw.line,
        Failure::Refused { line, .. } => *line,
    };
    if known
        .as_ref()
        .is_none_or(|known| line(&refused) < line(known))
    {
        *known = Some(refused);
    }
}

async fn send(client: Client, item: Item, w: Option<u8>) -> (Item, Result<(), Error>) {
    let mut pause = PAUSE;
    let mut attempt = 1;
    let result = loop {
        match client.import(&item.key, &item.versions, w).await {
            Ok(_) => break Ok(()),
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                tokio::time::sleep(pause).await;
                pause *= 2;
                attempt += 1;
            }
            Err(error) => break Err(error),
        }
    };
    (item, result)
}

#[derive(Serialize)]
struct Summary<'a> {
    keys: u64,
    siblings: u64,
    tombstones: u64,
    imported: bool,
    sources: Vec<Source<'a>>,
}

#[derive(Serialize)]
struct Source<'a> {
    cluster: &'a str,
    cluster_id: &'a str,
    nodes: &'a [String],
    created_ms: u64,
}

fn report(done: &Done, is_check: bool, prompt: &Prompt, format: Format) -> Report {
    let (headers, totals) = match &done.end {
        Ok(end) => end,
        Err(failure) => return failure_report(failure, done.imported, is_check, prompt, format),
    };
    match format {
        Format::Json => {
            let sources = headers.iter().map(|header| Source {
                cluster: &header.cluster,
                cluster_id: &header.cluster_id,
                nodes: &header.nodes,
                created_ms: header.created_ms,
            });
            let summary = Summary {
                keys: totals.keys,
                siblings: totals.siblings,
                tombstones: totals.tombstones,
                imported: !is_check,
                sources: sources.collect(),
            };
            Report::data(Exit::Ok, json_line(&summary))
        }
        Format::Table | Format::Plain => {
            let text = format!(
                "{} {} keys ({} values, {} tombstones)\n",
                if is_check { "checked" } else { "imported" },
                totals.keys,
                totals.siblings,
                totals.tombstones
            );
            Report::data(Exit::Ok, text)
        }
    }
}

fn failure_report(
    failure: &Failure,
    imported: u64,
    is_check: bool,
    prompt: &Prompt,
    format: Format,
) -> Report {
    let before = if is_check {
        format!("{imported} keys before it are whole; nothing was sent")
    } else {
        format!(
            "{imported} keys were imported, nothing after this line; to import them again changes nothing"
        )
    };
    match failure {
        Failure::Flaw(flaw) => Report::error(
            Exit::Error,
            format,
            &format!("{flaw}; {before}; export it again, and look at it before it is imported"),
            "dynakv import --check < FILE",
        ),
        Failure::Refused { line, bytes, error } => {
            let hint = match error.code() {
                None if *bytes > LARGE_BYTES => format!(
                    " (this key has {bytes} bytes: does the cluster's value_bytes_max permit its values?)"
                ),
                Some(ErrorCode::TooLarge) => {
                    " (does value_bytes_max of all nodes permit its values?)".to_owned()
                }
                _ => String::new(),
            };
            let next = match error.code() {
                Some(ErrorCode::BadRequest) => "dynakv import --help".to_owned(),
                _ => prompt.command("status"),
            };
            let what = format!(
                "line {line}: {error}{hint}; {imported} keys were imported, and some after this line may \
                 have been; to import all again changes nothing"
            );
            Report::client_error_as(format, error, &what, &next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            format: "dynakv-export".to_owned(),
            version: 1,
            cluster: "dynakv".to_owned(),
            cluster_id: "ff".to_owned(),
            ring_version: 1,
            nodes: vec!["node-1".to_owned()],
            missing: Vec::new(),
            created_ms: 5,
        }
    }

    fn done() -> Done {
        let totals = Trailer {
            keys: 3,
            siblings: 4,
            tombstones: 1,
            ..Trailer::default()
        };
        Done {
            imported: 3,
            end: Ok((vec![header()], totals)),
        }
    }

    #[test]
    fn a_whole_import_has_these_forms() {
        let plain = "imported 3 keys (4 values, 1 tombstones)\n";
        assert_eq!(
            report(&done(), false, &Prompt::default(), Format::Plain),
            Report::data(Exit::Ok, plain)
        );
        let json = concat!(
            r#"{"keys":3,"siblings":4,"tombstones":1,"imported":true,"sources":[{"cluster":"dynakv","#,
            r#""cluster_id":"ff","nodes":["node-1"],"created_ms":5}]}"#,
            "\n"
        );
        assert_eq!(
            report(&done(), false, &Prompt::default(), Format::Json),
            Report::data(Exit::Ok, json)
        );
    }

    #[test]
    fn a_flaw_says_where_and_what_was_imported() {
        let flaw = Flaw {
            line: 17,
            what: "it is damaged".to_owned(),
        };
        let done = Done {
            imported: 15,
            end: Err(Failure::Flaw(flaw)),
        };
        let report = report(&done, false, &Prompt::default(), Format::Plain);
        assert_eq!(report.exit, Exit::Error);
        for part in ["line 17: it is damaged", "15 keys were imported", "next: "] {
            assert!(report.messages.contains(part), "{}", report.messages);
        }
    }

    #[test]
    fn a_check_reads_to_the_end_or_to_the_flaw() {
        let done = check_all(&b"{\"header\":"[..]);
        assert!(matches!(done.end, Err(Failure::Flaw(Flaw { line: 1, .. }))));
        assert_eq!(done.imported, 0);
    }
}
