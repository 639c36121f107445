//! [pure] What the line has room for: a token bucket in integers.
//!
//! Tokens are bits; they are counted in millionths, because a rate in bits a second times a time
//! in microseconds is millionths of a bit, without a rounding. The rate is below that of the
//! line, so that the queue stands here, where it has an order, and not in a modem (fanout.md §10).

use aber_proto::Instant;

/// From this rate of a line on nothing is held back, in bits a second.
pub const UNLIMITED_BITS_PER_S: u64 = 1_000_000_000;
/// Lines that are said to be slower are taken for this, in bits a second: heartbeats alone fill
/// a line that is slower, and a slip of the pen would cut a node off.
pub(super) const SLOWEST_BITS_PER_S: u64 = 64_000;
/// Largest frame, in bytes.
pub const FRAME_MAX_BYTES: usize = 64 * 1024;
/// Smallest largest frame, in bytes.
pub(super) const FRAME_MIN_BYTES: usize = 4 * 1024;
/// A frame takes about this long on the line.
const FRAME_MS: u64 = 32;
/// Of a line's rate this part is used unless told otherwise, in hundredths.
pub(super) const PART_PERCENT: u64 = 85;
const BURST_MIN_BYTES: u64 = 8 * 1024;
/// What TCP, IP, TLS and HTTP/2 add to each [`OVERHEAD_EVERY_BYTES`] begun.
const OVERHEAD_BYTES: u64 = 200;
const OVERHEAD_EVERY_BYTES: u64 = 4 * 1024;
/// Millionths of a bit in a byte.
const BYTE: i64 = 8 * 1_000_000;

// The largest frame and what it costs beside its bytes fit into a burst of two.
const _: () = assert!(
    FRAME_MAX_BYTES as u64 / OVERHEAD_EVERY_BYTES * OVERHEAD_BYTES < FRAME_MAX_BYTES as u64
);

/// What bytes of a message take of the line, in bytes: themselves, and 200 for each 4 KiB begun.
#[must_use]
pub(super) fn cost(bytes: usize) -> u64 {
    let bytes = bytes as u64;
    bytes + bytes.div_ceil(OVERHEAD_EVERY_BYTES).max(1) * OVERHEAD_BYTES
}

/// How much may be sent now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bucket {
    /// What the line carries, in bits a second, as it was said.
    line: Option<u64>,
    /// The part of it that is used, in hundredths.
    part_percent: u64,
    /// Bits a second; `None`: as many as come.
    rate: Option<u64>,
    /// Millionths of a bit; below zero after an overdraft.
    level: i64,
    /// When `level` was right, in microseconds.
    at_us: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

impl Bucket {
    /// A bucket without a limit.
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            line: None,
            part_percent: PART_PERCENT,
            rate: None,
            level: 0,
            at_us: 0,
        }
    }

    /// From now on the line has this rate, in bits a second; `None`: it is not known, and nothing
    /// is held back. A bucket that had no limit starts full.
    pub(super) fn set_line(&mut self, now: Instant, line: Option<u64>) {
        self.line = line;
        self.set_rate(now);
    }

    /// From now on so many hundredths of the line are used, 1 to 100.
    pub(super) fn set_part(&mut self, now: Instant, percent: u64) {
        self.part_percent = percent.clamp(1, 100);
        self.set_rate(now);
    }

    fn set_rate(&mut self, now: Instant) {
        self.refill(now);
        let before = self.rate;
        self.rate = self
            .line
            .filter(|rate| *rate < UNLIMITED_BITS_PER_S)
            .map(|rate| rate.max(SLOWEST_BITS_PER_S) * self.part_percent / 100);
        self.at_us = micros(now);
        let burst = self.burst();
        self.level = match before {
            None => burst,
            Some(_) => self.level.min(burst),
        };
    }

    /// What is sent at most, in bits a second: the part of the line that is used; `None` without a limit.
    #[must_use]
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Most bytes that one frame should carry: 32 ms of the rate, 4 KiB to 64 KiB.
    #[must_use]
    pub(super) fn frame_bytes(&self) -> usize {
        let Some(rate) = self.rate else {
            return FRAME_MAX_BYTES;
        };
        let bytes = usize::try_from(rate * FRAME_MS / 1000 / 8).unwrap_or(FRAME_MAX_BYTES);
        bytes.clamp(FRAME_MIN_BYTES, FRAME_MAX_BYTES)
    }

    /// What may be sent at once after a rest, in bytes: two frames, 8 KiB at least.
    #[must_use]
    pub(super) fn burst_bytes(&self) -> u64 {
        BURST_MIN_BYTES.max(2 * self.frame_bytes() as u64)
    }

    /// Pays for bytes of a message if there is enough, or would be with an overdraft of
    /// `overdraft` bytes.
    pub(super) fn take(&mut self, now: Instant, bytes: usize, overdraft: u64) -> bool {
        if self.rate.is_none() {
            return true;
        }
        self.refill(now);
        let after = self.level.saturating_sub(price(bytes));
        let is_enough = after >= -in_millionths(overdraft);
        if is_enough {
            self.level = after;
        }
        is_enough
    }

    /// When [`Bucket::take`] will have enough, if nothing else is taken before; now or earlier if
    /// it has.
    #[must_use]
    pub(super) fn ready_at(&self, now: Instant, bytes: usize, overdraft: u64) -> Instant {
        let Some(rate) = self.rate else {
            return now;
        };
        let wanted = price(bytes).saturating_sub(in_millionths(overdraft));
        let lacks = u64::try_from(wanted.saturating_sub(self.level)).unwrap_or(0);
        let at_us = self.at_us.saturating_add(lacks.div_ceil(rate));
        Instant(at_us.saturating_mul(1000))
    }

    fn burst(&self) -> i64 {
        in_millionths(self.burst_bytes())
    }

    fn refill(&mut self, now: Instant) {
        let now_us = micros(now);
        let passed_us = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        if let Some(rate) = self.rate {
            let more = i64::try_from(rate.saturating_mul(passed_us)).unwrap_or(i64::MAX);
            self.level = self.level.saturating_add(more).min(self.burst());
        }
    }
}

