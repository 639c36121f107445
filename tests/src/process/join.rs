//! [driver] Clusters that grow: one node founds, others join by tickets.

use super::{Cluster, Node, PATIENCE};
use aber_node::env::network::free_addresses;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A free port on loopback: IPv6 where the machine has it.
fn free_address() -> Result<SocketAddr> {
    let v6 = free_addresses(Ipv6Addr::LOCALHOST.into(), 1);
    let found = v6.or_else(|_| free_addresses(Ipv4Addr::LOCALHOST.into(), 1))?;
    found.first().copied().context("one address")
}

impl Cluster {
    /// A cluster of one, as `aber up` makes it where there is nothing; it runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn found(binary: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("aber-it-").tempdir()?;
        let mut founder = new_node(binary, directory.path(), "n1")?;
        founder.arguments = vec!["--name".into(), "n1".into()];
        founder.start()?;
        Ok(Self {
            nodes: vec![founder],
            directory,
        })
    }

    /// One more machine, with nothing on it and nothing running; it is no node of the cluster yet.
    ///
    /// # Errors
    /// There is no free port.
    pub fn newcomer(&self, name: &str) -> Result<Node> {
        let binary = self.nodes.first().context("a node")?.binary.clone();
        new_node(&binary.to_string_lossy(), self.directory.path(), name)
    }

    /// One more machine joins by a ticket of the first node, and is one of the nodes then.
    ///
    /// # Errors
    /// It does not get in, or does not start.
    pub fn grow(&mut self, name: &str, options: &[&str]) -> Result<()> {
        let ticket = self.nodes.first().context("a node")?.invite(options)?;
        let mut node = self.newcomer(name)?;
        node.join(&ticket)?;
        self.nodes.push(node);
        Ok(())
    }

    /// Waits until every running node sees so many members, and so many of them vote in every
    /// partition.
    ///
    /// # Errors
    /// It did not come to that in time.
    pub fn wait_for_voters(&self, members: usize, voters: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen: Result<Vec<_>> = self
                .nodes
                .iter()
                .filter(|node| node.child.is_some())
                .map(Node::members)
                .collect();
            let is_there = |all: &Vec<(String, usize)>| {
                let votes = all.iter().filter(|(_, votes)| *votes > 0).count();
                all.len() == members && votes == voters
            };
            if let Ok(seen) = &seen
                && seen.iter().all(is_there)
            {
                return Ok(());
            }
            let words: Vec<_> = self.nodes.iter().map(Node::last_words).collect();
            ensure!(Instant::now() < end, "{seen:?}\n{}", words.join("\n"));
            sleep(LOOK_EVERY);
        }
    }
}

fn new_node(binary: &str, directory: &Path, name: &str) -> Result<Node> {
    Ok(Node {
        name: name.to_owned(),
        data: directory.join(name),
        log: directory.join(format!("{name}.log")),
        arguments: Vec::new(),
        address: free_address()?,
        binary: PathBuf::from(binary),
        scratch: directory.to_owned(),
        child: None,
    })
}

impl Node {
    /// A ticket made here.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn invite(&self, options: &[&str]) -> Result<String> {
        let arguments = [&["invite", "--json"], options].concat();
        let ran = self.aber(&arguments)?;
        let value = ran.result()?;
        let ticket = value.get("ticket").and_then(Value::as_str);
        Ok(ticket
            .with_context(|| format!("no ticket: {ran:?}"))?
            .into())
    }

    /// `aber join` for this machine, in the foreground.
    ///
    /// # Errors
    /// The ticket cannot be written down.
    pub fn join_command(&self, ticket: &str) -> Result<Command> {
        let file = self.data.with_extension("ticket");
        std::fs::write(&file, ticket)?;
        let mut command = Command::new(&self.binary);
        command
            .args(["join", "--foreground", "--until-eof"])
            .args(["--listen", &self.address.to_string()])
            .args(["--name", &self.name])
            .arg("--ticket-file")
            .arg(file)
            .arg("--data")
            .arg(&self.data)
            .env("NO_COLOR", "1");
        Ok(command)
    }

    /// Joins by a ticket and runs.
    ///
    /// # Errors
    /// It does not get in, or does not start.
    pub fn join(&mut self, ticket: &str) -> Result<()> {
        let command = self.join_command(ticket)?;
        self.launch(command)?;
        self.wait_until_up()
    }

    /// The same, without waiting for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin_to_join(&mut self, ticket: &str) -> Result<()> {
        let command = self.join_command(ticket)?;
        self.launch(command)
    }

    /// From its next start on it listens elsewhere.
    ///
    /// # Errors
    /// There is no free port.
    pub fn move_away(&mut self) -> Result<String> {
        self.address = free_address()?;
        Ok(self.address.to_string())
    }

    /// The members as this node knows them, in order: the name, and how many partitions it votes in.
    ///
    /// # Errors
    /// It does not answer.
    pub fn members(&self) -> Result<Vec<(String, usize)>> {
        let status = self.status()?;
        let rows = status.get("members").and_then(Value::as_array);
        let rows = rows.context("no members")?;
        let row = |row: &Value| {
            let votes = row.get("votes_in").and_then(Value::as_array);
            let name = row.get("name").and_then(Value::as_str);
            (
                name.unwrap_or_default().to_owned(),
                votes.map_or(0, Vec::len),
            )
        };
        Ok(rows.iter().map(row).collect())
    }
}
