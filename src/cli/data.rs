//! `get`, `put` and `delete`.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use bytes::Bytes;
use dynakv_client::{Context, Error, Fetched, FetchedSibling, Written};
use dynakv_protocol::limits::VALUE_BYTES_MAX;
use serde::Serialize;

use super::duration::parse_duration;
use super::exit::Exit;
use super::key::{KeyArgs, KeyFields, bytes_of, parse_base64, shown};
use super::output::{
    EncodedValue, Format, Report, context_text, json_line, parse_context, preview,
};
use super::prompt::{Prompt, Session};
use crate::engine::key_words;

/// How many of the values that conflict are shown, each on a line.
const CONFLICTS_SHOWN_MAX: usize = 20;

/// How much of each of them, in bytes.
const CONFLICT_BYTES_SHOWN_MAX: usize = 64;

/// `dynakv get`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// How many replicas must answer [default: the node's]
    #[arg(short, value_name = "N")]
    pub(crate) r: Option<u8>,
    /// Bring stale replicas up to date before the answer, not after it
    #[arg(long)]
    pub(crate) repair_first: bool,
}

/// `dynakv put`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(
    override_usage = "dynakv put [OPTIONS] <KEY> <VALUE>\n       dynakv put [OPTIONS] --key-base64 <KEY> <VALUE>"
)]
pub(crate) struct PutArgs {
    /// The key; it is left out with --key-base64
    #[arg(value_name = "KEY")]
    first: OsString,
    /// The value, or - for standard input; a value that starts with - comes after --
    #[arg(
        value_name = "VALUE",
        required_unless_present = "key_base64",
        conflicts_with = "key_base64"
    )]
    second: Option<OsString>,
    /// The key in base64, in place of KEY: for one that is no text, or begins with -
    #[arg(long, value_name = "KEY", value_parser = parse_base64)]
    key_base64: Option<Bytes>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    /// After how long the value expires, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
}

/// `dynakv delete`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

impl PutArgs {
    /// The key.
    pub(crate) fn key(&self) -> Bytes {
        match &self.key_base64 {
            Some(key) => key.clone(),
            None => bytes_of(&self.first),
        }
    }

    /// The value, or `-`.
    pub(crate) fn value(&self) -> Bytes {
        // Exactly one of them is the value: the other is forbidden.
        bytes_of(self.second.as_ref().unwrap_or(&self.first))
    }
}

/// What puts and deletes share.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct WriteArgs {
    /// Replace exactly what the `get` that printed this context has seen
    #[arg(long, value_name = "CONTEXT", value_parser = parse_context)]
    pub(crate) context: Option<Context>,
    /// How many replicas must have it on disk [default: the node's]
    #[arg(short, value_name = "N")]
    pub(crate) w: Option<u8>,
    /// While replicas are down, let the next nodes of the ring count in their places
    #[arg(long)]
    pub(crate) sloppy: bool,
    /// Without a context: refuse (exit 5) where that would replace more than one value
    #[arg(long)]
    pub(crate) if_no_conflict: bool,
}

/// Reads a key.
pub(crate) async fn get(session: &Session, args: GetArgs, format: Format) -> Result<Report, Error> {
    let key = args.key.bytes();
    let mut request = session.client.get(&key);
    if let Some(r) = args.r {
        request = request.r(r);
    }
    if args.repair_first {
        request = request.repair_first();
    }
    let fetched = request.send().await?;
    let newline = io::stdout().is_terminal();
    let prompt = session.prompt();
    Ok(fetched_report(&key, &fetched, &prompt, format, newline))
}

