//! One node: log, groups, content, views, mirror and outbox, wired together.
//!
//! [`Node::start`] is the same call in production and in the simulation; everything that touches
//! the world comes in through the [`Env`].

mod agreement;
mod collaborator;
pub(crate) mod control;
mod council;
pub(crate) mod door;
mod exposition;
pub(crate) mod finding;
mod handler;
mod heads;
mod index;
mod layout;
mod log_tree;
mod peers;
mod proposals;
mod roster;
mod service;
mod sighting;
mod upkeep;
mod wiring;

pub use service::NodeService;
pub use upkeep::SweepOptions;

use crate::reason::{Problem, Reason};
use aber_log::chunk::store::{PackStore, StoreOptions};
use aber_log::content::NodeContent;
use aber_log::env::network::Peer;
use aber_log::env::{Env, Kv};
use aber_log::history::History;
use aber_log::mesh::Mesh;
use aber_log::outbox::Outbox;
use aber_log::partition::{Beats, Bodies, LogReader, Partition, PartitionOptions, Timing};
use aber_log::segment::{LogIdentity, SegmentLog, SegmentOptions};
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_materializer::mirror::{MirrorHandle, MirrorOptions};
use aber_materializer::snapshots::{Install, Snapshots};
use aber_materializer::view::{TreeView, View};
use aber_proto::{ClusterId, Genesis, NodeId, PartitionId, SecretKey};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use wiring::Wiring;

/// Another member, by the word of whoever let this node in: believed until the control partition
/// tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contact {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its key and addresses.
    pub peer: Peer,
}

/// What a node is and how it behaves.
#[derive(Clone)]
pub struct NodeConfig {
    /// What the cluster started from.
    pub genesis: Genesis,
    /// This node's number in it.
    pub me: NodeId,
    /// Its key.
    pub key: Arc<SecretKey>,
    /// Other members by the word of whoever let this node in; empty for founders.
    pub contacts: Vec<Contact>,
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
    /// Entries between two views that nodes compare (promise M4): on all nodes the same.
    pub digest_every: u64,
    /// Where the mirror of `/` is, if this node has one, and how it behaves.
    pub mirror: Option<(PathBuf, MirrorOptions)>,
    /// When content that nothing reaches is swept.
    pub sweep: SweepOptions,
    /// What this node is called until the membership tells.
    pub name: String,
    /// Where other nodes reach this one, as `host:port`: what its row is set to and what is in the
    /// tickets made here. None: nothing is set.
    pub addresses: Vec<String>,
    /// Where its API is over TCP, as `PIN@HOST:PORT`, or why it is not open there; `None`: it is
    /// not meant to be. Only told on.
    pub api: Option<Result<String, String>>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            segment: SegmentOptions::default(),
            store: StoreOptions::default(),
            timing: Timing::LAN,
            snapshot_every: 4096,
            digest_every: aber_proto::limit::DIGEST_ENTRIES,
            mirror: None,
            sweep: SweepOptions::default(),
            name: String::new(),
            addresses: Vec::new(),
            api: None,
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
    /// Entries that a snapshot skipped, and damaged ones, from other nodes.
    pub history: History<E>,
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
    /// Who is a member, in which role: never behind what the control partition has applied.
    pub members: Watched<Arc<Members>>,
    /// Changes that wait here.
    pub outbox: Outbox,
    /// The mirror, where there is one.
    pub mirror: Option<MirrorHandle>,
    /// What is wrong with this node, as sentences; empty most of the time.
    pub(crate) findings: finding::Findings,
    /// What members have signed of the history.
    pub(crate) heads: heads::Heads<E>,
    /// What the other members said of themselves the last time.
    pub(crate) sightings: Watched<sighting::Sightings>,
    /// Held by whoever prunes and sweeps.
    pub(crate) upkeep: tokio::sync::Mutex<()>,
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
        let findings = Watched::new(Vec::new());
        let (kv, views) = index::open(&env, &log, &config.genesis, &findings).await?;
        let store = PackStore::open(env.clone(), kv.clone(), cluster, config.options.store);
        let store = store.map_err(|problem| storage(&problem))?;
        let members = members_of(&config.genesis, &views);
        let mesh = Mesh::new(env.clone(), &[]);
        peers::Peers {
            env: env.clone(),
            me: config.me,
            contacts: config.contacts.clone(),
            members: members.clone(),
            mesh: mesh.clone(),
        }
        .start();
        mesh.dial();
        let history = History::start(env.clone(), cluster, log.clone(), mesh.clone());
        let roster = Arc::new(roster::NodeRoster {
            key: Arc::clone(&config.key),
            cluster,
            members: members.clone(),
        });
        let content = NodeContent::start(env.clone(), config.me, store, mesh.clone(), roster);
        roster::mind_layout(&env, content.clone(), members.clone());
        let (installs, queues) = install_queues(&config.genesis);
        let snapshots = Snapshots::open(log.clone(), installs).map_err(Problem::internal)?;
        let council = Arc::new(council::NodeCouncil {
            me: config.me,
            key: Arc::clone(&config.key),
            cluster,
            contacts: config.contacts.clone(),
            members: members.clone(),
            trees: Mutex::default(),
        });
        let bodies = Bodies::new(Arc::new(content.clone()));
        let links = (mesh.clone(), council, bodies.clone());
        let started = start_partitions(&config, &env, &log, links, &snapshots).await;
        let partitions = started.map_err(|problem| match log.damage() {
            Some(damage) => index::log_problem(&damage.problem),
            None => problem,
        })?;
        let reader = LogReader::new(partitions.values());
        let tree = TreeView::new(kv.clone());
        let wiring = Wiring {
            config,
            cluster,
            env,
            kv,
            log,
            mesh,
            content,
            bodies,
            history,
            partitions,
            reader,
            snapshots,
            tree,
            members,
            findings,
            sightings: Watched::new(BTreeMap::new()),
        };
        wiring.finish(views, queues).await
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
        let members = self.parts.members.get();
        if let Some(member) = members.member(node) {
            return member.name.clone();
        }
        let config = &self.parts.config;
        let contact = config.contacts.iter().find(|contact| contact.node == node);
        match contact {
            Some(contact) => contact.name.clone(),
            None if node == config.me && !config.options.name.is_empty() => {
                config.options.name.clone()
            }
            None => node.to_string(),
        }
    }
}

