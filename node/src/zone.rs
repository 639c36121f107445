//! [pure] A time zone, from a file of the system's zone database (TZif, RFC 9636): how far local
//! time is from UTC at an instant. Leap seconds are not looked at.

/// A file that is longer is no zone.
pub(crate) const ZONE_BYTES: usize = 256 * 1024;
const HEAD_BYTES: usize = 44;
const DAY_S: i64 = 86_400;

/// Offsets from UTC, in seconds east.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Zone {
    /// Before the first change.
    first: i64,
    /// From these seconds since the epoch on, in rising order.
    changes: Vec<(i64, i64)>,
    /// After the last change, if a rule says.
    rule: Option<Rule>,
}

/// A rule of two offsets a year: `CET-1CEST,M3.5.0,M10.5.0/3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rule {
    usual: i64,
    summer: Option<(i64, Day, Day)>,
}

/// The nth weekday of a month, and the second of that day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Day {
    month: i64,
    /// 5: the last.
    week: i64,
    /// 0: Sunday.
    weekday: i64,
    at: i64,
}

impl Zone {
    /// Reads a file; `None` if it is no such file.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let version = *bytes.strip_prefix(b"TZif")?.first()?;
        let (first, rest) = block(bytes, 4)?;
        if version < b'2' {
            return Some(first);
        }
        let (mut zone, rest) = block(rest, 8)?;
        let footer = std::str::from_utf8(rest).ok()?;
        let footer = footer
            .strip_prefix('\n')
            .and_then(|text| text.split('\n').next());
        zone.rule = footer.and_then(Rule::parse);
        Some(zone)
    }

    /// Seconds that local time is ahead of UTC at `seconds` since the epoch.
    pub(crate) fn offset_at(&self, seconds: i64) -> i64 {
        let after = self.changes.partition_point(|(from, _)| *from <= seconds);
        if after == self.changes.len()
            && let Some(rule) = &self.rule
        {
            return rule.offset_at(seconds);
        }
        let last = after.checked_sub(1).and_then(|last| self.changes.get(last));
        last.map_or(self.first, |(_, offset)| *offset)
    }
}

fn number(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let start = if negative { -1 } else { 0 };
    bytes
        .iter()
        .fold(start, |all: i64, byte| (all << 8) | i64::from(*byte))
}

/// One block of a file whose times have so many bytes, and what follows it.
fn block(bytes: &[u8], width: usize) -> Option<(Zone, &[u8])> {
    let head = bytes.get(..HEAD_BYTES)?.strip_prefix(b"TZif")?;
    let counts = head.get(16..)?.chunks_exact(4);
    let mut counts = counts.map(|count| usize::try_from(number(count)).ok());
    let mut count = || counts.next().flatten().filter(|count| *count <= ZONE_BYTES);
    let (utc, wall, leaps) = (count()?, count()?, count()?);
    let (times, types, letters) = (count()?, count()?, count()?);
    let mut rest = bytes.get(HEAD_BYTES..)?;
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken)
    };
    let at = take(times * width)?;
    let kinds = take(times)?;
    let offsets = take(types * 6)?.chunks_exact(6);
    let offsets: Vec<i64> = offsets.map(|row| row.get(..4).map_or(0, number)).collect();
    take(letters + leaps * (width + 4) + wall + utc)?;
    let changes = at
        .chunks_exact(width)
        .zip(kinds)
        .map(|(from, kind)| Some((number(from), *offsets.get(usize::from(*kind))?)));
    let zone = Zone {
        first: *offsets.first()?,
        changes: changes.collect::<Option<_>>()?,
        rule: None,
    };
    Some((zone, rest))
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let rest = after_name(parts.next()?)?;
        let (west, rest) = clock(rest)?;
        let usual = -west;
        if rest.is_empty() {
            let summer = None;
            return Some(Self { usual, summer });
        }
        let rest = after_name(rest)?;
        let summer = match rest {
            "" => usual + 3600,
            rest => -clock(rest)?.0,
        };
        let (from, until) = (Day::parse(parts.next()?)?, Day::parse(parts.next()?)?);
        let summer = Some((summer, from, until));
        Some(Self { usual, summer })
    }

    fn offset_at(&self, seconds: i64) -> i64 {
        let Some((summer, from, until)) = self.summer else {
            return self.usual;
        };
        let year = year_of((seconds + self.usual).div_euclid(DAY_S));
        let from = from.second_of(year) - self.usual;
        let until = until.second_of(year) - summer;
        let is_summer = match from < until {
            true => (from..until).contains(&seconds),
            false => !(until..from).contains(&seconds),
        };
        if is_summer { summer } else { self.usual }
    }
}

impl Day {
    /// `M10.5.0/3`; other forms are not in use.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('M')?;
        let (date, at) = text.split_once('/').unwrap_or((text, "2"));
        let mut numbers = date.split('.').map(|part| part.parse::<i64>().ok());
        let mut next = |least: i64, most: i64| {
            let number = numbers.next().flatten()?;
            (least..=most).contains(&number).then_some(number)
        };
        Some(Self {
            month: next(1, 12)?,
            week: next(1, 5)?,
            weekday: next(0, 6)?,
            at: clock(at)?.0,
        })
    }

    /// Local seconds since the epoch in a year.
    fn second_of(&self, year: i64) -> i64 {
        let first = days_before(year, self.month);
        let length = match self.month {
            12 => 31,
            month => days_before(year, month + 1) - first,
        };
        // The epoch was a Thursday.
        let weekday = (first + 4).rem_euclid(7);
        let mut day = (self.weekday - weekday).rem_euclid(7) + (self.week - 1) * 7;
        if day >= length {
            day -= 7;
        }
        (first + day) * DAY_S + self.at
    }
}

