//! [driver] The uplink of this node: one schedule over all links (fanout.md §10).
//!
//! Whoever has a message to send takes a [`Ticket`], waits for each piece's turn, and hands the
//! piece to its link; the next piece is asked for once the link has taken that one. Bytes stay with
//! their owner until then. With no limit every turn comes at once, and there is neither a task
//! nor a timer; with one, a task runs while something waits for the line.

mod bucket;
mod estimate;
mod part;
mod schedule;

pub use bucket::{FRAME_MAX_BYTES, UNLIMITED_BITS_PER_S};
pub use estimate::Sample;
pub use schedule::{Backlog, Priority, Route};

use crate::env::Runtime;
use aber_proto::{Instant, NodeId};
use bucket::PART_PERCENT;
use estimate::Estimate;
use schedule::Schedule;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// What is known of the uplink, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UplinkState {
    /// What is sent at most, in bits a second: a part of the line; `None` without a limit.
    pub rate: Option<u64>,
    /// The longest piece of a message, in bytes.
    pub frame_bytes: usize,
    /// What waits.
    pub backlog: BTreeMap<Priority, Backlog>,
    /// How long content that waits would take from now on, in milliseconds.
    pub backlog_ms: u64,
    /// Bytes of messages sent to each member as each priority.
    pub sent_bytes: BTreeMap<(NodeId, Priority), u64>,
}

/// What others may count on of an uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usable {
    /// The line in bits a second, or what is to be used of it instead of the usual part of one;
    /// `None`: no limit is known.
    pub rate: Option<u64>,
    /// Hundredths of the line that are used whatever is seen; `None`: as many as leave no queue.
    pub part: Option<u64>,
}

struct State {
    schedule: Schedule,
    /// What the line carries, as far as was seen.
    estimate: Estimate,
    /// The part of it that is used whatever is seen, in hundredths.
    fixed_part: Option<u64>,
    /// Those who wait for their turn.
    waiting: BTreeMap<u64, oneshot::Sender<usize>>,
    /// Until when the task sleeps; `None`: there is none.
    sleeps_until: Option<Instant>,
}

struct Inner<R> {
    runtime: R,
    state: Mutex<State>,
    bell: Notify,
}

/// The uplink of a node. Clones are the same.
pub struct Uplink<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Uplink<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<R: Runtime> Uplink<R> {
    /// An uplink without a limit.
    pub fn new(runtime: R) -> Self {
        let state = State {
            schedule: Schedule::default(),
            estimate: Estimate::new(None),
            fixed_part: None,
            waiting: BTreeMap::new(),
            sleeps_until: None,
        };
        Self {
            inner: Arc::new(Inner {
                runtime,
                state: Mutex::new(state),
                bell: Notify::new(),
            }),
        }
    }

    /// From now on the line is said to have this rate, in bits a second. `None`, and all from
    /// [`UNLIMITED_BITS_PER_S`] on: nothing is held back, unless messages are seen to queue.
    pub fn set_rate(&self, line: Option<u64>) {
        let now = self.inner.runtime.now();
        let mut state = self.state();
        if state.estimate.declared() != line {
            state.estimate = Estimate::new(line);
        }
        state.retune(now);
        self.settle(state, now);
    }

    /// Something was seen of what the line carries.
    pub fn sample(&self, sample: Sample) {
        let now = self.inner.runtime.now();
        let mut state = self.state();
        let known = |estimate: &Estimate| (estimate.line(), estimate.part_percent());
        let before = known(&state.estimate);
        state.estimate.step(now, sample);
        if known(&state.estimate) != before {
            state.retune(now);
            self.settle(state, now);
        }
    }

    /// Whether some node is to be asked something small now, for a [`Sample::RoundTrip`]: what is
    /// full is watched. Whoever is told so does ask.
    #[must_use]
    pub fn wants_question(&self) -> bool {
        let now = self.inner.runtime.now();
        self.state().estimate.wants_question(now)
    }

    /// Whether content waits for the line.
    #[must_use]
    pub fn has_content(&self) -> bool {
        let state = self.state();
        let lanes = [Priority::Content, Priority::CatchUp];
        lanes
            .iter()
            .any(|lane| state.schedule.backlog(*lane).bytes > 0)
    }

