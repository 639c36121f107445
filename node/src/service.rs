//! What a node can be asked: one method a call of the API, over the API's own messages.
//!
//! This is the seam between a node's inside and its faces: gRPC adapters, gateways and the
//! simulator call it alike. Who implements it may rely on what [`crate::api`] sees to before: every
//! message is below its size limit, `WriteOptions` are present and their `wait_at_most` is set and
//! at most [`WAIT_MOST`]. Nothing else is checked: paths, ids and tokens are as the caller sent
//! them.
//!
//! A streamed answer is a bounded queue whose receiver is handed out at once; the sender's side
//! stops when sending fails, which says that the caller went away.

use crate::reason::{Problem, Reason};
use aber_proto::generated::v1;
use bytes::Bytes;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest time a write waits for its level of acknowledgement within one call: a second below the
/// deadline of unary calls, so that the answer still arrives.
pub const WAIT_MOST: Duration = Duration::from_secs(59);

/// Messages a streamed answer may queue before its sender waits.
pub const STREAM_QUEUE: usize = 4;

/// A streamed answer: messages until the queue closes; a problem is the last one.
pub type Answers<T> = mpsc::Receiver<Result<T, Problem>>;

/// What an unary call answers.
pub type Answer<T> = Result<T, Problem>;

/// The content of an upload, piece by piece.
///
/// A stream that breaks is never taken for one that ended: the end is a message of its own.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Receiver<Piece>,
    received_bytes: u64,
    ended: bool,
}

/// A piece of an upload on its way to a [`Upload`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// The next bytes.
    Data(Bytes),
    /// That was all.
    End,
    /// It will not come whole.
    Broken(Problem),
}

impl Upload {
    /// An upload and the queue that feeds it.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<Piece>, Self) {
        let (sender, pieces) = mpsc::channel(STREAM_QUEUE);
        let upload = Self {
            pieces,
            received_bytes: 0,
            ended: false,
        };
        (sender, upload)
    }

    /// The next bytes, `None` once at the end.
    ///
    /// # Errors
    /// The stream broke: nothing of it may be kept as a file.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.ended {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Piece::Data(data)) => {
                self.received_bytes = self.received_bytes.saturating_add(data.len() as u64);
                Ok(Some(data))
            }
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            Some(Piece::Broken(problem)) => Err(problem),
            None => Err(Problem::new(Reason::UploadBroken).with("bytes", self.received_bytes)),
        }
    }
}

