//! Clock, tasks and randomness of one node.

use aber_proto::{Instant, Timestamp};
use std::future::Future;

/// Clock, tasks and randomness of one node. Tasks die with their node.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The wall clock: data for people, never for an outcome (rule CL-1).
    fn wall_clock(&self) -> Timestamp;
    /// Waits until `now() >= until`.
    fn sleep_until(&self, until: Instant) -> impl Future<Output = ()> + Send;
    /// Starts a task of this node. `name` is for traces.
    fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static;
    /// Fills `bytes` from the world's entropy: keys, request ids, seeds.
    fn fill_random(&self, bytes: &mut [u8]);
    /// Stops the whole node at once after a failure that it must not outlive (promise D4). The
    /// real one prints `why` and exits with `code`; the simulated one kills the node.
    fn fail(&self, code: i32, why: &str);
    /// Records a line of what the node does, for the simulation's trace; the real one traces it.
    fn trace(&self, line: std::fmt::Arguments<'_>);

    /// A seed for a generator in pure code.
    fn seed(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Waits for a while.
    fn sleep(&self, time: std::time::Duration) -> impl Future<Output = ()> + Send {
        self.sleep_until(self.now() + time)
    }

    /// Runs `future`, at most for `time`; `None` means it was dropped unfinished.
    fn timeout<F>(
        &self,
        time: std::time::Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send
    where
        F: Future + Send,
        F::Output: Send,
    {
        async move {
            tokio::select! {
                biased;
                out = future => Some(out),
                () = self.sleep(time) => None,
            }
        }
    }
}
