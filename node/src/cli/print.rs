//! [adapter] Output: text for people, JSON lines for programs, escaped names for both.
//!
//! stdout carries results only; notices, progress and errors of the text form go to stderr. With
//! `--json` everything is a line on stdout, `{"schema":"aber.CMD/1","type":…}`, and exactly one
//! `result` or `error` is the last. Names are data (rule NA-10): control and bidi characters are
//! shown escaped, never sent to a terminal.

use crate::reason::Problem;
use aber_proto::Timestamp;
use aber_proto::generated::v1;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

/// Where a command's words go.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The command's name, for the schema.
    pub(crate) command: &'static str,
    /// JSON lines instead of text.
    pub(crate) json: bool,
    /// Results and errors only.
    pub(crate) quiet: bool,
    /// Colours on stderr.
    pub(crate) color: bool,
}

impl Output {
    /// One thing of a list: an item, an entry, a member.
    pub(crate) fn row(&self, kind: &str, text: impl FnOnce() -> String, value: Value) {
        if self.json {
            self.record(kind, value);
        } else {
            line(&mut std::io::stdout().lock(), &text());
        }
    }

    /// The end of a command that worked; `None` as text prints nothing.
    pub(crate) fn result(&self, text: Option<String>, value: Value) {
        if self.json {
            self.record("result", value);
        } else if let Some(text) = text {
            line(&mut std::io::stdout().lock(), &text);
        }
    }

    /// Something a person should know.
    pub(crate) fn notice(&self, text: &str, value: Value) {
        if self.json {
            self.record("notice", value);
        } else if !self.quiet {
            line(&mut std::io::stderr().lock(), text);
        }
    }

    /// How far a command is.
    pub(crate) fn progress(&self, text: &str, value: Value) {
        if self.quiet {
        } else if self.json {
            self.record("progress", value);
        } else {
            line(&mut std::io::stderr().lock(), text);
        }
    }

    /// One thing of many that failed, while the rest goes on.
    pub(crate) fn failure(&self, problem: &Problem) {
        if self.json {
            self.record("notice", problem_value(problem));
        } else {
            let text = format!("left out: {}", problem_line(problem));
            line(&mut std::io::stderr().lock(), &text);
        }
    }

    /// The end of a command that failed.
    pub(crate) fn error(&self, problem: &Problem) {
        if self.json {
            self.record("error", problem_value(problem));
        } else {
            let text = problem_text(problem, self.color);
            line(&mut std::io::stderr().lock(), &text);
        }
    }

    fn record(&self, kind: &str, value: Value) {
        let mut object = Map::new();
        object.insert("schema".into(), json!(format!("aber.{}/1", self.command)));
        object.insert("type".into(), json!(kind));
        if let Value::Object(fields) = value {
            object.extend(fields);
        }
        let text = escape_json(&Value::Object(object).to_string());
        line(&mut std::io::stdout().lock(), &text);
    }
}

/// Writes a line. A reader that went away (`aber ls | head`) is no failure.
fn line(to: &mut impl Write, text: &str) {
    let _ = to.write_all(format!("{text}\n").as_bytes());
    let _ = to.flush();
}

/// Whether progress may be drawn.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// The form of an error: what, why, mend.
pub(crate) fn problem_text(problem: &Problem, color: bool) -> String {
    let (red, plain) = if color {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    format!(
        "{red}error:{plain} {}  [{}]\n  why:  {}\n  mend: {}",
        escape(&problem.what()),
        problem.reason.name(),
        escape(&problem.why()),
        escape(&problem.mend())
    )
}

fn problem_line(problem: &Problem) -> String {
    format!(
        "{} ({})  [{}]",
        escape(&problem.what()),
        escape(&problem.why()),
        problem.reason.name()
    )
}

/// A problem as fields of a record.
pub(crate) fn problem_value(problem: &Problem) -> Value {
    json!({
        "reason": problem.reason.name(),
        "what": problem.what(),
        "why": problem.why(),
        "mend": problem.mend(),
        "exit": problem.reason.row().exit,
        "metadata": problem.metadata,
    })
}

/// Whether a character could change what a terminal shows around it.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{feff}'
        )
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// A name or sentence for a terminal (rule NA-10). A backslash is doubled where something else is
/// escaped, so that what is shown means one name only.
pub(crate) fn escape(text: &str) -> String {
    if !text.chars().any(is_dangerous) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if is_dangerous(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Escapes in encoded JSON what its encoder leaves as it is: bidi and C1 characters, which can only
/// stand inside of strings.
fn escape_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_dangerous(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// `41.2 MiB`; whole bytes below one KiB.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut tenths = u128::from(count) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or("B");
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// `1,284`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `3 files`, `1 file`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => {
            format!("{} {stem}ies", count(number))
        }
        _ => format!("{} {noun}s", count(number)),
    }
}

/// RFC 3339 in UTC.
pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    let millis = time.seconds.checked_mul(1000)?;
    let millis = millis.checked_add(i64::from(time.nanos / 1_000_000))?;
    Some(Timestamp(millis).to_string())
}

