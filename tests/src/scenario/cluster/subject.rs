//! [driver] A whole node as the simulated world runs it, and its API as clients call it.

mod back;

use super::check::lock;
use super::newcomer::{self, Newcomers};
use crate::oracle::{Answer, Back, Went};
use crate::sim::SimEnv;
use crate::sim::cluster::{Boot, Cluster, Subject};
use crate::workload::{ClientApi, Ticket, Wait};
use aber_log::chunk::store::StoreOptions;
use aber_log::partition::Timing;
use aber_log::segment::SegmentOptions;
use aber_materializer::mirror::MirrorOptions;
use aber_node::node::{Node, NodeConfig, NodeOptions, NodeService};
use aber_node::reason::{Problem, Reason};
use aber_node::service::{Piece, Service, Upload};
use aber_proto::generated::v1;
use aber_proto::{Genesis, Member, NodeId, PartitionId, Role, SecretKey, Timestamp, codec};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Entries between two views that the nodes compare: few, so that they do.
pub(super) const DIGEST_EVERY: u64 = 16;
/// Where every node's mirror is.
pub(super) const MIRROR: &str = "/home/mirror";
/// Longest wait for an acknowledgement within one call.
const WAIT_AT_MOST: Duration = Duration::from_secs(25);
/// Bytes of a piece of an upload.
const PIECE_BYTES: usize = 48 * 1024;
/// Longer contents are uploaded.
const APPEND_BYTES: usize = 8 * 1024;

/// Starts whole nodes.
pub(super) struct Aber {
    pub(super) timing: Timing,
    /// Entries between two snapshots.
    pub(super) snapshot_every: u64,
    /// Bytes of a segment.
    pub(super) segment_bytes: u64,
    /// Bytes of one write to it.
    pub(super) batch_bytes: usize,
    /// Nodes that are no founders.
    pub(super) newcomers: Newcomers,
}

/// A node that started.
#[derive(Clone)]
pub(super) struct AberNode {
    pub(super) node: Node<SimEnv>,
    pub(super) service: NodeService<SimEnv>,
}

fn key_of(node: NodeId) -> Result<SecretKey, String> {
    let seed = blake3::derive_key("aber tests key of a node", &node.0.to_le_bytes());
    SecretKey::from_seed(&seed).map_err(|problem| problem.to_string())
}

/// The genesis of a cluster whose nodes all vote.
pub(super) fn genesis(node_count: u64) -> Result<Genesis, String> {
    let mut members = Vec::new();
    for node in (1..=node_count).map(NodeId) {
        members.push(Member {
            node,
            name: format!("node-{node}"),
            key: key_of(node)?.public(),
            role: Role::Admin,
            address: format!("node-{node}:7440"),
        });
    }
    // Two and four follow with one node, five lets two of its voters go.
    let voters = match node_count {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    };
    let genesis = Genesis {
        name: "simulated".to_owned(),
        created: Timestamp(1),
        voters: members
            .iter()
            .take(voters)
            .map(|member| member.node)
            .collect(),
        partitions: 4,
        min_copies: if node_count > 1 { 2 } else { 1 },
        members,
    };
    genesis.check().map_err(|problem| problem.to_string())?;
    Ok(genesis)
}

impl Subject for Aber {
    type Handle = AberNode;

