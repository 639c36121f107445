//! [adapter] Commands on the node and its cluster: `status`.

use super::{Context, Outcome, members, print};
use crate::client::Client;
use crate::reason::{Problem, Reason};
use aber_proto::generated::v1::{self, Health};
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

/// How often `status --wait` looks again.
const LOOK: Duration = Duration::from_secs(1);
/// Members that are listed without `--verbose`.
const MEMBERS_SHOWN: usize = 12;

/// Arguments of `status`.
#[derive(Args, Debug, Default)]
pub(crate) struct StatusArgs {
    /// One line, and an exit code as monitoring expects it: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    #[arg(long)]
    check: bool,
    /// Wait until this node is up to date and nothing is only here: safe to switch off
    #[arg(long, conflicts_with = "check")]
    wait: bool,
}

/// What a status is made of.
struct Report {
    status: v1::GetStatusResponse,
    members: Vec<v1::Member>,
    partitions: Vec<v1::Partition>,
    volumes: Vec<v1::Volume>,
}

/// Runs `status`.
pub(crate) async fn status(context: &Context, args: StatusArgs) -> Outcome {
    let looked = look(context).await;
    if args.check {
        return check(context, looked);
    }
    let (client, mut report) = looked?;
    while args.wait && !is_settled(&report.status) {
        tokio::time::sleep(LOOK).await;
        match read(&client).await {
            Ok(newer) => report = newer,
            Err(problem) if problem.retry() => {}
            Err(problem) => return Err(problem),
        }
    }
    context
        .out
        .result(Some(text(&report, context.verbose > 0)), value(&report));
    Ok(0)
}

async fn look(context: &Context) -> Result<(Client, Report), Problem> {
    let client = context.connect().await?;
    let report = read(&client).await?;
    Ok((client, report))
}

async fn read(client: &Client) -> Result<Report, Problem> {
    let status = client.get_status(v1::GetStatusRequest {}).await?;
    let members = client.members(false).await?;
    let partitions = client
        .list_partitions(v1::ListPartitionsRequest::default())
        .await?
        .partitions;
    let volumes = client
        .list_volumes(v1::ListVolumesRequest::default())
        .await?
        .volumes;
    Ok(Report {
        status,
        members,
        partitions,
        volumes,
    })
}

/// Whether this node could be switched off without anybody missing anything.
fn is_settled(status: &v1::GetStatusResponse) -> bool {
    let numbers = [
        status.entries_to_apply,
        status.fetch_bytes,
        status.outbox_changes,
        status.only_here_bytes,
    ];
    let folders = status.folders.iter();
    numbers.iter().all(|number| *number == 0)
        && folders
            .map(|f| f.entries_behind + f.waiting_count + f.pending_count)
            .sum::<u64>()
            == 0
}

/// The line and the exit code for monitoring.
fn check(context: &Context, looked: Result<(Client, Report), Problem>) -> Outcome {
    let (word, exit, what) = match &looked {
        Ok((_, report)) => {
            let notice = report
                .status
                .notices
                .first()
                .map(|notice| notice.what.clone());
            match report.status.health() {
                Health::Ok => ("OK", 0, notice),
                Health::Degraded => ("WARNING", 1, notice),
                Health::Queuing | Health::Failed => ("CRITICAL", 2, notice),
                Health::Unspecified => ("UNKNOWN", 3, notice),
            }
        }
        Err(problem) if problem.reason == Reason::DaemonNotRunning => {
            ("CRITICAL", 2, Some(problem.what()))
        }
        Err(problem) => ("UNKNOWN", 3, Some(problem.what())),
    };
    let what = what.unwrap_or_else(|| "nothing to report".to_owned());
    let line = format!("{word}: {}", print::escape(&what));
    context.out.result(
        Some(line),
        json!({"check": word, "exit": exit, "what": what}),
    );
    Ok(exit)
}

fn text(report: &Report, is_verbose: bool) -> String {
    let status = &report.status;
    let health = print::word(status.health().as_str_name(), "HEALTH").to_uppercase();
    let mut lines = vec![format!(
        "{}   {health}   {} of {} up   this node: {}",
        print::escape(&status.cluster),
        status.members_up_count,
        print::plural(u64::from(status.members_count), "node"),
        print::escape(&status.node)
    )];
    for folder in &status.folders {
        lines.push(folder_text(folder, status));
    }
    if status.only_here_bytes > 0 || status.outbox_changes > 0 {
        lines.push(format!(
            "  only here  {}, {} waiting to be ordered. Do not switch off yet (aber status --wait)",
            print::bytes(status.only_here_bytes),
            print::plural(status.outbox_changes, "change")
        ));
    }
    lines.push(writing(&report.partitions));
    if !status.api_address.is_empty() {
        let address = print::escape(&status.api_address);
        lines.push(format!("  api        for members: aber --node {address}"));
    }
    let shown = if is_verbose {
        usize::MAX
    } else {
        MEMBERS_SHOWN
    };
    for member in report.members.iter().take(shown) {
        lines.push(format!("  node {}", members::line(member, is_verbose)));
    }
    let more = report.members.len().saturating_sub(shown);
    if more > 0 {
        lines.push(format!("  and {more} more: aber members"));
    }
    if is_verbose {
        lines.extend(report.partitions.iter().map(partition_text));
    }
    lines.extend(status.notices.iter().map(print::notice_text));
    lines.join("\n")
}

