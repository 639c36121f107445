//! [pure] For tests: layouts, and a world in which nodes do nothing but forward.
//!
//! The world has one serial uplink a node, whole chunks, first come first served, and nothing that
//! fails. It tells how long trees take at best; downlinks, frames and pulls are not in it.

use super::{Layout, Links, Row, Trees, mix, stripe_of};
use aber_proto::{NodeId, limit};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

/// One way between any two nodes.
const LATENCY_NS: u64 = 20_000_000;

/// Members 0, 1, … with these uplinks, layout number 7.
pub(super) fn layout(ups: &[u64], links: &Links) -> Layout {
    let row = |(id, up): (u64, &u64)| Row {
        id: NodeId(id),
        up_kbit: *up,
        relay_ok: true,
    };
    let rows = (0..).zip(ups).map(row).collect();
    Layout::new(7, rows, links).expect("a good layout")
}

/// Every member of a layout.
pub(super) fn all(layout: &Layout) -> BTreeSet<NodeId> {
    layout.members().iter().map(|row| row.id).collect()
}

/// Every fifth uplink is 20 times the others'; the first of those is node 3.
pub(super) fn mixed(nodes: usize) -> Vec<u64> {
    let up = |node| if node % 5 == 3 { 20_000 } else { 1000 };
    (0..nodes).map(up).collect()
}

/// One slow node among equal ones.
pub(super) fn straggler(nodes: usize) -> Vec<u64> {
    let up = |node| if node == nodes / 2 { 250 } else { 1000 };
    (0..nodes).map(up).collect()
}

pub(super) fn pairs(of: impl Iterator<Item = (u64, u64)>) -> Links {
    Links::Pairs(of.map(|(a, b)| (NodeId(a), NodeId(b))).collect())
}

/// Twelve nodes, each linked to the next and to the third after it.
pub(super) fn circle() -> Links {
    pairs((0..12).flat_map(|i| [(i, (i + 1) % 12), (i, (i + 3) % 12)]))
}

/// A network as friends build it: newcomers link to one or two who are there, and rather to those
/// with many links.
pub(super) fn community(nodes: u64, seed: u64) -> Links {
    let mut ends = vec![0, 1];
    let mut links = vec![(0, 1)];
    for node in 2..nodes {
        for turn in 0..2 {
            let dice = mix(seed ^ mix(node * 2 + turn));
            if turn == 1 && dice % 10 < 3 {
                break;
            }
            let pick = (dice >> 8) as usize;
            let friend = if dice % 16 < 9 {
                ends[pick % ends.len()]
            } else {
                (dice >> 8) % node
            };
            if friend != node {
                links.push((node, friend));
                ends.extend([node, friend]);
            }
        }
    }
    pairs(links.into_iter())
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// From the first byte to the last node's last chunk.
    pub(super) all_ns: u64,
    /// Chunks that each node sent.
    pub(super) sent: BTreeMap<NodeId, u64>,
    /// Chunks that came to somebody who had them.
    pub(super) duplicates: u64,
    /// Nodes that got everything; the writer not counted.
    pub(super) complete: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives { to: NodeId, chunk: u64 },
    UplinkFree(NodeId),
}

#[derive(Default)]
struct Node {
    up_kbit: u64,
    is_sending: bool,
    queue: VecDeque<(u64, NodeId)>,
    has: BTreeSet<u64>,
}

struct World<'a> {
    trees: &'a Trees,
    chunk_bytes: u64,
    nodes: BTreeMap<NodeId, Node>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    sent: BTreeMap<NodeId, u64>,
    duplicates: u64,
}

impl World<'_> {
    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn queue(&mut self, node: NodeId, chunk: u64) {
        let parcel = [1, chunk / limit::PARCEL_CHUNKS as u64];
        let number = chunk % limit::PARCEL_CHUNKS as u64;
        let stripe = stripe_of(&parcel, number, self.trees.stripes());
        let children = self.trees.children(stripe, node);
        let queue = &mut self.nodes.get_mut(&node).expect("a member").queue;
        queue.extend(children.map(|child| (chunk, child)));
    }

    fn send(&mut self, now: u64, from: NodeId) {
        let node = self.nodes.get_mut(&from).expect("a member");
        if node.is_sending {
            return;
        }
        let Some((chunk, to)) = node.queue.pop_front() else {
            return;
        };
        assert!(node.up_kbit > 0, "{from} has no uplink and must send");
        node.is_sending = true;
        let free = now + time_ns(self.chunk_bytes, node.up_kbit);
        *self.sent.entry(from).or_default() += 1;
        self.at(free, Event::UplinkFree(from));
        self.at(free + LATENCY_NS, Event::Arrives { to, chunk });
    }

    fn handle(&mut self, now: u64, event: Event) {
        match event {
            Event::UplinkFree(node) => {
                self.nodes.get_mut(&node).expect("a member").is_sending = false;
                self.send(now, node);
            }
            Event::Arrives { to, chunk } => {
                if self.nodes.get_mut(&to).expect("a member").has.insert(chunk) {
                    self.queue(to, chunk);
                    self.send(now, to);
                } else {
                    self.duplicates += 1;
                }
            }
        }
    }
}

fn time_ns(bytes: u64, kbit: u64) -> u64 {
    bytes * 8 * 1_000_000 / kbit
}

/// Sends `chunks` chunks down the trees.
pub(super) fn run(layout: &Layout, trees: &Trees, chunks: u64, chunk_bytes: u64) -> Outcome {
    let node = |row: &Row| {
        let node = Node {
            up_kbit: if row.relay_ok { row.up_kbit } else { 0 },
            ..Node::default()
        };
        (row.id, node)
    };
    let mut world = World {
        trees,
        chunk_bytes,
        nodes: layout.members().iter().map(node).collect(),
        events: BinaryHeap::new(),
        count: 0,
        sent: BTreeMap::new(),
        duplicates: 0,
    };
    for chunk in 0..chunks {
        world.queue(trees.root(), chunk);
    }
    world.send(0, trees.root());
    let mut all_ns = 0;
    // Each chunk that is sent makes two events, and nobody is sent one twice.
    for _ in 0..2 * chunks * layout.members().len() as u64 {
        let Some(Reverse((now, _, event))) = world.events.pop() else {
            break;
        };
        all_ns = now;
        world.handle(now, event);
    }
    assert!(world.events.is_empty(), "the run does not end");
    let full = |node: &&Node| node.has.len() as u64 == chunks;
    Outcome {
        all_ns,
        complete: world.nodes.values().filter(full).count(),
        sent: world.sent,
        duplicates: world.duplicates,
    }
}

/// No way of sending is faster (Kumar and Ross): the writer sends each byte once, and all together
/// send it to everybody.
pub(super) fn bound_ns(layout: &Layout, writer: NodeId, bytes: u64) -> u64 {
    let rows = layout.members();
    let up = |row: &Row| row.up_kbit * u64::from(row.relay_ok);
    let own = rows.iter().filter(|row| row.id == writer).map(up).sum();
    let total = rows.iter().map(up).sum();
    let copies = rows.len() as u64 - 1;
    time_ns(bytes, own).max(time_ns(copies * bytes, total))
}
