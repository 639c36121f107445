//! [pure] Links of the simulated network: what is on its way, and when each end learns what.
//!
//! Time is an argument, in nanoseconds of the world. A frame leaves when its node's uplink is free,
//! arrives a latency later and never before the frame sent before it. A cut stalls frames; after a
//! while each end gives up on its own, unless the cut was healed before. What a reset or a death
//! catches on its way is lost.

#[cfg(test)]
mod tests;

use aber_log::env::network::LinkClass;
use aber_proto::NodeId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes a link holds before its sender waits.
pub const WINDOW_BYTES: usize = 1 << 20;
/// Bytes a frame takes beside its content: headers of frame, TLS, TCP and IP.
pub const OVERHEAD_BYTES: u64 = 90;
/// Links that wait to be accepted, at most.
pub const BACKLOG: usize = 64;
/// "Never" on the world's clock.
pub const NEVER: u64 = u64::MAX;
const SECOND_NS: u64 = 1_000_000_000;

/// Which end of a link: 0 dialled, 1 accepted.
pub type Side = usize;

/// One end of a link.
#[derive(Debug)]
pub struct End {
    /// Whose it is.
    pub node: NodeId,
    /// The boot that holds it.
    pub boot: u64,
    inbox: VecDeque<(u64, Bytes)>,
    inbox_bytes: usize,
    newest_arrival_ns: u64,
    breaks_at_ns: u64,
    stalled_until_ns: u64,
    closes_at_ns: u64,
}

/// A link.
#[derive(Debug)]
pub struct Conn {
    ends: [End; 2],
    /// What it is for.
    pub class: LinkClass,
}

/// What an end may do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look<T> {
    /// This.
    Ready(T),
    /// Nothing before this time, unless something happens.
    WaitUntil(u64),
    /// Nothing any more.
    Closed,
}

/// Bytes and frames from one node to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames.
    pub frame_count: u64,
    /// Bytes, overhead included.
    pub bytes: u64,
}

/// All links of a world.
#[derive(Debug)]
pub struct Net {
    links: BTreeMap<u64, Conn>,
    next_link: u64,
    cuts: BTreeSet<(NodeId, NodeId)>,
    waiting: BTreeMap<NodeId, VecDeque<u64>>,
    uplink_free_ns: BTreeMap<NodeId, u64>,
    /// Uplink of each node in bytes a second; unlimited where missing.
    pub uplink_bytes_per_s: BTreeMap<NodeId, u64>,
    /// Pairs that may connect at all, either way; all where empty.
    pub neighbours: BTreeSet<(NodeId, NodeId)>,
    /// Bytes a link holds before its sender waits: [`WINDOW_BYTES`] unless told otherwise.
    pub window_bytes: usize,
    /// Nodes whose long frames of content carry a wrong byte.
    pub liars: BTreeSet<NodeId>,
    traffic: BTreeMap<(NodeId, NodeId), Traffic>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            next_link: 0,
            cuts: BTreeSet::new(),
            waiting: BTreeMap::new(),
            uplink_free_ns: BTreeMap::new(),
            uplink_bytes_per_s: BTreeMap::new(),
            neighbours: BTreeSet::new(),
            window_bytes: WINDOW_BYTES,
            liars: BTreeSet::new(),
            traffic: BTreeMap::new(),
        }
    }
}

impl End {
    fn new(node: NodeId, boot: u64) -> Self {
        Self {
            node,
            boot,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            newest_arrival_ns: 0,
            breaks_at_ns: NEVER,
            stalled_until_ns: NEVER,
            closes_at_ns: NEVER,
        }
    }

    fn dies_at_ns(&self) -> u64 {
        self.breaks_at_ns.min(self.stalled_until_ns)
    }
}

impl Conn {
    fn pair(&mut self, side: Side) -> (&mut End, &mut End) {
        let [dialled, accepted] = &mut self.ends;
        if side == 0 {
            (dialled, accepted)
        } else {
            (accepted, dialled)
        }
    }

    fn is_between(&self, one: NodeId, two: NodeId) -> bool {
        let [a, b] = [self.ends[0].node, self.ends[1].node];
        (a == one && b == two) || (a == two && b == one)
    }
}

impl Net {
    /// Whether frames from one node to another are stalled.
    #[must_use]
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether two nodes may connect when nothing is cut.
    #[must_use]
    pub fn are_neighbours(&self, one: NodeId, two: NodeId) -> bool {
        self.neighbours.is_empty()
            || self.neighbours.contains(&(one, two))
            || self.neighbours.contains(&(two, one))
    }

    /// Makes a link; `None` if the backlog of the accepting node is full.
    pub fn connect(
        &mut self,
        (from, from_boot): (NodeId, u64),
        (to, to_boot): (NodeId, u64),
        class: LinkClass,
    ) -> Option<u64> {
        let backlog = self.waiting.entry(to).or_default();
        if backlog.len() >= BACKLOG {
            return None;
        }
        self.next_link += 1;
        backlog.push_back(self.next_link);
        let ends = [End::new(from, from_boot), End::new(to, to_boot)];
        self.links.insert(self.next_link, Conn { ends, class });
        Some(self.next_link)
    }

    /// The next link that waits for a node: its number, who dialled, its class.
    pub fn accept(&mut self, node: NodeId) -> Option<(u64, NodeId, LinkClass)> {
        let waiting = self.waiting.get_mut(&node)?;
        loop {
            let link = waiting.pop_front()?;
            if let Some(conn) = self.links.get(&link) {
                return Some((link, conn.ends[0].node, conn.class));
            }
        }
    }

