//! [driver] A materializer of its own: follows any node's log over gRPC into a directory.
//!
//! It trusts nothing it did not check: entries by their chain and signatures, chunks by their
//! hashes. Its index lies in the directory's own `.aber/state`, and may be deleted at any time.

use crate::client::Client;
use crate::env::runtime::SystemRuntime;
use crate::env::{SystemEnv, SystemOptions};
use crate::reason::{Problem, Reason};
use aber_log::env::{Env, Runtime};
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_materializer::mirror::{Dirty, Mirror, MirrorHandle, MirrorOptions, MirrorParts, Ready};
use aber_materializer::replay::{AppliedBatch, Boxed, Failure, Listener, Replay, ReplayOptions};
use aber_materializer::view::{TreeView, View};
use aber_proto::generated::v1;
use aber_proto::{ClusterId, Genesis, PartitionId, codec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::mpsc;

const DIRTY_QUEUE: usize = 64;
/// Between looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What `aber materialize` was told.
#[derive(Clone, Debug)]
pub struct MaterializeOptions {
    /// The node to follow; it is the reader and the chunk store.
    pub from: Client,
    /// The directory that becomes a mirror.
    pub into: PathBuf,
    /// Stop once everything committed at the start is shown.
    pub once: bool,
}

/// What a materializer has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Materialized {
    /// Entries folded.
    pub entries: u64,
    /// Files in the directory.
    pub files: u64,
}

/// Counts entries; an index that fails is said and left for the next run.
struct Told {
    entries: AtomicU64,
    failure: Watched<Option<String>>,
}

impl Listener for Told {
    fn applied(&self, batch: AppliedBatch) -> Boxed {
        self.entries.fetch_add(batch.entries.len() as u64, SeqCst);
        Box::pin(async {})
    }

    fn snapshot_made(&self) -> Boxed {
        Box::pin(async {})
    }

    fn snapshot_installed(&self) -> Boxed {
        Box::pin(async {})
    }

    fn failed(&self, why: Failure) -> Boxed {
        let (Failure::Index(why) | Failure::Log(why)) = why;
        self.failure.set(Some(why));
        Box::pin(async {})
    }
}

/// Replays a node's log into a directory; for ever, or until it has caught up.
///
/// # Errors
/// The directory cannot be written, the node cannot be followed, or what it sent does not verify.
pub async fn materialize(options: MaterializeOptions) -> Result<Materialized, Problem> {
    let runtime = SystemRuntime::new();
    let life = Arc::clone(runtime.life());
    life.spawn(run(options, runtime))
        .await
        .map_err(Problem::internal)?
}

fn unusable(path: &Path, detail: impl std::fmt::Display) -> Problem {
    Problem::new(Reason::MirrorUnusable)
        .with("dir", path.display())
        .with("detail", detail)
}

/// The cluster and its members, as the followed node tells them.
struct Cluster {
    id: ClusterId,
    genesis: Arc<Genesis>,
    wanted: BTreeMap<PartitionId, u64>,
}

async fn cluster_of(client: &Client) -> Result<Cluster, Problem> {
    let status = client.get_status(v1::GetStatusRequest {}).await?;
    let id = data_encoding::HEXLOWER
        .decode(status.cluster_id.as_bytes())
        .unwrap_or_default();
    let id = ClusterId(
        id.try_into()
            .map_err(|_| Problem::internal("a damaged cluster id"))?,
    );
    let members = client
        .list_members(v1::ListMembersRequest::default())
        .await?;
    // The id is the genesis' hash: members and keys are those the cluster was made with.
    let genesis = codec::decode_genesis(&members.genesis).map_err(Problem::internal)?;
    if genesis.cluster_id() != id {
        return Err(Problem::internal(
            "the node's genesis is not that of its cluster",
        ));
    }
    let partitions = client
        .list_partitions(v1::ListPartitionsRequest::default())
        .await?;
    let wanted = partitions
        .partitions
        .iter()
        .map(|p| (PartitionId(p.id), p.committed_index))
        .collect();
    let genesis = Arc::new(genesis);
    Ok(Cluster {
        id,
        genesis,
        wanted,
    })
}

