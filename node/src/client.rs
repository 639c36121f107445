//! [adapter] A node, from the outside: typed calls over its socket, or over TCP
//! (`client/remote.rs`).
//!
//! Used by the command line, by `demo`, and as `Reader` and `ChunkStore` by `aber materialize`
//! (`client/follow.rs`). Connecting fails at once where nobody listens; a connection that breaks
//! later is made anew by the next call. Every problem is one of [`crate::reason`]: a refused
//! connection is DAEMON_NOT_RUNNING or NODE_AWAY, a broken one STOPPING.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client runs outside of any node, on the real clock"
)]

mod follow;
mod remote;

use crate::api::{ApiAddress, SOCKET, SocketAddress, UNARY_DEADLINE};
use crate::reason::{Problem, Reason};
use aber_proto::generated::v1;
use aber_proto::limit;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};
use tower::service_fn;

use v1::cluster_service_client::ClusterServiceClient;
use v1::file_service_client::FileServiceClient;
use v1::history_service_client::HistoryServiceClient;
use v1::upkeep_service_client::UpkeepServiceClient;
use v1::watch_service_client::WatchServiceClient;

/// A unary call is given up after this: a little after the node cuts it.
const CALL_DEADLINE: Duration = UNARY_DEADLINE.saturating_add(Duration::from_secs(5));
/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of content in one message of an upload.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Bytes that may be under way on one stream, and on one connection.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Where a node's API is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The socket of this data directory.
    Data(PathBuf),
    /// A socket by its own path.
    Socket(PathBuf),
    /// A node elsewhere.
    Remote(ApiAddress),
}

impl Target {
    /// Reads what a user names a node by: `PIN@HOST:PORT`, `unix:PATH`, or its data directory.
    ///
    /// # Errors
    /// USAGE: an address without a whole pin.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Socket(PathBuf::from(path)));
        }
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        match text.rsplit_once(':') {
            Some((host, port)) if is_port(port) && !host.is_empty() && !host.contains('/') => {
                let address = ApiAddress::parse(text);
                let address = address.map_err(|why| Problem::usage(format!("{text}: {why}")))?;
                Ok(Self::Remote(address))
            }
            _ => Ok(Self::Data(PathBuf::from(text))),
        }
    }

    /// The target as people know it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Remote(remote) => remote.address.clone(),
            Self::Data(path) => path.join(SOCKET).display().to_string(),
            Self::Socket(path) => path.display().to_string(),
        }
    }
}

/// A connection to a node. Cheap to clone; all clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    name: Arc<str>,
    follows: follow::Follows,
}

impl Client {
    /// Connects to the node of a data directory.
    ///
    /// # Errors
    /// DAEMON_NOT_RUNNING: nobody listens there.
    pub async fn connect_data(data: &Path) -> Result<Self, Problem> {
        Self::connect(&Target::Data(data.to_owned()), data).await
    }

    /// Connects to a node. `identity` is the data directory whose key is proved to a node
    /// elsewhere; nothing else of it is looked at.
    ///
    /// # Errors
    /// DAEMON_NOT_RUNNING, NODE_AWAY: nobody listens there. NODE_KEY_DIFFERS, NOT_AN_API: it is
    /// somebody else. DATA_DIR_UNUSABLE: there is no key in `identity`.
    pub async fn connect(target: &Target, identity: &Path) -> Result<Self, Problem> {
        let name = target.describe();
        // Nobody looks at the name: a socket has none, and over TCP keys are checked.
        let endpoint = Endpoint::from_static("http://aber.local")
            .connect_timeout(CONNECT_DEADLINE)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 2);
        let connected = match target {
            Target::Remote(address) => {
                let caller = remote::caller(address, identity)?;
                remote::connect(caller, endpoint).await
            }
            Target::Data(data) => connect_socket(endpoint, data.join(SOCKET)).await,
            Target::Socket(socket) => connect_socket(endpoint, socket.clone()).await,
        };
        let channel = connected.map_err(|error| {
            let told = remote::handshake_problem(&name, &error);
            told.unwrap_or_else(|| not_running(&name, &error))
        })?;
        Ok(Self {
            channel,
            name: name.into(),
            follows: follow::Follows::default(),
        })
    }

    /// Where it is connected to, as people know it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn problem(&self, status: &Status) -> Problem {
        let handshake = status.source();
        let handshake = handshake.and_then(|source| remote::handshake_problem(&self.name, source));
        if let Some(problem) = handshake {
            return problem;
        }
        match status.source() {
            Some(source) if is_refused(source) => not_running(&self.name, source),
            Some(source) => Problem::new(Reason::Stopping).with("detail", root_cause(source)),
            None => Problem::from(status),
        }
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.problem(&status)),
            Err(_) => Err(Problem::new(Reason::TimedOut).with("seconds", CALL_DEADLINE.as_secs())),
        }
    }
}

