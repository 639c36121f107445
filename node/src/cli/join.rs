//! [adapter] The command `join`: becomes a member, starts the node, shows what comes.

use super::start::{log_to_stderr, parse_addresses, parse_listen, run_node, stop_at_eof};
use super::{Context, Outcome, print};
use crate::client::Client;
use crate::daemon::{self, JoinOptions, Joined, UpOptions};
use crate::reason::{Problem, Reason};
use aber_proto::generated::v1;
use aber_proto::limit;
use aber_proto::ticket::{Ticket, TicketProblem};
use clap::Args;
use serde_json::json;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// For a node that was just started to answer.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long what comes in is shown: on a terminal, and elsewhere.
const SHOW_TERMINAL: Duration = Duration::from_secs(60);
const SHOW: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of the node's log that an error shows.
const SHOWN_BYTES: usize = 2000;

/// Arguments of `join`.
#[derive(Args, Debug)]
pub(crate) struct JoinArgs {
    /// The ticket; better: without it, and paste it when asked
    ticket: Option<String>,
    /// A file with the ticket; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "ticket")]
    ticket_file: Option<PathBuf>,
    /// The name it would like [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Where this node listens for others; port 0: any free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where others are told to look for it, up to 8 times [default: its own addresses]
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
    /// The mirror directory [default: DIR/mirror]
    #[arg(long, value_name = "DIR")]
    mirror: Option<PathBuf>,
    /// No TLS between nodes; as the cluster has it
    #[arg(long)]
    plaintext: bool,
    /// Run the node here, instead of in the background
    #[arg(long)]
    pub(super) foreground: bool,
    /// Stop when standard input closes: for programs that start a node and may be killed
    #[arg(long, hide = true, requires = "foreground")]
    until_eof: bool,
}

/// Runs `join`.
pub(crate) async fn join(context: &Context, args: JoinArgs) -> Outcome {
    let text = read_ticket(&args).await?;
    let ticket = Ticket::parse(&text);
    let ticket = ticket.map_err(ticket_problem)?;
    if let Some(name) = &args.name
        && !aber_proto::member::is_member_name(name)
    {
        let why = "a node's name is 1 to 32 of a-z, 0-9 and '-'";
        return Err(Problem::usage(why));
    }
    let data = context.data()?;
    if let Ok(client) = Client::connect_data(&data).await {
        return running_already(context, &client, &data, &ticket).await;
    }
    let mirror = args.mirror.clone().map(std::path::absolute).transpose();
    let joined = daemon::join(JoinOptions {
        data: data.clone(),
        ticket,
        name: args.name.clone(),
        listen: args.listen.as_deref().map(parse_listen).transpose()?,
        addresses: parse_addresses(&args.address)?,
        mirror: mirror.map_err(|error| Problem::usage(format!("--mirror: {error}")))?,
        plaintext: args.plaintext,
    });
    let joined = joined.await?;
    say_joined(context, &joined);
    if args.foreground {
        log_to_stderr(context);
        if args.until_eof {
            tokio::spawn(stop_at_eof());
        }
        let options = UpOptions {
            data,
            ..UpOptions::default()
        };
        return run_node(context, options).await;
    }
    let started = start(&data)?;
    let client = wait_until_up(started, &data).await?;
    show(context, &client, &data, &joined).await
}

fn ticket_problem(problem: TicketProblem) -> Problem {
    match problem {
        TicketProblem::Newer(found) => Problem::new(Reason::VersionTooOld)
            .with("what", "this ticket")
            .with("found", found)
            .with("supported", 1),
        problem => Problem::new(Reason::TicketDamaged).with("detail", problem),
    }
}

/// From the argument, the file, a terminal, or standard input.
async fn read_ticket(args: &JoinArgs) -> Result<String, Problem> {
    if let Some(ticket) = &args.ticket {
        return Ok(ticket.clone());
    }
    let file = args.ticket_file.clone();
    let file = file.filter(|path| path != Path::new("-"));
    let read = tokio::task::spawn_blocking(move || match file {
        Some(path) => File::open(&path)
            .and_then(read_few)
            .map_err(|error| unreadable(&path, &error)),
        None if std::io::stdin().is_terminal() => {
            let _ = write!(std::io::stderr(), "Ticket: ");
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            read.map(|_| line)
                .map_err(|error| unreadable(Path::new("-"), &error))
        }
        None => read_few(std::io::stdin()).map_err(|error| unreadable(Path::new("-"), &error)),
    });
    read.await.map_err(Problem::internal)?
}

