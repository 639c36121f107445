//! [pure] Which parcels may have something to send, and to whom.
//!
//! A hint that is never too small: whoever looks and finds nothing takes the entry out, and whatever
//! may give a parcel something to send puts it in again. So a look costs by what is under way, not by
//! what is remembered: finished parcels are in no set.

use super::state::Key;
use aber_proto::{Instant, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Parcels that go before all bigger ones, and those.
#[derive(Default)]
pub(super) struct Queues {
    pub(super) small: Ready,
    pub(super) big: Ready,
}

impl Queues {
    pub(super) fn of(&mut self, is_small: bool) -> &mut Ready {
        match is_small {
            true => &mut self.small,
            false => &mut self.big,
        }
    }

    /// A parcel is forgotten.
    pub(super) fn forget(&mut self, key: Key) {
        self.small.forget(key);
        self.big.forget(key);
    }
}

/// Parcels by who may lack something of them.
#[derive(Default)]
pub(super) struct Ready {
    now: BTreeMap<NodeId, BTreeSet<Key>>,
    /// The same of those who take nothing before a time.
    later: BTreeSet<(Instant, Key, NodeId)>,
}

impl Ready {
    /// `to` may lack something of a parcel that can be sent.
    pub(super) fn add(&mut self, key: Key, to: NodeId) {
        self.now.entry(to).or_default().insert(key);
    }

    /// `to` lacks nothing of a parcel, or cannot be sent it.
    pub(super) fn take(&mut self, key: Key, to: NodeId) {
        if let Some(keys) = self.now.get_mut(&to) {
            keys.remove(&key);
            if keys.is_empty() {
                self.now.remove(&to);
            }
        }
    }

    /// `to` takes nothing of a parcel before a time.
    pub(super) fn put_off(&mut self, key: Key, to: NodeId, until: Instant) {
        self.take(key, to);
        self.later.insert((until, key, to));
    }

    /// What was put off until now comes back.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((until, key, to)) = self.later.first().copied() {
            if until > now {
                return;
            }
            self.later.pop_first();
            self.add(key, to);
        }
    }

    /// Nobody lacks anything of a parcel now.
    pub(super) fn take_all(&mut self, key: Key) {
        self.now.retain(|_, keys| {
            keys.remove(&key);
            !keys.is_empty()
        });
    }

    fn forget(&mut self, key: Key) {
        self.take_all(key);
        self.later.retain(|(_, of, _)| *of != key);
    }

    /// Who may lack something of a parcel now.
    pub(super) fn who_lacks(&self, key: Key) -> Vec<NodeId> {
        let lacking = self.now.iter().filter(|(_, keys)| keys.contains(&key));
        lacking.map(|(to, _)| *to).collect()
    }

    /// The parcels of which somebody who `is_open` may lack something, in their order.
    pub(super) fn keys(&self, is_open: impl Fn(NodeId) -> bool) -> BTreeSet<Key> {
        let open = self.now.iter().filter(|(to, _)| is_open(**to));
        open.flat_map(|(_, keys)| keys).copied().collect()
    }

    /// The first parcel of which anybody may lack something.
    pub(super) fn first(&self) -> Option<Key> {
        let firsts = self.now.values().filter_map(BTreeSet::first);
        firsts.min().copied()
    }

    /// Whether somebody is known to lack something of a parcel, now or later.
    #[cfg(test)]
    pub(super) fn has(&self, key: Key, to: NodeId) -> bool {
        let is_later = |(_, of, node): &(Instant, Key, NodeId)| (*of, *node) == (key, to);
        let now = self.now.get(&to).is_some_and(|keys| keys.contains(&key));
        now || self.later.iter().any(is_later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_off_comes_back_in_time_and_what_is_forgotten_does_not() {
        let mut ready = Ready::default();
        let (one, two) = (NodeId(1), NodeId(2));
        ready.add(7, one);
        ready.add(5, two);
        ready.put_off(5, two, Instant(100));
        ready.put_off(6, two, Instant(100));
        assert_eq!(ready.first(), Some(7));
        ready.forget(6);
        ready.wake(Instant(99));
        assert_eq!(ready.keys(|_| true), [7].into());
        ready.wake(Instant(100));
        assert_eq!(ready.keys(|_| true), [5, 7].into());
        assert_eq!(ready.keys(|to| to == one), [7].into());
        ready.take(7, one);
        ready.forget(5);
        assert!(ready.now.is_empty() && ready.later.is_empty());
    }
}
