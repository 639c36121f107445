//! [pure] What part of its line a node sends at most, by the time of day: `23:00-07:00 up=100%`.

use std::fmt;

/// Spans that a schedule has at most.
pub const SPANS: usize = 16;
const DAY_MINUTES: u16 = 24 * 60;

/// A part of the day, and the part of the line that is used then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    /// Minutes since midnight, local time.
    from: u16,
    /// The first minute that is not in it; before `from`: on the next day. Never equal to it.
    until: u16,
    /// Hundredths of the line, 1 to 100.
    up_percent: u8,
}

/// Spans of the day. Outside of all of them what is usual holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    spans: Vec<Span>,
}

/// A text that is no schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScheduleProblem {
    /// One span has another form.
    #[error("{0:?} is not like \"23:00-07:00 up=100%\"")]
    Form(String),
    /// A percentage that is none.
    #[error("{0:?}: a part of the line is 1% to 100%")]
    Percent(String),
    /// A span of nothing.
    #[error("{0:?} ends when it begins")]
    Empty(String),
    /// Two spans have a minute in common: which holds would be a guess.
    #[error("{0} and {1} overlap")]
    Overlap(String, String),
    /// More than [`SPANS`].
    #[error("more than {SPANS} spans")]
    Many,
}

impl Schedule {
    /// Reads spans, each as `HH:MM-HH:MM up=N%` in local time. `24:00` is the end of the day.
    ///
    /// # Errors
    /// [`ScheduleProblem`].
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, ScheduleProblem> {
        if texts.len() > SPANS {
            return Err(ScheduleProblem::Many);
        }
        let spans = texts.iter().map(|text| Span::parse(text.as_ref()));
        let spans: Vec<Span> = spans.collect::<Result<_, _>>()?;
        for (at, one) in spans.iter().enumerate() {
            for other in spans.iter().skip(at + 1) {
                if one.contains(other.from) || other.contains(one.from) {
                    return Err(ScheduleProblem::Overlap(one.to_string(), other.to_string()));
                }
            }
        }
        Ok(Self { spans })
    }

    /// Its spans as they can be read again.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.spans.iter().map(ToString::to_string).collect()
    }

    /// Whether what is usual always holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Hundredths of the line that are used at a second since the epoch, local time; `None`: what
    /// is usual.
    #[must_use]
    pub fn up_percent_at(&self, local_seconds: i64) -> Option<u8> {
        let minute = local_seconds
            .div_euclid(60)
            .rem_euclid(i64::from(DAY_MINUTES));
        let minute = u16::try_from(minute).unwrap_or(0);
        let mut spans = self.spans.iter();
        spans
            .find(|span| span.contains(minute))
            .map(|span| span.up_percent)
    }
}

impl Span {
    fn parse(text: &str) -> Result<Self, ScheduleProblem> {
        let form = || ScheduleProblem::Form(text.to_owned());
        let mut words = text.split_whitespace();
        let (times, part) = words.next().zip(words.next()).ok_or_else(form)?;
        if words.next().is_some() {
            return Err(form());
        }
        let (from, until) = times.split_once('-').ok_or_else(form)?;
        let from = minute_of(from).filter(|from| *from < DAY_MINUTES);
        let (from, until) = from.zip(minute_of(until)).ok_or_else(form)?;
        let percent = part
            .strip_prefix("up=")
            .and_then(|part| part.strip_suffix('%'));
        let percent = percent.ok_or_else(form)?;
        let up_percent = percent
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent));
        let up_percent = up_percent.ok_or_else(|| ScheduleProblem::Percent(text.to_owned()))?;
        if from == until {
            return Err(ScheduleProblem::Empty(text.to_owned()));
        }
        Ok(Self {
            from,
            until,
            up_percent,
        })
    }

    fn contains(&self, minute: u16) -> bool {
        match self.from < self.until {
            true => (self.from..self.until).contains(&minute),
            false => minute >= self.from || minute < self.until,
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let (from, until) = (clock(self.from), clock(self.until));
        write!(f, "{from}-{until} up={}%", self.up_percent)
    }
}

/// `HH:MM` up to `24:00`, in minutes.
fn minute_of(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = number(hour).zip(number(minute))?;
    let all = hour * 60 + minute;
    (minute < 60 && all <= DAY_MINUTES).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: &Schedule, hour: i64, minute: i64) -> Option<u8> {
        // The 20,000th day, and one long before the epoch.
        let seconds = hour * 3600 + minute * 60 + 59;
        let found = schedule.up_percent_at(20_000 * 86_400 + seconds);
        assert_eq!(schedule.up_percent_at(-20_000 * 86_400 + seconds), found);
        found
    }

    #[test]
    fn a_night_is_one_span() {
        let schedule = Schedule::parse(&["23:00-07:00 up=100%"]).expect("a schedule");
        for (hour, minute, wanted) in [
            (22, 59, None),
            (23, 0, Some(100)),
            (23, 59, Some(100)),
            (0, 0, Some(100)),
            (6, 59, Some(100)),
            (7, 0, None),
            (12, 0, None),
        ] {
            assert_eq!(at(&schedule, hour, minute), wanted, "{hour}:{minute}");
        }
        assert_eq!(at(&Schedule::default(), 0, 0), None);
    }

    #[test]
    fn spans_stand_side_by_side_and_can_be_read_again() {
        let texts = [
            "00:00-08:30 up=100%",
            "08:30-18:00 up=20%",
            "18:00-24:00 up=50%",
        ];
        let schedule = Schedule::parse(&texts).expect("a schedule");
        assert_eq!(schedule.texts(), texts);
        assert_eq!(at(&schedule, 8, 29), Some(100));
        assert_eq!(at(&schedule, 8, 30), Some(20));
        assert_eq!(at(&schedule, 23, 59), Some(50));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        use ScheduleProblem::{Empty, Form, Many, Overlap, Percent};
        let problem = |texts: &[&str]| Schedule::parse(texts).expect_err("no schedule");
        for bad in [
            "",
            "23:00-07:00",
            "up=50%",
            "23:00 up=50%",
            "23-07 up=50%",
            "24:00-07:00 up=50%",
            "7:00-8:00 up=50%",
            "23:60-07:00 up=50%",
            "23:00-24:01 up=50%",
            "23:00-07:00 up=50",
            "23:00-07:00 up=50% now",
            "+1:00-07:00 up=50%",
        ] {
            assert_eq!(problem(&[bad]), Form(bad.to_owned()));
        }
        for bad in [
            "01:00-02:00 up=0%",
            "01:00-02:00 up=101%",
            "01:00-02:00 up=-1%",
        ] {
            assert_eq!(problem(&[bad]), Percent(bad.to_owned()));
        }
        assert!(matches!(problem(&["01:00-01:00 up=9%"]), Empty(_)));
        let twice = ["22:00-02:00 up=9%", "01:00-03:00 up=8%"];
        assert!(matches!(problem(&twice), Overlap(..)));
        assert!(matches!(problem(&[twice[1], twice[0]]), Overlap(..)));
        assert_eq!(problem(&["01:00-02:00 up=9%"; SPANS + 1]), Many);
    }
}