/// A little more than any ticket, so that something longer is known for what it is.
fn read_few(source: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let most = limit::TICKET_TEXT_BYTES as u64 + 1;
    source.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text.trim().to_owned())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Problem::new(Reason::SourceMissing).with("path", path.display());
    }
    Problem::new(Reason::SourceUnreadable)
        .with("path", path.display())
        .with("detail", error)
}

/// A node runs on this directory: it is a member already, or one of another cluster.
async fn running_already(
    context: &Context,
    client: &Client,
    data: &Path,
    ticket: &Ticket,
) -> Outcome {
    let status = client.get_status(v1::GetStatusRequest {}).await?;
    if status.cluster_id != ticket.cluster.to_string() {
        return Err(Problem::new(Reason::OtherCluster)
            .with("what", data.display())
            .with("found", status.cluster_id)
            .with("wanted", ticket.cluster));
    }
    let text = format!(
        "This node is a member of {} already, as {}, and runs. Nothing was done; the ticket is as \
         good as before.",
        print::escape(&status.cluster),
        print::escape(&status.node)
    );
    let value = json!({
        "cluster": status.cluster, "node": status.node, "joined": false,
        "process_id": status.process_id, "mirror": mirror_of(&status), "complete": null,
    });
    context.out.result(Some(text), value);
    Ok(0)
}

fn say_joined(context: &Context, joined: &Joined) {
    let (cluster, node) = (print::escape(&joined.cluster), print::escape(&joined.node));
    let Some(inviter) = &joined.inviter else {
        let text = format!("This node is a member of {cluster} already, as {node}.");
        let value = json!({"cluster": joined.cluster, "node": joined.node, "joined": false});
        return context.out.notice(&text, value);
    };
    let text = format!(
        "Talked to {} ({}): its key is the one in the ticket.",
        print::escape(&inviter.name),
        print::escape(&inviter.address)
    );
    let value = json!({
        "cluster": joined.cluster, "node": joined.node, "joined": true,
        "inviter": inviter.name, "address": inviter.address,
    });
    context.out.notice(&text, value);
}

/// Where the background node writes what it has to say.
fn log_path(data: &Path) -> PathBuf {
    data.join("daemon.log")
}

fn start(data: &Path) -> Result<Child, Problem> {
    let path = log_path(data);
    let unwritable = |error: std::io::Error| {
        Problem::new(Reason::TargetUnwritable)
            .with("path", path.display())
            .with("detail", error)
    };
    let log = File::options().create(true).append(true).open(&path);
    let log = log.map_err(unwritable)?;
    let errors = log.try_clone().map_err(unwritable)?;
    let program = std::env::current_exe().map_err(Problem::internal)?;
    Command::new(program)
        .args(["up", "--background", "--data"])
        .arg(data)
        .env_remove("ABER_DATA")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|error| Problem::internal(format!("the node cannot be started: {error}")))
}

async fn wait_until_up(mut child: Child, data: &Path) -> Result<Client, Problem> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        if let Ok(client) = Client::connect_data(data).await {
            return Ok(client);
        }
        let ended = child.try_wait().map_err(Problem::internal)?;
        if ended.is_some() || Instant::now() > end {
            let log = std::fs::read(log_path(data)).unwrap_or_default();
            let from = log.len().saturating_sub(SHOWN_BYTES);
            let last = String::from_utf8_lossy(log.get(from..).unwrap_or_default());
            let last: Vec<_> = last.lines().rev().take(4).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            let detail = format!(
                "the node is a member and does not start; its log {} ends with: {}",
                log_path(data).display(),
                last.join(" | ")
            );
            return Err(Problem::new(Reason::DataDirUnusable)
                .with("dir", data.display())
                .with("detail", detail));
        }
        sleep(LOOK / 5).await;
    }
}

