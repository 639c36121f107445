//! [pure] What an uplink really carries: how fast one is that nobody declared, and whether a declared one
//! keeps its word (fanout.md §11).
//!
//! A line that nobody declared has no limit until messages queue behind it, in a modem: from then on it
//! has what was acknowledged meanwhile. A queue lowers any line, and calm raises it again, up to
//! what was declared, or to the best that was measured, which counts 5 % less each day. It does not find
//! out by itself that a line became faster: begin anew for that. A design with a first guess of 1 Mbit/s
//! that is doubled would make every office network wait for it.

use super::bucket::SLOWEST_BITS_PER_S;
use super::part::Part;
use aber_proto::{Instant, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Over how long acknowledged bytes are counted, in seconds.
const WINDOW_S: u64 = 10;
const WINDOW: Duration = Duration::from_secs(WINDOW_S);
const RAISE_EVERY: Duration = Duration::from_secs(10);
/// Round trips that are long for so long mean a queue.
const QUEUE_AFTER: Duration = Duration::from_secs(3);
/// And for so long where no limit was known: a machine that is busy answers late too.
const FIRST_QUEUE_AFTER: Duration = Duration::from_secs(6);
/// A line that nobody declared and that carries so much is left alone, in bits a second: what queues there
/// is a machine.
const FAST_BITS_PER_S: u64 = 200_000_000;
/// So many of them at least: two may be long by chance.
const QUEUE_SAMPLES: u32 = 6;
/// A round trip is long when it is so much longer than the shortest, and four times as long.
const LONGER_BY: Duration = Duration::from_millis(100);
/// The shortest of this time and of as much before it counts: ways change.
const SHORTEST_OF: Duration = Duration::from_secs(600);
/// However much queues, this part of what is known stays: a queue elsewhere looks the same.
const LEAST_PART: u64 = 4;
/// What was acknowledged is content alone; what frames add, in thousandths of it.
const FRAMES_PER_MILLE: u64 = 1049;
/// While the line is full a question is asked each time it has carried so many bits, so that it costs
/// little of it,
const QUESTION_EVERY_BITS: u64 = 500_000;
/// within these bounds.
const QUESTION_LEAST: Duration = Duration::from_millis(250);
const QUESTION_MOST: Duration = Duration::from_secs(2);
const DAY_NS: u128 = 24 * 3600 * 1_000_000_000;

/// What was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sample {
    /// Other nodes have so many more bytes of content.
    Acknowledged(u64),
    /// Whether content waits for the uplink.
    Waiting(bool),
    /// A small question to a node was answered so long after it was sent.
    RoundTrip(NodeId, Duration),
}

/// The shortest round trips to one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shortest {
    since: Instant,
    now: Duration,
    before: Duration,
}

/// What is thought of an uplink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Estimate {
    /// As it was declared, in bits a second.
    declared: Option<u64>,
    line: Option<u64>,
    /// The most bits a second over a window, and when that was.
    best: Option<(u64, Instant)>,
    /// Since when content never ran out.
    full_since: Option<Instant>,
    /// Acknowledged bytes since then, a second each, at most a window of them.
    seconds: VecDeque<(u64, u64)>,
    shortest: BTreeMap<NodeId, Shortest>,
    /// Since when all round trips are long, and how many.
    long: Option<(Instant, u32)>,
    changed_at: Instant,
    part: Part,
    /// When a question was last asked for the sake of its answer, or one was answered.
    asked_at: Instant,
}

impl Estimate {
    /// Of a line of this rate, in bits a second; `None`: nobody said.
    #[must_use]
    pub(super) fn new(declared: Option<u64>) -> Self {
        Self {
            declared,
            line: declared,
            best: None,
            full_since: None,
            seconds: VecDeque::new(),
            shortest: BTreeMap::new(),
            long: None,
            changed_at: Instant(0),
            part: Part::NEW,
            asked_at: Instant(0),
        }
    }

    /// What was declared.
    #[must_use]
    pub(super) fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The rate of the line, in bits a second; `None`: no limit is known.
    #[must_use]
    pub(super) fn line(&self) -> Option<u64> {
        self.line
    }

    /// Which part of it is to be used, in hundredths.
    #[must_use]
    pub(super) fn part_percent(&self) -> u64 {
        self.part.percent()
    }

    /// The part begins anew: it was not used meanwhile.
    pub(super) fn forget_part(&mut self) {
        self.part = Part::NEW;
    }

    /// Whether somebody is to be asked something small, for how long the answer takes; if so it counts
    /// as asked.
    pub(super) fn wants_question(&mut self, now: Instant) -> bool {
        let Some(line) = self.line else {
            return false;
        };
        let every = Duration::from_millis(1000 * QUESTION_EVERY_BITS / line.max(1));
        let every = every.clamp(QUESTION_LEAST, QUESTION_MOST);
        let is_due = self.is_full_for(now, QUESTION_LEAST) && now >= self.asked_at + every;
        if is_due {
            self.asked_at = now;
        }
        is_due
    }

