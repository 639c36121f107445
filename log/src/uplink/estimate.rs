//! [pure] How fast an uplink is that nobody declared (fanout.md §11). Not wired yet: it wants
//! acknowledged bytes and round trips, which the relay will have.
//!
//! It begins at 1 Mbit/s and doubles while content waits and nothing queues; at the first queue
//! behind the line it takes what was acknowledged. From then on a queue lowers it, and calm raises it,
//! never above the best that was measured, which counts 5 % less each day. It does not find
//! out by itself that a line became faster: begin anew for that.

use super::bucket::{SLOWEST_BITS_PER_S, UNLIMITED_BITS_PER_S};
use aber_proto::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Where it begins, in bits a second.
pub const FIRST_BITS_PER_S: u64 = 1_000_000;
/// Over how long acknowledged bytes are counted, in seconds.
const WINDOW_S: u64 = 10;
const WINDOW: Duration = Duration::from_secs(WINDOW_S);
const DOUBLE_EVERY: Duration = Duration::from_secs(3);
const RAISE_EVERY: Duration = Duration::from_secs(10);
/// Round trips that are long for so long mean a queue.
const QUEUE_AFTER: Duration = Duration::from_secs(3);
/// A round trip is long when it is so much longer than the shortest, and four times as long.
const LONGER_BY: Duration = Duration::from_millis(100);
const DAY_NS: u128 = 24 * 3600 * 1_000_000_000;

/// What was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sample {
    /// Other nodes have so many more bytes of content.
    Acknowledged(u64),
    /// Whether content waits for the uplink.
    Waiting(bool),
    /// A small question was answered after so long.
    RoundTrip(Duration),
}

/// What is thought of an uplink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Estimate {
    line: u64,
    is_rising: bool,
    /// The most bits a second over a window, and when that was.
    best: Option<(u64, Instant)>,
    /// Since when content never ran out.
    full_since: Option<Instant>,
    /// Acknowledged bytes since then, a second each, at most a window of them.
    seconds: VecDeque<(u64, u64)>,
    shortest: Option<Duration>,
    long_since: Option<Instant>,
    changed_at: Instant,
}

