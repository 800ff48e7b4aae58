//! `config check`: the settings that `serve` would run with, and where each comes from.

use serde::Serialize;

use super::exit::Exit;
use super::output::{Format, Heading, Report, Table, json_line};
use super::serve::{self, Loaded, ServeArgs};
use crate::descriptors;
use crate::node;
use crate::runtime::observe::process::descriptors_possible;
use crate::settings::{SettingsError, effective};

/// `dynakv config`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the settings that `serve` would run with, and where each comes from
    Check(Box<ServeArgs>),
}

/// Runs a `config` command; nothing is started and nothing is made.
pub(crate) fn run(command: ConfigCommand, format: Format) -> Report {
    match command {
        ConfigCommand::Check(args) => {
            let loaded = serve::load(*args, serve::environment()).map(|mut loaded| {
                fit(&mut loaded);
                loaded
            });
            let checked = loaded.as_ref().map(|it| node::check_directory(&it.config));
            match checked {
                Ok(Err(error)) => serve::directory_error(&error, format),
                Ok(Ok(())) | Err(_) => report(loaded, format),
            }
        }
    }
}

/// What `serve` would make of the limits of a process that is started as this one was.
fn fit(loaded: &mut Loaded) {
    let Some(limit) = descriptors_possible() else {
        return;
    };
    match descriptors::fit(&mut loaded.config, limit) {
        Ok(lowered) => loaded.warnings.extend(lowered),
        Err(error) => loaded.warnings.push(error.to_string()),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    valid: bool,
    settings: Vec<Setting<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Setting<'a> {
    name: &'a str,
    /// Nothing: the cluster decides.
    value: Option<&'a str>,
    source: &'static str,
    origin: String,
    permitted: String,
}

fn report(loaded: Result<Loaded, SettingsError>, format: Format) -> Report {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return serve::settings_error(&error, format),
    };
    let settings = effective(&loaded.layers, &loaded.config);
    if format == Format::Json {
        let document = Document {
            valid: true,
            settings: settings
                .iter()
                .map(|setting| Setting {
                    name: setting.name,
                    value: setting.value.as_deref(),
                    source: setting.origin.kind(),
                    origin: setting.origin.to_string(),
                    permitted: setting.bounds.to_string(),
                })
                .collect(),
            warnings: &loaded.warnings,
        };
        return Report::data(Exit::Ok, json_line(&document));
    }
    let mut table = Table::new(&[
        Heading::Left("Setting"),
        Heading::Left("Value"),
        Heading::Left("From"),
        Heading::Left("Permitted"),
    ]);
    for setting in settings {
        let value = match setting.value {
            None => "the cluster's".to_owned(),
            Some(value) if value.is_empty() => "-".to_owned(),
            Some(value) => value,
        };
        let origin = setting.origin.to_string();
        let permitted = setting.bounds.to_string();
        table.push([setting.name.to_owned(), value, origin, permitted]);
    }
    let data = match format {
        Format::Table => table.aligned(),
        Format::Json | Format::Plain => table.plain(),
    };
    let warnings = loaded.warnings.iter();
    Report {
        exit: Exit::Ok,
        data: data.into(),
        messages: warnings
            .map(|warning| format!("dynakv: {warning}\n"))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn checked(variables: &[(String, String)], format: Format) -> Report {
        let loaded = serve::load(ServeArgs::default(), variables.iter().cloned());
        report(loaded, format)
    }

    #[test]
    fn the_settings_have_these_forms() {
        let variables = [
            variable("DYNAKV_ID", "node-1"),
            variable("DYNAKV_UNHEARD_OF", "1"),
        ];
        let table = checked(&variables, Format::Table);
        assert_eq!(table.exit, Exit::Ok);
        let text = String::from_utf8(table.data).unwrap();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("Setting "), "{text}");
        let id = lines.next().unwrap();
        assert!(
            id.starts_with("id ") && id.contains(" DYNAKV_ID "),
            "{text}"
        );
        assert!(text.contains("the cluster's"), "{text}");
        assert_eq!(
            table.messages,
            "dynakv: DYNAKV_UNHEARD_OF is ignored: there is no such setting\n"
        );
        let json = checked(&variables, Format::Json);
        assert!(json.messages.is_empty());
        let text = String::from_utf8(json.data).unwrap();
        let begin = concat!(
            r#"{"valid":true,"settings":[{"name":"id","value":"node-1","source":"variable","#,
            r#""origin":"DYNAKV_ID","permitted":"1 to 64 bytes"},{"name":"cluster","value":"dynakv","#,
            r#""source":"default","origin":"default","permitted":"1 to 64 bytes"},"#
        );
        assert!(text.starts_with(begin), "{text}");
        let end = "],\"warnings\":[\"DYNAKV_UNHEARD_OF is ignored: there is no such setting\"]}\n";
        assert!(text.ends_with(end), "{text}");
        assert!(text.contains(r#"{"name":"n","value":null,"source":"default""#));
        let plain = checked(&variables, Format::Plain);
        let plain = String::from_utf8(plain.data).unwrap();
        assert!(
            plain.starts_with(
                "id\tnode-1\tDYNAKV_ID\t1 to 64 bytes\ncluster\tdynakv\tdefault\t1 to"
            )
        );
    }

    #[test]
    fn what_serve_would_refuse_is_refused_in_its_words() {
        let report = checked(&[variable("DYNAKV_PORT", "eighty")], Format::Plain);
        assert_eq!(report.exit, Exit::Usage);
        assert!(report.data.is_empty());
        assert!(
            report
                .messages
                .starts_with("dynakv: DYNAKV_PORT=\"eighty\""),
            "{}",
            report.messages
        );
    }
}
