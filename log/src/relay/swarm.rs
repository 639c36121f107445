//! Relays of many nodes on lines of given rates, without a network: for tests of the pure core.
//!
//! A line sends one chunk after the other; what is not content takes no time but the way. So times
//! are those of the relay alone, to be held against the bound of Kumar and Ross.

mod look;

use super::bits::Bits;
use super::parcel::{Announcement, ParcelId};
use super::state::{Action, Core, Push, Taken};
use super::{Layout, Links, Row};
use aber_proto::key::SecretKey;
use aber_proto::{ChunkHash, ChunkRef, ClusterId, Instant, NodeId, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One way.
const DELAY: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(500);
/// Until the others notice that somebody is gone or back.
const NOTICE: Duration = Duration::from_millis(100);

enum Event {
    Tick(NodeId),
    Pump(NodeId),
    Notice,
    Do(NodeId, Action),
    Arrive {
        from: NodeId,
        push: Push,
    },
    Taken {
        at: NodeId,
        push: Push,
        taken: Vec<Taken>,
    },
    Pulled {
        from: NodeId,
        to: NodeId,
        parcel: ParcelId,
        number: usize,
        chunk: ChunkRef,
    },
}

struct Site {
    core: Core,
    kbit: u64,
    has: BTreeSet<ChunkHash>,
    free_at: Instant,
    is_down: bool,
    /// Sends other bytes than it says.
    is_liar: bool,
    sent: u64,
    got_twice: u64,
}

/// Nodes, their lines, and what is under way.
pub(super) struct Swarm {
    sites: BTreeMap<NodeId, Site>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    pub(super) now: Instant,
    pub(super) wants: usize,
    /// Messages with chunks that were pushed.
    pub(super) pushes: usize,
    pub(super) layout: Layout,
    request: u8,
    /// What is asked for is not answered before.
    pub(super) no_bulk_until: Instant,
}

pub(super) fn row(id: u64, up_kbit: u64) -> Row {
    Row {
        id: NodeId(id),
        up_kbit,
        relay_ok: true,
    }
}

impl Swarm {
    pub(super) fn new(ups: &[u64], links: &Links) -> Self {
        let rows = (0..).zip(ups).map(|(id, up)| row(id, *up)).collect();
        let layout = Layout::new(7, rows, links).expect("a layout");
        let mut sites = BTreeMap::new();
        for (id, kbit) in (0..).map(NodeId).zip(ups) {
            let mut core = Core::new(id);
            core.set_layout(layout.clone(), Instant::default());
            core.set_window(kbit * 125);
            let site = Site {
                core,
                kbit: *kbit,
                has: BTreeSet::new(),
                free_at: Instant::default(),
                is_down: false,
                is_liar: false,
                sent: 0,
                got_twice: 0,
            };
            sites.insert(id, site);
        }
        let mut swarm = Self {
            sites,
            events: BTreeMap::new(),
            next: 0,
            now: Instant::default(),
            wants: 0,
            pushes: 0,
            layout,
            request: 0,
            no_bulk_until: Instant::default(),
        };
        swarm.notice();
        for id in swarm.ids() {
            swarm.after(TICK, Event::Tick(id));
        }
        swarm
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.sites.keys().copied().collect()
    }

    fn site(&mut self, id: NodeId) -> &mut Site {
        self.sites.get_mut(&id).expect("a site")
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }

    /// `writer` writes `count` chunks of so many bytes, in parcels.
    pub(super) fn write(&mut self, writer: NodeId, count: usize, length: u32) -> Vec<ParcelId> {
        self.write_of(writer, vec![length; count])
    }

    /// `writer` writes chunks of these lengths, in parcels.
    pub(super) fn write_of(&mut self, writer: NodeId, lengths: Vec<u32>) -> Vec<ParcelId> {
        self.request += 1;
        let request = RequestId([self.request; 16]);
        let key = SecretKey::from_seed(&[1; 32]).expect("seed");
        let chunk = |(number, length): (u64, u32)| {
            let mut hash = [self.request; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            let hash = ChunkHash(hash);
            ChunkRef { hash, length }
        };
        let chunks: Vec<ChunkRef> = (0..).zip(lengths).map(chunk).collect();
        self.site(writer)
            .has
            .extend(chunks.iter().map(|chunk| chunk.hash));
        let layout = self.layout.digest();
        let mut parcels = Vec::new();
        for (part, chunks) in (0..).zip(chunks.chunks(256)) {
            let id = ParcelId {
                writer,
                request,
                part,
                layout,
            };
            parcels.push(id);
            let announcement = Announcement::sign(id, chunks.to_vec(), &ClusterId([0; 32]), &key);
            let now = self.now;
            let actions = self.site(writer).core.offer(announcement, now);
            self.act(writer, actions.expect("room"));
        }
        self.pump(writer);
        parcels
    }

    pub(super) fn set_down(&mut self, id: NodeId, is_down: bool) {
        let now = self.now;
        let site = self.site(id);
        site.is_down = is_down;
        if !is_down {
            // What it knew of parcels is gone; its store is not.
            let (kbit, layout) = (site.kbit, site.core.layout().cloned());
            site.core = Core::new(id);
            site.core.set_window(kbit * 125);
            site.core
                .set_layout((*layout.expect("a layout")).clone(), now);
            self.after(TICK, Event::Tick(id));
        }
        self.after(NOTICE, Event::Notice);
    }

    /// Its line carries something else than it said.
    pub(super) fn set_line(&mut self, id: NodeId, kbit: u64) {
        self.site(id).kbit = kbit;
    }

    /// Its line is cut: nobody is told.
    pub(super) fn cut(&mut self, id: NodeId) {
        self.site(id).is_down = true;
    }

    pub(super) fn make_liar(&mut self, id: NodeId) {
        self.site(id).is_liar = true;
    }

    fn notice(&mut self) {
        let up = self.sites.iter().filter(|(_, site)| !site.is_down);
        let up: BTreeSet<NodeId> = up.map(|(id, _)| *id).collect();
        for id in up.clone() {
            let layout = self.layout.clone();
            let mut near = up.clone();
            near.retain(|node| layout.is_linked(*node, id));
            let now = self.now;
            let actions = self.site(id).core.set_up(near, now);
            self.act(id, actions);
            self.pump(id);
        }
    }

    fn act(&mut self, at: NodeId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Sync { parcel } => {
                    let now = self.now;
                    let next = self.site(at).core.synced(parcel, now);
                    self.act(at, next);
                }
                Action::Pull { .. } => {
                    self.wants += 1;
                    self.after(DELAY, Event::Do(at, action));
                }
                other => self.after(DELAY, Event::Do(at, other)),
            }
        }
    }

    /// One chunk on the line of a node; answers when it is there.
    fn transmit(&mut self, from: NodeId, length: u32) -> Duration {
        let now = self.now;
        let site = self.site(from);
        let start = site.free_at.max(now);
        let micros = u64::from(length) * 8_000 / site.kbit.max(1);
        site.free_at = start + Duration::from_micros(micros);
        site.sent += u64::from(length);
        site.free_at - now
    }

    fn pump(&mut self, id: NodeId) {
        let now = self.now;
        let site = self.site(id);
        if site.is_down || site.free_at > now {
            return;
        }
        let next = site.core.next_small_push(now);
        let next = next.or_else(|| site.core.next_push(now));
        if let Some(push) = next {
            self.pushes += 1;
            let bytes = u32::try_from(push.bytes()).expect("a message");
            let there = self.transmit(id, bytes);
            self.after(there, Event::Pump(id));
            self.after(there + DELAY, Event::Arrive { from: id, push });
        }
    }

    fn is_gone(&self, id: NodeId) -> bool {
        self.sites.get(&id).is_none_or(|site| site.is_down)
    }

    fn arrive(&mut self, from: NodeId, push: Push) {
        let to = push.to;
        let is_lost = self.is_gone(to) || self.is_gone(from);
        if !is_lost {
            self.hear(to, from);
            self.hear(from, to);
        }
        let taken = match is_lost {
            true => Vec::new(),
            false => {
                let chunks = push.chunks.iter();
                let taken = chunks.map(|(_, chunk)| self.take(from, &push, *chunk));
                taken.collect()
            }
        };
        let at = from;
        self.after(DELAY, Event::Taken { at, push, taken });
    }

    fn take(&mut self, from: NodeId, push: &Push, chunk: ChunkRef) -> Taken {
        let (to, now) = (push.to, self.now);
        if self.site(to).core.is_blamed(from) {
            return Taken::Failed;
        }
        if self.site(from).is_liar {
            self.site(to).core.strike(from);
            return Taken::Bad;
        }
        if self.site(to).core.holders_of(&push.parcel).is_none() {
            return Taken::Unknown;
        }
        let site = self.site(to);
        let is_new = site.has.insert(chunk.hash);
        if !is_new {
            site.got_twice += u64::from(chunk.length);
        }
        let mut actions = site.core.stored(chunk.hash, Some(from), now);
        actions.extend(site.core.pushed_here(from, push.parcel));
        self.act(to, actions);
        self.pump(to);
        if is_new { Taken::Stored } else { Taken::Had }
    }

    fn pulled(
        &mut self,
        (from, to): (NodeId, NodeId),
        parcel: ParcelId,
        number: usize,
        chunk: ChunkRef,
    ) {
        let now = self.now;
        let is_lost = self.is_gone(from) || self.no_bulk_until > now;
        let is_here = !is_lost && !self.site(from).is_liar;
        if is_here {
            let site = self.site(to);
            if !site.has.insert(chunk.hash) {
                site.got_twice += u64::from(chunk.length);
            }
            let actions = site.core.stored(chunk.hash, Some(from), now);
            self.act(to, actions);
        }
        let has = (!is_lost).then_some(is_here);
        self.site(to).core.pulled(from, parcel, number, has, now);
        self.pump(to);
    }

    /// Something came from a node.
    fn hear(&mut self, at: NodeId, from: NodeId) {
        let now = self.now;
        let actions = self.site(at).core.heard(from, now);
        self.act(at, actions);
    }

    fn tell_of(&mut self, at: NodeId, to: NodeId, parcel: ParcelId) {
        let now = self.now;
        let actions = self.site(at).core.unknown_at(to, parcel, now);
        self.act(at, actions);
    }

    fn announce(&mut self, at: NodeId, to: NodeId, announcement: &Announcement) {
        let (id, now) = (announcement.id, self.now);
        let report = self.site(at).core.report_of(&id);
        let report = report.filter(|_| id.writer != at);
        let mut answer = None;
        if !self.is_gone(to) {
            let site = self.site(to);
            let present: Bits = (0..)
                .zip(announcement.chunks.iter())
                .filter(|(_, chunk)| site.has.contains(&chunk.hash))
                .map(|(number, _)| number)
                .collect();
            let heard = site.core.announced(announcement.clone(), present, now);
            let mut actions = heard.unwrap_or_default();
            let told = report.and_then(|report| site.core.have(at, report, now));
            actions.extend(told.unwrap_or_default());
            answer = site.core.report_of(&id);
            self.act(to, actions);
        }
        let actions = self.site(at).core.announced_to(to, id, answer, now);
        self.act(at, actions);
    }

    fn carry_out(&mut self, at: NodeId, action: Action) {
        let now = self.now;
        match action {
            Action::Announce { to, announcement } => self.announce(at, to, &announcement),
            Action::Beacon { to } if !self.is_gone(to) => self.hear(at, to),
            Action::Have { to, reports } if !self.is_gone(to) => {
                for report in reports {
                    match self.site(to).core.have(at, report, now) {
                        Some(actions) => self.act(to, actions),
                        None => self.tell_of(at, to, report.parcel),
                    }
                }
                self.pump(to);
            }
            Action::Adopt { to, parcel, stripe } if !self.is_gone(to) => {
                let has = self.site(to).core.adopted(at, parcel, stripe);
                match has {
                    Some(report) => {
                        let actions = self.site(at).core.have(to, report, now);
                        self.act(at, actions.unwrap_or_default());
                    }
                    None => self.tell_of(at, to, parcel),
                }
                self.pump(at);
            }
            Action::Holders { to, parcel, nodes } if !self.is_gone(to) => {
                let actions = self.site(to).core.holders(parcel, &nodes, now);
                self.act(to, actions);
            }
            Action::Pull { from, chunks, .. } => {
                for (parcel, number, chunk) in chunks {
                    let is_lost = self.is_gone(from) || self.no_bulk_until > now;
                    let has = !is_lost && self.site(from).has.contains(&chunk.hash);
                    let there = match has {
                        true => self.transmit(from, chunk.length) + DELAY,
                        false => DELAY,
                    };
                    let to = at;
                    self.after(
                        there,
                        Event::Pulled {
                            from,
                            to,
                            parcel,
                            number,
                            chunk,
                        },
                    );
                }
            }
            _ => {}
        }
    }

    /// Runs until a time, or until `is_done`.
    pub(super) fn run(&mut self, until: Duration, is_done: impl Fn(&Self) -> bool) {
        let until = Instant::default() + until;
        while let Some(first) = self.events.first_entry() {
            let (at, _) = *first.key();
            if at > until {
                self.now = until;
                return;
            }
            let event = first.remove();
            self.now = at;
            match event {
                Event::Tick(id) if !self.is_gone(id) => {
                    assert_eq!(self.site(id).core.unindexed(), [], "{id} overlooks");
                    let actions = self.site(id).core.tick(at);
                    self.act(id, actions);
                    self.pump(id);
                    self.after(TICK, Event::Tick(id));
                }
                Event::Tick(_) => {}
                Event::Pump(id) => self.pump(id),
                Event::Notice => self.notice(),
                Event::Do(node, action) if !self.is_gone(node) => self.carry_out(node, action),
                Event::Do(..) => {}
                Event::Arrive { from, push } => self.arrive(from, push),
                Event::Taken {
                    at: node,
                    push,
                    taken,
                } => {
                    let actions = self.site(node).core.pushed(&push, &taken, at);
                    self.act(node, actions);
                    self.pump(node);
                }
                Event::Pulled {
                    from,
                    to,
                    parcel,
                    number,
                    chunk,
                } if !self.is_gone(to) => {
                    self.pulled((from, to), parcel, number, chunk);
                }
                Event::Pulled { .. } => {}
            }
            if is_done(self) {
                return;
            }
        }
    }
}
