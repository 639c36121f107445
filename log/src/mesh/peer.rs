//! Another member as the mesh knows it: its links, and who waits for its answers.

use super::frame::Head;
use super::send::Outgoing;
use super::{CallProblem, lock};
use crate::env::Env;
use crate::env::network::{LinkClass, LinkProblem};
use crate::watch::Watched;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

pub(super) type Answered = Result<Bytes, CallProblem>;
pub(super) type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Answered>>>>;

/// A link for requests of ours.
pub(super) struct Up<E: Env> {
    pub(super) out: Outgoing<E>,
    pub(super) waiting: Waiting,
}

impl<E: Env> Clone for Up<E> {
    fn clone(&self) -> Self {
        Self {
            out: self.out.clone(),
            waiting: Arc::clone(&self.waiting),
        }
    }
}

/// The place of one who waits for an answer, given back when it is dropped. If content was asked for
/// and did not come, the other end hears that nobody waits any more.
pub(super) struct Place<E: Env> {
    up: Up<E>,
    head: Head,
    /// The request is sent.
    pub(super) is_sent: bool,
}

impl<E: Env> Place<E> {
    pub(super) fn take(up: Up<E>, head: Head) -> (Self, oneshot::Receiver<Answered>) {
        let (sender, receiver) = oneshot::channel();
        lock(&up.waiting).insert(head.id, sender);
        let is_sent = false;
        (Self { up, head, is_sent }, receiver)
    }
}

impl<E: Env> Drop for Place<E> {
    fn drop(&mut self) {
        let was_waiting = lock(&self.up.waiting).remove(&self.head.id).is_some();
        // Other answers are not worth another frame.
        if was_waiting && self.is_sent && self.head.method.class() == LinkClass::Bulk {
            self.up.out.give_up(self.head, None);
        }
    }
}

/// Another member, as long as it is one.
pub(super) struct Peer<E: Env> {
    pub(super) slots: BTreeMap<LinkClass, Watched<Option<Up<E>>>>,
    pub(super) is_wanted: Watched<bool>,
    /// Apart from the peer, whose links refer to it.
    pub(super) traffic: Arc<Traffic>,
}

/// Bytes of frames. For people: nothing depends on it.
#[derive(Default)]
pub(super) struct Traffic {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Traffic {
    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, SeqCst);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, SeqCst);
    }
}

/// How the links to another member are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkState {
    /// Whether requests that are no content can be sent to it.
    pub is_up: bool,
    /// Whether content can be.
    pub is_content_up: bool,
    /// Why not, as the last try to open a link said; `None` while all are up, or before it ended.
    pub problem: Option<LinkProblem>,
    /// Bytes of frames sent to it since it is a peer, both ways of asking together.
    pub sent_bytes: u64,
    /// Bytes of frames received from it.
    pub received_bytes: u64,
}

impl<E: Env> Peer<E> {
    pub(super) fn new() -> Self {
        let classes = [LinkClass::Control, LinkClass::Bulk];
        Self {
            slots: classes.map(|class| (class, Watched::new(None))).into(),
            is_wanted: Watched::new(true),
            traffic: Arc::default(),
        }
    }

    pub(super) fn is_up(&self, class: LinkClass) -> bool {
        let slot = self.slots.get(&class);
        slot.is_some_and(|slot| slot.get().is_some())
    }

    pub(super) fn state(&self, problem: Option<LinkProblem>) -> LinkState {
        LinkState {
            is_up: self.is_up(LinkClass::Control),
            is_content_up: self.is_up(LinkClass::Bulk),
            problem,
            sent_bytes: self.traffic.sent_bytes.load(SeqCst),
            received_bytes: self.traffic.received_bytes.load(SeqCst),
        }
    }
}
