//! Groups of the simulated world, without the nodes around them: who gets a vote, and when, where
//! replays do as they are told; and what the groups of a node say together.

mod bodies;

use aber_log::mesh::{Answer, Handler, Mesh, Method};
use aber_log::partition::{Beats, Bodies, BodySource, Council, Partition, PartitionOptions};
use aber_log::partition::{Timing, answer_beats};
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
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
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

/// One node's part of the groups, and replays that are as far as the test says.
#[derive(Clone)]
struct Member {
    env: SimEnv,
    partitions: BTreeMap<PartitionId, Partition<SimEnv>>,
    applied: Arc<AtomicU64>,
    /// What it was asked, and how often.
    asked: Arc<Mutex<BTreeMap<Method, u64>>>,
    /// Bytes of appends that it was sent.
    append_bytes: Arc<AtomicU64>,
    /// Heartbeats of the first group find nobody.
    is_deaf: Arc<AtomicBool>,
    log: SegmentLog<SimEnv>,
    bodies: Bodies,
    shelf: Arc<bodies::Shelf>,
}

impl Member {
    fn first(&self) -> &Partition<SimEnv> {
        self.partitions.get(&P).expect("it is part of it")
    }

    fn asked(&self, method: Method) -> u64 {
        let asked = self.asked.lock().expect("nobody panicked");
        asked.get(&method).copied().unwrap_or(0)
    }
}

impl Handler for Member {
    fn receive(&self, from: NodeId, method: Method, payload: Bytes) -> Answer {
        let mut asked = self.asked.lock().expect("nobody panicked");
        *asked.entry(method).or_default() += 1;
        drop(asked);
        if method == Method::Append {
            let bytes = payload.len() as u64;
            self.append_bytes.fetch_add(bytes, SeqCst);
        }
        match method {
            Method::Body if self.shelf.gives() != bodies::Gives::Bodies => self.shelf.answer(),
            Method::Beat => {
                let mut partitions = self.partitions.clone();
                if self.is_deaf.load(SeqCst) {
                    partitions.remove(&P);
                }
                Box::pin(answer_beats(self.env.clone(), partitions, from, payload))
            }
            Method::Status => {
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
            _ => {
                // The first field of each is the partition.
                let head = rpc::VoteRequest::decode(payload.slice(..2)).expect("a Raft message");
                let partition = self.partitions.get(&PartitionId(head.partition)).cloned();
                let partition = partition.expect("there is one");
                Box::pin(partition.answer(from, method, payload))
            }
        }
    }
}

/// Nodes 1, 2 and 3 with these groups, in which these vote at first.
struct Groups {
    partitions: Vec<PartitionId>,
    founders: Vec<NodeId>,
}

impl Subject for Groups {
    type Handle = Member;

