//! [driver] Clusters whose nodes are machines of their own: hosts of a lab, IPv6 alone.
//!
//! The lab is made by the program `lab`, which removes it, and ends what runs in it, as soon as its
//! standard input closes: with this test, however that ends.

use super::{Cluster, Node};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where nodes listen unless told otherwise.
const PORT: u16 = 7787;

/// Hosts that reach each other, and nothing else.
#[derive(Debug)]
pub struct Lab {
    program: PathBuf,
    name: String,
    child: Child,
}

impl Lab {
    /// A lab of so many hosts, or `None`, and why on standard error, where there can be none. In CI
    /// the programs it needs are there, for root.
    ///
    /// # Errors
    /// There should be one, and there is not.
    pub fn up(hosts: usize) -> Result<Option<Self>> {
        let must = std::env::var_os("CI").is_some() && rustix::process::geteuid().is_root();
        let program = program()?;
        let (lacks, is_mendable) = match Command::new(&program).arg("check").output() {
            Ok(checked) => {
                let lacks = String::from_utf8_lossy(&checked.stdout).into_owned();
                (lacks, checked.status.code() == Some(1))
            }
            Err(error) => {
                let lacks = format!("{}: {error}; cargo build --workspace", program.display());
                (lacks, true)
            }
        };
        if !lacks.is_empty() {
            ensure!(!(must && is_mendable), "no lab: {lacks}");
            skipped(&lacks);
            return Ok(None);
        }
        let name = format!("it{}", std::process::id());
        let mut child = Command::new(&program)
            .args(["--name", &name, "up", "--until-eof", "--no-ipv4"])
            .args(["--hosts", &hosts.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let lab = Self {
            program,
            name,
            child,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.starts_with(&lab.name), "no lab was made");
        Ok(Some(lab))
    }

    /// A program on a host; the first host is 1.
    #[must_use]
    pub fn command(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--name", &self.name, "exec", &format!("h{host}"), "--"])
            .arg(program)
            .env_remove("ABER_DATA")
            .env("NO_COLOR", "1");
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // What it complained about was printed.
        let _ = self.child.wait();
    }
}

/// Where a node of that host is found.
#[must_use]
pub fn address(host: usize) -> SocketAddr {
    let host = u16::try_from(host).unwrap_or(u16::MAX);
    let ip = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host);
    SocketAddr::new(ip.into(), PORT)
}

/// `lab` lies where this test's own program does, or one above.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let place = own.ancestors().nth(2).context("no place")?;
    Ok(place.join("lab"))
}

#[expect(clippy::print_stderr, reason = "what is skipped is said")]
fn skipped(why: &str) {
    eprintln!(
        "SKIPPED: no lab on this machine, which lacks: {}",
        why.trim()
    );
}

/// Nodes on hosts of their own: the first on `h1`, and so on.
#[derive(Debug)]
pub struct Spread {
    /// The nodes. Processes end before their hosts do.
    pub cluster: Cluster,
    lab: Lab,
}

impl Spread {
    /// A cluster of one, as `aber up` makes it; it runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn found(lab: Lab, binary: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("aber-it-").tempdir()?;
        let mut spread = Self {
            cluster: Cluster {
                nodes: Vec::new(),
                directory,
            },
            lab,
        };
        let mut founder = spread.machine(1, "n1", binary);
        founder.arguments = vec!["--name".into(), "n1".into()];
        spread.begin(1, &mut founder)?;
        founder.wait_until_up()?;
        spread.cluster.nodes.push(founder);
        Ok(spread)
    }

    /// A machine with nothing on it, which is no node of the cluster yet.
    #[must_use]
    pub fn machine(&self, host: usize, name: &str, binary: &str) -> Node {
        let directory = self.cluster.directory.path();
        Node {
            name: name.to_owned(),
            data: directory.join(name),
            log: directory.join(format!("{name}.log")),
            arguments: Vec::new(),
            address: address(host),
            binary: PathBuf::from(binary),
            scratch: directory.to_owned(),
            child: None,
        }
    }

    /// The next host joins: with a ticket, and nothing else.
    ///
    /// # Errors
    /// It does not get in, or does not start.
    pub fn grow(&mut self) -> Result<()> {
        let host = self.cluster.nodes.len() + 1;
        let first = self.cluster.nodes.first().context("a node")?;
        let name = format!("n{host}");
        let ticket = first.invite(&["--name", &name])?;
        let mut node = self.machine(host, &name, &first.binary.to_string_lossy());
        let file = node.data.with_extension("ticket");
        std::fs::write(&file, ticket)?;
        let mut command = self.lab.command(host, &node.binary);
        command.args(["join", "--foreground", "--until-eof", "--ticket-file"]);
        command.arg(file).arg("--data").arg(&node.data);
        node.launch(command)?;
        node.wait_until_up()?;
        self.cluster.nodes.push(node);
        Ok(())
    }

    /// Starts a node on a host, without waiting for it, and tells it nothing that it was not told
    /// before.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn begin(&self, host: usize, node: &mut Node) -> Result<()> {
        let mut command = self.lab.command(host, &node.binary);
        command
            .args(["up", "--until-eof", "--data"])
            .arg(&node.data);
        command.args(&node.arguments);
        node.launch(command)
    }

    /// Runs a command to its end on a host.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn run(&self, host: usize, node: &Node, arguments: &[&str]) -> Result<super::run::Ran> {
        let mut command = self.lab.command(host, &node.binary);
        command.args(arguments).env("ABER_DATA", &node.data);
        super::run::run(command, &node.scratch, b"", super::PATIENCE)
    }

    /// Kills every node at once, and starts all again.
    ///
    /// # Errors
    /// One does not start.
    pub fn restart_all(&mut self) -> Result<()> {
        let mut nodes = std::mem::take(&mut self.cluster.nodes);
        let restarted = || -> Result<()> {
            nodes.iter_mut().try_for_each(Node::kill)?;
            for (at, node) in nodes.iter_mut().enumerate() {
                self.begin(at + 1, node)?;
            }
            nodes.iter_mut().try_for_each(Node::wait_until_up)
        }();
        self.cluster.nodes = nodes;
        restarted
    }
}
