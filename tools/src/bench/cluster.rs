//! Nodes of the release binary: one, or three by `aber demo`, with default settings.

use super::api::{Api, wait_gone};
use super::process::{Cost, Daemon, cpu_s, peak_mib, run, wait_until};
use crate::lab::{Host, Lab};
use aber_proto::generated::v1;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long nodes may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long nodes may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long anything may take to be everywhere.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1200);
/// How long one command may take.
pub(crate) const COMMAND_PATIENCE: Duration = Duration::from_secs(1200);

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) id: u32,
}

/// In how many partitions a node votes, and leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) votes_in: usize,
    pub(crate) leads: usize,
}

/// Running nodes; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    aber: PathBuf,
    daemon: Daemon,
    /// Those that joined.
    others: Vec<Daemon>,
    pub(crate) nodes: Vec<Node>,
    runtime: Runtime,
}

impl Cluster {
    /// A cluster of one in `base`, new, or the one that is there.
    pub(crate) fn single(aber: &Path, base: &Path) -> Result<Self> {
        let data = base.join("n1");
        let mut command = bare(aber);
        command.arg("--data").arg(&data);
        command.args(["up", "--listen", "127.0.0.1:0", "--until-eof"]);
        let daemon = Daemon::start(&mut command, &base.join("n1.log"))?;
        Self::reach(aber, daemon, &[data])
    }

    /// The same on a host of a lab, where others find it.
    pub(crate) fn on_host(aber: &Path, base: &Path, lab: &Lab, host: Host) -> Result<Self> {
        let data = base.join("n1");
        let mut command = lab.command(host, aber)?;
        command.env_remove("ABER_DATA").env_remove("ABER_LOG");
        command.arg("--data").arg(&data);
        command.args(["up", "--until-eof"]);
        let daemon = Daemon::start(&mut command, &base.join("n1.log"))?;
        Self::reach(aber, daemon, &[data])
    }

    /// One more node, which was started already; waits until it answers.
    pub(crate) fn add(&mut self, mut daemon: Daemon, data: &Path) -> Result<()> {
        let mut found = None;
        wait_until("a node answers", START_PATIENCE, || {
            daemon.check()?;
            found = self.runtime.block_on(look(data)).ok();
            Ok(found.is_some())
        })?;
        self.nodes.extend(found);
        self.others.push(daemon);
        Ok(())
    }

    /// Ends one of those that joined; its place stays. The first node's place is 0.
    pub(crate) fn end_one(&mut self, place: usize) -> Result<()> {
        self.other(place)?.end();
        Ok(())
    }

    /// A daemon that was started again in the place of one that ended; does not wait.
    pub(crate) fn replace(&mut self, place: usize, daemon: Daemon) -> Result<()> {
        *self.other(place)? = daemon;
        Ok(())
    }

    /// Waits until a node that was started again answers.
    pub(crate) fn reach_one(&mut self, place: usize) -> Result<()> {
        let node = self.nodes.get(place).context("no such node")?;
        let data = node.data.clone();
        let mut found = None;
        wait_until("a node answers", START_PATIENCE, || {
            found = self.runtime.block_on(look(&data)).ok();
            Ok(found.is_some())
        })?;
        if let (Some(node), Some(found)) = (self.nodes.get_mut(place), found) {
            *node = found;
        }
        Ok(())
    }

    fn other(&mut self, place: usize) -> Result<&mut Daemon> {
        let other = place.checked_sub(1).and_then(|at| self.others.get_mut(at));
        other.context("no node that joined")
    }

    /// Three nodes in `base`.
    pub(crate) fn three(aber: &Path, base: &Path) -> Result<Self> {
        let mut command = bare(aber);
        command
            .arg("--data")
            .arg(base)
            .args(["demo", "--nodes", "3"]);
        let daemon = Daemon::start(&mut command, &base.join("demo.log"))?;
        let data = ["n1", "n2", "n3"].map(|name| base.join(name));
        Self::reach(aber, daemon, &data)
    }