/// Stores a value.
pub(crate) async fn put(session: &Session, args: PutArgs, format: Format) -> Result<Report, Error> {
    let key = args.key();
    let value = match args.value() {
        value if value == "-" => read_value(io::stdin().lock())?,
        value => value,
    };
    let mut request = session.client.put(&key, value);
    if let Some(context) = args.write.context {
        request = request.context(context);
    }
    if let Some(w) = args.write.w {
        request = request.w(w);
    }
    if args.write.sloppy {
        request = request.sloppy();
    }
    if args.write.if_no_conflict {
        request = request.if_no_conflict();
    }
    if let Some(ttl) = args.ttl {
        request = request.ttl(ttl);
    }
    Ok(written_report(&request.send().await?, format))
}

/// Deletes a key.
pub(crate) async fn delete(
    session: &Session,
    args: DeleteArgs,
    format: Format,
) -> Result<Report, Error> {
    let mut request = session.client.delete(args.key.bytes());
    if let Some(context) = args.write.context {
        request = request.context(context);
    }
    if let Some(w) = args.write.w {
        request = request.w(w);
    }
    if args.write.sloppy {
        request = request.sloppy();
    }
    if args.write.if_no_conflict {
        request = request.if_no_conflict();
    }
    Ok(written_report(&request.send().await?, format))
}

fn read_value(input: impl Read) -> Result<Bytes, Error> {
    let mut value = Vec::new();
    // One byte more than permitted tells a value that is too large, without reading all of it.
    let mut limited = input.take(VALUE_BYTES_MAX as u64 + 1);
    match limited.read_to_end(&mut value) {
        Ok(_) => Ok(Bytes::from(value)),
        Err(error) => Err(Error::Invalid {
            what: format!("cannot read the value from standard input: {error}"),
        }),
    }
}

#[derive(Serialize)]
struct GetDocument {
    #[serde(flatten)]
    key: KeyFields,
    found: bool,
    siblings: Vec<SiblingDocument>,
    context: String,
}

#[derive(Serialize)]
struct SiblingDocument {
    #[serde(flatten)]
    value: EncodedValue,
    dot: String,
    timestamp_ms: u64,
}

#[derive(Serialize)]
struct WriteDocument {
    context: String,
    sloppy: bool,
    /// 0 where there was no conflict.
    replaced: u64,
}

/// Siblings with equal bytes are one: nobody has to choose between them.
fn distinct(fetched: &Fetched) -> Vec<&FetchedSibling> {
    let mut distinct: Vec<&FetchedSibling> = Vec::new();
    for sibling in &fetched.siblings {
        if distinct.iter().all(|other| other.value != sibling.value) {
            distinct.push(sibling);
        }
    }
    distinct
}

fn fetched_report(
    key: &[u8],
    fetched: &Fetched,
    prompt: &Prompt,
    format: Format,
    newline: bool,
) -> Report {
    let siblings = distinct(fetched);
    let exit = match siblings.len() {
        0 => Exit::NotFound,
        1 => Exit::Ok,
        _ => Exit::Conflict,
    };
    let context = context_text(&fetched.context);
    if format == Format::Json {
        let document = GetDocument {
            key: KeyFields::new(key),
            found: !siblings.is_empty(),
            siblings: siblings
                .iter()
                .map(|sibling| SiblingDocument {
                    value: EncodedValue::new(&sibling.value),
                    dot: sibling.dot.to_string(),
                    timestamp_ms: sibling.timestamp_ms,
                })
                .collect(),
            context,
        };
        return Report::data(exit, json_line(&document));
    }
    match &siblings[..] {
        [] => Report::message(exit, format!("dynakv: {} not found\n", shown(key))),
        [only] => {
            let mut value = only.value.to_vec();
            if newline {
                value.push(b'\n');
            }
            Report::data(exit, value)
        }
        several => {
            let mut text = format!(
                "dynakv: {} has {} conflicting values\n",
                shown(key),
                several.len()
            );
            for sibling in several.iter().take(CONFLICTS_SHOWN_MAX) {
                let value = preview(&sibling.value, CONFLICT_BYTES_SHOWN_MAX);
                text.push_str(&format!("  {}  {value}\n", sibling.dot));
            }
            if several.len() > CONFLICTS_SHOWN_MAX {
                let more = several.len() - CONFLICTS_SHOWN_MAX;
                text.push_str(&format!("  and {more} more: --output json gives all\n"));
            }
            text.push_str(&format!("  context: {context}\n"));
            let key = key_words::positional(key);
            let next = prompt.command(&format!("put {key} MERGED --context {context}"));
            text.push_str(&format!("  next: {next}\n"));
            Report::message(exit, text)
        }
    }
}

