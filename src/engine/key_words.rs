//! A key in a command that is printed to be typed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dynakv_protocol::shell::quoted;

/// The key where a command takes it in its place: quoted for a shell, or as `--key-base64`.
pub fn positional(key: &[u8]) -> String {
    typed(key).unwrap_or_else(|| in_base64(key))
}

/// The key where a command takes it as an option.
pub fn option(key: &[u8]) -> String {
    typed(key).map_or_else(|| in_base64(key), |key| format!("--key {key}"))
}

/// Nothing where it is no text that can be typed, or would pass for an option.
fn typed(key: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(key).ok()?;
    let can_be_typed = !text.starts_with('-') && !text.chars().any(char::is_control);
    can_be_typed.then(|| quoted(text))
}

fn in_base64(key: &[u8]) -> String {
    // Its characters are plain to a shell, and none of them is a dash.
    format!("--key-base64 {}", STANDARD.encode(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_typed_as_they_can_be() {
        for (key, expected) in [
            (&b"user:1"[..], "user:1"),
            (b"two words", "'two words'"),
            (b"-k", "--key-base64 LWs="),
            (b"a\nb", "--key-base64 YQpi"),
            (b"\xff\0", "--key-base64 /wA="),
        ] {
            assert_eq!(positional(key), expected);
        }
        assert_eq!(option(b"it's"), r"--key 'it'\''s'");
        assert_eq!(option(b"-k"), "--key-base64 LWs=");
    }
}
