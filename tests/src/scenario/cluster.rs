//! [driver] Whole nodes: `Node::start` as production runs it, under all faults.
//!
//! Clients write, rename, remove and read while nodes crash at any await, lose power, are cut off,
//! and their disks fail; users scribble into the mirrors. Then everything heals, and within a
//! bounded time outboxes are empty, all views are one, and every mirror is its tree. Last, the
//! oracle compares the record of the clients with a replay of the logs.

mod admin;
mod check;
mod newcomer;
mod subject;
#[cfg(test)]
mod tests;

use crate::oracle::Oracle;
use crate::sim::World;
use crate::sim::cluster::Cluster;
use crate::sim::fault::{Dealer, FaultCount, Swarm, heal, wait_until};
use crate::sim::run::{self, Report, RunOptions, Tally};
use crate::workload::{WorkloadOptions, drive, prepare};
use aber_log::partition::Timing;
use aber_log::planted::{self, Bug};
use aber_proto::{ContentHash, Genesis, NodeId, codec};
use check::Digests;
use newcomer::Newcomers;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use subject::{Aber, Api, MIRROR};
use tokio::task::JoinHandle;

/// Time for a cluster to settle after the last fault, on the slowest uplink a run has.
const SETTLE_LIMIT: Duration = Duration::from_secs(900);
/// Time for calls under way to be answered, or given up by their clients.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// Time for a mirror to find what users did to it: two scans.
const SCAN_LIMIT: Duration = Duration::from_secs(240);
/// Time for the volumes to be made, before the first fault.
const PREPARE_LIMIT: Duration = Duration::from_secs(120);

/// Nodes that join at most: they bring the voters to three, and one that follows.
const NEWCOMERS: u64 = 3;

/// Runs a seed with three nodes, or as many as are asked for.
pub(super) fn run(options: &RunOptions) -> Report {
    start(options, options.node_count, Cast::Founders)
}

/// Runs a seed where admins change who is a member, too.
pub(super) fn run_members(options: &RunOptions) -> Report {
    start(options, options.node_count, Cast::Admins)
}

/// Runs a seed with one node.
pub(super) fn run_single(options: &RunOptions) -> Report {
    let options = RunOptions {
        node_count: 1,
        ..options.clone()
    };
    start(&options, 1, Cast::Founders)
}

/// Runs a seed where one node founds the cluster and others join it.
pub(super) fn run_join(options: &RunOptions) -> Report {
    let options = RunOptions {
        node_count: 1,
        ..options.clone()
    };
    start(&options, 1, Cast::Newcomers)
}

/// Runs a seed where each node reaches only the one before it and the one after it.
pub(super) fn run_chain(options: &RunOptions) -> Report {
    start(options, options.node_count, Cast::Chain)
}

/// Who takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cast {
    /// The nodes of the genesis.
    Founders,
    /// They, and members without machines that come and go.
    Admins,
    /// They, and nodes that join.
    Newcomers,
    /// The nodes of the genesis, in a row: neighbours have links, others have none.
    Chain,
}

fn start(options: &RunOptions, node_count: u64, cast: Cast) -> Report {
    let mut swarm = Swarm::draw(node_count, &mut crate::sim::Random::new(!options.seed));
    swarm.safety_ms /= 4;
    swarm.down_ms_max *= 2;
    let bug = options.planted.as_deref().map(Bug::find);
    planted::plant(bug.flatten());
    let play = move |world, swarm| play(world, swarm, cast);
    let mut report = run::run_with(options, swarm, play);
    planted::plant(None);
    if bug == Some(None) {
        report
            .failures
            .push("there is no such bug to plant".to_owned());
    }
    report
}

/// What users did to mirrors, and where.
type Scribbles = Arc<Mutex<Vec<(NodeId, ContentHash)>>>;

