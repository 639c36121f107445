//! One node: log, groups, content, views, mirror and outbox, wired together.
//!
//! [`Node::start`] is the same call in production and in the simulation; everything that touches
//! the world comes in through the [`Env`].

mod collaborator;
mod handler;
mod index;
mod service;

pub use service::NodeService;

use crate::reason::{Problem, Reason};
use aber_log::chunk::store::{PackStore, StoreOptions};
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::mesh::Mesh;
use aber_log::outbox::{Outbox, OutboxOptions};
use aber_log::partition::{LogReader, Partition, PartitionOptions, Timing};
use aber_log::segment::{LogIdentity, SegmentLog, SegmentOptions};
use aber_log::watch::Watched;
use aber_materializer::judge::Judge;
use aber_materializer::mirror::{Dirty, Mirror, MirrorHandle, MirrorOptions, MirrorParts, Ready};
use aber_materializer::replay::{Ahead, Maker, Replay, ReplayOptions};
use aber_materializer::snapshots::{Install, Snapshots};
use aber_materializer::view::{TreeView, View};
use aber_proto::{ClusterId, Genesis, LogId, NodeId, PartitionId, SecretKey};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Dirty sets that wait for the mirror at most.
const DIRTY_QUEUE: usize = 64;
/// How long a mirror waits for entries that are here and not known to be committed.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);

/// What a node is and how it behaves.
#[derive(Clone)]
pub struct NodeConfig {
    /// What the cluster started from.
    pub genesis: Genesis,
    /// This node's number in it.
    pub me: NodeId,
    /// Its key.
    pub key: Arc<SecretKey>,
    /// How it behaves.
    pub options: NodeOptions,
}

/// How a node behaves.
#[derive(Clone)]
pub struct NodeOptions {
    /// The segment log.
    pub segment: SegmentOptions,
    /// The chunk store.
    pub store: StoreOptions,
    /// Raft's patience.
    pub timing: Timing,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Where the mirror of `/` is, if this node has one, and how it behaves.
    pub mirror: Option<(PathBuf, MirrorOptions)>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            segment: SegmentOptions::default(),
            store: StoreOptions::default(),
            timing: Timing::LAN,
            snapshot_every: 4096,
            mirror: None,
        }
    }
}

/// A running node. Cheap to clone; all clones are the same node.
pub struct Node<E: Env> {
    /// The parts, for the services.
    pub parts: Arc<Parts<E>>,
}

impl<E: Env> Clone for Node<E> {
    fn clone(&self) -> Self {
        Self {
            parts: Arc::clone(&self.parts),
        }
    }
}

/// What a node consists of.
pub struct Parts<E: Env> {
    /// The world.
    pub env: E,
    /// Genesis, number, key, options.
    pub config: NodeConfig,
    /// The cluster.
    pub cluster: ClusterId,
    /// The log on disk.
    pub log: SegmentLog<E>,
    /// Links to other nodes.
    pub mesh: Mesh<E>,
    /// Content, here and on other nodes.
    pub content: NodeContent<E>,
    /// The Raft groups.
    pub partitions: BTreeMap<PartitionId, Partition<E>>,
    /// Committed entries.
    pub reader: LogReader<E>,
    /// Snapshots of the views.
    pub snapshots: Snapshots<E>,
    /// The tree as applied here.
    pub tree: TreeView<E::Kv>,
    /// How far each view is applied.
    pub applied: BTreeMap<PartitionId, Watched<Option<u64>>>,
    /// Changes that wait here.
    pub outbox: Outbox,
    /// The mirror, where there is one.
    pub mirror: Option<MirrorHandle>,
    /// What is wrong with this node, as sentences; empty most of the time.
    pub notices: Watched<Vec<String>>,
}

impl<E: Env> Node<E> {
    /// Starts a node on a world: opens what is there, repairs or rebuilds what can be, joins its
    /// groups, brings view and mirror up to date in the background.
    ///
    /// # Errors
    /// What keeps it from starting, with the reason users are told.
    pub async fn start(config: NodeConfig, env: E) -> Result<Self, Problem> {
        let cluster = config.genesis.cluster_id();
        let identity = LogIdentity {
            cluster,
            node: config.me,
        };
        let log = SegmentLog::open(env.clone(), identity, config.options.segment);
        let log = log.await.map_err(|problem| index::log_problem(&problem))?;
        let notices = Watched::new(Vec::new());
        let (kv, views) = index::open(&env, &log, &config.genesis, &notices).await?;
        let store = PackStore::open(env.clone(), kv.clone(), cluster, config.options.store);
        let store = store.map_err(|problem| storage(&problem))?;
        let others = config
            .genesis
            .members
            .iter()
            .map(|m| m.node)
            .filter(|n| *n != config.me);
        let mesh = Mesh::new(env.clone(), &others.collect::<Vec<_>>());
        let content = NodeContent::start(env.clone(), config.me, store, mesh.clone());
        let (installs, queues) = install_queues(&config.genesis);
        let snapshots = Snapshots::open(log.clone(), installs).map_err(Problem::internal)?;
        let partitions = start_partitions(&config, &env, &log, &mesh, &snapshots).await?;
        let reader = LogReader::new(partitions.values());
        let tree = TreeView::new(kv.clone());
        let wiring = Wiring {
            config,
            env,
            log,
            mesh,
            content,
            partitions,
            reader,
            snapshots,
            tree,
        };
        wiring.finish(kv, views, queues, notices).await
    }

