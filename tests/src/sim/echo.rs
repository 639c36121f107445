//! [driver] A node that only echoes: what the world itself is tested with.
//!
//! Each node dials all others, sends a rising counter and counts the echoes; each second it writes
//! its own counter to a file, durably, and then acknowledges it to the world. A counter that was
//! acknowledged and is not there after a boot was lost. Bugs may be planted in it, to show that the
//! world finds them.

use super::cluster::{Boot, Subject};
use super::runtime::SimEnv;
use super::world::World;
use aber_log::env::disk::{File, Open, Rename, read_small, write_small};
use aber_log::env::network::{Link, LinkClass, Network};
use aber_log::env::{Disk, Env, Runtime};
use aber_proto::NodeId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const FILE: &str = "counter";

/// The bugs that may be planted.
pub const PLANTED: [&str; 3] = ["no-fsync", "no-dir-fsync", "ack-early"];

/// Counters that were acknowledged, by node.
type Acked = Arc<Mutex<BTreeMap<NodeId, u64>>>;

/// The echo subject.
#[derive(Clone, Default)]
pub struct Echo {
    node_count: u64,
    planted: Option<String>,
    acked: Acked,
}

/// A running echo node.
#[derive(Clone, Default)]
pub struct EchoNode {
    heard: Arc<Mutex<BTreeMap<NodeId, u64>>>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Echo {
    /// Nodes `1..=node_count`, with a bug if one is planted.
    #[must_use]
    pub fn new(node_count: u64, planted: Option<String>) -> Self {
        Self {
            node_count,
            planted,
            acked: Acked::default(),
        }
    }

    /// Counters acknowledged so far, all nodes together.
    #[must_use]
    pub fn acked_count(&self) -> u64 {
        lock(&self.acked).values().sum()
    }

    fn has(&self, bug: &str) -> bool {
        self.planted.as_deref() == Some(bug)
    }

    async fn save(&self, disk: &impl Disk, counter: u64) -> std::io::Result<()> {
        let bytes = counter.to_le_bytes();
        if !self.has("no-fsync") && !self.has("no-dir-fsync") {
            return write_small(disk, Path::new(FILE), &bytes).await;
        }
        let beside = Path::new("beside");
        match disk.remove_file(beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(beside, Open::CreateNew)?;
        file.write_at(&bytes, 0)?;
        if !self.has("no-fsync") {
            file.sync().await?;
        }
        disk.rename(beside, Path::new(FILE), Rename::Replace)?;
        if self.has("no-dir-fsync") {
            return Ok(());
        }
        disk.sync_dir(Path::new("")).await
    }

    async fn count(&self, env: SimEnv, mut counter: u64) {
        loop {
            env.runtime().sleep(Duration::from_secs(1)).await;
            counter += 1;
            if self.has("ack-early") {
                lock(&self.acked).insert(env.node(), counter);
            }
            if let Err(error) = self.save(env.disk(), counter).await {
                return env
                    .runtime()
                    .fail(74, &format!("the counter is not saved: {error}"));
            }
            env.runtime().trace(format_args!("counter {counter}"));
            lock(&self.acked).insert(env.node(), counter);
        }
    }

    /// Reads the counter and compares it with what was acknowledged.
    fn load(&self, world: &World, env: &SimEnv) -> Result<u64, String> {
        let counter = match read_small(env.disk(), Path::new(FILE), 8) {
            Ok(bytes) => <[u8; 8]>::try_from(bytes).map_or(0, u64::from_le_bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.to_string()),
        };
        let acked = lock(&self.acked).get(&env.node()).copied().unwrap_or(0);
        if counter < acked {
            let node = env.node();
            world.broken(format!(
                "D1: node {node} acknowledged {acked} and has {counter}"
            ));
        }
        Ok(counter)
    }
}

impl Subject for Echo {
    type Handle = EchoNode;

    async fn start(&self, env: SimEnv, boot: Boot) -> Result<EchoNode, String> {
        let counter = self.load(env.world(), &env)?;
        env.runtime().trace(format_args!("start with {counter}"));
        let node = EchoNode::default();
        let (accepting, counting, this) = (env.clone(), env.clone(), self.clone());
        env.runtime().spawn("accept", async move {
            while let Ok(link) = accepting.network().accept().await {
                accepting.runtime().spawn("answer", answer(link));
            }
        });
        env.runtime()
            .spawn("count", async move { this.count(counting, counter).await });
        for other in (1..=self.node_count)
            .map(NodeId)
            .filter(|other| *other != boot.node)
        {
            let (env_there, node) = (env.clone(), node.clone());
            env.runtime()
                .spawn("ask", async move { node.ask(env_there, other).await });
        }
        Ok(node)
    }
}

async fn answer(link: impl Link) {
    while let Ok(frame) = link.receive().await {
        if link.send(frame).await.is_err() {
            return;
        }
    }
}

impl EchoNode {
    /// Echoes heard from each node since this boot.
    #[must_use]
    pub fn heard(&self) -> BTreeMap<NodeId, u64> {
        lock(&self.heard).clone()
    }

    async fn ask(&self, env: SimEnv, other: NodeId) {
        let runtime = env.runtime();
        let mut sent = 0u64;
        loop {
            let jitter = Duration::from_millis(200 + runtime.seed() % 300);
            let Ok(link) = env.network().dial(other, LinkClass::Control).await else {
                runtime.sleep(jitter).await;
                continue;
            };
            loop {
                sent += 1;
                let frame = Bytes::copy_from_slice(&sent.to_le_bytes());
                let echo = async {
                    link.send(frame.clone()).await?;
                    link.receive().await
                };
                let echo = runtime.timeout(Duration::from_secs(5), echo).await;
                let Some(Ok(echo)) = echo else { break };
                assert_eq!(echo, frame, "links are ordered and lose nothing");
                *lock(&self.heard).entry(other).or_default() += 1;
                runtime.sleep(jitter).await;
            }
        }
    }
}
