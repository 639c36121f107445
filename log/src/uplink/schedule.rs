//! [pure] Whose turn it is on the uplink: the next piece of which message.
//!
//! There is a lane for each [`Priority`], in it a line of messages for each link, first come,
//! first served. The heads of the lines take turns, a whole message each: a message begun is
//! finished before the next of its lane begins, while pieces of more urgent lanes pass between.
//! Where a link takes nothing for [`STALLED_AFTER`] the next link's message goes on instead.
//! Bytes are not here: a message is known by its ticket, and is read when its turn comes.

use super::bucket::{self, Bucket};
use aber_proto::{Instant, NodeId, limit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// A link that took nothing for so long lets the next one of its lane go first.
pub(super) const STALLED_AFTER: Duration = Duration::from_millis(200);
/// What [`Priority::Vital`] may take beyond what there is, in bytes.
pub(super) const OVERDRAFT_BYTES: u64 = 16 * 1024;
/// Of [`Priority::Content`] and [`Priority::CatchUp`] together, while both wait, the second has one
/// part in ten.
const CONTENT_PARTS: i64 = 9;
/// So much of its part is owed to catching up, or paid in advance, at most: two of the largest
/// frames.
const OWED_BYTES_MAX: i64 = 2 * 128 * 1024;

/// How urgent a message is. The first that waits goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Priority {
    /// Votes, heartbeats, small entries: never waits, but for what would be too much of it.
    Vital = 0,
    /// Entries and what else is no content.
    Log = 1,
    /// Content that others wait for.
    Content = 2,
    /// Content and history for those who come late.
    CatchUp = 3,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Vital, Self::Log, Self::Content, Self::CatchUp];

    /// The one with this number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == byte)
    }

    fn overdraft(self) -> u64 {
        match self {
            Self::Vital => OVERDRAFT_BYTES,
            _ => 0,
        }
    }
}

/// Where a message goes: to whom, and by which of the links to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// To whom.
    pub peer: NodeId,
    /// A number of the link, different from all others of the process.
    pub link: u64,
}

/// What waits in a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Messages that are not wholly sent.
    pub message_count: u64,
    /// Bytes of them that nobody was told to send yet.
    pub bytes: u64,
}

struct Message {
    priority: Priority,
    route: Route,
    left_bytes: u64,
    /// Its link takes another piece.
    is_asking: bool,
    /// Since when it is like that.
    since: Instant,
}

#[derive(Default)]
struct Lane {
    lines: BTreeMap<Route, VecDeque<u64>>,
    /// Links whose first message asks.
    asking: BTreeSet<Route>,
    /// Whose message is begun.
    current: Option<Route>,
    /// Who had the last turn.
    last: Option<Route>,
    backlog: Backlog,
}

/// A lane as one looks at it for the next piece.
enum Look {
    /// This message may go on.
    Ready(u64),
    /// One is on its way to its link; unless that takes it, the next may begin then.
    Stalling(Instant),
    Nothing,
}

impl Lane {
    fn look(&self, messages: &BTreeMap<u64, Message>) -> Look {
        let head = |route: &Route| self.lines.get(route).and_then(VecDeque::front).copied();
        if let Some(route) = &self.current
            && let Some(id) = head(route)
            && let Some(message) = messages.get(&id)
        {
            if message.is_asking {
                return Look::Ready(id);
            }
            if self.asking.is_empty() {
                return Look::Nothing;
            }
            return Look::Stalling(message.since + STALLED_AFTER);
        }
        self.next_link()
            .and_then(head)
            .map_or(Look::Nothing, Look::Ready)
    }

