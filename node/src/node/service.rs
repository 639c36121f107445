//! [driver] A node, asked through the API: reading, writing, following.
//!
//! One file a group of calls; `render.rs` turns what the log and the views hold into messages.

mod blame;
mod diff;
mod follow;
mod history;
mod links;
mod listing;
mod lives;
mod members;
mod metrics;
mod moment;
mod notices;
mod operations;
mod outcome;
mod plans;
mod prepare;
mod prune;
mod read;
mod relay;
mod removal;
mod render;
mod revert;
mod status;
mod tags;
mod ticket;
mod tickets;
mod tree;
mod verify;
mod versions;
mod volumes;
mod walk;
mod write;

use crate::node::Node;
use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, Service, Upload};
use aber_log::env::kv::KvProblem;
use aber_log::env::{Env, Runtime};
use aber_materializer::view::is_forgotten;
use aber_proto::generated::v1;
use aber_proto::{PartitionId, PlanId, TreePath};
use plans::Plans;
use removal::Planned;
use revert::Way;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// What the keys of all staged contents among the log's notes start with.
pub(super) const STAGED_PREFIX: &[u8] = b"u/";
/// Plans of removals kept at once.
const PLANS: usize = 64;
/// Plans of ways back kept at once; each may hold a million events.
const WAYS: usize = 32;
/// How long a read waits for `min_index`.
const MIN_INDEX_WAIT: Duration = Duration::from_secs(30);

/// The services of a node. Cheap to clone.
pub struct NodeService<E: Env> {
    node: Node<E>,
    stop: mpsc::Sender<()>,
    plans: Arc<Mutex<Plans<String, Planned>>>,
    ways: Arc<Mutex<Plans<PlanId, Way>>>,
}

impl<E: Env> Clone for NodeService<E> {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
            stop: self.stop.clone(),
            plans: Arc::clone(&self.plans),
            ways: Arc::clone(&self.ways),
        }
    }
}

impl<E: Env> NodeService<E> {
    /// The services of `node`; `stop` is told when somebody asks it to stop.
    pub fn new(node: Node<E>, stop: mpsc::Sender<()>) -> Self {
        Self {
            node,
            stop,
            plans: Arc::new(Mutex::new(Plans::new(PLANS))),
            ways: Arc::new(Mutex::new(Plans::new(WAYS))),
        }
    }

    /// Waits until this node has applied an entry (promise C4).
    async fn wait_for(&self, read: Option<&v1::ReadOptions>) -> Result<(), Problem> {
        let Some(wanted) = read.and_then(|read| read.min_index.as_ref()) else {
            return Ok(());
        };
        let partition = PartitionId(wanted.partition);
        let Some(applied) = self.node.parts.applied.get(&partition) else {
            return Err(
                Problem::new(Reason::EntryNotFound).with("entry", render::entry_text(wanted))
            );
        };
        let mut applied = applied.clone();
        let reached = applied.until(|index| index.is_some_and(|index| index >= wanted.index));
        let runtime = self.node.parts.env.runtime();
        if runtime.timeout(MIN_INDEX_WAIT, reached).await.is_none() {
            let at = self
                .node
                .parts
                .applied
                .get(&partition)
                .and_then(|a| a.get())
                .unwrap_or(0);
            return Err(Problem::new(Reason::IndexNotReached)
                .with("wanted", render::entry_text(wanted))
                .with("applied", format!("{partition}:{at}")));
        }
        Ok(())
    }
}

/// The index failed under a read; the replay sees to its rebuild.
fn index_problem(problem: KvProblem) -> Problem {
    if is_forgotten(&problem) {
        let detail = "retention has let go of something that was there at that time; aber log PATH \
            --versions says which versions of a file are left";
        return Problem::new(Reason::HistoryForgotten).with("detail", detail);
    }
    Problem::new(Reason::StorageFailed).with("detail", problem)
}

fn parse_path(text: &str) -> Result<TreePath, Problem> {
    TreePath::parse(text).map_err(|problem| Problem::name(text, problem))
}

impl<E: Env> Service for NodeService<E> {
    async fn get_item(&self, request: v1::GetItemRequest) -> Answer<v1::GetItemResponse> {
        self.read_item(request).await
    }

    async fn list_items(&self, request: v1::ListItemsRequest) -> Answer<v1::ListItemsResponse> {
        self.read_list(request).await
    }

    async fn download(
        &self,
        request: v1::DownloadRequest,
    ) -> Answer<Answers<v1::DownloadResponse>> {
        self.read_content(request).await
    }

    async fn download_tree(
        &self,
        request: v1::DownloadTreeRequest,
    ) -> Answer<Answers<v1::DownloadTreeResponse>> {
        self.read_tree(request).await
    }

    async fn upload(
        &self,
        header: v1::UploadHeader,
        content: Upload,
    ) -> Answer<v1::UploadResponse> {
        self.write_upload(header, content).await
    }

    async fn append_change(
        &self,
        request: v1::AppendChangeRequest,
    ) -> Answer<v1::AppendChangeResponse> {
        self.write_change(request).await
    }

    async fn watch_change(
        &self,
        request: v1::WatchChangeRequest,
    ) -> Answer<Answers<v1::WatchChangeResponse>> {
        self.follow_change(request).await
    }

    async fn list_entries(
        &self,
        request: v1::ListEntriesRequest,
    ) -> Answer<v1::ListEntriesResponse> {
        self.history_list(request)
    }

