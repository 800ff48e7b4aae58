//! Global options of the commands that talk to a node, given to one that talks to none.
//!
//! Ignored, `serve --server X` would found a second cluster where `--seed X` was meant.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Error};

/// Commands that talk to no node that somebody could name, or for as long as somebody could say.
const ALONE: [&str; 5] = ["serve", "dev", "store", "config", "completions"];

/// What only says something to the other commands: the name in the definition, and the option.
const OF_CLIENTS: [(&str, &str); 2] = [("servers", "--server"), ("timeout", "--timeout")];

/// Refuses such an option; `definition` is that of the whole command line. `DYNAKV_SERVERS` may be there: it is set for the other commands.
///
/// # Errors
/// A usage error that names the option that may have been meant.
pub(super) fn refuse(matches: &ArgMatches, definition: fn() -> Command) -> Result<(), Error> {
    let Some((command, _)) = matches.subcommand() else {
        return Ok(());
    };
    if !ALONE.contains(&command) {
        return Ok(());
    }
    let given = OF_CLIENTS
        .iter()
        .find(|(id, _)| matches.value_source(id) == Some(ValueSource::CommandLine));
    let Some((id, option)) = given else {
        return Ok(());
    };
    let servers = matches.get_many::<String>("servers").unwrap_or_default();
    let servers: Vec<&str> = servers.map(String::as_str).collect();
    let meant = match (command, *id) {
        ("serve" | "config", "servers") => format!(
            "; to join the cluster of that node, give --seed {}",
            servers.join(",")
        ),
        ("serve" | "config", _) => {
            "; how long a stop may take is the setting shutdown_deadline".to_owned()
        }
        _ => String::new(),
    };
    let message = format!(
        "{option} is for commands that ask a running node, and {command} asks none{meant}\n  \
         next: dynakv {command} --help\n"
    );
    Err(definition().error(ErrorKind::ArgumentConflict, message))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn parse(line: &str) -> Result<(), Error> {
        let matches = Cli::command().try_get_matches_from(line.split(' '));
        refuse(&matches.unwrap(), Cli::command)
    }

    #[test]
    fn options_of_clients_belong_to_commands_that_ask_a_node() {
        for line in [
            "dynakv serve --id a --server b:1,c:2",
            "dynakv --server b:1 serve --id a",
            "dynakv serve --id a --timeout 1s",
            "dynakv dev --server b:1",
            "dynakv store check d --server b:1",
            "dynakv config check --id a --server b:1",
            "dynakv completions bash --timeout 1s",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            let is_of_nodes = line.contains("--server") && line.contains("--id");
            let said = error.to_string();
            assert_eq!(said.contains("--seed b:1"), is_of_nodes, "{line}: {said}");
        }
        for line in [
            "dynakv --server b:1 --timeout 1s get k",
            "dynakv serve --id a --output json",
            "dynakv config check --id a",
        ] {
            parse(line).unwrap();
        }
    }
}
