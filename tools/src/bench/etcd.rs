//! etcd, three nodes on loopback: the durable peer of goal 1.

use super::api::{End, Load, load};
use super::process::{Daemon, cpu_s, wait_until};
use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// The program.
pub(crate) const PROGRAM: &str = "etcd";
const NODES: usize = 3;
const START_PATIENCE: Duration = Duration::from_secs(60);

/// As much of `etcdserverpb.PutRequest` as is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// As much of `etcdserverpb.StatusResponse` as is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

/// Three running processes.
#[derive(Debug)]
pub(crate) struct Etcd {
    daemons: Vec<Daemon>,
    leader: String,
}

impl Etcd {
    pub(crate) fn start(base: &Path, runtime: &Runtime) -> Result<Self> {
        let (clients, peers) = (free_addresses()?, free_addresses()?);
        let named = peers
            .iter()
            .enumerate()
            .map(|(i, peer)| format!("e{i}={peer}"));
        let members = named.collect::<Vec<_>>().join(",");
        let mut daemons = Vec::new();
        for (i, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let name = format!("e{i}");
            let mut command = Command::new(PROGRAM);
            command.arg("--data-dir").arg(base.join(&name));
            command.args(["--name", &name, "--initial-cluster", &members]);
            command.args(["--initial-cluster-state", "new"]);
            command.args([
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
            ]);
            command.args([
                "--listen-client-urls",
                client,
                "--advertise-client-urls",
                client,
            ]);
            daemons.push(Daemon::start(
                &mut command,
                &base.join(format!("{name}.log")),
            )?);
        }
        let mut leader = None;
        wait_until("etcd elects a leader", START_PATIENCE, || {
            for daemon in &mut daemons {
                daemon.check()?;
            }
            leader = runtime.block_on(find_leader(&clients));
            Ok(leader.is_some())
        })?;
        let leader = leader.context("etcd has no leader")?;
        Ok(Self { daemons, leader })
    }

    /// Durable puts through the leader: a follower would cost a hop more.
    pub(crate) async fn load(&self, clients: usize, seconds: f64, value: &[u8]) -> Result<Load> {
        let endpoint = Endpoint::from_shared(self.leader.clone())?.tcp_nodelay(true);
        let channel = endpoint.connect().await?;
        let value = value.to_vec();
        load(clients, End::After(seconds), move |client, number| {
            let request = PutRequest {
                key: format!("k{client}/{number}").into_bytes(),
                value: value.clone(),
            };
            let channel = channel.clone();
            async move {
                let path = "/etcdserverpb.KV/Put";
                let _: PutResponse = call(channel, path, request).await?;
                Ok(())
            }
        })
        .await
    }

    pub(crate) fn cpu_s(&self) -> Result<f64> {
        self.daemons.iter().map(|daemon| cpu_s(daemon.id())).sum()
    }
}

async fn call<I, O>(channel: Channel, path: &'static str, request: I) -> Result<O>
where
    I: prost::Message + Default + 'static,
    O: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<I, O>::default();
    let answer = client
        .unary(tonic::Request::new(request), path, codec)
        .await?;
    Ok(answer.into_inner())
}

async fn find_leader(clients: &[String]) -> Option<String> {
    for client in clients {
        let endpoint = Endpoint::from_shared(client.clone()).ok()?;
        let Ok(channel) = endpoint.connect().await else {
            continue;
        };
        let path = "/etcdserverpb.Maintenance/Status";
        let status: Result<StatusResponse> = call(channel, path, StatusRequest {}).await;
        let is_leader = status.is_ok_and(|status| {
            let id = status.header.map(|header| header.member_id);
            status.leader != 0 && id == Some(status.leader)
        });
        if is_leader {
            return Some(client.clone());
        }
    }
    None
}

/// Addresses on loopback that nobody listens on; all are held until the last is found.
fn free_addresses() -> Result<Vec<String>> {
    let bind = |_| TcpListener::bind(("127.0.0.1", 0));
    let held: Vec<TcpListener> = (0..NODES).map(bind).collect::<Result<_, _>>()?;
    let urls = held
        .iter()
        .map(|listener| Ok(format!("http://{}", listener.local_addr()?)));
    urls.collect()
}
