//! What a test sees of a swarm.

use super::super::count::RelayState;
use super::super::parcel::ParcelId;
use super::super::state::Core;
use super::Swarm;
use aber_proto::NodeId;
use std::collections::BTreeSet;

impl Swarm {
    /// Whether all who live and are honest have so many chunks.
    pub(in super::super) fn all_have(&self, count: usize) -> bool {
        let mut living = self
            .sites
            .values()
            .filter(|site| !site.is_down && !site.is_liar);
        living.all(|site| site.has.len() >= count)
    }

    /// Whether all have all, but for some that are not asked.
    pub(in super::super) fn others_have(&self, but: &[NodeId], count: usize) -> bool {
        let mut others = self.sites.iter().filter(|(id, _)| !but.contains(id));
        others.all(|(_, site)| site.has.len() >= count)
    }

    /// Whether all who live have all of a small parcel.
    pub(in super::super) fn all_got(&self, parcel: &ParcelId) -> bool {
        let mut living = self.sites.values().filter(|site| !site.is_down);
        living.all(|site| site.core.mine_of(parcel).is_some_and(|mine| mine.has(0)))
    }

    pub(in super::super) fn has(&self, id: NodeId) -> usize {
        self.sites.get(&id).map_or(0, |site| site.has.len())
    }

    pub(in super::super) fn holders(&self, id: NodeId, parcel: &ParcelId) -> usize {
        let site = self.sites.get(&id);
        let holders = site.and_then(|site| site.core.holders_of(parcel));
        holders.map_or(0, BTreeSet::len)
    }

    pub(in super::super) fn sent(&self, id: NodeId) -> u64 {
        self.sites.get(&id).map_or(0, |site| site.sent)
    }

    pub(in super::super) fn core(&mut self, id: NodeId) -> &mut Core {
        &mut self.site(id).core
    }

    pub(in super::super) fn look(&self, id: NodeId) -> RelayState {
        let site = self.sites.get(&id);
        site.map(|site| site.core.look(self.now))
            .unwrap_or_default()
    }

    pub(in super::super) fn twice(&self) -> u64 {
        self.sites.values().map(|site| site.got_twice).sum()
    }

    /// Seconds until every line could have brought `bytes` of `writer` to all.
    pub(in super::super) fn bound(&self, writer: NodeId, bytes: u64) -> f64 {
        let kbit: u64 = self.sites.values().map(|site| site.kbit).sum();
        let own = self.sites.get(&writer).map_or(1, |site| site.kbit);
        let seconds = |bytes: u64, kbit: u64| bytes as f64 / (kbit as f64 * 125.0);
        seconds(bytes, own).max(seconds(bytes * (self.sites.len() as u64 - 1), kbit))
    }
}
