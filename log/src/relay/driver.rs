//! [driver] The relay of a node: carries out what [`Core`] says.
//!
//! Chunks are pushed on the bulk links, everything else goes on the control links, as calls: the
//! answer of a push is its acknowledgement. Few chunks are under way at once, so that what goes
//! next is chosen late, when somebody else may have sent it already.

mod answer;
mod hold;
mod look;
mod send;

pub use hold::HoldProblem;

use super::Layout;
use super::message::{Reply, Report, Word};
use super::parcel::{Announcement, ParcelId};
use super::state::{Action, Core};
use crate::chunk::{ChunkProblem, PackStore};
use crate::env::{Env, Runtime};
use crate::mesh::{Mesh, Method};
use crate::uplink::{Priority, Sample};
use crate::watch::Watched;
use aber_proto::generated::rpc;
use aber_proto::{ChunkHash, ChunkRef, Instant, NodeId};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between looks at what is due, while something is on its way.
const TICK: Duration = Duration::from_millis(500);
/// Between looks at who can be reached.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For a chunk to be taken.
const PUSH_DEADLINE: Duration = Duration::from_secs(120);
/// For chunks that were asked for.
const PULL_DEADLINE: Duration = Duration::from_secs(60);
/// A question of at most so many bytes is short enough to tell how long the way is.
const TELLING_BYTES: usize = 1024;
/// For everything else.
const TELL_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes on their way at once where the uplink has no limit.
const UNDER_WAY_BYTES: u64 = 4 * 1024 * 1024;
/// Where it has one, what it carries in so long, so that little waits for it: what goes is chosen late.
const UNDER_WAY_TIME: Duration = Duration::from_millis(300);
/// A chunk that was not answered for so long, and twice what it takes on the line, is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// Chunks on their way at once, however small.
const UNDER_WAY: usize = 64;
/// Chunks on their way at once, those of small parcels included.
const UNDER_WAY_SMALL: usize = 4 * UNDER_WAY;
/// Chunks on their way at once, however big.
const UNDER_WAY_LEAST: usize = 2;
/// Between looks at how far a change is held.
const HOLD_LOOK: Duration = Duration::from_secs(2);

/// What the relay has to know of the members.
pub trait Roster: Send + Sync + 'static {
    /// Signs a parcel of this node.
    fn sign(&self, id: ParcelId, chunks: Vec<ChunkRef>) -> Announcement;
    /// Whether a member that may write announced exactly this.
    fn is_good(&self, announcement: &Announcement) -> bool;
}

struct State {
    core: Core,
    /// Chunks that were sent and not answered yet: until when they count, and their bytes.
    under_way: BTreeMap<u64, (Instant, u64)>,
    next_send: u64,
    /// Bytes that may be under way.
    most_bytes: u64,
}

struct Inner<E: Env> {
    env: E,
    me: NodeId,
    store: PackStore<E>,
    mesh: Mesh<E>,
    roster: Arc<dyn Roster>,
    state: Mutex<State>,
    /// Something may be to be sent.
    wake: Watched<u64>,
    /// A chunk came, or somebody holds a parcel.
    news: Watched<u64>,
}

/// The relay of a node. Clones share it.
pub struct Relay<E: Env> {
    inner: Arc<Inner<E>>,
}

impl<E: Env> Clone for Relay<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<E: Env> Relay<E> {
    /// Starts the relay; it carries nothing before [`Relay::set_layout`].
    pub fn start(
        env: E,
        me: NodeId,
        store: PackStore<E>,
        mesh: Mesh<E>,
        roster: Arc<dyn Roster>,
    ) -> Self {
        let runtime = env.runtime().clone();
        let mut core = Core::new(me);
        core.set_window(UNDER_WAY_BYTES);
        let state = State {
            core,
            under_way: BTreeMap::new(),
            next_send: 0,
            most_bytes: UNDER_WAY_BYTES,
        };
        let this = Self {
            inner: Arc::new(Inner {
                env,
                me,
                store,
                mesh,
                roster,
                state: Mutex::new(state),
                wake: Watched::new(0),
                news: Watched::new(0),
            }),
        };
        runtime.spawn("relay push", this.clone().push_all());
        runtime.spawn("relay tick", this.clone().tick_all());
        runtime.spawn("relay peers", this.clone().mind_peers());
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.inner.wake.update(|count| *count += 1);
    }

    fn tell(&self) {
        self.inner.news.update(|count| *count += 1);
    }

    /// The layout under which parcels are announced from now on.
    pub fn set_layout(&self, layout: Layout) {
        let now = self.inner.env.runtime().now();
        let actions = self.state().core.set_layout(layout, now);
        self.act(actions);
    }

    /// A chunk is in the store, verified.
    pub fn stored(&self, hash: ChunkHash, from: Option<NodeId>) {
        let now = self.inner.env.runtime().now();
        let actions = self.state().core.stored(hash, from, now);
        self.act(actions);
        self.tell();
    }

