//! What large changes cost in whole nodes of a calm world, and how content spreads among them.

mod fanout;

use super::subject::{Aber, AberNode, genesis, put_of};
use super::*;
use crate::sim::{Random, run};
use aber_log::uplink::Priority;
use aber_node::service::Service;
use aber_proto::PartitionId;
use aber_proto::generated::v1;
use bytes::Bytes;

const NODES: u64 = 6;
/// Files of one change, and bytes of each: about 200 KB that no compression makes less.
const FILES: u64 = 220;
const FILE_BYTES: usize = 900;

fn put_many(seed: u64) -> v1::AppendChangeRequest {
    let mut random = Random::new(seed);
    let event = |number| {
        let mut bytes = vec![0; FILE_BYTES];
        random.fill(&mut bytes);
        v1::Event {
            operation: Some(put_of(&format!("/{seed}-{number}"), bytes.into(), false)),
            ..v1::Event::default()
        }
    };
    let mut options = v1::WriteOptions {
        wait_at_most: Duration::from_secs(50).try_into().ok(),
        ..v1::WriteOptions::default()
    };
    options.set_acknowledgement(v1::Acknowledgement::Committed);
    v1::AppendChangeRequest {
        events: (0..FILES).map(event).collect(),
        options: Some(options),
    }
}

/// Whole nodes that have found each other, in a world in which nothing happens by itself.
async fn calm(world: &World, nodes: u64) -> Cluster<Aber> {
    let genesis = genesis(nodes).expect("a genesis");
    let subject = Aber {
        timing: Timing::LAN,
        snapshot_every: 64,
        segment_bytes: 8 << 20,
        batch_bytes: 1 << 20,
        newcomers: Newcomers::default(),
    };
    let cluster = Cluster::new(world, subject);
    for node in genesis.members.iter().map(|member| member.node) {
        cluster.add(node, Bytes::from(codec::encode_genesis(&genesis)));
        cluster.boot(node);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    cluster
}

fn handle(cluster: &Cluster<Aber>, node: NodeId) -> AberNode {
    cluster.handle(node).expect("it runs").1
}

/// Bytes that a node has sent but for what is vital: heartbeats, votes and short appends.
fn sent(cluster: &Cluster<Aber>, node: NodeId) -> u64 {
    let state = handle(cluster, node).node.parts.mesh.uplink().look();
    let all = state.sent_bytes.iter();
    let some = all.filter(|((_, priority), _)| *priority != Priority::Vital);
    some.map(|(_, bytes)| bytes).sum()
}

/// The length of the longest body in a log.
fn longest(node: &AberNode) -> u64 {
    let log = &node.node.parts.log;
    let entries = log.read(PartitionId::CONTROL, 0, u64::MAX, usize::MAX);
    let bodies = entries.expect("a log").into_iter();
    bodies
        .map(|entry| entry.body.len() as u64)
        .max()
        .expect("some")
}

/// T15, B4: whoever writes it, a change of 200 KB costs its author about one copy, and the leader, who
/// sends its entry to four voters and to who follows, no more than that either.
#[test]
fn t15_a_large_change_costs_the_leader_about_one_copy() {
    let options = RunOptions {
        seed: 1,
        scenario: "large changes".to_owned(),
        node_count: NODES,
        ..RunOptions::default()
    };
    let report = run::run_with(&options, Swarm::calm(NODES), |world, _| async move {
        let cluster = calm(&world, NODES).await;
        let group =
            |node| handle(&cluster, node).node.parts.partitions[&PartitionId::CONTROL].clone();
        let leader = group(NodeId(1)).leader().expect("somebody leads");
        let other = NodeId(leader.0 % NODES + 1);
        for (seed, author) in [(1, leader), (2, other)] {
            let nodes: Vec<NodeId> = cluster.nodes();
            let before: Vec<u64> = nodes.iter().map(|node| sent(&cluster, *node)).collect();
            let written = cluster.call(author, |node| async move {
                node.service.append_change(put_many(seed)).await
            });
            let written = written
                .await
                .expect("it runs")
                .map_err(|problem| problem.why());
            written.expect("it is committed");
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(group(NodeId(1)).leader(), Some(leader));
            let body = longest(&handle(&cluster, author));
            assert!(body > 200_000, "{body}");
            for (node, before) in nodes.iter().zip(before) {
                assert_eq!(longest(&handle(&cluster, *node)), body, "{node}");
                let copies = (sent(&cluster, *node) - before) * 100 / body;
                if [leader, author].contains(node) {
                    assert!(copies < 150, "{copies} hundredths of a copy by {node}");
                }
            }
        }
        cluster.stop().await;
        Tally::default()
    });
    assert!(report.is_well(), "{:?}\n{}", report.failures, report.recent);
}
