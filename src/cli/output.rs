//! What commands print: one result in three forms, data apart from messages.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dynakv_client::{Context, Error, ErrorCode};
use serde::Serialize;

use super::exit::Exit;
use super::prompt::Prompt;
use crate::engine::key_words;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns with headings, for people.
    Table,
    /// One JSON document on one line.
    Json,
    /// Fields separated by tabs, without headings, for scripts.
    Plain,
}

impl Format {
    /// What was asked for, or a table on a terminal and plain text otherwise.
    pub(crate) fn or_default(asked: Option<Self>) -> Self {
        match asked {
            Some(format) => format,
            None if io::stdout().is_terminal() => Self::Table,
            None => Self::Plain,
        }
    }
}

/// All that a command has to say. Commands build it; only [`Report::print`] writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// Data, for standard output.
    pub(crate) data: Vec<u8>,
    /// Messages, for standard error.
    pub(crate) messages: String,
}

impl Report {
    /// A report of data.
    pub(crate) fn data(exit: Exit, data: impl Into<Vec<u8>>) -> Self {
        Self {
            exit,
            data: data.into(),
            messages: String::new(),
        }
    }

    /// A report of messages only.
    pub(crate) fn message(exit: Exit, messages: impl Into<String>) -> Self {
        Self {
            exit,
            data: Vec::new(),
            messages: messages.into(),
        }
    }

    /// A failure with the next command to type.
    pub(crate) fn error(exit: Exit, format: Format, what: &str, next: &str) -> Self {
        let message = match format {
            Format::Json => json_line(&ErrorDocument {
                error: ErrorFields {
                    code: "error",
                    message: what,
                    maybe_applied: false,
                    retryable: false,
                    next,
                },
            }),
            Format::Table | Format::Plain => format!("dynakv: {what}\n  next: {next}\n"),
        };
        Self::message(exit, message)
    }

    /// A failure of the client that is told in other words than its own.
    pub(crate) fn client_error_as(format: Format, error: &Error, what: &str, next: &str) -> Self {
        let exit = Exit::of_error(error);
        let Format::Json = format else {
            return Self::error(exit, format, what, next);
        };
        let document = ErrorDocument {
            error: ErrorFields {
                code: error_name(error),
                message: what,
                maybe_applied: error.maybe_applied(),
                retryable: error.is_retryable(),
                next,
            },
        };
        Self::message(exit, json_line(&document))
    }

    /// A failure of the client with the next command to type.
    /// `asked` is the server that the command went to, `key` what it was about.
    pub(crate) fn client_error(
        format: Format,
        error: &Error,
        asked: &str,
        key: Option<&[u8]>,
    ) -> Self {
        let exit = Exit::of_error(error);
        let (hint, next) = next_command(error, asked, key);
        let message = error.to_string();
        let maybe_applied = error.maybe_applied();
        let text = match format {
            Format::Json => json_line(&ErrorDocument {
                error: ErrorFields {
                    code: error_name(error),
                    message: &message,
                    maybe_applied,
                    retryable: error.is_retryable(),
                    next: &next,
                },
            }),
            Format::Table | Format::Plain => {
                let doubt = if maybe_applied {
                    "  the write may have been applied all the same\n"
                } else {
                    ""
                };
                format!("dynakv: {message}\n{doubt}{hint}  next: {next}\n")
            }
        };
        Self::message(exit, text)
    }

    /// Writes it. A reader that has closed its end (`| head`) is no failure.
    pub(crate) fn print(&self) -> Exit {
        let _nowhere_to_say_so = io::stderr().write_all(self.messages.as_bytes());
        let mut out = io::stdout().lock();
        match out.write_all(&self.data).and_then(|()| out.flush()) {
            Ok(()) => self.exit,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.exit,
            Err(error) => {
                let message = format!("dynakv: cannot write to standard output: {error}\n");
                let _nowhere_to_say_so = io::stderr().write_all(message.as_bytes());
                Exit::Error
            }
        }
    }
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: &'a str,
    message: &'a str,
    maybe_applied: bool,
    retryable: bool,
    next: &'a str,
}