    async fn start(&self, env: SimEnv, boot: Boot) -> Result<Member, String> {
        let me = boot.node;
        let identity = LogIdentity {
            cluster: CLUSTER,
            node: me,
        };
        let options = SegmentOptions {
            segment_bytes: 4 << 20,
            batch_bytes: 1 << 20,
        };
        let log = SegmentLog::open(env.clone(), identity, options).await;
        let log = log.map_err(|problem| problem.to_string())?;
        let others: Vec<_> = NODES.into_iter().filter(|node| *node != me).collect();
        let mesh = Mesh::new(env.clone(), &others);
        let beats = Beats::new(env.clone(), mesh.clone());
        let shelf = Arc::new(bodies::Shelf::new(&env));
        let source: Arc<dyn BodySource> = Arc::clone(&shelf) as _;
        let bodies = Bodies::new(source);
        let mut partitions = BTreeMap::new();
        for partition in self.partitions.iter().copied() {
            let started = Partition::start(PartitionOptions {
                env: env.clone(),
                me,
                partition,
                founders: self.founders.iter().copied().collect(),
                timing: Timing::LAN,
                snapshot_every: 10_000,
                log: log.clone(),
                mesh: mesh.clone(),
                beats: beats.clone(),
                snapshots: Arc::new(NoSnapshots),
                council: Arc::new(Elders { me }),
                bodies: bodies.clone(),
            });
            partitions.insert(partition, started.await?);
        }
        let member = Member {
            env,
            partitions,
            applied: Arc::default(),
            asked: Arc::default(),
            append_bytes: Arc::default(),
            is_deaf: Arc::default(),
            log,
            bodies,
            shelf,
        };
        mesh.answer(Arc::new(member.clone()));
        mesh.dial();
        Ok(member)
    }
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn member(cluster: &Cluster<Groups>, node: NodeId) -> Member {
    cluster.handle(node).expect("it runs").1
}

async fn start(world: &World, groups: Groups) -> Cluster<Groups> {
    let cluster = Cluster::new(world, groups);
    for node in NODES {
        cluster.add(node, Bytes::new());
        cluster.boot(node);
    }
    sleep(10).await;
    cluster
}

fn run<F: Future<Output = ()>>(name: &str, body: impl FnOnce(World) -> F) {
    let options = RunOptions {
        seed: 1,
        scenario: name.to_owned(),
        node_count: 3,
        trace_file: None,
        planted: None,
    };
    let report = run::run_with(&options, Swarm::calm(3), |world, _| async move {
        body(world).await;
        Tally::default()
    });
    assert!(report.is_well(), "{:?}\n{}", report.failures, report.recent);
}

/// Three nodes whose log is the same, one of which votes; the index of the last committed entry.
async fn one_voter(world: &World) -> (Cluster<Groups>, u64) {
    let groups = Groups {
        partitions: vec![P],
        founders: vec![FOUNDER],
    };
    let cluster = start(world, groups).await;
    let proposed = cluster.call(FOUNDER, |member| async move {
        let changes = (0..CHANGES).map(|number| Bytes::from(number.to_string()));
        for answer in member.first().propose(changes.collect(), 0) {
            answer.await.expect("it runs").expect("it leads");
        }
    });
    proposed.await.expect("it runs");
    sleep(10).await;
    let committed = member(&cluster, FOUNDER).first().committed().get();
    let committed = committed.expect("all of them").index;
    assert!(committed > CHANGES);
    for node in NODES {
        let there = member(&cluster, node).first().committed().get();
        assert_eq!(there.map(|id| id.index), Some(committed), "node {node}");
    }
    (cluster, committed)
}

/// A7: a node whose log is there and whose replay is not has no vote; it gets one soon after its
/// replay is there.
#[test]
fn a7_nobody_votes_before_its_replay_is_there() {
    run("votes", |world| async move {
        let (cluster, committed) = one_voter(&world).await;
        let voters = || member(&cluster, FOUNDER).first().voters();
        let says = |node: NodeId, index: u64| {
            member(&cluster, node).applied.store(index, SeqCst);
        };
        let asked = |node: u64| member(&cluster, NodeId(node)).asked(Method::Status);
        assert_eq!(voters(), [FOUNDER], "no replay has begun");
        says(NodeId(2), committed);
        says(NodeId(3), committed - CAUGHT_UP);
        let before = asked(3);
        sleep(10).await;
        assert_eq!(voters(), [FOUNDER], "the replay of node 3 is behind");
        let times = asked(3) - before;
        assert!((5..=10).contains(&times), "asked {times} times in 10 s");
        says(NodeId(3), committed - CAUGHT_UP + 1);
        sleep(2).await;
        assert_eq!(voters(), NODES);
        let before = asked(2);
        sleep(10).await;
        assert_eq!(asked(2), before, "who votes is not asked");
        cluster.stop().await;
    });
}

/// A5: an idle leader says one thing a beat to each other voter, however many groups it leads; what
/// one group lacks is no trouble of the others.
#[test]
fn a5_groups_beat_together_and_fail_alone() {
    const BEATS: u64 = 4;
    run("beats", |world| async move {
        let groups = Groups {
            partitions: (2..8).map(PartitionId).collect(),
            founders: NODES.to_vec(),
        };
        let cluster = start(&world, groups).await;
        let terms = |node: NodeId| -> Vec<_> {
            let member = member(&cluster, node);
            let groups = member.partitions.values();
            groups.map(|group| (group.leader(), group.term())).collect()
        };
        let counts = |method: Method| NODES.map(|node| member(&cluster, node).asked(method));
        let before = (
            NODES.map(terms),
            counts(Method::Append),
            counts(Method::Beat),
        );
        sleep(60).await;
        assert_eq!(NODES.map(terms), before.0, "nobody else came to lead");
        assert_eq!(counts(Method::Append), before.1, "nothing was appended");
        let leaders: BTreeSet<_> = terms(FOUNDER)
            .into_iter()
            .map(|(leader, _)| leader)
            .collect();
        for ((node, now), then) in NODES.into_iter().zip(counts(Method::Beat)).zip(before.2) {
            let others = leaders
                .iter()
                .filter(|leader| **leader != Some(node))
                .count() as u64;
            let (beats, wanted) = (now - then, others * 60 * BEATS);
            assert!(
                beats <= wanted && beats + others * BEATS >= wanted,
                "{beats} beats of {others} leaders at node {node}"
            );
        }
        // Of the first group one follower hears no heartbeat any more: the others go on as they were.
        let follows = |node: &NodeId| !member(&cluster, *node).first().is_leader();
        let deaf = NODES.into_iter().find(follows).expect("one leads");
        let before = (NODES.map(terms), counts(Method::PreVote));
        member(&cluster, deaf).is_deaf.store(true, SeqCst);
        sleep(30).await;
        for (after, before) in NODES.map(terms).iter().zip(&before.0) {
            assert_eq!(after.get(1..), before.get(1..));
        }
        assert_ne!(counts(Method::PreVote), before.1, "it misses its leader");
        cluster.stop().await;
    });
}
