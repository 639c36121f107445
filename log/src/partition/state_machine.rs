//! [adapter] What openraft calls its state machine: it publishes how far the log is committed, and
//! holds no view.
//!
//! After a start entries may be applied again from the newest snapshot on; publishing is
//! idempotent. Whether a change was `applied` or `rejected` is asked of the view at its index.

use super::Shared;
use super::raft_types::{C, Position, from_raft_id, snapshot_meta};
use crate::env::{Env, Runtime};
use crate::reader::SnapshotManifest;
use futures::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::Arc;

/// The committed position of one group.
pub struct StateMachine<E: Env> {
    pub(super) shared: Arc<Shared<E>>,
    pub(super) applied: Option<LogIdOf<C>>,
    pub(super) membership: StoredMembershipOf<C>,
}

/// Hands out the newest snapshot of the view.
pub struct SnapshotBuilder<E: Env> {
    shared: Arc<Shared<E>>,
}

impl<E: Env> Shared<E> {
    fn newest_snapshot(&self) -> Result<Option<SnapshotOf<C, SnapshotManifest>>, io::Error> {
        let Some(snapshot) = self.snapshots.newest(self.partition) else {
            return Ok(None);
        };
        let meta = snapshot_meta(&snapshot).map_err(io::Error::other)?;
        Ok(Some(SnapshotOf::<C, SnapshotManifest> { meta, snapshot }))
    }
}

impl<E: Env> RaftSnapshotBuilder<C> for SnapshotBuilder<E> {
    type SnapshotData = SnapshotManifest;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<C, SnapshotManifest>, io::Error> {
        let newest = self.shared.newest_snapshot()?;
        newest.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no snapshot was made yet"))
    }
}

impl<E: Env> RaftStateMachine<C> for StateMachine<E> {
    type SnapshotData = SnapshotManifest;
    type SnapshotBuilder = SnapshotBuilder<E>;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<C>>, StoredMembershipOf<C>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        let mut last = None;
        while let Some((entry, responder)) = entries.try_next().await? {
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.membership =
                    StoredMembershipOf::<C>::new(Some(entry.log_id), membership.clone());
                self.shared.membership.set(self.membership.clone());
            }
            self.applied = Some(entry.log_id);
            last = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Position(entry.log_id.index));
            }
        }
        if let Some(last) = last {
            let id = from_raft_id(&last);
            let partition = self.shared.partition;
            self.shared
                .runtime
                .trace(format_args!("commit {partition}:{id}"));
            self.shared.publish_committed(id);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<E> {
        SnapshotBuilder {
            shared: Arc::clone(&self.shared),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<C>,
        snapshot: SnapshotManifest,
    ) -> Result<(), io::Error> {
        let id = snapshot.log_id;
        self.shared.remember_installed(id, snapshot.chain);
        let partition = self.shared.partition;
        self.shared
            .runtime
            .trace(format_args!("install {partition}:{id}"));
        self.shared
            .snapshots
            .install(snapshot)
            .await
            .map_err(io::Error::other)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.shared.membership.set(self.membership.clone());
        self.shared.publish_committed(id);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<C, SnapshotManifest>>, io::Error> {
        self.shared.newest_snapshot()
    }
}
