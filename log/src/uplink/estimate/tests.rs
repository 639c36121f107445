//! A line with a modem behind it, and what is thought of it.

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A line with a modem that queues what it cannot send, a second of it at most.
struct Line {
    rate: u64,
    queued: u64,
    now: Instant,
    estimate: Estimate,
    /// What the line carries for each 100 bits that are counted.
    cost_percent: u64,
    /// Nodes are asked when it says so, and questions wait for frames too.
    asks: bool,
}

impl Line {
    fn new(rate: u64, declared: Option<u64>) -> Self {
        Self {
            rate,
            queued: 0,
            now: Instant(SECOND),
            estimate: Estimate::new(declared),
            cost_percent: 100,
            asks: false,
        }
    }

    /// Content waits all the time, sent at the part of what is thought that is to be used, by tenths
    /// of a second; a question each second, or when it is asked for, to one of two nodes, the second
    /// far away.
    fn run(&mut self, tenths: u64) {
        for tenth in 0..tenths {
            let part = self.estimate.part_percent() * self.cost_percent / 100;
            let sent = self.estimate.line().map(|line| line * part / 100 / 10);
            self.queued = (self.queued + sent.unwrap_or(u64::MAX / 2)).min(self.rate);
            let out = self.queued.min(self.rate / 10);
            self.queued -= out;
            self.now = Instant(self.now.0 + SECOND / 10);
            let (way, node) = match tenth % 2 {
                0 => (30, NodeId(2)),
                _ => (230, NodeId(3)),
            };
            let frame = if self.asks { tenth * 7 % 50 } else { 0 };
            let trip = Duration::from_millis(way + frame + self.queued * 1000 / self.rate);
            let content = out * 1000 / FRAMES_PER_MILLE / 8;
            self.estimate.step(self.now, Sample::Waiting(true));
            self.estimate.step(self.now, Sample::Acknowledged(content));
            let is_asked = match self.asks {
                true => self.estimate.wants_question(self.now),
                false => tenth % 5 == 0,
            };
            if is_asked {
                self.estimate.step(self.now, Sample::RoundTrip(node, trip));
            }
        }
    }

    /// Nothing is sent, and both nodes are heard.
    fn rest(&mut self) {
        self.now = Instant(self.now.0 + SECOND);
        for (node, way) in [(NodeId(2), 30), (NodeId(3), 230)] {
            let trip = Sample::RoundTrip(node, Duration::from_millis(way));
            self.estimate.step(self.now, Sample::Waiting(false));
            self.estimate.step(self.now, trip);
        }
    }
}

#[test]
fn it_finds_the_rate_of_a_line_and_then_leaves_no_queue() {
    for rate in [300_000, 1_000_000, 8_000_000, 100_000_000] {
        let mut line = Line::new(rate, None);
        line.rest();
        assert_eq!(line.estimate.line(), None, "nothing is known");
        line.run(100);
        let found = line.estimate.line().expect("a limit after ten seconds");
        assert!(
            (rate / 2..=rate + rate / 20).contains(&found),
            "{rate}: {found}"
        );
        line.run(3000);
        let found = line.estimate.line().expect("a limit");
        assert!(
            (rate / 2..=rate + rate / 20).contains(&found),
            "{rate}: {found}"
        );
        assert!(line.queued < rate / 5, "{rate}: {} queue", line.queued);
    }
}

/// T17: whatever frames cost besides what is counted, as much of a line is used as has room, and hardly
/// anything queues.
#[test]
fn as_much_of_a_line_is_used_as_leaves_no_queue() {
    for (cost, least, most) in [(100, 97, 97), (105, 91, 96), (110, 87, 93), (115, 85, 89)] {
        for rate in [1_000_000, 8_000_000, 50_000_000] {
            let mut line = Line::new(rate, Some(rate));
            (line.cost_percent, line.asks) = (cost, true);
            line.rest();
            assert_eq!(line.estimate.part_percent(), 85);
            line.run(400);
            let (mut late, mut sum) = (0, 0);
            for _ in 0..1200 {
                line.run(1);
                sum += line.estimate.part_percent();
                late += u32::from(line.queued * 1000 / rate > 80);
            }
            let part = sum / 1200;
            println!("cost {cost} rate {rate}: {part}, {late} late");
            assert!((least..=most).contains(&part), "{cost} {rate}: {part}");
            assert!(late <= 12, "{cost} {rate}: {late} of 1200 above 80 ms");
            assert_eq!(line.estimate.line(), Some(rate));
        }
    }
}