    /// Whether a small question would go at once: nothing as urgent waits.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        let state = self.state();
        let lanes = [Priority::Vital, Priority::Log];
        lanes
            .iter()
            .all(|lane| state.schedule.backlog(*lane).bytes == 0)
    }

    /// From now on so many hundredths of the line are used, 1 to 100; `None`: as many as leave no queue,
    /// 85 at least.
    pub fn set_part(&self, percent: Option<u64>) {
        let now = self.inner.runtime.now();
        let mut state = self.state();
        state.fixed_part = percent;
        state.estimate.forget_part();
        state.retune(now);
        self.settle(state, now);
    }

    /// What others may count on.
    #[must_use]
    pub fn usable(&self) -> Usable {
        let state = self.state();
        let part = state.fixed_part;
        // A line counts in full where the usual part of it is used, as those of others do.
        let of_line = part.map_or(PART_PERCENT, |part| part.min(PART_PERCENT));
        let rate = state.estimate.line();
        Usable {
            rate: rate.map(|line| line.saturating_mul(of_line) / PART_PERCENT),
            part,
        }
    }

    /// A message of `bytes` bytes, at least one, to be sent by a link; it has its place from now
    /// on. `None`: more than [`aber_proto::limit::UPLINK_MESSAGES`] of its priority wait.
    pub fn begin(&self, priority: Priority, route: Route, bytes: u64) -> Option<Ticket<R>> {
        assert!(bytes > 0, "a message of nothing has no turn");
        let now = self.inner.runtime.now();
        let id = self.state().schedule.begin(now, priority, route, bytes)?;
        Some(Ticket {
            uplink: self.clone(),
            id,
        })
    }

    /// How it is.
    #[must_use]
    pub fn look(&self) -> UplinkState {
        let state = self.state();
        let schedule = &state.schedule;
        let (rate, frame_bytes) = schedule.pace();
        UplinkState {
            rate,
            frame_bytes,
            backlog: Priority::ALL
                .map(|priority| (priority, schedule.backlog(priority)))
                .into(),
            backlog_ms: schedule.backlog_ms(),
            sent_bytes: schedule.sent_bytes().clone(),
        }
    }

    /// What is sent at most, in bits a second; `None` without a limit.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.state().schedule.pace().0
    }

    /// How long content that waits would take from now on, in milliseconds; 0 without a limit.
    #[must_use]
    pub fn backlog_ms(&self) -> u64 {
        self.state().schedule.backlog_ms()
    }

    /// Forgets what was counted for one who is no member any more.
    pub fn forget(&self, peer: NodeId) {
        let mut state = self.state();
        state.schedule.forget(peer);
        state.estimate.forget(peer);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all whose turn it is, and sees to it that somebody looks again when that may change by
    /// itself.
    fn settle(&self, mut state: MutexGuard<'_, State>, now: Instant) {
        state.tell(now);
        let Some(wake) = state.schedule.next_wake(now) else {
            return;
        };
        match state.sleeps_until {
            Some(until) if until <= wake => {}
            Some(_) => self.inner.bell.notify_one(),
            None => {
                state.sleeps_until = Some(wake);
                drop(state);
                let task = self.clone().keep_turning();
                self.inner.runtime.spawn("uplink", task);
            }
        }
    }

    /// Ends when nothing waits for time to pass.
    async fn keep_turning(self) {
        loop {
            let wake = {
                let now = self.inner.runtime.now();
                let mut state = self.state();
                state.tell(now);
                state.sleeps_until = state.schedule.next_wake(now);
                state.sleeps_until
            };
            let Some(wake) = wake else { return };
            tokio::select! {
                biased;
                () = self.inner.bell.notified() => {}
                () = self.inner.runtime.sleep_until(wake) => {}
            }
        }
    }
}

impl State {
    fn retune(&mut self, now: Instant) {
        let part = self.fixed_part.unwrap_or(self.estimate.part_percent());
        self.schedule.set_line(now, self.estimate.line());
        self.schedule.set_part(now, part);
    }

    fn tell(&mut self, now: Instant) {
        while let Some((id, bytes)) = self.schedule.grant(now) {
            if let Some(waiting) = self.waiting.remove(&id) {
                // One who gave up gives its ticket back by itself.
                let _gave_up = waiting.send(bytes).is_err();
            }
        }
    }
}

/// A message's place on the uplink. Dropping it gives the place back, wherever the message is.
pub struct Ticket<R: Runtime> {
    uplink: Uplink<R>,
    id: u64,
}

impl<R: Runtime> Ticket<R> {
    /// Waits until the next piece may be sent, and answers its bytes; `None` when all are. Call it
    /// when the link has taken the piece before. Once dropped unfinished, the ticket is to be
    /// dropped too.
    pub async fn next(&mut self) -> Option<usize> {
        let (sender, receiver) = oneshot::channel();
        {
            let now = self.uplink.inner.runtime.now();
            let mut state = self.uplink.state();
            if !state.schedule.ask(self.id) {
                return None;
            }
            state.waiting.insert(self.id, sender);
            self.uplink.settle(state, now);
        }
        receiver.await.ok()
    }
}

impl<R: Runtime> Drop for Ticket<R> {
    fn drop(&mut self) {
        let now = self.uplink.inner.runtime.now();
        let mut state = self.uplink.state();
        state.schedule.end(self.id);
        state.waiting.remove(&self.id);
        self.uplink.settle(state, now);
    }
}

#[cfg(test)]
mod tests;
