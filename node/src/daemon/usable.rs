//! [pure] When a node tells the others how much of its uplink they may count on.
//!
//! Trees are computed from what the rows of the members say. A line that carries less than was
//! declared, that nobody declared, or of which a schedule leaves a part, has another rate than its row;
//! each word about it is an entry, and another layout. So what a schedule says is told at once, what was
//! measured only when it is much another, and stays so.

use aber_log::uplink::Usable;
use aber_proto::Instant;
use std::time::Duration;

/// For so long what was measured is another, before it is told.
const HOLD: Duration = Duration::from_secs(600);
/// A rate within this of another counts as the same: three quarters of it.
const SAME: (u64, u64) = (3, 4);
/// Rates are told with so many digits, in bits a second.
const DIGITS: u32 = 3;
const BITS: u64 = 8;

/// What was seen of one's own line, and what one's row says of it; bytes a second, 0: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) declared: u64,
    pub(super) told: u64,
    pub(super) usable: Usable,
}

/// Remembers since when the row is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Teller {
    wrong_since: Option<Instant>,
    part: Option<u64>,
}

impl Teller {
    /// What is to be told now, in bytes a second, 0 for what is declared; `None`: nothing new.
    pub(super) fn step(&mut self, now: Instant, line: Line) -> Option<u64> {
        let is_scheduled = self.part != line.usable.part;
        let Some(wanted) = wanted(line).filter(|wanted| !is_same(*wanted, line.told)) else {
            *self = Self {
                wrong_since: None,
                part: line.usable.part,
            };
            return None;
        };
        let since = *self.wrong_since.get_or_insert(now);
        // The part is remembered once its rate is told: until then it is news.
        (is_scheduled || now >= since + HOLD).then_some(wanted)
    }
}

/// What the row should say; `None`: what it says, for nothing is known.
fn wanted(line: Line) -> Option<u64> {
    let usable = line.usable.rate? / BITS;
    let is_declared = line.declared > 0 && is_same(usable.min(line.declared), line.declared);
    Some(if is_declared { 0 } else { in_steps(usable) })
}

fn is_same(one: u64, other: u64) -> bool {
    let (less, more) = (one.min(other), one.max(other));
    less == more || (less > 0 && less.saturating_mul(SAME.1) >= more.saturating_mul(SAME.0))
}

/// The leading digits alone, at least 1: 0 would say nothing.
fn in_steps(rate: u64) -> u64 {
    let bits = rate.saturating_mul(BITS);
    let digits = bits.checked_ilog10().map_or(0, |log| log + 1);
    let unit = 10_u64.pow(digits.saturating_sub(DIGITS));
    (bits / unit * unit / BITS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARED: u64 = 125_000;

    fn at(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    fn line(told: u64, rate: Option<u64>, part: Option<u64>) -> Line {
        Line {
            declared: DECLARED,
            told,
            usable: Usable { rate, part },
        }
    }

    #[test]
    fn a_line_that_keeps_its_word_is_not_talked_of() {
        let mut teller = Teller::default();
        for second in 0..10_000 {
            let nearly = Some(DECLARED * 8 * 8 / 10);
            assert_eq!(teller.step(at(second), line(0, nearly, None)), None);
            assert_eq!(teller.step(at(second), line(0, None, None)), None);
        }
    }

    #[test]
    fn what_was_measured_is_told_once_it_stays() {
        let mut teller = Teller::default();
        let slow = Some(DECLARED * 8 / 4);
        assert_eq!(teller.step(at(0), line(0, slow, None)), None);
        assert_eq!(teller.step(at(599), line(0, slow, None)), None);
        // Once it was well between, the time begins anew.
        assert_eq!(
            teller.step(at(600), line(0, Some(DECLARED * 8), None)),
            None
        );
        assert_eq!(teller.step(at(601), line(0, slow, None)), None);
        assert_eq!(teller.step(at(1200), line(0, slow, None)), None);
        let told = teller.step(at(1201), line(0, slow, None)).expect("told");
        assert!(
            is_same(told, DECLARED / 4) && told <= DECLARED / 4,
            "{told}"
        );
        assert_eq!(teller.step(at(1202), line(told, slow, None)), None);
        // And taken back the same way.
        let well = Some(DECLARED * 8);
        assert_eq!(teller.step(at(1203), line(told, well, None)), None);
        assert_eq!(teller.step(at(1803), line(told, well, None)), Some(0));
    }

    #[test]
    fn what_a_schedule_leaves_is_told_at_once_and_taken_back_at_once() {
        let mut teller = Teller::default();
        let fifth = Some(DECLARED * 8 / 5);
        let told = teller.step(at(0), line(0, fifth, Some(17))).expect("told");
        assert!(is_same(told, DECLARED / 5), "{told}");
        // It was not ordered yet: it is still news.
        assert!(teller.step(at(1), line(0, fifth, Some(17))).is_some());
        assert_eq!(teller.step(at(2), line(told, fifth, Some(17))), None);
        let all = Some(DECLARED * 8);
        assert_eq!(teller.step(at(3), line(told, all, None)), Some(0));
        // After a start in the same span the row says it already.
        let mut again = Teller::default();
        assert_eq!(again.step(at(4), line(told, fifth, Some(17))), None);
    }

    #[test]
    fn of_an_undeclared_line_what_is_not_known_yet_changes_nothing() {
        let mut teller = Teller::default();
        let undeclared = |told, rate| Line {
            declared: 0,
            ..line(told, rate, None)
        };
        assert_eq!(teller.step(at(0), undeclared(50_000, None)), None);
        assert_eq!(teller.step(at(9_999), undeclared(50_000, None)), None);
        assert_eq!(teller.step(at(10_000), undeclared(0, Some(800_000))), None);
        assert_eq!(
            teller.step(at(10_600), undeclared(0, Some(800_000))),
            Some(100_000)
        );
    }

    #[test]
    fn steps_are_no_further_than_what_counts_as_the_same() {
        for rate in (1..5000).chain([u64::MAX / 8, 1 << 40]) {
            let step = in_steps(rate);
            assert!(step <= rate && is_same(step, rate), "{rate} {step}");
        }
        assert_eq!(in_steps(0), 1, "a line of nothing still says something");
    }
}
