//! [driver] Faults: a swarm configuration drawn from the seed, and the hand that deals them.
//!
//! Each class of fault is on or off in a run, with a rate of its own: runs that lack a class go
//! deeper into the others. Faults that last (a node down, a cut, a slow disk) are mended by a later
//! event of the same schedule; [`heal`] mends all of them for the liveness phase.

mod swarm;

pub use swarm::Swarm;

use super::cluster::{Cluster, Subject};
use super::disk_fault::{Call, FailRule, Failure};
use super::world::{Crash, World};
use aber_proto::NodeId;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

/// How often the supervisor looks for nodes that died by themselves.
const SUPERVISE_MS: u64 = 250;

/// What happened to a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCount {
    /// Nodes taken down.
    pub crash_count: u64,
    /// Cuts.
    pub cut_count: u64,
    /// All others: resets, jumps, slow disks, disk errors, damage.
    pub other_count: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Fault {
    Supervise,
    Crash,
    DieAtCall,
    Outage,
    Boot(NodeId),
    Cut,
    Heal(Vec<(NodeId, NodeId)>),
    Reset,
    Jump,
    Slow,
    Unslow(NodeId),
    DiskError,
    DamageIndex,
}

/// Deals the faults of a run.
pub struct Dealer<'a, S: Subject> {
    cluster: &'a Cluster<S>,
    swarm: &'a Swarm,
    due: BTreeMap<(u64, u64), Fault>,
    sequence: u64,
    count: FaultCount,
}

impl<'a, S: Subject> Dealer<'a, S> {
    /// A dealer with each class that is on scheduled once.
    #[must_use]
    pub fn new(cluster: &'a Cluster<S>, swarm: &'a Swarm) -> Self {
        let mut dealer = Self {
            cluster,
            swarm,
            due: BTreeMap::new(),
            sequence: 0,
            count: FaultCount::default(),
        };
        dealer.plan(SUPERVISE_MS, Fault::Supervise);
        for (every_ms, fault) in [
            (swarm.crash_every_ms, Fault::Crash),
            (swarm.die_at_call_every_ms, Fault::DieAtCall),
            (swarm.cut_every_ms, Fault::Cut),
            (swarm.reset_every_ms, Fault::Reset),
            (swarm.jump_every_ms, Fault::Jump),
            (swarm.slow_every_ms, Fault::Slow),
            (swarm.disk_error_every_ms, Fault::DiskError),
            (swarm.index_damage_every_ms, Fault::DamageIndex),
            (swarm.outage_every_ms, Fault::Outage),
        ] {
            dealer.plan_next(every_ms, fault);
        }
        dealer
    }

