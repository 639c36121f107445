//! [adapter] What the relay asks about members: whose announcements count, and in which layout.

use super::layout::layout_of;
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::relay::Roster;
use aber_log::relay::parcel::{Announcement, ParcelId};
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_proto::{ChunkRef, ClusterId, Role, SecretKey};
use std::sync::Arc;

/// The members as this node knows them, and its own key.
pub(super) struct NodeRoster {
    pub(super) key: Arc<SecretKey>,
    pub(super) cluster: ClusterId,
    pub(super) members: Watched<Arc<Members>>,
}

impl Roster for NodeRoster {
    fn sign(&self, id: ParcelId, chunks: Vec<ChunkRef>) -> Announcement {
        Announcement::sign(id, chunks, &self.cluster, &self.key)
    }

    fn is_good(&self, announcement: &Announcement) -> bool {
        let members = self.members.get();
        let Some(writer) = members.member(announcement.id.writer) else {
            return false;
        };
        let may_write = matches!(writer.role(), Some(Role::Admin | Role::Writer));
        may_write && announcement.is_by(&self.cluster, &writer.key)
    }
}

/// Gives the relay the layout as it is now, and from then on whenever members change.
pub(super) fn mind_layout<E: Env>(
    env: &E,
    content: NodeContent<E>,
    mut members: Watched<Arc<Members>>,
) {
    let set = move |members: &Members| {
        if let Some(layout) = layout_of(members) {
            content.relay().set_layout(layout);
        }
    };
    set(&members.get());
    env.runtime().spawn("layout", async move {
        loop {
            let members = members.changed().await;
            set(&members);
        }
    });
}
