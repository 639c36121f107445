//! [pure] Parents that lag: their lines carry far less than they say.
//!
//! Trees give each node as much to send as its declared uplink bears. One that carries an eighth of that
//! holds up its stripe for everybody below it, though it lives and answers. Who waits for it asks others
//! instead, as if it were gone (`docs/protocol.md`, relay, 5). What is usual is judged by all parents
//! together: where much is under way all of them take long, and asking elsewhere would not help.

use super::bits::Bits;
use super::live::Live;
use super::state::Core;
use aber_proto::{Instant, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Overdue chunks of a stripe by which its parent counts as lagging.
const OVERDUE: usize = 3;
/// For so long; then it is waited for again.
const AVOIDED: Duration = Duration::from_secs(60);
/// What was not sent on for so long, or up to twice that, has waited for long.
const LONG: Duration = Duration::from_secs(5);
/// Arrivals over which the delay of a sender is a mean.
const DELAYS: u32 = 16;

/// What is known of how quickly others send what they are to send.
#[derive(Default)]
pub(super) struct Laggards {
    until: BTreeMap<NodeId, Instant>,
    /// How long after others a chunk comes that this node sends unasked.
    delays: BTreeMap<NodeId, Duration>,
}

impl Laggards {
    /// A chunk came unasked, so long after somebody was known to have it.
    pub(super) fn came(&mut self, from: NodeId, delay: Duration) {
        let mean = self.delays.entry(from).or_insert(delay);
        *mean = (*mean * (DELAYS - 1) + delay) / DELAYS;
    }

    /// How long after others this node gets a chunk from a sender like most.
    pub(super) fn usual_delay(&self) -> Duration {
        let mut delays: Vec<Duration> = self.delays.values().copied().collect();
        delays.sort_unstable();
        let middle = delays.len().saturating_sub(1) / 2;
        delays.get(middle).copied().unwrap_or_default()
    }

    /// Whether a node is not waited for.
    pub(super) fn is_one(&self, node: NodeId) -> bool {
        self.until.contains_key(&node)
    }

    /// A node is gone, and may be another when it is back.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.until.remove(&node);
        self.delays.remove(&node);
    }
}

/// Which chunks have been here for a while, looked at now and then.
#[derive(Default)]
pub(super) struct Waits {
    looked_at: Instant,
    before: Bits,
    long: Bits,
}

impl Waits {
    /// Looks at what is here, and takes what was here the last time for what has been here for long.
    pub(super) fn look(&mut self, mine: Bits, now: Instant) {
        if now >= self.looked_at + LONG {
            self.looked_at = now;
            self.long = std::mem::replace(&mut self.before, mine);
        }
    }
}

impl Live {
    /// Whom this node has kept waiting for long: told what is here, they can ask others for it.
    pub(super) fn kept_waiting(&self, is_alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let outlets = self.outlets(is_alive);
        // What is on its way there waits, too: on a line that lags it may be for long.
        let waiting = outlets.filter(|outlet| {
            let stripe = self.stripes.get(outlet.stripe).copied();
            let waits = stripe.unwrap_or_default().and(self.waits.long);
            !waits.without(self.had_by(outlet.child)).is_empty()
        });
        waiting.map(|outlet| outlet.child).collect()
    }
}

impl Core {
    /// Whether a node lags, as far as this parcel goes: not its writer, of whom it all comes, and not for
    /// one who asks for it anyway.
    pub(super) fn lags<'a>(&'a self, live: &Live) -> impl Fn(NodeId) -> bool + Copy + use<'a> {
        let (writer, is_late) = (live.writer(), live.is_late);
        move |node| !is_late && node != writer && self.laggards.is_one(node)
    }

    /// Finds parents that lag, and gives those another chance that did so a while ago.
    pub(super) fn find_laggards(&mut self, now: Instant) {
        self.laggards.until.retain(|_, until| now < *until);
        let mut found = Vec::new();
        for live in self.live.values() {
            if !live.is_complete() && !live.is_late {
                found.extend(self.laggards_of(live, now));
            }
        }
        for node in found {
            self.laggards.until.insert(node, now + AVOIDED);
        }
    }

    fn laggards_of(&self, live: &Live, now: Instant) -> Vec<NodeId> {
        let usual = self.laggards.usual_delay();
        let is_overdue = |stripe: usize, number: usize| {
            let seen = live.seen.get(&number);
            seen.is_some_and(|seen| now >= *seen + live.lag(stripe, usual))
        };
        let parents = live.stripes.iter().enumerate().filter_map(|(stripe, all)| {
            let parent = live.parent(self.me, stripe, |node| self.is_alive(node))?;
            // It can be blamed for what it has alone: those above it may lag. What anybody has came
            // through those whom the writer itself feeds.
            let above = live.way.as_ref()?.trees.parent(stripe, parent);
            let there = match above == Some(live.writer()) {
                true => *all,
                false => all.and(live.had_by(parent)),
            };
            let due = there.without(live.mine);
            let due = due.iter().filter(|number| is_overdue(stripe, *number));
            (due.count() >= OVERDUE.min(all.len()).max(1)).then_some(parent)
        });
        parents.filter(|node| *node != live.writer()).collect()
    }
}
