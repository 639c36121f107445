//! [pure] Documents: links lead somewhere, and each promise is named by a test.
//!
//! A test names a promise in its doc comment, or in the `//!` of a file of tests. The promises are
//! the first cells of the tables in [`INVARIANTS`]; those under a heading that begins with "Open"
//! wait for their test and are not asked for.

use super::Problem;
use std::collections::BTreeSet;

/// The document that lists promises.
pub const INVARIANTS: &str = "docs/invariants.md";

/// Links of a document that lead to nothing.
#[must_use]
pub fn check_links(path: &str, text: &str, tracked: &BTreeSet<&str>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for target in links(text).filter(|target| !is_elsewhere(target)) {
        let file = target.split(['#', '?']).next().unwrap_or_default();
        if !file.is_empty() && !exists(path, file, tracked) {
            problems.push(Problem::new(
                path,
                format!("links to {target}, which is not there"),
            ));
        }
    }
    problems
}

/// The targets of `[text](target)`, code left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    let prose = text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    prose.flat_map(|line| {
        // Between backticks, at odd places, stands code.
        let outside = line.split('`').step_by(2);
        outside.flat_map(|part| {
            part.split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
        })
    })
}

fn is_elsewhere(target: &str) -> bool {
    target.starts_with('#') || target.contains("://") || target.starts_with("mailto:")
}

/// Whether a link from the document at `from` leads to a tracked file, or to a directory of some.
fn exists(from: &str, link: &str, tracked: &BTreeSet<&str>) -> bool {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if link.starts_with('/') {
        return false;
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return false;
                }
            }
            name => parts.push(name),
        }
    }
    let path = parts.join("/");
    let below = format!("{path}/");
    path.is_empty()
        || tracked.contains(path.as_str())
        || tracked
            .range(below.as_str()..)
            .next()
            .is_some_and(|next| next.starts_with(&below))
}

/// Promises that no test names, and a list without any.
#[must_use]
pub fn check_promises(invariants: &str, named: &BTreeSet<String>) -> Vec<Problem> {
    let listed = promises(invariants);
    if listed.is_empty() {
        return vec![Problem::new(INVARIANTS, "lists no promise")];
    }
    let unnamed = listed.into_iter().filter(|id| !named.contains(*id));
    unnamed
        .map(|id| Problem::new(INVARIANTS, format!("{id} is named by no test")))
        .collect()
}

/// The ids that must be named: the first cells of table rows, without the open ones.
fn promises(invariants: &str) -> Vec<&str> {
    let mut open = false;
    let mut ids = Vec::new();
    for line in invariants.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            open = heading.trim_start_matches('#').trim().starts_with("Open");
        } else if let Some(row) = line.strip_prefix('|').filter(|_| !open) {
            let cell = row.split('|').next().unwrap_or_default().trim();
            if is_id(cell) {
                ids.push(cell);
            }
        }
    }
    ids
}

/// One letter and a number, as D1; or two capitals, a hyphen and a number, as NA-7.
fn is_id(word: &str) -> bool {
    let (letters, number) = match word.split_once('-') {
        Some((letters, number)) if letters.len() == 2 => (letters, number),
        Some(_) => return false,
        None => word.split_at(word.len().min(usize::from(word.is_ascii()))),
    };
    !letters.is_empty()
        && letters.bytes().all(|byte| byte.is_ascii_uppercase())
        && (1..=3).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The ids named by the tests of a source.
#[must_use]
pub fn ids_named_by_tests(source: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut block: Vec<&str> = Vec::new();
    let mut is_test = false;
    let has_tests = source.contains("test]") || source.contains("test(");
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("///") || line.starts_with("#[") {
            is_test |= is_test_attribute(line);
            block.push(line);
        } else if line.starts_with("//!") && has_tests {
            ids.extend(ids_of(line));
        } else {
            if is_test {
                let docs = block.iter().filter(|line| line.starts_with("///"));
                ids.extend(docs.flat_map(|line| ids_of(line)));
            }
            block.clear();
            is_test = false;
        }
    }
    ids
}

fn is_test_attribute(line: &str) -> bool {
    let name = line
        .trim_start_matches("#[")
        .split(['(', ']'])
        .next()
        .unwrap_or_default();
    name == "test" || name.ends_with("::test")
}

fn ids_of(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .filter(|word| is_id(word))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let tracked = BTreeSet::from(["README.md", "docs/format.md", "docs/x/y.md", "log/a.rs"]);
        check_links(path, text, &tracked)
            .into_iter()
            .map(|p| p.text)
            .collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let text = "[a](docs/format.md#x) [b](./log) [c](docs/x/) [d](https://x.org/y) [e](#here)";
        assert_eq!(found("README.md", text), [""; 0]);
        assert_eq!(
            found("docs/format.md", "[a](../README.md) [b](x/y.md) [c](..)"),
            [""; 0]
        );
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let want = ["links to docs/none.md, which is not there"];
        assert_eq!(found("README.md", "see [a](docs/none.md)."), want);
        assert_eq!(found("docs/format.md", "[a](docs/format.md)").len(), 1);
        assert_eq!(
            found("README.md", "[a](../up.md) [b](/etc/passwd)").len(),
            2
        );
    }

    #[test]
    fn links_in_code_are_none() {
        assert_eq!(
            found("README.md", "`[a](b)` x\n```\n[a](b)\n```\n[c](log/a.rs)"),
            [""; 0]
        );
    }

    #[test]
    fn promises_are_the_first_cells_of_tables() {
        let text =
            "| id | x |\n|---|---|\n| D1 | a |\n| NA-7 | b |\n| Dx | c |\n\n## Open\n| D2 | d |\n";
        assert_eq!(promises(text), ["D1", "NA-7"]);
        let named = BTreeSet::from(["D1".to_owned()]);
        let problems = check_promises(text, &named);
        assert_eq!(
            problems,
            [Problem::new(INVARIANTS, "NA-7 is named by no test")]
        );
        assert_eq!(check_promises("nothing", &named).len(), 1);
    }

    #[test]
    fn ids_have_one_shape() {
        for id in ["D1", "S13", "NA-7", "MA-12"] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "", "D", "1", "d1", "D1x", "N-7", "NA7", "B1-", "É1", "V1234", "UTF-8",
        ] {
            assert!(!is_id(word), "{word}");
        }
    }

    #[test]
    fn only_tests_name_promises() {
        let source = "//! D9\n/// D1, D2: x\n#[test]\nfn a() {}\n/// D3\nfn b() {}\n\
                      /// C1\n#[tokio::test(start_paused = true)]\n/// C2\nasync fn c() {}\n";
        let ids: Vec<String> = ids_named_by_tests(source).into_iter().collect();
        assert_eq!(ids, ["C1", "C2", "D1", "D2", "D9"]);
        assert!(ids_named_by_tests("//! D9\n/// D1\nfn a() {}").is_empty());
    }
}