struct Run {
    world: World,
    cluster: Cluster<Aber>,
    oracle: Oracle,
    digests: Digests,
    scribbles: Scribbles,
    /// A user's bytes are not synced: only where no power goes are they sure to stay.
    may_scribble: bool,
    cast: Cast,
    newcomers: Newcomers,
}

async fn play(world: World, swarm: Swarm, cast: Cast) -> Tally {
    let genesis = match subject::genesis(swarm.node_count) {
        Ok(genesis) => genesis,
        Err(problem) => {
            world.broken(format!("no genesis: {problem}"));
            return Tally::default();
        }
    };
    let timing = if swarm.latency_ms.1 > 60 || swarm.uplink_bytes_per_s.is_some() {
        Timing::ADSL
    } else {
        Timing::LAN
    };
    let drawn = world.with_random(|random| {
        let every = random.pick(&[3, 6, 16, 64]).copied();
        // A quarter of it is room for what waits in an outbox: a large change stands there twice.
        let segment = random.pick(&[512 * 1024, 1024 * 1024]).copied();
        every.zip(segment)
    });
    let (snapshot_every, segment_bytes) = drawn.unwrap_or((64, 1024 * 1024));
    let newcomers = Newcomers::default();
    let subject = Aber {
        timing,
        snapshot_every,
        segment_bytes,
        batch_bytes: 64 * 1024,
        newcomers: Arc::clone(&newcomers),
    };
    let cluster = Cluster::new(&world, subject);
    if cast == Cast::Chain {
        let pairs = (1..swarm.node_count).map(|node| (NodeId(node), NodeId(node + 1)));
        world.with_net(|net| net.neighbours = pairs.collect());
    }
    for node in genesis.members.iter().map(|member| member.node) {
        cluster.add(node, codec::encode_genesis(&genesis).into());
        cluster.boot(node);
    }
    let run = Run {
        world: world.clone(),
        cluster: cluster.clone(),
        oracle: Oracle::default(),
        digests: Digests::default(),
        scribbles: Scribbles::default(),
        may_scribble: swarm.power_permille == 0,
        cast,
        newcomers,
    };
    let (faults, clients) = run.be_unsafe(&swarm, &genesis).await;
    heal(&cluster).await;
    if tokio::time::timeout(ANSWER_LIMIT, clients).await.is_err() {
        world.broken("A2: a call was not answered after the last fault".to_owned());
    }
    run.settle(&genesis).await;
    let acked_count = run.oracle.acked_count();
    cluster.stop().await;
    Tally {
        faults,
        acked_count,
    }
}

impl Run {
    /// The safety phase: clients, users, and faults side by side.
    /// Answers what was dealt, and the clients that still wait for an answer.
    async fn be_unsafe(&self, swarm: &Swarm, genesis: &Genesis) -> (FaultCount, JoinHandle<()>) {
        let api = Api {
            cluster: self.cluster.clone(),
        };
        let workload = WorkloadOptions {
            large_bytes_max: swarm
                .uplink_bytes_per_s
                .map_or(600_000, |rate| (rate * 8).min(600_000)),
            step_count: 400,
            think_ms_max: 800,
            ..WorkloadOptions::default()
        };
        let setup = workload.setup();
        let ready = prepare(&self.world, &self.oracle, &api, &setup);
        if self.cast == Cast::Chain {
            admin::declare_chain(&self.world, &self.cluster).await;
        }
        // What was not made in time is made later or never: clients bear it.
        let _late = tokio::time::timeout(PREPARE_LIMIT, ready).await.is_err();
        let steps = self.world.with_random(|random| workload.draw(random));
        let ends_ns = self.world.now_ns() + swarm.safety_ms * 1_000_000;
        let clients = drive(&self.world, &self.oracle, &api, steps, ends_ns);
        let dealer = Dealer::new(&self.cluster, swarm).deal();
        let watcher = self.watch(ends_ns);
        let clients = tokio::spawn(clients);
        let count = if self.cast == Cast::Newcomers {
            NEWCOMERS
        } else {
            0
        };
        let joining = newcomer::let_in(
            &self.world,
            &self.cluster,
            &self.newcomers,
            genesis,
            (count, ends_ns),
        );
        let (faults, (), ()) = futures::join!(dealer, watcher, joining);
        (faults, clients)
    }

