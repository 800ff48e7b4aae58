//! `get`, `put` and `delete`.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use bytes::Bytes;
use dynakv_client::{Client, Context, Error, Fetched, FetchedSibling, Written};
use dynakv_protocol::limits::VALUE_BYTES_MAX;
use serde::Serialize;

use super::exit::Exit;
use super::output::{EncodedValue, Format, Report, context_text, json_line, parse_context};
use super::parse_duration;

/// `dynakv get`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct GetArgs {
    /// The key
    pub(crate) key: String,
    /// How many replicas must answer [default: the node's]
    #[arg(short, value_name = "N")]
    pub(crate) r: Option<u8>,
    /// Bring stale replicas up to date before the answer, not after it
    #[arg(long)]
    pub(crate) repair_first: bool,
}

/// `dynakv put`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct PutArgs {
    /// The key
    pub(crate) key: String,
    /// The value, or - for standard input; a value that starts with - comes after --
    pub(crate) value: String,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    /// After how long the value expires, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
}

/// `dynakv delete`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct DeleteArgs {
    /// The key
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
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
pub(crate) async fn get(client: &Client, args: GetArgs, format: Format) -> Result<Report, Error> {
    let mut request = client.get(&args.key);
    if let Some(r) = args.r {
        request = request.r(r);
    }
    if args.repair_first {
        request = request.repair_first();
    }
    let fetched = request.send().await?;
    let newline = io::stdout().is_terminal();
    Ok(fetched_report(&args.key, &fetched, format, newline))
}

/// Stores a value.
pub(crate) async fn put(client: &Client, args: PutArgs, format: Format) -> Result<Report, Error> {
    let value = if args.value == "-" {
        read_value(io::stdin().lock())?
    } else {
        Bytes::from(args.value)
    };
    let mut request = client.put(&args.key, value);
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
    client: &Client,
    args: DeleteArgs,
    format: Format,
) -> Result<Report, Error> {
    let mut request = client.delete(&args.key);
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
struct GetDocument<'a> {
    key: &'a str,
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

fn fetched_report(key: &str, fetched: &Fetched, format: Format, newline: bool) -> Report {
    let siblings = distinct(fetched);
    let exit = match siblings.len() {
        0 => Exit::NotFound,
        1 => Exit::Ok,
        _ => Exit::Conflict,
    };
    let context = context_text(&fetched.context);
    if format == Format::Json {
        let document = GetDocument {
            key,
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
        [] => Report::message(exit, format!("dynakv: {key:?} not found\n")),
        [only] => {
            let mut value = only.value.to_vec();
            if newline {
                value.push(b'\n');
            }
            Report::data(exit, value)
        }
        several => {
            let mut text = format!("dynakv: {key:?} has {} conflicting values\n", several.len());
            for sibling in several {
                let shown = String::from_utf8_lossy(&sibling.value);
                text.push_str(&format!("  {}  {shown:?}\n", sibling.dot));
            }
            text.push_str(&format!("  context: {context}\n"));
            text.push_str(&format!(
                "  next: dynakv put {key:?} MERGED --context {context}\n"
            ));
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
        let report = fetched_report("k", &one, Format::Plain, false);
        assert_eq!(report, Report::data(Exit::Ok, *b"va\xfflue\n"));
        let report = fetched_report("k", &one, Format::Table, true);
        assert_eq!(report, Report::data(Exit::Ok, *b"va\xfflue\n\n"));
        let empty = fetched(&[b""]);
        let report = fetched_report("k", &empty, Format::Plain, false);
        assert_eq!(report, Report::data(Exit::Ok, ""));
    }

    #[test]
    fn a_value_in_json() {
        let report = fetched_report("k", &fetched(&[b"v\n"]), Format::Json, true);
        let expected = concat!(
            r#"{"key":"k","found":true,"siblings":[{"value":"v\n","encoding":"utf8","#,
            r#""dot":"00000000000000ab:1","timestamp_ms":1700000000001}],"context":"AQID"}"#,
            "\n"
        );
        assert_eq!(report, Report::data(Exit::Ok, expected));
    }

    #[test]
    fn an_absent_key_has_a_context_all_the_same() {
        let report = fetched_report("k", &fetched(&[]), Format::Json, false);
        let expected = "{\"key\":\"k\",\"found\":false,\"siblings\":[],\"context\":\"AQID\"}\n";
        assert_eq!(report, Report::data(Exit::NotFound, expected));
        let report = fetched_report("k", &fetched(&[]), Format::Plain, false);
        assert_eq!(report.exit, Exit::NotFound);
        assert!(report.data.is_empty());
    }

    #[test]
    fn a_conflict_leaves_standard_output_empty_but_in_json() {
        let two = fetched(&[b"a", b"b\xff", b"a"]);
        let report = fetched_report("k", &two, Format::Plain, true);
        let expected = "dynakv: \"k\" has 2 conflicting values\n\
            \x20 00000000000000ab:1  \"a\"\n\
            \x20 00000000000000ab:2  \"b\u{fffd}\"\n\
            \x20 context: AQID\n\
            \x20 next: dynakv put \"k\" MERGED --context AQID\n";
        assert_eq!(report, Report::message(Exit::Conflict, expected));
        let report = fetched_report("k", &two, Format::Json, true);
        let expected = concat!(
            r#"{"key":"k","found":true,"siblings":["#,
            r#"{"value":"a","encoding":"utf8","dot":"00000000000000ab:1","timestamp_ms":1700000000001},"#,
            r#"{"value":"Yv8=","encoding":"base64","dot":"00000000000000ab:2","timestamp_ms":1700000000002}"#,
            r#"],"context":"AQID"}"#,
            "\n"
        );
        assert_eq!(report, Report::data(Exit::Conflict, expected));
    }

    #[test]
    fn equal_siblings_are_no_conflict() {
        let report = fetched_report("k", &fetched(&[b"a", b"a"]), Format::Plain, false);
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
