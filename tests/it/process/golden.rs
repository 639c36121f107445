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

/// `3:1842` and `3:1842.1` as `P:I` and `P:I.1`: a change of leader takes an index, too.
fn without_index(word: &str) -> Option<String> {
    let (partition, rest) = word.split_once(':')?;
    let index: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let tail = rest.get(index.len()..)?;
    let is_id = is_number(partition) && is_number(&index);
    let is_end = tail.is_empty() || tail == "-" || tail.starts_with('.');
    (is_id && is_end).then(|| format!("P:I{tail}"))
}

/// Times and entries by their names; a line that had any loses its columns.
fn without_numbers(line: &str) -> String {
    // `12:31`, and the day where it is not today: at midnight either may be.
    let is_clock = |word: &str| match word.as_bytes() {
        [a, b, b':', c, d] => [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()),
        _ => false,
    };
    let is_time = |word: &str| {
        let is_stamp = word.len() == 20 && word.as_bytes().get(10) == Some(&b'T');
        is_stamp || is_clock(word)
    };
    let indent = line.len() - line.trim_start().len();
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| match without_index(word) {
            _ if is_time(word) => "TIME".to_owned(),
            Some(id) => id,
            None => word.to_owned(),
        })
        .collect();
    let words = words.join(" ");
    if words.contains("P:I") {
        format!("{}{words}", " ".repeat(indent))
    } else {
        line.to_owned()
    }
}

/// What a command said, without what differs from run to run.
pub(crate) fn plain(cluster: &Cluster, text: &str) -> String {
    let directory = cluster.directory.path().display().to_string();
    let text = text.replace(&directory, "DIR");
    let text = replace_after(&text, "127.0.0.1:", |c| c.is_ascii_digit(), "PORT");
    let text = replace_after(&text, "process ", |c| c.is_ascii_digit(), "PID");
    let is_digit = |c: char| c.is_ascii_digit();
    let text = replace_after(&text, "applied ", is_digit, "I");
    let text = replace_after(&text, "shown ", is_digit, "I");
    let text = replace_after(&text, "in partition ", is_digit, "P");
    let text = replace_after(&text, "not \"cluster ", |c| c.is_ascii_hexdigit(), "THIS");
    let text = replace_after(&text, "digest ", |c| c.is_ascii_hexdigit(), "DIGEST");
    let text = replace_after(&text, "DIGEST at ", is_digit, "I");
    let text = replace_after(&text, "led by ", |c| c.is_alphanumeric(), "LEADER");
    let text = replace_after(&text, "its cluster is ", |c| c.is_ascii_hexdigit(), "OTHER");
    let text = replace_after(&text, "OTHER, not ", |c| c.is_ascii_hexdigit(), "THIS");
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            let line = without_numbers(line);
            // Who leads, whose version is known yet, and where a volume is placed, is not the same
            // each time.
            let cut = |line: &str, mark: &str| -> String {
                line.find(mark).map_or(line, |at| &line[..at]).to_owned()
            };
            let line = cut(&line, "   number ");
            let line = cut(&line, " vital ");
            let line = line.replace("LEADER   music", "LEADER");
            line.trim_end().to_owned()
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
