//! [adapter] Clock, tasks and randomness: tokio and the operating system.
//!
//! All tasks of the node run inside one [`Life`], so that openraft finds its runtime and
//! everything dies together. A panic anywhere stops the whole process (exit code 70): half a node
//! must not go on. The exception is `guarded` work, which is how the index is asked: its panics
//! are problems of the index, and it can be rebuilt.

use aber_log::env::Runtime;
use aber_log::life::Life;
use aber_proto::{Instant, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Exit code of a process that met a bug of its own: `EX_SOFTWARE` of sysexits.
pub const EXIT_PANIC: i32 = 70;
/// Disk calls hold a worker while they copy, so there are more workers than small machines have
/// processors.
const WORKERS: usize = 8;
/// How long work on blocking threads may go on after the node ended.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);
/// Threads of sled carry this; it names them by function or purpose.
const INDEX_THREAD_NAMES: [&str; 2] = ["sled", "log flusher"];

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}
static INDEX_PANICS: AtomicU64 = AtomicU64::new(0);

/// Told of a fatal failure instead of ending the process: exit code and reason.
pub type FailHook = Arc<dyn Fn(i32, &str) + Send + Sync>;

/// Clock, tasks and randomness of a real node.
#[derive(Clone)]
pub struct SystemRuntime {
    life: Arc<Life>,
    random: SystemRandom,
    fail_hook: Option<FailHook>,
}

/// Why the node's root task gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RootProblem {
    /// The system refused threads or its event queue.
    #[error("the runtime does not start: {0}")]
    Start(#[from] std::io::Error),
    /// The root task panicked or its life was ended.
    #[error("the node stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl fmt::Debug for SystemRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemRuntime").finish_non_exhaustive()
    }
}

impl Default for SystemRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemRuntime {
    /// A new life, seeded by the operating system. A fatal failure ends the process.
    #[must_use]
    pub fn new() -> Self {
        Self::start(None)
    }

    /// A new life whose fatal failures end it, and are told to `hook`, but not the process.
    #[must_use]
    pub fn with_fail_hook(hook: FailHook) -> Self {
        Self::start(Some(hook))
    }

    fn start(fail_hook: Option<FailHook>) -> Self {
        let random = SystemRandom::new();
        let mut seed = [0; 8];
        fill(&random, &mut seed);
        let seed = u64::from_le_bytes(seed);
        let life = Life::new(tokio::time::Instant::now(), 0, seed);
        Self {
            life,
            random,
            fail_hook,
        }
    }

    /// The life all tasks run in.
    #[must_use]
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Builds the threads of the node, runs `root` on them inside its life, and answers what it
    /// answers. Called once, from `main`.
    ///
    /// # Errors
    /// [`RootProblem`].
    pub fn block_on_root<F>(&self, root: F) -> Result<F::Output, RootProblem>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("aber-worker")
            .enable_all()
            .build()?;
        let life = Arc::clone(&self.life);
        let answer = threads.block_on(async move { life.spawn(root).await });
        self.life.kill();
        threads.shutdown_timeout(SHUTDOWN_TIME);
        Ok(answer?)
    }
}

fn fill(random: &SystemRandom, bytes: &mut [u8]) {
    random
        .fill(bytes)
        .expect("getrandom does not fail once the system is up, and without it nothing is safe");
}

impl Runtime for SystemRuntime {
    fn now(&self) -> Instant {
        Instant(self.life.now_ns())
    }

    fn wall_clock(&self) -> Timestamp {
        let now = SystemTime::now();
        let millis = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        Timestamp(millis)
    }

    async fn sleep_until(&self, until: Instant) {
        loop {
            let left = until - self.now();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        use tracing::Instrument;
        let span = tracing::debug_span!("task", name);
        drop(self.life.spawn(task.instrument(span)));
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        fill(&self.random, bytes);
    }

    fn fail(&self, code: i32, why: &str) {
        tracing::error!(code, why, "the node stops");
        tell(why);
        match &self.fail_hook {
            Some(hook) => {
                self.life.kill();
                hook(code, why);
            }
            None => std::process::exit(code),
        }
    }

    fn trace(&self, line: fmt::Arguments<'_>) {
        tracing::trace!("{line}");
    }
}

fn tell(why: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody is left to tell that standard error is gone.
    let _ = writeln!(out, "aber: {why}").and_then(|()| out.flush());
}

/// From here on a panic ends the process with [`EXIT_PANIC`], unless the work is `guarded` or
/// the thread belongs to the index. Called once, from `main`.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        if IS_GUARDED.get() {
            tracing::warn!(thread = name, %info, "a guarded call panicked");
        } else if INDEX_THREAD_NAMES.iter().any(|part| name.contains(part)) {
            INDEX_PANICS.fetch_add(1, SeqCst);
            tracing::error!(thread = name, %info, "a thread of the index panicked");
        } else {
            tracing::error!(thread = name, %info, "panic");
            tell(&format!(
                "{info} (thread {name}); this is a bug of aber, the node stops"
            ));
            std::process::exit(EXIT_PANIC);
        }
    }));
}