    /// Looks at nodes and scribbles into mirrors, until the safety phase ends.
    async fn watch(&self, ends_ns: u64) {
        while self.world.now_ns() < ends_ns && !crate::sim::panics::has_any() {
            let pause_ms = self.world.between(500, 4000);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let nodes = self.cluster.nodes();
            let node = self
                .world
                .with_random(|random| random.pick(&nodes).copied());
            let Some(node) = node else { return };
            check::check_torn(&self.world, &self.oracle, node);
            if let Some((_, handle)) = self.cluster.handle(node) {
                check::note_digests(node, &handle, &self.digests);
                for _ in 0..if self.cast == Cast::Admins { 3 } else { 0 } {
                    admin::act(&self.world, node, &handle).await;
                }
            }
            if self.may_scribble && self.world.draw(4) == 0 {
                self.scribble(node);
            }
        }
    }

    /// A user writes into a mirror: into a file that is there, or a new one.
    fn scribble(&self, node: NodeId) {
        let number = self.world.draw(u64::MAX);
        let bytes = format!("a user's own {number}");
        let shown = check::mirror_of(&self.world, node);
        let files: Vec<_> = shown
            .iter()
            .filter(|(_, what)| matches!(what, crate::sim::outsider::Shown::File { .. }))
            .map(|(path, _)| path.clone())
            .collect();
        let drawn = self.world.with_random(|random| {
            let is_new = random.chance(400);
            random.pick(&files).filter(|_| !is_new).cloned()
        });
        let path = drawn.unwrap_or_else(|| format!("mine-{}", number % 7).into());
        let content = ContentHash::of(bytes.as_bytes());
        self.oracle.wrote(content);
        let before = shown.get(&path).cloned();
        let written = self
            .world
            .outsider_write(node, Path::new(MIRROR), &path, bytes.as_bytes());
        if written.is_ok() {
            let mut scribbles = check::lock(&self.scribbles);
            // A user who writes over a scribble takes it away.
            if let Some(crate::sim::outsider::Shown::File { content, .. }) = before {
                scribbles.retain(|(_, known)| *known != content);
            }
            scribbles.push((node, content));
        }
    }

    /// The liveness phase, and all checks that need a settled cluster.
    async fn settle(&self, genesis: &Genesis) {
        let has_settled = wait_until(&self.cluster, SETTLE_LIMIT, async || {
            check::unsettled(&self.cluster, genesis).is_empty()
        });
        if !has_settled.await {
            for left in check::unsettled(&self.cluster, genesis) {
                self.world.broken(format!("A5: {left}"));
            }
            return;
        }
        let now_s = self.world.now_ns() / 1_000_000_000;
        self.world
            .trace(NodeId(0), format_args!("SETTLED at {now_s} s"));
        let mut looks = 0;
        let is_equal = wait_until(&self.cluster, SCAN_LIMIT, async || {
            looks += 1;
            looks % 16 == 1 && check::check_mirrors(&self.cluster).is_empty()
        });
        let _equal = is_equal.await;
        for finding in check::check_mirrors(&self.cluster) {
            self.world.broken(finding);
        }
        let scribbles = check::lock(&self.scribbles).clone();
        for (node, content) in scribbles {
            if !check::is_kept(&self.world, node, content) {
                self.world
                    .broken(format!("M3: a user's {content} is gone from node {node}"));
            }
        }
        let findings = check::check_all(&self.cluster, genesis, &self.oracle, &self.digests);
        for finding in findings {
            self.world.broken(finding);
        }
    }
}