/// Whole milliseconds, rounded towards zero.
pub(crate) fn millis(time: Option<&prost_types::Duration>) -> Option<i64> {
    let time = time?;
    let millis = time.seconds.checked_mul(1000)?;
    millis.checked_add(i64::from(time.nanos / 1_000_000))
}

/// The same without fractions, for columns.
pub(crate) fn short_time(stamp: Option<&prost_types::Timestamp>) -> String {
    match time(stamp) {
        Some(text) => format!("{}Z", text.split('.').next().unwrap_or_default()),
        None => "-".to_owned(),
    }
}

/// `3:1842`.
pub(crate) fn entry_id(id: Option<&v1::EntryId>) -> Option<String> {
    id.map(|id| format!("{}:{}", id.partition, id.index))
}

/// Lower-case hexadecimal; `None` for none.
pub(crate) fn hex(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| data_encoding::HEXLOWER.encode(bytes))
}

/// A word of an enum without its prefix, in lower case: `ITEM_KIND_FILE` -> `file`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    word.trim_start_matches('_').to_ascii_lowercase()
}

/// The level of acknowledgement as a word.
pub(crate) fn level(level: v1::Acknowledgement) -> String {
    word(level.as_str_name(), "ACKNOWLEDGEMENT")
}

/// An item as fields of a record; all keys are always there.
pub(crate) fn item_value(item: &v1::Item) -> Value {
    let spread = item.spread.as_ref();
    json!({
        "path": item.path,
        "kind": word(item.kind().as_str_name(), "ITEM_KIND"),
        "size": item.size,
        "etag": item.etag,
        "blake3": hex(&item.blake3),
        "modify_time": time(item.modify_time.as_ref()),
        "mode": format!("{:04o}", item.mode),
        "symlink_target": (!item.symlink_target.is_empty()).then_some(&item.symlink_target),
        "entry": entry_id(item.entry.as_ref()),
        "author": (!item.author.is_empty()).then_some(&item.author),
        "order_time": time(item.order_time.as_ref()),
        "copies": spread.map(|spread| spread.copies),
        "copies_wanted": spread.map(|spread| spread.copies_wanted),
        "left_bytes": spread.map(|spread| spread.left_bytes),
        "path_state": word(item.path_state().as_str_name(), "PATH_STATE"),
        "path_state_reason": (!item.path_state_reason.is_empty())
            .then_some(&item.path_state_reason),
    })
}

/// A notice as fields of a record.
pub(crate) fn notice_value(notice: &v1::Notice) -> Value {
    json!({
        "code": notice.code,
        "severity": word(notice.severity().as_str_name(), "HEALTH"),
        "what": notice.what,
        "why": notice.why,
        "mend": notice.mend,
        "since": time(notice.since.as_ref()),
        "repeats": notice.repeats,
    })
}

/// A notice in three lines, as `status` shows it.
pub(crate) fn notice_text(notice: &v1::Notice) -> String {
    format!(
        "! {}\n    why   {}\n    mend  {}",
        escape(&notice.what),
        escape(&notice.why),
        escape(&notice.mend)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    /// NA-10: what could rewrite a terminal is shown, not sent.
    #[test]
    fn dangerous_characters_are_escaped_and_others_kept() {
        let cases = [
            ("plain é 日本 🎵 <script>", "plain é 日本 🎵 <script>"),
            ("a\\b", "a\\b"),
            ("a\nb\\", "a\\nb\\\\"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
        ];
        for (name, shown) in cases {
            assert_eq!(escape(name), shown);
        }
    }

    /// NA-10: JSON stays JSON, means the same, and is harmless on a terminal.
    #[test]
    fn json_is_escaped_and_means_the_same() {
        let value = json!({"path": "/\u{202e}\x1b\u{85}é"});
        let text = escape_json(&value.to_string());
        assert!(!text.chars().any(is_dangerous), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }

    #[test]
    fn sizes_and_counts_are_readable() {
        let sizes = [0, 1023, 1024, 43_201_331, 1 << 30, u64::MAX];
        let texts = sizes.map(bytes);
        assert_eq!(
            texts,
            [
                "0 B", "1023 B", "1.0 KiB", "41.2 MiB", "1.0 GiB", "16.0 EiB"
            ]
        );
        assert_eq!(count(1_284), "1,284");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(1000, "file"), "1,000 files");
        assert_eq!(plural(2, "entry"), "2 entries");
    }

    #[test]
    fn an_error_says_what_why_and_mend() {
        let problem = Problem::new(Reason::IsADirectory).with("path", "/a\nb");
        assert_eq!(
            problem_text(&problem, false),
            "error: /a\\nb is a directory  [IS_A_DIRECTORY]\n  \
             why:  a file is wanted here, and a directory stands there\n  \
             mend: name a file below it, or use -r for whole trees"
        );
    }

    #[test]
    fn enums_are_their_words() {
        assert_eq!(level(v1::Acknowledgement::Committed), "committed");
        assert_eq!(word("ITEM_KIND_FILE", "ITEM_KIND"), "file");
    }
}