    /// The next link that asks, in their order, after the one that had the last turn.
    fn next_link(&self) -> Option<&Route> {
        let after = match &self.last {
            Some(last) => (Bound::Excluded(*last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let next = self.asking.range(after).next();
        next.or_else(|| self.asking.first())
    }
}

/// All messages of a process that are on their way out.
#[derive(Default)]
pub(super) struct Schedule {
    bucket: Bucket,
    messages: BTreeMap<u64, Message>,
    lanes: [Lane; 4],
    next_id: u64,
    /// What catching up has coming, in bytes of content sent while it waited.
    owed: i64,
    sent_bytes: BTreeMap<(NodeId, Priority), u64>,
}

impl Schedule {
    /// From now on the line has this rate, in bits a second; `None`: no limit.
    pub(super) fn set_line(&mut self, now: Instant, line: Option<u64>) {
        self.retune(|bucket| bucket.set_line(now, line));
    }

    /// From now on so many hundredths of the line are used.
    pub(super) fn set_part(&mut self, now: Instant, percent: u64) {
        self.retune(|bucket| bucket.set_part(now, percent));
    }

    fn retune(&mut self, set: impl FnOnce(&mut Bucket)) {
        let before = self.bucket.rate();
        set(&mut self.bucket);
        // Without a limit nobody keeps count of whose message is begun.
        if before.is_some() == self.bucket.rate().is_some() {
            return;
        }
        for lane in &mut self.lanes {
            lane.current = None;
        }
    }

    /// What is sent at most, in bits a second, and the longest piece, in bytes.
    #[must_use]
    pub(super) fn pace(&self) -> (Option<u64>, usize) {
        (self.bucket.rate(), self.bucket.frame_bytes())
    }

    /// A message of so many bytes stands at the end of its line; it asks for nothing yet. `None`:
    /// too many wait in its lane.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        priority: Priority,
        route: Route,
        bytes: u64,
    ) -> Option<u64> {
        let id = self.next_id;
        let lane = lane_of(&mut self.lanes, priority);
        if lane.backlog.message_count >= limit::UPLINK_MESSAGES {
            return None;
        }
        lane.backlog.message_count += 1;
        lane.backlog.bytes += bytes;
        lane.lines.entry(route).or_default().push_back(id);
        self.next_id += 1;
        let message = Message {
            priority,
            route,
            left_bytes: bytes,
            is_asking: false,
            since: now,
        };
        self.messages.insert(id, message);
        Some(id)
    }

    /// The link has taken what was granted before and takes more. `false`: the message is sent.
    pub(super) fn ask(&mut self, id: u64) -> bool {
        let Some(message) = self.messages.get_mut(&id) else {
            return false;
        };
        if message.left_bytes == 0 {
            return false;
        }
        message.is_asking = true;
        let lane = lane_of(&mut self.lanes, message.priority);
        let line = lane.lines.get(&message.route);
        if line.and_then(VecDeque::front) == Some(&id) {
            lane.asking.insert(message.route);
        }
        true
    }

    /// The message is sent, or given up: the next of its link may begin.
    pub(super) fn end(&mut self, id: u64) {
        let Some(message) = self.messages.remove(&id) else {
            return;
        };
        let route = message.route;
        let lane = lane_of(&mut self.lanes, message.priority);
        lane.backlog.message_count = lane.backlog.message_count.saturating_sub(1);
        lane.backlog.bytes = lane.backlog.bytes.saturating_sub(message.left_bytes);
        let Some(line) = lane.lines.get_mut(&route) else {
            return;
        };
        let was_first = line.front() == Some(&id);
        if was_first {
            line.pop_front();
        } else {
            line.retain(|waiting| *waiting != id);
        }
        let first = line.front().copied();
        if first.is_none() {
            lane.lines.remove(&route);
        }
        if was_first {
            lane.asking.remove(&route);
            if lane.current == Some(route) {
                lane.current = None;
            }
            let next = first.and_then(|id| self.messages.get(&id));
            if next.is_some_and(|next| next.is_asking) {
                lane.asking.insert(route);
            }
        }
    }

    /// The next piece that may be sent now: whose, and how many bytes. Ask until there is none.
    pub(super) fn grant(&mut self, now: Instant) -> Option<(u64, usize)> {
        if self.bucket.rate().is_none() {
            let mut all = self.lanes.iter();
            let id = all.find_map(|lane| {
                let route = lane.next_link()?;
                lane.lines.get(route)?.front().copied()
            })?;
            return self.give(now, id);
        }
        let id = self.candidate(now)?;
        let message = self.messages.get(&id)?;
        let (piece, overdraft) = (self.piece(message), message.priority.overdraft());
        if !self.bucket.take(now, piece, overdraft) {
            return None;
        }
        self.give(now, id)
    }

    /// When [`Schedule::grant`] may have something though nobody asked meanwhile; `None`: not by
    /// itself.
    #[must_use]
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        self.bucket.rate()?;
        let paid = self.candidate(now).and_then(|id| {
            let message = self.messages.get(&id)?;
            let (piece, overdraft) = (self.piece(message), message.priority.overdraft());
            Some(self.bucket.ready_at(now, piece, overdraft))
        });
        let looks = self.lanes.iter().map(|lane| lane.look(&self.messages));
        let stalled = looks.filter_map(|look| match look {
            // One that is over already has made way.
            Look::Stalling(until) => (until > now).then_some(until),
            Look::Ready(_) | Look::Nothing => None,
        });
        paid.into_iter().chain(stalled).min()
    }

    /// What waits in a lane.
    #[must_use]
    pub(super) fn backlog(&self, priority: Priority) -> Backlog {
        let lane = self.lanes.get(priority as usize);
        lane.map(|lane| lane.backlog).unwrap_or_default()
    }

    /// How long content and catching up would take from now on, in milliseconds; 0 without a limit.
    #[must_use]
    pub(super) fn backlog_ms(&self) -> u64 {
        let Some(rate) = self.bucket.rate() else {
            return 0;
        };
        let lanes = [Priority::Content, Priority::CatchUp];
        let bytes: u64 = lanes.map(|lane| self.backlog(lane).bytes).iter().sum();
        bytes.saturating_mul(8000) / rate
    }

    /// Bytes of messages granted so far, to whom and as what.
    #[must_use]
    pub(super) fn sent_bytes(&self) -> &BTreeMap<(NodeId, Priority), u64> {
        &self.sent_bytes
    }

    /// Forgets what was counted for one who is no member any more.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.sent_bytes.retain(|(counted, _), _| *counted != peer);
    }

