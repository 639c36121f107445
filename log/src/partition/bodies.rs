//! [driver] Bodies put in their place: of entries from a leader or whom this node follows, and of
//! changes that are proposed.
//!
//! The invariant: what is handed on from here is whole, and each body has the hash that the reference
//! said; a message of which a body lacks is refused as one. Waiting is bounded in time
//! ([`body::MOST`], then one question), in number ([`WAITING`]) and in bytes ([`body::named`]); it is
//! done in the task of the message alone, so heartbeats, votes and other messages go on. A message
//! that found no room to wait, or no body, is sent again whole (`body::Book`): no permit is needed
//! then, and nothing is waited for.

use super::{Partition, lock};
use crate::body::{self, BadBody, BodyRef, Book};
use crate::env::{Env, Runtime};
use crate::mesh::{CallProblem, Method};
use crate::outbox::Boxed;
use aber_proto::generated::rpc;
use aber_proto::{ContentHash, Entry, EntryKind, Instant, LogId, NodeId, limit};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Messages of a kind whose bodies are waited for at once: beyond, they are refused. Each holds at
/// most what a message can.
const WAITING: usize = 16;
/// For bodies that were asked for.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of bodies in one answer, but for the first.
const ANSWER_BYTES: usize = 1024 * 1024;
/// Bodies that one message may ask for.
const ASKED: usize = limit::PARCEL_CHUNKS;

/// What it may take until all bodies of a message are there, or it is refused.
pub(super) const FILL_TIME: Duration = body::MOST.saturating_add(ASK_DEADLINE);

/// Where bodies come from by themselves. Defined here, implemented by who keeps content.
pub trait BodySource: Send + Sync + 'static {
    /// The body, as soon as all its chunks are here; `None` if they do not come, or make another.
    /// Ends within [`body::MOST`].
    fn find(&self, body: BodyRef) -> Boxed<Option<Bytes>>;
    /// A body that came in another way, for those who get its chunks from here.
    fn keep(&self, body: &BodyRef, bytes: &Bytes);
}

/// A source of nothing: every body is asked for.
pub struct NoBodies;

impl BodySource for NoBodies {
    fn find(&self, _: BodyRef) -> Boxed<Option<Bytes>> {
        Box::pin(async { None })
    }

    fn keep(&self, _: &BodyRef, _: &Bytes) {}
}