    fn reach(aber: &Path, daemon: Daemon, data: &[PathBuf]) -> Result<Self> {
        let mut cluster = Self {
            aber: aber.to_owned(),
            daemon,
            others: Vec::new(),
            nodes: Vec::new(),
            runtime: super::api::runtime()?,
        };
        for data in data {
            let mut found = None;
            wait_until("a node answers", START_PATIENCE, || {
                cluster.daemon.check()?;
                found = cluster.runtime.block_on(look(data)).ok();
                Ok(found.is_some())
            })?;
            cluster.nodes.extend(found);
        }
        wait_until("every partition has a leader", START_PATIENCE, || {
            cluster.daemon.check()?;
            let known = cluster.on_all(|api| async move { api.partitions().await });
            let all_lead = |partitions: &Vec<v1::Partition>| {
                !partitions.is_empty() && partitions.iter().all(|p| !p.leader.is_empty())
            };
            Ok(known.is_ok_and(|known| known.iter().all(all_lead)))
        })?;
        Ok(cluster)
    }

    /// The binary.
    pub(crate) fn program(&self) -> &Path {
        &self.aber
    }

    /// What each node does in the groups, as it sees that itself.
    pub(crate) fn roles(&self) -> Result<Vec<Part>> {
        let known = self.on_all(|api| async move { api.partitions().await })?;
        let part = |(node, partitions): (&Node, Vec<v1::Partition>)| Part {
            votes_in: partitions
                .iter()
                .filter(|p| p.voters.contains(&node.name))
                .count(),
            leads: partitions.iter().filter(|p| p.leader == node.name).count(),
        };
        Ok(self.nodes.iter().zip(known).map(part).collect())
    }

    /// The runtime for calls of the API.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn first(&self) -> Result<&Node> {
        self.nodes.first().context("a cluster without nodes")
    }

    /// A command of aber, at a node.
    pub(crate) fn command(&self, node: &Node) -> Command {
        let mut command = bare(&self.aber);
        command.arg("--data").arg(&node.data).arg("--quiet");
        command
    }

    /// Puts local files at the first node, to `committed`. The cost is that of the command and of
    /// all nodes.
    pub(crate) fn put(&self, source: &Path, destination: &str) -> Result<Cost> {
        let mut command = self.command(self.first()?);
        command.args(["put", "-r"]).arg(source).arg(destination);
        self.run(&mut command)
    }

    /// Runs a command; adds what the nodes used meanwhile.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Cost> {
        let before = self.cpu_s()?;
        let cost = run(command, COMMAND_PATIENCE)?;
        Ok(Cost {
            cpu_s: cost.cpu_s + self.cpu_s()? - before,
            ..cost
        })
    }

    /// CPU seconds of all nodes so far.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        self.nodes.iter().map(|node| cpu_s(node.id)).sum()
    }

    /// The greatest resident memory of each node so far.
    pub(crate) fn peaks_mib(&self) -> Result<Vec<f64>> {
        self.nodes.iter().map(|node| peak_mib(node.id)).collect()
    }

    pub(crate) fn peak_mib(&self) -> Result<f64> {
        Ok(self.peaks_mib()?.into_iter().fold(0.0, f64::max))
    }

    /// Waits until every node has applied the same, and every mirror shows it.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut last = String::new();
        let settled = wait_until("everything is everywhere", SETTLE_PATIENCE, || {
            let looks = self
                .on_all(|api| async move { Ok((api.status().await?, api.partitions().await?)) })?;
            let waits = waits_for(&looks);
            let is_settled = waits.is_none();
            last = waits.unwrap_or_default();
            Ok(is_settled)
        });
        settled.with_context(|| last)
    }

    /// The node that leads the partition of a volume.
    pub(crate) fn leader_of(&self, volume: &str) -> Result<&Node> {
        let known = self.on_all(|api| async move { api.partitions().await })?;
        let partitions = known.first().context("a cluster without nodes")?;
        let name = volume.trim_matches('/');
        let holds = |p: &&v1::Partition| p.volumes.iter().any(|v| v.trim_matches('/') == name);
        let leader = partitions
            .iter()
            .find(holds)
            .map(|partition| &partition.leader);
        let found = self.nodes.iter().find(|node| Some(&node.name) == leader);
        found
            .or(self.nodes.first())
            .context("a cluster without nodes")
    }

    fn on_all<T, P>(&self, ask: impl Fn(Api) -> P) -> Result<Vec<T>>
    where
        P: Future<Output = Result<T>>,
    {
        self.runtime.block_on(async {
            let mut answers = Vec::new();
            for node in &self.nodes {
                answers.push(ask(Api::connect(&node.data).await?).await?);
            }
            Ok(answers)
        })
    }

    /// Ends all nodes.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.others.iter_mut().for_each(Daemon::end);
        self.daemon.end();
        self.wait_gone()
    }

    /// kill -9; what is on disk stays. Of a cluster of one only.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.daemon.kill();
        self.wait_gone()
    }

    fn wait_gone(&self) -> Result<()> {
        let ids: Vec<u32> = self.nodes.iter().map(|node| node.id).collect();
        wait_gone(&ids, STOP_PATIENCE)
    }
}

