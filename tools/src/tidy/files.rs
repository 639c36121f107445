//! [pure] Files: length, first line, kind, size.
//!
//! A source opens with `//!`. Where its first line names a kind, the kind is one of the three, and
//! a `[pure]` one has no `async` and no `Env` outside its tests.

use super::source::{code, without_tests, words};
use super::{Problem, Tracked};

/// Nothing larger is kept in git.
pub const SIZE_MAX_BYTES: u64 = 256 * 1024;
/// No source is longer.
pub const LINES_MAX: usize = 500;

const KINDS: [&str; 3] = ["[pure]", "[driver]", "[adapter]"];
/// Spelled in two halves, or this file would find itself.
const UNFINISHED: &str = concat!("FIX", "ME");

/// Problems of one file.
#[must_use]
pub fn check(file: &Tracked) -> Vec<Problem> {
    let mut texts = Vec::new();
    if file.size_bytes > SIZE_MAX_BYTES {
        texts.push(format!(
            "{} bytes; git holds at most {SIZE_MAX_BYTES}",
            file.size_bytes
        ));
    }
    if file.path.ends_with(".rs") {
        match &file.text {
            Some(text) => check_source(text, &mut texts),
            None => texts.push("is not UTF-8".to_owned()),
        }
    }
    texts
        .into_iter()
        .map(|text| Problem::new(file.path.as_str(), text))
        .collect()
}

fn check_source(text: &str, problems: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        problems.push(format!("{lines} lines; at most {LINES_MAX}"));
    }
    if text.contains(UNFINISHED) {
        problems.push(format!("has a {UNFINISHED}"));
    }
    let first = text.lines().next().unwrap_or_default();
    let Some(doc) = first.strip_prefix("//!") else {
        problems.push("does not open with `//!`".to_owned());
        return;
    };
    let Some(kind) = kind(doc) else { return };
    if !KINDS.contains(&kind) {
        problems.push(format!("{kind} is no kind: {}", KINDS.join(", ")));
    } else if kind == "[pure]" {
        let code = without_tests(&code(text));
        for word in ["async", "Env"] {
            if words(&code).any(|found| found == word) {
                problems.push(format!("is [pure] and has `{word}`"));
            }
        }
    }
}

/// The bracketed word a file's doc begins with.
fn kind(doc: &str) -> Option<&str> {
    let doc = doc.trim_start();
    let end = doc.find(']')?;
    doc.starts_with('[').then(|| doc.split_at(end + 1).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let file = Tracked {
            path: path.to_owned(),
            size_bytes: text.len() as u64,
            text: Some(text.to_owned()),
        };
        check(&file)
            .into_iter()
            .map(|problem| problem.text)
            .collect()
    }

    #[test]
    fn a_good_file_has_no_problem() {
        let pure = "//! [pure] Async and Env in words.\n// async Env\nfn f() {}\n\
                    #[cfg(test)]\nmod tests { async fn g<E: Env>() {} }\n";
        assert_eq!(problems("log/src/a.rs", pure), [""; 0]);
        assert_eq!(
            problems("log/src/lib.rs", "//! aber-log\nasync fn f() {}"),
            [""; 0]
        );
        assert_eq!(
            problems("log/src/a.rs", "//! [driver] x\nasync fn f<E: Env>() {}"),
            [""; 0]
        );
        assert_eq!(problems("README.md", "no doc\n"), [""; 0]);
    }

    #[test]
    fn pure_code_does_not_wait_and_has_no_env() {
        let found = problems("a.rs", "//! [pure] x\nasync fn f<E: Env>() {}");
        assert_eq!(
            found,
            ["is [pure] and has `async`", "is [pure] and has `Env`"]
        );
        assert_eq!(
            problems("a.rs", "//! [pure] x\nfn asynchronous(e: Envelope) {}"),
            [""; 0]
        );
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(problems("a.rs", "fn f() {}"), ["does not open with `//!`"]);
        assert_eq!(problems("a.rs", ""), ["does not open with `//!`"]);
        assert_eq!(problems("a.rs", "//! [prue] x").len(), 1);
    }

    #[test]
    fn long_large_and_unfinished_files_are_found() {
        let long = format!("//! x\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(problems("a.rs", &long), ["501 lines; at most 500"]);
        let unfinished = format!("//! x\n// {UNFINISHED}: y\n");
        assert_eq!(problems("a.rs", &unfinished).len(), 1);
        let large = Tracked {
            path: "a.bin".to_owned(),
            size_bytes: SIZE_MAX_BYTES + 1,
            text: None,
        };
        assert_eq!(check(&large).len(), 1);
    }
}
