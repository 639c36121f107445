//! [driver] The nodes of a demo as processes: started, started again when they die, stopped.
//!
//! Each has a process group of its own, so that Ctrl-C reaches only the demo, which then stops them
//! in order; and a pipe as standard input, whose end stops them should the demo itself be killed.

use super::Place;
use crate::cli::print::{self, Output};
use crate::reason::{Problem, Reason};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long a node may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// A node that dies sooner than this after its start has failed to start.
const SOON: Duration = Duration::from_secs(5);
/// How often in a row a node may fail to start.
const FAILURES: u32 = 10;
/// The pause after a first death.
const PAUSE: Duration = Duration::from_millis(200);

/// The running nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    tasks: JoinSet<()>,
    stops: Vec<oneshot::Sender<()>>,
    failures: mpsc::Receiver<Problem>,
    _open: mpsc::Sender<Problem>,
}

impl Nodes {
    /// Starts a process a node.
    pub(super) fn start(places: &[Place], out: &Output) -> Result<Self, Problem> {
        let (report, failures) = mpsc::channel(places.len().max(1));
        let mut nodes = Self {
            tasks: JoinSet::new(),
            stops: Vec::new(),
            failures,
            _open: report.clone(),
        };
        for place in places {
            let (stop, stopped) = oneshot::channel();
            let keeper = Keeper {
                process: Process::start(place)?,
                place: place.clone(),
                out: out.clone(),
                report: report.clone(),
            };
            nodes.stops.push(stop);
            nodes.tasks.spawn(keeper.keep(stopped));
        }
        Ok(nodes)
    }

    /// Waits until a node cannot be kept running.
    pub(super) async fn failed(&mut self) -> Problem {
        match self.failures.recv().await {
            Some(problem) => problem,
            None => std::future::pending().await,
        }
    }

    /// Stops them all, and waits until they are gone.
    pub(super) async fn stop(mut self) {
        for stop in self.stops.drain(..) {
            let _ = stop.send(());
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Process {
    child: Child,
    started: Instant,
    _stdin: Option<ChildStdin>,
}

impl Process {
    fn start(place: &Place) -> Result<Self, Problem> {
        let mut child = command(place)
            .and_then(|mut command| command.spawn())
            .map_err(|error| {
                Problem::internal(format!("{} does not start: {error}", place.name))
            })?;
        let stdin = child.stdin.take();
        place.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        Ok(Self {
            child,
            started: Instant::now(),
            _stdin: stdin,
        })
    }

    fn pid(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    }

    /// Asks the process to stop, and kills it if it does not.
    async fn end(mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn command(place: &Place) -> std::io::Result<Command> {
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&place.log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("up")
        .arg("--data")
        .arg(&place.data)
        .arg("--listen")
        .arg(place.address.to_string())
        .arg("--until-eof")
        .env_remove("ABER_DATA")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// Keeps one node running.
struct Keeper {
    place: Place,
    process: Process,
    out: Output,
    report: mpsc::Sender<Problem>,
}

impl Keeper {
    /// Starts the node again whenever it dies, until it is told to stop.
    async fn keep(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut failures = 0;
        loop {
            let status = tokio::select! {
                biased;
                _ = &mut stopped => return self.process.end().await,
                status = self.process.child.wait() => status,
            };
            let died_soon = self.process.started.elapsed() < SOON;
            failures = if died_soon { failures + 1 } else { 1 };
            let why = status.map_or_else(|error| error.to_string(), |status| death(&status));
            if failures > FAILURES {
                let _ = self.report.send(cannot_run(&self.place, &why)).await;
                return;
            }
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = sleep(PAUSE * failures) => {}
            }
            if let Err(problem) = self.start_again(&why) {
                let _ = self.report.send(problem).await;
                return;
            }
        }
    }

    fn start_again(&mut self, why: &str) -> Result<(), Problem> {
        self.process = Process::start(&self.place)?;
        let (name, pid) = (&self.place.name, self.place.pid.load(Ordering::Relaxed));
        let text = format!("{name} died ({why}); started again: pid {pid}");
        let value = json!({"node": name, "died": why, "process_id": pid});
        self.out.notice(&text, value);
        Ok(())
    }
}

fn death(status: &ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// The problem of a node that does not stay up: its own last words.
fn cannot_run(place: &Place, why: &str) -> Problem {
    let log = std::fs::read(&place.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let mut last: Vec<_> = text.lines().rev().take(4).collect();
    last.reverse();
    let detail = format!(
        "{} ends again and again ({why}); its log {} ends with: {}",
        place.name,
        place.log.display(),
        print::escape(&last.join(" | "))
    );
    Problem::new(Reason::DataDirUnusable)
        .with("dir", place.data.display())
        .with("detail", detail)
}

/// Removes a directory with all that is in it, read-only directories of mirrors too.
pub(super) fn remove_tree(directory: &Path) {
    let _ = std::fs::set_permissions(directory, Permissions::from_mode(0o700));
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path());
            } else {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    let _ = std::fs::remove_dir(directory);
}
