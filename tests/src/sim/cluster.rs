//! [driver] The nodes under test: booted, called, crashed and booted again.
//!
//! A [`Subject`] is what runs on each node. Calls on a node are made in tasks of its life, and so
//! end with it: a call that was cut short answers `None`, which is "unknown", never "failed".

use super::runtime::SimEnv;
use super::world::{Crash, World};
use aber_log::life::Life;
use aber_proto::NodeId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One start of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boot {
    /// Which node.
    pub node: NodeId,
    /// Its how many-th start, from 1.
    pub boot_number: u64,
    /// The configuration it was added with.
    pub config: Bytes,
}

/// What runs on each node.
pub trait Subject: Send + Sync + 'static {
    /// A node that started; what calls are made on.
    type Handle: Clone + Send + Sync + 'static;

    /// Starts a node on what its disks hold.
    fn start(
        &self,
        env: SimEnv,
        boot: Boot,
    ) -> impl Future<Output = Result<Self::Handle, String>> + Send;
}

struct Slot<H> {
    config: Bytes,
    life: Option<Arc<Life>>,
    handle: Option<H>,
    refusal: Option<String>,
}

struct Shared<S: Subject> {
    subject: S,
    slots: Mutex<BTreeMap<NodeId, Slot<S::Handle>>>,
}

/// All nodes under test. Clones are the same cluster.
pub struct Cluster<S: Subject> {
    world: World,
    shared: Arc<Shared<S>>,
}

impl<S: Subject> Clone for Cluster<S> {
    fn clone(&self) -> Self {
        Self {
            world: self.world.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: Subject> Cluster<S> {
    /// A cluster without nodes.
    pub fn new(world: &World, subject: S) -> Self {
        Self {
            world: world.clone(),
            shared: Arc::new(Shared {
                subject,
                slots: Mutex::default(),
            }),
        }
    }

    /// The world.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<NodeId, Slot<S::Handle>>> {
        self.shared
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a node, switched off.
    pub fn add(&self, node: NodeId, config: Bytes) {
        self.world.add_node(node);
        let slot = Slot {
            config,
            life: None,
            handle: None,
            refusal: None,
        };
        self.slots().insert(node, slot);
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.slots().keys().copied().collect()
    }

    /// Boots a node unless it runs. Does not wait until it started.
    pub fn boot(&self, node: NodeId) {
        if self
            .slots()
            .get(&node)
            .is_none_or(|slot| slot.life.is_some())
        {
            return;
        }
        let env = match self.world.boot(node) {
            Ok(env) => env,
            Err(error) => {
                return self
                    .world
                    .broken(format!("node {node} has no disk: {error}"));
            }
        };
        let (cluster, life) = (self.clone(), Arc::clone(env.life()));
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(&node) else {
            return;
        };
        slot.life = Some(Arc::clone(&life));
        let boot = Boot {
            node,
            boot_number: self.world.boot_number(node),
            config: slot.config.clone(),
        };
        drop(slots);
        let task = async move {
            let started = cluster.shared.subject.start(env, boot).await;
            cluster.started(node, started);
        };
        drop(life.spawn(task));
    }

    fn started(&self, node: NodeId, started: Result<S::Handle, String>) {
        let refusal = match started {
            Ok(handle) => {
                self.world.trace(node, format_args!("STARTED"));
                if let Some(slot) = self.slots().get_mut(&node) {
                    (slot.handle, slot.refusal) = (Some(handle), None);
                }
                return;
            }
            Err(refusal) => refusal,
        };
        self.world.trace(node, format_args!("REFUSED {refusal}"));
        if let Some(slot) = self.slots().get_mut(&node) {
            slot.refusal = Some(refusal);
        }
        self.world.kill(node, "it did not start");
    }

    /// Crashes a node, whether it runs or died by itself.
    pub async fn crash(&self, node: NodeId, crash: Crash) {
        let is_booted = self
            .slots()
            .get(&node)
            .is_some_and(|slot| slot.life.is_some());
        if !is_booted {
            return;
        }
        self.world.kill(node, "crash");
        tokio::task::yield_now().await;
        let handle = self.slots().get_mut(&node).and_then(|slot| {
            slot.life = None;
            slot.handle.take()
        });
        drop(handle);
        self.world.crash(node, crash).await;
    }

    /// A node that started and runs.
    #[must_use]
    pub fn handle(&self, node: NodeId) -> Option<(Arc<Life>, S::Handle)> {
        let slots = self.slots();
        let slot = slots.get(&node)?;
        let life = slot.life.as_ref().filter(|life| !life.is_dead())?;
        Some((Arc::clone(life), slot.handle.clone()?))
    }

    /// Whether a node is down, or on its way there.
    #[must_use]
    pub fn is_down(&self, node: NodeId) -> bool {
        !self.world.is_up(node)
    }

    /// Nodes whose process died by itself and wait for a supervisor.
    #[must_use]
    pub fn dead_nodes(&self) -> Vec<NodeId> {
        let nodes = self.nodes();
        nodes
            .into_iter()
            .filter(|node| self.world.is_dead(*node))
            .collect()
    }

    /// Why a node's newest start failed, if it did.
    #[must_use]
    pub fn refusal(&self, node: NodeId) -> Option<String> {
        self.slots().get(&node)?.refusal.clone()
    }

    /// Makes a call on a node, in a task of its life; `None` if it is down or died meanwhile.
    pub async fn call<T, F>(
        &self,
        node: NodeId,
        work: impl FnOnce(S::Handle) -> F + Send,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (life, handle) = self.handle(node)?;
        let task = life.spawn(work(handle));
        task.await.ok()
    }

    /// Waits until a node started, at most for `limit`.
    pub async fn wait_started(&self, node: NodeId, limit: Duration) -> bool {
        let ends = tokio::time::Instant::now() + limit;
        while self.handle(node).is_none() {
            if tokio::time::Instant::now() >= ends {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Kills every node: the run is over.
    pub async fn stop(&self) {
        for node in self.nodes() {
            self.world.kill(node, "the run is over");
        }
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        self.slots().clear();
    }
}
