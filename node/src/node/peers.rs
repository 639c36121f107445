//! [driver] Whom this node has links to: those whom the control partition has as members, and, while
//! it has not told yet, those whom the inviter named. Where neighbours are declared, to those alone;
//! the network knows the keys of all members, so that nobody is refused as none. And how fast it
//! sends to them: as its own row says.

use super::Contact;
use super::layout::neighbours_of;
use aber_log::env::network::{Network, Peer};
use aber_log::env::{Env, Runtime};
use aber_log::mesh::Mesh;
use aber_log::watch::Watched;
use aber_materializer::members::{MemberRow, Members};
use aber_proto::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keeps links and membership equal.
pub(super) struct Peers<E: Env> {
    pub(super) env: E,
    pub(super) me: NodeId,
    pub(super) contacts: Vec<Contact>,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) mesh: Mesh<E>,
}

impl<E: Env> Peers<E> {
    /// Sets the peers as they are now, and from then on whenever members change.
    pub(super) fn start(mut self) {
        self.set(&self.members.get());
        let runtime = self.env.runtime().clone();
        runtime.spawn("peers", async move {
            loop {
                let members = self.members.changed().await;
                self.set(&members);
            }
        });
    }

    fn set(&self, members: &Members) {
        self.mesh
            .uplink()
            .set_rate(members.member(self.me).and_then(uplink_of));
        let peers = peers_of(self.me, members, &self.contacts);
        self.mesh.set_peers(&linked(self.me, members, &peers));
        self.env.network().set_peers(peers);
    }
}

/// What a row says of its node's uplink, in bits a second; `None`: nothing.
fn uplink_of(row: &MemberRow) -> Option<u64> {
    let up = row.uplink.up;
    (up > 0).then(|| up.saturating_mul(8))
}

/// Of the peers those whom this node has links to. Contacts stay until the members tell of them.
fn linked(me: NodeId, members: &Members, peers: &BTreeMap<NodeId, Peer>) -> BTreeSet<NodeId> {
    let near = neighbours_of(me, members);
    let is_linked = |node: &NodeId| near.contains(node) || members.member(*node).is_none();
    peers.keys().copied().filter(is_linked).collect()
}

fn peers_of(me: NodeId, members: &Members, contacts: &[Contact]) -> BTreeMap<NodeId, Peer> {
    let told = contacts
        .iter()
        .filter(|contact| members.member(contact.node).is_none());
    let told = told.map(|contact| (contact.node, contact.peer.clone()));
    let present = members
        .present()
        .map(|row| (row.node, peer_of(row, contacts)));
    let mut peers: BTreeMap<_, _> = told.chain(present).collect();
    peers.remove(&me);
    peers
}

/// Where its row says, then where it was said to be: a row of the genesis has no addresses where
/// the founder had none yet, and an index that was lost takes all rows since with it.
fn peer_of(row: &MemberRow, contacts: &[Contact]) -> Peer {
    let mut addresses = row.addresses.clone();
    let told = contacts.iter().find(|contact| contact.node == row.node);
    for address in told.iter().flat_map(|contact| &contact.peer.addresses) {
        if told.is_some_and(|contact| contact.peer.key == row.key) && !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    let key = row.key;
    Peer { key, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{Genesis, Member, PublicKey, Role, Timestamp};

    fn genesis(address: &str) -> Members {
        let member = |node: u64| Member {
            node: NodeId(node),
            name: format!("n{node}"),
            key: PublicKey([u8::try_from(node).expect("small"); 32]),
            role: Role::Admin,
            address: address.to_owned(),
        };
        Members::of_genesis(&Genesis {
            name: "c".to_owned(),
            created: Timestamp(1),
            members: vec![member(1), member(2)],
            voters: vec![NodeId(1)],
            partitions: 2,
            min_copies: 1,
        })
    }

    fn contact(node: u64, key: u8) -> Contact {
        Contact {
            node: NodeId(node),
            name: format!("n{node}"),
            peer: Peer {
                key: PublicKey([key; 32]),
                addresses: vec!["told:1".to_owned()],
            },
        }
    }

    /// Rows have bytes a second and 0 for what was not declared.
    #[test]
    fn the_uplink_is_as_fast_as_the_own_row_says() {
        let members = genesis("");
        let mut row = members.member(NodeId(1)).expect("a founder").clone();
        assert_eq!(uplink_of(&row), None);
        row.uplink.up = 125_000;
        assert_eq!(uplink_of(&row), Some(1_000_000));
    }

    /// A newcomer reaches a founder whose row in the genesis says nothing of where it is.
    #[test]
    fn a_contact_says_where_a_row_without_addresses_is() {
        let told = [contact(1, 1), contact(9, 9)];
        let peers = peers_of(NodeId(2), &genesis(""), &told);
        assert_eq!(peers.keys().collect::<Vec<_>>(), [&NodeId(1), &NodeId(9)]);
        assert_eq!(peers[&NodeId(1)].addresses, ["told:1"]);
        let peers = peers_of(NodeId(2), &genesis("row:1"), &told);
        assert_eq!(peers[&NodeId(1)].addresses, ["row:1", "told:1"]);
    }

    #[test]
    fn links_go_to_neighbours_and_to_contacts_that_no_row_tells_of() {
        use super::super::layout::testing::{member, members};
        let chain = [
            member(1, 0, &[2]),
            member(2, 0, &[1, 3]),
            member(3, 0, &[2]),
        ];
        let members = members(&chain);
        let links = |me: u64, told: &[Contact]| -> Vec<u64> {
            let peers = peers_of(NodeId(me), &members, told);
            let found = linked(NodeId(me), &members, &peers);
            found.into_iter().map(|node| node.0).collect()
        };
        assert_eq!(links(1, &[]), [2]);
        assert_eq!(links(2, &[]), [1, 3]);
        assert_eq!(links(3, &[contact(1, 1), contact(9, 9)]), [2, 9]);
        assert_eq!(links(4, &[]), [1, 2, 3], "its row has not come yet");
    }

    /// S3: what was told never stands against the membership.
    #[test]
    fn a_contact_with_another_key_says_nothing() {
        let peers = peers_of(NodeId(2), &genesis("row:1"), &[contact(1, 8)]);
        assert_eq!(peers[&NodeId(1)].addresses, ["row:1"]);
        assert_eq!(peers[&NodeId(1)].key, PublicKey([1; 32]));
    }
}
