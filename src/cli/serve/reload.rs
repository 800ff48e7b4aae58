//! What a running node takes from its settings after SIGHUP: the log filter. Everything else that has
//! changed is named, so that nobody believes it was taken.

use super::load::{Loaded, ServeArgs, environment, load};
use crate::cli::logging;
use crate::settings::{Effective, effective};

/// What a node runs with, to hold later settings against.
pub(super) struct Reload {
    args: ServeArgs,
    runs: Vec<Effective>,
}

/// What later settings come to.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// The log filter, where it is another one.
    log: Option<String>,
    /// What is taken at the next start only: its name, what the node runs with, and what is said now.
    later: Vec<(&'static str, String, String)>,
}

impl Reload {
    pub(super) fn new(args: ServeArgs, loaded: Loaded) -> Self {
        let runs = effective(&loaded.layers, &loaded.config);
        Self { args, runs }
    }

    /// Reads all settings again at each call. What is wrong with them is said, and nothing changes then.
    pub(super) fn on_hang_up(mut self) -> impl FnMut() + Send + 'static {
        move || match load(self.args.clone(), environment()) {
            Ok(loaded) => self.take(&loaded),
            Err(error) => tracing::error!(
                %error,
                "the settings were read again and are wrong: nothing changes"
            ),
        }
    }

    fn take(&mut self, loaded: &Loaded) {
        let change = self.change(loaded);
        for (name, runs, asked) in &change.later {
            tracing::warn!(
                setting = *name,
                runs,
                asked,
                "a setting has changed that a running node cannot take: restart it"
            );
        }
        if let Some(filter) = change.log {
            if let Err(error) = logging::reload(loaded.log()) {
                tracing::error!(error, "the log filter stays as it is");
                return;
            }
            for setting in self.runs.iter_mut().filter(|it| it.name == "log") {
                setting.value = Some(filter.clone());
            }
            tracing::info!(log = filter, "the settings were read again");
        } else {
            tracing::info!("the settings were read again");
        }
    }

    fn change(&self, loaded: &Loaded) -> Change {
        let mut change = Change {
            log: None,
            later: Vec::new(),
        };
        let asked = effective(&loaded.layers, &loaded.config);
        for (runs, asked) in self.runs.iter().zip(asked) {
            if runs.value == asked.value {
                continue;
            }
            if runs.name == "log" {
                change.log = asked.value;
            } else {
                let runs_with = runs.value.clone().unwrap_or_default();
                let asked = asked.value.unwrap_or_default();
                change.later.push((runs.name, runs_with, asked));
            }
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(variables: &[(&str, &str)]) -> Loaded {
        let named = [("DYNAKV_ID", "a")];
        let variables = named.iter().chain(variables).copied();
        load(ServeArgs::default(), variables).unwrap()
    }

    #[test]
    fn the_log_is_taken_and_all_else_is_named() {
        let started = loaded(&[("DYNAKV_LOG", "warn")]);
        let reload = Reload::new(ServeArgs::default(), started);
        let change = reload.change(&loaded(&[
            ("DYNAKV_LOG", "debug"),
            ("DYNAKV_WEIGHT", "2"),
            // As it was, though nobody said so.
            ("DYNAKV_PORT", "8080"),
        ]));
        assert_eq!(change.log.as_deref(), Some("debug"));
        assert_eq!(change.later, [("weight", "1".to_owned(), "2".to_owned())]);
        let back = reload.change(&loaded(&[]));
        assert_eq!((back.log.as_deref(), back.later.len()), (Some("info"), 0));
    }
}