    async fn plan_revert(&self, request: v1::PlanRevertRequest) -> Answer<v1::PlanRevertResponse> {
        self.plan_way_back(request).await
    }

    async fn apply_revert(
        &self,
        request: v1::ApplyRevertRequest,
    ) -> Answer<Answers<v1::ApplyRevertResponse>> {
        self.go_back(request)
    }

    async fn resolve_moment(
        &self,
        request: v1::ResolveMomentRequest,
    ) -> Answer<v1::ResolveMomentResponse> {
        self.resolve(request).await
    }

    async fn get_entry(&self, request: v1::GetEntryRequest) -> Answer<v1::GetEntryResponse> {
        self.history_entry(request)
    }

    async fn list_versions(
        &self,
        request: v1::ListVersionsRequest,
    ) -> Answer<v1::ListVersionsResponse> {
        self.versions(request)
    }

    async fn diff(&self, request: v1::DiffRequest) -> Answer<Answers<v1::DiffResponse>> {
        self.differences(request)
    }

    async fn blame(&self, request: v1::BlameRequest) -> Answer<v1::BlameResponse> {
        self.blame_of(request).await
    }

    async fn watch(&self, request: v1::WatchRequest) -> Answer<Answers<v1::WatchResponse>> {
        self.follow_all(request)
    }

    async fn follow_partition(
        &self,
        request: v1::FollowPartitionRequest,
    ) -> Answer<Answers<v1::FollowPartitionResponse>> {
        self.follow_one(request)
    }

    async fn read_snapshot(
        &self,
        request: v1::ReadSnapshotRequest,
    ) -> Answer<v1::ReadSnapshotResponse> {
        self.describe_snapshot(request)
    }

    async fn read_chunks(
        &self,
        request: v1::ReadChunksRequest,
    ) -> Answer<Answers<v1::ReadChunksResponse>> {
        self.send_chunks(request)
    }

    async fn get_status(&self, _request: v1::GetStatusRequest) -> Answer<v1::GetStatusResponse> {
        self.status().await
    }

    async fn list_members(
        &self,
        request: v1::ListMembersRequest,
    ) -> Answer<v1::ListMembersResponse> {
        self.members(&request)
    }

    async fn update_member(
        &self,
        request: v1::UpdateMemberRequest,
    ) -> Answer<v1::UpdateMemberResponse> {
        self.set_member(request).await
    }

    async fn list_links(&self, _request: v1::ListLinksRequest) -> Answer<v1::ListLinksResponse> {
        Ok(self.links())
    }

    async fn get_relay(&self, request: v1::GetRelayRequest) -> Answer<v1::GetRelayResponse> {
        self.relay(&request)
    }

    async fn get_metrics(&self, _request: v1::GetMetricsRequest) -> Answer<v1::GetMetricsResponse> {
        Ok(self.metrics())
    }

    async fn list_tickets(
        &self,
        request: v1::ListTicketsRequest,
    ) -> Answer<v1::ListTicketsResponse> {
        self.tickets(&request)
    }

    async fn revoke_ticket(
        &self,
        request: v1::RevokeTicketRequest,
    ) -> Answer<v1::RevokeTicketResponse> {
        self.revoke(request).await
    }

    async fn plan_removal(
        &self,
        request: v1::PlanRemovalRequest,
    ) -> Answer<v1::PlanRemovalResponse> {
        self.plan_member_removal(request).await
    }

    async fn apply_cluster_plan(
        &self,
        request: v1::ApplyClusterPlanRequest,
    ) -> Answer<Answers<v1::ApplyClusterPlanResponse>> {
        self.apply_plan(request)
    }

    async fn list_volumes(
        &self,
        _request: v1::ListVolumesRequest,
    ) -> Answer<v1::ListVolumesResponse> {
        self.volumes()
    }

    async fn list_partitions(
        &self,
        request: v1::ListPartitionsRequest,
    ) -> Answer<v1::ListPartitionsResponse> {
        self.partitions(request.with_heads)
    }

    async fn create_ticket(
        &self,
        request: v1::CreateTicketRequest,
    ) -> Answer<v1::CreateTicketResponse> {
        self.make_ticket(request).await
    }

    async fn verify(&self, request: v1::VerifyRequest) -> Answer<Answers<v1::VerifyResponse>> {
        self.verify_all(request)
    }

    async fn stop(&self, _request: v1::StopRequest) -> Answer<v1::StopResponse> {
        // A stop that is under way already is what was asked for.
        let _full = self.stop.try_send(()).is_err();
        Ok(v1::StopResponse {})
    }

    async fn create_tag(&self, request: v1::CreateTagRequest) -> Answer<v1::CreateTagResponse> {
        self.set_tag(request).await
    }

    async fn list_tags(&self, request: v1::ListTagsRequest) -> Answer<v1::ListTagsResponse> {
        self.tags(&request)
    }

    async fn delete_tag(&self, request: v1::DeleteTagRequest) -> Answer<v1::DeleteTagResponse> {
        self.remove_tag(request).await
    }

    async fn update_volume(
        &self,
        request: v1::UpdateVolumeRequest,
    ) -> Answer<v1::UpdateVolumeResponse> {
        self.set_volume(request).await
    }

    async fn plan_prune(&self, request: v1::PlanPruneRequest) -> Answer<v1::PlanPruneResponse> {
        self.prune_plan(&request).await
    }

    async fn apply_prune(
        &self,
        request: v1::ApplyPruneRequest,
    ) -> Answer<Answers<v1::ApplyPruneResponse>> {
        self.prune_now(&request)
    }
}
