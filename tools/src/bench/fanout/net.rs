//! A cluster on a lab: nodes that can be sent away and cut off, and what they cost.

use super::super::api::Api;
use super::super::cluster::{COMMAND_PATIENCE, Cluster};
use super::super::process::{self, Daemon, HeldLab, wait_until};
use super::super::slow::{far_lab_of, invite, start_joining};
use super::super::{Bench, say};
use super::bound::Lines;
use crate::lab::{Host, Lab};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Who decides about the order; the others never vote, so that some can be away.
const VOTERS: usize = 3;
const VOTERS_PATIENCE: Duration = Duration::from_secs(120);
/// As [`super::super::slow::UP`] and `DOWN` say it to `tc`.
const DECLARED: [&str; 4] = ["--up", "8 Mbit/s", "--down", "80 Mbit/s"];
/// How `aber put` ends when its change is safe and not ordered yet.
const EXIT_QUEUED: i32 = 7;
pub(super) const LINES: Lines = Lines {
    up_bps: 8e6,
    down_bps: 80e6,
};

/// Nodes, each at the end of a slow line. The first one writes.
#[derive(Debug)]
pub(super) struct Net {
    // Before the lab: nodes end before their hosts do.
    pub(super) cluster: Cluster,
    lab: HeldLab,
    base: PathBuf,
    /// How far the nodes are from each other.
    pub(super) delay: Duration,
}

impl Net {
    /// A cluster of so many, each with its lines declared, quiet.
    pub(super) fn make(bench: &Bench, nodes: usize, delay: Duration) -> Result<Self> {
        let lab = far_lab_of(nodes, delay)?;
        let base = bench.directory(&format!("fanout{nodes}"))?;
        let cluster = Cluster::on_host(&bench.aber, &base, &lab, Host::new(1)?)?;
        let mut net = Self {
            cluster,
            lab,
            base,
            delay,
        };
        for number in 2..=nodes {
            net.grow(number)?;
        }
        for node in &net.cluster.nodes {
            let mut command = net.cluster.command(net.cluster.first()?);
            command.args(["members", "set", &node.name]).args(DECLARED);
            process::run(&mut command, COMMAND_PATIENCE)?;
        }
        wait_until("nodes vote", VOTERS_PATIENCE, || {
            let roles = net.cluster.roles()?;
            let voters = roles.iter().filter(|role| role.votes_in > 0).count();
            Ok(voters == VOTERS.min(nodes))
        })?;
        net.cluster.settle()?;
        Ok(net)
    }

    fn grow(&mut self, number: usize) -> Result<()> {
        let host = Host::new(number)?;
        let data = self.base.join(format!("n{number}"));
        let name = format!("n{number}");
        let mut options = vec!["--name", &name];
        if number > VOTERS {
            options.push("--no-vote");
        }
        let ticket = invite(&self.cluster, &data, &options)?;
        let daemon = start_joining(&self.cluster, Some((&self.lab, host)), &data, &ticket)?;
        self.cluster.add(daemon, &data)
    }

    pub(super) fn count(&self) -> usize {
        self.cluster.nodes.len()
    }

    /// A fresh place for what is to be put.
    pub(super) fn source(&self, name: &str) -> PathBuf {
        self.base.join("source").join(name)
    }

    /// Where something of the root shows on the node of this place.
    pub(super) fn shown(&self, place: usize, name: &str) -> Result<PathBuf> {
        let node = self.cluster.nodes.get(place).context("no such node")?;
        Ok(node.data.join("mirror").join(name))
    }

    /// `aber put` of one source into the root, to `committed`, at a node.
    pub(super) fn putting(&self, place: usize, source: &Path) -> Result<Command> {
        let node = self.cluster.nodes.get(place).context("no such node")?;
        let mut command = self.cluster.command(node);
        command.args(["put", "-r"]).arg(source).arg("/");
        Ok(command)
    }

