//! A watched value: the newest wins, and waiters wake first come, first served.
//!
//! tokio's own watch channel wakes its waiters in an order drawn at random, which would make a
//! simulated run differ from its repetition; this one does not.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

struct Shared<T> {
    state: Mutex<(T, u64)>,
    bell: Notify,
}

/// A value that many may read and wait for. Clones share it; each clone waits for what is newer
/// than what it last saw.
pub struct Watched<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl<T: Clone> Watched<T> {
    /// A watched value.
    pub fn new(value: T) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new((value, 0)),
                bell: Notify::new(),
            }),
            seen: 0,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (T, u64)> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> T {
        self.lock().0.clone()
    }

    /// Replaces the value and wakes all who wait.
    pub fn set(&self, value: T) {
        self.update(|present| *present = value);
    }

    /// Changes the value in place and wakes all who wait. `change` must be short.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let answer = {
            let mut state = self.lock();
            state.1 += 1;
            change(&mut state.0)
        };
        self.shared.bell.notify_waiters();
        answer
    }

    /// Waits until the value was set since this clone last looked, then answers it.
    pub async fn changed(&mut self) -> T {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut heard = std::pin::pin!(shared.bell.notified());
            heard.as_mut().enable();
            {
                let state = self.lock();
                if state.1 != self.seen {
                    let (value, version) = (state.0.clone(), state.1);
                    drop(state);
                    self.seen = version;
                    return value;
                }
            }
            heard.await;
        }
    }

    /// Waits until `wanted` holds, then answers the value.
    pub async fn until(&mut self, wanted: impl Fn(&T) -> bool) -> T {
        loop {
            {
                let state = self.lock();
                if wanted(&state.0) {
                    return state.0.clone();
                }
            }
            self.changed().await;
        }
    }
}
