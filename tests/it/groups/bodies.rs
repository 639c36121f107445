//! Entries whose bodies go another way: they come, they lack, they are lied about; the group goes on.

use super::{Groups, Member, NODES, P, member, run, sleep, start};
use aber_log::body::{BodyRef, MOST};
use aber_log::env::{Env, Runtime};
use aber_log::mesh::{Answer, Method};
use aber_log::outbox::Boxed;
use aber_log::partition::BodySource;
use aber_proto::generated::rpc;
use aber_proto::{ContentHash, NodeId, PartitionId};
use aber_tests::sim::cluster::Cluster;
use aber_tests::sim::{Random, SimEnv, World};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Another group of the same nodes.
const Q: PartitionId = PartitionId(3);
/// About a thousand files.
const LARGE: usize = 200_000;

/// What a node answers who asks it for bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gives {
    Bodies,
    OtherBodies,
    NoAnswer,
}

/// The bodies that came to a node by themselves. Others are waited for as long as that may take.
pub(super) struct Shelf {
    env: SimEnv,
    bodies: Mutex<BTreeMap<ContentHash, Bytes>>,
    gives: Mutex<Gives>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("nobody panicked")
}

impl Shelf {
    pub(super) fn new(env: &SimEnv) -> Self {
        Self {
            env: env.clone(),
            bodies: Mutex::default(),
            gives: Mutex::new(Gives::Bodies),
        }
    }

    pub(super) fn gives(&self) -> Gives {
        *lock(&self.gives)
    }

    pub(super) fn answer(&self) -> Answer {
        if self.gives() == Gives::NoAnswer {
            return Box::pin(std::future::pending());
        }
        let bodies = vec![Bytes::from(vec![1; LARGE]); 4];
        let answer = rpc::BodyResponse { bodies };
        Box::pin(async move { Ok(answer.encode_to_vec().into()) })
    }

    fn put(&self, body: &Bytes) {
        lock(&self.bodies).insert(ContentHash::of(body), body.clone());
    }
}

impl BodySource for Shelf {
    fn find(&self, body: BodyRef) -> Boxed<Option<Bytes>> {
        let found = lock(&self.bodies).get(&body.hash).cloned();
        let runtime = self.env.runtime().clone();
        Box::pin(async move {
            if found.is_none() {
                runtime.sleep(MOST).await;
            }
            found
        })
    }

    fn keep(&self, _: &BodyRef, _: &Bytes) {}
}

/// Three voters of two groups, and who leads the first.
async fn three(world: &World) -> (Cluster<Groups>, NodeId) {
    let groups = Groups {
        partitions: vec![P, Q],
        founders: NODES.to_vec(),
    };
    let cluster = start(world, groups).await;
    let leader = member(&cluster, NodeId(1)).first().leader();
    (cluster, leader.expect("somebody leads"))
}

fn noise(seed: u64) -> Bytes {
    let mut bytes = vec![0; LARGE];
    Random::new(seed).fill(&mut bytes);
    bytes.into()
}

/// Proposes a body that came to these nodes by itself; returns once a majority has it.
async fn propose(cluster: &Cluster<Groups>, leader: NodeId, body: &Bytes, came_to: &[NodeId]) {
    for node in came_to {
        member(cluster, *node).shelf.put(body);
    }
    let body = body.clone();
    let proposed = cluster.call(leader, |member| async move {
        let now = member.env.runtime().now();
        member.bodies.offered(BodyRef::of(&body).0, now);
        for answer in member.first().propose(vec![body], 0) {
            answer.await.expect("it runs").expect("it leads");
        }
    });
    proposed.await.expect("it runs");
}

/// The large bodies in a node's log.
fn large(member: &Member) -> Vec<Bytes> {
    let entries = member.log.read(P, 0, u64::MAX, usize::MAX).expect("a log");
    let bodies = entries.into_iter().map(|entry| entry.body);
    bodies.filter(|body| body.len() >= LARGE).collect()
}

fn followers(leader: NodeId) -> [NodeId; 2] {
    let mut others = NODES.into_iter().filter(|node| *node != leader);
    [others.next(), others.next()].map(|node| node.expect("there are three"))
}

