//! Commands that are printed to be typed next: quoted for a shell, and with the server that was asked. And questions
//! that somebody at a terminal is asked.

use std::io::{self, BufRead, IsTerminal, Write};

use dynakv_client::Client;
use dynakv_protocol::shell::quoted;

use crate::engine::key_words;

/// What talks to the cluster for one command.
pub(crate) struct Session {
    /// The connection.
    pub(crate) client: Client,
    /// Whether the server was named, so that commands that are printed must name it, too.
    pub(crate) is_named: bool,
}

impl Session {
    /// For commands that go where this one went.
    pub(crate) fn prompt(&self) -> Prompt {
        match self.is_named {
            true => Prompt::of(self.client.asked_address()),
            false => Prompt::default(),
        }
    }
}

/// How the next commands begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prompt {
    server: Option<String>,
}

impl Prompt {
    /// Commands to this server; by default they go to the default one.
    pub(crate) fn of(server: &str) -> Self {
        Self {
            server: Some(server.to_owned()),
        }
    }

    /// A command with these words, each of which is quoted already.
    pub(crate) fn command(&self, words: &str) -> String {
        match &self.server {
            Some(server) => format!("dynakv --server {} {words}", quoted(server)),
            None => format!("dynakv {words}"),
        }
    }

    /// What mends a locked key.
    pub(crate) fn unlock(&self, key: &[u8]) -> String {
        let key = key_words::option(key);
        self.command(&format!("repair {key} --accept-loss"))
    }
}

/// Whether there is a terminal to ask somebody at.
pub(crate) fn is_asked() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on a terminal; without one the answer is no. `meaning` ends its own lines.
pub(crate) fn confirmed(meaning: &str, question: &str) -> bool {
    if !is_asked() {
        return false;
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{meaning}{question} [y/N] ");
    asked.is_ok()
        && io::stdin().lock().read_line(&mut answer).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_where_the_first_went() {
        assert_eq!(Prompt::default().command("status"), "dynakv status");
        assert_eq!(
            Prompt::of("[::1]:8080").unlock(b"a b"),
            "dynakv --server '[::1]:8080' repair --key 'a b' --accept-loss"
        );
    }
}