/// The binary, with nothing inherited that would change its settings.
fn bare(aber: &Path) -> Command {
    let mut command = Command::new(aber);
    for name in ["ABER_DATA", "ABER_LOG"] {
        command.env_remove(name);
    }
    command
}

async fn look(data: &Path) -> Result<Node> {
    let status = Api::connect(data).await?.status().await?;
    Ok(Node {
        name: status.node,
        data: data.to_owned(),
        id: status.process_id,
    })
}

/// The first thing that is not everywhere: all nodes have applied, and show, the highest index any
/// of them knows, and nothing waits.
fn waits_for(looks: &[(v1::GetStatusResponse, Vec<v1::Partition>)]) -> Option<String> {
    let all = || looks.iter().flat_map(|(_, partitions)| partitions);
    let highest = |id: u32| {
        let same = all().filter(|partition| partition.id == id);
        same.map(|p| p.committed_index.max(p.applied_index)).max()
    };
    for (status, partitions) in looks {
        let node = &status.node;
        let paths = status
            .folders
            .iter()
            .map(|f| f.waiting_count + f.pending_count);
        let counts = [
            (status.outbox_changes, "changes to order"),
            (status.entries_to_apply, "entries to apply"),
            (status.fetch_bytes, "bytes to fetch"),
            (paths.sum(), "paths to show"),
        ];
        if let Some((count, what)) = counts.iter().find(|(count, _)| *count > 0) {
            return Some(format!("{node} has {count} {what}"));
        }
        for p in partitions {
            if Some(p.applied_index) < highest(p.id) || p.mirrored_index < p.applied_index {
                let (id, applied, shown) = (p.id, p.applied_index, p.mirrored_index);
                return Some(format!(
                    "{node}: partition {id}: {applied} applied, {shown} shown"
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(id: u32, committed: u64, applied: u64, mirrored: u64) -> v1::Partition {
        v1::Partition {
            id,
            committed_index: committed,
            applied_index: applied,
            mirrored_index: mirrored,
            ..Default::default()
        }
    }

    #[test]
    fn settled_is_what_every_node_shows() {
        let quiet = v1::GetStatusResponse::default();
        let good = (
            quiet.clone(),
            vec![partition(0, 5, 5, 5), partition(1, 3, 3, 3)],
        );
        assert_eq!(waits_for(&[good.clone(), good.clone()]), None);
        let behind = (
            quiet.clone(),
            vec![partition(0, 4, 4, 4), partition(1, 3, 3, 3)],
        );
        assert!(waits_for(&[good.clone(), behind]).is_some());
        let hidden = (
            quiet.clone(),
            vec![partition(0, 5, 5, 5), partition(1, 3, 3, 2)],
        );
        assert!(waits_for(&[good.clone(), hidden]).is_some());
        let waiting = v1::GetStatusResponse {
            outbox_changes: 1,
            ..quiet
        };
        assert!(waits_for(&[(waiting, good.1.clone())]).is_some());
    }
}