/// How many threads of the index have panicked in this process.
pub(super) fn index_panics() -> u64 {
    INDEX_PANICS.load(SeqCst)
}

/// Runs `work`; a panic in it is an error with the panic's text, and not the end of the process.
pub(super) fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    let before = IS_GUARDED.replace(true);
    // What the panic may have left half done is not looked at again: the index is thrown away.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(before);
    outcome.map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without a text"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn the_root_runs_in_its_life_and_time_passes() {
        let runtime = SystemRuntime::new();
        let inner = runtime.clone();
        let slept = runtime.block_on_root(async move {
            let (sender, done) = tokio::sync::oneshot::channel();
            let clock = inner.clone();
            inner.spawn("sleeper", async move {
                let before = clock.now();
                clock.sleep(Duration::from_millis(5)).await;
                let _ = sender.send(clock.now() - before);
            });
            done.await
        });
        let slept = slept.expect("root").expect("sleeper");
        assert!(slept >= Duration::from_millis(5), "{slept:?}");
        assert!(runtime.life().is_dead());
    }

    /// D4: a fatal failure ends the node's tasks and carries its code.
    #[test]
    fn a_failure_ends_the_life_and_is_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hook = Arc::clone(&told);
        let runtime = SystemRuntime::with_fail_hook(Arc::new(move |code, why: &str| {
            hook.lock().expect("lock").push((code, why.to_owned()));
        }));
        let inner = runtime.clone();
        let answer = runtime.block_on_root(async move {
            inner.fail(74, "the disk failed");
            std::future::pending::<()>().await;
        });
        assert!(matches!(answer, Err(RootProblem::Stopped(_))));
        let told = told.lock().expect("lock").clone();
        assert_eq!(told, [(74, "the disk failed".to_owned())]);
    }

    #[test]
    fn a_guarded_panic_is_an_error() {
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(
            guarded(|| -> u8 { panic!("row {}", 3) }),
            Err("panicked: row 3".to_owned())
        );
    }

    /// Runs one of the tests below in a process of its own; answers exit code and error output.
    fn in_own_process(test: &str) -> (Option<i32>, String) {
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
            .arg(format!("env::runtime::tests::{test}"))
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    }

    /// D4: a broken assertion in any task stops the whole node.
    #[test]
    fn a_panic_ends_the_process() {
        let (code, told) = in_own_process("panic_in_a_task");
        assert_eq!(code, Some(EXIT_PANIC), "{told}");
        assert!(
            told.contains("aber: ") && told.contains("the reason"),
            "{told}"
        );
    }

    #[test]
    #[ignore = "run in a process of its own by the test above"]
    fn panic_in_a_task() {
        install_panic_hook();
        let runtime = SystemRuntime::new();
        let inner = runtime.clone();
        let _ = runtime.block_on_root(async move {
            assert!(guarded(|| panic!("guarded")).is_err());
            inner.spawn("faulty", async { panic!("the reason") });
            std::future::pending::<()>().await;
        });
    }

    /// D4: a failed disk ends the process with its code.
    #[test]
    fn a_failure_ends_the_process() {
        let (code, told) = in_own_process("fail_for_real");
        assert_eq!(code, Some(74), "{told}");
        assert!(told.contains("aber: the log is poisoned"), "{told}");
    }

    #[test]
    #[ignore = "run in a process of its own by the test above"]
    fn fail_for_real() {
        SystemRuntime::new().fail(74, "the log is poisoned");
    }

    #[test]
    fn random_bytes_differ_and_the_wall_clock_is_past_2020() {
        let runtime = SystemRuntime::new();
        assert_ne!(runtime.seed(), runtime.seed());
        assert!(runtime.wall_clock() > Timestamp(1_577_836_800_000));
    }
}
