//! [driver] The world: one generator, one trace, one network, and every node's machine.
//!
//! All draws of a run come from the world's generator, in the order in which the tasks run; since
//! that order follows from the draws alone, a seed names a run. Any leak of true randomness or time
//! shows in the trace within a few hundred lines.

use super::disk::Machine;
use super::disk_image::{Fate, NamesKept};
use super::kv::Index;
use super::network_state::{NEVER, Net, Side};
use super::random::Random;
use super::runtime::SimEnv;
use super::trace::Trace;
use aber_log::life::Life;
use aber_proto::{FileTime, NodeId, Timestamp};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Wall time at which every world begins: 2026-01-01.
const WALL_START_MS: i64 = 1_767_225_600_000;

/// How a node goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process is killed: the page cache lives on, what is not synced may still be lost later.
    Process,
    /// The power goes: each thing that was not synced is there or not.
    Power,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Where all draws begin.
    pub seed: u64,
    /// Where the trace goes, beside its hash.
    pub trace_file: Option<PathBuf>,
    /// Clocks of nodes drift by up to this much.
    pub drift_ppm_max: u64,
    /// Shortest and longest base latency between two nodes, one way, in virtual milliseconds.
    pub latency_ms: (u64, u64),
    /// How much a frame's latency varies, in thousandths of its base.
    pub jitter_permille: u64,
    /// Whether a power cut may keep a later name change of a directory and lose an earlier one.
    pub has_any_subset: bool,
    /// Whether a power cut may tear blocks.
    pub has_torn_blocks: bool,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            trace_file: None,
            drift_ppm_max: 0,
            latency_ms: (1, 30),
            jitter_permille: 300,
            has_any_subset: false,
            has_torn_blocks: true,
        }
    }
}

struct Node {
    machine: Arc<Mutex<Machine>>,
    index: Arc<Mutex<Index>>,
    life: Option<Arc<Life>>,
    boot_number: u64,
    epoch: tokio::time::Instant,
    drift_ppm: i64,
    wall_offset_ms: i64,
    has_power: bool,
    failed: Option<(i32, String)>,
    accept_bell: Arc<Notify>,
}

struct State {
    options: WorldOptions,
    random: Random,
    trace: Trace,
    nodes: BTreeMap<NodeId, Node>,
    base_latency_us: BTreeMap<(NodeId, NodeId), u64>,
    bells: BTreeMap<(u64, Side), Arc<Notify>>,
    failures: Vec<String>,
}

struct Shared {
    epoch: tokio::time::Instant,
    state: Mutex<State>,
    net: Mutex<Net>,
}

/// The world. Clones are the same world.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