impl Estimate {
    /// Of a line that nothing is known of.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            line: FIRST_BITS_PER_S,
            is_rising: true,
            best: None,
            full_since: None,
            seconds: VecDeque::new(),
            shortest: None,
            long_since: None,
            changed_at: now,
        }
    }

    /// The rate of the line, in bits a second.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Takes what was seen. Round trips must go on when nothing else happens.
    pub fn step(&mut self, now: Instant, sample: Sample) {
        match sample {
            Sample::Acknowledged(bytes) if self.full_since.is_some() => self.count(now, bytes),
            Sample::Acknowledged(_) => {}
            Sample::Waiting(true) => {
                self.full_since.get_or_insert(now);
            }
            Sample::Waiting(false) => {
                self.full_since = None;
                self.seconds.clear();
            }
            Sample::RoundTrip(time) => self.note(now, time),
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
        let rested = now - self.changed_at;
        let is_queueing = self
            .long_since
            .is_some_and(|since| now - since >= QUEUE_AFTER);
        let line = if is_queueing {
            self.long_since = Some(now);
            match measured.filter(|_| self.is_rising) {
                Some(measured) => measured,
                None => self.line - self.line / 10,
            }
        } else if self.is_rising {
            if rested < DOUBLE_EVERY || !self.is_full_for(now, DOUBLE_EVERY) {
                return;
            }
            self.line * 2
        } else {
            if rested < RAISE_EVERY {
                return;
            }
            let most = self.best_at(now).unwrap_or(self.line);
            (self.line + self.line / 50).min(most.max(self.line))
        };
        self.is_rising &= !is_queueing;
        self.line = line.clamp(SLOWEST_BITS_PER_S, UNLIMITED_BITS_PER_S);
        self.changed_at = now;
    }

    fn note(&mut self, now: Instant, time: Duration) {
        let shortest = self.shortest.map_or(time, |shortest| shortest.min(time));
        self.shortest = Some(shortest);
        if time > (shortest * 4).max(shortest + LONGER_BY) {
            self.long_since.get_or_insert(now);
        } else {
            self.long_since = None;
        }
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

    /// Bits a second since content never ran out, of the last window; `None` before a second.
    fn measured(&self, now: Instant) -> Option<u64> {
        let since = self.full_since?;
        let ms = u64::try_from((now - since).min(WINDOW).as_millis()).unwrap_or(0);
        let oldest = (now.0 / 1_000_000_000).saturating_sub(WINDOW_S);
        let recent = self.seconds.iter().filter(|(second, _)| *second > oldest);
        let bytes: u64 = recent.map(|(_, bytes)| bytes).sum();
        (ms >= 1000).then(|| bytes.saturating_mul(8000) / ms)
    }

    /// The best, less 5 % for each day since.
    fn best_at(&self, now: Instant) -> Option<u64> {
        let (rate, at) = self.best?;
        let lost = u128::from(rate) * (now - at).as_nanos() / (20 * DAY_NS);
        Some(rate.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A line with a modem that queues what it cannot send.
    struct Line {
        rate: u64,
        queued: u64,
        now: Instant,
        estimate: Estimate,
    }

    impl Line {
        fn new(rate: u64) -> Self {
            Self {
                rate,
                queued: 0,
                now: Instant(SECOND),
                estimate: Estimate::new(Instant(SECOND)),
            }
        }

        /// Content waits all the time, sent at 0.85 of what is thought, by tenths of a second.
        fn run(&mut self, tenths: u64) {
            for _ in 0..tenths {
                self.queued += self.estimate.line() * 85 / 100 / 10;
                let sent = self.queued.min(self.rate / 10);
                self.queued -= sent;
                self.now = Instant(self.now.0 + SECOND / 10);
                let trip = Duration::from_millis(30 + self.queued * 1000 / self.rate);
                self.estimate.step(self.now, Sample::Waiting(true));
                self.estimate.step(self.now, Sample::Acknowledged(sent / 8));
                self.estimate.step(self.now, Sample::RoundTrip(trip));
            }
        }
    }

    #[test]
    fn it_finds_the_rate_of_a_line_and_then_leaves_no_queue() {
        for rate in [300_000, 1_000_000, 8_000_000, 100_000_000] {
            let mut line = Line::new(rate);
            line.run(3000);
            let found = line.estimate.line();
            assert!(!line.estimate.is_rising, "{rate}");
            assert!(
                found <= rate + rate / 20 && found >= rate / 2,
                "{rate}: {found}"
            );
            assert!(line.queued < rate / 5, "{rate}: {} queue", line.queued);
        }
    }

    #[test]
    fn it_does_not_rise_while_nothing_waits() {
        let mut estimate = Estimate::new(Instant(0));
        for second in 1..100 {
            let now = Instant(second * SECOND);
            estimate.step(now, Sample::Waiting(second % 2 == 0));
            estimate.step(now, Sample::Acknowledged(1 << 20));
            estimate.step(now, Sample::RoundTrip(Duration::from_millis(20)));
        }
        assert_eq!(estimate.line(), FIRST_BITS_PER_S);
    }

    #[test]
    fn a_line_that_becomes_slower_is_followed() {
        let mut line = Line::new(8_000_000);
        line.run(1000);
        line.rate = 2_000_000;
        line.run(3000);
        let found = line.estimate.line();
        assert!(found <= 2_500_000, "{found}");
    }

    #[test]
    fn the_best_counts_less_each_day() {
        let mut estimate = Estimate::new(Instant(0));
        estimate.best = Some((1_000_000, Instant(0)));
        let day = Instant(24 * 3600 * SECOND);
        assert_eq!(estimate.best_at(day), Some(950_000));
        let years = Instant(1000 * 24 * 3600 * SECOND);
        assert_eq!(estimate.best_at(years), Some(0));
    }
}