    async fn start(&self, env: SimEnv, boot: Boot) -> Result<AberNode, String> {
        let genesis = codec::decode_genesis(&boot.config).map_err(|p| p.to_string())?;
        let mirror = MirrorOptions {
            marker: format!("cluster {}\nnode {}\n", genesis.cluster_id(), boot.node),
            batch_paths: 16,
            batch_bytes: 1 << 20,
            scan_every: Duration::from_secs(60),
            ..MirrorOptions::default()
        };
        let options = NodeOptions {
            segment: SegmentOptions {
                segment_bytes: self.segment_bytes,
                batch_bytes: self.batch_bytes,
            },
            store: StoreOptions {
                pack_bytes: 1 << 20,
                ..StoreOptions::default()
            },
            timing: self.timing,
            snapshot_every: self.snapshot_every,
            digest_every: DIGEST_EVERY,
            mirror: Some((PathBuf::from(MIRROR), mirror)),
            ..NodeOptions::default()
        };
        let newcomer = lock(&self.newcomers).get(&boot.node).cloned();
        let (key, contacts) = match newcomer {
            Some(newcomer) => (newcomer::key_of(newcomer.number)?, newcomer.contacts),
            None => (key_of(boot.node)?, Vec::new()),
        };
        let config = NodeConfig {
            me: boot.node,
            key: Arc::new(key),
            contacts,
            options,
            genesis,
        };
        let started = Node::start(config, env.clone()).await;
        let node = started.map_err(|problem| format!("{}: {}", problem.what(), problem.why()))?;
        let (stop, _nobody_stops) = mpsc::channel(1);
        let service = NodeService::new(node.clone(), stop);
        Ok(AberNode { node, service })
    }
}

/// The API of all nodes of a cluster.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) cluster: Cluster<Aber>,
}

type Written = Result<Option<v1::WriteResult>, Problem>;

fn write_options(ticket: Ticket) -> v1::WriteOptions {
    let mut options = v1::WriteOptions {
        request_id: ticket.request.to_string(),
        wait_at_most: WAIT_AT_MOST.try_into().ok(),
        via: "simulation".to_owned(),
        ..v1::WriteOptions::default()
    };
    options.set_acknowledgement(match ticket.wait {
        Wait::Queued => v1::Acknowledgement::Queued,
        Wait::Committed => v1::Acknowledgement::Committed,
    });
    options
}

/// What a call was answered; a node that went down meanwhile says nothing.
fn answer_of(written: Option<Written>) -> Answer {
    let result = match written {
        None | Some(Ok(None)) => return Answer::Unknown,
        Some(Ok(Some(result))) => result,
        Some(Err(problem)) => return answer_of_problem(&problem),
    };
    match (result.acknowledgement(), result.entry) {
        (v1::Acknowledgement::Queued, _) => Answer::Queued,
        (v1::Acknowledgement::Committed | v1::Acknowledgement::Spread, Some(entry)) => {
            Answer::Committed {
                partition: PartitionId(entry.partition),
                index: entry.index,
            }
        }
        _ => Answer::Unknown,
    }
}

fn answer_of_problem(problem: &Problem) -> Answer {
    let why = format!("{:?}: {}", problem.reason, problem.why());
    let place = problem.fact("entry").and_then(|text| text.split_once(':'));
    let place = place.and_then(|(p, i)| Some((p.parse().ok()?, i.parse().ok()?)));
    match (place, problem.reason) {
        (Some((partition, index)), _) => Answer::Rejected {
            partition: PartitionId(partition),
            index,
            why,
        },
        // The change is not in the outbox, or perhaps it is.
        (None, Reason::StorageFailed | Reason::Stopping | Reason::Internal) => Answer::Unknown,
        (None, _) => Answer::Refused(why),
    }
}

impl Api {
    async fn append(&self, ticket: Ticket, operation: v1::event::Operation) -> Answer {
        self.append_all(ticket, vec![operation]).await
    }

    async fn append_all(&self, ticket: Ticket, operations: Vec<v1::event::Operation>) -> Answer {
        let event = |operation| v1::Event {
            operation: Some(operation),
            ..v1::Event::default()
        };
        let request = v1::AppendChangeRequest {
            events: operations.into_iter().map(event).collect(),
            options: Some(write_options(ticket)),
        };
        let call = self.cluster.call(ticket.node, |node| async move {
            let response = node.service.append_change(request).await;
            response.map(|response| response.result)
        });
        answer_of(call.await)
    }

