//! A small hostile world for the tests of chunks: a disk with a live and a durable image, an index
//! that may be older after a crash, a runtime that remembers that it was stopped.
#![allow(clippy::disallowed_methods, reason = "a test starts its own world")]

mod disk;

pub(crate) use disk::TestDisk;

use crate::env::kv::{KvBatch, KvProblem};
use crate::env::{Env, Kv, Runtime};
use crate::life::{Life, NodeRuntime};
use crate::testing::NoNetwork;
use aber_proto::{Instant, Timestamp};
use bytes::Bytes;
use openraft_rt::AsyncRuntime;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes that look random and are the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Runs a test on a paused clock, in a world of its own.
pub(crate) fn run<F>(test: impl FnOnce(TestEnv) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // The test itself outlives the boots that it ends.
        let life = Life::new(tokio::time::Instant::now(), 0, 0);
        if let Err(error) = life.spawn(test(TestEnv::new())).await {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

/// A node's world. Clones are the same.
#[derive(Clone)]
pub(crate) struct TestEnv {
    pub(crate) runtime: TestRuntime,
    pub(crate) disk: TestDisk,
    pub(crate) kv: TestKv,
}

impl TestEnv {
    fn new() -> Self {
        Self::boot(TestDisk::default(), TestKv::default())
    }

    /// The world of a new boot.
    pub(crate) fn boot(disk: TestDisk, kv: TestKv) -> Self {
        let runtime = TestRuntime {
            life: Life::new(tokio::time::Instant::now(), 0, 1),
            failures: Arc::default(),
        };
        Self { runtime, disk, kv }
    }

    /// The next process after a kill.
    pub(crate) fn kill(&self) -> Self {
        self.runtime.life.kill();
        Self::boot(self.disk.after_kill(), self.kv.first(usize::MAX))
    }

    /// What is left after a power cut; of the index the first `commits` commits.
    pub(crate) fn crash(&self, seed: u64, commits: usize) -> Self {
        self.runtime.life.kill();
        Self::boot(self.disk.after_crash(seed), self.kv.first(commits))
    }
}

impl Env for TestEnv {
    type Runtime = TestRuntime;
    type Disk = TestDisk;
    type Network = NoNetwork;
    type Kv = TestKv;

    fn runtime(&self) -> &TestRuntime {
        &self.runtime
    }
    fn disk(&self) -> &TestDisk {
        &self.disk
    }
    fn open_folder(&self, _: &std::path::Path) -> io::Result<TestDisk> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn network(&self) -> &NoNetwork {
        &NoNetwork
    }
    fn open_index(&self) -> Result<TestKv, KvProblem> {
        Ok(self.kv.clone())
    }
    fn discard_index(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Clock and tasks; remembers what [`Runtime::fail`] was told.
#[derive(Clone)]
pub(crate) struct TestRuntime {
    life: Arc<Life>,
    pub(crate) failures: Arc<Mutex<Vec<(i32, String)>>>,
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        Instant(self.life.now_ns())
    }
    fn wall_clock(&self) -> Timestamp {
        let since_start = self.life.now_ns() / 1_000_000;
        Timestamp(i64::try_from(since_start).unwrap())
    }
    async fn sleep_until(&self, until: Instant) {
        let time = until - self.now();
        NodeRuntime::sleep(time.max(Duration::from_nanos(1))).await;
    }
    fn spawn<F>(&self, _: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.life.spawn(task);
    }
    fn fill_random(&self, bytes: &mut [u8]) {
        bytes.fill(4);
    }
    fn fail(&self, code: i32, why: &str) {
        self.failures.lock().unwrap().push((code, why.to_owned()));
    }
    fn trace(&self, _: std::fmt::Arguments<'_>) {}
}

/// An index that remembers its commits.
#[derive(Clone, Default)]
pub(crate) struct TestKv {
    pub(crate) is_failing: Arc<AtomicBool>,
    commits: Arc<Mutex<Vec<KvBatch>>>,
    rows: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
}

impl TestKv {
    /// How many commits there were.
    pub(crate) fn count(&self) -> usize {
        self.commits.lock().unwrap().len()
    }

    /// The index after its first commits.
    pub(crate) fn first(&self, commits: usize) -> Self {
        let fresh = Self::default();
        for batch in self.commits.lock().unwrap().iter().take(commits) {
            fresh.commit(batch.clone()).unwrap();
        }
        fresh
    }
}

impl Kv for TestKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(self.rows.lock().unwrap().get(key).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        let rows = self.rows.lock().unwrap();
        let span = Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to);
        let found = rows.range(span).take(limit);
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        if self.is_failing.load(Ordering::SeqCst) {
            let what = "told to fail".to_owned();
            return Err(KvProblem { what });
        }
        let mut rows = self.rows.lock().unwrap();
        for (key, value) in &batch.rows {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        self.commits.lock().unwrap().push(batch);
        Ok(())
    }
    async fn flush(&self) -> Result<(), KvProblem> {
        Ok(())
    }
}
