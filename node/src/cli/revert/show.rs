//! [adapter] A plan in words and as JSON.

use crate::cli::print;
use aber_proto::generated::v1::{self, DiffKind, SkipReason};
use serde_json::{Value, json};

/// Paths named under each line of a plan.
const SAMPLES: usize = 5;

fn kind_word(kind: DiffKind) -> String {
    print::word(kind.as_str_name(), "DIFF_KIND")
}

pub(super) fn planned_value(change: &v1::PlannedChange) -> Value {
    json!({
        "kind": kind_word(change.kind()),
        "path": change.path,
        "from_path": Some(&change.from_path).filter(|path| !path.is_empty()),
        "now": change.now.as_ref().map(print::item_value),
        "then": change.then.as_ref().map(print::item_value),
    })
}

pub(super) fn plan_value(plan: &v1::PlanRevertResponse) -> Value {
    let head = plan.plan.clone().unwrap_or_default();
    let skipped = plan.skipped.iter().map(|skipped| {
        json!({
            "path": skipped.path,
            "reason": print::word(skipped.reason().as_str_name(), "SKIP_REASON"),
            "author": Some(&skipped.author).filter(|name| !name.is_empty()),
            "entry": print::entry_id(skipped.entry.as_ref()),
            "order_time": print::time(skipped.order_time.as_ref()),
        })
    });
    let taken = plan.taken_back.iter().map(|id| print::entry_id(Some(id)));
    json!({
        "plan": head.id,
        "expire_time": print::time(head.expire_time.as_ref()),
        "returned": plan.returned_count,
        "removed": plan.removed_count,
        "replaced": plan.replaced_count,
        "renamed": plan.renamed_count,
        "attributes": plan.attributes_count,
        "returned_bytes": plan.returned_bytes,
        "fetch_bytes": plan.fetch_bytes,
        "skipped": skipped.collect::<Vec<_>>(),
        "skipped_total": plan.skipped_count,
        "changes": plan.change_count,
        "taken_back": taken.collect::<Vec<_>>(),
        "warnings": head.warnings.iter().map(print::notice_value).collect::<Vec<_>>(),
    })
}

pub(super) fn plan_text(plan: &v1::PlanRevertResponse, title: &str) -> String {
    let mut lines = Vec::new();
    if plan.taken_back_text.is_empty() {
        lines.push(format!("{title}:"));
    } else {
        lines.push(format!("{title}: {}", print::escape(&plan.taken_back_text)));
    }
    for row in rows(plan) {
        if row.count == 0 {
            continue;
        }
        let verb = if row.count == 1 { row.one } else { row.many };
        let items = print::plural(row.count, "item");
        lines.push(format!("  {} {items} {verb}{}", row.sign, row.tail));
        let of_kind = plan.changes.iter();
        let of_kind = of_kind.filter(|change| change.kind() == row.kind);
        lines.extend(samples(of_kind.map(sample), row.count));
    }
    if plan.skipped_count > 0 {
        let count = plan.skipped_count;
        let is_others = |path: &v1::SkippedPath| path.reason() == SkipReason::ChangedByOthers;
        let mend = if plan.skipped.iter().any(is_others) {
            "; to take what others changed too: --all"
        } else {
            ""
        };
        lines.push(format!(
            "  · {} skipped{mend}",
            print::plural(count, "path")
        ));
        lines.extend(samples(plan.skipped.iter().map(skipped_text), count));
    }
    lines.join("\n")
}

/// A kind of change, and how it is said of one item and of many.
struct Row {
    kind: DiffKind,
    sign: char,
    count: u64,
    one: &'static str,
    many: &'static str,
    tail: String,
}

fn rows(plan: &v1::PlanRevertResponse) -> [Row; 5] {
    let fetch = if plan.fetch_bytes == 0 {
        "all of it is here".to_owned()
    } else {
        format!("{} to get from other nodes", print::bytes(plan.fetch_bytes))
    };
    let back = format!("    {}, {fetch}", print::bytes(plan.returned_bytes));
    let row = |kind, sign, count, one, many| Row {
        kind,
        sign,
        count,
        one,
        many,
        tail: String::new(),
    };
    [
        Row {
            tail: back,
            ..row(
                DiffKind::Added,
                '+',
                plan.returned_count,
                "comes back",
                "come back",
            )
        },
        row(
            DiffKind::Removed,
            '-',
            plan.removed_count,
            "goes; it stays in the history",
            "go; they stay in the history",
        ),
        row(
            DiffKind::Changed,
            '~',
            plan.replaced_count,
            "gets the content it had",
            "get the content they had",
        ),
        row(
            DiffKind::Renamed,
            '>',
            plan.renamed_count,
            "gets the name it had",
            "get the names they had",
        ),
        row(
            DiffKind::Attributes,
            '%',
            plan.attributes_count,
            "gets the mode or time it had",
            "get the modes or times they had",
        ),
    ]
}

fn samples(shown: impl Iterator<Item = String>, count: u64) -> Vec<String> {
    let mut lines: Vec<String> = shown
        .take(SAMPLES)
        .map(|text| format!("      {text}"))
        .collect();
    let hidden = count.saturating_sub(lines.len() as u64);
    if hidden > 0 {
        lines.push(format!("      … and {} more", print::count(hidden)));
    }
    lines
}

fn sample(change: &v1::PlannedChange) -> String {
    let path = print::escape(&change.path);
    if change.kind() == DiffKind::Renamed {
        return format!("{} => {path}", print::escape(&change.from_path));
    }
    path
}

fn skipped_text(skipped: &v1::SkippedPath) -> String {
    let why = match skipped.reason() {
        SkipReason::InTheWay => "something is in its place",
        SkipReason::NoParent => "its directory does not come back",
        SkipReason::NotAllowed => "not allowed",
        SkipReason::ContentForgotten => "its content is not kept any more",
        SkipReason::Unspecified | SkipReason::ChangedByOthers => "",
    };
    let by = if skipped.author.is_empty() {
        String::new()
    } else {
        let time = print::short_time(skipped.order_time.as_ref());
        let entry = print::entry_id(skipped.entry.as_ref()).unwrap_or_default();
        format!("{} at {time}, {entry}", print::escape(&skipped.author))
    };
    let parts = [why.to_owned(), by];
    let parts: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    format!("{}  ({})", print::escape(&skipped.path), parts.join(": "))
}