    /// Whether a chunk is on its way here by itself.
    pub fn expects(&self, hash: &ChunkHash) -> bool {
        let now = self.inner.env.runtime().now();
        self.state().core.expects(hash, now)
    }

    /// Changes when a chunk came.
    pub(crate) fn news(&self) -> Watched<u64> {
        self.inner.news.clone()
    }

    /// Waits until a chunk is here or not on its way any more.
    pub async fn wait_for(&self, hash: &ChunkHash) {
        let mut news = self.inner.news.clone();
        while self.expects(hash) {
            let runtime = self.inner.env.runtime();
            let _looked_again = runtime.timeout(HOLD_LOOK, news.changed()).await;
        }
    }

    fn act(&self, actions: Vec<Action>) {
        let runtime = self.inner.env.runtime();
        for action in actions {
            let this = self.clone();
            match action {
                Action::Sync { parcel } => runtime.spawn("relay sync", this.sync(parcel)),
                Action::Pull {
                    from,
                    chunks,
                    is_orphan,
                } => {
                    let priority = match is_orphan {
                        true => Priority::Content,
                        false => Priority::CatchUp,
                    };
                    runtime.spawn("relay pull", this.pull(from, chunks, priority));
                }
                Action::Announce { to, announcement } => {
                    runtime.spawn("relay announce", this.announce(to, announcement));
                }
                Action::Have { to, reports } => {
                    runtime.spawn("relay have", this.report(to, reports));
                }
                Action::Adopt { to, parcel, stripe } => {
                    runtime.spawn("relay adopt", this.adopt(to, parcel, stripe));
                }
                Action::Beacon { to } => {
                    runtime.spawn("relay beacon", this.report(to, Vec::new()));
                }
                Action::Holders { to, parcel, nodes } => {
                    runtime.spawn("relay holders", this.report_holders(to, parcel, nodes));
                }
            }
        }
        self.wake();
    }

    async fn ask(&self, to: NodeId, word: Word) -> Option<Reply> {
        let (mesh, runtime) = (&self.inner.mesh, self.inner.env.runtime());
        let (payload, asked) = (word.encode(), runtime.now());
        let tells = payload.len() <= TELLING_BYTES && mesh.uplink().is_prompt();
        let answer = mesh.call(to, Method::Relay, payload, TELL_DEADLINE);
        let answer = answer.await.ok()?;
        self.heard(to);
        if tells {
            let trip = Sample::RoundTrip(to, runtime.now() - asked);
            mesh.uplink().sample(trip);
        }
        Reply::decode(answer).ok()
    }

    /// A node that says anything lives.
    fn heard(&self, from: NodeId) {
        let now = self.inner.env.runtime().now();
        let actions = self.state().core.heard(from, now);
        if !actions.is_empty() {
            self.act(actions);
        }
    }

    async fn announce(self, to: NodeId, announcement: Arc<Announcement>) {
        let id = announcement.id;
        let report = self.state().core.report_of(&id);
        let report = report.filter(|_| id.writer != self.inner.me);
        let word = Word::Announce((*announcement).clone(), report);
        let reply = self.ask(to, word).await;
        let taken = reply.filter(|reply| reply.is_taken);
        let answer = taken.map(|reply| reply.report(id));
        let now = self.inner.env.runtime().now();
        let actions = self.state().core.announced_to(to, id, answer, now);
        self.act(actions);
    }

    async fn report(self, to: NodeId, reports: Vec<Report>) {
        let Some(reply) = self.ask(to, Word::Have(reports.clone())).await else {
            self.state().core.reports_lost(to, &reports);
            return;
        };
        for parcel in reply.unknown {
            let now = self.inner.env.runtime().now();
            let actions = self.state().core.unknown_at(to, parcel, now);
            self.act(actions);
        }
    }

    async fn adopt(self, to: NodeId, parcel: ParcelId, stripe: usize) {
        let Some(reply) = self.ask(to, Word::Adopt(parcel, stripe)).await else {
            return;
        };
        let now = self.inner.env.runtime().now();
        let actions = match reply.has {
            Some(_) => self.state().core.have(to, reply.report(parcel), now),
            None => Some(self.state().core.unknown_at(to, parcel, now)),
        };
        self.act(actions.unwrap_or_default());
    }

    async fn report_holders(self, to: NodeId, parcel: ParcelId, nodes: Vec<NodeId>) {
        let reply = self.ask(to, Word::Holders(parcel, nodes.clone())).await;
        if reply.as_ref().is_some_and(|reply| reply.is_taken) {
            return;
        }
        let now = self.inner.env.runtime().now();
        let actions = {
            let mut state = self.state();
            state.core.report_failed(to, parcel, &nodes);
            match reply {
                Some(_) => state.core.unknown_at(to, parcel, now),
                None => Vec::new(),
            }
        };
        self.act(actions);
    }

