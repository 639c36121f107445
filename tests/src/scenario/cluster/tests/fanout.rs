//! Content among whole nodes on slow lines, while some of them fail, lie, lag or are away.
//!
//! Times are those of the world, so they are the same in each run: they stand against the time that one
//! line takes for one copy, which no way of sending can beat.

use super::*;
use crate::scenario::cluster::check::mirror_of;
use crate::sim::outsider::Shown;
use crate::sim::world::Crash;
use crate::workload::{ClientApi, Ticket, Wait};
use aber_proto::{Operation, Rates, RequestId};
use std::collections::BTreeSet;

/// What each line carries, in bytes a second, and every node says of its own.
const LINE: u64 = 1_000_000;
/// What a socket and a modem hold of one connection.
const WINDOW: usize = 64 << 10;
const FILE: usize = 4 << 20;
const WRITER: NodeId = NodeId(1);

/// Nodes whose lines are declared, and what was written.
struct Stage {
    world: World,
    cluster: Cluster<Aber>,
    requests: u8,
}

impl Stage {
    async fn new(world: &World, nodes: u64) -> Self {
        world.with_net(|net| net.window_bytes = WINDOW);
        let cluster = calm(world, nodes).await;
        let stage = Self {
            world: world.clone(),
            cluster: cluster.clone(),
            requests: 0,
        };
        for node in cluster.nodes() {
            stage.declare(node, LINE).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for node in cluster.nodes() {
            let members = handle(&cluster, node).node.parts.members.get();
            let is_declared = |row: &aber_materializer::members::MemberRow| row.uplink.up > 0;
            assert!(members.present().all(is_declared), "{node} lacks lines");
        }
        stage
    }

    /// Says what a node's line carries, in bytes a second.
    async fn declare(&self, node: NodeId, up: u64) {
        let uplink = Some(Rates {
            up,
            down: LINE * 10,
        });
        let operation = Operation::SetMember {
            node,
            name: None,
            role: None,
            is_voter_eligible: None,
            addresses: None,
            uplink,
            usable_up: None,
            neighbours: None,
        };
        let handle = handle(&self.cluster, node);
        admin::submit(&self.world, node, &handle, operation).await;
    }

    fn others(&self, but: &[NodeId]) -> Vec<NodeId> {
        let nodes = self.cluster.nodes().into_iter();
        nodes.filter(|node| !but.contains(node)).collect()
    }

    /// Begins a put; it goes on by itself.
    fn put(&mut self, node: NodeId, path: &str, length: usize) -> (Bytes, JoinHandle<()>) {
        self.requests += 1;
        let mut bytes = vec![0; length];
        Random::new(u64::from(self.requests)).fill(&mut bytes);
        let content = Bytes::from(bytes);
        let ticket = Ticket {
            node,
            request: RequestId([self.requests; 16]),
            wait: Wait::Committed,
        };
        let api = Api {
            cluster: self.cluster.clone(),
        };
        let (path, sent) = (path.to_owned(), content.clone());
        let call = async move {
            let _later = api.put(ticket, &path, sent).await;
        };
        (content, tokio::spawn(call))
    }

    /// Waits until the mirrors of all these show it. Answers how long that took, in hundredths of what
    /// one line takes for one copy.
    async fn until_shown(&self, nodes: &[NodeId], path: &str, content: &Bytes) -> u64 {
        let begun = self.world.now_ns();
        let wanted = ContentHash::of(content);
        let mut left = nodes.to_vec();
        for _ in 0..6000 {
            left.retain(|node| {
                let shown = mirror_of(&self.world, *node);
                let is_it =
                    |shown: &Shown| matches!(shown, Shown::File { content, .. } if *content == wanted);
                !shown.get(Path::new(path)).is_some_and(is_it)
            });
            if left.is_empty() {
                let took_ms = (self.world.now_ns() - begun) / 1_000_000;
                return took_ms * LINE / 10 / content.len() as u64;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{left:?} do not show {path}")
    }

    /// Bytes that came to a node though it had them.
    fn twice(&self, nodes: &[NodeId]) -> u64 {
        let relays = nodes.iter().map(|node| handle(&self.cluster, *node));
        let looks = relays.map(|node| node.node.parts.content.relay().look());
        looks.map(|look| look.counts.twice_bytes).sum()
    }
}

fn on_stage<F: Future<Output = ()>>(name: &str, nodes: u64, play: impl FnOnce(Stage) -> F) {
    let options = RunOptions {
        seed: 1,
        scenario: name.to_owned(),
        node_count: nodes,
        ..RunOptions::default()
    };
    let swarm = Swarm {
        uplink_bytes_per_s: Some(LINE),
        ..Swarm::calm(nodes)
    };
    let report = run::run_with(&options, swarm, |world, _| async move {
        let stage = Stage::new(&world, nodes).await;
        let cluster = stage.cluster.clone();
        play(stage).await;
        cluster.stop().await;
        Tally::default()
    });
    assert!(report.is_well(), "{:?}\n{}", report.failures, report.recent);
}

/// T5, T6: nothing happens.
#[test]
fn t5_a_file_takes_little_more_than_a_line() {
    on_stage("calm", 8, |mut stage| async move {
        let (content, _put) = stage.put(WRITER, "/file", FILE);
        let all = stage.others(&[]);
        let took = stage.until_shown(&all, "file", &content).await;
        println!("{took} hundredths, {} twice", stage.twice(&all));
        assert!(took <= 150, "{took} hundredths");
        assert!(stage.twice(&all) * 100 <= 8 * FILE as u64);
    });
}

/// T9: a relay that sends wrong bytes. Nobody shows or passes on any, all others complete, and who got
/// some says of whom.
#[test]
fn t9_a_relay_that_lies_is_left_out_and_named() {
    on_stage("a liar", 8, |mut stage| async move {
        let liar = NodeId(7);
        stage.world.with_net(|net| net.liars.insert(liar));
        let (content, _put) = stage.put(WRITER, "/file", FILE);
        let all = stage.others(&[]);
        let others = stage.others(&[liar]);
        let took = stage.until_shown(&others, "file", &content).await;
        // Nobody sends it anything unasked any more: it asks for the rest, and is answered.
        let more = stage.until_shown(&[liar], "file", &content).await;
        println!("{took} hundredths, {more} more for itself");
        assert!(took <= 170, "{took} hundredths");
        let looks = all.iter().map(|node| {
            let node = handle(&stage.cluster, *node);
            node.node.parts.content.relay().look()
        });
        let blamed: BTreeSet<NodeId> = looks.flat_map(|look| look.blamed).collect();
        assert_eq!(blamed, BTreeSet::from([liar]));
    });
}

/// T18: one line is an eighth of what its node says: the others ask elsewhere for what it is to pass on.
#[test]
fn a_straggler_holds_up_nobody() {
    on_stage("a straggler", 8, |mut stage| async move {
        let slow = NodeId(6);
        stage
            .world
            .with_net(|net| net.uplink_bytes_per_s.insert(slow, LINE / 8));
        let (content, _put) = stage.put(WRITER, "/file", 4 * FILE);
        let took = stage
            .until_shown(&stage.others(&[slow]), "file", &content)
            .await;
        let more = stage.until_shown(&[slow], "file", &content).await;
        println!("{took} hundredths, {more} more for itself");
        assert!(took <= 230, "{took} hundredths");
    });
}

/// T7: a third dies in the middle. The others complete; those that died do, once they are back.
#[test]
fn t7_a_third_dies_in_the_middle() {
    on_stage("a third dies", 9, |mut stage| async move {
        let (content, _put) = stage.put(WRITER, "/file", FILE);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let dead = [NodeId(5), NodeId(6), NodeId(8)];
        for node in dead {
            stage.cluster.crash(node, Crash::Power).await;
        }
        let took = stage
            .until_shown(&stage.others(&dead), "file", &content)
            .await;
        println!("{took} hundredths");
        assert!(took <= 200, "{took} hundredths");
        for node in dead {
            stage.cluster.boot(node);
        }
        let more = stage.until_shown(&dead, "file", &content).await;
        println!("{more} hundredths more");
    });
}

/// T8: the writer goes as soon as its change is committed.
#[test]
fn t8_the_writer_goes_once_it_is_committed() {
    on_stage("a writer goes", 8, |mut stage| async move {
        let (content, put) = stage.put(WRITER, "/file", FILE);
        put.await.expect("it ends");
        stage.cluster.crash(WRITER, Crash::Power).await;
        let took = stage
            .until_shown(&stage.others(&[WRITER]), "file", &content)
            .await;
        println!("{took} hundredths more");
        assert!(took <= 100, "{took} hundredths");
    });
}

/// The layout changes while a file is on its way: what was announced goes down its own trees to the end,
/// what is announced later down the new ones.
#[test]
fn a_layout_that_changes_on_the_way_holds_up_nothing() {
    on_stage("a new layout", 8, |mut stage| async move {
        let (content, _put) = stage.put(WRITER, "/file", 4 * FILE);
        for node in [NodeId(4), NodeId(7)] {
            tokio::time::sleep(Duration::from_secs(3)).await;
            stage.declare(node, LINE / 2).await;
        }
        let all = stage.others(&[]);
        let took = stage.until_shown(&all, "file", &content).await;
        println!("{took} hundredths, {} twice", stage.twice(&all));
        // Two lines carry half of what the trees gave them.
        assert!(took <= 180, "{took} hundredths");
        assert!(stage.twice(&all) * 50 <= 8 * 4 * FILE as u64);
    });
}

/// Links that come and go all the time.
#[test]
fn links_that_flap_carry_it_all_the_same() {
    on_stage("flapping links", 8, |mut stage| async move {
        let (content, _put) = stage.put(WRITER, "/file", FILE);
        let (world, nodes) = (stage.world.clone(), stage.others(&[]));
        let flap = tokio::spawn(async move {
            for _ in 0..60 {
                let drawn = world.with_random(|random| {
                    let from = random.pick(&nodes).copied();
                    from.zip(random.pick(&nodes).copied())
                });
                if let Some((one, other)) = drawn {
                    world.reset_links(one, other);
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        let all = stage.others(&[]);
        let took = stage.until_shown(&all, "file", &content).await;
        flap.abort();
        println!("{took} hundredths, {} twice", stage.twice(&all));
        assert!(took <= 220, "{took} hundredths");
    });
}

/// T16: away for so long that no relay knows of the file any more and the log begins with a snapshot: it
/// all comes from whoever has it, the writer being gone, and nothing twice.
#[test]
fn t16_back_after_a_week() {
    on_stage("a week away", 8, |mut stage| async move {
        let away = NodeId(8);
        stage.cluster.crash(away, Crash::Process).await;
        let (content, put) = stage.put(WRITER, "/file", FILE);
        put.await.expect("it ends");
        let all = stage.others(&[away]);
        stage.until_shown(&all, "file", &content).await;
        for number in 0..100 {
            let (_, put) = stage.put(NodeId(2), &format!("/small-{number}"), 2000);
            put.await.expect("it ends");
        }
        tokio::time::sleep(Duration::from_secs(900)).await;
        stage.cluster.crash(WRITER, Crash::Process).await;
        stage.cluster.boot(away);
        let took = stage.until_shown(&[away], "file", &content).await;
        println!("{took} hundredths, {} twice", stage.twice(&[away]));
        assert!(took <= 150, "{took} hundredths");
        assert!(stage.twice(&[away]) * 100 <= FILE as u64);
    });
}
