//! [adapter] Commands that start and stop things: `up down demo materialize`.

use super::{Context, Outcome};
use super::{print, rate};
use crate::client::Target;
use crate::daemon::{self, ApiWish, MaterializeOptions, Started, UpOptions};
use crate::demo::{self, DemoOptions};
use crate::reason::{Problem, Reason};
use crate::schedule::Schedule;
use aber_proto::generated::v1;
use aber_proto::{TicketAddress, limit};
use clap::Args;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};
use tracing_subscriber::EnvFilter;

/// How long `down` waits for a node to be gone.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);
/// How long `demo` goes on trying unless told otherwise.
const DEMO_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Arguments of `up`.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Where other nodes reach this one; port 0: any free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where others are told to look for this node, up to 8 times [default: its own addresses]
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
    /// No TLS between nodes, for networks that encrypt by themselves; all nodes or none
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL")]
    plaintext: Option<bool>,
    /// Let members use this node from elsewhere: aber --node; off: no more [default: as the last
    /// time, else off]
    #[arg(long, value_name = "HOST:PORT")]
    api: Option<String>,
    /// What its connection carries away from it, e.g. "1 Mbit/s"; auto: not declared [default: as
    /// aber members says]
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    up: Option<u64>,
    /// What part of it is used when, up to 16 times, e.g. "23:00-07:00 up=100%", local time; off: as
    /// much as leaves no queue, always [default: as the last time, else off]
    #[arg(long, value_name = "SPAN")]
    schedule: Vec<String>,
    /// The mirror directory [default: as the last time, else DIR/mirror]
    #[arg(long, value_name = "DIR")]
    mirror: Option<PathBuf>,
    /// The node's name, when it starts a new cluster [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Stop when standard input closes: for programs that start a node and may be killed
    #[arg(long, hide = true)]
    until_eof: bool,
    /// Leave the terminal's session: for a command that starts a node and ends
    #[arg(long, hide = true)]
    background: bool,
    /// Entries between two snapshots: for tests of what is far behind
    #[arg(long, hide = true, value_name = "N")]
    snapshot_every: Option<u64>,
    /// Entries between two views that nodes compare: for tests of views that differ
    #[arg(long, hide = true, value_name = "N")]
    digest_every: Option<u64>,
    /// Bytes of a segment of the log: for tests on small disks
    #[arg(long, hide = true, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// Bytes of a pack of chunks: for tests of what is swept
    #[arg(long, hide = true, value_name = "BYTES")]
    pack_bytes: Option<u32>,
    /// Seconds that content which nothing needs stays: for tests of what is swept
    #[arg(long, hide = true, value_name = "SECONDS")]
    grace: Option<u64>,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Put the children of this directory at `/`, wait until they are on every mirror, and compare
    #[arg(long, value_name = "TREE")]
    put: Option<PathBuf>,
    /// End then: 0 if every mirror is equal to TREE
    #[arg(long)]
    exit: bool,
}

/// Arguments of `materialize`.
#[derive(Args, Debug)]
pub(crate) struct MaterializeArgs {
    /// The node to follow: its data directory, unix:SOCKET or PIN@HOST:PORT
    #[arg(long, value_name = "NODE", required_unless_present = "at")]
    from: Option<String>,
    /// The directory that becomes a mirror, or with --at a copy
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// End once all that is committed now is shown
    #[arg(long, conflicts_with = "at")]
    once: bool,
    /// The tree as it was then, and no more (see: aber at --help)
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    at: Option<String>,
    /// With --at: this directory of the tree alone
    #[arg(default_value = "/", requires = "at")]
    path: String,
}

