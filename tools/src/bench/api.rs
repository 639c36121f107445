//! A node's socket, as the load is put through it.

use super::process::{runs, wait_until};
use super::row::Values;
use aber_proto::generated::v1;
use anyhow::{Context, Result, anyhow, ensure};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use v1::cluster_service_client::ClusterServiceClient;
use v1::file_service_client::FileServiceClient;
use v1::history_service_client::HistoryServiceClient;

/// How long one call may take.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    channel: Channel,
}

/// The runtime of the load tool: one thread, so that the nodes have the machine.
pub(crate) fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(1).enable_all().build()?)
}

impl Api {
    pub(crate) async fn connect(data: &Path) -> Result<Self> {
        let uri = format!("unix://{}", data.join("api.sock").display());
        let endpoint = Endpoint::from_shared(uri)?.timeout(CALL_PATIENCE);
        Ok(Self {
            channel: endpoint.connect().await?,
        })
    }

    pub(crate) async fn status(&self) -> Result<v1::GetStatusResponse> {
        let mut stub = ClusterServiceClient::new(self.channel.clone());
        Ok(stub.get_status(v1::GetStatusRequest {}).await?.into_inner())
    }

    /// Samples of one moment, by their names with labels and all.
    pub(crate) async fn samples<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        let mut stub = ClusterServiceClient::new(self.channel.clone());
        let answer = stub.get_metrics(v1::GetMetricsRequest {}).await?;
        let text = answer.into_inner().text;
        let mut samples = [0.0; N];
        for (sample, name) in samples.iter_mut().zip(names) {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let found = lines.find(|(of, _)| *of == name);
            *sample = found.with_context(|| format!("no {name}"))?.1.parse()?;
        }
        Ok(samples)
    }

    pub(crate) async fn partitions(&self) -> Result<Vec<v1::Partition>> {
        let mut stub = ClusterServiceClient::new(self.channel.clone());
        let request = v1::ListPartitionsRequest::default();
        Ok(stub.list_partitions(request).await?.into_inner().partitions)
    }

    /// What stands at a path; an error if nothing does.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<v1::Item>> {
        let mut stub = FileServiceClient::new(self.channel.clone());
        let request = v1::GetItemRequest {
            path: path.to_owned(),
            ..Default::default()
        };
        let answer = stub.get_item(request).await;
        let answer = answer.map_err(|s| anyhow!("{:?}: {}", s.code(), s.message()))?;
        Ok(answer.into_inner().item)
    }

    /// A page of the log.
    pub(crate) async fn log(&self, request: v1::ListEntriesRequest) -> Result<usize> {
        let mut stub = HistoryServiceClient::new(self.channel.clone());
        let page = stub.list_entries(request).await?.into_inner();
        Ok(page.entries.len())
    }

    /// Who wrote which line of a file: how many spans, and versions that were looked at.
    pub(crate) async fn blame(&self, path: &str) -> Result<(usize, u64)> {
        let mut stub = HistoryServiceClient::new(self.channel.clone());
        let request = v1::BlameRequest {
            path: path.to_owned(),
            read: None,
        };
        let answer = stub.blame(request).await?.into_inner();
        Ok((answer.spans.len(), answer.versions_count))
    }

    /// Puts one small file, and waits until it is committed.
    pub(crate) async fn put(&self, path: String, content: Vec<u8>) -> Result<()> {
        self.put_all([(path, content)]).await
    }

    /// Puts small files in one change, and waits until it is committed.
    pub(crate) async fn put_all(
        &self,
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<()> {
        let put = |(path, content): (String, Vec<u8>)| {
            v1::event::Operation::Put(v1::Put {
                path,
                source: Some(v1::put::Source::Content(content.into())),
                parents: true,
                ..Default::default()
            })
        };
        self.append(files.into_iter().map(put)).await
    }

    pub(crate) async fn make_directory(&self, path: &str) -> Result<()> {
        let make = v1::MakeDirectory {
            path: path.to_owned(),
            parents: true,
        };
        self.append([v1::event::Operation::MakeDirectory(make)])
            .await
    }

    async fn append(
        &self,
        operations: impl IntoIterator<Item = v1::event::Operation>,
    ) -> Result<()> {
        let mut stub = FileServiceClient::new(self.channel.clone());
        let event = |operation| v1::Event {
            operation: Some(operation),
            ..Default::default()
        };
        let request = v1::AppendChangeRequest {
            events: operations.into_iter().map(event).collect(),
            options: Some(v1::WriteOptions {
                acknowledgement: v1::Acknowledgement::Committed.into(),
                ..Default::default()
            }),
        };
        let answer = stub.append_change(request).await?.into_inner();
        let level = answer.result.map_or(0, |result| result.acknowledgement);
        ensure!(
            level >= i32::from(v1::Acknowledgement::Committed),
            "only queued"
        );
        Ok(())
    }
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// After seconds.
    After(f64),
    /// After calls, all clients together.
    Count(u64),
}

/// What a load did.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Clients in a closed loop, one call in flight each. A call that fails is an error of the whole
/// load: what is not acknowledged must not make anything look quick. The time is that until the
/// last client has its last answer.
pub(crate) async fn load<F, P>(clients: usize, end: End, call: F) -> Result<Load>
where
    F: Fn(usize, u64) -> P + Clone + Send + 'static,
    P: Future<Output = Result<()>> + Send,
{
    let taken = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (call, taken) = (call.clone(), taken.clone());
        tasks.push(tokio::spawn(async move {
            let mut times = Values::default();
            loop {
                let number = taken.fetch_add(1, Ordering::Relaxed);
                let is_over = match end {
                    End::After(seconds) => began.elapsed().as_secs_f64() > seconds,
                    End::Count(count) => number >= count,
                };
                if is_over {
                    return anyhow::Ok(times);
                }
                let asked = Instant::now();
                call(client, number).await?;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
        }));
    }
    let mut all = Values::default();
    for task in tasks {
        all.extend(&task.await??);
    }
    Ok(Load {
        count: all.len() as u64,
        seconds: began.elapsed().as_secs_f64(),
        p50_ms: all.at(0.5).context("no call was answered")?,
        p99_ms: all.at(0.99).unwrap_or_default(),
    })
}

/// Waits until none of these processes runs.
pub(crate) fn wait_gone(ids: &[u32], patience: Duration) -> Result<()> {
    wait_until("nodes end", patience, || {
        Ok(!ids.iter().any(|id| runs(*id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_counts_what_was_answered() {
        let runtime = runtime().unwrap();
        let count = End::Count(50);
        let done = runtime
            .block_on(load(4, count, |_, _| async { Ok(()) }))
            .unwrap();
        assert_eq!(done.count, 50);
        let failing = load(4, count, |_, number| async move {
            ensure!(number != 20, "broken");
            Ok(())
        });
        assert!(runtime.block_on(failing).is_err());
    }
}
