//! The command line: its options, and which file answers to which command.
//!
//! Scripts depend on it: data goes to standard output and messages to standard error, exit codes are
//! those of [`exit`], and `--output json` has one form per command, pinned by tests.

mod blocking;
mod cluster;
mod config;
mod data;
mod dev;
mod duration;
mod exit;
mod explain;
mod following;
mod key;
mod logging;
mod misplaced;
mod node_info;
mod output;
mod prompt;
mod repair;
mod serve;
mod snapshot;
mod store;
mod transfer;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use dynakv_client::{Client, Error};

use blocking::{block_on, runtime_error};
use duration::parse_duration;
use exit::Exit;
use output::{Format, Report};
use prompt::Session;

const SERVER_DEFAULT: &str = "127.0.0.1:8080";

/// A distributed key-value store.
#[derive(Debug, Parser)]
#[command(name = "dynakv", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that stand before or after the command.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
struct Global {
    /// A node to talk to; repeatable or comma-separated, the first that answers is used
    #[arg(
        long = "server",
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "DYNAKV_SERVERS",
        default_value = SERVER_DEFAULT
    )]
    servers: Vec<String>,
    /// How results are printed [default: table on a terminal, plain otherwise]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// How long a command waits for its answer
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_duration
    )]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::ServeArgs),
    /// Run a whole cluster on this machine, for trying things out
    Dev(dev::DevArgs),
    /// Print the value of a key
    Get(data::GetArgs),
    /// Store a value
    Put(data::PutArgs),
    /// Delete a key
    Delete(data::DeleteArgs),
    /// Show the statistics of a node
    Stats,
    /// Check whether a node is ready
    Health,
    /// Show the state of the cluster
    Status,
    /// Show the ring, as a table or as a picture
    Ring(node_info::RingArgs),
    /// Change the members of the ring: let nodes in, have them go, and give them other weights and zones
    Cluster {
        #[command(subcommand)]
        command: cluster::ClusterCommand,
    },
    /// Show what each owner of a key has of it, and why
    Explain(explain::ExplainArgs),
    /// Compare a node's copies with all others' now, and mend what differs
    Repair(repair::RepairArgs),
    /// Have a node copy all that it holds into a directory beside its data, while it goes on
    Snapshot(snapshot::SnapshotArgs),
    /// Write what a node holds, or all of them, to standard output
    Export(transfer::ExportArgs),
    /// Merge an export from standard input into the cluster
    Import(transfer::ImportArgs),
    /// Check or rewrite the store of a stopped node
    Store {
        #[command(subcommand)]
        command: store::StoreCommand,
    },
    /// Look at settings without starting anything
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        misplaced::refuse(&matches, Cli::command)?;
        Cli::from_arg_matches(&matches)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with exit code 0. There is nowhere to report it
            // when printing fails.
            let _unprinted = error.print();
            let number = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.number());
            return ExitCode::from(number);
        }
    };
    run(cli).into()
}

fn run(cli: Cli) -> Exit {
    let Cli { global, command } = cli;
    let format = Format::or_default(global.output);
    match command {
        Command::Serve(args) => serve::run(args, format),
        Command::Dev(args) => dev::run(args, format),
        Command::Get(args) => {
            let key = args.key.bytes();
            with_client(global, format, Some(key), async |session| {
                data::get(session, args, format).await
            })
        }
        Command::Put(args) => {
            let key = args.key();
            with_client(global, format, Some(key), async |session| {
                data::put(session, args, format).await
            })
        }
        Command::Delete(args) => {
            let key = args.key.bytes();
            with_client(global, format, Some(key), async |session| {
                data::delete(session, args, format).await
            })
        }
        Command::Stats => with_client(global, format, None, async |session| {
            node_info::stats(&session.client, format).await
        }),
        Command::Health => with_client(global, format, None, async |session| {
            node_info::health(&session.client, format).await
        }),
        Command::Status => with_client(global, format, None, async |session| {
            node_info::status(session, format).await
        }),
        Command::Ring(args) => with_client(global, format, None, async |session| {
            node_info::ring(session, &args, format).await
        }),
        Command::Cluster { command } => with_client(global, format, None, async |session| {
            cluster::run(session, command, format).await
        }),
        Command::Explain(args) => with_client(global, format, None, async |session| {
            explain::explain(session, args, format).await
        }),
        Command::Repair(args) => with_client(global, format, None, async |session| {
            repair::repair(session, args, format).await
        }),
        Command::Snapshot(args) => with_client(global, format, None, async |session| {
            snapshot::snapshot(session, args, format).await
        }),
        Command::Export(args) => {
            let timeout = global.timeout;
            with_client(global, format, None, async |session| {
                transfer::export(session, args, timeout, format).await
            })
        }
        Command::Import(args) if args.check => transfer::check(format).print(),
        Command::Import(args) => with_client(global, format, None, async |session| {
            transfer::import(session, args, format).await
        }),
        Command::Store { command } => store::run(command, format).print(),
        Command::Config { command } => config::run(command, format).print(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dynakv", &mut script);
            Report::data(Exit::Ok, script).print()
        }
    }
}