fn written_report(written: &Written, format: Format) -> Report {
    match format {
        Format::Json => Report::data(
            Exit::Ok,
            json_line(&WriteDocument {
                context: context_text(&written.context),
                sloppy: written.sloppy,
                replaced: written.replaced,
            }),
        ),
        Format::Table | Format::Plain if written.replaced > 1 => Report::message(
            Exit::Ok,
            format!(
                "dynakv: warning: {} conflicting values were replaced unseen; with --if-no-conflict, or the \
                 --context of a get, they stay\n",
                written.replaced
            ),
        ),
        Format::Table | Format::Plain => Report::data(Exit::Ok, ""),
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::Actor;
    use dynakv_protocol::causal::Dot;

    use super::*;

    fn fetched(values: &[&'static [u8]]) -> Fetched {
        let siblings = (1..).zip(values).map(|(counter, value)| FetchedSibling {
            dot: Dot {
                actor: Actor(0xab),
                counter,
            },
            timestamp_ms: 1_700_000_000_000 + counter,
            value: Bytes::from_static(value),
        });
        Fetched {
            siblings: siblings.collect(),
            context: Context::from(Bytes::from_static(&[1, 2, 3])),
            effective_r: 2,
        }
    }

    #[test]
    fn a_value_is_printed_as_it_is() {
        let one = fetched(&[b"va\xfflue\n"]);
        let report = fetched_report(b"k", &one, &Prompt::default(), Format::Plain, false);
        assert_eq!(report, Report::data(Exit::Ok, *b"va\xfflue\n"));
        let report = fetched_report(b"k", &one, &Prompt::default(), Format::Table, true);
        assert_eq!(report, Report::data(Exit::Ok, *b"va\xfflue\n\n"));
        let empty = fetched(&[b""]);
        let report = fetched_report(b"k", &empty, &Prompt::default(), Format::Plain, false);
        assert_eq!(report, Report::data(Exit::Ok, ""));
    }

    #[test]
    fn a_value_in_json() {
        let report = fetched_report(
            b"k",
            &fetched(&[b"v\n"]),
            &Prompt::default(),
            Format::Json,
            true,
        );
        let expected = concat!(
            r#"{"key":"k","found":true,"siblings":[{"value":"v\n","encoding":"utf8","#,
            r#""dot":"00000000000000ab:1","timestamp_ms":1700000000001}],"context":"AQID"}"#,
            "\n"
        );
        assert_eq!(report, Report::data(Exit::Ok, expected));
    }

    #[test]
    fn an_absent_key_has_a_context_all_the_same() {
        let report = fetched_report(b"k", &fetched(&[]), &Prompt::default(), Format::Json, false);
        let expected = "{\"key\":\"k\",\"found\":false,\"siblings\":[],\"context\":\"AQID\"}\n";
        assert_eq!(report, Report::data(Exit::NotFound, expected));
        let report = fetched_report(
            b"k",
            &fetched(&[]),
            &Prompt::default(),
            Format::Plain,
            false,
        );
        assert_eq!(report.exit, Exit::NotFound);
        assert!(report.data.is_empty());
    }

    #[test]
    fn a_conflict_leaves_standard_output_empty_but_in_json() {
        let two = fetched(&[b"a", b"b\xff", b"a"]);
        let report = fetched_report(b"k", &two, &Prompt::default(), Format::Plain, true);
        let expected = "dynakv: \"k\" has 2 conflicting values\n\
            \x20 00000000000000ab:1  \"a\"\n\
            \x20 00000000000000ab:2  b\"b\\xff\"\n\
            \x20 context: AQID\n\
            \x20 next: dynakv put k MERGED --context AQID\n";
        assert_eq!(report, Report::message(Exit::Conflict, expected));
        let report = fetched_report(b"k", &two, &Prompt::default(), Format::Json, true);
        let expected = concat!(
            r#"{"key":"k","found":true,"siblings":["#,
            r#"{"value":"a","encoding":"utf8","dot":"00000000000000ab:1","timestamp_ms":1700000000001},"#,
            r#"{"value":"Yv8=","encoding":"base64","dot":"00000000000000ab:2","timestamp_ms":1700000000002}"#,
            r#"],"context":"AQID"}"#,
            "\n"
        );
        assert_eq!(report, Report::data(Exit::Conflict, expected));
    }

    /// Whatever the values hold, the terminal gets a line for each, and not one for each of a thousand.
    #[test]
    fn a_conflict_is_shown_in_few_lines() {
        let long: &'static [u8] = Box::leak(vec![b'x'; 1 << 20].into_boxed_slice());
        let values = [&b"two\nlines"[..], long, b"\x1b[2J"];
        let report = fetched_report(
            b"a\nb",
            &fetched(&values),
            &Prompt::of("a:1"),
            Format::Table,
            true,
        );
        let lines: Vec<&str> = report.messages.lines().collect();
        assert_eq!(lines.len(), 6, "{}", report.messages);
        assert_eq!(lines[0], r#"dynakv: "a\nb" has 3 conflicting values"#);
        assert!(lines[1].ends_with(r#""two\nlines""#), "{}", lines[1]);
        assert!(lines[2].len() < 200 && lines[2].ends_with("x\"… (1.0 MiB)"));
        assert!(!report.messages.contains('\x1b'));
        assert_eq!(
            lines[5],
            "  next: dynakv --server a:1 put --key-base64 YQpi MERGED --context AQID"
        );
        let many: Vec<&'static [u8]> = (0..1000)
            .map(|number: u32| &*Box::leak(number.to_string().into_bytes().into_boxed_slice()))
            .collect();
        let many = fetched(&many);
        let report = fetched_report(b"k", &many, &Prompt::default(), Format::Plain, true);
        assert_eq!(report.messages.lines().count(), 1 + 20 + 3);
        assert!(report.messages.contains("and 980 more"));
    }

    #[test]
    fn equal_siblings_are_no_conflict() {
        let report = fetched_report(
            b"k",
            &fetched(&[b"a", b"a"]),
            &Prompt::default(),
            Format::Plain,
            false,
        );
        assert_eq!(report, Report::data(Exit::Ok, "a"));
    }

    #[test]
    fn a_write_is_silent_but_in_json() {
        let written = Written {
            context: Context::from(Bytes::from_static(&[1, 2, 3])),
            effective_w: 2,
            sloppy: false,
            replaced: 0,
        };
        assert_eq!(
            written_report(&written, Format::Plain),
            Report::data(Exit::Ok, "")
        );
        let document = "{\"context\":\"AQID\",\"sloppy\":false,\"replaced\":0}\n";
        assert_eq!(
            written_report(&written, Format::Json),
            Report::data(Exit::Ok, document)
        );
        let written = Written {
            replaced: 2,
            ..written
        };
        let report = written_report(&written, Format::Plain);
        let warning = String::from_utf8(report.messages.clone().into()).unwrap();
        assert!(
            report.data.is_empty() && warning.contains("2 conflicting values"),
            "{warning}"
        );
    }

    #[test]
    fn a_value_from_standard_input_is_bounded() {
        assert_eq!(read_value(&b"from a pipe"[..]).unwrap(), "from a pipe");
        let endless = read_value(io::repeat(0)).unwrap();
        assert_eq!(endless.len(), VALUE_BYTES_MAX + 1);
    }
}
