//! [adapter] Commands on the node and its cluster: `status`.

use super::{Context, Outcome, members, print, rate};
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
    let mut volumes = client
        .list_volumes(v1::ListVolumesRequest::default())
        .await?
        .volumes;
    // The root's own files are no directory of it.
    volumes.retain(|volume| volume.name != "/");
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
        status.only_here_changes,
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
    lines.extend(only_here(status));
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
        lines.extend(uplink(status));
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

/// What would be lost, or be late, if this machine were switched off now.
fn only_here(status: &v1::GetStatusResponse) -> Option<String> {
    let rate = status.uplink.as_ref().map_or(0, |up| up.bits_per_second);
    let mut parts = Vec::new();
    if status.only_here_changes > 0 {
        let mut text = print::plural(status.only_here_changes, "change");
        if status.only_here_bytes > 0 {
            text += &format!(", {}", print::bytes(status.only_here_bytes));
        }
        let estimate = status.only_here_estimate.as_ref();
        if let Some(time) = estimate.filter(|_| rate > 0 && status.only_here_bytes > 0) {
            text += &format!(": about {} at {}", span(time), rate::text(rate));
        }
        parts.push(text);
    }
    if status.outbox_changes > 0 {
        let changes = print::plural(status.outbox_changes, "change");
        parts.push(format!("{changes} waiting to be ordered"));
    }
    let what = parts.join("; ");
    let text = format!("  only here  {what}. Do not switch off yet (aber status --wait)");
    (!parts.is_empty()).then_some(text)
}

/// `40 s`, `27 min`, `3.5 h`, rounded up.
fn span(time: &prost_types::Duration) -> String {
    let seconds = time.seconds.max(0) + i64::from(time.nanos > 0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", (seconds + 59) / 60),
        _ => {
            let tenths = (seconds + 359) / 360;
            format!("{}.{} h", tenths / 10, tenths % 10)
        }
    }
}

/// How fast this node sends, what waits for it, and what its line was used for.
fn uplink(status: &v1::GetStatusResponse) -> Vec<String> {
    let Some(uplink) = &status.uplink else {
        return Vec::new();
    };
    let limit = match uplink.bits_per_second {
        0 => "no limit".to_owned(),
        bits => format!("at most {}", rate::text(bits)),
    };
    let content = uplink.priorities.iter().skip(2);
    let waiting: u64 = content.map(|priority| priority.waiting_bytes).sum();
    let waits = match (waiting, &uplink.backlog) {
        (0, _) => "no content waits".to_owned(),
        (bytes, Some(time)) => format!("{} wait, for {}", print::bytes(bytes), span(time)),
        (bytes, None) => format!("{} wait", print::bytes(bytes)),
    };
    let all: u64 = uplink.priorities.iter().map(|p| p.sent_bytes).sum();
    let shares = uplink.priorities.iter().map(|priority| {
        let percent = u128::from(priority.sent_bytes) * 100 / u128::from(all.max(1));
        let bytes = print::bytes(priority.sent_bytes);
        format!("{} {bytes} ({percent} %)", print::escape(&priority.name))
    });
    let shares: Vec<String> = shares.collect();
    vec![
        format!("  uplink     {limit}, {waits}"),
        format!("  sent       {}", shares.join(", ")),
    ]
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
    let history = match partition.history_start_index {
        0 => String::new(),
        index => format!("   history from {index} on, the rest is on its way"),
    };
    format!(
        "  partition {:<3} applied {}, shown {}, digest {} at {}   led by {}   {}{history}",
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
        "only_here_changes": status.only_here_changes,
        "only_here_estimate_ms": print::millis(status.only_here_estimate.as_ref()),
        "uplink": status.uplink.as_ref().map(uplink_value),
        "folders": status.folders.iter().map(folder_value).collect::<Vec<_>>(),
        "members": report.members.iter().map(members::value).collect::<Vec<_>>(),
        "partitions": report.partitions.iter().map(partition_value).collect::<Vec<_>>(),
        "volumes": report.volumes.iter().map(volume_value).collect::<Vec<_>>(),
    })
}

fn uplink_value(uplink: &v1::Uplink) -> Value {
    let priorities = uplink.priorities.iter().map(|priority| {
        json!({
            "name": priority.name, "waiting_count": priority.waiting_count,
            "waiting_bytes": priority.waiting_bytes, "sent_bytes": priority.sent_bytes,
        })
    });
    let bits = uplink.bits_per_second;
    json!({
        "bits_per_second": (bits > 0).then_some(bits),
        "backlog_ms": print::millis(uplink.backlog.as_ref()),
        "priorities": priorities.collect::<Vec<_>>(),
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
        "history_start_index": partition.history_start_index,
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
