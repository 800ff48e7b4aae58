//! A Rust source, read just well enough to ask it questions: code apart from comments and strings,
//! tests apart from the rest, and every path that is named, `use` groups spelt out.
//!
//! This is no parser. It knows comments, string and character literals, braces and paths, which is all
//! that the checks need, and it errs on the side of reporting.

use std::ops::Range;

/// One source file.
pub(crate) struct Source {
    /// Relative to the root of the repository, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) raw: Vec<String>,
    /// Comments and the contents of literals replaced by blanks; as many lines as `raw`.
    pub(crate) code: Vec<String>,
    /// Whether a line has a plain `//` or `/* */` comment (documentation does not count).
    pub(crate) commented: Vec<bool>,
    /// Whether a line belongs to tests.
    pub(crate) test: Vec<bool>,
}

/// A path such as `std::net::TcpStream`, and the line it is on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    pub(crate) imported: bool,
    /// Whether it is imported for others, too.
    pub(crate) public: bool,
}

impl Named {
    /// Whether the path is this one or lies below it.
    pub(crate) fn is_below(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix
            .split("::")
            .all(|p| segments.next().is_some_and(|s| s == p))
    }
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let lines = |text: &str| text.split('\n').map(str::to_owned).collect::<Vec<_>>();
        let code = lines(&code);
        let commented = lines(&comments)
            .iter()
            .map(|line| line.contains('/'))
            .collect();
        let mut test = vec![is_test_file(path); code.len()];
        for lines in test_items(&code) {
            test[lines].fill(true);
        }
        Self {
            path: path.to_owned(),
            raw: lines(text),
            code,
            commented,
            test,
        }
    }

    /// The lines of code that are no tests, numbered from 0.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().map(String::as_str).enumerate();
        lines.filter(|(line, _)| !self.test[*line])
    }

    /// Whether there is nothing but tests in it.
    pub(crate) fn is_test(&self) -> bool {
        self.test.iter().all(|test| *test)
    }

    /// The modules inside this file that a line stands in, from the outermost.
    pub(crate) fn inline_modules(&self, line: usize) -> Vec<String> {
        let around = self.code.iter().enumerate().take(line + 1);
        let opened = around.filter_map(|(from, code)| {
            let name = code.trim().strip_suffix('{')?.rsplit_once("mod ")?.1;
            (item_end(&self.code, from) > line).then(|| name.trim().to_owned())
        });
        opened.collect()
    }

    /// How many lines the file has without its tests.
    pub(crate) fn product_length(&self) -> usize {
        self.test.iter().filter(|test| !**test).count()
    }

    /// The modules this file declares for tests only, as paths without `.rs`.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let below = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            Some(_) | None => stem,
        };
        let beside = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let declared = |(line, code): (usize, &String)| {
            let code = code.trim().trim_start_matches("pub(crate) ");
            let name = code.strip_prefix("mod ")?.strip_suffix(';')?;
            // `#[path = "other.rs"]` stands on the line above, and its text is a literal.
            let above = line.checked_sub(1).map_or("", |above| &self.raw[above]);
            let module = match above.trim().strip_prefix("#[path = \"") {
                Some(file) => format!("{beside}/{}", file.split(".rs").next()?),
                None => format!("{below}/{name}"),
            };
            self.test[line].then_some(module)
        };
        self.code.iter().enumerate().filter_map(declared).collect()
    }

    /// Every path in the code that is no test.
    pub(crate) fn paths(&self) -> Vec<Named> {
        let mut text = String::new();
        for (line, code) in self.code.iter().enumerate() {
            if !self.test[line] {
                text.push_str(code);
            }
            text.push('\n');
        }
        paths(&text)
    }
}

/// Folders whose files are nothing but tests, and the usual name of a module of tests.
fn is_test_file(path: &str) -> bool {
    let folders: Vec<_> = path.split('/').collect();
    folders.contains(&"tests") || folders.contains(&"benches") || path.ends_with("/tests.rs")
}

/// The text twice, each as long as the original: once with code only, once with comments only.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < chars.len() {
        let (end, kind) = token(&chars, at);
        for (i, c) in chars[at..end].iter().enumerate() {
            let blank = if *c == '\n' { '\n' } else { ' ' };
            let ends = i == 0 || i + 1 == end - at;
            code.push(match kind {
                Token::Code => *c,
                Token::Literal if ends => *c,
                Token::Literal | Token::Comment | Token::Documentation => blank,
            });
            comments.push(match kind {
                Token::Comment => *c,
                Token::Code | Token::Literal | Token::Documentation => blank,
            });
        }
        at = end;
    }
    (code, comments)
}