    /// Runs what [`Self::putting`] made. A put that waited too long for the others, and goes on by
    /// itself, is as good: what is measured is when mirrors have it.
    pub(super) fn put(mut command: Command) -> Result<()> {
        let codes = [0, EXIT_QUEUED];
        let (_, code) = process::run_expecting(&mut command, COMMAND_PATIENCE, &codes)?;
        if code == EXIT_QUEUED {
            say("  a put was only queued after its patience; it goes on");
        }
        Ok(())
    }

    /// Puts a small file through a node's socket, in the background: the answer is its result.
    pub(super) fn put_small(
        &self,
        place: usize,
        name: &str,
        content: Vec<u8>,
    ) -> Result<(Instant, tokio::task::JoinHandle<Result<()>>)> {
        let node = self.cluster.nodes.get(place).context("no such node")?;
        let runtime = self.cluster.runtime();
        let api = runtime.block_on(Api::connect(&node.data))?;
        let path = format!("/{name}");
        let began = Instant::now();
        let put = runtime.spawn(async move { api.put(path, content).await });
        Ok((began, put))
    }

    /// What the answer to [`Self::put_small`] was.
    pub(super) fn answer(&self, put: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
        self.cluster.runtime().block_on(put)?
    }

    /// Terms of all partitions together, as the first node knows them: each election adds one.
    pub(super) fn terms(&self) -> Result<u64> {
        let data = self.cluster.first()?.data.clone();
        let partitions = self.cluster.runtime().block_on(async move {
            let api = Api::connect(&data).await?;
            api.partitions().await
        })?;
        ensure!(!partitions.is_empty(), "no partitions");
        Ok(partitions.iter().map(|partition| partition.term).sum())
    }

    /// What nodes count themselves.
    pub(super) fn counted(&self) -> Result<Counted> {
        let runtime = self.cluster.runtime();
        let mut sum = Counted::default();
        for node in &self.cluster.nodes {
            let [twice, beats, quick] = runtime.block_on(async {
                let api = Api::connect(&node.data).await?;
                api.samples([
                    "aber_relay_twice_bytes_total",
                    "aber_heartbeat_seconds_count",
                    "aber_heartbeat_seconds_bucket{le=\"0.100\"}",
                ])
                .await
            })?;
            sum.twice_bytes += twice;
            sum.beats += beats;
            sum.quick_beats += quick;
        }
        Ok(sum)
    }

    /// Pulls the cable of a node, or plugs it in.
    pub(super) fn set_line(&self, place: usize, is_up: bool) -> Result<()> {
        self.lab.set_link(Host::new(place + 1)?, is_up)
    }

    /// Ends a node.
    pub(super) fn send_away(&mut self, place: usize) -> Result<()> {
        self.cluster.end_one(place)
    }

    /// Starts a node that was sent away.
    pub(super) fn call_back(&mut self, place: usize) -> Result<()> {
        let node = self.cluster.nodes.get(place).context("no such node")?;
        let host = Host::new(place + 1)?;
        let mut command = self.lab.command(host, self.cluster.program())?;
        command.env_remove("ABER_DATA").env_remove("ABER_LOG");
        command.arg("--data").arg(&node.data);
        command.args(["up", "--until-eof"]);
        let log = node.data.with_extension("log");
        let daemon = Daemon::start(&mut command, &log)?;
        self.cluster.replace(place, daemon)
    }

    /// What lines and processors did so far.
    pub(super) fn meter(&self) -> Result<Meter> {
        // One that is away has used nothing since.
        let ids = self.cluster.nodes.iter().map(|node| node.id);
        let cpu = ids.map(|id| process::cpu_s(id).unwrap_or(0.0));
        Ok(Meter {
            nodes_s: cpu.sum(),
            ..lines_of(&self.lab)?
        })
    }

    /// Ends all nodes, and then the lab.
    pub(super) fn stop(self) -> Result<()> {
        self.cluster.stop()
    }