impl World {
    /// A world without nodes. Called inside the paused runtime.
    ///
    /// # Errors
    /// If the trace file cannot be made.
    pub fn new(options: WorldOptions) -> std::io::Result<Self> {
        let state = State {
            random: Random::new(options.seed),
            trace: Trace::new(options.trace_file.as_deref())?,
            options,
            nodes: BTreeMap::new(),
            base_latency_us: BTreeMap::new(),
            bells: BTreeMap::new(),
            failures: Vec::new(),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                epoch: tokio::time::Instant::now(),
                state: Mutex::new(state),
                net: Mutex::new(Net::default()),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn node<R>(&self, node: NodeId, look: impl FnOnce(&mut Node) -> R) -> R {
        let mut state = self.state();
        let node = state.nodes.get_mut(&node);
        look(node.expect("a node is added to the world before anything else is asked of it"))
    }

    /// Works on the network. Must be short, and draw nothing.
    pub fn with_net<R>(&self, work: impl FnOnce(&mut Net) -> R) -> R {
        work(
            &mut self
                .shared
                .net
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Draws from the world's generator.
    pub fn with_random<R>(&self, draw: impl FnOnce(&mut Random) -> R) -> R {
        draw(&mut self.state().random)
    }

    /// A number below `end`.
    #[must_use]
    pub fn draw(&self, end: u64) -> u64 {
        self.with_random(|random| random.below(end))
    }

    /// A number from `first` to `last`, both included.
    #[must_use]
    pub fn between(&self, first: u64, last: u64) -> u64 {
        self.with_random(|random| random.between(first, last))
    }

    /// Virtual nanoseconds since the world began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.shared.epoch.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    /// Waits for a time of the world's clock.
    pub async fn sleep_until_ns(&self, until_ns: u64) {
        if until_ns == NEVER {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.shared.epoch + Duration::from_nanos(until_ns)).await;
    }

    /// Adds a line to the trace; node 0 is the world itself.
    pub fn trace(&self, node: NodeId, text: std::fmt::Arguments<'_>) {
        let now_ns = self.now_ns();
        self.state().trace.line(now_ns.into(), node.0, text);
    }

    /// Works on the trace.
    pub fn with_trace<R>(&self, work: impl FnOnce(&mut Trace) -> R) -> R {
        work(&mut self.state().trace)
    }

    /// Records that a promise was broken.
    pub fn broken(&self, what: String) {
        self.trace(NodeId(0), format_args!("BROKEN {what}"));
        self.state().failures.push(what);
    }

    /// What was broken so far.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.state().failures.clone()
    }

    /// Adds a machine, switched off, with empty disks.
    pub fn add_node(&self, node: NodeId) {
        let mut state = self.state();
        let ppm_max = state.options.drift_ppm_max;
        let drift = state.random.below(2 * ppm_max + 1);
        let fresh = Node {
            machine: Arc::default(),
            index: Arc::default(),
            life: None,
            boot_number: 0,
            epoch: self.shared.epoch,
            drift_ppm: i64::try_from(drift).unwrap_or(0) - i64::try_from(ppm_max).unwrap_or(0),
            wall_offset_ms: 0,
            has_power: true,
            failed: None,
            accept_bell: Arc::default(),
        };
        let former = state.nodes.insert(node, fresh);
        assert!(former.is_none(), "a node is added once");
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.state().nodes.keys().copied().collect()
    }

    /// Boots a node: a new life on what its disks hold.
    ///
    /// # Errors
    /// If its data directory cannot be made.
    pub fn boot(&self, node: NodeId) -> std::io::Result<SimEnv> {
        let seed = self.with_random(Random::next_u64);
        let life = self.node(node, |node| {
            assert!(node.life.is_none(), "a node that runs is not booted again");
            if !node.has_power {
                // The machine's monotonic clock begins anew, the process's would not.
                node.epoch = tokio::time::Instant::now();
            }
            (node.has_power, node.failed) = (true, None);
            node.boot_number += 1;
            let life = Life::new(node.epoch, node.drift_ppm, seed);
            node.life = Some(Arc::clone(&life));
            life
        });
        let boot = self.boot_number(node);
        self.trace(node, format_args!("BOOT {boot}"));
        // Ends that still believe in the boot before get a reset at their next word.
        let (now_ns, delay_ns) = (self.now_ns(), self.between(1, 1000) * 1_000_000);
        self.with_net(|net| {
            let is_stale =
                |_: &_, other: &super::network_state::End| other.node == node && other.boot < boot;
            net.break_ends(is_stale, || now_ns + delay_ns)
        });
        self.ring_all();
        SimEnv::new(self, node, life)
    }

    /// Kills a node's process at the next await of each of its tasks. Its disks are as they were;
    /// [`World::crash`] decides what they become.
    pub fn kill(&self, node: NodeId, why: &str) {
        let life = self.node(node, |node| node.life.clone());
        if let Some(life) = life.filter(|life| !life.is_dead()) {
            self.trace(node, format_args!("KILL {why}"));
            life.kill();
        }
    }

    /// A node ends itself after a failure it must not outlive.
    pub fn node_failed(&self, node: NodeId, code: i32, why: &str) {
        self.trace(node, format_args!("FAIL {code} {why}"));
        self.node(node, |node| node.failed = Some((code, why.to_owned())));
        self.kill(node, "it failed");
    }

    /// How a node ended itself, if it did since its boot.
    #[must_use]
    pub fn failed(&self, node: NodeId) -> Option<(i32, String)> {
        self.node(node, |node| node.failed.clone())
    }

    /// Takes a node down, whether it runs or is dead already, and leaves its disks as a crash of
    /// this kind does.
    pub async fn crash(&self, node: NodeId, crash: Crash) {
        self.kill(node, "crash");
        // Its tasks go at their next poll; nothing of them may touch what follows.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        self.trace(node, format_args!("CRASH {crash:?}"));
        let mut random = Random::new(self.with_random(Random::next_u64));
        let options = self.state().options.clone();
        let machine = self.machine(node);
        let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.forget_watchers();
        if crash == Crash::Power {
            let kept = NamesKept {
                keep_permille: random.pick(&[0, 300, 700, 950, 1000]).copied().unwrap_or(0),
                is_any_subset: options.has_any_subset && random.chance(500),
            };
            for (_, image) in machine.images() {
                image.lose_power(kept, |random| fate(random, &options), &mut random);
            }
        }
        drop(machine);
        let index = self.index(node);
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        index.crash(crash, &mut random);
        drop(index);
        self.crash_links(node, crash, &mut random);
        self.node(node, |node| {
            node.life = None;
            node.has_power = crash == Crash::Process;
        });
    }

    fn crash_links(&self, node: NodeId, crash: Crash, random: &mut Random) {
        let now_ns = self.now_ns();
        let notices_ms = |random: &mut Random| match crash {
            Crash::Process => random.between(1, 60),
            Crash::Power => random.between(1000, 30_000),
        };
        self.with_net(|net| {
            net.drop_boot(node);
            let is_other_end = |_: &_, other: &super::network_state::End| other.node == node;
            net.break_ends(is_other_end, || now_ns + notices_ms(random) * 1_000_000)
        });
        self.ring_all();
    }

    /// Whether a node's process runs.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        let state = self.state();
        let life = state.nodes.get(&node).and_then(|node| node.life.as_ref());
        life.is_some_and(|life| !life.is_dead())
    }

    /// Whether a node's process died and nobody crashed its machine yet.
    #[must_use]
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.node(node, |node| {
            node.life.as_ref().is_some_and(|life| life.is_dead())
        })
    }

    pub(super) fn has_power(&self, node: NodeId) -> bool {
        self.state()
            .nodes
            .get(&node)
            .is_some_and(|node| node.has_power)
    }

    /// Boots of a node so far.
    #[must_use]
    pub fn boot_number(&self, node: NodeId) -> u64 {
        self.node(node, |node| node.boot_number)
    }

    /// A node's file systems.
    #[must_use]
    pub fn machine(&self, node: NodeId) -> Arc<Mutex<Machine>> {
        self.node(node, |node| Arc::clone(&node.machine))
    }

    /// A node's index.
    #[must_use]
    pub fn index(&self, node: NodeId) -> Arc<Mutex<Index>> {
        self.node(node, |node| Arc::clone(&node.index))
    }

    /// Damages a node's index: it does not open until it is discarded.
    pub fn damage_index(&self, node: NodeId) {
        self.trace(node, format_args!("DAMAGE index"));
        let index = self.index(node);
        index
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .damage();
    }

    /// A node's wall clock.
    #[must_use]
    pub fn wall_clock(&self, node: NodeId) -> Timestamp {
        let passed_ms = i64::try_from(self.now_ns() / 1_000_000).unwrap_or(0);
        let offset_ms = self.node(node, |node| node.wall_offset_ms);
        Timestamp(WALL_START_MS + passed_ms + offset_ms)
    }

    /// A node's wall clock as its file system stamps it.
    #[must_use]
    pub fn file_time(&self, node: NodeId) -> FileTime {
        self.wall_clock(node).to_file_time()
    }

    /// Makes a node's wall clock jump.
    pub fn jump_clock(&self, node: NodeId, by_ms: i64) {
        self.trace(node, format_args!("CLOCK jumps by {by_ms} ms"));
        self.node(node, |node| node.wall_offset_ms += by_ms);
    }

    /// How long the next frame from one node to another takes.
    #[must_use]
    pub fn latency_ns(&self, from: NodeId, to: NodeId) -> u64 {
        let state = &mut *self.state();
        let (first_ms, last_ms) = state.options.latency_ms;
        let pair = (from.min(to), from.max(to));
        let (random, known) = (&mut state.random, &mut state.base_latency_us);
        let draw = || random.between(first_ms * 1000, last_ms * 1000);
        let base_us = *known.entry(pair).or_insert_with(draw);
        let jitter_us = base_us * state.options.jitter_permille / 1000;
        (base_us + state.random.below(jitter_us + 1)) * 1000
    }

    pub(super) fn accept_bell(&self, node: NodeId) -> Arc<Notify> {
        self.node(node, |node| Arc::clone(&node.accept_bell))
    }

    /// The bells of a link: of this side, of the other.
    pub(super) fn link_bells(&self, link: u64, side: Side) -> [Arc<Notify>; 2] {
        let bells = &mut self.state().bells;
        [side, 1 - side].map(|side| Arc::clone(bells.entry((link, side)).or_default()))
    }

    pub(super) fn forget_bell(&self, link: u64, side: Side) {
        self.state().bells.remove(&(link, side));
    }

    /// Wakes everybody who waits for a link: something happened to the network.
    pub(super) fn ring_all(&self) {
        let bells: Vec<_> = self.state().bells.values().cloned().collect();
        bells.iter().for_each(|bell| bell.notify_waiters());
    }
}

fn fate(random: &mut Random, options: &WorldOptions) -> Fate {
    match random.below(4) {
        0 => Fate::Keep,
        1 => Fate::Lose,
        _ => Fate::Blocks {
            keep_permille: random.between(50, 950),
            has_torn: options.has_torn_blocks,
        },
    }
}
