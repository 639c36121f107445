//! [adapter] Commands on history and health: `log`, `verify`.

use super::print;
use super::{Context, Outcome, parse_path};
use aber_proto::generated::v1::{self, event::Operation, verify_response::Message};
use clap::Args;
use serde_json::{Value, json};

/// Entries asked for at once.
const PAGE: i32 = 200;

/// Arguments of `log`.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// At most so many entries
    #[arg(short = 'n', long, default_value_t = 50)]
    number: u64,
    /// Only those by this member
    #[arg(long)]
    author: Vec<String>,
    /// Rejected ones too
    #[arg(long)]
    rejected: bool,
    /// Oldest first
    #[arg(long)]
    reverse: bool,
    /// What to look at, and below
    path: Option<String>,
}

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Mend from other nodes what is damaged
    #[arg(long)]
    mend: bool,
    /// Only chain and signatures
    #[arg(long)]
    chain: bool,
    /// Only stored content
    #[arg(long)]
    content: bool,
    /// Only the mirror
    #[arg(long)]
    folders: bool,
    /// What to verify, and below [default: everything]
    path: Option<String>,
}

/// Runs `log`.
pub(crate) async fn log(context: &Context, args: LogArgs) -> Outcome {
    let path = match &args.path {
        Some(path) => parse_path(path)?.as_str().to_owned(),
        None => String::new(),
    };
    let client = context.connect().await?;
    let mut request = v1::ListEntriesRequest {
        path,
        authors: args.author,
        oldest_first: args.reverse,
        include_rejected: args.rejected,
        page_size: PAGE,
        ..Default::default()
    };
    let mut shown = 0u64;
    'pages: while shown < args.number {
        let page = client.list_entries(request.clone()).await?;
        for entry in &page.entries {
            if shown >= args.number {
                break 'pages;
            }
            shown += 1;
            context
                .out
                .row("entry", || entry_text(entry), entry_value(entry));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    context.out.result(None, json!({"entries": shown}));
    Ok(0)
}

/// One line an event; the entry's own columns only on the first.
fn entry_text(entry: &v1::Entry) -> String {
    let change = entry.change.clone().unwrap_or_default();
    let id = print::entry_id(entry.id.as_ref()).unwrap_or_default();
    let head = format!(
        "{id:<8}  {:<20}  {:<10}",
        print::short_time(entry.order_time.as_ref()),
        print::escape(&change.author)
    );
    let mut lines = Vec::new();
    for event in &change.events {
        let (sign, what) = event_text(event);
        let first = if lines.is_empty() {
            head.clone()
        } else {
            " ".repeat(head.chars().count())
        };
        lines.push(format!("{first}  {sign}  {}", print::escape(&what)));
    }
    let hidden = u64::from(change.events_total).saturating_sub(change.events.len() as u64);
    if hidden > 0 {
        let indent = " ".repeat(head.chars().count());
        lines.push(format!(
            "{indent}     … and {}",
            print::plural(hidden, "more event")
        ));
    }
    if lines.is_empty() {
        lines.push(head);
    }
    let mut note = String::new();
    if !entry.applied {
        let reason = entry.rejected_reason();
        note = format!(
            "  rejected: {}",
            print::word(reason.as_str_name(), "ERROR_REASON")
        );
    }
    if !change.comment.is_empty() {
        note += &format!("  \"{}\"", print::escape(&change.comment));
    }
    if !change.via.is_empty() {
        note += &format!("  {}", print::escape(&change.via));
    }
    if let Some(first) = lines.first_mut() {
        first.push_str(&note);
    }
    lines.join("\n")
}

/// The sign and the words of an event.
fn event_text(event: &v1::Event) -> (char, String) {
    match &event.operation {
        Some(Operation::Put(put)) => ('+', format!("{}  {}", put.path, print::bytes(put.size))),
        Some(Operation::MakeDirectory(make)) => ('+', format!("{}/", make.path)),
        Some(Operation::MakeSymlink(make)) => ('+', format!("{} -> {}", make.path, make.target)),
        Some(Operation::Rename(rename)) => {
            ('>', format!("{} => {}", rename.from_path, rename.to_path))
        }
        Some(Operation::Copy(copy)) => ('+', format!("{} = {}", copy.to_path, copy.from_path)),
        Some(Operation::Remove(remove)) => ('-', remove.path.clone()),
        Some(Operation::SetAttributes(set)) => ('~', set.path.clone()),
        Some(Operation::Control(control)) => ('*', control.text.clone()),
        None => ('?', "an event this program does not know".to_owned()),
    }
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
    json!({"kind": kind, "path": path, "from_path": from, "size": size})
}

fn entry_value(entry: &v1::Entry) -> Value {
    let change = entry.change.clone().unwrap_or_default();
    let reason = print::word(entry.rejected_reason().as_str_name(), "ERROR_REASON");
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
        "events": change.events.iter().map(event_value).collect::<Vec<_>>(),
        "events_total": change.events_total,
        "chain_hash": print::hex(&entry.chain_hash),
        "applied": entry.applied,
        "rejected_reason": (!entry.applied).then(|| reason.to_ascii_uppercase()),
        "control_index": entry.control_index,
    })
}

