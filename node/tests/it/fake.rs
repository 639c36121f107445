//! A node without an inside: a tree in memory behind the `Service` trait.

mod history;
mod keep;
mod members;
mod tree;

use aber_node::reason::{Problem, Reason};
use aber_node::service::{Answer, Answers, Service, Upload};
use aber_proto::generated::v1::{self, Acknowledgement, ItemKind};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;

/// What the fake node knows and was asked.
#[derive(Default)]
pub struct State {
    /// Items and their contents by path.
    pub items: BTreeMap<String, (v1::Item, Bytes)>,
    /// Chunks by hash.
    pub chunks: BTreeMap<Bytes, Bytes>,
    /// Encoded entries of partition 1, from index 1.
    pub entries: Vec<Bytes>,
    /// Answers by request id, so that repeats do nothing.
    pub requests: BTreeMap<String, v1::WriteResult>,
    /// Number of events in each change, in order.
    pub changes: Vec<usize>,
    /// Problems to answer the next writes with.
    pub refuse: Vec<Problem>,
    /// The level writes reach.
    pub level: Acknowledgement,
    /// Whether the node was told to stop.
    pub stopped: bool,
    pub index: u64,
    /// `via` of each change, in order.
    pub asked: Vec<String>,
    /// Streams that never say anything.
    pub watchers: Vec<mpsc::Sender<Result<v1::WatchResponse, Problem>>>,
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub fn new() -> Self {
        let fake = Self::default();
        fake.state().level = Acknowledgement::Committed;
        fake
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with it")
    }

    /// Who asked for each change.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }
}

fn answers<T>(messages: Vec<T>) -> Answers<T> {
    let (sender, receiver) = mpsc::channel(messages.len().max(1));
    for message in messages {
        sender.try_send(Ok(message)).expect("there is room");
    }
    receiver
}

pub fn problem(reason: Reason, path: &str) -> Problem {
    Problem::new(reason).with("path", path)
}

impl Service for Fake {
    async fn get_item(&self, request: v1::GetItemRequest) -> Answer<v1::GetItemResponse> {
        let state = self.state();
        let item = match state.items.get(&request.path) {
            Some((item, _)) => item.clone(),
            None if request.path == "/" => state.item("/", ItemKind::Directory),
            None => return Err(problem(Reason::PathNotFound, &request.path)),
        };
        Ok(v1::GetItemResponse {
            item: Some(item),
            holders: Vec::new(),
        })
    }

    async fn list_items(&self, request: v1::ListItemsRequest) -> Answer<v1::ListItemsResponse> {
        let base = if request.path == "/" {
            "/".to_owned()
        } else {
            format!("{}/", request.path)
        };
        let state = self.state();
        let of = |path: &&String| {
            let below = path.strip_prefix(&base);
            below.is_some_and(|below| request.recursive || !below.contains('/'))
        };
        let all: Vec<_> = state.items.keys().filter(of).cloned().collect();
        // Pages of three, so that callers must turn them.
        let start: usize = request.page_token.parse().unwrap_or(0);
        let page = all.iter().skip(start).take(3);
        let items = page.map(|path| state.items[path].0.clone()).collect();
        let more = start + 3 < all.len();
        let next_page_token = if more {
            (start + 3).to_string()
        } else {
            String::new()
        };
        Ok(v1::ListItemsResponse {
            items,
            next_page_token,
            cursor: None,
        })
    }

    async fn download(
        &self,
        request: v1::DownloadRequest,
    ) -> Answer<Answers<v1::DownloadResponse>> {
        use v1::download_response::Message;
        let state = self.state();
        let found = state.items.get(&request.path);
        let (item, content) = found.ok_or_else(|| problem(Reason::PathNotFound, &request.path))?;
        if item.kind() != ItemKind::File {
            return Err(problem(Reason::NotAFile, &request.path));
        }
        let start = usize::try_from(request.offset)
            .expect("small")
            .min(content.len());
        let wanted = usize::try_from(request.length).expect("small");
        let end = if wanted == 0 {
            content.len()
        } else {
            content.len().min(start + wanted)
        };
        let header = v1::DownloadHeader {
            item: Some(item.clone()),
            offset: request.offset,
            length: (end - start) as u64,
            not_modified: false,
        };
        let mut messages = vec![Message::Header(header)];
        for piece in content[start..end].chunks(100_000) {
            messages.push(Message::Data(Bytes::copy_from_slice(piece)));
        }
        let wrap = |message| v1::DownloadResponse {
            message: Some(message),
        };
        Ok(answers(messages.into_iter().map(wrap).collect()))
    }

    async fn download_tree(
        &self,
        _request: v1::DownloadTreeRequest,
    ) -> Answer<Answers<v1::DownloadTreeResponse>> {
        Ok(answers(Vec::new()))
    }

