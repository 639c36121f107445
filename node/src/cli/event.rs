//! [pure] Entries of the log, for people and programs.

use super::print;
use aber_proto::generated::v1::{self, EventResult, event::Operation};
use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

/// Paths longer than this do not move the columns behind them.
const PATH_WIDTH: usize = 48;

/// A time as people say it: `12:31` today, `22 Nov 12:31` this year, `22 Nov 2025 12:31` before.
pub(super) fn local_time(time: Option<&prost_types::Timestamp>, now: &Zoned) -> String {
    let then = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    let Some(then) = then.map(|then| then.to_zoned(now.time_zone().clone())) else {
        return "-".to_owned();
    };
    let form = if then.date() == now.date() {
        "%H:%M"
    } else if then.year() == now.year() {
        "%-d %b %H:%M"
    } else {
        "%-d %b %Y %H:%M"
    };
    then.strftime(form).to_string()
}

/// A line of a table, before its columns are aligned.
struct Line {
    id: String,
    time: String,
    author: String,
    sign: char,
    what: String,
    size: String,
    rest: String,
}

impl Line {
    fn text(&self, widths: [usize; 5]) -> String {
        let [id, time, author, what, size] = widths;
        let columns = [
            padded(&self.id, id),
            padded(&self.time, time),
            padded(&self.author, author),
            self.sign.to_string(),
            padded(&self.what, what),
        ];
        let gap = size.saturating_sub(width(&self.size));
        let text = format!(
            "{}  {}{}   {}",
            columns.join("  "),
            " ".repeat(gap),
            self.size,
            self.rest
        );
        text.trim_end().to_owned()
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn padded(text: &str, to: usize) -> String {
    let gap = to.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(gap))
}

/// A line of a file for a terminal: tabs stay, what could change the screen does not.
pub(super) fn column(text: &str) -> String {
    let parts = text.split('\t').map(print::escape);
    parts.collect::<Vec<_>>().join("\t")
}

/// The text of each entry, a line an event, with columns that fit all of them.
pub(super) fn lines(entries: &[v1::Entry], now: &Zoned) -> Vec<String> {
    let all: Vec<Vec<Line>> = entries.iter().map(|entry| of_entry(entry, now)).collect();
    let widest = |column: &dyn Fn(&Line) -> usize, most: usize| {
        let widths = all.iter().flatten().map(column);
        widths.filter(|width| *width <= most).max().unwrap_or(0)
    };
    let widths = [
        widest(&|line| width(&line.id), usize::MAX),
        widest(&|line| width(&line.time), usize::MAX),
        widest(&|line| width(&line.author), usize::MAX),
        widest(&|line| width(&line.what), PATH_WIDTH),
        widest(&|line| width(&line.size), usize::MAX),
    ];
    let text = |lines: &Vec<Line>| {
        let lines = lines.iter().map(|line| line.text(widths));
        lines.collect::<Vec<_>>().join("\n")
    };
    all.iter().map(text).collect()
}

/// One line an event; the entry's own columns only on the first.
fn of_entry(entry: &v1::Entry, now: &Zoned) -> Vec<Line> {
    let change = entry.change.clone().unwrap_or_default();
    let blank = |sign, what, size| Line {
        id: String::new(),
        time: String::new(),
        author: String::new(),
        sign,
        what,
        size,
        rest: String::new(),
    };
    let mut lines: Vec<Line> = change
        .events
        .iter()
        .map(|event| {
            let (sign, what, size) = event_text(event);
            blank(sign, what, size)
        })
        .collect();
    let hidden = u64::from(change.events_total).saturating_sub(change.events.len() as u64);
    if hidden > 0 || lines.is_empty() {
        let text = format!("… and {}", print::plural(hidden, "more event"));
        lines.push(blank(' ', text, String::new()));
    }
    if let Some(first) = lines.first_mut() {
        first.id = print::entry_id(entry.id.as_ref()).unwrap_or_default();
        first.time = local_time(entry.order_time.as_ref(), now);
        first.author = print::escape(&change.author);
        first.rest = notes(entry, &change);
    }
    lines
}

/// By what means, and what there is to say beside.
fn notes(entry: &v1::Entry, change: &v1::Change) -> String {
    let mut notes = means(change);
    if entry.outcome_unknown {
        notes += "  older than what is known of outcomes";
    } else if !entry.applied {
        let reason = entry.rejected_reason();
        let reason = print::word(reason.as_str_name(), "ERROR_REASON");
        notes += &format!("  rejected: {reason}");
    }
    if !change.comment.is_empty() {
        notes += &format!("  \"{}\"", print::escape(&change.comment));
    }
    notes.trim_start().to_owned()
}

/// `folder`, `cli`; `undo cli` for what takes something back.
pub(super) fn means(change: &v1::Change) -> String {
    let words = [&change.act, &change.via];
    let words = words.into_iter().filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| print::escape(word)).collect();
    words.join(" ")
}