#[derive(Clone, Copy)]
enum Token {
    Code,
    Literal,
    Comment,
    Documentation,
}

/// Where the token that begins here ends, and what it is.
fn token(chars: &[char], at: usize) -> (usize, Token) {
    let peek = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
    let until = |from: usize, done: &dyn Fn(usize) -> bool| {
        let end = (from..chars.len()).find(|i| done(*i));
        end.unwrap_or(chars.len())
    };
    match (chars[at], peek(1)) {
        ('/', '/') => {
            let end = until(at, &|i| chars[i] == '\n');
            let documents = matches!(peek(2), '/' | '!') && peek(3) != '/';
            let kind = if documents {
                Token::Documentation
            } else {
                Token::Comment
            };
            (end, kind)
        }
        ('/', '*') => {
            let (mut depth, mut i) = (0_usize, at);
            while i < chars.len() {
                match (chars[i], chars.get(i + 1)) {
                    ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
                    ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            let documents = matches!(peek(2), '*' | '!') && peek(3) != '/';
            let kind = if documents {
                Token::Documentation
            } else {
                Token::Comment
            };
            (i.min(chars.len()), kind)
        }
        ('"', _) => (quoted(chars, at, '"'), Token::Literal),
        ('r', '"' | '#') if !follows_word(chars, at) || raw_prefix(chars, at) => {
            let hashes = (at + 1..chars.len())
                .take_while(|i| chars[*i] == '#')
                .count();
            let open = at + 1 + hashes;
            if chars.get(open) != Some(&'"') {
                return (at + 1, Token::Code);
            }
            let closes = |i: usize| {
                chars[i] == '"' && (1..=hashes).all(|ahead| chars.get(i + ahead) == Some(&'#'))
            };
            let end = until(open + 1, &closes);
            ((end + 1 + hashes).min(chars.len()), Token::Literal)
        }
        // A character; a lifetime has no closing quote right behind it.
        ('\'', '\\') => (quoted(chars, at, '\''), Token::Literal),
        ('\'', _) if peek(2) == '\'' => (at + 3, Token::Literal),
        _ => (at + 1, Token::Code),
    }
}

/// The end of a literal that knows escapes.
fn quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

/// `br"…"` and `cr"…"`.
fn raw_prefix(chars: &[char], at: usize) -> bool {
    at > 0 && matches!(chars[at - 1], 'b' | 'c') && !follows_word(chars, at - 1)
}

/// The lines of each item under `#[cfg(test)]` or `#[test]`, the attribute included.
fn test_items(code: &[String]) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    let mut line = 0;
    while line < code.len() {
        let first = code[line].trim_start();
        let is_test = [
            "#[cfg(test)]",
            "#[cfg(all(test",
            "#[test]",
            "#[cfg(any(test",
        ];
        if !is_test.iter().any(|attribute| first.starts_with(attribute)) {
            line += 1;
            continue;
        }
        let end = item_end(code, line);
        items.push(line..end);
        line = end;
    }
    items
}

/// The line after an item: behind its closing brace, or behind a `;` or `,` that comes before any brace
/// (a field or a variant under an attribute ends so).
fn item_end(code: &[String], from: usize) -> usize {
    let (mut braces, mut brackets) = (0_i32, 0_i32);
    for (line, text) in code.iter().enumerate().skip(from) {
        for c in text.chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                '{' => braces += 1,
                '}' => {
                    braces -= 1;
                    if braces <= 0 {
                        return line + 1;
                    }
                }
                ';' | ',' if braces == 0 && brackets == 0 => return line + 1,
                _ => {}
            }
        }
    }
    code.len()
}

/// Every path of the text: those written out, and those that `use` groups stand for.
fn paths(text: &str) -> Vec<Named> {
    let mut named = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut at, mut line) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        if !is_word(c) {
            line += usize::from(c == '\n');
            at += c.len_utf8();
            continue;
        }
        let word = text[at..].split(|c| !is_word(c)).next().unwrap_or_default();
        if word == "use" {
            let tree = text[at + 3..].split(';').next().unwrap_or_default();
            let public = is_public(&text[..at]);
            let first = named.len();
            expand(tree, &[], line, &mut named);
            named[first..]
                .iter_mut()
                .for_each(|named| named.public = public);
            line += tree.matches('\n').count();
            at += 3 + tree.len();
            continue;
        }
        // What follows says who may see something, and uses nothing.
        if text[at..].starts_with("pub(in ") {
            at += text[at..].find(')').unwrap_or(word.len());
            continue;
        }
        let (segments, length) = path_at(&text[at..]);
        named.push(Named {
            line,
            segments,
            imported: false,
            public: false,
        });
        line += text[at..at + length].matches('\n').count();
        at += length;
    }
    named
}