    async fn upload(
        &self,
        header: v1::UploadHeader,
        mut content: Upload,
    ) -> Answer<v1::UploadResponse> {
        let mut all = Vec::new();
        while let Some(data) = content.next().await? {
            all.extend_from_slice(&data);
        }
        let put = v1::Put {
            path: header.path,
            modify_time: header.modify_time,
            mode: header.mode,
            parents: header.parents,
            ..Default::default()
        };
        let options = header.options.expect("the adapter sees to it");
        let all = Bytes::from(all);
        let result = self
            .state()
            .write(&options, |state| state.put(&put, &all).map(|()| 1))?;
        Ok(v1::UploadResponse {
            result: Some(result),
            ..Default::default()
        })
    }

    async fn append_change(
        &self,
        request: v1::AppendChangeRequest,
    ) -> Answer<v1::AppendChangeResponse> {
        let options = request.options.expect("the adapter sees to it");
        let events = request.events;
        let result = self.state().write(&options, |state| {
            for event in &events {
                state.apply(event)?;
            }
            Ok(events.len())
        })?;
        Ok(v1::AppendChangeResponse {
            result: Some(result),
        })
    }

    async fn watch_change(
        &self,
        request: v1::WatchChangeRequest,
    ) -> Answer<Answers<v1::WatchChangeResponse>> {
        let mut state = self.state();
        let level = state.level;
        let known = state.requests.get_mut(&request.request_id);
        let unknown = || Problem::new(Reason::ChangeUnknown).with("requestId", &request.request_id);
        let result = known.ok_or_else(unknown)?;
        result.acknowledgement = level.into();
        let result = Some(result.clone());
        Ok(answers(vec![v1::WatchChangeResponse {
            result,
            ..Default::default()
        }]))
    }

    async fn list_entries(
        &self,
        _request: v1::ListEntriesRequest,
    ) -> Answer<v1::ListEntriesResponse> {
        Ok(history::entries())
    }

    async fn list_versions(
        &self,
        _request: v1::ListVersionsRequest,
    ) -> Answer<v1::ListVersionsResponse> {
        Ok(history::versions())
    }

    async fn diff(&self, request: v1::DiffRequest) -> Answer<Answers<v1::DiffResponse>> {
        Ok(answers(history::differences(&request)))
    }

    async fn blame(&self, _request: v1::BlameRequest) -> Answer<v1::BlameResponse> {
        Ok(history::blame())
    }

    async fn plan_revert(&self, _request: v1::PlanRevertRequest) -> Answer<v1::PlanRevertResponse> {
        Ok(v1::PlanRevertResponse::default())
    }

    async fn apply_revert(
        &self,
        _request: v1::ApplyRevertRequest,
    ) -> Answer<Answers<v1::ApplyRevertResponse>> {
        Ok(answers(Vec::new()))
    }

    async fn resolve_moment(
        &self,
        _request: v1::ResolveMomentRequest,
    ) -> Answer<v1::ResolveMomentResponse> {
        Ok(v1::ResolveMomentResponse::default())
    }

    async fn get_entry(&self, request: v1::GetEntryRequest) -> Answer<v1::GetEntryResponse> {
        match request.id {
            Some(id) if id.index == 1843 => Ok(history::entry()),
            _ => Err(Problem::new(Reason::EntryNotFound).with("entry", "9:9")),
        }
    }

    async fn watch(&self, _request: v1::WatchRequest) -> Answer<Answers<v1::WatchResponse>> {
        let (sender, answers) = mpsc::channel(1);
        self.state().watchers.push(sender);
        Ok(answers)
    }

    async fn follow_partition(
        &self,
        request: v1::FollowPartitionRequest,
    ) -> Answer<Answers<v1::FollowPartitionResponse>> {
        let from = request.from_index;
        if from == 0 {
            let problem = Problem::new(Reason::HistoryForgotten).with("oldest", 1);
            return Err(problem
                .with("partition", request.partition)
                .with("wanted", from));
        }
        let skip = usize::try_from(from - 1).expect("small");
        let entries = self
            .state()
            .entries
            .iter()
            .skip(skip)
            .cloned()
            .collect::<Vec<_>>();
        let message = |entry_bytes| {
            let raw = v1::RawEntry {
                entry_bytes,
                ..Default::default()
            };
            v1::FollowPartitionResponse {
                entries: vec![raw],
                committed_index: 0,
            }
        };
        Ok(answers(entries.into_iter().map(message).collect()))
    }

    async fn read_snapshot(
        &self,
        _request: v1::ReadSnapshotRequest,
    ) -> Answer<v1::ReadSnapshotResponse> {
        Ok(v1::ReadSnapshotResponse { header: None })
    }

    async fn read_chunks(
        &self,
        request: v1::ReadChunksRequest,
    ) -> Answer<Answers<v1::ReadChunksResponse>> {
        let state = self.state();
        let message = |hash: &Bytes| {
            let data = state.chunks.get(hash).cloned();
            let missing = data.is_none();
            v1::ReadChunksResponse {
                hash: hash.clone(),
                data: data.unwrap_or_default(),
                missing,
            }
        };
        Ok(answers(request.hashes.iter().map(message).collect()))
    }