/// The bodies of a node's groups. Clones are the same.
#[derive(Clone)]
pub struct Bodies {
    source: Arc<dyn BodySource>,
    book: Arc<Mutex<Book>>,
    /// Room for messages with entries, which come from few; and for those with changes, from anybody.
    entries: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

/// Why a message is not whole.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyProblem {
    /// It contradicts itself.
    #[error(transparent)]
    Bad(#[from] BadBody),
    /// As many as may wait do.
    #[error("too many messages wait for bodies")]
    Busy,
    /// Who sent the reference has no such body, or did not answer.
    #[error("the body of {index} is not to be had")]
    Lacking {
        /// Of which entry or change.
        index: u64,
    },
    /// Who sent the reference says that another body is it.
    #[error("node {node} gave another body for {index} than it named")]
    Lied {
        /// Who.
        node: NodeId,
        /// Of which entry.
        index: u64,
    },
    /// The question for it failed.
    #[error(transparent)]
    Call(#[from] CallProblem),
}

type Found = BTreeMap<u64, Bytes>;

impl Bodies {
    /// Those that `source` finds.
    pub fn new(source: Arc<dyn BodySource>) -> Self {
        Self {
            source,
            book: Arc::default(),
            entries: Arc::new(Semaphore::new(WAITING)),
            changes: Arc::new(Semaphore::new(WAITING)),
        }
    }

    /// The chunks of a body of this node are on their way to everybody.
    pub fn offered(&self, body: BodyRef, now: Instant) {
        lock(&self.book).know(body, now);
    }

    /// What `to` is sent in place of a body; `None`: the body.
    #[must_use]
    pub fn reference_for(&self, to: NodeId, body: &[u8], now: Instant) -> Option<BodyRef> {
        lock(&self.book).reference_for(to, body, now).cloned()
    }

    /// A node did not find a body, or did not say so: for a while it is sent everything whole.
    pub(super) fn lacks(&self, node: NodeId, now: Instant) {
        lock(&self.book).lacks(node, now);
    }

    /// Entries as they are sent to `to`: bytes, and references to the bodies that are not in them.
    pub(super) fn send(
        &self,
        to: NodeId,
        entries: impl IntoIterator<Item = Entry>,
        now: Instant,
    ) -> (Vec<Bytes>, Vec<rpc::BodyRef>) {
        let (mut all, mut bodies) = (Vec::new(), Vec::new());
        for mut entry in entries {
            if entry.kind == EntryKind::Change
                && let Some(body) = self.reference_for(to, &entry.body, now)
            {
                entry.body = Bytes::new();
                bodies.push(body.to_message(entry.log_id.index));
            }
            all.push(entry.to_bytes());
        }
        (all, bodies)
    }

    /// The bodies that come by themselves.
    async fn find(&self, wanted: &BTreeMap<u64, BodyRef>, now: impl Fn() -> Instant) -> Found {
        let finding = wanted.iter().map(async |(index, body)| {
            let found = self.source.find(body.clone()).await?;
            // What came by its chunks is passed on by them.
            self.offered(body.clone(), now());
            Some((*index, found))
        });
        let found = futures::future::join_all(finding).await;
        found.into_iter().flatten().collect()
    }
}

impl<E: Env> Partition<E> {
    /// Puts bodies in the place of references in entries that `from` sent.
    ///
    /// # Errors
    /// [`BodyProblem`]: then none of them is to be used.
    pub(super) async fn fill(
        &self,
        from: NodeId,
        mut entries: Vec<Entry>,
        bodies: &[rpc::BodyRef],
    ) -> Result<Vec<Entry>, BodyProblem> {
        if bodies.is_empty() {
            return Ok(entries);
        }
        let mut wanted = body::named(bodies)?;
        let is_empty = |entry: &&Entry| entry.kind == EntryKind::Change && entry.body.is_empty();
        let empty = entries.iter().filter(is_empty);
        let places = empty.filter(|entry| wanted.contains_key(&entry.log_id.index));
        if places.count() != wanted.len() {
            return Err(BadBody("of no entry that lacks its body").into());
        }
        let room = self.inner.bodies.entries.try_acquire();
        let _room = room.map_err(|_| BodyProblem::Busy)?;
        let mut found = self.had_before(&entries, &mut wanted);
        let clock = || self.inner.env.runtime().now();
        found.extend(self.inner.bodies.find(&wanted, clock).await);
        wanted.retain(|index, _| !found.contains_key(index));
        let (here, lacking, runtime) = (found.len(), wanted.len(), self.inner.env.runtime());
        runtime.trace(format_args!(
            "bodies {}: {here} here, {lacking} of {from}",
            self.id()
        ));
        if !wanted.is_empty() {
            found.extend(self.ask_bodies(from, wanted).await?);
        }
        for entry in &mut entries {
            if let Some(body) = found.remove(&entry.log_id.index) {
                entry.body = body;
            }
        }
        Ok(entries)
    }

    /// What is in the log already: who sent it did not hear that it came.
    fn had_before(&self, entries: &[Entry], wanted: &mut BTreeMap<u64, BodyRef>) -> Found {
        let mut found = Found::new();
        for entry in entries {
            let index = entry.log_id.index;
            let is_here = |here: &(LogId, _)| *here == (entry.log_id, entry.chain);
            let log = &self.inner.shared.log;
            let here = log.chain_at(self.id(), index).ok().flatten();
            if wanted.contains_key(&index)
                && here.as_ref().is_some_and(is_here)
                && let Some(body) = self.body_at(index)
                && wanted.get(&index).is_some_and(|wanted| wanted.is_of(&body))
            {
                wanted.remove(&index);
                found.insert(index, body);
            }
        }
        found
    }

    fn body_at(&self, index: u64) -> Option<Bytes> {
        let log = &self.inner.shared.log;
        let entries = log.read(self.id(), index, index.checked_add(1)?, 1).ok()?;
        Some(entries.into_iter().next()?.body)
    }

    /// Asks who named bodies for them, until all are there.
    async fn ask_bodies(
        &self,
        from: NodeId,
        mut wanted: BTreeMap<u64, BodyRef>,
    ) -> Result<Found, BodyProblem> {
        let runtime = self.inner.env.runtime();
        let until = runtime.now() + ASK_DEADLINE;
        let mut found = Found::new();
        while let Some(first) = wanted.keys().next().copied() {
            let time = until - runtime.now();
            let asked: Vec<_> = wanted.iter().take(ASKED).map(asked_for).collect();
            let request = rpc::BodyRequest {
                partition: self.id().0,
                wanted: asked,
            };
            let payload = Bytes::from(request.encode_to_vec());
            let answer = self
                .inner
                .mesh
                .call(from, Method::Body, payload, time)
                .await?;
            let answer = rpc::BodyResponse::decode(answer);
            let answer = answer.map_err(|_| BadBody("an answer that is none"))?;
            let asked: Vec<u64> = wanted.keys().take(ASKED).copied().collect();
            let given = asked.into_iter().zip(answer.bodies);
            let before = wanted.len();
            for (index, bytes) in given.filter(|(_, bytes)| !bytes.is_empty()) {
                let body = wanted.remove(&index).filter(|body| body.is_of(&bytes));
                let body = body.ok_or(BodyProblem::Lied { node: from, index })?;
                self.inner.bodies.source.keep(&body, &bytes);
                found.insert(index, bytes);
            }
            if wanted.len() == before {
                return Err(BodyProblem::Lacking { index: first });
            }
        }
        Ok(found)
    }

    /// Answers who was sent references and did not find the bodies: what the log holds. For a while
    /// it is sent none.
    pub(super) fn answer_bodies(&self, from: NodeId, payload: Bytes) -> Result<Bytes, String> {
        let request = rpc::BodyRequest::decode(payload).map_err(|error| error.to_string())?;
        if request.wanted.len() > ASKED {
            return Err("too many bodies are asked for".to_owned());
        }
        self.inner
            .bodies
            .lacks(from, self.inner.env.runtime().now());
        let (mut response, mut sum) = (rpc::BodyResponse::default(), 0);
        for wanted in request.wanted {
            let hash = ContentHash::from_slice(&wanted.hash);
            let body = self.body_at(wanted.index).unwrap_or_default();
            let body = match Some(ContentHash::of(&body)) == hash {
                true => body,
                // Another entry stands there by now.
                false => Bytes::new(),
            };
            sum += body.len();
            if sum > ANSWER_BYTES && !response.bodies.is_empty() {
                break;
            }
            response.bodies.push(body);
        }
        Ok(response.encode_to_vec().into())
    }

    /// Changes that were proposed, with bodies in the place of references: `None` if one is not to
    /// be had here, or too much waits. Nobody is asked for them: they are proposed again whole.
    ///
    /// # Errors
    /// References that contradict the message.
    pub async fn fill_changes(
        &self,
        mut changes: Vec<Bytes>,
        bodies: &[rpc::BodyRef],
    ) -> Result<Option<Vec<Bytes>>, BadBody> {
        if bodies.is_empty() {
            return Ok(Some(changes));
        }
        let wanted = body::named(bodies)?;
        let place = |index: &u64| usize::try_from(*index).unwrap_or(usize::MAX);
        let mut places = wanted.keys().map(|index| changes.get(place(index)));
        if !places.all(|change| change.is_some_and(Bytes::is_empty)) {
            return Err(BadBody("of no change that lacks its body"));
        }
        let Ok(_room) = self.inner.bodies.changes.try_acquire() else {
            return Ok(None);
        };
        let clock = || self.inner.env.runtime().now();
        let found = self.inner.bodies.find(&wanted, clock).await;
        if found.len() < wanted.len() {
            return Ok(None);
        }
        for (index, body) in found {
            if let Some(change) = changes.get_mut(place(&index)) {
                *change = body;
            }
        }
        Ok(Some(changes))
    }
}

fn asked_for((index, body): (&u64, &BodyRef)) -> rpc::BodyRef {
    rpc::BodyRef {
        rows: Bytes::new(),
        ..body.to_message(*index)
    }
}

#[cfg(test)]
mod tests;
