//! Words of commands that are printed to be typed: they mean the same to a POSIX shell, whatever they hold.

/// What a shell takes as it stands, beside letters and digits.
const PLAIN: &[u8] = b"-_.:/@%+,=";

/// A word as a shell takes it: as it is where that does, in single quotes otherwise. Nothing is special between
/// those, not even an exclamation mark to an interactive shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || PLAIN.contains(byte);
    if !word.is_empty() && word.as_bytes().iter().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        for (word, expected) in [
            ("user:1", "user:1"),
            ("a/b-c_d.e@f%g+h,i=j", "a/b-c_d.e@f%g+h,i=j"),
            ("", "''"),
            ("two words", "'two words'"),
            ("it's", r"'it'\''s'"),
            ("$HOME `id` \\ \" ! ~ *", "'$HOME `id` \\ \" ! ~ *'"),
            ("schön", "'schön'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