async fn connect_socket(
    endpoint: Endpoint,
    socket: PathBuf,
) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_| dial(socket.clone()));
    endpoint.connect_with_connector(connector).await
}

async fn dial(socket: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    let address = SocketAddress::new(&socket)?;
    Ok(TokioIo::new(UnixStream::connect(address.path()).await?))
}

/// The innermost error of a chain: the one that says something.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn not_running(name: &str, error: &(dyn Error + 'static)) -> Problem {
    Problem::new(Reason::DaemonNotRunning)
        .with("socket", name)
        .with("detail", root_cause(error))
}

/// Whether a connection could not be made at all.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
            return matches!(io.kind(), ConnectionRefused | NotFound | PermissionDenied);
        }
        next = error.source();
    }
    false
}

/// A streamed answer.
#[derive(Debug)]
pub struct Stream<T> {
    inner: Streaming<T>,
    client: Client,
}

impl<T> Stream<T> {
    /// The next message, `None` at the end.
    ///
    /// # Errors
    /// Whatever ended the stream early.
    pub async fn next(&mut self) -> Result<Option<T>, Problem> {
        let message = self.inner.message().await;
        message.map_err(|status| self.client.problem(&status))
    }
}

/// Declares the calls that are one message each way.
macro_rules! unary_calls {
    ($($(#[$doc:meta])* $stub:ident $name:ident $request:ident $response:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// Whatever the node or the way to it says.
                pub async fn $name(
                    &self,
                    request: v1::$request,
                ) -> Result<v1::$response, Problem> {
                    let mut stub = $stub::new(self.channel.clone())
                        .max_decoding_message_size(limit::MESSAGE_BYTES)
                        .max_encoding_message_size(limit::MESSAGE_BYTES);
                    self.call(stub.$name(request)).await
                }
            )*
        }
    };
}

unary_calls! {
    /// What stands at one path.
    FileServiceClient get_item GetItemRequest GetItemResponse;
    /// A page of the names in a directory.
    FileServiceClient list_items ListItemsRequest ListItemsResponse;
    /// Appends one change.
    FileServiceClient append_change AppendChangeRequest AppendChangeResponse;
    /// A page of entries.
    HistoryServiceClient list_entries ListEntriesRequest ListEntriesResponse;
    /// What would bring things back.
    HistoryServiceClient plan_revert PlanRevertRequest PlanRevertResponse;
    /// What a WHEN chooses.
    HistoryServiceClient resolve_moment ResolveMomentRequest ResolveMomentResponse;
    /// One entry with its bytes.
    HistoryServiceClient get_entry GetEntryRequest GetEntryResponse;
    /// A page of the versions of a file.
    HistoryServiceClient list_versions ListVersionsRequest ListVersionsResponse;
    /// Who last wrote each part of a file.
    HistoryServiceClient blame BlameRequest BlameResponse;
    /// The newest snapshot of a partition.
    WatchServiceClient read_snapshot ReadSnapshotRequest ReadSnapshotResponse;
    /// The state of the node and its cluster.
    ClusterServiceClient get_status GetStatusRequest GetStatusResponse;
    /// The membership.
    ClusterServiceClient list_members ListMembersRequest ListMembersResponse;
    /// Sets what is named of a member.
    ClusterServiceClient update_member UpdateMemberRequest UpdateMemberResponse;
    /// Links to other members.
    ClusterServiceClient list_links ListLinksRequest ListLinksResponse;
    /// The trees that content or entries go down.
    ClusterServiceClient get_relay GetRelayRequest GetRelayResponse;
    /// Counters and gauges, as text.
    ClusterServiceClient get_metrics GetMetricsRequest GetMetricsResponse;
    /// Tickets.
    ClusterServiceClient list_tickets ListTicketsRequest ListTicketsResponse;
    /// Makes a ticket useless.
    ClusterServiceClient revoke_ticket RevokeTicketRequest RevokeTicketResponse;
    /// What follows from removing a member.
    ClusterServiceClient plan_removal PlanRemovalRequest PlanRemovalResponse;
    /// All volumes.
    ClusterServiceClient list_volumes ListVolumesRequest ListVolumesResponse;
    /// All partitions.
    ClusterServiceClient list_partitions ListPartitionsRequest ListPartitionsResponse;
    /// Makes a ticket.
    ClusterServiceClient create_ticket CreateTicketRequest CreateTicketResponse;
    /// Stops the daemon.
    UpkeepServiceClient stop StopRequest StopResponse;
    /// Names a moment.
    HistoryServiceClient create_tag CreateTagRequest CreateTagResponse;
    /// All tags.
    HistoryServiceClient list_tags ListTagsRequest ListTagsResponse;
    /// Takes a tag away.
    HistoryServiceClient delete_tag DeleteTagRequest DeleteTagResponse;
    /// Sets a volume's retention.
    ClusterServiceClient update_volume UpdateVolumeRequest UpdateVolumeResponse;
    /// What retention lets go of now.
    UpkeepServiceClient plan_prune PlanPruneRequest PlanPruneResponse;
}

