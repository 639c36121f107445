//! [driver] Clusters of real processes on loopback: started, killed, asked, compared.
//!
//! Everything lives in a temporary directory and ends with the [`Cluster`]: each node has a pipe as
//! standard input whose end stops it, should even the test be killed. Every wait has a deadline,
//! and what a node said is in the error of a wait that failed.

pub mod content;
pub mod join;
pub mod lab;
pub mod run;
pub mod tree;

use aber_node::daemon;
use aber_node::env::network::free_addresses;
use anyhow::{Context, Result, bail, ensure};
use run::{Ran, run};
use serde_json::Value;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For anything that is quick unless the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes of a node's log that an error shows.
const SHOWN_BYTES: usize = 4000;

/// One node: where it lives, and its process if it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// What it said.
    pub log: PathBuf,
    /// More arguments of `up`.
    pub arguments: Vec<String>,
    address: SocketAddr,
    binary: PathBuf,
    scratch: PathBuf,
    child: Option<Child>,
}

/// Nodes of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; the first is `n1`.
    pub nodes: Vec<Node>,
    /// Where all is, the nodes' directories included.
    pub directory: TempDir,
}

impl Cluster {
    /// Lays out a cluster, and starts none of it.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub fn prepare(binary: &str, count: usize) -> Result<Self> {
        Self::prepare_at(binary, count, |directory, name| directory.join(name))
    }

    /// The same, with data directories elsewhere.
    ///
    /// # Errors
    /// A directory cannot be written.
    pub fn prepare_at(
        binary: &str,
        count: usize,
        place: impl Fn(&Path, &str) -> PathBuf,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("aber-it-").tempdir()?;
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let data: Vec<_> = names.iter().map(|n| place(directory.path(), n)).collect();
        let addresses = free_addresses(Ipv4Addr::LOCALHOST.into(), count)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime
            .block_on(daemon::prepare_cluster(&data, &names, &addresses))
            .context("the cluster cannot be laid out")?;
        runtime.shutdown_timeout(PATIENCE);
        let rows = names.into_iter().zip(data).zip(addresses);
        let nodes = rows.map(|((name, data), address)| Node {
            log: directory.path().join(format!("{name}.log")),
            scratch: directory.path().to_owned(),
            binary: PathBuf::from(binary),
            arguments: Vec::new(),
            child: None,
            name,
            data,
            address,
        });
        Ok(Self {
            nodes: nodes.collect(),
            directory,
        })
    }

    /// Lays out a cluster and starts all of it; answers once every node does.
    ///
    /// # Errors
    /// A node does not start.
    pub fn start(binary: &str, count: usize) -> Result<Self> {
        let mut cluster = Self::prepare(binary, count)?;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Starts all that do not run.
    ///
    /// # Errors
    /// A node does not start.
    pub fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if !node.is_running() {
                node.spawn()?;
            }
        }
        self.nodes.iter_mut().try_for_each(Node::wait_until_up)
    }

    /// Waits until all running nodes have applied and shown the same, and nothing waits; answers
    /// the digest of each partition.
    ///
    /// # Errors
    /// It did not come to that in time, or digests differ.
    pub fn settle(&self, patience: Duration) -> Result<Vec<(u64, String)>> {
        let end = Instant::now() + patience;
        loop {
            let late = match self.settled() {
                Ok(Ok(digests)) => return Ok(digests),
                Ok(Err(late)) => late,
                Err(error) => error.to_string(),
            };
            if Instant::now() > end {
                let logs: Vec<_> = self.nodes.iter().map(Node::last_words).collect();
                bail!("not settled: {late}\n{}", logs.join("\n"));
            }
            sleep(LOOK_EVERY * 4);
        }
    }

    /// The digests if all is settled, else what is late.
    fn settled(&self) -> Result<Result<Vec<(u64, String)>, String>> {
        let mut first: Option<Vec<(u64, String)>> = None;
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            let status = node.status()?;
            if let Some(late) = late(&status) {
                return Ok(Err(format!("{}: {late}", node.name)));
            }
            let digests = digests(&status);
            match &first {
                Some(first) if *first != digests => {
                    return Ok(Err(format!("{}: {first:?} {digests:?}", node.name)));
                }
                Some(_) => {}
                None => first = Some(digests),
            }
        }
        first.map(Ok).context("no node runs")
    }

    /// Whether every running node's mirror is equal to the first one's; answers what is in it.
    ///
    /// # Errors
    /// Two differ, or one cannot be read.
    pub fn equal_mirrors(&self) -> Result<tree::Listing> {
        let mut first: Option<tree::Listing> = None;
        for node in &self.nodes {
            let listing = tree::list(&node.mirror())?;
            match &first {
                Some(first) => tree::ensure_equal(first, &listing).context(node.name.clone())?,
                None => first = Some(listing),
            }
        }
        first.context("no node")
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(u64::MAX)
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What a node still has to do, from its status.
fn late(status: &Value) -> Option<String> {
    for key in ["outbox_changes", "entries_to_apply", "fetch_bytes"] {
        if status[key] != 0 {
            return Some(format!("{key} {}", status[key]));
        }
    }
    for partition in rows(&status["partitions"]) {
        let applied = number(&partition["applied_index"]);
        let is_late = number(&partition["committed_index"]) > applied
            || number(&partition["mirrored_index"]) < applied
            || number(&partition["digest_index"]) != applied
            || partition["leader"].is_null();
        if is_late {
            return Some(partition.to_string());
        }
    }
    let mut folders = rows(&status["folders"]);
    folders.find_map(|folder| {
        let waits = ["waiting_count", "pending_count", "entries_behind"];
        let is_late = waits.iter().any(|key| folder[key] != 0);
        is_late.then(|| folder.to_string())
    })
}

/// Index and digest of each partition, as text.
fn digests(status: &Value) -> Vec<(u64, String)> {
    rows(&status["partitions"])
        .map(|partition| {
            let digest = format!("{} {}", partition["digest_index"], partition["view_digest"]);
            (number(&partition["id"]), digest)
        })
        .collect()
}

impl Node {
    /// Its mirror.
    #[must_use]
    pub fn mirror(&self) -> PathBuf {
        self.data.join("mirror")
    }

    /// Its process, if it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts its process, without waiting for it.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["up", "--until-eof", "--listen", &self.address.to_string()])
            .arg("--data")
            .arg(&self.data)
            .args(&self.arguments);
        self.launch(command)
    }

    /// Starts a process that ends with the pipe it gets.
    fn launch(&mut self, mut command: Command) -> Result<()> {
        ensure!(!self.is_running(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = command
            .env_remove("ABER_DATA")
            .env_remove("ABER_NODE")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_up()
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn wait_until_up(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.status().is_err() {
            if let Some(status) = self.ended()? {
                bail!("{} ended with {status}: {}", self.name, self.last_words());
            }
            ensure!(Instant::now() < end, "no answer: {}", self.last_words());
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("it was not started")?;
        Ok(child.try_wait()?)
    }

    /// Waits until its process has ended by itself; answers the exit code, -1 for a signal.
    ///
    /// # Errors
    /// It still runs after `patience`.
    pub fn wait_until_down(&mut self, patience: Duration) -> Result<i32> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                return Ok(status.code().unwrap_or(-1));
            }
            ensure!(Instant::now() < end, "it still runs: {}", self.last_words());
            sleep(LOOK_EVERY / 5);
        }
    }

    /// Kills it with SIGKILL, at whatever it is.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// It does not run, or does not stop.
    pub fn stop(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it does not run")?;
        drop(child.stdin.take());
        let code = self.wait_until_down(PATIENCE)?;
        ensure!(code == 0, "it stopped with {code}: {}", self.last_words());
        Ok(())
    }

    /// Its status as the command line prints it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        let ran = self.aber(&["status", "--json"])?;
        ensure!(ran.code == 0, "{}", ran.stdout);
        ran.result()
    }

    /// What its status says of the partition that holds a volume.
    ///
    /// # Errors
    /// It does not answer, or knows no such volume.
    pub fn partition_of(&self, volume: &str) -> Result<Value> {
        let status = self.status()?;
        let rows = status.get("partitions").and_then(Value::as_array);
        let mut rows = rows.into_iter().flatten();
        let is_it = |row: &&Value| {
            let volumes = row.get("volumes").and_then(Value::as_array);
            volumes.into_iter().flatten().any(|name| name == volume)
        };
        Ok(rows.find(is_it).context("no such volume")?.clone())
    }

    /// Runs a command as its client.
    ///
    /// # Errors
    /// The command does not end.
    pub fn aber(&self, arguments: &[&str]) -> Result<Ran> {
        self.aber_with(arguments, b"", PATIENCE * 2)
    }

    /// Runs a command as its client, with this on standard input.
    ///
    /// # Errors
    /// The command does not end in time.
    pub fn aber_with(&self, arguments: &[&str], input: &[u8], patience: Duration) -> Result<Ran> {
        run(self.command(arguments), &self.scratch, input, patience)
    }

    /// A command as its client, to be run otherwise.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("ABER_DATA", &self.data)
            .env_remove("ABER_NODE")
            .env("NO_COLOR", "1")
            .env("TZ", "UTC");
        command
    }

    /// Runs a command that must succeed; answers its standard output.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let ran = self.aber(arguments)?;
        let said = || format!("{arguments:?}: {ran:?}\n{}", self.last_words());
        ensure!(ran.code == 0, "{}", said());
        Ok(ran.stdout)
    }

    /// Puts these bytes at a path.
    ///
    /// # Errors
    /// The command does not end.
    pub fn put(&self, bytes: &[u8], path: &str) -> Result<Ran> {
        self.aber_with(&["put", "-", path], bytes, PATIENCE * 2)
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(SHOWN_BYTES);
        let text = String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned();
        format!("{} said: {text}", self.name)
    }

    /// The most memory its process has held, in bytes.
    ///
    /// # Errors
    /// It does not run.
    pub fn peak_memory_bytes(&self) -> Result<u64> {
        let id = self.process_id().context("it does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: u64 = number.context("no VmHWM")?.trim().parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        // Mirrors are read-only, and a test that is not root could not remove them otherwise.
        tree::make_writable(self.directory.path());
    }
}