/// Shows what comes in until all is there, or for a while.
async fn show(context: &Context, client: &Client, data: &Path, joined: &Joined) -> Outcome {
    let patience = match std::io::stderr().is_terminal() {
        true => SHOW_TERMINAL,
        false => SHOW,
    };
    let end = Instant::now() + patience;
    let mut rate = Rate::default();
    let (mut is_told, mut said) = (false, Instant::now());
    let (status, complete) = loop {
        let status = client.get_status(v1::GetStatusRequest {}).await?;
        let partitions = client
            .list_partitions(v1::ListPartitionsRequest::default())
            .await?
            .partitions;
        rate.note(status.store_bytes);
        if !is_told && knows_itself(&partitions, joined) {
            is_told = true;
            say_members(context, client, joined).await?;
        }
        if is_told && is_complete(&status, &partitions) {
            break (status, true);
        }
        if Instant::now() > end {
            break (status, false);
        }
        if said.elapsed() > Duration::from_secs(2) {
            said = Instant::now();
            let text = receiving(&status, &rate);
            context
                .out
                .progress(&text, json!({"phase": "receive", "text": text}));
        }
        sleep(LOOK).await;
    };
    if !is_told {
        say_members(context, client, joined).await?;
    }
    let mirror = mirror_of(&status).unwrap_or_default();
    let head = if complete {
        let files = print::plural(status.files_count, "file");
        let size = print::bytes(status.content_bytes);
        format!("All is here: {files}, {size}.")
    } else {
        format!(
            "{} Goes on in the background: aber status",
            receiving(&status, &rate)
        )
    };
    let text = format!(
        "{head}\n  {}    everything in the cluster, read-only\n  \
         stop      aber down (process {}; its log: {})",
        print::escape(&mirror),
        status.process_id,
        print::escape(&log_path(data).display().to_string())
    );
    let value = json!({
        "cluster": status.cluster, "node": status.node, "joined": joined.inviter.is_some(),
        "process_id": status.process_id, "mirror": mirror, "complete": complete,
    });
    context.out.result(Some(text), value);
    Ok(0)
}

fn mirror_of(status: &v1::GetStatusResponse) -> Option<String> {
    let folder = status.folders.first()?.folder.as_ref()?;
    Some(folder.directory.clone())
}

/// Whether the control partition is as far here as it was when this node was let in.
fn knows_itself(partitions: &[v1::Partition], joined: &Joined) -> bool {
    let control = partitions.iter().find(|partition| partition.id == 0);
    control.is_some_and(|control| control.applied_index >= joined.control_index)
}

fn is_complete(status: &v1::GetStatusResponse, partitions: &[v1::Partition]) -> bool {
    let is_behind = |partition: &v1::Partition| {
        partition.leader.is_empty()
            || partition.committed_index > partition.applied_index
            || partition.mirrored_index < partition.applied_index
    };
    let waits = |folder: &v1::FolderStatus| folder.waiting_count + folder.pending_count > 0;
    status.entries_to_apply == 0
        && !partitions.iter().any(is_behind)
        && !status.folders.iter().any(waits)
}

/// "Joined X as Y. N members; V voters."
async fn say_members(context: &Context, client: &Client, joined: &Joined) -> Result<(), Problem> {
    let members = client.list_members(v1::ListMembersRequest::default());
    let members = members.await?.members;
    let voters: Vec<&str> = members
        .iter()
        .filter(|member| member.votes_in.contains(&0))
        .map(|member| member.name.as_str())
        .collect();
    let count = members.len().max(joined.members_count);
    let votes = match voters.as_slice() {
        [] => "voters are not known yet".to_owned(),
        [one] if count < 3 => format!(
            "1 voter ({}) until there are three: while it is off, changes wait",
            print::escape(one)
        ),
        voters => print::plural(voters.len() as u64, "voter"),
    };
    let text = format!(
        "Joined {} as {}. {}; {votes}.",
        print::escape(&joined.cluster),
        print::escape(&joined.node),
        print::plural(count as u64, "member")
    );
    context
        .out
        .notice(&text, json!({"members": count, "voters": voters}));
    Ok(())
}

/// Bytes that arrive in the store, smoothed.
#[derive(Default)]
struct Rate {
    last: Option<(Instant, u64)>,
    bytes_per_second: u64,
}

impl Rate {
    fn note(&mut self, store_bytes: u64) {
        let now = Instant::now();
        if let Some((then, before)) = self.last {
            let came = store_bytes.saturating_sub(before);
            let millis = u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX);
            let rate = came.saturating_mul(1000) / millis.max(1);
            self.bytes_per_second = (self.bytes_per_second.saturating_mul(4) + rate) / 5;
        }
        self.last = Some((now, store_bytes));
    }
}

fn receiving(status: &v1::GetStatusResponse, rate: &Rate) -> String {
    let files = print::plural(status.files_count, "file");
    let left = status.content_bytes.saturating_sub(status.store_bytes);
    let (all, left_text) = (print::bytes(status.content_bytes), print::bytes(left));
    let mut text = format!("Receiving {files}, about {left_text} of {all} left");
    // Below this nothing can be said of the time.
    if rate.bytes_per_second >= 1024 {
        let minutes = (left / rate.bytes_per_second).div_ceil(60);
        let speed = print::bytes(rate.bytes_per_second);
        text.push_str(&format!(", {speed}/s, about {minutes} min"));
    }
    text.push('.');
    text
}
