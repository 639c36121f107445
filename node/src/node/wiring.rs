//! [driver] The second half of a start: replays, mirror, outbox, links.
//!
//! The mirror starts first and looks at its directory only once the views have caught up with the
//! log: a mirror that looked at a tree still being rebuilt would take all files for strangers.

use super::finding::Findings;
use super::sighting::Sightings;
use super::{Node, NodeConfig, Parts, collaborator, handler, heads, index, proposals};
use super::{storage, upkeep};
use crate::reason::{Problem, Reason};
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::history::History;
use aber_log::mesh::Mesh;
use aber_log::outbox::{Outbox, OutboxOptions};
use aber_log::partition::{Bodies, LogReader, Partition};
use aber_log::segment::SegmentLog;
use aber_log::watch::Watched;
use aber_materializer::judge::Judge;
use aber_materializer::members::Members;
use aber_materializer::mirror::{Dirty, Mirror, MirrorHandle, MirrorParts, Ready};
use aber_materializer::replay::{Ahead, Maker, Replay, ReplayOptions};
use aber_materializer::snapshots::{Install, Snapshots};
use aber_materializer::view::{TreeView, View};
use aber_proto::{ClusterId, LogId, PartitionId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Dirty sets that wait for the mirror at most.
const DIRTY_QUEUE: usize = 64;
/// How long a mirror waits for entries that are here and not known to be committed.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);

/// How far each view is applied.
pub(super) type Positions = BTreeMap<PartitionId, Watched<Option<u64>>>;
/// Who may do what, as the control partition's view says.
type SharedMembers = Watched<Arc<Members>>;

/// The parts that are there before views, mirror and outbox start.
pub(super) struct Wiring<E: Env> {
    pub(super) config: NodeConfig,
    pub(super) cluster: ClusterId,
    pub(super) env: E,
    pub(super) kv: E::Kv,
    pub(super) log: SegmentLog<E>,
    pub(super) mesh: Mesh<E>,
    pub(super) content: NodeContent<E>,
    pub(super) bodies: Bodies,
    pub(super) history: History<E>,
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) reader: LogReader<E>,
    pub(super) snapshots: Snapshots<E>,
    pub(super) tree: TreeView<E::Kv>,
    pub(super) members: SharedMembers,
    pub(super) findings: Findings,
    pub(super) sightings: Watched<Sightings>,
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
        let members = self.members.clone();
        let (mirror, dirty) = self.start_mirror(&applied).await?;
        let outbox = self.start_outbox(&applied)?;
        let shared = (&applied, &members);
        self.start_replays(views, queues, shared, dirty, (&outbox, &mirror))?;
        let heads = self.start_links(shared, &mirror);
        let parts = Arc::new(self.parts((applied, members), outbox, mirror, heads));
        let runtime = parts.env.runtime();
        runtime.spawn("sweep", upkeep::sweep_all(Arc::clone(&parts)));
        Ok(Node { parts })
    }

    fn parts(
        self,
        (applied, members): (Positions, SharedMembers),
        outbox: Outbox,
        mirror: Option<MirrorHandle>,
        heads: heads::Heads<E>,
    ) -> Parts<E> {
        Parts {
            env: self.env,
            config: self.config,
            cluster: self.cluster,
            log: self.log,
            mesh: self.mesh,
            content: self.content,
            history: self.history,
            partitions: self.partitions,
            reader: self.reader,
            snapshots: self.snapshots,
            tree: self.tree,
            applied,
            members,
            outbox,
            mirror,
            findings: self.findings,
            heads,
            sightings: self.sightings,
            upkeep: tokio::sync::Mutex::new(()),
        }
    }

    fn start_outbox(&self, applied: &Positions) -> Result<Outbox, Problem> {
        let collaborator = collaborator::NodeCollaborator {
            env: self.env.clone(),
            me: self.config.me,
            min_copies: self.config.genesis.min_copies,
            members: self.members.clone(),
            mesh: self.mesh.clone(),
            content: self.content.clone(),
            bodies: self.bodies.clone(),
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
        (applied, members): (&Positions, &SharedMembers),
        dirty: Option<mpsc::Sender<Dirty>>,
        (outbox, mirror): (&Outbox, &Option<MirrorHandle>),
    ) -> Result<(), Problem> {
        let genesis = Arc::new(self.config.genesis.clone());
        for (partition, mut view) in views {
            view.compare_every(self.config.options.digest_every);
            let listener = index::NodeListener {
                env: self.env.clone(),
                me: self.config.me,
                log: self.log.clone(),
                outbox: outbox.clone(),
                partition: self.partitions.get(&partition).cloned(),
                mirror: mirror.clone(),
            };
            let installs = queues.remove(&partition);
            let installs = installs.ok_or_else(|| Problem::internal("two views of a partition"))?;
            let replay = Replay::new(ReplayOptions {
                env: self.env.clone(),
                genesis: Arc::clone(&genesis),
                view,
                kv: self.kv.clone(),
                members: members.clone(),
                reader: self.reader.clone(),
                chunks: self.content.clone(),
                tells_history: true,
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
        Ok(())
    }

    fn start_links(
        &self,
        (applied, members): (&Positions, &SharedMembers),
        mirror: &Option<MirrorHandle>,
    ) -> heads::Heads<E> {
        let heads = heads::Heads {
            env: self.env.clone(),
            me: self.config.me,
            key: Arc::clone(&self.config.key),
            cluster: self.cluster,
            members: members.clone(),
            log: self.log.clone(),
            mesh: self.mesh.clone(),
            partitions: self.partitions.clone(),
            findings: self.findings.clone(),
            sightings: self.sightings.clone(),
            tree: self.tree.clone(),
            applied: applied.clone(),
            digest_every: self.config.options.digest_every,
        };
        self.env.runtime().spawn("heads", heads.clone().run());
        let proposals = proposals::Proposals {
            mesh: self.mesh.clone(),
            partitions: self.partitions.clone(),
            control: control(applied),
            members: members.clone(),
            judge: Arc::new(Mutex::new(Judge::new())),
        };
        let handler = handler::NodeHandler {
            partitions: self.partitions.clone(),
            content: self.content.clone(),
            history: self.history.clone(),
            applied: applied.clone(),
            mirror: mirror.clone(),
            heads: heads.clone(),
            proposals,
        };
        self.mesh.answer(Arc::new(handler));
        heads
    }

    async fn start_mirror(
        &self,
        applied: &Positions,
    ) -> Result<(Option<MirrorHandle>, Option<mpsc::Sender<Dirty>>), Problem> {
        let Some((path, options)) = self.config.options.mirror.clone() else {
            return Ok((None, None));
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
            ready: self.caught_up(applied),
        };
        let (dirty, inputs) = mpsc::channel(DIRTY_QUEUE);
        let mirror = Mirror::start(parts, inputs).await;
        let mirror = mirror.map_err(|problem| unusable(problem.to_string()))?;
        let watch = index::watch_mirror(self.env.clone(), self.log.clone(), mirror.clone());
        self.env.runtime().spawn("mirror watch", watch);
        Ok((Some(mirror), Some(dirty)))
    }

    /// Done once the views have what the log is known to have committed and, for a while, what
    /// else it holds: most of that is committed as soon as somebody leads.
    fn caught_up(&self, applied: &Positions) -> Ready {
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
