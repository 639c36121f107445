//! Who gets a vote, and when: groups of the simulated world whose replays do as they are told.

use aber_log::mesh::{Answer, Handler, Mesh, Method};
use aber_log::partition::{Council, Partition, PartitionOptions, Timing};
use aber_log::reader::{ReadProblem, SnapshotManifest, SnapshotSource};
use aber_log::segment::{LogIdentity, SegmentLog, SegmentOptions};
use aber_proto::generated::rpc;
use aber_proto::{ClusterId, Head, NodeId, PartitionId, SecretKey, SignedHead};
use aber_tests::sim::cluster::{Boot, Cluster, Subject};
use aber_tests::sim::fault::Swarm;
use aber_tests::sim::run::{self, RunOptions, Tally};
use aber_tests::sim::{SimEnv, World};
use bytes::Bytes;
use prost::Message;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([3; 32]);
const P: PartitionId = PartitionId(2);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const FOUNDER: NodeId = NodeId(1);
/// A learner that has applied all but one fewer is as good as there (`log/src/partition/votes.rs`).
const CAUGHT_UP: u64 = 64;
const CHANGES: u64 = 200;

/// All three should vote.
struct Elders {
    me: NodeId,
}

fn key(node: NodeId) -> SecretKey {
    let seed = blake3::derive_key("aber tests key of an elder", &node.0.to_le_bytes());
    SecretKey::from_seed(&seed).expect("a seed of 32 bytes")
}

impl Council for Elders {
    fn may_vote(&self, node: NodeId) -> bool {
        NODES.contains(&node)
    }

    fn voters(&self, _: &[NodeId]) -> Vec<NodeId> {
        NODES.to_vec()
    }

    fn sign(&self, head: Head) -> SignedHead {
        head.sign(&CLUSTER, self.me, &key(self.me))
    }

    fn is_good(&self, head: &SignedHead) -> bool {
        head.verify(&CLUSTER, &key(head.signer).public()).is_ok()
    }

    fn parents(&self, _: NodeId) -> Vec<NodeId> {
        Vec::new()
    }
}

struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn newest(&self, _: PartitionId) -> Option<SnapshotManifest> {
        None
    }

    fn install(
        &self,
        _: SnapshotManifest,
    ) -> Pin<Box<dyn Future<Output = Result<(), ReadProblem>> + Send>> {
        Box::pin(async { Err(ReadProblem::Closed("there are none".to_owned())) })
    }
}

/// One node's part of the group, and a replay that is as far as the test says.
#[derive(Clone)]
struct Member {
    partition: Partition<SimEnv>,
    applied: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Handler for Member {
    fn receive(&self, from: NodeId, method: Method, payload: Bytes) -> Answer {
        if method != Method::Status {
            return Box::pin(self.partition.clone().answer(from, method, payload));
        }
        self.asked.fetch_add(1, SeqCst);
        let position = |partition: PartitionId, applied| rpc::PartitionPosition {
            partition: partition.0,
            committed: applied,
            applied,
            mirrored: 0,
        };
        // What it says of another partition counts for nothing.
        let other = position(PartitionId::CONTROL, u64::MAX);
        let answer = rpc::StatusResponse {
            positions: vec![other, position(P, self.applied.load(SeqCst))],
            ..rpc::StatusResponse::default()
        };
        Box::pin(async move { Ok(answer.encode_to_vec().into()) })
    }
}

struct Group;

impl Subject for Group {
    type Handle = Member;

    async fn start(&self, env: SimEnv, boot: Boot) -> Result<Member, String> {
        let me = boot.node;
        let identity = LogIdentity {
            cluster: CLUSTER,
            node: me,
        };
        let options = SegmentOptions {
            segment_bytes: 256 * 1024,
            batch_bytes: 16 * 1024,
        };
        let log = SegmentLog::open(env.clone(), identity, options).await;
        let others: Vec<_> = NODES.into_iter().filter(|node| *node != me).collect();
        let mesh = Mesh::new(env.clone(), &others);
        let started = Partition::start(PartitionOptions {
            env: env.clone(),
            me,
            partition: P,
            founders: [FOUNDER].into(),
            timing: Timing::LAN,
            snapshot_every: 10_000,
            log: log.map_err(|problem| problem.to_string())?,
            mesh: mesh.clone(),
            snapshots: Arc::new(NoSnapshots),
            council: Arc::new(Elders { me }),
        });
        let member = Member {
            partition: started.await?,
            applied: Arc::default(),
            asked: Arc::default(),
        };
        mesh.answer(Arc::new(member.clone()));
        mesh.dial();
        Ok(member)
    }
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn member(cluster: &Cluster<Group>, node: NodeId) -> Member {
    cluster.handle(node).expect("it runs").1
}

/// Three nodes whose log is the same, one of which votes; the index of the last committed entry.
async fn group(world: &World) -> (Cluster<Group>, u64) {
    let cluster = Cluster::new(world, Group);
    for node in NODES {
        cluster.add(node, Bytes::new());
        cluster.boot(node);
    }
    sleep(10).await;
    let proposed = cluster.call(FOUNDER, |member| async move {
        let changes = (0..CHANGES).map(|number| Bytes::from(number.to_string()));
        for answer in member.partition.propose(changes.collect(), 0) {
            answer.await.expect("it runs").expect("it leads");
        }
    });
    proposed.await.expect("it runs");
    sleep(10).await;
    let committed = member(&cluster, FOUNDER).partition.committed().get();
    let committed = committed.expect("all of them").index;
    assert!(committed > CHANGES);
    for node in NODES {
        let there = member(&cluster, node).partition.committed().get();
        assert_eq!(there.map(|id| id.index), Some(committed), "node {node}");
    }
    (cluster, committed)
}

/// A7: a node whose log is there and whose replay is not has no vote; it gets one soon after its
/// replay is there.
#[test]
fn a7_nobody_votes_before_its_replay_is_there() {
    let options = RunOptions {
        seed: 1,
        scenario: "votes".to_owned(),
        node_count: 3,
        trace_file: None,
        planted: None,
    };
    let report = run::run_with(&options, Swarm::calm(3), |world, _| async move {
        let (cluster, committed) = group(&world).await;
        let voters = || member(&cluster, FOUNDER).partition.voters();
        let says = |node: NodeId, index: u64| {
            member(&cluster, node).applied.store(index, SeqCst);
        };
        assert_eq!(voters(), [FOUNDER], "no replay has begun");
        says(NodeId(2), committed);
        says(NodeId(3), committed - CAUGHT_UP);
        let asked = member(&cluster, NodeId(3)).asked.load(SeqCst);
        sleep(10).await;
        assert_eq!(voters(), [FOUNDER], "the replay of node 3 is behind");
        let asked = member(&cluster, NodeId(3)).asked.load(SeqCst) - asked;
        assert!((5..=10).contains(&asked), "asked {asked} times in 10 s");
        says(NodeId(3), committed - CAUGHT_UP + 1);
        sleep(2).await;
        assert_eq!(voters(), NODES);
        let before = member(&cluster, NodeId(2)).asked.load(SeqCst);
        sleep(10).await;
        let after = member(&cluster, NodeId(2)).asked.load(SeqCst);
        assert_eq!(before, after, "who votes is not asked");
        cluster.stop().await;
        Tally::default()
    });
    assert!(report.is_well(), "{:?}\n{}", report.failures, report.recent);
}