/// What is answered late while nothing waits, or by a far node, says nothing.
#[test]
fn only_a_full_line_has_its_part_changed() {
    let mut estimate = Estimate::new(Some(8_000_000));
    for tick in 1..400_u64 {
        let now = Instant(tick * SECOND / 10);
        estimate.step(now, Sample::Waiting(false));
        let trip = Duration::from_millis(if tick % 20 == 0 { 500 } else { 30 });
        estimate.step(now, Sample::RoundTrip(NodeId(2), trip));
        assert!(!estimate.wants_question(now));
        assert_eq!(estimate.part_percent(), 85);
    }
}

/// A line that carries half of what was declared: nothing is left in the modem, and the rest is used.
#[test]
fn a_line_that_does_not_keep_its_word_is_followed() {
    let mut line = Line::new(4_000_000, Some(8_000_000));
    line.rest();
    line.run(1000);
    let (mut queued, mut sum) = (0, 0);
    for _ in 0..1000 {
        line.run(1);
        let found = line.estimate.line().expect("a limit");
        assert!((3_500_000..=6_000_000).contains(&found), "{found}");
        (queued, sum) = (queued + line.queued, sum + found);
    }
    // It feels its way: a queue of a third of a second, at times.
    assert!(queued / 1000 < line.rate / 3, "{} queue", queued / 1000);
    assert!(sum / 1000 > 3_900_000, "{}", sum / 1000);
    line.rate = 8_000_000;
    line.run(8000);
    assert_eq!(
        line.estimate.line(),
        Some(8_000_000),
        "never above the word"
    );
}

/// A network without a queue gets no limit, however much is sent; nor does one whose only slow
/// answers come from one node, or come while nothing is sent.
#[test]
fn what_does_not_queue_has_no_limit() {
    let mut estimate = Estimate::new(None);
    for tick in 1..1000 {
        let now = Instant(tick * SECOND / 4);
        let late = Duration::from_millis(if tick < 10 { 5 } else { 900 });
        let is_sending = tick % 400 < 200;
        estimate.step(now, Sample::Waiting(is_sending));
        estimate.step(now, Sample::Acknowledged(1 << 18));
        estimate.step(now, Sample::RoundTrip(NodeId(2), late));
        if is_sending {
            let near = Sample::RoundTrip(NodeId(3), Duration::from_millis(5));
            estimate.step(now, near);
        }
        assert_eq!(estimate.line(), None, "{tick}");
    }
}

/// Nor has one that is faster than any line at home, though a busy machine answers late.
#[test]
fn a_busy_machine_is_no_line() {
    let mut line = Line::new(400_000_000, None);
    line.rest();
    line.run(300);
    assert_eq!(line.estimate.line(), None);
}

#[test]
fn the_best_counts_less_each_day() {
    let mut estimate = Estimate::new(None);
    estimate.best = Some((1_000_000, Instant(0)));
    let day = Instant(24 * 3600 * SECOND);
    assert_eq!(estimate.best_at(day), Some(950_000));
    let years = Instant(1000 * 24 * 3600 * SECOND);
    assert_eq!(estimate.best_at(years), Some(0));
}

/// However long everything takes, a quarter stays; and a way that became longer for good is one.
#[test]
fn a_longer_way_is_no_queue_for_ever() {
    let mut estimate = Estimate::new(Some(8_000_000));
    for tick in 1..4000_u64 {
        let now = Instant(tick * SECOND / 2);
        let way = if tick < 100 { 5 } else { 400 };
        estimate.step(now, Sample::Waiting(true));
        estimate.step(
            now,
            Sample::RoundTrip(NodeId(2), Duration::from_millis(way)),
        );
        assert!(estimate.line() >= Some(2_000_000), "{tick}");
    }
    assert!(estimate.line() > Some(4_000_000), "{:?}", estimate.line());
}
