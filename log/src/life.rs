//! [adapter] One boot of one node: its tasks, its clock, and openraft's runtime on top of them.
//!
//! openraft's runtime trait has static functions only, so the adapter finds its node by a
//! task-local: every task of a node, and so every call on one of its Raft handles, runs inside
//! [`Life::spawn`]. The production node and the simulated one use the same type; the simulated one
//! runs on a paused tokio clock, with a drift, and is killed by [`Life::kill`].
//!
//! openraft draws its random numbers through [`Rt`], a wrapper of openraft's own that is seeded a
//! task; tokio's watch channel, whose wake order is random, is replaced by [`watch`].

mod watch;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{AbortHandle, JoinHandle};

/// The runtime type of all Raft groups.
pub type Rt = openraft_rt::deterministic_rng::DeterministicRng<NodeRuntime>;

/// Where every node's monotonic clock starts, in nanoseconds; far from zero, since openraft
/// subtracts durations from instants.
const CLOCK_START: u64 = 1_000_000_000_000;
/// Finished tasks are forgotten each time this many were started.
const PRUNE_EVERY: usize = 512;

tokio::task_local! {
    static LIFE: Arc<Life>;
}

/// One boot of one node.
#[derive(Debug)]
pub struct Life {
    epoch: tokio::time::Instant,
    drift_ppm: i64,
    seeds: AtomicU64,
    tasks: Mutex<Vec<AbortHandle>>,
    is_dead: AtomicBool,
}

impl Life {
    /// A new life. `drift_ppm` makes its clock run fast or slow, by at most 100,000 parts a
    /// million; `seed` starts the generators of its tasks.
    #[must_use]
    pub fn new(epoch: tokio::time::Instant, drift_ppm: i64, seed: u64) -> Arc<Self> {
        assert!(drift_ppm.abs() <= 100_000, "a drift above a tenth");
        let (tasks, is_dead) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        Arc::new(Self {
            epoch,
            drift_ppm,
            seeds: AtomicU64::new(seed),
            tasks,
            is_dead,
        })
    }

    /// Starts a task of this life. It ends with the life at the latest.
    pub fn spawn<F>(self: &Arc<Self>, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let seed = self.seeds.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where a node's tasks start"
        )]
        let handle = tokio::spawn(LIFE.scope(Arc::clone(self), Rt::scope(seed, task)));
        self.adopt(handle.abort_handle());
        handle
    }

    /// Ends all tasks at their next await, as a crash would. Yield once before touching what they
    /// used.
    pub fn kill(&self) {
        self.is_dead.store(true, SeqCst);
        let tasks = std::mem::take(&mut *self.tasks());
        for task in tasks {
            task.abort();
        }
    }

    /// Whether [`Life::kill`] was called.
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(SeqCst)
    }

    /// The node's monotonic clock in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        let real = i128::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(i128::MAX);
        let shown = real + real * i128::from(self.drift_ppm) / 1_000_000;
        CLOCK_START.saturating_add(u64::try_from(shown).unwrap_or(0))
    }

    /// How long the world's clock runs while this node's runs for `time`; rounded up.
    pub fn to_world(&self, time: Duration) -> Duration {
        if self.drift_ppm == 0 {
            return time;
        }
        let scaled = time.as_nanos().saturating_mul(1_000_000);
        let rate = u128::try_from(1_000_000 + i128::from(self.drift_ppm)).unwrap_or(1);
        Duration::from_nanos(u64::try_from(scaled / rate + 1).unwrap_or(u64::MAX))
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopt(&self, task: AbortHandle) {
        if self.is_dead() {
            task.abort();
            return;
        }
        let mut tasks = self.tasks();
        if tasks.len() >= PRUNE_EVERY && tasks.len().is_multiple_of(PRUNE_EVERY) {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task);
    }
}

fn here<R>(look: impl FnOnce(&Arc<Life>) -> R) -> R {
    LIFE.try_with(look)
        .expect("every task of a node is started by Life::spawn")
}

fn to_world(time: Duration) -> Duration {
    here(|life| life.to_world(time))
}

/// A point on a node's clock, as openraft wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeInstant(u64);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for NodeInstant {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanos(time)))
    }
}

impl Sub<Duration> for NodeInstant {
    type Output = Self;
    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(time)))
    }
}

impl AddAssign<Duration> for NodeInstant {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl SubAssign<Duration> for NodeInstant {
    fn sub_assign(&mut self, time: Duration) {
        *self = *self - time;
    }
}

impl Sub for NodeInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl openraft_rt::Instant for NodeInstant {
    fn now() -> Self {
        Self(here(|life| life.now_ns()))
    }
}

/// openraft's runtime: tokio, plus the node a task belongs to.
pub struct NodeRuntime(());

impl fmt::Debug for NodeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeRuntime")
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = NodeInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = watch::FairWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    #[expect(
        clippy::disallowed_methods,
        reason = "the task is adopted by its life at once"
    )]
    fn spawn<T>(task: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let life = here(Arc::clone);
        let handle = tokio::spawn(LIFE.scope(Arc::clone(&life), task));
        life.adopt(handle.abort_handle());
        handle
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "tokio's clock is the world's, paused or real"
    )]
    fn sleep(time: Duration) -> Self::Sleep {
        tokio::time::sleep(to_world(time))
    }

    fn sleep_until(until: Self::Instant) -> Self::Sleep {
        Self::sleep(until - <NodeInstant as openraft_rt::Instant>::now())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "tokio's clock is the world's, paused or real"
    )]
    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        time: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(to_world(time), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        until: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Self::timeout(until - <NodeInstant as openraft_rt::Instant>::now(), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        unreachable!("the wrapper answers all draws")
    }

    fn new(_threads: usize) -> Self {
        unreachable!("a node is started by Node::start, not by openraft")
    }

    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("a node is started by Node::start, not by openraft")
    }

    async fn spawn_blocking<F, T>(_work: F) -> Result<T, std::io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Err(std::io::Error::other("Raft starts no threads here"))
    }
}
