//! [adapter] `diff`: what differs between two moments.

use super::event::column;
use super::{Context, Outcome, parse_path, print, when};
use crate::reason::Problem;
use aber_proto::generated::v1::{self, DiffKind, ItemKind};
use clap::Args;
use jiff::Zoned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// So many are put in order of their paths; what is more comes as it is found.
const SORTED_MOST: usize = 10_000;

/// Arguments of `diff`.
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// From when (see: aber at --help)
    #[arg(value_name = "WHEN", allow_negative_numbers = true)]
    base: String,
    /// To when [default: now]; may be left out before a path
    #[arg(value_name = "WHEN", allow_negative_numbers = true)]
    target: Option<String>,
    /// What is there, and below, at either moment [default: /]
    path: Option<String>,
    /// What changed within text files, as a unified diff; of one file it is shown anyway
    #[arg(long)]
    text: bool,
    /// Only how much
    #[arg(long)]
    stat: bool,
}

/// How many and how much of each kind.
#[derive(Default)]
struct Totals(BTreeMap<i32, (u64, u64)>);

impl Totals {
    fn add(&mut self, found: &v1::DiffResponse) {
        let (count, bytes) = self.0.entry(found.kind).or_default();
        *count += 1;
        *bytes += found.changed_bytes;
    }

    fn of(&self, kind: DiffKind) -> (u64, u64) {
        self.0.get(&i32::from(kind)).copied().unwrap_or_default()
    }

    fn text(&self) -> String {
        let part = |kind, word: &str| {
            let (count, bytes) = self.of(kind);
            let bytes = match bytes {
                0 => String::new(),
                bytes => format!(" ({})", print::bytes(bytes)),
            };
            format!("{} {word}{bytes}", print::count(count))
        };
        [
            part(DiffKind::Added, "added"),
            part(DiffKind::Removed, "removed"),
            part(DiffKind::Changed, "changed"),
            part(DiffKind::Renamed, "renamed"),
            part(DiffKind::Attributes, "with other attributes"),
        ]
        .join(" · ")
    }

    fn value(&self) -> Value {
        let count = |kind| self.of(kind).0;
        let bytes = |kind| self.of(kind).1;
        json!({
            "added": count(DiffKind::Added), "added_bytes": bytes(DiffKind::Added),
            "removed": count(DiffKind::Removed), "removed_bytes": bytes(DiffKind::Removed),
            "changed": count(DiffKind::Changed), "changed_bytes": bytes(DiffKind::Changed),
            "renamed": count(DiffKind::Renamed), "attributes": count(DiffKind::Attributes),
        })
    }
}

impl DiffArgs {
    fn request(&self) -> Result<v1::DiffRequest, Problem> {
        let now = Zoned::now();
        let (target, path) = match (&self.target, &self.path) {
            (Some(path), None) if path.starts_with('/') => (None, Some(path)),
            (target, path) => (target.as_ref(), path.as_ref()),
        };
        let path = match path {
            Some(path) => parse_path(path)?.as_str().to_owned(),
            None => String::new(),
        };
        Ok(v1::DiffRequest {
            path,
            base: Some(when::parse(&self.base, &now)?),
            target: target.map(|when| when::parse(when, &now)).transpose()?,
            text: self.text && !self.stat,
        })
    }
}

/// Runs `diff`.
pub(crate) async fn diff(context: &Context, args: DiffArgs) -> Outcome {
    let request = args.request()?;
    let client = context.connect().await?;
    let mut stream = client.diff(request).await?;
    let mut totals = Totals::default();
    let mut sorted = Vec::new();
    let say = |found: &v1::DiffResponse| {
        if !args.stat {
            let text = || text(found, args.text);
            context.out.row("difference", text, value(found));
        }
    };
    while let Some(found) = stream.next().await? {
        totals.add(&found);
        if args.stat {
            continue;
        }
        if sorted.len() < SORTED_MOST {
            sorted.push(found);
        } else {
            say(&found);
        }
    }
    sorted.sort_by(|a, b| (place(a), a.kind).cmp(&(place(b), b.kind)));
    sorted.iter().for_each(say);
    context
        .out
        .result(args.stat.then(|| totals.text()), totals.value());
    Ok(0)
}

/// Where it is shown: by its path before, if it had one.
fn place(found: &v1::DiffResponse) -> &str {
    let item = found.before.as_ref().or(found.after.as_ref());
    item.map_or("", |item| &item.path)
}

fn name(item: Option<&v1::Item>) -> String {
    let Some(item) = item else {
        return String::new();
    };
    match item.kind() {
        ItemKind::Directory => format!("{}/", print::escape(&item.path)),
        ItemKind::Symlink => print::escape(&format!("{} -> {}", item.path, item.symlink_target)),
        _ => print::escape(&item.path),
    }
}

fn size(item: Option<&v1::Item>) -> String {
    let file = item.filter(|item| item.kind() == ItemKind::File);
    file.map_or_else(String::new, |item| print::bytes(item.size))
}

fn text(found: &v1::DiffResponse, with_text: bool) -> String {
    let (before, after) = (found.before.as_ref(), found.after.as_ref());
    let author =
        |item: Option<&v1::Item>| item.map_or_else(String::new, |item| print::escape(&item.author));
    let line = match found.kind() {
        DiffKind::Added => format!("+  {}  {}  {}", name(after), size(after), author(after)),
        DiffKind::Removed => {
            let gone = size(before);
            let sign = if gone.is_empty() { "" } else { "-" };
            format!("-  {}  {sign}{gone}", name(before))
        }
        DiffKind::Changed => {
            let sizes = match (size(before), size(after)) {
                (before, after) if before == after => after,
                (before, after) => format!("{before} -> {after}"),
            };
            let anew = match found.changed_bytes {
                0 => String::new(),
                bytes => format!(", {} anew", print::bytes(bytes)),
            };
            format!("!  {}  {sizes}{anew}  {}", name(after), author(after))
        }
        DiffKind::Renamed => format!(">  {} => {}", name(before), name(after)),
        DiffKind::Attributes => format!("~  {}  {}", name(after), attributes(before, after)),
        DiffKind::Unspecified => "?  a difference this program does not know".to_owned(),
    };
    let line = line.trim_end().to_owned();
    match found.unified.as_str() {
        "" if with_text && found.kind() == DiffKind::Changed && !size(after).is_empty() => {
            format!("{line}  (not shown: no text, too large, or too different)")
        }
        "" => line,
        unified => {
            let lines = unified.trim_end_matches('\n').split('\n');
            let lines: Vec<String> = lines.map(column).collect();
            format!("{line}\n{}", lines.join("\n"))
        }
    }
}

fn attributes(before: Option<&v1::Item>, after: Option<&v1::Item>) -> String {
    let (Some(before), Some(after)) = (before, after) else {
        return String::new();
    };
    let mut parts = Vec::new();
    if before.mode != after.mode {
        parts.push(format!("mode {:04o} -> {:04o}", before.mode, after.mode));
    }
    if before.modify_time != after.modify_time {
        let time = |item: &v1::Item| print::short_time(item.modify_time.as_ref());
        parts.push(format!("time {} -> {}", time(before), time(after)));
    }
    parts.join(", ")
}

fn value(found: &v1::DiffResponse) -> Value {
    let item = |item: &Option<v1::Item>| item.as_ref().map(print::item_value);
    json!({
        "kind": print::word(found.kind().as_str_name(), "DIFF_KIND"),
        "before": item(&found.before), "after": item(&found.after),
        "changed_bytes": found.changed_bytes,
        "unified": (!found.unified.is_empty()).then_some(&found.unified),
    })
}