fn folder_text(folder: &v1::FolderStatus, status: &v1::GetStatusResponse) -> String {
    let place = folder.folder.clone().unwrap_or_default();
    let behind = status.entries_to_apply.max(folder.entries_behind);
    let state = if behind == 0 && folder.waiting_count + folder.pending_count == 0 {
        "up to date".to_owned()
    } else {
        let waiting = folder.waiting_count + folder.pending_count;
        format!(
            "{} behind, {} waiting, {} to fetch",
            print::plural(behind, "entry"),
            print::plural(waiting, "path"),
            print::bytes(status.fetch_bytes)
        )
    };
    format!(
        "  {}  mirror of {}, {state}   {}, {} ({} on disk)",
        print::escape(&place.directory),
        print::escape(&place.path),
        print::plural(status.files_count, "file"),
        print::bytes(status.content_bytes),
        print::bytes(status.store_bytes)
    )
}

/// What writing does now.
fn writing(partitions: &[v1::Partition]) -> String {
    let is_stuck = |partition: &&v1::Partition| !partition.has_majority;
    let stuck: Vec<String> = partitions
        .iter()
        .filter(is_stuck)
        .map(|p| p.id.to_string())
        .collect();
    if stuck.is_empty() {
        "  writing    works".to_owned()
    } else {
        let list = stuck.join(", ");
        format!("  writing    changes in partition {list} wait in the outbox for a majority")
    }
}

fn partition_text(partition: &v1::Partition) -> String {
    let leader = if partition.leader.is_empty() {
        "nobody"
    } else {
        &partition.leader
    };
    let digest = print::hex(&partition.view_digest).unwrap_or_default();
    format!(
        "  partition {:<3} applied {}, shown {}, digest {} at {}   led by {}   {}",
        partition.id,
        partition.applied_index,
        partition.mirrored_index,
        digest.get(..12).unwrap_or("-"),
        partition.digest_index,
        print::escape(leader),
        print::escape(&partition.volumes.join(" "))
    )
}

fn value(report: &Report) -> Value {
    let status = &report.status;
    json!({
        "cluster": status.cluster,
        "cluster_id": status.cluster_id,
        "node": status.node,
        "version": status.version,
        "process_id": status.process_id,
        "link_address": status.link_address,
        "api_address": status.api_address,
        "health": print::word(status.health().as_str_name(), "HEALTH"),
        "notices": status.notices.iter().map(print::notice_value).collect::<Vec<_>>(),
        "members_count": status.members_count,
        "members_up_count": status.members_up_count,
        "files_count": status.files_count,
        "content_bytes": status.content_bytes,
        "store_bytes": status.store_bytes,
        "entries_to_apply": status.entries_to_apply,
        "fetch_bytes": status.fetch_bytes,
        "outbox_changes": status.outbox_changes,
        "only_here_bytes": status.only_here_bytes,
        "folders": status.folders.iter().map(folder_value).collect::<Vec<_>>(),
        "members": report.members.iter().map(members::value).collect::<Vec<_>>(),
        "partitions": report.partitions.iter().map(partition_value).collect::<Vec<_>>(),
        "volumes": report.volumes.iter().map(volume_value).collect::<Vec<_>>(),
    })
}

fn folder_value(status: &v1::FolderStatus) -> Value {
    let folder = status.folder.clone().unwrap_or_default();
    json!({
        "directory": folder.directory,
        "path": folder.path,
        "mode": print::word(folder.mode().as_str_name(), "FOLDER_MODE"),
        "health": print::word(status.health().as_str_name(), "HEALTH"),
        "waiting_count": status.waiting_count,
        "pending_count": status.pending_count,
        "collision_count": status.collision_count,
        "unmaterializable_count": status.unmaterializable_count,
        "local_edits_count": status.local_edits_count,
        "entries_behind": status.entries_behind,
        "scan_time": print::time(status.scan_time.as_ref()),
        "notice": status.notice.as_ref().map(print::notice_value),
    })
}

/// A partition as fields of a record.
pub(crate) fn partition_value(partition: &v1::Partition) -> Value {
    json!({
        "id": partition.id,
        "volumes": partition.volumes,
        "leader": (!partition.leader.is_empty()).then_some(&partition.leader),
        "term": partition.term,
        "voters": partition.voters,
        "voters_up": partition.voters_up,
        "has_majority": partition.has_majority,
        "committed_index": partition.committed_index,
        "applied_index": partition.applied_index,
        "mirrored_index": partition.mirrored_index,
        "oldest_index": partition.oldest_index,
        "chain_hash": print::hex(&partition.chain_hash),
        "view_digest": print::hex(&partition.view_digest),
        "digest_index": partition.digest_index,
    })
}

fn volume_value(volume: &v1::Volume) -> Value {
    json!({
        "name": volume.name, "partition": volume.partition,
        "files_count": volume.files_count, "content_bytes": volume.content_bytes,
    })
}