/// The sign of an event, what it is about, and how much that is.
pub(super) fn event_text(event: &v1::Event) -> (char, String, String) {
    let outcome = event.outcome.clone().unwrap_or_default();
    let (sign, mut what, size) = match &event.operation {
        Some(Operation::Put(put)) => ('+', put.path.clone(), print::bytes(put.size)),
        Some(Operation::MakeDirectory(make)) => ('+', format!("{}/", make.path), String::new()),
        Some(Operation::MakeSymlink(make)) => {
            let what = format!("{} -> {}", make.path, make.target);
            ('+', what, String::new())
        }
        Some(Operation::Rename(rename)) => {
            let what = format!("{} => {}", rename.from_path, rename.to_path);
            ('>', what, String::new())
        }
        Some(Operation::Copy(copy)) => {
            let what = format!("{}  copied from {}", copy.to_path, copy.from_path);
            ('+', what, String::new())
        }
        Some(Operation::Remove(remove)) => (
            '-',
            format!("{}{}", remove.path, taken(remove, &outcome)),
            change_text(outcome.size_change),
        ),
        Some(Operation::SetAttributes(set)) => ('~', set.path.clone(), String::new()),
        Some(Operation::Control(control)) => ('*', control.text.clone(), String::new()),
        None => {
            let what = "an event this program does not know".to_owned();
            ('?', what, String::new())
        }
    };
    if outcome.result() == EventResult::None {
        what += &format!(" (nothing to do: {})", outcome.reason);
    }
    (sign, print::escape(&what), size)
}

/// How many files a recursive removal took.
fn taken(remove: &v1::Remove, outcome: &v1::EventOutcome) -> String {
    if !remove.recursive || outcome.paths == 0 {
        return String::new();
    }
    let least = if outcome.at_least { "at least " } else { "" };
    format!(" ({least}{})", print::plural(outcome.files, "file"))
}

/// `-310.0 MiB`; nothing for no change.
fn change_text(bytes: i64) -> String {
    match bytes {
        0 => String::new(),
        bytes if bytes < 0 => format!("-{}", print::bytes(bytes.unsigned_abs())),
        bytes => print::bytes(bytes.unsigned_abs()),
    }
}

/// How to get back what the one removal of an entry took.
pub(super) fn removed_hint(entry: &v1::Entry) -> Option<String> {
    let id = print::entry_id(entry.id.as_ref())?;
    let change = entry.change.as_ref()?;
    let mut removals = change
        .events
        .iter()
        .filter_map(|event| match &event.operation {
            Some(Operation::Remove(remove)) => Some(remove),
            _ => None,
        });
    let (only, more) = (removals.next()?, removals.next());
    if more.is_some() || !entry.applied {
        return None;
    }
    let path = print::escape(&only.path);
    Some(format!("to get it back: aber restore {path} --at {id}-"))
}

fn event_value(event: &v1::Event) -> Value {
    let (kind, path, from, size) = match &event.operation {
        Some(Operation::Put(put)) => ("put", Some(&put.path), None, Some(put.size)),
        Some(Operation::MakeDirectory(make)) => ("make_directory", Some(&make.path), None, None),
        Some(Operation::MakeSymlink(make)) => ("make_symlink", Some(&make.path), None, None),
        Some(Operation::Rename(r)) => ("rename", Some(&r.to_path), Some(&r.from_path), None),
        Some(Operation::Copy(c)) => ("copy", Some(&c.to_path), Some(&c.from_path), None),
        Some(Operation::Remove(remove)) => ("remove", Some(&remove.path), None, None),
        Some(Operation::SetAttributes(set)) => ("set_attributes", Some(&set.path), None, None),
        Some(Operation::Control(control)) => ("control", Some(&control.subject), None, None),
        None => ("unknown", None, None, None),
    };
    let text = match &event.operation {
        Some(Operation::Control(control)) => Some(&control.text),
        _ => None,
    };
    json!({
        "number": event.number, "kind": kind, "path": path, "from_path": from, "size": size,
        "text": text, "outcome": event.outcome.as_ref().map(outcome_value),
    })
}

fn outcome_value(outcome: &v1::EventOutcome) -> Value {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "result": print::word(outcome.result().as_str_name(), "EVENT_RESULT"),
        "reason": given(&outcome.reason),
        "etag_before": given(&outcome.etag_before), "etag_after": given(&outcome.etag_after),
        "size_change": outcome.size_change, "paths": outcome.paths, "files": outcome.files,
        "at_least": outcome.at_least,
    })
}