    async fn upload(&self, ticket: Ticket, path: &str, content: Bytes) -> Answer {
        let header = v1::UploadHeader {
            path: path.to_owned(),
            size_hint: u64::try_from(content.len()).unwrap_or(0),
            parents: true,
            options: Some(write_options(ticket)),
            ..v1::UploadHeader::default()
        };
        let call = self.cluster.call(ticket.node, |node| async move {
            let (sender, upload) = Upload::channel();
            let feed = async move {
                for piece in content.chunks(PIECE_BYTES) {
                    let piece = Piece::Data(Bytes::copy_from_slice(piece));
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
                // A node that gave up already says so itself.
                let _gone = sender.send(Piece::End).await.is_err();
            };
            let (response, ()) = futures::join!(node.service.upload(header, upload), feed);
            response.map(|response| response.result)
        });
        answer_of(call.await)
    }
}

/// Puts a content that is in the call itself.
pub(super) fn put_of(path: &str, content: Bytes, parents: bool) -> v1::event::Operation {
    v1::event::Operation::Put(v1::Put {
        path: path.to_owned(),
        source: Some(v1::put::Source::Content(content)),
        parents,
        ..v1::Put::default()
    })
}

impl ClientApi for Api {
    async fn put(&self, ticket: Ticket, path: &str, content: Bytes) -> Answer {
        if content.len() > APPEND_BYTES {
            return self.upload(ticket, path, content).await;
        }
        self.append(ticket, put_of(path, content, true)).await
    }

    async fn put_all(&self, ticket: Ticket, files: Vec<(String, Bytes)>) -> Answer {
        let puts = files.into_iter();
        let puts = puts.map(|(path, content)| put_of(&path, content, false));
        self.append_all(ticket, puts.collect()).await
    }

    async fn make_dir(&self, ticket: Ticket, path: &str) -> Answer {
        let make = v1::MakeDirectory {
            path: path.to_owned(),
            parents: false,
        };
        let operation = v1::event::Operation::MakeDirectory(make);
        self.append(ticket, operation).await
    }

    async fn rename(&self, ticket: Ticket, from: &str, to: &str) -> Answer {
        let rename = v1::Rename {
            from_path: from.to_owned(),
            to_path: to.to_owned(),
            replace: ticket.request.0.first().is_some_and(|byte| byte % 2 == 0),
            ..v1::Rename::default()
        };
        self.append(ticket, v1::event::Operation::Rename(rename))
            .await
    }

    async fn remove(&self, ticket: Ticket, path: &str) -> Answer {
        let remove = v1::Remove {
            path: path.to_owned(),
            recursive: true,
            ..v1::Remove::default()
        };
        self.append(ticket, v1::event::Operation::Remove(remove))
            .await
    }

    async fn roll_back(&self, ticket: Ticket, back: &Back) -> Went {
        let back = back.clone();
        let call = self
            .cluster
            .call(ticket.node, |node| back::roll_back(node, ticket, back));
        call.await.unwrap_or(Went::Unknown)
    }

    async fn read(&self, node: NodeId, path: &str) -> Result<Option<Bytes>, String> {
        let request = v1::DownloadRequest {
            path: path.to_owned(),
            ..v1::DownloadRequest::default()
        };
        let call = self
            .cluster
            .call(node, |node| async move { download(&node, request).await });
        call.await
            .unwrap_or_else(|| Err("the node is down".to_owned()))
    }
}

async fn download(node: &AberNode, request: v1::DownloadRequest) -> Result<Option<Bytes>, String> {
    let mut answers = match node.service.download(request).await {
        Ok(answers) => answers,
        Err(problem) => match problem.reason {
            Reason::StorageFailed => return Err(problem.why()),
            _ => return Ok(None),
        },
    };
    let (mut wanted, mut bytes) = (0, Vec::new());
    while let Some(answer) = answers.recv().await {
        match answer.map_err(|problem| problem.why())?.message {
            Some(v1::download_response::Message::Header(header)) => wanted = header.length,
            Some(v1::download_response::Message::Data(data)) => bytes.extend_from_slice(&data),
            None => return Err("an empty message".to_owned()),
        }
    }
    if bytes.len() as u64 != wanted {
        return Err(format!("{} of {wanted} bytes came", bytes.len()));
    }
    Ok(Some(bytes.into()))
}