    fn piece(&self, message: &Message) -> usize {
        let most = self.bucket.frame_bytes();
        usize::try_from(message.left_bytes).map_or(most, |left| left.min(most))
    }

    /// The message whose piece is next, paid for or not.
    fn candidate(&self, now: Instant) -> Option<u64> {
        let [vital, log, content, catch_up] = &self.lanes;
        let look = |lane: &Lane| match lane.look(&self.messages) {
            Look::Ready(id) => Some(id),
            Look::Stalling(until) if until <= now => {
                let route = lane.next_link()?;
                lane.lines.get(route)?.front().copied()
            }
            Look::Stalling(_) | Look::Nothing => None,
        };
        let first = look(vital).or_else(|| look(log));
        first.or_else(|| match (look(content), look(catch_up)) {
            (Some(_), Some(late)) if self.is_due(late) => Some(late),
            (Some(content), _) => Some(content),
            (None, late) => late,
        })
    }

    /// Whether so much content went by that catching up may have this piece.
    fn is_due(&self, id: u64) -> bool {
        let piece = self.messages.get(&id).map(|message| self.piece(message));
        piece.is_some_and(|piece| self.owed >= CONTENT_PARTS * cost(piece))
    }

    fn give(&mut self, now: Instant, id: u64) -> Option<(u64, usize)> {
        let most = self.bucket.frame_bytes();
        let message = self.messages.get_mut(&id)?;
        let piece = usize::try_from(message.left_bytes).map_or(most, |left| left.min(most));
        message.left_bytes -= piece as u64;
        (message.is_asking, message.since) = (false, now);
        let (priority, route) = (message.priority, message.route);
        let is_whole = message.left_bytes == 0;
        let lane = lane_of(&mut self.lanes, priority);
        lane.backlog.bytes = lane.backlog.bytes.saturating_sub(piece as u64);
        lane.asking.remove(&route);
        lane.last = Some(route);
        lane.current = (!is_whole).then_some(route);
        *self.sent_bytes.entry((route.peer, priority)).or_default() += piece as u64;
        self.settle(priority, piece);
        Some((id, piece))
    }

    /// Keeps count of the parts of content and catching up while both wait.
    fn settle(&mut self, priority: Priority, piece: usize) {
        let [_, _, content, catch_up] = &self.lanes;
        if content.lines.is_empty() || catch_up.lines.is_empty() {
            self.owed = 0;
            return;
        }
        let change = match priority {
            Priority::Vital | Priority::Log => 0,
            Priority::Content => cost(piece),
            Priority::CatchUp => -CONTENT_PARTS * cost(piece),
        };
        let most = CONTENT_PARTS * OWED_BYTES_MAX;
        self.owed = (self.owed + change).clamp(-most, most);
    }
}

fn lane_of(lanes: &mut [Lane; 4], priority: Priority) -> &mut Lane {
    let [vital, log, content, catch_up] = lanes;
    match priority {
        Priority::Vital => vital,
        Priority::Log => log,
        Priority::Content => content,
        Priority::CatchUp => catch_up,
    }
}

fn cost(piece: usize) -> i64 {
    i64::try_from(bucket::cost(piece)).unwrap_or(OWED_BYTES_MAX)
}

#[cfg(test)]
mod tests;
