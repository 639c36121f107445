//! [adapter] `blame`: who last wrote each part of a file; `log --versions`: its versions.

use super::at::AtArg;
use super::event::{column, local_time};
use super::{Context, Outcome, parse_path, print};
use crate::reason::Problem;
use aber_proto::generated::v1;
use clap::Args;
use jiff::Zoned;
use serde_json::{Value, json};

/// Versions asked for at once.
const PAGE: u64 = 200;

/// Arguments of `blame`.
#[derive(Args, Debug)]
pub(crate) struct BlameArgs {
    #[command(flatten)]
    at: AtArg,
    /// The file
    path: String,
}

/// Runs `blame`.
pub(crate) async fn blame(context: &Context, args: BlameArgs) -> Outcome {
    let path = parse_path(&args.path)?.as_str().to_owned();
    let client = context.connect().await?;
    let read = args.at.read(context, &client, &path).await?;
    let request = v1::BlameRequest { path, read };
    let found = client.blame(request).await?;
    let heads = heads(&found.spans, &Zoned::now());
    for (span, head) in found.spans.iter().zip(heads) {
        let text = || {
            if found.by_line {
                line_texts(span, &head)
            } else {
                let end = span.start.saturating_add(span.length);
                format!(
                    "{head}  {}..{end}  {}",
                    span.start,
                    print::bytes(span.length)
                )
            }
        };
        context.out.row("span", text, span_value(span));
    }
    let note = (!found.complete).then(|| {
        format!(
            "only the newest {} were looked at: what the oldest of these has may be older",
            print::plural(found.versions_count, "version")
        )
    });
    if let Some(note) = &note {
        context.out.notice(note, json!({"text": note}));
    }
    let value = json!({
        "by_line": found.by_line, "versions": found.versions_count,
        "complete": found.complete,
    });
    context.out.result(None, value);
    Ok(0)
}

/// Entry, time and author of each span, in columns.
fn heads(spans: &[v1::BlameSpan], now: &Zoned) -> Vec<String> {
    let rows: Vec<[String; 3]> = spans
        .iter()
        .map(|span| {
            [
                print::entry_id(span.entry.as_ref()).unwrap_or_default(),
                local_time(span.order_time.as_ref(), now),
                print::escape(&span.author),
            ]
        })
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().filter_map(|row| row.get(column));
        widths.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let text = |row: &[String; 3]| {
        let columns = row.iter().zip(widths);
        let columns = columns.map(|(text, width)| {
            let gap = width.saturating_sub(text.chars().count());
            format!("{text}{}", " ".repeat(gap))
        });
        columns.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(text).collect()
}

fn line_texts(span: &v1::BlameSpan, head: &str) -> String {
    let lines = (span.start..).zip(span.text.split_inclusive('\n'));
    let line = |(number, text): (u64, &str)| {
        let text = column(text.trim_end_matches('\n'));
        format!("{head}  {number:>4}  {text}").trim_end().to_owned()
    };
    lines.map(line).collect::<Vec<_>>().join("\n")
}

fn span_value(span: &v1::BlameSpan) -> Value {
    json!({
        "start": span.start, "length": span.length,
        "entry": print::entry_id(span.entry.as_ref()),
        "author": span.author, "order_time": print::time(span.order_time.as_ref()),
        "text": (!span.text.is_empty()).then_some(&span.text),
    })
}

/// Runs `log --versions`.
pub(crate) async fn versions(context: &Context, path: Option<&str>, most: u64) -> Outcome {
    let path = path.ok_or_else(|| Problem::usage("--versions wants the path of a file"))?;
    let path = parse_path(path)?.as_str().to_owned();
    let client = context.connect().await?;
    let mut request = v1::ListVersionsRequest {
        path,
        ..v1::ListVersionsRequest::default()
    };
    let mut shown = 0;
    while shown < most {
        request.page_size = i32::try_from((most - shown).min(PAGE)).unwrap_or(i32::MAX);
        let page = client.list_versions(request.clone()).await?;
        let now = Zoned::now();
        for version in &page.versions {
            let text = || version_text(version, &now);
            context.out.row("version", text, version_value(version));
            shown += 1;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    context.out.result(None, json!({"versions": shown}));
    Ok(0)
}

fn version_text(version: &v1::Version, now: &Zoned) -> String {
    let item = version.item.clone().unwrap_or_default();
    let when = print::entry_id(item.entry.as_ref()).unwrap_or_default();
    let here = if version.is_present { "  now" } else { "" };
    format!(
        "{when:<8}  {:<12}  {:<10}  {:>10}  {:<10}  {}{here}",
        local_time(item.order_time.as_ref(), now),
        print::escape(&item.author),
        print::bytes(item.size),
        print::escape(&item.etag),
        print::escape(&item.path),
    )
}

fn version_value(version: &v1::Version) -> Value {
    let item = version.item.clone().unwrap_or_default();
    json!({
        "when": print::entry_id(item.entry.as_ref()),
        "item": print::item_value(&item),
        "previous_etag": (!version.previous_etag.is_empty()).then_some(&version.previous_etag),
        "present": version.is_present,
    })
}