/// Declares the calls whose answer is a stream.
macro_rules! streamed_calls {
    ($($(#[$doc:meta])* $stub:ident $name:ident $request:ident $response:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// Whatever the node or the way to it says.
                pub async fn $name(
                    &self,
                    request: v1::$request,
                ) -> Result<Stream<v1::$response>, Problem> {
                    let mut stub = $stub::new(self.channel.clone())
                        .max_decoding_message_size(limit::MESSAGE_BYTES)
                        .max_encoding_message_size(limit::MESSAGE_BYTES);
                    let inner = self.call(stub.$name(request)).await?;
                    Ok(Stream { inner, client: self.clone() })
                }
            )*
        }
    };
}

streamed_calls! {
    /// Content of a file: a header, then data.
    FileServiceClient download DownloadRequest DownloadResponse;
    /// A directory with all that is below it.
    FileServiceClient download_tree DownloadTreeRequest DownloadTreeResponse;
    /// Brings things back as planned.
    HistoryServiceClient apply_revert ApplyRevertRequest ApplyRevertResponse;
    /// Follows a change through its levels.
    FileServiceClient watch_change WatchChangeRequest WatchChangeResponse;
    /// What differs between two moments.
    HistoryServiceClient diff DiffRequest DiffResponse;
    /// Every applied entry from a place in history on.
    WatchServiceClient watch WatchRequest WatchResponse;
    /// Committed entries of one partition, as bytes.
    WatchServiceClient follow_partition FollowPartitionRequest FollowPartitionResponse;
    /// Chunks by hash.
    WatchServiceClient read_chunks ReadChunksRequest ReadChunksResponse;
    /// Does what was planned.
    ClusterServiceClient apply_cluster_plan ApplyClusterPlanRequest ApplyClusterPlanResponse;
    /// Reads everything again.
    UpkeepServiceClient verify VerifyRequest VerifyResponse;
    /// Lets go of what retention does not keep.
    UpkeepServiceClient apply_prune ApplyPruneRequest ApplyPruneResponse;
}

impl Client {
    /// Uploads a content. `pieces` are messages after the header, the end mark among them; a
    /// stream without it becomes no file.
    ///
    /// # Errors
    /// Whatever the node or the way to it says.
    pub async fn upload(
        &self,
        header: v1::UploadHeader,
        pieces: impl futures::Stream<Item = v1::UploadRequest> + Send + 'static,
    ) -> Result<v1::UploadResponse, Problem> {
        use futures::StreamExt;
        let head = v1::UploadRequest {
            message: Some(v1::upload_request::Message::Header(header)),
        };
        let messages = futures::stream::once(async move { head }).chain(pieces);
        let mut stub = FileServiceClient::new(self.channel.clone())
            .max_decoding_message_size(limit::MESSAGE_BYTES)
            .max_encoding_message_size(limit::MESSAGE_BYTES);
        let response = stub.upload(messages).await;
        response
            .map(Response::into_inner)
            .map_err(|status| self.problem(&status))
    }

    /// All members, those removed too if that is asked for.
    ///
    /// # Errors
    /// Whatever the node or the way to it says.
    pub async fn members(&self, with_removed: bool) -> Result<Vec<v1::Member>, Problem> {
        let mut members = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListMembersRequest {
                page_size: 0,
                page_token,
                with_removed,
            };
            let page = self.list_members(request).await?;
            members.extend(page.members);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(members);
            }
        }
    }

    /// The item at a path, if there is one.
    ///
    /// # Errors
    /// Whatever the node or the way to it says, but for PATH_NOT_FOUND.
    pub async fn find(&self, path: &str) -> Result<Option<v1::Item>, Problem> {
        let request = v1::GetItemRequest {
            path: path.to_owned(),
            ..Default::default()
        };
        match self.get_item(request).await {
            Ok(response) => Ok(response.item),
            Err(problem) if problem.reason == Reason::PathNotFound => Ok(None),
            Err(problem) => Err(problem),
        }
    }
}