    /// Sends a frame: `Ready` with its arrival, or wait for room.
    pub fn send(
        &mut self,
        (link, side): (u64, Side),
        frame: &Bytes,
        now_ns: u64,
        latency_ns: u64,
    ) -> Look<u64> {
        let Some(conn) = self.links.get_mut(&link) else {
            return Look::Closed;
        };
        let (own, other) = conn.pair(side);
        if own.dies_at_ns() <= now_ns || own.closes_at_ns <= now_ns {
            return Look::Closed;
        }
        if !other.inbox.is_empty() && other.inbox_bytes + frame.len() > self.window_bytes {
            return Look::WaitUntil(own.dies_at_ns().min(own.closes_at_ns));
        }
        let bytes = u64::try_from(frame.len()).unwrap_or(0) + OVERHEAD_BYTES;
        let traffic = self.traffic.entry((own.node, other.node)).or_default();
        traffic.frame_count += 1;
        traffic.bytes += bytes;
        let free = self.uplink_free_ns.entry(own.node).or_default();
        let rate = self.uplink_bytes_per_s.get(&own.node).copied();
        let takes_ns = rate.map_or(0, |rate| bytes.saturating_mul(SECOND_NS) / rate.max(1));
        *free = now_ns.max(*free).saturating_add(takes_ns);
        let arrival = free.saturating_add(latency_ns).max(other.newest_arrival_ns);
        other.newest_arrival_ns = arrival;
        other.inbox.push_back((arrival, frame.clone()));
        other.inbox_bytes += frame.len();
        Look::Ready(arrival)
    }

    /// Takes the next frame that arrived.
    pub fn receive(&mut self, (link, side): (u64, Side), now_ns: u64) -> Look<Bytes> {
        let Some(conn) = self.links.get_mut(&link) else {
            return Look::Closed;
        };
        let (own, other) = conn.pair(side);
        if own.dies_at_ns() <= now_ns {
            return Look::Closed;
        }
        let is_cut = self.cuts.contains(&(other.node, own.node));
        match own.inbox.front() {
            Some((arrival, _)) if !is_cut && *arrival <= now_ns => {
                let frame = own.inbox.pop_front().map(|(_, frame)| frame);
                let frame = frame.unwrap_or_default();
                own.inbox_bytes = own.inbox_bytes.saturating_sub(frame.len());
                Look::Ready(frame)
            }
            Some((arrival, _)) if !is_cut => Look::WaitUntil(own.dies_at_ns().min(*arrival)),
            Some(_) => Look::WaitUntil(own.dies_at_ns()),
            None if own.closes_at_ns <= now_ns => Look::Closed,
            None => Look::WaitUntil(own.dies_at_ns().min(own.closes_at_ns)),
        }
    }

    /// One end closed its link: the other reads what is on its way, then learns it at `at_ns`.
    /// Links that both ends closed are forgotten.
    pub fn close(&mut self, (link, side): (u64, Side), at_ns: u64) {
        let Some(conn) = self.links.get_mut(&link) else {
            return;
        };
        let (own, other) = conn.pair(side);
        own.breaks_at_ns = 0;
        let is_over = other.breaks_at_ns == 0;
        let at_ns = at_ns.max(other.newest_arrival_ns);
        other.closes_at_ns = other.closes_at_ns.min(at_ns);
        if is_over {
            self.links.remove(&link);
        }
    }

    /// Breaks an end's links at a time the caller draws for each: a reset, or a death noticed.
    /// Answers how many broke.
    pub fn break_ends(
        &mut self,
        mut is_meant: impl FnMut(&End, &End) -> bool,
        mut at_ns: impl FnMut() -> u64,
    ) -> usize {
        let mut count = 0;
        for conn in self.links.values_mut() {
            for side in [0, 1] {
                let (own, other) = conn.pair(side);
                if is_meant(own, other) && own.breaks_at_ns > 0 {
                    own.breaks_at_ns = own.breaks_at_ns.min(at_ns());
                    count += 1;
                }
            }
        }
        count
    }

    /// A boot is over: its ends are gone, and so is all that was on its way to them.
    pub fn drop_boot(&mut self, node: NodeId) {
        self.waiting.remove(&node);
        for conn in self.links.values_mut() {
            for end in &mut conn.ends {
                if end.node == node {
                    end.breaks_at_ns = 0;
                    end.inbox.clear();
                    end.inbox_bytes = 0;
                }
            }
        }
        self.links
            .retain(|_, conn| conn.ends.iter().any(|end| end.breaks_at_ns > 0));
    }

    /// Stalls frames from one node to another. Ends of their links give up at times drawn.
    pub fn cut(&mut self, from: NodeId, to: NodeId, mut gives_up_ns: impl FnMut() -> u64) {
        self.cuts.insert((from, to));
        for conn in self
            .links
            .values_mut()
            .filter(|conn| conn.is_between(from, to))
        {
            for end in &mut conn.ends {
                end.stalled_until_ns = end.stalled_until_ns.min(gives_up_ns());
            }
        }
    }

    /// Ends a cut. Links whose ends did not give up yet live on.
    pub fn heal(&mut self, from: NodeId, to: NodeId, now_ns: u64) {
        self.cuts.remove(&(from, to));
        if self.cuts.contains(&(to, from)) {
            return;
        }
        for conn in self
            .links
            .values_mut()
            .filter(|conn| conn.is_between(from, to))
        {
            for end in &mut conn.ends {
                if end.stalled_until_ns > now_ns {
                    end.stalled_until_ns = NEVER;
                }
            }
        }
    }

    /// All cuts.
    #[must_use]
    pub fn cuts(&self) -> Vec<(NodeId, NodeId)> {
        self.cuts.iter().copied().collect()
    }

    /// Bytes and frames of every ordered pair so far.
    #[must_use]
    pub fn traffic(&self) -> &BTreeMap<(NodeId, NodeId), Traffic> {
        &self.traffic
    }
}
