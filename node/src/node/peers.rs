//! [driver] Whom this node has links to: those whom the control partition has as members, and, while
//! it has not told yet, those whom the inviter named.

use super::Contact;
use aber_log::env::network::{Network, Peer};
use aber_log::env::{Env, Runtime};
use aber_log::mesh::Mesh;
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_proto::NodeId;
use std::collections::BTreeMap;
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
        let peers = peers_of(self.me, members, &self.contacts);
        self.mesh.set_peers(&peers.keys().copied().collect());
        self.env.network().set_peers(peers);
    }
}

fn peers_of(me: NodeId, members: &Members, contacts: &[Contact]) -> BTreeMap<NodeId, Peer> {
    let told = contacts
        .iter()
        .filter(|contact| members.member(contact.node).is_none());
    let told = told.map(|contact| (contact.node, contact.peer.clone()));
    let present = members.present().map(|row| {
        let (key, addresses) = (row.key, row.addresses.clone());
        (row.node, Peer { key, addresses })
    });
    let mut peers: BTreeMap<_, _> = told.chain(present).collect();
    peers.remove(&me);
    peers
}