    /// Waits until everything is everywhere.
    pub(super) fn settle(&self) -> Result<()> {
        self.cluster.settle()
    }
}

/// What the lines of a lab did so far, and the machine.
pub(super) fn lines_of(lab: &Lab) -> Result<Meter> {
    let carried = lab.carried()?;
    Ok(Meter {
        at: Instant::now(),
        sent: carried.iter().map(|line| line.up_bytes).collect(),
        received: carried.iter().map(|line| line.down_bytes).collect(),
        nodes_s: 0.0,
        machine: machine_ticks()?,
    })
}

/// What nodes counted since they started, all of them together.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counted {
    /// Bytes of content that came to those that had it.
    pub(super) twice_bytes: f64,
    /// Heartbeats, and those that were answered within 100 ms.
    beats: f64,
    quick_beats: f64,
}

impl Counted {
    /// Of the heartbeats since `before`, how many were not answered within 100 ms, in hundredths.
    pub(super) fn slow_percent(&self, before: &Self) -> f64 {
        let quick = self.quick_beats - before.quick_beats;
        100.0 - 100.0 * quick / (self.beats - before.beats).max(1.0)
    }
}

/// What lines carried, and what processors did, up to a moment.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    at: Instant,
    sent: Vec<u64>,
    received: Vec<u64>,
    nodes_s: f64,
    machine: [f64; 2],
}

/// The same between two moments.
#[derive(Clone, Default, Debug)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    /// Bytes of whole frames, node by node.
    pub(super) sent: Vec<f64>,
    pub(super) received: Vec<f64>,
    /// Of all the machine's cores, in hundredths: busy, and busy with the nodes.
    pub(super) busy: f64,
    pub(super) busy_nodes: f64,
}

impl Meter {
    /// From this moment to a later one.
    pub(super) fn until(&self, later: &Self) -> Spent {
        let seconds = (later.at - self.at).as_secs_f64();
        let total = (later.machine[1] - self.machine[1]).max(1.0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = f64::from(u32::try_from(cores).unwrap_or(1));
        Spent {
            seconds,
            sent: differences(&self.sent, &later.sent),
            received: differences(&self.received, &later.received),
            busy: 100.0 * (later.machine[0] - self.machine[0]) / total,
            busy_nodes: 100.0 * (later.nodes_s - self.nodes_s) / (seconds * cores),
        }
    }
}

impl Spent {
    /// What the writer sent.
    pub(super) fn writer(&self) -> f64 {
        self.sent.first().copied().unwrap_or(0.0)
    }

    /// What the one sent that sent most.
    pub(super) fn largest(&self) -> f64 {
        self.sent.iter().copied().fold(0.0, f64::max)
    }

    /// What all but the writer got, on average.
    pub(super) fn received_each(&self) -> f64 {
        self.received_from(1)
    }

    /// What the nodes from this place on got, on average.
    pub(super) fn received_from(&self, place: usize) -> f64 {
        let others = self.received.iter().skip(place);
        let count = f64::from(u32::try_from(others.len()).unwrap_or(1)).max(1.0);
        others.sum::<f64>() / count
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures")]
fn differences(before: &[u64], after: &[u64]) -> Vec<f64> {
    let pairs = before.iter().zip(after);
    pairs
        .map(|(before, after)| after.saturating_sub(*before) as f64)
        .collect()
}

/// Ticks of all cores: busy, and in all.
fn machine_ticks() -> Result<[f64; 2]> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat")?;
    let ticks = line.split_whitespace().skip(1).take(8);
    let ticks: Vec<f64> = ticks.filter_map(|word| word.parse().ok()).collect();
    let [_, _, _, idle, waiting, ..] = ticks.as_slice() else {
        bail!("/proc/stat: {line}");
    };
    let total: f64 = ticks.iter().sum();
    Ok([total - idle - waiting, total])
}