/// Runs `up`.
pub(crate) async fn up(context: &Context, args: UpArgs) -> Outcome {
    log_to_stderr(context);
    if args.background {
        // Who leads a group already cannot, and needs not: it has none of the terminal's signals.
        let _leads = rustix::process::setsid().is_err();
    }
    let listen = args.listen.as_deref().map(parse_listen).transpose()?;
    let api = args.api.as_deref().map(parse_api).transpose()?;
    let addresses = parse_addresses(&args.address)?;
    let schedule = parse_schedule(&args.schedule)?;
    let options = UpOptions {
        data: context.data()?,
        listen,
        addresses: Some(addresses).filter(|addresses| !addresses.is_empty()),
        plaintext: args.plaintext,
        api,
        up: args.up,
        schedule,
        mirror: args.mirror,
        name: args.name,
        snapshot_every: args.snapshot_every,
        digest_every: args.digest_every,
        segment_bytes: args.segment_bytes,
        pack_bytes: args.pack_bytes,
        grace: args.grace.map(Duration::from_secs),
    };
    if args.until_eof {
        tokio::spawn(stop_at_eof());
    }
    run_node(context, options).await
}

/// Runs a node in this process until somebody ends it.
pub(super) async fn run_node(context: &Context, options: UpOptions) -> Outcome {
    let out = context.out.clone();
    daemon::up(options, move |started| {
        let value = json!({
            "cluster": started.cluster, "node": started.node, "new": started.is_new,
            "socket": started.socket, "listen": started.listen.to_string(), "api": started.api,
            "mirror": started.mirror, "process_id": std::process::id(),
        });
        out.notice(&started_text(started), value);
    })
    .await?;
    context.out.result(None, json!({"stopped": true}));
    Ok(0)
}

fn started_text(started: &Started) -> String {
    let mirror = print::escape(&started.mirror.display().to_string());
    let node = print::escape(&started.node);
    let cluster = print::escape(&started.cluster);
    let head = if started.is_new {
        format!("Created cluster {cluster}; this node is {node}.")
    } else {
        format!("Cluster {cluster}; this node is {node}.")
    };
    let api = started.api.as_ref();
    let api = api.map_or_else(String::new, |api| {
        format!("  members   aber --node {api}\n")
    });
    format!(
        "{head}\n  {mirror}    everything in the cluster, read-only\n  \
         write     aber put FILE /\n  listening for other nodes at {}\n{api}  \
         stop      Ctrl-C, or aber down",
        started.listen
    )
}

/// Ends this process in order when whoever started it is gone.
pub(super) async fn stop_at_eof() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while !matches!(stdin.read(&mut buffer).await, Ok(0) | Err(_)) {}
    let _ = kill_process(getpid(), Signal::TERM);
}