/// Runs `verify`.
pub(crate) async fn verify(context: &Context, args: VerifyArgs) -> Outcome {
    let path = match &args.path {
        Some(path) => parse_path(path)?.as_str().to_owned(),
        None => String::new(),
    };
    let client = context.connect().await?;
    let request = v1::VerifyRequest {
        path,
        chain: args.chain,
        content: args.content,
        folders: args.folders,
        mend: args.mend,
    };
    let mut stream = client.verify(request).await?;
    let mut report = v1::VerifyReport::default();
    while let Some(response) = stream.next().await? {
        match response.message {
            Some(Message::Finding(finding)) => {
                let text = || finding_text(&finding);
                context.out.row("finding", text, finding_value(&finding));
            }
            Some(Message::Report(last)) => report = last,
            Some(Message::Progress(progress)) => {
                let text = format!("{} {} {}", progress.phase, progress.done, progress.unit);
                let value = json!({
                    "phase": progress.phase, "done": progress.done,
                    "total": progress.total, "unit": progress.unit,
                });
                context.out.progress(&print::escape(&text), value);
            }
            None => {}
        }
    }
    let text = format!(
        "read {} · {} · {} · {} · {}, {} mended",
        print::bytes(report.read_bytes),
        print::plural(report.entries_count, "entry"),
        print::plural(report.chunks_count, "chunk"),
        print::plural(report.files_count, "file"),
        print::plural(report.findings_count, "finding"),
        print::count(report.mended_count),
    );
    let value = json!({
        "entries": report.entries_count, "chunks": report.chunks_count,
        "files": report.files_count, "read_bytes": report.read_bytes,
        "findings": report.findings_count, "mended": report.mended_count,
    });
    context.out.result(Some(text), value);
    Ok(if report.findings_count > report.mended_count {
        8
    } else {
        0
    })
}

fn finding_text(finding: &v1::Finding) -> String {
    let mended = match (finding.mended, finding.mended_from.as_str()) {
        (false, _) => String::new(),
        (true, "") => "  mended".to_owned(),
        (true, node) => format!("  mended from {}", print::escape(node)),
    };
    format!(
        "{}  {}  {}{mended}",
        print::escape(&finding.code),
        print::escape(&finding.path),
        print::escape(&finding.detail)
    )
}

fn finding_value(finding: &v1::Finding) -> Value {
    json!({
        "code": finding.code, "path": finding.path, "detail": finding.detail,
        "entry": print::entry_id(finding.entry.as_ref()), "mended": finding.mended,
        "mended_from": (!finding.mended_from.is_empty()).then_some(&finding.mended_from),
    })
}
