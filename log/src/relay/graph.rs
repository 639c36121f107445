//! [pure] Trees over the links of a neighbour graph.
//!
//! Each stripe is grown like Prim's algorithm, by a cost that rises with depth and with a node's load in all
//! stripes together; several rounds, because the first stripes did not know of the later ones. Then
//! children of the busiest nodes are hung under neighbours of theirs that have less to do.
//! Members that do not want the content take part, or their neighbours might not be reached; [`prune`]
//! cuts those that nobody needs.

use super::hash::{ONE, fold};
use super::layout::Layout;
use super::table::{PerNode, Position};
use super::trees::Branches;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// What trees are good for.
#[derive(Clone, Copy)]
pub(super) struct Goal {
    stripes: usize,
    /// What load costs, in tenths, where a step of depth costs one.
    load_tenths: u64,
    rounds: usize,
}

impl Goal {
    /// Content: nobody overloaded.
    pub(super) fn balanced(stripes: usize) -> Self {
        Self {
            stripes,
            load_tenths: 40,
            rounds: 4,
        }
    }

    /// Entries and announcements: few steps.
    pub(super) const SHORT: Self = Self {
        stripes: 1,
        load_tenths: 1,
        rounds: 1,
    };
}

/// Moves of the local search, for each stripe and member: an end, should it go in circles.
const MOVES: usize = 4;
/// A move is held to cost this part of a child's share for each child that moves along.
const DISTURBANCE: u64 = 50;

/// One stripe while it is made.
struct Growth {
    tag: u64,
    parent: PerNode<Option<Position>>,
    depth: PerNode<u64>,
    children: PerNode<Vec<Position>>,
}

impl Growth {
    fn new(tag: u64, members: usize) -> Self {
        Self {
            tag,
            parent: PerNode::filled(members, None),
            depth: PerNode::filled(members, 0),
            children: PerNode::filled(members, Vec::new()),
        }
    }

    /// `node`, its parent, and so on up to the root.
    fn path(&self, node: Position) -> impl Iterator<Item = Position> + '_ {
        let up = std::iter::successors(Some(node), |at| self.parent[*at]);
        up.enumerate().map(move |(steps, at)| {
            assert!(steps < self.parent.len(), "a cycle above {node:?}");
            at
        })
    }

    /// Whether `top` is `node` or above it.
    fn is_below(&self, node: Position, top: Position) -> bool {
        self.path(node).any(|at| at == top)
    }
}

/// A child of a busy node, and its neighbour with less to do. Ordered: the least is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Move {
    cost: u64,
    tie: u64,
    stripe: usize,
    child: Position,
    to: Position,
}

struct Work<'a> {
    seed: u64,
    root: Position,
    near: &'a PerNode<Vec<Position>>,
    words: PerNode<u64>,
    goal: Goal,
    /// Children that a node can feed at its fair share, in fixed point.
    capacity: PerNode<u64>,
    /// Children in all stripes.
    load: PerNode<u64>,
    stripes: Vec<Growth>,
    /// Nodes with children, the busiest first.
    busy: BTreeSet<(Reverse<u64>, Position)>,
    /// Nodes of which no child can move, as far as looked at since anything changed for them.
    stuck: PerNode<bool>,
}

/// One tree a stripe from `root`, over all members that links lead to.
pub(super) fn on_graph(
    layout: &Layout,
    near: &PerNode<Vec<Position>>,
    root: Position,
    goal: Goal,
) -> Vec<Branches> {
    let (ups, words, members) = (layout.ups(), layout.words(), layout.len());
    let total: u64 = ups.iter().map(|(_, up)| *up).sum();
    let mean = (total / members as u64).max(1);
    let k = goal.stripes as u64;
    let capacity = |(_, up): (Position, &u64)| (up * k * ONE / mean).max(1);
    let mut work = Work {
        seed: fold([layout.number(), words[root]]),
        root,
        near,
        words,
        goal,
        capacity: PerNode::collect(ups.iter().map(capacity)),
        load: PerNode::filled(members, 0),
        stripes: (0..k).map(|tag| Growth::new(tag, members)).collect(),
        busy: BTreeSet::new(),
        stuck: PerNode::filled(members, false),
    };
    for stripe in (0..goal.rounds).flat_map(|_| 0..goal.stripes) {
        work.grow_again(stripe);
    }
    if goal.rounds > 1 {
        work.search(MOVES * goal.stripes * members);
    }
    let root = work.root;
    let finished = work.stripes.into_iter();
    finished.map(|growth| finish(growth, root)).collect()
}

