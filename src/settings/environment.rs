//! Settings from `DYNAKV_*` variables.
//!
//! One rule for all, by what a variable holds:
//!
//! | It | so |
//! |---|---|
//! | describes a Kubernetes service | ignored, with a warning |
//! | is of no setting | ignored, with a warning and the name that may have been meant |
//! | is empty | an error: whoever set it meant something, and the default may be another directory |
//! | is no UTF-8 | an error, but for a path, which may have any bytes |
//! | holds no value of its setting's kind | an error |

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use super::nearest::nearest;
use super::renamed::RENAMED;
use super::{Layer, SettingsError};

/// Variables that other parts of dynakv read.
const OTHER_VARIABLES: [&str; 2] = ["DYNAKV_CONFIG", "DYNAKV_SERVERS"];

const PREFIX: &str = "DYNAKV_";

/// Takes the settings out of the environment, with a warning for each `DYNAKV_*` variable that is no
/// setting.
///
/// Kubernetes gives every container variables about the services around it: for a service named
/// `dynakv` also `DYNAKV_PORT=tcp://…`, for `dynakv-http` `DYNAKV_HTTP_PORT=tcp://…`. They must not keep a
/// node from starting.
///
/// # Errors
/// [`SettingsError::Variable`].
pub fn read_environment<N: Into<OsString>, V: Into<OsString>>(
    variables: impl IntoIterator<Item = (N, V)>,
) -> Result<(Layer, Vec<String>), SettingsError> {
    let mut layer = Layer::default();
    let mut warnings = Vec::new();
    let variables = variables.into_iter();
    let mut variables: Vec<_> = variables.map(|(n, v)| (n.into(), v.into())).collect();
    // Of several that are wrong always the same one is named.
    variables.sort();
    let names = variables.iter().filter_map(|(name, _)| name.to_str());
    let variables_given: BTreeSet<String> = names.map(str::to_owned).collect();
    for (variable, value) in variables {
        if !variable.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Some(name) = variable.to_str() else {
            let shown = variable.to_string_lossy();
            warnings.push(format!("{shown} is ignored: there is no such setting"));
            continue;
        };
        if OTHER_VARIABLES.contains(&name) {
            continue;
        }
        if is_service_link(name, &value) {
            warnings.push(format!(
                "{name}={} is ignored: it describes a Kubernetes service (enableServiceLinks: false keeps it away)",
                value.to_string_lossy()
            ));
            continue;
        }
        let renamed = RENAMED.iter().find(|it| it.variable_before == name);
        let name = match renamed {
            // Whoever says both means the present one.
            Some(it) if variables_given.contains(it.variable_now) => continue,
            Some(it) => {
                warnings.push(format!("{name}: {it}"));
                it.variable_now
            }
            None => name,
        };
        match take(&mut layer, name, &value) {
            Ok(true) => {}
            Ok(false) => {
                let names = Layer::NAMES.iter().map(|(_, variable)| *variable);
                let meant = nearest(name, names.chain(OTHER_VARIABLES));
                let meant = meant.map(|meant| format!(", did you mean {meant}?"));
                warnings.push(format!(
                    "{name} is ignored: there is no such setting{}",
                    meant.unwrap_or_default()
                ));
            }
            Err(reason) => {
                return Err(SettingsError::Variable {
                    variable: name.to_owned(),
                    value: value.to_string_lossy().into_owned(),
                    reason,
                });
            }
        }
    }
    Ok((layer, warnings))
}

fn take(layer: &mut Layer, name: &str, value: &OsStr) -> Result<bool, String> {
    if !Layer::NAMES.iter().any(|(_, variable)| *variable == name) {
        return Ok(false);
    }
    if value.is_empty() {
        return Err(format!(
            "it is empty, which says nothing: give it a value, or take it away (unset {name})"
        ));
    }
    layer.take_variable(name, value)
}