    fn world(&self) -> &'a World {
        self.cluster.world()
    }

    fn now_ms(&self) -> u64 {
        self.world().now_ns() / 1_000_000
    }

    fn plan(&mut self, after_ms: u64, fault: Fault) {
        self.sequence += 1;
        let due_ms = self.now_ms() + after_ms;
        self.due.insert((due_ms, self.sequence), fault);
    }

    fn plan_next(&mut self, every_ms: Option<u64>, fault: Fault) {
        if let Some(every_ms) = every_ms {
            let after_ms = self.world().between(1, 2 * every_ms);
            self.plan(after_ms, fault);
        }
    }

    /// Deals faults for the safety phase. Returns early if something is broken already.
    pub async fn deal(mut self) -> FaultCount {
        let ends_ms = self.now_ms() + self.swarm.safety_ms;
        while let Some(((due_ms, _), fault)) = self.due.pop_first() {
            if due_ms >= ends_ms || super::panics::has_any() {
                break;
            }
            self.world().sleep_until_ns(due_ms * 1_000_000).await;
            // Strike between two awaits of whatever runs at this instant.
            for _ in 0..self.world().draw(12) {
                tokio::task::yield_now().await;
            }
            self.strike(fault).await;
        }
        self.world().sleep_until_ns(ends_ms * 1_000_000).await;
        self.count
    }

    async fn strike(&mut self, fault: Fault) {
        let swarm = self.swarm;
        match fault {
            Fault::Supervise => self.supervise().await,
            Fault::Crash => {
                if let Some(node) = self.victim() {
                    self.take_down(node).await;
                }
                self.plan_next(swarm.crash_every_ms, Fault::Crash);
            }
            Fault::DieAtCall => {
                if let Some(node) = self.victim() {
                    let calls = self.world().draw(40);
                    with_faults(self.world(), node, |faults| faults.die_after(calls));
                }
                self.plan_next(swarm.die_at_call_every_ms, Fault::DieAtCall);
            }
            Fault::Outage => {
                for node in self.cluster.nodes() {
                    if !self.cluster.is_down(node) {
                        self.take_down(node).await;
                    }
                }
                self.plan_next(swarm.outage_every_ms, Fault::Outage);
            }
            Fault::Boot(node) => self.cluster.boot(node),
            Fault::Cut => {
                self.cut();
                self.plan_next(swarm.cut_every_ms, Fault::Cut);
            }
            Fault::Heal(pairs) => pairs
                .into_iter()
                .for_each(|(from, to)| self.world().mend(from, to)),
            Fault::Reset => {
                self.reset();
                self.plan_next(swarm.reset_every_ms, Fault::Reset);
            }
            Fault::Jump => {
                self.jump();
                self.plan_next(swarm.jump_every_ms, Fault::Jump);
            }
            Fault::Slow => {
                self.slow();
                self.plan_next(swarm.slow_every_ms, Fault::Slow);
            }
            Fault::Unslow(node) => with_faults(self.world(), node, |faults| faults.slowness = 1),
            Fault::DiskError => {
                self.disk_error();
                self.plan_next(swarm.disk_error_every_ms, Fault::DiskError);
            }
            Fault::DamageIndex => {
                if let Some(node) = self.node() {
                    self.count.other_count += 1;
                    self.world().damage_index(node);
                }
                self.plan_next(swarm.index_damage_every_ms, Fault::DamageIndex);
            }
        }
    }

    fn node(&self) -> Option<NodeId> {
        let nodes = self.cluster.nodes();
        self.world()
            .with_random(|random| random.pick(&nodes).copied())
    }

    /// A node that may go down now.
    fn victim(&self) -> Option<NodeId> {
        let nodes = self.cluster.nodes();
        let down = nodes.iter().filter(|node| self.cluster.is_down(**node));
        let down_count = u64::try_from(down.count()).unwrap_or(u64::MAX);
        let node = self.node()?;
        (down_count < self.swarm.down_max && !self.cluster.is_down(node)).then_some(node)
    }

    async fn take_down(&mut self, node: NodeId) {
        let permille = self.swarm.power_permille;
        let is_power = self.world().with_random(|random| random.chance(permille));
        let crash = if is_power {
            Crash::Power
        } else {
            Crash::Process
        };
        self.cluster.crash(node, crash).await;
        self.count.crash_count += 1;
        let down_ms = self.world().between(10, self.swarm.down_ms_max);
        self.plan(down_ms, Fault::Boot(node));
    }

    async fn supervise(&mut self) {
        for node in self.cluster.dead_nodes() {
            self.take_down(node).await;
        }
        self.plan(SUPERVISE_MS, Fault::Supervise);
    }

    fn cut(&mut self) {
        let nodes = self.cluster.nodes();
        let (Some(one), Some(two)) = (self.node(), self.node()) else {
            return;
        };
        let both = |a, b| [(a, b), (b, a)];
        let pairs: Vec<(NodeId, NodeId)> = match self.world().draw(3) {
            0 => nodes.iter().flat_map(|other| both(one, *other)).collect(),
            1 => both(one, two).into(),
            _ => vec![(one, two)],
        };
        let pairs: Vec<_> = pairs.into_iter().filter(|(from, to)| from != to).collect();
        if pairs.is_empty() {
            return;
        }
        self.count.cut_count += 1;
        pairs
            .iter()
            .for_each(|(from, to)| self.world().cut(*from, *to));
        let lasts_ms = self.world().between(20, self.swarm.cut_ms_max);
        self.plan(lasts_ms, Fault::Heal(pairs));
    }

    fn reset(&mut self) {
        if let (Some(one), Some(two)) = (self.node(), self.node()) {
            self.count.other_count += 1;
            self.world().reset_links(one, two);
        }
    }

    fn jump(&mut self) {
        const HOUR_MS: i64 = 3_600_000;
        const JUMPS_MS: [i64; 6] = [
            -HOUR_MS,
            HOUR_MS,
            -1500,
            1500,
            87_600 * HOUR_MS,
            -87_600 * HOUR_MS,
        ];
        let by_ms = self
            .world()
            .with_random(|random| random.pick(&JUMPS_MS).copied());
        if let (Some(node), Some(by_ms)) = (self.node(), by_ms) {
            self.count.other_count += 1;
            self.world().jump_clock(node, by_ms);
        }
    }

    fn slow(&mut self) {
        if let Some(node) = self.node() {
            self.count.other_count += 1;
            let slowness = self.world().between(10, 1000);
            self.world()
                .trace(node, format_args!("SLOW disk {slowness}"));
            with_faults(self.world(), node, |faults| faults.slowness = slowness);
            let lasts_ms = self.world().between(100, 10_000);
            self.plan(lasts_ms, Fault::Unslow(node));
        }
    }

    fn disk_error(&mut self) {
        const CALLS: [&[Call]; 5] = [
            &[Call::Sync, Call::SyncDir, Call::SyncAll],
            &[Call::Write],
            &[Call::Create, Call::Rename],
            &[Call::Read],
            &[],
        ];
        let (world, node) = (self.world(), self.node());
        let rule = world.with_random(|random| FailRule {
            calls: random
                .pick(&CALLS)
                .map(|calls| calls.to_vec())
                .unwrap_or_default(),
            prefix: String::new(),
            after: random.below(60),
            failure: if random.chance(300) {
                Failure::NoSpace
            } else {
                Failure::Io
            },
            times: random.between(1, 3),
        });
        if let Some(node) = node {
            self.count.other_count += 1;
            world.trace(node, format_args!("PLAN {rule:?}"));
            with_faults(world, node, |faults| faults.fail(rule));
        }
    }
}