fn error_name(error: &Error) -> &'static str {
    match (error.code(), error) {
        (Some(code), _) => code.name(),
        (None, Error::Invalid { .. }) => "usage",
        (None, Error::Timeout { .. }) => "timeout",
        (None, _) => "unreachable",
    }
}

/// What to know before the next command, if anything, as a line; and that command.
fn next_command(error: &Error, asked: &str, key: Option<&[u8]>) -> (&'static str, String) {
    // The one that it is about, if another was asked before.
    let prompt = Prompt::of(error.address().unwrap_or(asked));
    match (error.code(), error) {
        (Some(ErrorCode::TooManySiblings | ErrorCode::Conflict), _) => {
            let hint = "  merge the values that are there, and put the result with --context and their context\n";
            let next = match key {
                Some(key) => format!("--output json get {}", key_words::positional(key)),
                None => "status".to_owned(),
            };
            (hint, prompt.command(&next))
        }
        (Some(ErrorCode::BadRequest), _) | (None, Error::Invalid { .. }) => {
            ("", "dynakv help".to_owned())
        }
        (
            None,
            Error::WrongPort {
                data_address: Some(right),
                ..
            },
        ) => ("", Prompt::of(right).command("status")),
        (None, Error::Unreachable { .. } | Error::WrongPort { .. }) => (
            "  name a node that runs with --server HOST:PORT, or start a cluster to try\n",
            "dynakv dev".to_owned(),
        ),
        _ => ("", prompt.command("status")),
    }
}

/// The beginning of a value on one line: text in double quotes, other bytes as `b"…"`, and the length of what
/// is longer than this.
pub(crate) fn preview(value: &[u8], bytes_max: usize) -> String {
    let cut = &value[..value.len().min(bytes_max)];
    let more = match value.len() > cut.len() {
        true => format!("… ({})", bytes_text(value.len() as u64)),
        false => String::new(),
    };
    // A character that was cut in two is left out.
    let text = match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() && !more.is_empty() => {
            std::str::from_utf8(&cut[..error.valid_up_to()])
        }
        text => text,
    };
    match text {
        Ok(text) => format!("{text:?}{more}"),
        Err(_) => format!("b\"{}\"{more}", cut.escape_ascii()),
    }
}

/// One JSON document on a line of its own.
pub(crate) fn json_line(document: &impl Serialize) -> String {
    // Serialising plain structs into memory has no way to fail; if it did, that too is a JSON line.
    let mut line = serde_json::to_string(document)
        .unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"));
    line.push('\n');
    line
}

/// A context as text: URL-safe base64 without padding. Its first byte keeps it from ever beginning
/// with `-`.
pub(crate) fn context_text(context: &Context) -> String {
    URL_SAFE_NO_PAD.encode(context.as_bytes())
}

/// Reads a context back.
///
/// # Errors
/// A message for people when it is no base64 of that kind.
pub(crate) fn parse_context(text: &str) -> Result<Context, String> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map(|bytes| Context::from(bytes::Bytes::from(bytes)))
        .map_err(|error| format!("{error}: give the context exactly as `get` printed it"))
}

/// Bytes for JSON: as text where they are text.
#[derive(Debug, Serialize)]
pub(crate) struct EncodedValue {
    value: String,
    encoding: &'static str,
}

impl EncodedValue {
    /// UTF-8 as it is, anything else as base64.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self {
                value: text.to_owned(),
                encoding: "utf8",
            },
            Err(_) => Self {
                value: STANDARD.encode(bytes),
                encoding: "base64",
            },
        }
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<Heading>,
    rows: Vec<Vec<String>>,
}

