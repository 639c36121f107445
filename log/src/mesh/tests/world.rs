//! Nodes that are only meshes, with links in memory that take no time.

use crate::chunk::testing::{self, TestDisk, TestKv, TestRuntime};
use crate::env::kv::KvProblem;
use crate::env::network::{LinkClass, LinkProblem, Peer};
use crate::env::{Env, Link, Network};
use crate::mesh::{Answer, Handler, Mesh, Method};
use crate::watch::Watched;
use aber_proto::NodeId;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// Frames that a link holds.
const QUEUE_FRAMES: usize = 8;

/// Runs a test on a paused clock.
pub(super) fn run(test: impl Future<Output = ()> + Send + 'static) {
    testing::run(|_| test);
}

#[derive(Default)]
struct Hub {
    arrivals: BTreeMap<NodeId, mpsc::UnboundedSender<MemLink>>,
    dials: usize,
}

/// One node's world.
#[derive(Clone)]
pub(super) struct MemEnv {
    world: testing::TestEnv,
    network: MemNetwork,
}

#[derive(Clone)]
pub(super) struct MemNetwork {
    me: NodeId,
    hub: Arc<Mutex<Hub>>,
    /// Nodes that take nothing.
    stopped: Watched<BTreeSet<NodeId>>,
    arrived: Arc<AsyncMutex<mpsc::UnboundedReceiver<MemLink>>>,
}

pub(super) struct MemLink {
    remote: NodeId,
    class: LinkClass,
    stopped: Watched<BTreeSet<NodeId>>,
    outgoing: mpsc::Sender<Bytes>,
    incoming: AsyncMutex<mpsc::Receiver<Bytes>>,
}

impl MemEnv {
    pub(super) fn new(me: NodeId) -> Self {
        let world = testing::TestEnv::boot(TestDisk::default(), TestKv::default());
        let network = MemNetwork::new(me, Arc::default(), Watched::new(BTreeSet::new()));
        Self { world, network }
    }

    /// The world of another node on the same network.
    pub(super) fn of(&self, node: NodeId) -> Self {
        let (hub, stopped) = (&self.network.hub, &self.network.stopped);
        Self {
            world: self.world.clone(),
            network: MemNetwork::new(node, Arc::clone(hub), stopped.clone()),
        }
    }

    /// A mesh that dials and answers.
    pub(super) fn start(&self, peers: &[NodeId]) -> (Mesh<Self>, Arc<Recorder>) {
        let mesh = Mesh::new(self.clone(), peers);
        let recorder = Arc::new(Recorder::default());
        mesh.answer(Arc::clone(&recorder) as Arc<dyn Handler>);
        mesh.dial();
        (mesh, recorder)
    }

    /// From now on a node takes nothing, or does again.
    pub(super) fn stop(&self, node: NodeId, is_stopped: bool) {
        self.network.stopped.update(|stopped| match is_stopped {
            true => stopped.insert(node),
            false => stopped.remove(&node),
        });
    }

    /// Links dialled by anybody so far.
    pub(super) fn dials(&self) -> usize {
        self.network.hub.lock().unwrap().dials
    }
}

impl Env for MemEnv {
    type Runtime = TestRuntime;
    type Disk = TestDisk;
    type Network = MemNetwork;
    type Kv = TestKv;

    fn runtime(&self) -> &TestRuntime {
        self.world.runtime()
    }
    fn disk(&self) -> &TestDisk {
        self.world.disk()
    }
    fn open_folder(&self, path: &std::path::Path) -> io::Result<TestDisk> {
        self.world.open_folder(path)
    }
    fn network(&self) -> &MemNetwork {
        &self.network
    }
    fn open_index(&self) -> Result<TestKv, KvProblem> {
        self.world.open_index()
    }
    fn discard_index(&self) -> io::Result<()> {
        self.world.discard_index()
    }
}

impl MemNetwork {
    fn new(me: NodeId, hub: Arc<Mutex<Hub>>, stopped: Watched<BTreeSet<NodeId>>) -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        hub.lock().unwrap().arrivals.insert(me, sender);
        Self {
            me,
            hub,
            stopped,
            arrived: Arc::new(AsyncMutex::new(arrived)),
        }
    }
}

impl Network for MemNetwork {
    type Link = MemLink;

    async fn dial(&self, to: NodeId, class: LinkClass) -> Result<MemLink, LinkProblem> {
        let (there, incoming_there) = mpsc::channel(QUEUE_FRAMES);
        let (back, incoming_back) = mpsc::channel(QUEUE_FRAMES);
        let link = |remote, outgoing, incoming| MemLink {
            remote,
            class,
            stopped: self.stopped.clone(),
            outgoing,
            incoming: AsyncMutex::new(incoming),
        };
        let mut hub = self.hub.lock().unwrap();
        hub.dials += 1;
        let door = hub.arrivals.get(&to).ok_or(LinkProblem::Closed)?;
        let theirs = link(self.me, back, incoming_there);
        door.send(theirs).map_err(|_| LinkProblem::Closed)?;
        Ok(link(to, there, incoming_back))
    }

    fn set_peers(&self, _: BTreeMap<NodeId, Peer>) {}

    async fn accept(&self) -> Result<MemLink, LinkProblem> {
        let arrived = self.arrived.lock().await.recv().await;
        arrived.ok_or(LinkProblem::Closed)
    }
}

impl Link for MemLink {
    async fn send(&self, frame: Bytes) -> Result<(), LinkProblem> {
        let mut stopped = self.stopped.clone();
        let remote = self.remote;
        stopped.until(|stopped| !stopped.contains(&remote)).await;
        let sent = self.outgoing.send(frame).await;
        sent.map_err(|_| LinkProblem::Closed)
    }

    async fn receive(&self) -> Result<Bytes, LinkProblem> {
        let received = self.incoming.lock().await.recv().await;
        received.ok_or(LinkProblem::Closed)
    }

    fn remote(&self) -> NodeId {
        self.remote
    }

    fn class(&self) -> LinkClass {
        self.class
    }
}

/// Answers each request at once, one for chunks with as many bytes as it says, and remembers all.
#[derive(Default)]
pub(super) struct Recorder {
    taken: Mutex<Vec<(Method, usize)>>,
}

impl Recorder {
    pub(super) fn taken(&self) -> Vec<(Method, usize)> {
        self.taken.lock().unwrap().clone()
    }
}

impl Handler for Recorder {
    fn receive(&self, _: NodeId, method: Method, payload: Bytes) -> Answer {
        self.taken.lock().unwrap().push((method, payload.len()));
        let length = match method {
            Method::Chunks => std::str::from_utf8(&payload).unwrap().parse().unwrap(),
            _ => 2,
        };
        Box::pin(async move { Ok(BytesMut::zeroed(length).freeze()) })
    }
}