/// Whether it is what Kubernetes tells of a service: an address with a protocol, which no setting is, or one
/// of the other names that it makes for each.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let protocols = ["tcp://", "udp://", "sctp://"];
    if protocols.iter().any(|protocol| value.starts_with(protocol)) {
        return true;
    }
    let is_setting = Layer::NAMES.iter().any(|(_, variable)| *variable == name);
    let parts = ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_UDP", "_SCTP"];
    !is_setting && parts.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::Span;
    use super::*;

    #[test]
    fn an_unknown_variable_only_warns_and_says_what_may_have_been_meant() {
        let (layer, warnings) = read_environment([
            ("DYNAKV_SERVICE_HOST", "10.0.0.1"),
            ("DYNAKV_PORT", "tcp://10.0.0.1:8080"),
            ("DYNAKV_HTTP_PORT", "tcp://10.0.0.1:9080"),
            ("DYNAKV_HTTP_PORT_9080_TCP_ADDR", "10.0.0.1"),
            ("DYNAKV_DATADIR", "/data"),
            ("DYNAKV_UNHEARD_OF", ""),
            ("DYNAKV_SERVERS", "a:1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(layer, Layer::default());
        let of_services = warnings.iter().filter(|it| it.contains("Kubernetes"));
        assert_eq!(of_services.count(), 4, "{warnings:?}");
        let others: Vec<_> = warnings
            .iter()
            .filter(|it| !it.contains("Kubernetes"))
            .collect();
        assert_eq!(
            others,
            [
                "DYNAKV_DATADIR is ignored: there is no such setting, did you mean DYNAKV_DATA_DIR?",
                "DYNAKV_UNHEARD_OF is ignored: there is no such setting",
            ]
        );
    }

    #[test]
    fn every_variable_reaches_its_setting() {
        let (layer, _) = read_environment([
            ("DYNAKV_SEED", "a:1, b:2,"),
            ("DYNAKV_BOOTSTRAP", "true"),
            ("DYNAKV_HTTP_HOST", "::1"),
            ("DYNAKV_SUSPECT_AFTER", "4s"),
            ("DYNAKV_LOG", "warn,dynakv=debug"),
        ])
        .unwrap();
        assert_eq!(layer.seed.unwrap(), ["a:1", "b:2"]);
        assert_eq!(layer.bootstrap, Some(true));
        assert_eq!(layer.http_host, Some("::1".parse().unwrap()));
        assert_eq!(layer.suspect_after, Some(Span(Duration::from_secs(4))));
        assert_eq!(layer.log.unwrap().as_str(), "warn,dynakv=debug");
    }

    /// Also the ones that are empty, or no text: by the table, so that no setting has a rule of its own.
    #[test]
    fn what_is_no_value_is_an_error_for_every_setting() {
        let no_text = || OsString::from_vec(b"\xff".to_vec());
        for &(name, variable) in Layer::NAMES {
            for (value, reason) in [(OsString::new(), "empty"), (no_text(), "UTF-8")] {
                let read = read_environment([(variable, value)]);
                if name == "data_dir" && reason == "UTF-8" {
                    let (layer, _) = read.unwrap();
                    assert_eq!(layer.data_dir, Some(PathBuf::from(no_text())));
                    continue;
                }
                let error = read.unwrap_err().to_string();
                assert!(error.starts_with(variable), "{error}");
                assert!(error.contains(reason), "{error}");
            }
        }
        let error = read_environment([("DYNAKV_PORT", "eighty")]).unwrap_err();
        assert!(
            error.to_string().starts_with("DYNAKV_PORT=\"eighty\""),
            "{error}"
        );
        // No seeds at all would found a cluster.
        assert!(read_environment([("DYNAKV_SEED", " , ")]).is_err());
        let name = OsString::from_vec(b"DYNAKV_\xff".to_vec());
        let (_, warnings) = read_environment([(name, "1")]).unwrap();
        assert_eq!(warnings.len(), 1);
    }
}