/// A node, as its callers see it.
pub trait Service: Clone + Send + Sync + 'static {
    /// What stands at one path.
    fn get_item(
        &self,
        request: v1::GetItemRequest,
    ) -> impl Future<Output = Answer<v1::GetItemResponse>> + Send;
    /// Children of a directory, or everything below it, a page at a time.
    fn list_items(
        &self,
        request: v1::ListItemsRequest,
    ) -> impl Future<Output = Answer<v1::ListItemsResponse>> + Send;
    /// Content of a file: a header, then data in order.
    fn download(
        &self,
        request: v1::DownloadRequest,
    ) -> impl Future<Output = Answer<Answers<v1::DownloadResponse>>> + Send;
    /// A directory with all that is below it, contents included.
    fn download_tree(
        &self,
        request: v1::DownloadTreeRequest,
    ) -> impl Future<Output = Answer<Answers<v1::DownloadTreeResponse>>> + Send;
    /// Writes a whole file, or stages its content.
    fn upload(
        &self,
        header: v1::UploadHeader,
        content: Upload,
    ) -> impl Future<Output = Answer<v1::UploadResponse>> + Send;
    /// Appends one change.
    fn append_change(
        &self,
        request: v1::AppendChangeRequest,
    ) -> impl Future<Output = Answer<v1::AppendChangeResponse>> + Send;
    /// Follows one change of this node through its levels.
    fn watch_change(
        &self,
        request: v1::WatchChangeRequest,
    ) -> impl Future<Output = Answer<Answers<v1::WatchChangeResponse>>> + Send;

    /// Entries as people read them.
    fn list_entries(
        &self,
        request: v1::ListEntriesRequest,
    ) -> impl Future<Output = Answer<v1::ListEntriesResponse>> + Send;
    /// What would bring things back.
    fn plan_revert(
        &self,
        request: v1::PlanRevertRequest,
    ) -> impl Future<Output = Answer<v1::PlanRevertResponse>> + Send;
    /// Brings things back as planned.
    fn apply_revert(
        &self,
        request: v1::ApplyRevertRequest,
    ) -> impl Future<Output = Answer<Answers<v1::ApplyRevertResponse>>> + Send;
    /// What a WHEN chooses.
    fn resolve_moment(
        &self,
        request: v1::ResolveMomentRequest,
    ) -> impl Future<Output = Answer<v1::ResolveMomentResponse>> + Send;
    /// One entry with the bytes that were hashed and signed.
    fn get_entry(
        &self,
        request: v1::GetEntryRequest,
    ) -> impl Future<Output = Answer<v1::GetEntryResponse>> + Send;
    /// The versions of one file.
    fn list_versions(
        &self,
        request: v1::ListVersionsRequest,
    ) -> impl Future<Output = Answer<v1::ListVersionsResponse>> + Send;
    /// What differs between two moments.
    fn diff(
        &self,
        request: v1::DiffRequest,
    ) -> impl Future<Output = Answer<Answers<v1::DiffResponse>>> + Send;
    /// Who last wrote each part of a file.
    fn blame(
        &self,
        request: v1::BlameRequest,
    ) -> impl Future<Output = Answer<v1::BlameResponse>> + Send;

    /// Every applied entry after a place in history, for ever.
    fn watch(
        &self,
        request: v1::WatchRequest,
    ) -> impl Future<Output = Answer<Answers<v1::WatchResponse>>> + Send;
    /// Committed entries of one partition as bytes, for ever.
    fn follow_partition(
        &self,
        request: v1::FollowPartitionRequest,
    ) -> impl Future<Output = Answer<Answers<v1::FollowPartitionResponse>>> + Send;
    /// The newest snapshot of a partition.
    fn read_snapshot(
        &self,
        request: v1::ReadSnapshotRequest,
    ) -> impl Future<Output = Answer<v1::ReadSnapshotResponse>> + Send;
    /// Chunks by hash, in the order asked for.
    fn read_chunks(
        &self,
        request: v1::ReadChunksRequest,
    ) -> impl Future<Output = Answer<Answers<v1::ReadChunksResponse>>> + Send;

    /// The state of this node and its cluster.
    fn get_status(
        &self,
        request: v1::GetStatusRequest,
    ) -> impl Future<Output = Answer<v1::GetStatusResponse>> + Send;
    /// The membership.
    fn list_members(
        &self,
        request: v1::ListMembersRequest,
    ) -> impl Future<Output = Answer<v1::ListMembersResponse>> + Send;
    /// Sets what is named of a member.
    fn update_member(
        &self,
        request: v1::UpdateMemberRequest,
    ) -> impl Future<Output = Answer<v1::UpdateMemberResponse>> + Send;
    /// Links to other members.
    fn list_links(
        &self,
        request: v1::ListLinksRequest,
    ) -> impl Future<Output = Answer<v1::ListLinksResponse>> + Send;
    /// The trees that content or entries go down.
    fn get_relay(
        &self,
        request: v1::GetRelayRequest,
    ) -> impl Future<Output = Answer<v1::GetRelayResponse>> + Send;
    /// Counters and gauges, as text.
    fn get_metrics(
        &self,
        request: v1::GetMetricsRequest,
    ) -> impl Future<Output = Answer<v1::GetMetricsResponse>> + Send;
    /// Tickets, never their secrets.
    fn list_tickets(
        &self,
        request: v1::ListTicketsRequest,
    ) -> impl Future<Output = Answer<v1::ListTicketsResponse>> + Send;
    /// Makes a ticket useless.
    fn revoke_ticket(
        &self,
        request: v1::RevokeTicketRequest,
    ) -> impl Future<Output = Answer<v1::RevokeTicketResponse>> + Send;
    /// What follows from removing a member.
    fn plan_removal(
        &self,
        request: v1::PlanRemovalRequest,
    ) -> impl Future<Output = Answer<v1::PlanRemovalResponse>> + Send;
    /// Does what was planned.
    fn apply_cluster_plan(
        &self,
        request: v1::ApplyClusterPlanRequest,
    ) -> impl Future<Output = Answer<Answers<v1::ApplyClusterPlanResponse>>> + Send;
    /// All volumes.
    fn list_volumes(
        &self,
        request: v1::ListVolumesRequest,
    ) -> impl Future<Output = Answer<v1::ListVolumesResponse>> + Send;
    /// All partitions.
    fn list_partitions(
        &self,
        request: v1::ListPartitionsRequest,
    ) -> impl Future<Output = Answer<v1::ListPartitionsResponse>> + Send;

    /// Makes a ticket, and answers once it is good.
    fn create_ticket(
        &self,
        request: v1::CreateTicketRequest,
    ) -> impl Future<Output = Answer<v1::CreateTicketResponse>> + Send;

    /// Reads everything again and says what it found.
    fn verify(
        &self,
        request: v1::VerifyRequest,
    ) -> impl Future<Output = Answer<Answers<v1::VerifyResponse>>> + Send;
    /// Begins to stop the daemon; the answer comes before it is gone.
    fn stop(
        &self,
        request: v1::StopRequest,
    ) -> impl Future<Output = Answer<v1::StopResponse>> + Send;
    /// Names a moment.
    fn create_tag(
        &self,
        request: v1::CreateTagRequest,
    ) -> impl Future<Output = Answer<v1::CreateTagResponse>> + Send;
    /// All tags.
    fn list_tags(
        &self,
        request: v1::ListTagsRequest,
    ) -> impl Future<Output = Answer<v1::ListTagsResponse>> + Send;
    /// Takes a tag away.
    fn delete_tag(
        &self,
        request: v1::DeleteTagRequest,
    ) -> impl Future<Output = Answer<v1::DeleteTagResponse>> + Send;
    /// Sets a volume's retention.
    fn update_volume(
        &self,
        request: v1::UpdateVolumeRequest,
    ) -> impl Future<Output = Answer<v1::UpdateVolumeResponse>> + Send;
    /// What retention lets go of now.
    fn plan_prune(
        &self,
        request: v1::PlanPruneRequest,
    ) -> impl Future<Output = Answer<v1::PlanPruneResponse>> + Send;
    /// Lets it go.
    fn apply_prune(
        &self,
        request: v1::ApplyPruneRequest,
    ) -> impl Future<Output = Answer<Answers<v1::ApplyPruneResponse>>> + Send;
}