/// Whether what comes behind this text is for others, too: it ends with `pub`, or with `pub(…)`.
fn is_public(before: &str) -> bool {
    let before = before.trim_end();
    let before = match before.rsplit_once('(') {
        Some((word, range)) if range.ends_with(')') && !range.contains(';') => word,
        _ => before,
    };
    before.ends_with("pub")
}

/// The path that begins here, and its length in bytes.
fn path_at(text: &str) -> (Vec<String>, usize) {
    let word_end = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        end.unwrap_or(text.len())
    };
    let mut segments = Vec::new();
    let mut at = 0;
    loop {
        let length = word_end(&text[at..]);
        if length == 0 {
            break;
        }
        segments.push(text[at..at + length].to_owned());
        let behind = &text[at + length..];
        let next = behind.trim_start();
        let Some(next) = next.strip_prefix("::") else {
            at += length;
            break;
        };
        let next = next.trim_start();
        if word_end(next) == 0 {
            at += length;
            break;
        }
        at = text.len() - next.len();
    }
    (segments, at)
}

/// Spells out a `use` tree.
fn expand(tree: &str, prefix: &[String], line: usize, named: &mut Vec<Named>) {
    let skipped = tree.len() - tree.trim_start().len();
    let line = line + tree[..skipped].matches('\n').count();
    let tree = tree.trim().trim_start_matches("::");
    let mut segments = prefix.to_vec();
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => {
            let group = group.trim_end();
            // One brace closes this group; more belong to groups inside it.
            (path, Some(group.strip_suffix('}').unwrap_or(group)))
        }
        None => (tree.split(" as ").next().unwrap_or_default(), None),
    };
    let parts = path
        .split("::")
        .map(str::trim)
        .filter(|part| !part.is_empty());
    segments.extend(parts.filter(|part| *part != "self").map(str::to_owned));
    let Some(group) = group else {
        named.push(Named {
            line,
            segments,
            imported: true,
            public: false,
        });
        return;
    };
    let mut from = 0;
    let mut depth = 0_i32;
    let mut line = line + path.matches('\n').count();
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth <= 0 => {
                let part = &group[from..at];
                if !part.trim().is_empty() {
                    expand(part, &segments, line, named);
                }
                line += part.matches('\n').count();
                from = (at + 1).min(group.len());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comments_and_literals_are_told_apart() {
        let text = "let a = \"tokio // no\"; // sled\n/// doc\n/* x /* y */ z */ b('\"', 'c, r#\"q\"u\"#);";
        let source = Source::new("x.rs", text);
        let code = source.code.join("\n");
        assert_eq!(code.len(), text.len());
        for hidden in ["tokio", "sled", "doc", "x", "y", "z", "q\"u"] {
            assert!(!code.contains(hidden), "{hidden} in {code}");
        }
        assert!(code.contains("b(") && code.contains("'c, r"), "{code}");
        assert_eq!(source.commented, [true, false, true]);
    }

    #[test]
    fn tests_are_set_apart() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { \"}\"; }\n}\nfn c() {}\n\
                    #[cfg(test)]\nmod simulation;\nfn d() {}\n#[test]\nfn e()\n{\n}\nfn f() {}";
        let source = Source::new("src/engine/mod.rs", text);
        let product: Vec<_> = source.product_lines().map(|(_, code)| code).collect();
        assert_eq!(
            product,
            ["fn a() {}", "fn c() {}", "fn d() {}", "fn f() {}"]
        );
        assert_eq!(source.product_length(), 4);
        assert_eq!(source.test_modules(), ["src/engine/simulation"]);
        let elsewhere = "#[cfg(test)]\n#[path = \"ring_tests.rs\"]\nmod tests;\nmod real;";
        let source = Source::new("src/engine/ring.rs", elsewhere);
        assert_eq!(source.test_modules(), ["src/engine/ring_tests"]);
        assert_eq!(Source::new("tests/a.rs", "fn a() {}").product_length(), 0);
    }

    #[test]
    fn use_groups_are_spelt_out_with_their_lines() {
        let text =
            "use std::{\n    fs, net::TcpStream as T,\n    io::{self, Read}};\nlet x = a::b ::c();";
        let spelt: Vec<_> = paths(text)
            .iter()
            .map(|named| (named.line + 1, named.segments.join("::")))
            .collect();
        let expected = [
            (2, "std::fs"),
            (2, "std::net::TcpStream"),
            (3, "std::io"),
            (3, "std::io::Read"),
            (4, "let"),
            (4, "x"),
            (4, "a::b::c"),
        ];
        assert_eq!(spelt, expected.map(|(line, path)| (line, path.to_owned())));
    }
}
