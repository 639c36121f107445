//! [adapter] `verify`: everything read again and checked.

use super::print;
use super::{Context, Outcome, parse_path};
use aber_proto::generated::v1::{self, verify_response::Message};
use clap::Args;
use serde_json::{Value, json};

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// What is damaged is mended from other nodes in any case
    #[arg(long, hide = true)]
    mend: bool,
    /// Only chain and signatures
    #[arg(long)]
    chain: bool,
    /// Only stored content
    #[arg(long)]
    content: bool,
    /// Only the mirror
    #[arg(long = "mirror", alias = "folders")]
    folders: bool,
    /// What to read of content and mirror, and below [default: everything, and the log]
    path: Option<String>,
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
    let entry = finding.entry.as_ref();
    let entry = entry.map_or_else(String::new, |entry| {
        format!("{}:{}  ", entry.partition, entry.index)
    });
    let path = match finding.path.as_str() {
        "" => String::new(),
        path => format!("{}  ", print::escape(path)),
    };
    format!(
        "{}  {entry}{path}{}{mended}",
        print::escape(&finding.code),
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
