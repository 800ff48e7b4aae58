//! `snapshot`: has a node copy all that it holds into a directory beside its data, and shows how far it is.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use dynakv_client::{Error, Snapshot, SnapshotProgress};
use dynakv_protocol::shell::quoted;
use dynakv_storage::check_snapshot_name;
use serde::Serialize;

use super::exit::Exit;
use super::following::{Bar, Followed, Progress, follow};
use super::output::{Format, Report, bytes_text, json_line};
use super::prompt::{Prompt, Session};

/// How often a line says how far it is where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// `dynakv snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct SnapshotArgs {
    /// What it is to be called, and its directory below `snapshots` in the node's data directory: 1 to 64 letters,
    /// digits, ".", "_" and "-"
    #[arg(value_name = "NAME")]
    name: String,
}

/// Begins a snapshot and follows it to its end.
pub(crate) async fn snapshot(
    session: &Session,
    args: SnapshotArgs,
    format: Format,
) -> Result<Report, Error> {
    let SnapshotArgs { name } = args;
    let prompt = session.prompt();
    if let Err(error) = check_snapshot_name(&name) {
        let next = prompt.command("snapshot before-upgrade");
        return Ok(Report::error(
            Exit::Usage,
            format,
            &error.to_string(),
            &next,
        ));
    }
    let client = &session.client;
    let before = client.snapshot(Snapshot::Look).await?;
    let wish = Snapshot::Start { name: name.clone() };
    let begun = client.snapshot(wish).await?;
    if before.running && before.run == begun.run {
        let _nowhere_to_say_so = writeln!(
            io::stderr(),
            "dynakv: this snapshot is being made at {} already: this shows it",
            begun.node_id
        );
    }
    let bar = Bar::start();
    let mut told = Instant::now();
    let look = async || client.snapshot(Snapshot::Look).await;
    let followed = follow(begun, look, |progress| show(progress, &bar, &mut told)).await;
    drop(bar);
    Ok(report(followed?, &name, &prompt, format))
}

/// On a terminal a bar, otherwise a line on standard error now and then.
fn show(progress: &SnapshotProgress, bar: &Bar, told: &mut Instant) {
    let (done, total) = (progress.keys_done, progress.keys_total);
    let message = || format!("{done} of about {total} keys");
    if !bar.show((done, total.max(1)), message)
        && progress.running
        && told.elapsed() >= LINE_INTERVAL
    {
        *told = Instant::now();
        let _nowhere_to_say_so = writeln!(io::stderr(), "dynakv: copied {}", message());
    }
}

#[derive(Serialize)]
struct Document<'a> {
    node_id: &'a str,
    name: &'a str,
    state: &'static str,
    keys_done: u64,
    keys_total: u64,
    bytes: u64,
    path: &'a str,
    took_ms: Option<u64>,
}

fn report(
    followed: Followed<SnapshotProgress>,
    name: &str,
    prompt: &Prompt,
    format: Format,
) -> Report {
    let again = prompt.command(&format!("snapshot {}", quoted(name)));
    let (progress, state) = match followed {
        Followed::Done(progress) => (progress, "done"),
        Followed::Left(progress) => (progress, "running"),
        Followed::Forgotten => {
            let what = "the node was restarted, and its snapshot was given up with that";
            return Report::error(Exit::Error, format, what, &again);
        }
    };
    if !progress.error.is_empty() {
        let what = format!("{} made no snapshot: {}", progress.node_id, progress.error);
        return Report::error(Exit::Error, format, &what, &prompt.command("status"));
    }
    let is_done = state == "done";
    let (done, total) = (progress.keys_done, progress.keys_total);
    let mut report = match format {
        Format::Json => Report::data(
            Exit::Ok,
            json_line(&Document {
                node_id: progress.node_id.as_str(),
                name: &progress.name,
                state,
                keys_done: done,
                keys_total: total,
                bytes: progress.bytes,
                path: &progress.path,
                took_ms: progress.took_ms(),
            }),
        ),
        Format::Table | Format::Plain if is_done => Report::data(
            Exit::Ok,
            format!(
                "{} made the snapshot {}: {done} keys, {} in {}\n",
                progress.node_id,
                progress.name,
                bytes_text(progress.bytes),
                progress.path
            ),
        ),
        Format::Table | Format::Plain => Report::data(
            Exit::Ok,
            format!(
                "{} has copied {done} of about {total} keys into the snapshot {}\n",
                progress.node_id, progress.name
            ),
        ),
    };
    if !is_done {
        report.messages = format!(
            "dynakv: left alone, and it goes on at {}; this shows it again:\n  next: {again}\n",
            progress.node_id
        );
    }
    report
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::NodeId;

    use super::*;

    fn progress() -> SnapshotProgress {
        SnapshotProgress {
            run: 1,
            name: "a".to_owned(),
            keys_done: 1200,
            keys_total: 1200,
            bytes: 4096,
            started_age_ms: Some(1500),
            finished_age_ms: Some(250),
            path: "/data/snapshots/a".to_owned(),
            ..SnapshotProgress::none(NodeId::new("node-1").unwrap())
        }
    }

    fn printed(followed: Followed<SnapshotProgress>, format: Format) -> Report {
        report(followed, "a", &Prompt::default(), format)
    }

    #[test]
    fn a_snapshot_ends_with_where_it_lies_and_its_size() {
        let done = || Followed::Done(Box::new(progress()));
        let expected = concat!(
            r#"{"node_id":"node-1","name":"a","state":"done","keys_done":1200,"keys_total":1200,"#,
            r#""bytes":4096,"path":"/data/snapshots/a","took_ms":1250}"#,
            "\n"
        );
        assert_eq!(
            printed(done(), Format::Json),
            Report::data(Exit::Ok, expected)
        );
        let expected = "node-1 made the snapshot a: 1200 keys, 4.0 KiB in /data/snapshots/a\n";
        assert_eq!(
            printed(done(), Format::Plain),
            Report::data(Exit::Ok, expected)
        );
    }

    #[test]
    fn one_that_is_left_alone_is_looked_at_by_its_name() {
        let left = SnapshotProgress {
            running: true,
            keys_done: 300,
            path: String::new(),
            finished_age_ms: None,
            ..progress()
        };
        let report = printed(Followed::Left(Box::new(left)), Format::Plain);
        assert_eq!(report.exit, Exit::Ok);
        assert!(report.messages.contains("next: dynakv snapshot a\n"));
        assert!(String::from_utf8_lossy(&report.data).contains("300 of about 1200"));
    }

    #[test]
    fn what_was_given_up_says_why() {
        let failed = SnapshotProgress {
            error: "no room".to_owned(),
            path: String::new(),
            ..progress()
        };
        for followed in [Followed::Done(Box::new(failed)), Followed::Forgotten] {
            let report = printed(followed, Format::Plain);
            assert_eq!(report.exit, Exit::Error);
            assert!(report.messages.contains("next: dynakv"), "{report:?}");
        }
    }
}