fn append_bytes(member: &Member) -> u64 {
    member.append_bytes.load(SeqCst)
}

/// T15: the leader sends a reference to each voter, and all logs hold the body.
#[test]
fn t15_a_large_body_is_not_sent_with_its_entry() {
    run("bodies", |world| async move {
        let (cluster, leader) = three(&world).await;
        let others = followers(leader);
        let before = others.map(|node| append_bytes(&member(&cluster, node)));
        let bodies = [noise(1), noise(2)];
        for body in &bodies {
            propose(&cluster, leader, body, &others).await;
        }
        sleep(2).await;
        for (node, before) in others.into_iter().zip(before) {
            let member = member(&cluster, node);
            let sent = append_bytes(&member) - before;
            assert!(sent < 4000, "{sent} bytes went to node {node}");
            assert_eq!(large(&member), bodies);
        }
        assert_eq!(member(&cluster, leader).asked(Method::Body), 0);
        cluster.stop().await;
    });
}

/// T15, A5: who does not find a body asks for it once, then has all sent whole for a while. The others
/// go on meanwhile.
#[test]
fn t15_a_body_that_does_not_come_is_asked_for() {
    run("bodies", |world| async move {
        let (cluster, leader) = three(&world).await;
        let [with, without] = followers(leader);
        let bodies = [noise(1), noise(2), noise(3)];
        let asked = || member(&cluster, leader).asked(Method::Body);
        propose(&cluster, leader, &bodies[0], &[with]).await;
        assert_eq!(large(&member(&cluster, with)).len(), 1);
        assert_eq!(large(&member(&cluster, without)).len(), 0, "it waits");
        sleep(MOST.as_secs() + 2).await;
        assert_eq!(large(&member(&cluster, without)), bodies[..1]);
        assert_eq!(asked(), 1);
        propose(&cluster, leader, &bodies[1], &[with]).await;
        sleep(2).await;
        assert_eq!(large(&member(&cluster, without)), bodies[..2], "sent whole");
        assert_eq!(asked(), 1);
        sleep(60).await;
        propose(&cluster, leader, &bodies[2], &NODES).await;
        sleep(2).await;
        assert_eq!(large(&member(&cluster, without)), bodies);
        assert_eq!(asked(), 1);
        assert!(append_bytes(&member(&cluster, without)) < 2 * LARGE as u64);
        cluster.stop().await;
    });
}

/// T15, A5, I2: who asks and is given another body, or nothing, takes nothing; it is sent the entry
/// whole then. Nobody campaigns meanwhile, and another group of the same nodes waits for nothing.
#[test]
fn t15_a_body_that_is_another_or_never_comes_stops_nobody() {
    for gives in [Gives::OtherBodies, Gives::NoAnswer] {
        run("bodies", |world| async move {
            let (cluster, leader) = three(&world).await;
            let [with, without] = followers(leader);
            *lock(&member(&cluster, leader).shelf.gives) = gives;
            let terms = || NODES.map(|node| member(&cluster, node).first().term());
            let (before, body) = (terms(), noise(1));
            propose(&cluster, leader, &body, &[with]).await;
            let other = |node: NodeId| member(&cluster, node).partitions.get(&Q).cloned();
            let other = |node| other(node).expect("it is part of it");
            let leader_of_other = other(without).leader().expect("somebody leads");
            let start = world.now_ns();
            let proposed = cluster.call(leader_of_other, |member| async move {
                let group = member.partitions.get(&Q).expect("it is part of it");
                for answer in group.propose(vec![Bytes::from_static(b"small")], 0) {
                    answer.await.expect("it runs").expect("it leads");
                }
            });
            proposed.await.expect("it runs");
            let took = Duration::from_nanos(world.now_ns() - start);
            assert!(took < Duration::from_secs(1), "{took:?}");
            assert_eq!(large(&member(&cluster, without)).len(), 0, "it waits");
            sleep(40).await;
            assert_eq!(large(&member(&cluster, without)), [body]);
            assert_eq!(terms(), before);
            cluster.stop().await;
        });
    }
}
