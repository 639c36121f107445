//! What the command line says, word for word. `UPDATE_EXPECT=1` writes it anew.

use aber_tests::process::run::Ran;
use aber_tests::process::{Cluster, Node};
use std::fmt::Write;

/// Replaces every run of characters that `is_part` takes after each `mark` by `name`.
fn replace_after(text: &str, mark: &str, is_part: impl Fn(char) -> bool, name: &str) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(&is_part);
        out.push_str(mark);
        out.push_str(if rest.len() < part.len() { name } else { "" });
        out.push_str(rest);
    }
    out
}

/// `2026-11-22T15:07:00Z` as `TIME`.
fn without_times(line: &str) -> String {
    let is_time = |word: &str| {
        word.len() == 20 && word.ends_with('Z') && word.as_bytes().get(10) == Some(&b'T')
    };
    let words: Vec<_> = line
        .split(' ')
        .map(|word| if is_time(word) { "TIME" } else { word })
        .collect();
    words.join(" ")
}

/// What a command said, without what differs from run to run.
pub(crate) fn plain(cluster: &Cluster, text: &str) -> String {
    let directory = cluster.directory.path().display().to_string();
    let text = text.replace(&directory, "DIR");
    let text = replace_after(&text, "127.0.0.1:", |c| c.is_ascii_digit(), "PORT");
    let text = replace_after(&text, "process ", |c| c.is_ascii_digit(), "PID");
    let text = replace_after(&text, "digest ", |c| c.is_ascii_hexdigit(), "DIGEST");
    let text = replace_after(&text, "led by ", |c| c.is_alphanumeric(), "LEADER");
    let text = replace_after(&text, "its cluster is ", |c| c.is_ascii_hexdigit(), "OTHER");
    let text = replace_after(&text, "OTHER, not ", |c| c.is_ascii_hexdigit(), "THIS");
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            let line = without_times(line);
            line.split("   leads ")
                .next()
                .unwrap_or_default()
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.join("\n") + "\n"
}

/// A command line and all it said.
pub(crate) fn transcript(
    cluster: &Cluster,
    node: &Node,
    rows: &[(&[&str], &[u8])],
) -> anyhow::Result<String> {
    let mut text = String::new();
    for (arguments, input) in rows {
        let ran = node.aber_with(arguments, input, aber_tests::process::PATIENCE)?;
        say(cluster, &mut text, &arguments.join(" "), &ran);
    }
    Ok(text)
}

/// Adds a command and what it said to a transcript.
pub(crate) fn say(cluster: &Cluster, text: &mut String, arguments: &str, ran: &Ran) {
    let arguments = match arguments.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &arguments[..cut]),
        None => arguments.to_owned(),
    };
    let said = plain(cluster, &(arguments + "\n" + &ran.stdout + &ran.stderr));
    let _ = write!(text, "$ aber {said}");
    if ran.code != 0 {
        let _ = writeln!(text, "exit {}", ran.code);
    }
}