    /// Takes what was seen. Round trips must go on when nothing else happens.
    pub(super) fn step(&mut self, now: Instant, sample: Sample) {
        match sample {
            Sample::Acknowledged(bytes) if self.full_since.is_some() => self.count(now, bytes),
            Sample::Acknowledged(_) => {}
            Sample::Waiting(true) => {
                self.full_since.get_or_insert(now);
            }
            Sample::Waiting(false) => {
                self.full_since = None;
                self.part.rest();
                self.long = None;
                self.seconds.clear();
            }
            Sample::RoundTrip(to, time) => self.note(now, to, time),
        }
        let measured = self.measured(now);
        if let Some(rate) = measured.filter(|_| self.is_full_for(now, WINDOW)) {
            let best = self.best_at(now);
            if best.is_none_or(|best| rate > best) {
                self.best = Some((rate, now));
            }
        }
        self.change(now, measured);
    }

    fn change(&mut self, now: Instant, measured: Option<u64>) {
        let after = match self.line {
            Some(_) => QUEUE_AFTER,
            None => FIRST_QUEUE_AFTER,
        };
        let is_queueing = self
            .long
            .is_some_and(|(since, samples)| now - since >= after && samples >= QUEUE_SAMPLES);
        let known = self.declared.or_else(|| self.best_at(now));
        let line = match (self.line, measured) {
            (Some(line), _) if is_queueing => {
                let least = known.unwrap_or(line) / LEAST_PART;
                (line - line / 10).max(least)
            }
            (None, Some(measured)) if is_queueing && measured < FAST_BITS_PER_S => {
                self.best.get_or_insert((measured, now));
                measured
            }
            (Some(line), _) if now - self.changed_at >= RAISE_EVERY => {
                let most = known.unwrap_or(line).max(line);
                (line + line / 50).min(most)
            }
            _ => return,
        };
        if is_queueing {
            self.long = None;
            self.part = Part::NEW;
        }
        self.changed_at = now;
        self.line = match self.declared {
            Some(_) => Some(line),
            None => Some(line.max(SLOWEST_BITS_PER_S)),
        };
    }

    fn note(&mut self, now: Instant, to: NodeId, time: Duration) {
        let new = Shortest {
            since: now,
            now: time,
            before: time,
        };
        let is_known = self.shortest.contains_key(&to);
        let shortest = self.shortest.entry(to).or_insert(new);
        if now >= shortest.since + SHORTEST_OF {
            let before = shortest.now;
            *shortest = Shortest { before, ..new };
        }
        shortest.now = shortest.now.min(time);
        let least = shortest.now.min(shortest.before);
        self.asked_at = now;
        if self.full_since.is_some() && is_known {
            self.part.note(now, time.saturating_sub(least));
        }
        let is_long = time > (least * 4).max(least + LONGER_BY);
        // A queue of the own line is in every way: one that is short disproves it.
        self.long = match self.long.filter(|_| is_long) {
            Some((since, samples)) => Some((since, samples + 1)),
            None => (is_long && self.full_since.is_some()).then_some((now, 1)),
        };
    }

    /// Forgets a node to which there is no link any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.shortest.remove(&node);
    }

    fn count(&mut self, now: Instant, bytes: u64) {
        let second = now.0 / 1_000_000_000;
        match self.seconds.back_mut() {
            Some((last, sum)) if *last == second => *sum += bytes,
            _ => self.seconds.push_back((second, bytes)),
        }
        let oldest = second.saturating_sub(WINDOW_S);
        while self
            .seconds
            .front()
            .is_some_and(|(first, _)| *first <= oldest)
        {
            self.seconds.pop_front();
        }
    }

    fn is_full_for(&self, now: Instant, time: Duration) -> bool {
        self.full_since.is_some_and(|since| now - since >= time)
    }

    /// Bits a second since content never ran out, of the last window; `None` before a queue could be
    /// told.
    fn measured(&self, now: Instant) -> Option<u64> {
        let since = self.full_since?;
        let ms = u64::try_from((now - since).min(WINDOW).as_millis()).unwrap_or(0);
        let oldest = (now.0 / 1_000_000_000).saturating_sub(WINDOW_S);
        let recent = self.seconds.iter().filter(|(second, _)| *second > oldest);
        let bytes: u64 = recent.map(|(_, bytes)| bytes).sum();
        let bits = bytes.saturating_mul(8 * FRAMES_PER_MILLE);
        (ms >= 3000 && bits > 0).then(|| bits / ms)
    }

    /// The best, less 5 % for each day since.
    fn best_at(&self, now: Instant) -> Option<u64> {
        let (rate, at) = self.best?;
        let lost = u128::from(rate) * (now - at).as_nanos() / (20 * DAY_NS);
        Some(rate.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests;
