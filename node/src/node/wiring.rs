//! [driver] The second half of a start: replays, mirror, outbox, links.
//!
//! The order matters. Replays start before the mirror, and the mirror only once every view shows
//! what was known to be committed when the log was opened: a mirror that looked at a tree still
//! being rebuilt would take all files for strangers. Links come before that wait, since a snapshot
//! may have to be fetched.

use super::{Node, NodeConfig, Parts, collaborator, handler, heads, index, storage, upkeep};
use crate::reason::{Problem, Reason};
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::mesh::Mesh;
use aber_log::outbox::{Outbox, OutboxOptions};
use aber_log::partition::{LogReader, Partition};
use aber_log::segment::SegmentLog;
use aber_log::watch::Watched;
use aber_materializer::judge::Judge;
use aber_materializer::mirror::{Dirty, Mirror, MirrorHandle, MirrorParts};
use aber_materializer::replay::{Ahead, DirtySender, Maker, Replay, ReplayOptions};
use aber_materializer::snapshots::{Install, Snapshots};
use aber_materializer::view::{TreeView, View};
use aber_proto::{ClusterId, PartitionId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Dirty sets that wait for the mirror at most.
const DIRTY_QUEUE: usize = 64;

/// How far each view is applied.
type Positions = BTreeMap<PartitionId, Watched<Option<u64>>>;

/// The parts that are there before views, mirror and outbox start.
pub(super) struct Wiring<E: Env> {
    pub(super) config: NodeConfig,
    pub(super) cluster: ClusterId,
    pub(super) env: E,
    pub(super) kv: E::Kv,
    pub(super) log: SegmentLog<E>,
    pub(super) mesh: Mesh<E>,
    pub(super) content: NodeContent<E>,
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) reader: LogReader<E>,
    pub(super) snapshots: Snapshots<E>,
    pub(super) tree: TreeView<E::Kv>,
    pub(super) notices: Watched<Vec<String>>,
    /// What was committed when the log was opened.
    pub(super) committed: BTreeMap<PartitionId, u64>,
}

impl<E: Env> Wiring<E> {
    pub(super) async fn finish(
        self,
        views: BTreeMap<PartitionId, View<E::Kv>>,
        queues: BTreeMap<PartitionId, mpsc::Receiver<Install>>,
    ) -> Result<Node<E>, Problem> {
        let applied: Positions = views
            .iter()
            .map(|(p, view)| (*p, Watched::new(view.applied_index())))
            .collect();
        let outbox = self.start_outbox(&applied)?;
        let (sender, inputs) = mpsc::channel(DIRTY_QUEUE);
        let dirty = DirtySender {
            sender,
            is_open: Arc::new(AtomicBool::new(false)),
        };
        let shown = Arc::new(OnceLock::new());
        self.start_replays(views, queues, &applied, &dirty, (&outbox, &shown))?;
        self.start_links(&applied, &shown);
        for (partition, wanted) in &self.committed {
            if let Some(applied) = applied.get(partition) {
                let mut applied = applied.clone();
                applied
                    .until(|index| index.is_some_and(|index| index >= *wanted))
                    .await;
            }
        }
        let mirror = self.start_mirror(inputs, &dirty, &applied).await?;
        if let Some(mirror) = &mirror {
            // Nobody else sets it.
            let _first = shown.set(mirror.clone()).is_ok();
        }
        let parts = Arc::new(self.parts(applied, outbox, mirror));
        let runtime = parts.env.runtime();
        runtime.spawn("sweep", upkeep::sweep_all(Arc::clone(&parts)));
        Ok(Node { parts })
    }

    fn parts(self, applied: Positions, outbox: Outbox, mirror: Option<MirrorHandle>) -> Parts<E> {
        Parts {
            env: self.env,
            config: self.config,
            cluster: self.cluster,
            log: self.log,
            mesh: self.mesh,
            content: self.content,
            partitions: self.partitions,
            reader: self.reader,
            snapshots: self.snapshots,
            tree: self.tree,
            applied,
            outbox,
            mirror,
            notices: self.notices,
        }
    }

