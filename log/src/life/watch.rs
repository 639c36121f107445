//! [adapter] openraft's watch channel with waiters woken first come, first served.

use openraft_rt::{OptionalSend, OptionalSync, watch};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::Notify;

struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    bell: Notify,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.value.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn announce(&self) {
        self.version.fetch_add(1, SeqCst);
        self.bell.notify_waiters();
    }
}

/// The channel type.
#[derive(Debug)]
pub struct FairWatch;

/// The sending half.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving half, with the version it saw last.
pub struct Receiver<T>(Arc<Shared<T>>, u64);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, SeqCst) == 1 {
            self.0.bell.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.receivers.fetch_add(1, SeqCst);
        Self(Arc::clone(&self.0), self.1)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.receivers.fetch_sub(1, SeqCst);
    }
}

impl watch::Watch for FairWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(first: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(first),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
            bell: Notify::new(),
        });
        (Sender(Arc::clone(&shared)), Receiver(shared, 0))
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<FairWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        if self.0.receivers.load(SeqCst) == 0 {
            return Err(watch::SendError(value));
        }
        self.0.change(|present| *present = value);
        self.0.announce();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let is_modified = self.0.change(modify);
        if is_modified {
            self.0.announce();
        }
        is_modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, SeqCst);
        Receiver(Arc::clone(&self.0), self.0.version.load(SeqCst))
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<FairWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        let shared = Arc::clone(&self.0);
        loop {
            // Listen first, then look: a change in between is not missed.
            let mut heard = std::pin::pin!(shared.bell.notified());
            heard.as_mut().enable();
            let version = shared.version.load(SeqCst);
            if version != self.1 {
                self.1 = version;
                return Ok(());
            }
            if shared.senders.load(SeqCst) == 0 {
                return Err(watch::RecvError(()));
            }
            heard.await;
        }
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.0.read();
        self.1 = self.0.version.load(SeqCst);
        value
    }
}
