//! [pure] Rust source without what the checks must not read: comments, texts, tests.
//!
//! [`code`] blanks comments and literals, keeping lines; [`without_tests`] drops each item under
//! `#[cfg(test)]`. No parser: strings (raw ones too), characters, lifetimes and nested comments are
//! told apart, which is all that counting words and braces needs.

use std::iter::Peekable;
use std::str::Chars;

/// The source with comments and the inside of literals replaced by spaces; newlines stay.
#[must_use]
pub fn code(source: &str) -> String {
    let mut scan = Scan {
        rest: source.chars().peekable(),
        out: String::with_capacity(source.len()),
    };
    let mut in_word = false;
    while let Some(next) = scan.rest.next() {
        match next {
            '/' if scan.rest.peek() == Some(&'/') => scan.line_comment(),
            '/' if scan.rest.peek() == Some(&'*') => scan.block_comment(),
            '"' => scan.string(),
            '\'' => scan.quote(),
            'r' if !in_word && matches!(scan.rest.peek(), Some('"' | '#')) => scan.raw(),
            other => scan.out.push(other),
        }
        in_word = next == '_' || (next.is_alphanumeric() && !matches!(next, 'b' | 'c'));
    }
    scan.out
}

struct Scan<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

impl Scan<'_> {
    fn blank(&mut self, character: char) {
        self.out.push(if character == '\n' { '\n' } else { ' ' });
    }

    fn line_comment(&mut self) {
        self.out.push(' ');
        while let Some(next) = self.rest.next_if(|next| *next != '\n') {
            self.blank(next);
        }
    }

    fn block_comment(&mut self) {
        let (mut depth, mut before) = (0_u32, '/');
        self.out.push(' ');
        while let Some(next) = self.rest.next() {
            self.blank(next);
            match (before, next) {
                ('/', '*') => (depth, before) = (depth + 1, ' '),
                ('*', '/') => (depth, before) = (depth - 1, ' '),
                _ => before = next,
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.out.push('"');
        while let Some(next) = self.rest.next() {
            match next {
                '"' => return self.out.push('"'),
                '\\' => {
                    self.blank(next);
                    if let Some(escaped) = self.rest.next() {
                        self.blank(escaped);
                    }
                }
                other => self.blank(other),
            }
        }
    }

    /// A character, or the tick of a lifetime.
    fn quote(&mut self) {
        let mut ahead = self.rest.clone();
        let (first, second) = (ahead.next(), ahead.next());
        if first != Some('\\') && second != Some('\'') {
            return self.out.push('\'');
        }
        self.out.push('\'');
        while let Some(next) = self.rest.next() {
            match next {
                '\'' => return self.out.push('\''),
                '\\' => {
                    self.blank(next);
                    self.rest.next();
                    self.out.push(' ');
                }
                other => self.blank(other),
            }
        }
    }

    /// After an `r`: a raw string, or a raw name.
    fn raw(&mut self) {
        self.out.push('r');
        let mut hashes = 0;
        while self.rest.next_if_eq(&'#').is_some() {
            hashes += 1;
            self.out.push('#');
        }
        if self.rest.next_if_eq(&'"').is_none() {
            return;
        }
        self.out.push('"');
        while let Some(next) = self.rest.next() {
            let mut ahead = self.rest.clone();
            if next == '"' && (0..hashes).all(|_| ahead.next() == Some('#')) {
                self.rest = ahead;
                return self.out.push('"');
            }
            self.blank(next);
        }
    }
}

/// What [`code`] gave, without the items under `#[cfg(test)]`.
#[must_use]
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some((before, item)) = rest.split_once(MARK) {
        out.push_str(before);
        rest = after_item(item);
    }
    out.push_str(rest);
    out
}

/// What follows an item: behind its `;`, or behind the brace that closes it.
fn after_item(item: &str) -> &str {
    let mut depth = 0_usize;
    for (at, character) in item.char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return item.split_at(at + 1).1,
            _ => continue,
        }
        if character == '}' && depth == 0 {
            return item.split_at(at + 1).1;
        }
    }
    ""
}

/// The words of code: runs of letters, digits and `_`.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(source: &str) -> Vec<String> {
        words(&without_tests(&code(source)))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn comments_are_no_code() {
        assert_eq!(
            words_of("a // async\nb /* Env /* deep */ x */ c //! d"),
            ["a", "b", "c"]
        );
        assert_eq!(code("a\n/* b\nc */\nd").lines().count(), 4);
    }

    #[test]
    fn texts_and_characters_are_no_code() {
        assert_eq!(
            words_of(r#"f("async \" Env", 'E', '\'', '\\') g"#),
            ["f", "g"]
        );
        let raw = "f(r#\"async \" Env\"#, br\"Env\") g r#type";
        assert_eq!(words_of(raw), ["f", "r", "br", "g", "r", "type"]);
    }

    #[test]
    fn lifetimes_are_code() {
        assert_eq!(
            words_of("fn f<'a>(x: &'a str) -> &'static str { '{' }").len(),
            8
        );
        assert_eq!(words_of("x: &'a T, y: 'b'"), ["x", "a", "T", "y"]);
    }

    #[test]
    fn what_is_under_cfg_test_goes() {
        let source =
            "a #[cfg(test)]\nmod tests { fn f(x: [u8; 2]) { g(); } } b #[cfg(test)] mod t; c";
        assert_eq!(words_of(source), ["a", "b", "c"]);
    }

    #[test]
    fn an_unfinished_source_ends() {
        for source in ["/* a", "\"a", "'\\", "r#\"a", "#[cfg(test)] mod a {", "'"] {
            let _ = words_of(source);
        }
    }
}