pub(crate) fn storage(problem: &impl std::fmt::Display) -> Problem {
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

/// As of what is applied; set by the control partition's replay from then on.
fn members_of<K: Kv>(
    genesis: &Genesis,
    views: &BTreeMap<PartitionId, View<K>>,
) -> Watched<Arc<Members>> {
    let control = views.get(&PartitionId::CONTROL);
    let members = control.and_then(View::members).cloned();
    Watched::new(members.unwrap_or_else(|| Arc::new(Members::of_genesis(genesis))))
}

async fn start_partitions<E: Env>(
    config: &NodeConfig,
    env: &E,
    log: &SegmentLog<E>,
    (mesh, council, bodies): (Mesh<E>, Arc<council::NodeCouncil>, Bodies),
    snapshots: &Snapshots<E>,
) -> Result<BTreeMap<PartitionId, Partition<E>>, Problem> {
    let mut partitions = BTreeMap::new();
    let beats = Beats::new(env.clone(), mesh.clone());
    for partition in config.genesis.partition_ids() {
        let started = Partition::start(PartitionOptions {
            env: env.clone(),
            me: config.me,
            partition,
            founders: config.genesis.voters.iter().copied().collect(),
            timing: config.options.timing,
            snapshot_every: config.options.snapshot_every,
            log: log.clone(),
            mesh: mesh.clone(),
            beats: beats.clone(),
            snapshots: Arc::new(snapshots.clone()),
            council: Arc::clone(&council) as _,
            bodies: bodies.clone(),
        });
        partitions.insert(partition, started.await.map_err(|why| storage(&why))?);
    }
    Ok(partitions)
}
