//! [pure] Whom links may be opened to and taken from: the members, their keys and addresses.

use aber_log::env::network::{PEER_ADDRESSES, Peer};
use aber_proto::{NodeId, PublicKey, limit};
use std::collections::{BTreeMap, BTreeSet};

/// The table of members.
#[derive(Default)]
pub(super) struct Peers {
    rows: BTreeMap<NodeId, Peer>,
    keys: BTreeSet<PublicKey>,
    /// Where each was reached the last time.
    best: BTreeMap<NodeId, String>,
}

impl Peers {
    /// Replaces the table. Answers the keys that do not stand for the node that they stood for:
    /// their links have to close.
    pub(super) fn set(&mut self, rows: BTreeMap<NodeId, Peer>) -> BTreeSet<PublicKey> {
        let is_gone =
            |(node, peer): &(&NodeId, &Peer)| rows.get(node).is_none_or(|now| now.key != peer.key);
        let gone = self.rows.iter().filter(is_gone);
        let gone = gone.map(|(_, peer)| peer.key).collect();
        self.best.retain(|node, _| rows.contains_key(node));
        self.keys = rows.values().map(|peer| peer.key).collect();
        self.rows = rows;
        gone
    }

    /// Whether a key is a member's.
    pub(super) fn has(&self, key: &PublicKey) -> bool {
        self.keys.contains(key)
    }

    /// The key of a member.
    pub(super) fn key_of(&self, node: NodeId) -> Option<PublicKey> {
        self.rows.get(&node).map(|peer| peer.key)
    }

    /// The member with a key.
    pub(super) fn node_of(&self, key: &PublicKey) -> Option<NodeId> {
        let found = self.rows.iter().find(|(_, peer)| peer.key == *key);
        found.map(|(node, _)| *node)
    }

    /// Where to look for a member: first where it was the last time.
    pub(super) fn addresses(&self, node: NodeId) -> Vec<String> {
        let Some(peer) = self.rows.get(&node) else {
            return Vec::new();
        };
        let fits = |address: &&String| !address.is_empty() && address.len() <= limit::ADDRESS_BYTES;
        let usable = peer.addresses.iter().filter(fits).take(PEER_ADDRESSES);
        let mut usable: Vec<String> = usable.cloned().collect();
        let best = self.best.get(&node);
        // Stable: the others keep their order.
        usable.sort_by_key(|address| Some(address) != best);
        usable
    }

    /// Where a member was reached the last time.
    pub(super) fn reached_at(&self, node: NodeId) -> Option<String> {
        self.best.get(&node).cloned()
    }

    /// Notes that a member was reached there.
    pub(super) fn reached(&mut self, node: NodeId, address: &str) {
        if self.rows.contains_key(&node) {
            self.best.insert(node, address.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(key: u8, addresses: &[&str]) -> Peer {
        Peer {
            key: PublicKey([key; 32]),
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn the_address_that_worked_comes_first() {
        let mut peers = Peers::default();
        let long = "x".repeat(limit::ADDRESS_BYTES + 1);
        let row = peer(7, &["a:1", "", "[::1]:2", &long, "c:3"]);
        peers.set(BTreeMap::from([(NodeId(2), row)]));
        assert_eq!(peers.addresses(NodeId(2)), ["a:1", "[::1]:2", "c:3"]);
        peers.reached(NodeId(2), "c:3");
        assert_eq!(peers.addresses(NodeId(2)), ["c:3", "a:1", "[::1]:2"]);
        assert_eq!(peers.reached_at(NodeId(2)).as_deref(), Some("c:3"));
        let many: Vec<String> = (0..100).map(|port| format!("a:{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        peers.set(BTreeMap::from([(NodeId(2), peer(7, &many))]));
        assert_eq!(peers.addresses(NodeId(2)).len(), PEER_ADDRESSES);
        peers.reached(NodeId(3), "a:1");
        assert!(peers.best.len() == 1 && peers.addresses(NodeId(3)).is_empty());
    }

    /// S3: a key that is gone, was replaced, or is another node's now, loses its links.
    #[test]
    fn a_key_that_does_not_stand_for_its_node_any_more_is_named() {
        let (one, two, three) = (NodeId(1), NodeId(2), NodeId(3));
        let mut peers = Peers::default();
        let rows = [
            (one, peer(1, &[])),
            (two, peer(2, &[])),
            (three, peer(3, &[])),
        ];
        assert!(peers.set(BTreeMap::from(rows.clone())).is_empty());
        assert!(peers.set(BTreeMap::from(rows)).is_empty());
        assert_eq!(peers.node_of(&PublicKey([2; 32])), Some(two));
        // Two is gone, and three has a new key.
        let gone = peers.set(BTreeMap::from([
            (one, peer(1, &["a:1"])),
            (three, peer(9, &[])),
        ]));
        assert_eq!(
            gone,
            BTreeSet::from([PublicKey([2; 32]), PublicKey([3; 32])])
        );
        assert!(!peers.has(&PublicKey([2; 32])) && peers.has(&PublicKey([9; 32])));
        assert_eq!(peers.key_of(three), Some(PublicKey([9; 32])));
        // One's key became four's.
        let gone = peers.set(BTreeMap::from([(NodeId(4), peer(1, &[]))]));
        assert!(gone.contains(&PublicKey([1; 32])));
    }
}
