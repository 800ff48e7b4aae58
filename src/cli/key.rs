//! A key on the command line: text, any bytes in base64, and how it is shown.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Serialize;

/// Base64 as it is printed, with or without the padding at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key that a command is about.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct KeyArgs {
    /// The key
    #[arg(required_unless_present = "key_base64", conflicts_with = "key_base64")]
    key: Option<OsString>,
    /// The key in base64, in place of KEY: for one that is no text, or begins with -
    #[arg(long, value_name = "KEY", value_parser = parse_base64)]
    key_base64: Option<Bytes>,
}

impl KeyArgs {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> Bytes {
        match (&self.key_base64, &self.key) {
            (Some(key), _) => key.clone(),
            (None, Some(key)) => bytes_of(key),
            // One of them is required; an empty key is refused later.
            (None, None) => Bytes::new(),
        }
    }
}

/// An argument as it came, whether it is text or not.
pub(crate) fn bytes_of(argument: &OsStr) -> Bytes {
    Bytes::copy_from_slice(argument.as_bytes())
}

/// Reads `--key-base64`.
///
/// # Errors
/// A message for people.
pub(crate) fn parse_base64(text: &str) -> Result<Bytes, String> {
    let decoded = BASE64.decode(text);
    decoded
        .map(Bytes::from)
        .map_err(|error| format!("{error}: give the key in standard base64, as commands print it"))
}

/// A key in a sentence: in double quotes and on one line.
pub(crate) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", key.escape_ascii()),
    }
}

/// A key in JSON: as text where it is text, otherwise in base64, and said so.
#[derive(Debug, Serialize)]
pub(crate) struct KeyFields {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
}

impl KeyFields {
    /// The fields of a key.
    pub(crate) fn new(key: &[u8]) -> Self {
        match std::str::from_utf8(key) {
            Ok(text) => Self {
                key: text.to_owned(),
                key_encoding: None,
            },
            Err(_) => Self {
                key: STANDARD.encode(key),
                key_encoding: Some("base64"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_can_be_given() {
        assert_eq!(parse_base64("/wA=").unwrap(), &b"\xff\0"[..]);
        assert_eq!(parse_base64("/wA").unwrap(), &b"\xff\0"[..]);
        assert!(parse_base64("not base64").is_err());
    }

    #[test]
    fn any_key_can_be_shown() {
        assert_eq!(shown("schön \"x\"\n".as_bytes()), r#""schön \"x\"\n""#);
        assert_eq!(shown(b"\xff\""), r#"b"\xff\"""#);
        let json = |key: &[u8]| serde_json::to_string(&KeyFields::new(key)).unwrap();
        assert_eq!(json(b"k"), r#"{"key":"k"}"#);
        assert_eq!(json(b"\xff\0"), r#"{"key":"/wA=","key_encoding":"base64"}"#);
    }
}
