//! [driver] `aber demo`: several nodes on this machine, each a process of its own.
//!
//! Lays out a directory a node, starts the nodes, keeps them running, and stops them at the end.
//! With `--put TREE` it puts TREE's children at `/` through the first node, waits until every node has
//! applied and shows everything (`demo/spread.rs` decides), and compares every mirror with TREE
//! (`demo/compare.rs`). Nodes may be killed at any moment meanwhile: they are started again, and
//! calls are repeated under their request id until the time given is over.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the demo looks after real processes and directories"
)]

mod child;
mod compare;
mod spread;

use crate::cli::Outcome;
use crate::cli::load::{self, Source, Summary};
use crate::cli::print::{self, Output};
use crate::cli::progress::{Counters, Progress};
use crate::cli::walk;
use crate::cli::write::{Writer, new_plan_id};
use crate::client::Client;
use crate::daemon;
use crate::env::network::free_addresses;
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, Acknowledgement};
use child::Nodes;
use serde_json::json;
use spread::Report;
use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};

/// How often nodes are looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(250);
/// How long nodes may take to answer for the first time.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long digests may differ where everything else is settled.
const DIGEST_PATIENCE: Duration = Duration::from_secs(30);
/// What the layout is kept in, so that a second run finds the same addresses.
const LAYOUT: &str = "demo.json";

/// What `aber demo` was told.
#[derive(Clone, Debug)]
pub(crate) struct DemoOptions {
    /// How many nodes.
    pub(crate) nodes: u8,
    /// Where; `None`: a temporary directory that is removed at the end.
    pub(crate) data: Option<PathBuf>,
    /// A tree to put and compare.
    pub(crate) put: Option<PathBuf>,
    /// End after that.
    pub(crate) exit: bool,
    /// When to give up.
    pub(crate) patience: Duration,
}

/// One node: its name, directory, address, and its process now.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    name: String,
    data: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    pid: Arc<AtomicU32>,
}

/// Runs the demo to its end.
pub(crate) async fn run(options: DemoOptions, out: &Output) -> Outcome {
    if let Some(tree) = &options.put {
        std::fs::read_dir(tree).map_err(|error| walk::unreadable(tree, &error))?;
    }
    let (base, is_temporary) = base(options.data.as_deref())?;
    let outcome = run_in(&base, &options, out).await;
    let keep = outcome
        .as_ref()
        .is_err_and(|problem| problem.reason != Reason::Interrupted);
    if is_temporary && !keep {
        child::remove_tree(&base);
    } else if is_temporary {
        let text = format!(
            "kept for you to look at: {}",
            print::escape(&base.to_string_lossy())
        );
        out.notice(&text, json!({"kept": base}));
    }
    outcome
}

