//! A node that answers each call of its API with nothing in it, or not at all.

use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, Service, Upload};
use aber_proto::generated::v1;

#[derive(Clone)]
pub(super) struct Mute;

macro_rules! mute {
    ({ $($name:ident $request:ident $response:ident;)* }
     { $($many:ident $asked:ident $each:ident;)* }) => {
        impl Service for Mute {
            $(async fn $name(&self, _request: v1::$request) -> Answer<v1::$response> {
                Ok(v1::$response::default())
            })*
            $(async fn $many(&self, _request: v1::$asked) -> Answer<Answers<v1::$each>> {
                Err(Problem::new(Reason::NotOffered))
            })*
            async fn upload(
                &self,
                _header: v1::UploadHeader,
                mut content: Upload,
            ) -> Answer<v1::UploadResponse> {
                while content.next().await?.is_some() {}
                Ok(v1::UploadResponse::default())
            }
        }
    };
}

mute! {
    {
    get_item GetItemRequest GetItemResponse;
    list_items ListItemsRequest ListItemsResponse;
    append_change AppendChangeRequest AppendChangeResponse;
    list_entries ListEntriesRequest ListEntriesResponse;
    get_entry GetEntryRequest GetEntryResponse;
    plan_revert PlanRevertRequest PlanRevertResponse;
    resolve_moment ResolveMomentRequest ResolveMomentResponse;
    list_versions ListVersionsRequest ListVersionsResponse;
    blame BlameRequest BlameResponse;
    read_snapshot ReadSnapshotRequest ReadSnapshotResponse;
    get_status GetStatusRequest GetStatusResponse;
    list_members ListMembersRequest ListMembersResponse;
    update_member UpdateMemberRequest UpdateMemberResponse;
    list_links ListLinksRequest ListLinksResponse;
    get_relay GetRelayRequest GetRelayResponse;
    get_metrics GetMetricsRequest GetMetricsResponse;
    list_tickets ListTicketsRequest ListTicketsResponse;
    revoke_ticket RevokeTicketRequest RevokeTicketResponse;
    plan_removal PlanRemovalRequest PlanRemovalResponse;
    list_volumes ListVolumesRequest ListVolumesResponse;
    list_partitions ListPartitionsRequest ListPartitionsResponse;
    create_ticket CreateTicketRequest CreateTicketResponse;
    stop StopRequest StopResponse;
    create_tag CreateTagRequest CreateTagResponse;
    list_tags ListTagsRequest ListTagsResponse;
    delete_tag DeleteTagRequest DeleteTagResponse;
    update_volume UpdateVolumeRequest UpdateVolumeResponse;
    plan_prune PlanPruneRequest PlanPruneResponse;
    }
    {
    download DownloadRequest DownloadResponse;
    apply_prune ApplyPruneRequest ApplyPruneResponse;
    apply_revert ApplyRevertRequest ApplyRevertResponse;
    download_tree DownloadTreeRequest DownloadTreeResponse;
    watch_change WatchChangeRequest WatchChangeResponse;
    diff DiffRequest DiffResponse;
    watch WatchRequest WatchResponse;
    follow_partition FollowPartitionRequest FollowPartitionResponse;
    read_chunks ReadChunksRequest ReadChunksResponse;
    apply_cluster_plan ApplyClusterPlanRequest ApplyClusterPlanResponse;
    verify VerifyRequest VerifyResponse;
    }
}