impl Work<'_> {
    /// What `count` children are to `node`: [`ONE`] is its fair share.
    fn relative(&self, node: Position, count: u64) -> u64 {
        count * ONE * ONE / self.capacity[node]
    }

    /// What one more child of `parent` costs.
    fn cost(&self, growth: &Growth, parent: Position) -> u64 {
        let load = self.relative(parent, self.load[parent] + 1);
        let weight = self.goal.load_tenths;
        let excess = load.saturating_sub(ONE);
        growth.depth[parent] * ONE + (weight * load + 4 * weight * excess) / 10
    }

    fn grow_again(&mut self, stripe: usize) {
        let Some(old) = self.stripes.get(stripe) else {
            return;
        };
        for (node, children) in old.children.iter() {
            self.load[node] -= children.len() as u64;
        }
        let grown = self.grow(old.tag);
        if let Some(place) = self.stripes.get_mut(stripe) {
            *place = grown;
        }
    }

    /// Takes the cheapest link that leads outside, until none does. Loads only rise meanwhile, so
    /// what was pushed is at most its cost of now: if less, it is pushed again.
    fn grow(&mut self, tag: u64) -> Growth {
        let members = self.words.len();
        let mut growth = Growth::new(tag, members);
        let mut inside = PerNode::filled(members, false);
        let mut edges = BinaryHeap::new();
        let mut newest = Some(self.root);
        while let Some(node) = newest {
            inside[node] = true;
            let cost = self.cost(&growth, node);
            for &to in self.near[node].iter().filter(|to| !inside[**to]) {
                let tie = fold([self.seed, tag, self.words[node], self.words[to]]);
                edges.push(Reverse((cost, tie, node, to)));
            }
            newest = None;
            while let Some(Reverse((cost, tie, from, to))) = edges.pop() {
                if inside[to] {
                    continue;
                }
                let now = self.cost(&growth, from);
                if now > cost {
                    edges.push(Reverse((now, tie, from, to)));
                    continue;
                }
                growth.parent[to] = Some(from);
                growth.depth[to] = growth.depth[from] + 1;
                growth.children[from].push(to);
                self.load[from] += 1;
                newest = Some(to);
                break;
            }
        }
        growth
    }

    fn search(&mut self, moves_max: usize) {
        for node in Position::all(self.words.len()) {
            self.rank(node);
        }
        for _ in 0..moves_max {
            let Some((from, best)) = self.find_move() else {
                return;
            };
            self.carry_out(from, best);
        }
    }

    fn rank(&mut self, node: Position) {
        if self.load[node] > 0 {
            let relative = self.relative(node, self.load[node]);
            self.busy.insert((Reverse(relative), node));
        }
    }

    fn change_load(&mut self, node: Position, load: u64) {
        let relative = self.relative(node, self.load[node]);
        self.busy.remove(&(Reverse(relative), node));
        self.load[node] = load;
        self.rank(node);
    }

    /// The best move of the busiest node that has one, among the busiest eighth.
    fn find_move(&mut self) -> Option<(Position, Move)> {
        let members = self.words.len();
        let busiest: Vec<Position> = self
            .busy
            .iter()
            .take(1 + members / 8)
            .map(|(_, node)| *node)
            .collect();
        for node in busiest {
            if self.stuck[node] {
                // Dear, so only where it is cheap: what was remembered is still true.
                debug_assert!(members > 64 || self.best_move(node).is_none());
                continue;
            }
            if let Some(best) = self.best_move(node) {
                return Some((node, best));
            }
            self.stuck[node] = true;
        }
        None
    }

    fn best_move(&self, from: Position) -> Option<Move> {
        let limit = self.relative(from, self.load[from]);
        let mut best: Option<Move> = None;
        for (stripe, growth) in self.stripes.iter().enumerate() {
            for &child in &growth.children[from] {
                let along = growth.children[child].len() as u64;
                for &to in self.near[child].iter().filter(|to| **to != from) {
                    let load = self.relative(to, self.load[to] + 1);
                    // One that the links do not lead to has nothing either.
                    if load >= limit || growth.is_below(to, child) {
                        continue;
                    }
                    let ends = [self.words[child], self.words[to]];
                    let found = Move {
                        cost: load + along * ONE / DISTURBANCE,
                        tie: fold([self.seed, growth.tag].into_iter().chain(ends)),
                        stripe,
                        child,
                        to,
                    };
                    best = Some(best.map_or(found, |best| best.min(found)));
                }
            }
        }
        best
    }

    fn carry_out(&mut self, from: Position, chosen: Move) {
        let Move {
            stripe, child, to, ..
        } = chosen;
        let growth = self.stripes.get_mut(stripe).expect("one of them");
        growth.children[from].retain(|other| *other != child);
        growth.children[to].push(child);
        growth.parent[child] = Some(to);
        self.change_load(from, self.load[from] - 1);
        self.change_load(to, self.load[to] + 1);
        self.unstick(from, chosen);
    }

    /// Whoever may have a move now that had none before: the new parent, which is busier and has one more
    /// child; parents of who may hang under `from`, which is less busy; and those above `from` in the
    /// stripe, because the child's subtree is no longer below them.
    fn unstick(&mut self, from: Position, chosen: Move) {
        self.stuck[chosen.to] = false;
        for &neighbour in &self.near[from] {
            for growth in &self.stripes {
                if let Some(parent) = growth.parent[neighbour] {
                    self.stuck[parent] = false;
                }
            }
        }
        let growth = self.stripes.get(chosen.stripe).expect("one of them");
        for node in growth.path(from).skip(1) {
            self.stuck[node] = false;
        }
    }
}

/// Children in the order of their subtrees, the largest first: it is what an heir must know best.
fn finish(growth: Growth, root: Position) -> Branches {
    let mut reached = vec![root];
    let mut next = 0;
    while let Some(node) = reached.get(next) {
        reached.extend(&growth.children[*node]);
        next += 1;
    }
    let mut size = PerNode::filled(growth.parent.len(), 1_u64);
    for &node in reached.iter().rev() {
        if let Some(parent) = growth.parent[node] {
            size[parent] += size[node];
        }
    }
    reached.retain(|node| *node != root);
    reached.sort_by_key(|node| (Reverse(size[*node]), *node));
    Branches {
        parent: growth.parent,
        order: reached,
    }
}

/// Cuts each subtree without a node that wants the content. Who stays keeps its place.
pub(super) fn prune(tree: &mut Branches, is_wanted: &PerNode<bool>) {
    let mut stays = PerNode::filled(is_wanted.len(), false);
    for &node in tree.order.iter().filter(|node| is_wanted[**node]) {
        let mut at = Some(node);
        while let Some(here) = at.filter(|here| !stays[*here]) {
            stays[here] = true;
            at = tree.parent[here];
        }
    }
    for &node in tree.order.iter().filter(|node| !stays[**node]) {
        tree.parent[node] = None;
    }
    tree.order.retain(|node| stays[*node]);
}