    /// Stops groups and log in order: what is acknowledged is durable before and after.
    pub async fn stop(&self) {
        for partition in self.parts.partitions.values() {
            partition.stop().await;
        }
        let _poisoned = self.parts.log.close().await.is_err();
    }

    /// The name of a member.
    pub fn name_of(&self, node: NodeId) -> String {
        let member = self.parts.config.genesis.member(node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    }
}

/// The parts that are there before views, mirror and outbox start.
struct Wiring<E: Env> {
    config: NodeConfig,
    env: E,
    log: SegmentLog<E>,
    mesh: Mesh<E>,
    content: NodeContent<E>,
    partitions: BTreeMap<PartitionId, Partition<E>>,
    reader: LogReader<E>,
    snapshots: Snapshots<E>,
    tree: TreeView<E::Kv>,
}

impl<E: Env> Wiring<E> {
    async fn finish(
        self,
        kv: E::Kv,
        views: BTreeMap<PartitionId, View<E::Kv>>,
        mut queues: BTreeMap<PartitionId, mpsc::Receiver<Install>>,
        notices: Watched<Vec<String>>,
    ) -> Result<Node<E>, Problem> {
        let cluster = self.config.genesis.cluster_id();
        let applied: BTreeMap<_, _> = views
            .iter()
            .map(|(p, view)| (*p, Watched::new(view.applied_index())))
            .collect();
        let (mirror, dirty) = self.start_mirror(&kv, &applied).await?;
        let collaborator = collaborator::NodeCollaborator {
            env: self.env.clone(),
            me: self.config.me,
            copies: self.config.genesis.min_copies as usize,
            mesh: self.mesh.clone(),
            content: self.content.clone(),
            partitions: self.partitions.clone(),
            tree: self.tree.clone(),
            control: applied
                .get(&PartitionId::CONTROL)
                .cloned()
                .unwrap_or_else(|| Watched::new(None)),
        };
        let outbox = Outbox::start(OutboxOptions {
            env: self.env.clone(),
            log: self.log.clone(),
            cluster,
            me: self.config.me,
            key: Arc::clone(&self.config.key),
            collaborator: Arc::new(collaborator),
        });
        let outbox = outbox.map_err(|problem| storage(&problem))?;
        for (partition, view) in views {
            let listener = index::NodeListener {
                env: self.env.clone(),
                me: self.config.me,
                log: self.log.clone(),
                outbox: outbox.clone(),
                partition: self.partitions.get(&partition).cloned(),
                mirror: mirror.clone(),
            };
            let installs = queues
                .remove(&partition)
                .ok_or_else(|| Problem::internal("a queue twice"))?;
            let replay = Replay::new(ReplayOptions {
                env: self.env.clone(),
                cluster,
                view,
                kv: kv.clone(),
                judge: Judge::new(&self.config.genesis),
                reader: self.reader.clone(),
                chunks: self.content.clone(),
                ahead: Some(ahead_of(&self.content)),
                maker: Some(Maker {
                    store: self.content.store().clone(),
                    snapshots: self.snapshots.clone(),
                    every: self.config.options.snapshot_every,
                }),
                applied: applied.clone(),
                dirty: dirty.clone(),
                installs,
                listener: Arc::new(listener),
            });
            self.env.runtime().spawn("replay", replay.run());
        }
        let handler = handler::NodeHandler {
            me: self.config.me,
            partitions: self.partitions.clone(),
            content: self.content.clone(),
            control: applied
                .get(&PartitionId::CONTROL)
                .cloned()
                .unwrap_or_else(|| Watched::new(None)),
            applied: applied.clone(),
            judge: std::sync::Mutex::new(Judge::new(&self.config.genesis)),
            mirror: mirror.as_ref().map(|mirror| mirror.status.clone()),
        };
        self.mesh.start(Arc::new(handler));
        let Self {
            config,
            env,
            log,
            mesh,
            content,
            partitions,
            reader,
            snapshots,
            tree,
        } = self;
        let parts = Parts {
            env,
            config,
            cluster,
            log,
            mesh,
            content,
            partitions,
            reader,
            snapshots,
            tree,
            applied,
            outbox,
            mirror,
            notices,
        };
        Ok(Node {
            parts: Arc::new(parts),
        })
    }

