//! [adapter] `prune`: what retention lets go of, to look at or to let go now.

use super::{Context, Outcome, print};
use crate::client::Client;
use crate::reason::Problem;
use aber_proto::generated::v1::{self, apply_prune_response::Message};
use clap::Args;
use serde_json::json;

/// Arguments of `prune`.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Only this volume, e.g. /music
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
    /// Only show what would go
    #[arg(long)]
    dry_run: bool,
}

/// Runs `prune`.
pub(crate) async fn prune(context: &Context, args: PruneArgs) -> Outcome {
    let client = context.connect().await?;
    let volume = args.volume.unwrap_or_default();
    match args.dry_run {
        true => show(context, &client, volume).await,
        false => apply(context, &client, volume).await,
    }
}

async fn show(context: &Context, client: &Client, volume: String) -> Outcome {
    let plan = client.plan_prune(v1::PlanPruneRequest { volume }).await?;
    for file in &plan.files {
        let value = json!({
            "path": file.path,
            "versions_count": file.versions_count,
            "content_bytes": file.content_bytes,
            "present": file.present,
        });
        context.out.row("file", || line(file), value);
    }
    let more = plan.files_count.saturating_sub(plan.files.len() as u64);
    let mut text = String::new();
    if more > 0 {
        text += &format!("and {} more\n", print::plural(more, "file"));
    }
    text += &match plan.versions_count {
        0 => "nothing goes".to_owned(),
        count => format!(
            "{} of {}, {}: would go. Nothing has changed yet.",
            print::plural(count, "version"),
            print::plural(plan.files_count, "file"),
            print::bytes(plan.content_bytes),
        ),
    };
    let value = json!({
        "files_count": plan.files_count,
        "versions_count": plan.versions_count,
        "content_bytes": plan.content_bytes,
        "freed_bytes": 0,
        "done": false,
    });
    context.out.result(Some(text), value);
    Ok(0)
}

fn line(file: &v1::PrunedFile) -> String {
    format!(
        "{:>12}  {:>10}  {}{}",
        print::plural(file.versions_count, "version"),
        print::bytes(file.content_bytes),
        print::escape(&file.path),
        if file.present { "" } else { "   (removed)" },
    )
}

async fn apply(context: &Context, client: &Client, volume: String) -> Outcome {
    let mut stream = client.apply_prune(v1::ApplyPruneRequest { volume }).await?;
    let mut report = None;
    while let Some(message) = stream.next().await? {
        if let Some(Message::Report(done)) = message.message {
            report = Some(done);
        }
    }
    let report = report.ok_or_else(|| Problem::internal("the node did not say what it did"))?;
    let hours = report
        .grace
        .as_ref()
        .map_or(0, |grace| grace.seconds / 3600);
    let mut text = match report.versions_count {
        0 => "nothing to let go".to_owned(),
        count => format!(
            "{}, {}: gone from the history of this node",
            print::plural(count, "version"),
            print::bytes(report.content_bytes),
        ),
    };
    if report.versions_count > 0 && hours > 0 {
        text += &format!("; what nothing else needs leaves the disk in {hours} h");
    }
    if report.freed_bytes > 0 {
        text += &format!("\n{} freed", print::bytes(report.freed_bytes));
    }
    let value = json!({
        "files_count": null,
        "versions_count": report.versions_count,
        "content_bytes": report.content_bytes,
        "freed_bytes": report.freed_bytes,
        "done": true,
    });
    context.out.result(Some(text), value);
    Ok(0)
}
