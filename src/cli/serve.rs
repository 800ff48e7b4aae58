//! `serve`: settings from everywhere, then a node until a signal ends it.

mod load;
mod reload;

use std::path::Path;

use dynakv_protocol::shell::quoted;
use dynakv_storage::{IdentityError, StoreError};

pub(crate) use self::load::ServeArgs;
pub(super) use self::load::{Loaded, environment, load};
use self::reload::Reload;
use super::exit::Exit;
use super::logging;
use super::output::{Format, Report};
use crate::node::{self, ServeError};
use crate::runtime::control::ControlError;
use crate::runtime::store::quarantine::OpenError;
use crate::settings::SettingsError;

/// Runs a node until SIGTERM or Ctrl-C.
pub(crate) fn run(args: ServeArgs, format: Format) -> Exit {
    let fail = |exit, what: &str, next: &str| end(&Report::error(exit, format, what, next));
    let loaded = match load(args.clone(), environment()) {
        Ok(loaded) => loaded,
        Err(error) => return end(&settings_error(&error, format)),
    };
    if let Err(error) = node::check_directory(&loaded.config) {
        return end(&directory_error(&error, format));
    }
    if let Err(error) = logging::init(loaded.log()) {
        return fail(Exit::Usage, &error, "RUST_LOG=info dynakv serve --help");
    }
    if args.ends_with_stdin
        && let Err(error) = super::dev::end_with_stdin()
    {
        let what = format!("cannot watch standard input: {error}");
        return fail(Exit::Error, &what, "ulimit -u");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config.clone();
    let data_dir = config.data_dir.clone();
    match node::serve(config, Reload::new(args, loaded).on_hang_up()) {
        Ok(()) => end(&Report::data(Exit::Ok, "")),
        Err(error) => {
            tracing::error!(%error, "the node ends");
            match error {
                ServeError::DiskFailed(_) => {
                    fail(Exit::DiskFailed, &error.to_string(), "dmesg | tail -50")
                }
                ServeError::Control(ControlError::Removed { .. }) => {
                    let next = moved_away(&data_dir);
                    fail(Exit::Removed, &error.to_string(), &next)
                }
                _ => fail(Exit::Error, &error.to_string(), &next_of(&error, &data_dir)),
            }
        }
    }
}

/// The end of the process: what is left to say goes the way of the log, which nobody waits for.
fn end(report: &Report) -> Exit {
    logging::say(&report.messages);
    report.exit
}

/// What makes room for a node of that name to come in anew. What the directory holds is kept.
fn moved_away(data_dir: &Path) -> String {
    let path = |suffix: &str| quoted(&format!("{}{suffix}", data_dir.display()));
    format!("mv {} {}", path(""), path(".removed"))
}

/// Where to look after a start that failed.
fn next_of(error: &ServeError, data_dir: &Path) -> String {
    let directory = quoted(&data_dir.display().to_string());
    let error = match error {
        ServeError::Store(error)
        | ServeError::Open(OpenError::Store(error))
        | ServeError::Identity(IdentityError::Store(error)) => error,
        ServeError::Open(OpenError::NoOtherCopy { .. }) => {
            return format!("dynakv store check {directory}");
        }
        _ => return "dynakv serve --help".to_owned(),
    };
    match error {
        error if error.is_disk_full() => format!("df -h {directory}"),
        error if error.is_shortage() => "ulimit -a".to_owned(),
        error if error.is_corruption() => format!("dynakv store check {directory}"),
        StoreError::Io { .. } => format!("ls -la {directory}"),
        _ => "dynakv serve --help".to_owned(),
    }
}

/// What is said of settings that do not go with what is in the data directory.
pub(super) fn directory_error(error: &ServeError, format: Format) -> Report {
    let what = error.to_string();
    Report::error(Exit::Usage, format, &what, "dynakv serve --help")
}

/// What is said of settings that a node cannot start with.
pub(super) fn settings_error(error: &SettingsError, format: Format) -> Report {
    Report::error(
        Exit::Usage,
        format,
        &error.to_string(),
        "dynakv serve --help",
    )
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::PathBuf;
    use std::time::Duration;

    use clap::Parser;
    use dynakv_storage::Durability;

    use super::*;
    use crate::config::Config;

    const NONE: [(&str, &str); 0] = [];

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(line: &str) -> ServeArgs {
        Only::try_parse_from(line.split(' ')).unwrap().serve
    }

    #[test]
    fn every_flag_reaches_the_config() {
        let args = parse(
            "serve --id node-2 --port 7000 -n 5 -w 3 -r 3 --host 0.0.0.0 --seed a:1,b:2 --seed c:3 \
             --data-dir /data --http-port 7001 --http-host 0.0.0.0 --cluster blue --advertise n2:7000 \
             --zone east --weight 4 --bootstrap --auto-join false --accept-loss \
             --durability interval:50ms",
        );
        let Loaded {
            config, warnings, ..
        } = load(args, NONE).unwrap();
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let expected = Config {
            cluster_name: "blue".to_owned(),
            host: everywhere,
            port: 7000,
            advertise: Some("n2:7000".to_owned()),
            http_host: everywhere,
            http_port: Some(7001),
            seeds: vec!["a:1".to_owned(), "b:2".to_owned(), "c:3".to_owned()],
            bootstrap: true,
            auto_join: false,
            data_dir: PathBuf::from("/data"),
            n: Some(5),
            w: Some(3),
            r: Some(3),
            zone: "east".to_owned(),
            weight: 4,
            accept_loss: true,
            durability: Durability::Interval(Duration::from_millis(50)),
            ..Config::new("node-2".parse().unwrap())
        };
        assert_eq!(config, expected);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_flag_wins_over_its_variable() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables = [
            variable("DYNAKV_PORT", "1"),
            variable("DYNAKV_ZONE", "west"),
            variable("DYNAKV_SEED", "a:1"),
            variable("DYNAKV_UNHEARD_OF", "1"),
        ];
        let args = parse("serve --id a --port 7000 --seed b:2");
        let Loaded {
            config, warnings, ..
        } = load(args, variables).unwrap();
        assert_eq!((config.port, config.zone.as_str()), (7000, "west"));
        assert_eq!(config.seeds, ["b:2"]);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn an_id_is_needed() {
        let error = load(parse("serve --port 7000"), NONE).unwrap_err();
        assert!(error.to_string().contains("--id"), "{error}");
    }
}
