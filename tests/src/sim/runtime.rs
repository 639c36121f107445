//! [adapter] Clock, tasks and randomness of one simulated boot, and the whole [`SimEnv`].

use super::disk::{DATA_ROOT, SimDisk};
use super::kv::SimKv;
use super::network::SimNetwork;
use super::world::World;
use aber_log::env::kv::KvProblem;
use aber_log::env::{Env, Runtime};
use aber_log::life::Life;
use aber_proto::{Instant, NodeId, Timestamp};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

/// Clock, tasks and randomness of one boot of one node.
#[derive(Clone)]
pub struct SimRuntime {
    world: World,
    node: NodeId,
    life: Arc<Life>,
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        Instant(self.life.now_ns())
    }

    fn wall_clock(&self) -> Timestamp {
        self.world.wall_clock(self.node)
    }

    async fn sleep_until(&self, until: Instant) {
        loop {
            let left = until - self.now();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(self.life.to_world(left)).await;
        }
    }

    fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.world.trace(self.node, format_args!("spawn {name}"));
        drop(self.life.spawn(task));
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.world.with_random(|random| random.fill(bytes));
    }

    fn fail(&self, code: i32, why: &str) {
        if !self.life.is_dead() {
            self.world.node_failed(self.node, code, why);
        }
    }

    fn trace(&self, line: std::fmt::Arguments<'_>) {
        self.world.trace(self.node, line);
    }
}

/// What one boot of one node sees of the world.
#[derive(Clone)]
pub struct SimEnv {
    world: World,
    node: NodeId,
    life: Arc<Life>,
    runtime: SimRuntime,
    disk: SimDisk,
    network: SimNetwork,
}

impl SimEnv {
    /// The environment of a boot that just began.
    ///
    /// # Errors
    /// If the data directory cannot be made.
    pub(super) fn new(world: &World, node: NodeId, life: Arc<Life>) -> std::io::Result<Self> {
        let machine = world.machine(node);
        let disk = SimDisk::open_root(world, (node, &life), &machine, Path::new(DATA_ROOT))?;
        Ok(Self {
            runtime: SimRuntime {
                world: world.clone(),
                node,
                life: Arc::clone(&life),
            },
            network: SimNetwork::new(world, node, &life),
            disk,
            world: world.clone(),
            node,
            life,
        })
    }

    /// Which node this is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its tasks and its clock. Calls on the node are made in tasks of its life.
    #[must_use]
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// The world it lives in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }
}

impl Env for SimEnv {
    type Runtime = SimRuntime;
    type Disk = SimDisk;
    type Network = SimNetwork;
    type Kv = SimKv;

    fn runtime(&self) -> &SimRuntime {
        &self.runtime
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn open_folder(&self, path: &Path) -> std::io::Result<SimDisk> {
        let machine = self.world.machine(self.node);
        SimDisk::open_root(&self.world, (self.node, &self.life), &machine, path)
    }

    fn network(&self) -> &SimNetwork {
        &self.network
    }

    fn open_index(&self) -> Result<SimKv, KvProblem> {
        let opened = SimKv::open(&self.life, &self.world.index(self.node));
        let word = if opened.is_ok() { "ok" } else { "damaged" };
        self.world
            .trace(self.node, format_args!("index open {word}"));
        opened
    }

    fn discard_index(&self) -> std::io::Result<()> {
        self.world.trace(self.node, format_args!("index discard"));
        let index = self.world.index(self.node);
        let mut index = index
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        index.discard();
        Ok(())
    }
}