async fn run(options: MaterializeOptions, runtime: SystemRuntime) -> Result<Materialized, Problem> {
    let cluster = cluster_of(&options.from).await?;
    let into = &options.into;
    let state = into.join(".aber").join("state");
    let env = SystemEnv::open(SystemOptions {
        data: state,
        runtime,
    });
    let env = env.map_err(|problem| unusable(into, problem))?;
    env.data()
        .claim_for(cluster.id)
        .map_err(|problem| unusable(into, problem))?;
    let (kv, views) = open_views(&env, &cluster).map_err(|why| unusable(into, why))?;
    let applied: BTreeMap<_, _> = views
        .iter()
        .map(|(p, view)| (*p, Watched::new(view.applied_index())))
        .collect();
    let (dirty, inputs) = mpsc::channel(DIRTY_QUEUE);
    let disk = env
        .open_folder(into)
        .map_err(|error| unusable(into, error))?;
    let tree = TreeView::new(kv.clone());
    let marker = format!("cluster {}\nmaterialized\n", cluster.id);
    let mirror_options = MirrorOptions {
        marker,
        ..MirrorOptions::default()
    };
    let chunks = options.from.clone();
    let parts = MirrorParts {
        env: env.clone(),
        disk,
        kv: kv.clone(),
        tree: tree.clone(),
        chunks,
        options: mirror_options,
        ready: caught_up(&applied, &cluster.wanted),
    };
    let mirror = Mirror::start(parts, inputs).await;
    let mirror = mirror.map_err(|problem| unusable(into, problem))?;
    let told = Arc::new(Told {
        entries: AtomicU64::new(0),
        failure: Watched::new(None),
    });
    let installs = start_replays(
        &env,
        &cluster,
        (kv, views),
        &applied,
        &dirty,
        &options.from,
        &told,
    );
    let outcome = follow(&env, &options, &cluster, &mirror, &told).await;
    drop(installs);
    outcome?;
    let mut files = 0;
    for partition in cluster.wanted.keys() {
        let found = tree.applied(*partition).map_err(Problem::internal)?;
        files += found.map_or(0, |applied| applied.files);
    }
    Ok(Materialized {
        entries: told.entries.load(SeqCst),
        files,
    })
}

/// Done once the views are where the node's log was when this began.
fn caught_up(
    applied: &BTreeMap<PartitionId, Watched<Option<u64>>>,
    wanted: &BTreeMap<PartitionId, u64>,
) -> Ready {
    let waits: Vec<_> = applied
        .iter()
        .map(|(partition, applied)| {
            let wanted = wanted.get(partition).copied().unwrap_or(0);
            (applied.clone(), wanted)
        })
        .collect();
    Box::pin(async move {
        for (mut applied, wanted) in waits {
            applied.until(|index| index.unwrap_or(0) >= wanted).await;
        }
    })
}

type SystemKv = <SystemEnv as Env>::Kv;
type Views = BTreeMap<PartitionId, View<SystemKv>>;
type Installs = Vec<mpsc::Sender<aber_materializer::snapshots::Install>>;

fn open_views(env: &SystemEnv, cluster: &Cluster) -> Result<(SystemKv, Views), String> {
    let attempt = || {
        let kv = env.open_index().map_err(|problem| problem.to_string())?;
        let mut views = BTreeMap::new();
        for partition in cluster.wanted.keys() {
            let view = View::open(kv.clone(), *partition, &cluster.genesis);
            views.insert(*partition, view.map_err(|problem| problem.to_string())?);
        }
        Ok::<_, String>((kv, views))
    };
    attempt().or_else(|_| {
        env.discard_index().map_err(|error| error.to_string())?;
        attempt()
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call site; a struct would only rename them"
)]
fn start_replays(
    env: &SystemEnv,
    cluster: &Cluster,
    (kv, views): (SystemKv, Views),
    applied: &BTreeMap<PartitionId, Watched<Option<u64>>>,
    dirty: &mpsc::Sender<Dirty>,
    client: &Client,
    told: &Arc<Told>,
) -> Installs {
    let control = views.get(&PartitionId::CONTROL).and_then(View::members);
    let founders = || Arc::new(Members::of_genesis(&cluster.genesis));
    let members = Watched::new(control.cloned().unwrap_or_else(founders));
    let mut senders = Vec::new();
    for view in views.into_values() {
        let (sender, installs) = mpsc::channel(1);
        senders.push(sender);
        let replay = Replay::new(ReplayOptions {
            env: env.clone(),
            genesis: Arc::clone(&cluster.genesis),
            view,
            kv: kv.clone(),
            members: members.clone(),
            reader: client.clone(),
            chunks: client.clone(),
            tells_history: false,
            ahead: None,
            maker: None,
            applied: applied.clone(),
            dirty: Some(dirty.clone()),
            installs,
            listener: Arc::clone(told) as Arc<dyn Listener>,
        });
        env.runtime().spawn("replay", replay.run());
    }
    senders
}

/// Waits until it is told to end, or has shown what was committed at the start.
async fn follow(
    env: &SystemEnv,
    options: &MaterializeOptions,
    cluster: &Cluster,
    mirror: &MirrorHandle,
    told: &Told,
) -> Result<(), Problem> {
    loop {
        if let Some(why) = told.failure.get() {
            return Err(unusable(&options.into, why));
        }
        let status = mirror.status.get();
        if let Some(problem) = status.problem.filter(|_| options.once) {
            return Err(unusable(&options.into, problem));
        }
        let shown = |(partition, wanted): (&PartitionId, &u64)| {
            status.positions.get(partition).copied().unwrap_or(0) >= *wanted
        };
        if options.once && status.waiting_count == 0 && cluster.wanted.iter().all(shown) {
            return Ok(());
        }
        let stopped = env
            .runtime()
            .timeout(LOOK_EVERY, tokio::signal::ctrl_c())
            .await;
        if stopped.is_some() {
            return Ok(());
        }
    }
}