    async fn start_mirror(
        &self,
        kv: &E::Kv,
        applied: &BTreeMap<PartitionId, Watched<Option<u64>>>,
    ) -> Result<(Option<MirrorHandle>, Option<mpsc::Sender<Dirty>>), Problem> {
        let Some((path, options)) = self.config.options.mirror.clone() else {
            return Ok((None, None));
        };
        let unusable = |why: String| {
            Problem::new(Reason::MirrorUnusable)
                .with("path", path.display())
                .with("detail", why)
        };
        let disk = self
            .env
            .open_folder(&path)
            .map_err(|error| unusable(error.to_string()))?;
        let (dirty, inputs) = mpsc::channel(DIRTY_QUEUE);
        let parts = MirrorParts {
            env: self.env.clone(),
            disk,
            kv: kv.clone(),
            tree: self.tree.clone(),
            chunks: self.content.clone(),
            options,
            ready: self.caught_up(applied),
        };
        let mirror = Mirror::start(parts, inputs).await;
        let mirror = mirror.map_err(|problem| unusable(problem.to_string()))?;
        Ok((Some(mirror), Some(dirty)))
    }
}

impl<E: Env> Wiring<E> {
    /// Done once the views have what the log is known to have committed and, for a while, what
    /// else it holds: most of that is committed as soon as somebody leads.
    fn caught_up(&self, applied: &BTreeMap<PartitionId, Watched<Option<u64>>>) -> Ready {
        let waits = applied.iter().map(|(partition, applied)| {
            let state = self.log.state(*partition);
            let index_of = |id: Option<LogId>| id.map(|id| id.index);
            (
                applied.clone(),
                index_of(state.committed),
                index_of(state.last),
            )
        });
        let waits: Vec<_> = waits.collect();
        let runtime = self.env.runtime().clone();
        Box::pin(async move {
            for (mut applied, committed, _) in waits.clone() {
                applied.until(|index| *index >= committed).await;
            }
            let rest = async move {
                for (mut applied, _, last) in waits {
                    applied.until(|index| *index >= last).await;
                }
            };
            // Without a leader the directory is looked at as it is.
            let _alone = runtime.timeout(LEADER_PATIENCE, rest).await.is_none();
        })
    }
}

fn ahead_of<E: Env>(content: &NodeContent<E>) -> Ahead {
    let content = content.clone();
    // A store that failed stops the node by itself; a chunk that is not fetched ahead is fetched
    // when it is read.
    Arc::new(move |chunks| drop(content.want(chunks)))
}

fn storage(problem: &impl std::fmt::Display) -> Problem {
    Problem::new(Reason::StorageFailed).with("detail", problem)
}

type Installs = BTreeMap<PartitionId, mpsc::Sender<Install>>;
type InstallQueues = BTreeMap<PartitionId, mpsc::Receiver<Install>>;

fn install_queues(genesis: &Genesis) -> (Installs, InstallQueues) {
    let (mut installs, mut queues) = (BTreeMap::new(), BTreeMap::new());
    for partition in genesis.partition_ids() {
        let (sender, receiver) = mpsc::channel(1);
        installs.insert(partition, sender);
        queues.insert(partition, receiver);
    }
    (installs, queues)
}

async fn start_partitions<E: Env>(
    config: &NodeConfig,
    env: &E,
    log: &SegmentLog<E>,
    mesh: &Mesh<E>,
    snapshots: &Snapshots<E>,
) -> Result<BTreeMap<PartitionId, Partition<E>>, Problem> {
    let members = || {
        config
            .genesis
            .members
            .iter()
            .map(|m| (m.node, m.address.clone()))
    };
    let is_voter = |node: &NodeId| config.genesis.voters.contains(node);
    let mut partitions = BTreeMap::new();
    for partition in config.genesis.partition_ids() {
        let started = Partition::start(PartitionOptions {
            env: env.clone(),
            me: config.me,
            partition,
            voters: members().filter(|(node, _)| is_voter(node)).collect(),
            learners: members().filter(|(node, _)| !is_voter(node)).collect(),
            timing: config.options.timing,
            snapshot_every: config.options.snapshot_every,
            log: log.clone(),
            mesh: mesh.clone(),
            snapshots: Arc::new(snapshots.clone()),
        });
        partitions.insert(partition, started.await.map_err(|why| storage(&why))?);
    }
    Ok(partitions)
}