fn with_faults(world: &World, node: NodeId, work: impl FnOnce(&mut super::disk_fault::DiskFaults)) {
    let machine = world.machine(node);
    work(
        &mut machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .faults,
    );
}

/// Ends all faults and boots every node that is down: the liveness phase begins.
pub async fn heal<S: Subject>(cluster: &Cluster<S>) {
    let world = cluster.world();
    world.trace(NodeId(0), format_args!("HEAL"));
    let cuts = world.with_net(|net| net.cuts());
    cuts.into_iter().for_each(|(from, to)| world.mend(from, to));
    for node in cluster.nodes() {
        with_faults(world, node, super::disk_fault::DiskFaults::heal);
        if cluster.is_down(node) {
            cluster.crash(node, Crash::Process).await;
            cluster.boot(node);
        }
    }
}

/// Waits until `is_done`, at most for `limit`; nodes that die by themselves are booted again.
/// Answers whether it came true.
pub async fn wait_until<S: Subject>(
    cluster: &Cluster<S>,
    limit: Duration,
    mut is_done: impl AsyncFnMut() -> bool,
) -> bool {
    let ends_ns = cluster.world().now_ns() + u64::try_from(limit.as_nanos()).unwrap_or(0);
    loop {
        for node in cluster.dead_nodes() {
            cluster.crash(node, Crash::Process).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.boot(node);
        }
        if is_done().await {
            return true;
        }
        if cluster.world().now_ns() >= ends_ns || super::panics::has_any() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(SUPERVISE_MS)).await;
    }
}

impl World {
    /// Stalls frames from one node to another; ends of their links give up after a while.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.trace(NodeId(0), format_args!("CUT {from} -> {to}"));
        let mut random = super::Random::new(self.draw(u64::MAX));
        let now_ns = self.now_ns();
        let gives_up = || now_ns + random.between(3000, 20_000) * 1_000_000;
        self.with_net(|net| net.cut(from, to, gives_up));
        self.ring_all();
    }

    /// Ends the cut from one node to another.
    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.trace(NodeId(0), format_args!("MEND {from} -> {to}"));
        let now_ns = self.now_ns();
        self.with_net(|net| net.heal(from, to, now_ns));
        self.ring_all();
    }

    /// Cuts a node off all others, both ways; answers the pairs to mend.
    pub fn isolate(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        let others = self.nodes().into_iter().filter(|other| *other != node);
        let pairs: Vec<_> = others
            .flat_map(|other| [(node, other), (other, node)])
            .collect();
        pairs.iter().for_each(|(from, to)| self.cut(*from, *to));
        pairs
    }

    /// Resets all links between two nodes; what is on its way is lost.
    pub fn reset_links(&self, one: NodeId, two: NodeId) {
        let mut random = super::Random::new(self.draw(u64::MAX));
        let now_ns = self.now_ns();
        let is_meant = |own: &super::network_state::End, other: &super::network_state::End| {
            (own.node, other.node) == (one, two) || (own.node, other.node) == (two, one)
        };
        let at_ns = || now_ns + random.below(50) * 1_000_000;
        let count = self.with_net(|net| net.break_ends(is_meant, at_ns));
        self.trace(NodeId(0), format_args!("RESET {one} {two}: {count} ends"));
        self.ring_all();
    }
}