/// The name of a column and the side its cells lean to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Heading {
    /// Text.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Table {
    /// An empty table.
    pub(crate) fn new(headings: &[Heading]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Appends a row; it has one cell for each heading.
    pub(crate) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Aligned, with headings.
    pub(crate) fn aligned(&self) -> String {
        let names = self.headings.iter().map(|heading| match heading {
            Heading::Left(name) | Heading::Right(name) => (*name).to_owned(),
        });
        let all: Vec<Vec<String>> = std::iter::once(names.collect())
            .chain(self.rows.iter().cloned())
            .collect();
        let width = |column: usize| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        for row in &all {
            let mut line = String::new();
            for ((cell, heading), width) in row.iter().zip(&self.headings).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                line.push_str(&match heading {
                    Heading::Left(_) => format!("{cell:<width$}"),
                    Heading::Right(_) => format!("{cell:>width$}"),
                });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Separated by tabs, without headings.
    pub(crate) fn plain(&self) -> String {
        self.rows.iter().map(|row| row.join("\t") + "\n").collect()
    }
}

/// A number of bytes for people: three digits at most, with a binary unit.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            let decimals = usize::from(value < 10.0 && unit != "B");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.0} PiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&[
            Heading::Left("Id"),
            Heading::Right("Keys"),
            Heading::Left("Zone"),
        ]);
        table.push(["node-1".to_owned(), "5".to_owned(), "a".to_owned()]);
        table.push(["n".to_owned(), "12345".to_owned(), String::new()]);
        assert_eq!(
            table.aligned(),
            "Id       Keys  Zone\nnode-1      5  a\nn       12345\n"
        );
        assert_eq!(table.plain(), "node-1\t5\ta\nn\t12345\t\n");
    }

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (5 * 1024 * 1024, "5.0 MiB"),
            (123 * 1024 * 1024, "123 MiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn contexts_survive_as_text() {
        let bytes = bytes::Bytes::from_static(&[1, 0xfb, 0xff, 0xfe, 0]);
        let context = Context::from(bytes);
        let text = context_text(&context);
        assert_eq!(text, "Afv__gA");
        assert_eq!(parse_context(&text), Ok(context));
        assert!(parse_context("not base64!").is_err());
    }

    #[test]
    fn errors_name_the_next_command() {
        let error = Error::QuorumUnavailable {
            needed: 2,
            got: 1,
            message: "too few replicas".to_owned(),
            maybe_applied: true,
        };
        let asked = "10.0.0.1:8080";
        let report = Report::client_error(Format::Plain, &error, asked, None);
        assert_eq!(
            report,
            Report::message(
                Exit::Unavailable,
                "dynakv: too few replicas (1 of 2 replicas answered)\n\
                 \x20 the write may have been applied all the same\n\
                 \x20 next: dynakv --server 10.0.0.1:8080 status\n"
            )
        );
        let report = Report::client_error(Format::Json, &error, asked, None);
        assert_eq!(
            report.messages,
            concat!(
                r#"{"error":{"code":"quorum_unavailable","#,
                r#""message":"too few replicas (1 of 2 replicas answered)","#,
                r#""maybe_applied":true,"retryable":true,"#,
                r#""next":"dynakv --server 10.0.0.1:8080 status"}}"#,
                "\n"
            )
        );
        assert!(report.data.is_empty());
    }

    #[test]
    fn errors_about_a_node_name_that_one() {
        let timeout = Error::Timeout {
            address: "b:2".to_owned(),
            waited: std::time::Duration::from_secs(1),
            maybe_applied: false,
        };
        let report = Report::client_error(Format::Plain, &timeout, "a:1", None);
        assert!(
            report
                .messages
                .ends_with("next: dynakv --server b:2 status\n"),
            "{}",
            report.messages
        );
        let wrong = Error::WrongPort {
            address: "a:9080".to_owned(),
            data_address: Some("a:8080".to_owned()),
            maybe_applied: false,
        };
        let report = Report::client_error(Format::Plain, &wrong, "a:9080", None);
        assert_eq!(report.exit, Exit::Error);
        assert!(
            report.messages.contains("a:9080 is the HTTP port")
                && report
                    .messages
                    .ends_with("next: dynakv --server a:8080 status\n"),
            "{}",
            report.messages
        );
    }

    #[test]
    fn previews_are_short_and_on_one_line() {
        assert_eq!(preview(b"a\n\"", 64), r#""a\n\"""#);
        assert_eq!(preview("äää".as_bytes(), 3), "\"ä\"… (6 B)");
        assert_eq!(preview(b"\xff\xfe", 1), r#"b"\xff"… (2 B)"#);
    }
}