    async fn get_status(&self, _request: v1::GetStatusRequest) -> Answer<v1::GetStatusResponse> {
        let notice = v1::Notice {
            code: "NODE_AWAY".to_owned(),
            severity: v1::Health::Degraded.into(),
            what: "gwen is away".to_owned(),
            why: "no link since 09:12".to_owned(),
            mend: "start gwen".to_owned(),
            ..Default::default()
        };
        Ok(v1::GetStatusResponse {
            cluster: "breizh".to_owned(),
            node: "yann".to_owned(),
            health: v1::Health::Degraded.into(),
            notices: vec![notice],
            members_count: 2,
            members_up_count: 1,
            files_count: 1284,
            content_bytes: 6_549_825_126,
            only_here_bytes: 222_298_112,
            only_here_changes: 3,
            only_here_estimate: Some(prost_types::Duration {
                seconds: 1616,
                nanos: 5,
            }),
            uplink: Some(members::uplink()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn list_members(
        &self,
        request: v1::ListMembersRequest,
    ) -> Answer<v1::ListMembersResponse> {
        Ok(members::list(&request))
    }

    async fn update_member(
        &self,
        request: v1::UpdateMemberRequest,
    ) -> Answer<v1::UpdateMemberResponse> {
        members::update(&request)
    }

    async fn list_links(&self, _request: v1::ListLinksRequest) -> Answer<v1::ListLinksResponse> {
        Ok(members::links())
    }

    async fn get_relay(&self, request: v1::GetRelayRequest) -> Answer<v1::GetRelayResponse> {
        members::relay(&request)
    }

    async fn get_metrics(&self, _request: v1::GetMetricsRequest) -> Answer<v1::GetMetricsResponse> {
        let text = "# TYPE aber_members gauge\naber_members{state=\"up\"} 2\n".to_owned();
        Ok(v1::GetMetricsResponse { text })
    }

    async fn list_tickets(
        &self,
        _request: v1::ListTicketsRequest,
    ) -> Answer<v1::ListTicketsResponse> {
        Ok(members::tickets())
    }

    async fn revoke_ticket(
        &self,
        request: v1::RevokeTicketRequest,
    ) -> Answer<v1::RevokeTicketResponse> {
        members::revoke(&request)
    }

    async fn plan_removal(
        &self,
        request: v1::PlanRemovalRequest,
    ) -> Answer<v1::PlanRemovalResponse> {
        members::plan(&request)
    }

    async fn apply_cluster_plan(
        &self,
        request: v1::ApplyClusterPlanRequest,
    ) -> Answer<Answers<v1::ApplyClusterPlanResponse>> {
        members::apply(&request)
    }

    async fn list_volumes(
        &self,
        _request: v1::ListVolumesRequest,
    ) -> Answer<v1::ListVolumesResponse> {
        Ok(v1::ListVolumesResponse::default())
    }

    async fn list_partitions(
        &self,
        _request: v1::ListPartitionsRequest,
    ) -> Answer<v1::ListPartitionsResponse> {
        let partition = v1::Partition {
            id: 3,
            volumes: vec!["music".to_owned()],
            leader: "yann".to_owned(),
            has_majority: true,
            applied_index: 1843,
            mirrored_index: 1843,
            digest_index: 1843,
            view_digest: vec![0xab; 32].into(),
            ..Default::default()
        };
        Ok(v1::ListPartitionsResponse {
            partitions: vec![partition],
            ..Default::default()
        })
    }

    async fn create_ticket(
        &self,
        _request: v1::CreateTicketRequest,
    ) -> Answer<v1::CreateTicketResponse> {
        Err(Problem::new(Reason::NotOffered))
    }

    async fn verify(&self, _request: v1::VerifyRequest) -> Answer<Answers<v1::VerifyResponse>> {
        use v1::verify_response::Message;
        let finding = v1::Finding {
            code: "CHUNK_DAMAGED".to_owned(),
            path: "/music/a".to_owned(),
            detail: "its hash differs".to_owned(),
            ..Default::default()
        };
        let report = v1::VerifyReport {
            entries_count: 1,
            chunks_count: 2,
            files_count: 3,
            read_bytes: 4096,
            findings_count: 1,
            ..Default::default()
        };
        let wrap = |message| v1::VerifyResponse {
            message: Some(message),
        };
        Ok(answers(vec![
            wrap(Message::Finding(finding)),
            wrap(Message::Report(report)),
        ]))
    }

    async fn stop(&self, _request: v1::StopRequest) -> Answer<v1::StopResponse> {
        self.state().stopped = true;
        Ok(v1::StopResponse {})
    }

    keep::answers!();
}