/// Runs a command that talks to a node, and prints what came of it.
fn with_client(
    global: Global,
    format: Format,
    key: Option<Bytes>,
    command: impl AsyncFnOnce(&Session) -> Result<Report, Error>,
) -> Exit {
    let servers = servers(global.servers);
    let is_named = servers != [SERVER_DEFAULT] || std::env::var_os("DYNAKV_SERVERS").is_some();
    // Until one has answered.
    let mut asked = servers.first().cloned().unwrap_or_default();
    let outcome = block_on(async {
        // One request: a second connection, to the key's owner, would only cost time.
        let client = Client::builder()
            .seeds(servers.iter().map(String::as_str))
            .timeout(global.timeout)
            .ring_routing(false)
            .build()
            .await?;
        let session = Session { client, is_named };
        let outcome = command(&session).await;
        session.client.asked_address().clone_into(&mut asked);
        outcome
    });
    let report = match outcome {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => Report::client_error(format, &error, &asked, key.as_deref()),
        Err(error) => runtime_error(format, &error),
    };
    report.print()
}

/// An empty list, or an empty variable, stands for the default.
fn servers(given: Vec<String>) -> Vec<String> {
    let trimmed = given.iter().map(|server| server.trim());
    let servers: Vec<String> = trimmed
        .filter(|server| !server.is_empty())
        .map(str::to_owned)
        .collect();
    if servers.is_empty() {
        vec![SERVER_DEFAULT.to_owned()]
    } else {
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in [
            "dynakv --server a:1 --output json --timeout 2s get k -r 2",
            "dynakv get k --server a:1 --output json -r 2 --timeout 2s",
            "dynakv --output json get -r 2 --timeout 2s --server a:1 k",
        ] {
            let cli = parse(line).unwrap();
            let expected = Global {
                servers: vec!["a:1".to_owned()],
                output: Some(Format::Json),
                timeout: Duration::from_secs(2),
            };
            assert_eq!(cli.global, expected, "{line}");
            let Command::Get(get) = cli.command else {
                panic!("{line}");
            };
            assert_eq!((&get.key.bytes()[..], get.r), (&b"k"[..], Some(2)));
        }
    }

    #[test]
    fn servers_are_repeatable_or_comma_separated() {
        let cli = parse("dynakv --server a:1,b:2 --server c:3 health").unwrap();
        assert_eq!(cli.global.servers, ["a:1", "b:2", "c:3"]);
        assert!(parse("dynakv --server a:1 b:2 health").is_err());
        let given = ["", " a:1 "].map(str::to_owned).to_vec();
        assert_eq!(servers(given), ["a:1"]);
        assert_eq!(servers(vec![String::new()]), [SERVER_DEFAULT]);
    }

    #[test]
    fn values_that_start_with_a_dash_come_after_two() {
        let Command::Put(put) = parse("dynakv put k -").unwrap().command else {
            panic!();
        };
        assert_eq!(put.value(), "-");
        let Command::Put(put) = parse("dynakv put -w 2 --ttl 10m -- -k -v").unwrap().command else {
            panic!();
        };
        assert_eq!((&put.key()[..], &put.value()[..]), (&b"-k"[..], &b"-v"[..]));
        assert_eq!(put.write.w, Some(2));
        assert_eq!(put.ttl, Some(Duration::from_secs(600)));
        assert!(parse("dynakv put k -v").is_err());
    }

    /// In place of the key, not beside it.
    #[test]
    fn keys_that_are_no_text_are_given_in_base64() {
        let Command::Put(put) = parse("dynakv put --key-base64 /wA= v").unwrap().command else {
            panic!();
        };
        assert_eq!(
            (&put.key()[..], &put.value()[..]),
            (&b"\xff\0"[..], &b"v"[..])
        );
        for command in ["get", "delete", "explain"] {
            assert!(parse(&format!("dynakv {command} --key-base64 /wA=")).is_ok());
            assert!(parse(&format!("dynakv {command} --key-base64 /wA= k")).is_err());
            assert!(parse(&format!("dynakv {command} --key-base64 !")).is_err());
        }
        for line in [
            "dynakv put --key-base64 /wA= k v",
            "dynakv put --key-base64 /wA=",
            "dynakv put k",
            "dynakv repair --key-base64 /wA=",
            "dynakv repair --key-base64 /wA= --key k --accept-loss",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(parse("dynakv repair --key-base64 /wA= --accept-loss").is_ok());
    }

    #[test]
    fn what_does_not_exist_is_a_usage_error() {
        for line in [
            "dynakv",
            "dynakv explain",
            "dynakv get k --sloppy",
            "dynakv get",
            "dynakv repair --yes",
            "dynakv get k -r many",
            "dynakv get k --timeout 5",
            "dynakv delete k --context !",
            "dynakv stats --output xml",
            "dynakv serve --id a --fsync never",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("dynakv --help").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "-1s", "5 parsecs", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