/// What follows a zone's short name, `<+03>` or letters.
fn after_name(text: &str) -> Option<&str> {
    match text.strip_prefix('<') {
        Some(quoted) => quoted.split_once('>').map(|(_, rest)| rest),
        None => {
            let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            (rest.len() < text.len()).then_some(rest)
        }
    }
}

/// `[+-]H[:MM[:SS]]` in seconds, and what follows it.
fn clock(text: &str) -> Option<(i64, &str)> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ':');
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let (mut seconds, mut unit) = (0, 3600);
    for part in digits.split(':') {
        let number = part.parse::<i64>().ok().filter(|number| *number < 168)?;
        seconds += number * unit;
        unit /= 60;
    }
    Some((sign * seconds, rest))
}

/// Days from the epoch to the first of a month, in the Gregorian calendar.
fn days_before(year: i64, month: i64) -> i64 {
    // March is the first month of such a year, so that a leap day is its last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    days + (153 * month + 2) / 5 - 719_468
}

fn year_of(day: i64) -> i64 {
    let mut year = 1970 + day.saturating_mul(400).div_euclid(146_097) - 2;
    // At most a few years too early.
    while days_before(year + 1, 1) <= day {
        year += 1;
    }
    year
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version 2 file: one change long ago, and a rule.
    #[expect(clippy::big_endian_bytes, reason = "the format has them so")]
    fn file(footer: &str) -> Vec<u8> {
        let head = |times: u8| {
            let mut head = b"TZif2".to_vec();
            head.resize(20, 0);
            for count in [0, 0, 0, times, 2, 4] {
                head.extend([0, 0, 0, count]);
            }
            head
        };
        let types = [
            &3600_i32.to_be_bytes()[..],
            &[0, 0],
            &7200_i32.to_be_bytes(),
            &[1, 0],
        ];
        let types = types.concat();
        let mut file = [head(0), types.clone(), b"CET\0".to_vec()].concat();
        file.extend(head(2));
        file.extend(1000_i64.to_be_bytes());
        file.extend(2000_i64.to_be_bytes());
        file.extend([1, 0]);
        file.extend(types);
        file.extend(b"CET\0");
        file.extend(format!("\n{footer}\n").into_bytes());
        file
    }

    #[test]
    fn changes_hold_until_the_next_and_a_rule_after_the_last() {
        let zone = Zone::parse(&file("CET-1CEST,M3.5.0,M10.5.0/3")).expect("a zone");
        let at = |seconds| zone.offset_at(seconds);
        assert_eq!(
            (at(-5), at(999), at(1000), at(1999)),
            (3600, 3600, 7200, 7200)
        );
        // 29 March 2026 01:00 UTC and 25 October 2026 01:00 UTC.
        let (spring, autumn) = (1_774_746_000, 1_792_890_000);
        assert_eq!((at(spring - 1), at(spring)), (3600, 7200));
        assert_eq!((at(autumn - 1), at(autumn)), (7200, 3600));
        // New Year's Eve, a minute before midnight there.
        assert_eq!(at(1_798_757_940), 3600);
    }

    #[test]
    fn south_of_the_equator_summer_goes_over_new_year() {
        let zone = Zone::parse(&file("AEST-10AEDT,M10.1.0,M4.1.0/3")).expect("a zone");
        // 4 October 2026 02:00 and 5 April 2026 03:00, local time.
        let (autumn, spring) = (1_775_318_400, 1_791_043_200);
        let at = |seconds| zone.offset_at(seconds);
        assert_eq!((at(autumn - 1), at(autumn)), (39_600, 36_000));
        assert_eq!((at(spring - 1), at(spring)), (36_000, 39_600));
    }

    #[test]
    fn a_rule_may_be_one_offset_or_none() {
        let at = |footer: &str| Zone::parse(&file(footer)).map(|zone| zone.offset_at(1 << 40));
        assert_eq!(at("<+0530>-5:30"), Some(19_800));
        assert_eq!(at("UTC0"), Some(0));
        assert_eq!(at(""), Some(3600), "the last change holds");
        assert_eq!(
            at("CET-1CEST,J60,J300"),
            Some(3600),
            "a form that is not known"
        );
    }

    #[test]
    fn what_is_no_zone_is_none() {
        let whole = file("UTC0");
        for end in 0..whole.len() - 8 {
            // No panic, whatever is missing.
            let _cut = Zone::parse(&whole[..end]);
        }
        assert_eq!(Zone::parse(b""), None);
        assert_eq!(Zone::parse(b"TZif"), None);
        assert_eq!(Zone::parse(&whole[..50]), None);
        let mut astray = whole;
        astray[36..40].copy_from_slice(&[0xFF; 4]);
        assert_eq!(Zone::parse(&astray), None);
    }
}