    async fn sync(self, parcel: ParcelId) {
        let synced = self.inner.store.sync().await;
        let now = self.inner.env.runtime().now();
        let actions = match synced {
            Ok(()) => self.state().core.synced(parcel, now),
            Err(_) => {
                self.state().core.sync_failed(parcel);
                Vec::new()
            }
        };
        self.act(actions);
        self.tell();
    }

    async fn pull(
        self,
        from: NodeId,
        chunks: Vec<(ParcelId, usize, ChunkRef)>,
        priority: Priority,
    ) {
        let hashes = chunks.iter();
        let hashes = hashes.map(|(.., chunk)| Bytes::copy_from_slice(&chunk.hash.0));
        let request = rpc::ChunksRequest {
            hashes: hashes.collect(),
        };
        let payload = Bytes::from(request.encode_to_vec());
        let (mesh, runtime) = (&self.inner.mesh, self.inner.env.runtime());
        let asked = runtime.now();
        let answer = mesh
            .call_as(from, Method::Chunks, priority, payload, PULL_DEADLINE)
            .await;
        runtime.trace(format_args!(
            "pull: {} chunks of {from}, {priority:?}: {}, after {:?}",
            chunks.len(),
            answer.is_ok(),
            runtime.now() - asked
        ));
        let answer = answer.ok().map(rpc::ChunksResponse::decode);
        let frames = answer.and_then(Result::ok).map(|answer| answer.frames);
        let is_answered = frames.is_some();
        for frame in frames.unwrap_or_default() {
            let asked = |chunk: &ChunkRef| chunks.iter().any(|(.., known)| known == chunk);
            match self.inner.store.put_frame(&frame) {
                Ok(chunk) if asked(&chunk) => self.stored(chunk.hash, Some(from)),
                Ok(_) | Err(ChunkProblem::Damaged { .. }) => self.state().core.strike(from),
                Err(_) => {}
            }
        }
        let now = self.inner.env.runtime().now();
        let mut state = self.state();
        for (parcel, number, _) in chunks {
            let mine = state.core.mine_of(&parcel);
            let has = is_answered.then(|| mine.is_none_or(|mine| mine.has(number)));
            state.core.pulled(from, parcel, number, has, now);
        }
        drop(state);
        self.wake();
    }

    async fn tick_all(self) {
        let mut wake = self.inner.wake.clone();
        loop {
            let seen = wake.get();
            if !self.state().core.is_busy() {
                wake.until(|count| *count != seen).await;
                continue;
            }
            self.inner.env.runtime().sleep(TICK).await;
            let now = self.inner.env.runtime().now();
            let actions = self.state().core.tick(now);
            self.act(actions);
        }
    }

    /// Few bytes may be under way on a slow line: to one node what it carries in a second.
    fn mind_rate(&self) {
        let rate = self.inner.mesh.uplink().rate();
        let in_time = |time: Duration| {
            let bits = rate.map(|rate| u128::from(rate) * time.as_millis() / 1000);
            bits.map_or(UNDER_WAY_BYTES, |bits| {
                u64::try_from(bits / 8).unwrap_or(u64::MAX)
            })
        };
        let mut state = self.state();
        let bytes: u64 = state.under_way.values().map(|(_, bytes)| bytes).sum();
        let is_full = bytes >= state.most_bytes || state.under_way.len() >= UNDER_WAY;
        let uplink = self.inner.mesh.uplink();
        uplink.sample(Sample::Waiting(is_full || uplink.has_content()));
        state.most_bytes = in_time(UNDER_WAY_TIME).min(UNDER_WAY_BYTES);
        state
            .core
            .set_window(in_time(Duration::from_secs(1)).min(UNDER_WAY_BYTES));
    }

    /// How long somebody takes to answer tells whether the line queues.
    fn ask_round(&self, up: &BTreeSet<NodeId>, turn: &mut usize) {
        let Some(to) = up.iter().nth(*turn % up.len().max(1)).copied() else {
            return;
        };
        if self.inner.mesh.uplink().wants_question() {
            *turn += 1;
            let ask = self.clone().report(to, Vec::new());
            self.inner.env.runtime().spawn("relay question", ask);
        }
    }

    async fn mind_peers(self) {
        let (mut known, mut turn) = (BTreeSet::new(), 0);
        loop {
            self.mind_rate();
            self.ask_round(&known, &mut turn);
            let up: BTreeSet<NodeId> = self.inner.mesh.peers_up().into_iter().collect();
            if up != known {
                known.clone_from(&up);
                let now = self.inner.env.runtime().now();
                let actions = self.state().core.set_up(up, now);
                self.act(actions);
            }
            self.inner.env.runtime().sleep(LOOK_EVERY).await;
        }
    }
}