    fn start_outbox(&self, applied: &Positions) -> Result<Outbox, Problem> {
        let collaborator = collaborator::NodeCollaborator {
            env: self.env.clone(),
            me: self.config.me,
            copies: self.config.genesis.min_copies as usize,
            mesh: self.mesh.clone(),
            content: self.content.clone(),
            partitions: self.partitions.clone(),
            tree: self.tree.clone(),
            control: control(applied),
        };
        let outbox = Outbox::start(OutboxOptions {
            env: self.env.clone(),
            log: self.log.clone(),
            cluster: self.cluster,
            me: self.config.me,
            key: Arc::clone(&self.config.key),
            collaborator: Arc::new(collaborator),
        });
        outbox.map_err(|problem| storage(&problem))
    }

    fn start_replays(
        &self,
        views: BTreeMap<PartitionId, View<E::Kv>>,
        mut queues: BTreeMap<PartitionId, mpsc::Receiver<Install>>,
        applied: &Positions,
        dirty: &DirtySender,
        (outbox, mirror): (&Outbox, &Arc<OnceLock<MirrorHandle>>),
    ) -> Result<(), Problem> {
        let has_mirror = self.config.options.mirror.is_some();
        for (partition, view) in views {
            let listener = index::NodeListener {
                env: self.env.clone(),
                me: self.config.me,
                log: self.log.clone(),
                outbox: outbox.clone(),
                partition: self.partitions.get(&partition).cloned(),
                mirror: Arc::clone(mirror),
            };
            let installs = queues.remove(&partition);
            let installs = installs.ok_or_else(|| Problem::internal("two views of a partition"))?;
            let replay = Replay::new(ReplayOptions {
                env: self.env.clone(),
                cluster: self.cluster,
                view,
                kv: self.kv.clone(),
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
                dirty: has_mirror.then(|| dirty.clone()),
                installs,
                listener: Arc::new(listener),
            });
            self.env.runtime().spawn("replay", replay.run());
        }
        Ok(())
    }

    fn start_links(&self, applied: &Positions, mirror: &Arc<OnceLock<MirrorHandle>>) {
        let heads = heads::Heads {
            env: self.env.clone(),
            me: self.config.me,
            key: Arc::clone(&self.config.key),
            cluster: self.cluster,
            genesis: Arc::new(self.config.genesis.clone()),
            log: self.log.clone(),
            mesh: self.mesh.clone(),
            partitions: self.partitions.clone(),
            notices: self.notices.clone(),
        };
        self.env.runtime().spawn("heads", heads.clone().run());
        let handler = handler::NodeHandler {
            partitions: self.partitions.clone(),
            content: self.content.clone(),
            control: control(applied),
            applied: applied.clone(),
            judge: std::sync::Mutex::new(Judge::new(&self.config.genesis)),
            mirror: Arc::clone(mirror),
            heads,
        };
        self.mesh.start(Arc::new(handler));
    }

    async fn start_mirror(
        &self,
        inputs: mpsc::Receiver<Dirty>,
        dirty: &DirtySender,
        applied: &Positions,
    ) -> Result<Option<MirrorHandle>, Problem> {
        let Some((path, options)) = self.config.options.mirror.clone() else {
            return Ok(None);
        };
        let unusable = |why: String| {
            Problem::new(Reason::MirrorUnusable)
                .with("dir", path.display())
                .with("detail", why)
        };
        let disk = self.env.open_folder(&path);
        let parts = MirrorParts {
            env: self.env.clone(),
            disk: disk.map_err(|error| unusable(error.to_string()))?,
            kv: self.kv.clone(),
            tree: self.tree.clone(),
            chunks: self.content.clone(),
            options,
        };
        dirty.is_open.store(true, SeqCst);
        let mirror =
            Mirror::start(parts, inputs).map_err(|problem| unusable(problem.to_string()))?;
        // Its first scan covers everything applied before it.
        for (partition, at) in applied {
            if let Some(index) = at.get() {
                let (partition, ids) = (*partition, Vec::new());
                let covered = Dirty {
                    partition,
                    index,
                    ids,
                };
                let _stopping = dirty.sender.send(covered).await.is_err();
            }
        }
        Ok(Some(mirror))
    }
}

fn control(applied: &Positions) -> Watched<Option<u64>> {
    let control = applied.get(&PartitionId::CONTROL).cloned();
    control.unwrap_or_else(|| Watched::new(None))
}

fn ahead_of<E: Env>(content: &NodeContent<E>) -> Ahead {
    let content = content.clone();
    // A store that failed stops the node by itself; a chunk that is not fetched ahead is fetched
    // when it is read.
    Arc::new(move |chunks| drop(content.want(chunks)))
}