/// An entry as fields of a record; all keys are always there.
pub(super) fn entry_value(entry: &v1::Entry) -> Value {
    let change = entry.change.clone().unwrap_or_default();
    let reason = print::word(entry.rejected_reason().as_str_name(), "ERROR_REASON");
    let is_rejected = !entry.applied && !entry.outcome_unknown;
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "id": print::entry_id(entry.id.as_ref()),
        "term": entry.term,
        "order_time": print::time(entry.order_time.as_ref()),
        "author": change.author,
        "author_sequence": change.author_sequence,
        "request_id": change.request_id,
        "wall_time": print::time(change.wall_time.as_ref()),
        "comment": change.comment,
        "via": change.via,
        "plan_id": given(&change.plan_id),
        "act": given(&change.act),
        "takes_back": given(&change.takes_back),
        "events": change.events.iter().map(event_value).collect::<Vec<_>>(),
        "events_total": change.events_total,
        "chain_hash": print::hex(&entry.chain_hash),
        "applied": entry.applied,
        "outcome_unknown": entry.outcome_unknown,
        "rejected_reason": is_rejected.then(|| reason.to_ascii_uppercase()),
        "rejected_event": (entry.rejected_event > 0).then_some(entry.rejected_event),
        "control_index": entry.control_index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use jiff::tz::{TimeZone, offset};

    fn now() -> Zoned {
        let now: Timestamp = "2026-11-22T17:30:00Z".parse().expect("a time");
        now.to_zoned(TimeZone::fixed(offset(1)))
    }

    fn stamp(text: &str) -> Option<prost_types::Timestamp> {
        let time: Timestamp = text.parse().expect("a time");
        Some(prost_types::Timestamp {
            seconds: time.as_second(),
            nanos: 0,
        })
    }

    fn entry(index: u64, time: &str, author: &str, events: Vec<Operation>) -> v1::Entry {
        let wrap = |operation| v1::Event {
            operation: Some(operation),
            ..v1::Event::default()
        };
        v1::Entry {
            id: Some(v1::EntryId {
                partition: 3,
                index,
            }),
            order_time: stamp(time),
            applied: true,
            change: Some(v1::Change {
                author: author.to_owned(),
                via: "folder".to_owned(),
                events_total: u32::try_from(events.len()).expect("few"),
                events: events.into_iter().map(wrap).collect(),
                ..v1::Change::default()
            }),
            ..v1::Entry::default()
        }
    }

    fn put(path: &str, size: u64) -> Operation {
        Operation::Put(v1::Put {
            path: path.to_owned(),
            size,
            ..v1::Put::default()
        })
    }

    #[test]
    fn times_are_short_where_that_is_clear() {
        for (time, said) in [
            ("2026-11-22T11:31:59Z", "12:31"),
            ("2026-11-21T23:00:00Z", "00:00"),
            ("2026-11-21T22:59:59Z", "21 Nov 23:59"),
            ("2025-12-31T23:00:00Z", "1 Jan 00:00"),
            ("2025-12-31T22:59:00Z", "31 Dec 2025 23:59"),
        ] {
            assert_eq!(local_time(stamp(time).as_ref(), &now()), said);
        }
        assert_eq!(local_time(None, &now()), "-");
    }

    #[test]
    fn columns_fit_all_of_a_page() {
        let mut taken = entry(
            1842,
            "2026-11-21T10:58:00Z",
            "soizic",
            vec![Operation::Remove(v1::Remove {
                path: "/music/old".to_owned(),
                recursive: true,
                base: None,
            })],
        );
        let change = taken.change.as_mut().expect("a change");
        change.act = "undo".to_owned();
        change.comment = "spring\nclean".to_owned();
        change.events[0].outcome = Some(v1::EventOutcome {
            result: EventResult::Done.into(),
            size_change: -325_058_560,
            paths: 15,
            files: 14,
            ..v1::EventOutcome::default()
        });
        assert_eq!(
            removed_hint(&taken).as_deref(),
            Some("to get it back: aber restore /music/old --at 3:1842-")
        );
        let long = format!("/{}", "n".repeat(60));
        let two = vec![put("/music/Kan.flac", 39_845_888), put(&long, 1)];
        let mut rejected = entry(9, "2025-01-01T10:00:00Z", "yann", vec![put("/x", 0)]);
        rejected.applied = false;
        rejected.set_rejected_reason(v1::ErrorReason::EtagStale);
        let entries = [
            entry(1845, "2026-11-22T11:31:00Z", "malo", two),
            taken,
            rejected,
        ];
        let text = lines(&entries, &now()).join("\n") + "\n";
        expect![[r#"
            3:1845  12:31             malo    +  /music/Kan.flac          38.0 MiB   folder
                                              +  /nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn         1 B
            3:1842  21 Nov 11:58      soizic  -  /music/old (14 files)  -310.0 MiB   undo folder  "spring\nclean"
            3:9     1 Jan 2025 11:00  yann    +  /x                            0 B   folder  rejected: etag_stale
        "#]]
        .assert_eq(&text);
    }
}