fn micros(at: Instant) -> u64 {
    at.0 / 1000
}

fn in_millionths(bytes: u64) -> i64 {
    i64::try_from(bytes)
        .unwrap_or(i64::MAX)
        .saturating_mul(BYTE)
}

fn price(bytes: usize) -> i64 {
    in_millionths(cost(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const MS: u64 = 1_000_000;

    fn bucket(line: u64) -> Bucket {
        let mut bucket = Bucket::new();
        bucket.set_line(Instant(0), Some(line));
        bucket
    }

    #[test]
    fn frames_are_32_ms_of_the_rate_within_bounds() {
        let sizes = |line| (bucket(line).frame_bytes(), bucket(line).burst_bytes());
        assert_eq!(sizes(1_000_000), (4096, 8192));
        assert_eq!(sizes(8_000_000), (27_200, 54_400));
        assert_eq!(sizes(100_000_000), (65_536, 131_072));
        assert_eq!(bucket(1_000_000).rate(), Some(850_000));
        assert_eq!(bucket(0).rate(), Some(54_400));
    }

    #[test]
    fn a_fast_line_or_none_named_has_no_limit() {
        for line in [None, Some(UNLIMITED_BITS_PER_S), Some(u64::MAX)] {
            let mut bucket = Bucket::new();
            bucket.set_line(Instant(0), line);
            assert_eq!((bucket.rate(), bucket.frame_bytes()), (None, 65_536));
            assert!((0..10_000).all(|_| bucket.take(Instant(0), 65_536, 0)));
        }
    }

    /// What is there already stays, a full bucket is not given again.
    #[test]
    fn another_part_of_the_line_may_be_used() {
        let mut bucket = bucket(1_000_000);
        while bucket.take(Instant(0), 1000, 0) {}
        let level = bucket.level;
        for (percent, rate) in [
            (100, 1_000_000),
            (20, 200_000),
            (0, 10_000),
            (200, 1_000_000),
        ] {
            bucket.set_part(Instant(0), percent);
            assert_eq!((bucket.rate(), bucket.level), (Some(rate), level));
        }
        bucket.set_part(Instant(0), 50);
        bucket.set_line(Instant(0), Some(2_000_000));
        assert_eq!(
            bucket.rate(),
            Some(1_000_000),
            "the part stays with another line"
        );
        bucket.set_line(Instant(0), None);
        bucket.set_part(Instant(0), 30);
        assert_eq!(bucket.rate(), None, "a part of no limit is none");
    }

    #[test]
    fn each_4_kib_begun_costs_200_bytes() {
        let costs = [0, 1, 4096, 4097, 65_536].map(cost);
        assert_eq!(costs, [200, 201, 4296, 4497, 68_736]);
    }

    #[test]
    fn an_overdraft_is_paid_back_before_anything_else() {
        let mut bucket = bucket(1_000_000);
        assert!(bucket.take(Instant(0), 4096, 0));
        assert!(!bucket.take(Instant(0), 4096, 0));
        let mut vital = 0;
        while bucket.take(Instant(0), 120, 16 * 1024) {
            vital += 1;
        }
        // The rest of the burst and 16 KiB, 320 bytes each.
        assert_eq!(vital, (8192 - 4296 + 16 * 1024) / 320);
        let at = bucket.ready_at(Instant(0), 120, 0);
        assert!(!bucket.take(Instant(at.0 - 1000), 120, 0) && bucket.take(at, 120, 0));
    }

    /// Over any window: never above the rate times the window, and a burst.
    #[test]
    fn never_above_rate_and_burst_over_any_window() {
        for seed in 0..40 {
            let mut random = Random(seed);
            let line = 10_000 + random.below(200_000_000);
            let mut bucket = bucket(line);
            let (mut now, mut sent) = (0, Vec::new());
            for _ in 0..400 {
                now += random.below(60) * MS;
                let bytes = random.below(bucket.frame_bytes() as u64);
                let bytes = 1 + usize::try_from(bytes).unwrap();
                let at = bucket.ready_at(Instant(now), bytes, 0);
                let is_taken = bucket.take(Instant(now), bytes, 0);
                assert_eq!(is_taken, at <= Instant(now), "what is foretold happens");
                if is_taken {
                    sent.push((now, cost(bytes)));
                }
            }
            let rate = bucket.rate().unwrap();
            for (from, (start, _)) in sent.iter().enumerate() {
                let mut bytes = 0;
                for (at, cost) in &sent[from..] {
                    bytes += cost;
                    let allowed = rate * (at - start) / 8_000_000_000;
                    assert!(bytes <= allowed + bucket.burst_bytes() + 1, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_new_rate_does_not_forget_what_was_taken() {
        let mut bucket = bucket(1_000_000);
        assert!(bucket.take(Instant(0), 7000, 0));
        bucket.set_line(Instant(0), Some(2_000_000));
        assert!(!bucket.take(Instant(0), 4096, 0));
        bucket.set_line(Instant(0), None);
        assert!(bucket.take(Instant(0), 1 << 20, 0));
    }
}