async fn run_in(base: &Path, options: &DemoOptions, out: &Output) -> Outcome {
    let places = layout(base, usize::from(options.nodes))?;
    let directories: Vec<_> = places.iter().map(|place| place.data.clone()).collect();
    let names: Vec<_> = places.iter().map(|place| place.name.clone()).collect();
    let addresses: Vec<_> = places.iter().map(|place| place.address).collect();
    daemon::prepare_cluster(&directories, &names, &addresses).await?;
    let mut stop = Signals::new()?;
    let mut nodes = Nodes::start(&places, out)?;
    let outcome = tokio::select! {
        biased;
        problem = nodes.failed() => Err(problem),
        () = stop.any() => Err(Problem::new(Reason::Interrupted)),
        outcome = work(base, &places, options, out) => outcome,
    };
    let outcome = match outcome {
        Ok(exit) if !options.exit => {
            tokio::select! {
                biased;
                problem = nodes.failed() => Err(problem),
                () = stop.any() => Ok(exit),
            }
        }
        other => other,
    };
    nodes.stop().await;
    if outcome.is_ok() {
        out.result(
            None,
            json!({"nodes": options.nodes, "equal": options.put.is_some()}),
        );
    }
    outcome
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Problem> {
        let install = |kind| signal(kind).map_err(Problem::internal);
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The directory of the demo, and whether it is to be removed at the end.
fn base(data: Option<&Path>) -> Result<(PathBuf, bool), Problem> {
    let unusable = |dir: &Path, error: std::io::Error| {
        Problem::new(Reason::DataDirUnusable)
            .with("dir", dir.display())
            .with("detail", error)
    };
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    if let Some(data) = data {
        let whole = std::path::absolute(data).map_err(|error| unusable(data, error))?;
        builder
            .recursive(true)
            .create(&whole)
            .map_err(|error| unusable(&whole, error))?;
        return Ok((whole, false));
    }
    let id = crate::cli::write::new_request_id()?.to_string();
    let name = format!("aber-demo-{}", id.get(..8).unwrap_or_default());
    let whole = std::env::temp_dir().join(name);
    builder
        .create(&whole)
        .map_err(|error| unusable(&whole, error))?;
    Ok((whole, true))
}

/// Where each node lives: as in the run before, else on free ports.
fn layout(base: &Path, count: usize) -> Result<Vec<Place>, Problem> {
    let file = base.join(LAYOUT);
    let unusable = |detail: String| {
        Problem::new(Reason::DataDirUnusable)
            .with("dir", base.display())
            .with("detail", detail)
    };
    let addresses = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice::<Vec<SocketAddr>>(&bytes)
            .map_err(|error| unusable(format!("its {LAYOUT} cannot be read: {error}")))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let addresses = free_addresses(Ipv4Addr::LOCALHOST.into(), count)
                .map_err(|e| unusable(e.to_string()))?;
            let text = json!(addresses).to_string();
            std::fs::write(&file, text).map_err(|error| unusable(error.to_string()))?;
            addresses
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    if addresses.len() != count {
        let detail = format!(
            "it is of a demo with --nodes {}, not {count}",
            addresses.len()
        );
        return Err(unusable(detail));
    }
    let place = |(position, address): (usize, SocketAddr)| {
        let name = format!("n{}", position + 1);
        let (data, log) = (base.join(&name), base.join(format!("{name}.log")));
        Place {
            name,
            data,
            log,
            address,
            pid: Arc::default(),
        }
    };
    Ok(addresses.into_iter().enumerate().map(place).collect())
}

/// Everything between the start of the nodes and their end.
async fn work(base: &Path, places: &[Place], options: &DemoOptions, out: &Output) -> Outcome {
    let started = Instant::now();
    let mut clients = Vec::new();
    for place in places {
        clients.push(reach(place, started + START_PATIENCE).await?);
    }
    let mirrors = introduce(base, places, &clients, out).await?;
    let Some(tree) = &options.put else {
        return Ok(0);
    };
    let end = started + options.patience;
    let first = clients
        .first()
        .ok_or_else(|| Problem::internal("a demo without nodes"))?;
    let put = timeout_at(end, put_tree(first, tree, options.patience, out)).await;
    let summary = put.map_err(|_| given_up(options.patience, "files are still being put"))??;
    report_put(out, &summary);
    let reports = settle(places, &clients, end, options.patience, out).await?;
    show_digests(out, &reports);
    compare_all(tree, &mirrors, out).await?;
    let text = format!(
        "{} are equal to {}: {}, {}, in {} s",
        print::plural(mirrors.len() as u64, "mirror"),
        print::escape(&tree.display().to_string()),
        print::plural(summary.files, "file"),
        print::bytes(summary.read_bytes),
        started.elapsed().as_secs(),
    );
    let value = json!({
        "mirrors": mirrors, "tree": tree, "files": summary.files,
        "read_bytes": summary.read_bytes,
    });
    out.row("item", || text, value);
    Ok(0)
}

fn given_up(patience: Duration, what: &str) -> Problem {
    Problem::new(Reason::TimedOut)
        .with("seconds", patience.as_secs())
        .with("detail", what)
}

/// Connects to a node that is starting.
async fn reach(place: &Place, end: Instant) -> Result<Client, Problem> {
    loop {
        let problem = match Client::connect_data(&place.data).await {
            Ok(client) => match client.get_status(v1::GetStatusRequest {}).await {
                Ok(_) => return Ok(client),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        if !problem.retry() || Instant::now() > end {
            return Err(problem);
        }
        sleep(LOOK).await;
    }
}

/// Says where the nodes are; answers where their mirrors are.
async fn introduce(
    base: &Path,
    places: &[Place],
    clients: &[Client],
    out: &Output,
) -> Result<Vec<PathBuf>, Problem> {
    let mut mirrors = Vec::new();
    let count = places.len();
    let head = format!(
        "{count} nodes in {}",
        print::escape(&base.to_string_lossy())
    );
    out.notice(&head, json!({"base": base, "nodes": count}));
    for (place, client) in places.iter().zip(clients) {
        let status = client
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap_or_default();
        let folder = status
            .folders
            .first()
            .and_then(|folder| folder.folder.as_ref());
        let mirror = folder.map(|folder| PathBuf::from(&folder.directory));
        let mirror = mirror.unwrap_or_else(|| place.data.join("mirror"));
        let pid = place.pid.load(Ordering::Relaxed);
        let text = || {
            let shown = print::escape(&mirror.to_string_lossy());
            format!("{}   pid {:<8}  mirror {shown}", place.name, pid)
        };
        let value = json!({
            "node": place.name, "process_id": pid, "data": place.data,
            "mirror": mirror, "link": place.address.to_string(), "log": place.log,
        });
        out.row("item", text, value);
        mirrors.push(mirror);
    }
    let shown = print::escape(&base.to_string_lossy());
    let hint = format!(
        "Try, in another terminal:\n  aber --data {shown}/n1 put FILE /\n  ls {shown}/n2/mirror\n\
         Kill any of them: it is started again. Ctrl-C stops them all."
    );
    out.notice(&hint, json!({"hint": "Ctrl-C stops all nodes"}));
    Ok(mirrors)
}

/// Puts the children of a tree at `/`.
async fn put_tree(
    client: &Client,
    tree: &Path,
    patience: Duration,
    out: &Output,
) -> Result<Summary, Problem> {
    let writer = Writer {
        client: client.clone(),
        level: Acknowledgement::Committed,
        stall: patience,
        movement: Counters::start(),
        comment: String::new(),
        plan: new_plan_id()?,
    };
    let _progress = Progress::show(out, "put", &writer.movement);
    let (names, problems) = walk::names(tree);
    for problem in &problems {
        out.failure(problem);
    }
    let root = TreePath::root();
    let mut sources = Vec::new();
    for name in names {
        let local = tree.join(&name);
        match root.join(&name) {
            Ok(path) => sources.push(Source { local, path }),
            Err(problem) => out.failure(&Problem::name(&local.to_string_lossy(), problem)),
        }
    }
    load::load(&writer, sources, out).await
}

fn report_put(out: &Output, summary: &Summary) {
    let text = format!(
        "put: {}, {}, {}; {} left out",
        print::plural(summary.files, "file"),
        print::plural(summary.directories, "directory"),
        print::bytes(summary.read_bytes),
        print::count(summary.failed)
    );
    let value = json!({
        "files": summary.files, "directories": summary.directories, "links": summary.links,
        "read_bytes": summary.read_bytes, "failed": summary.failed,
    });
    out.notice(&text, value);
}

/// Waits until every node has applied and shows the same.
async fn settle(
    places: &[Place],
    clients: &[Client],
    end: Instant,
    patience: Duration,
    out: &Output,
) -> Result<Vec<Report>, Problem> {
    let mut said = Instant::now();
    let mut differ_since = None;
    loop {
        let (reports, silent) = look(places, clients).await;
        let waits_for = silent.or_else(|| spread::waits_for(&reports));
        let Some(waits_for) = waits_for else {
            let Some(problem) = spread::digests_differ(&reports) else {
                return Ok(reports);
            };
            let since = *differ_since.get_or_insert_with(Instant::now);
            if since.elapsed() > DIGEST_PATIENCE {
                show_digests(out, &reports);
                return Err(problem);
            }
            sleep(LOOK).await;
            continue;
        };
        differ_since = None;
        if Instant::now() > end {
            return Err(given_up(patience, &waits_for));
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            let text = format!("waiting: {}", print::escape(&waits_for));
            out.progress(&text, json!({"phase": "spread", "waits_for": waits_for}));
        }
        sleep(LOOK).await;
    }
}

/// What every node says of itself, and the first that does not answer.
async fn look(places: &[Place], clients: &[Client]) -> (Vec<Report>, Option<String>) {
    let mut reports = Vec::new();
    for (place, client) in places.iter().zip(clients) {
        let status = client.get_status(v1::GetStatusRequest {}).await;
        let partitions = client
            .list_partitions(v1::ListPartitionsRequest::default())
            .await;
        match (status, partitions) {
            (Ok(status), Ok(response)) => reports.push(Report {
                node: place.name.clone(),
                status,
                partitions: response.partitions,
            }),
            (Err(problem), _) | (_, Err(problem)) => {
                return (
                    reports,
                    Some(format!("{} does not answer: {problem}", place.name)),
                );
            }
        }
    }
    (reports, None)
}

fn show_digests(out: &Output, reports: &[Report]) {
    for report in reports {
        for partition in &report.partitions {
            let digest = print::hex(&partition.view_digest).unwrap_or_default();
            let text = || {
                let (id, index) = (partition.id, partition.digest_index);
                format!(
                    "{}  partition {id}  index {index:>8}  digest {digest}",
                    report.node
                )
            };
            let value = json!({
                "node": report.node, "partition": partition.id,
                "index": partition.digest_index, "digest": digest,
                "applied_index": partition.applied_index,
                "mirrored_index": partition.mirrored_index,
            });
            out.row("digest", text, value);
        }
    }
}

/// Compares every mirror with the tree.
async fn compare_all(tree: &Path, mirrors: &[PathBuf], out: &Output) -> Result<(), Problem> {
    let (mut count, mut first) = (0u64, None);
    for mirror in mirrors {
        let (tree, dir) = (tree.to_owned(), mirror.clone());
        let compared = tokio::task::spawn_blocking(move || compare::compare(&tree, &dir)).await;
        let differences = compared.map_err(Problem::internal)?;
        count += differences.count;
        for difference in differences.first {
            let mirror = mirror.display().to_string();
            let text = format!("{}: {}", print::escape(&mirror), print::escape(&difference));
            out.notice(&text, json!({"mirror": mirror, "difference": difference}));
            first.get_or_insert(text);
        }
    }
    match first {
        None => Ok(()),
        Some(first) => {
            let problem = Problem::new(Reason::MirrorsDiffer);
            Err(problem.with("count", count).with("first", first))
        }
    }
}