pub(super) fn log_to_stderr(context: &Context) {
    let default = match (context.out.quiet, context.verbose) {
        (true, _) => "error",
        (false, 0) => "error,aber=info,aber_node=info,aber_log=info,aber_materializer=info",
        (false, 1) => "info,aber=debug,aber_node=debug,aber_log=debug,aber_materializer=debug",
        (false, _) => "debug,aber=trace,aber_node=trace,aber_log=trace,aber_materializer=trace",
    };
    let filter = std::env::var("ABER_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(context.out.color)
        .try_init();
}

/// Checks what others are to be told.
pub(super) fn parse_addresses(texts: &[String]) -> Result<Vec<String>, Problem> {
    if texts.len() > limit::MEMBER_ADDRESSES {
        let most = limit::MEMBER_ADDRESSES;
        return Err(Problem::usage(format!(
            "--address is given at most {most} times"
        )));
    }
    let each = texts.iter().map(|text| match TicketAddress::parse(text) {
        Some(address) => Ok(address.to_string()),
        None => {
            let form = "it looks like host:7787, 192.0.2.1:7787 or [2001:db8::1]:7787";
            Err(Problem::usage(format!("--address {text}: {form}")))
        }
    });
    each.collect()
}

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, Problem> {
    parse_socket("--listen", text)
}

/// Spans of the day, or `off`; `None`: nothing was said.
fn parse_schedule(texts: &[String]) -> Result<Option<Schedule>, Problem> {
    match texts {
        [] => Ok(None),
        [off] if off == "off" => Ok(Some(Schedule::default())),
        texts => match Schedule::parse(texts) {
            Ok(schedule) => Ok(Some(schedule)),
            Err(problem) => Err(Problem::usage(format!("--schedule: {problem}"))),
        },
    }
}

/// Where the API is to be open, or `off`.
fn parse_api(text: &str) -> Result<ApiWish, Problem> {
    match text {
        "off" => Ok(ApiWish::Off),
        text => parse_socket("--api", text).map(ApiWish::At),
    }
}

fn parse_socket(option: &str, text: &str) -> Result<SocketAddr, Problem> {
    let wrong = |why: &str| {
        let detail = format!("{option} {text}: {why}; it looks like 127.0.0.1:7787 or [::1]:0");
        Problem::usage(detail)
    };
    let mut found = text
        .to_socket_addrs()
        .map_err(|_| wrong("this is no address with a port"))?;
    found
        .next()
        .ok_or_else(|| wrong("this name has no address"))
}

/// Runs `down`.
pub(crate) async fn down(context: &Context) -> Outcome {
    let client = context.connect().await?;
    let status = client
        .get_status(v1::GetStatusRequest {})
        .await
        .unwrap_or_default();
    match client.stop(v1::StopRequest {}).await {
        Ok(_) => {}
        // It went away before it could answer: that is what was asked for.
        Err(problem) if problem.reason == Reason::Stopping => {}
        Err(problem) => return Err(problem),
    }
    let end = Instant::now() + DOWN_PATIENCE;
    while is_there(context, status.process_id).await {
        if Instant::now() > end {
            let problem = Problem::new(Reason::TimedOut).with("seconds", DOWN_PATIENCE.as_secs());
            return Err(problem.with("detail", "the node still runs"));
        }
        sleep(Duration::from_millis(50)).await;
    }
    let text = format!("{} stopped", print::escape(&status.node));
    context
        .out
        .result(Some(text), json!({"node": status.node, "stopped": true}));
    Ok(0)
}

/// Whether the node still answers or its process still runs.
async fn is_there(context: &Context, process_id: u32) -> bool {
    let id = i32::try_from(process_id)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let runs = id.is_some_and(|id| rustix::process::test_kill_process(id).is_ok());
    runs || context.connect().await.is_ok()
}

/// Runs `materialize`.
pub(crate) async fn materialize(context: &Context, args: MaterializeArgs) -> Outcome {
    if let Some(when) = args.at {
        let (from, into, path) = (args.from, args.into, args.path);
        let wanted = super::moment::Wanted {
            from,
            when,
            into,
            path,
        };
        return super::moment::run(context, wanted).await;
    }
    log_to_stderr(context);
    let from = Target::parse(&args.from.unwrap_or_default())?;
    let from = context.connect_to(&from).await?;
    let options = MaterializeOptions {
        from,
        into: args.into.clone(),
        once: args.once,
    };
    let done = daemon::materialize(options).await?;
    let into = args.into.display().to_string();
    let text = format!(
        "{} · {} in {}",
        print::plural(done.entries, "entry"),
        print::plural(done.files, "file"),
        print::escape(&into)
    );
    let value = json!({"into": into, "entries": done.entries, "files": done.files});
    context.out.result(Some(text), value);
    Ok(0)
}

/// Runs `demo`.
pub(crate) async fn demo(context: &Context, args: DemoArgs) -> Outcome {
    if args.exit && args.put.is_none() {
        return Err(Problem::usage(
            "--exit needs --put TREE: there is nothing to wait for",
        ));
    }
    let options = DemoOptions {
        nodes: args.nodes,
        data: context.given_data(),
        put: args.put,
        exit: args.exit,
        patience: context.timeout.unwrap_or(DEMO_PATIENCE),
    };
    demo::run(options, &context.out).await
}
