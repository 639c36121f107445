//! [pure] A WHEN, as people write it: one grammar for all commands.

use crate::reason::Problem;
use aber_proto::generated::v1::{self, at::At};
use jiff::civil::{Date, Time};
use jiff::{SignedDuration, Timestamp, Zoned};

/// What a WHEN can be, for people.
pub(super) const FORMS: &str =
    "2h, yesterday, \"yesterday 18:00\", 2026-11-22, 3:1842, 3:1842-, -1, or a tag";

/// Reads a WHEN. `now` says what it is relative to, and in which zone local times are.
///
/// # Errors
/// It is none, or is in the future.
pub(super) fn parse(text: &str, now: &Zoned) -> Result<v1::At, Problem> {
    let text = text.trim();
    let form = entry(text)
        .or_else(|| versions_ago(text))
        .map(Ok)
        .or_else(|| ago(text, now))
        .or_else(|| local(text, now))
        .or_else(|| absolute(text, now));
    let at = match form {
        Some(at) => at?,
        None if is_tag_name(text) => At::Tag(text.to_owned()),
        None => {
            return Err(Problem::usage(format!(
                "{text:?} is no WHEN; one is {FORMS}"
            )));
        }
    };
    Ok(v1::At { at: Some(at) })
}

/// Whether a tag may be called so: what reads as another form may not.
pub(super) fn may_name_a_tag(text: &str, now: &Zoned) -> bool {
    is_tag_name(text)
        && matches!(
            parse(text, now),
            Ok(v1::At {
                at: Some(At::Tag(_))
            })
        )
}

fn is_tag_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
    begins && text.len() <= aber_proto::limit::TAG_NAME_BYTES && text.chars().all(fits)
}

/// `3:1842`, an entry; `3:1842.7`, one event of it, from 1.
pub(super) fn event(text: &str) -> Option<(v1::EntryId, Option<u32>)> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (partition, rest) = text.split_once(':')?;
    let (index, event) = match rest.split_once('.') {
        Some((index, event)) if number(event) => {
            (index, Some(event.parse().ok().filter(|event| *event > 0)?))
        }
        Some(_) => return None,
        None => (rest, None),
    };
    if !number(partition) || !number(index) {
        return None;
    }
    let id = v1::EntryId {
        partition: partition.parse().ok()?,
        index: index.parse().ok()?,
    };
    Some((id, event))
}

/// `3:1842`, `3:1842-`.
fn entry(text: &str) -> Option<At> {
    let (text, is_before) = match text.strip_suffix('-') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (partition, index) = text.split_once(':')?;
    // `18:05` is a time of day; partitions with entries have no leading zeros and one digit or more,
    // so that only an index of two digits below 60 could be meant by both: the clock wins.
    let is_clock = !is_before && partition.len() == 2 && index.len() == 2;
    let (id, number) = event(text)?;
    if is_clock || number.is_some() {
        return None;
    }
    Some(if is_before {
        At::Before(id)
    } else {
        At::After(id)
    })
}

fn versions_ago(text: &str) -> Option<At> {
    text.strip_prefix('-')?.parse().ok().map(At::VersionsAgo)
}

/// `2h`, `1d12h`, `90s`, `2 weeks`, `2h ago`.
fn ago(text: &str, now: &Zoned) -> Option<Result<At, Problem>> {
    let text = text.strip_suffix("ago").unwrap_or(text).trim();
    let (mut rest, mut seconds) = (text, 0_i64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 7 * 86_400,
            "y" | "year" | "years" => 365 * 86_400,
            _ => return None,
        };
        let part = number.parse::<i64>().ok()?.checked_mul(unit)?;
        seconds = seconds.checked_add(part)?;
        rest = after.trim_start();
    }
    let then = now
        .timestamp()
        .checked_sub(SignedDuration::from_secs(seconds));
    Some(match then {
        Ok(then) => Ok(time(then)),
        Err(_) => Err(Problem::usage(format!("{text:?} is before all time"))),
    })
}

/// `now`, `today`, `yesterday`, either with a time of day, a date, a date and a time, a time alone.
fn local(text: &str, now: &Zoned) -> Option<Result<At, Problem>> {
    if text == "now" {
        return Some(Ok(time(now.timestamp())));
    }
    let (day, clock) = match text.split_once([' ', 'T']) {
        Some((day, clock)) => (day, Some(clock.trim())),
        None => (text, None),
    };
    let day_of = |text: &str| -> Option<Date> {
        match text {
            "today" => Some(now.date()),
            "yesterday" => now.date().yesterday().ok(),
            _ => text.parse().ok(),
        }
    };
    let (date, clock) = match (day_of(day), clock) {
        (Some(date), None) => (date, Time::midnight()),
        (Some(date), Some(clock)) => (date, clock_of(clock)?),
        (None, None) => (now.date(), clock_of(day)?),
        (None, Some(_)) => return None,
    };
    let then = date.to_datetime(clock).to_zoned(now.time_zone().clone());
    let then = then.ok()?.timestamp();
    Some(in_the_past(text, then, now))
}

fn clock_of(text: &str) -> Option<Time> {
    let mut parts = text.split(':');
    let hour = parts.next()?.parse().ok()?;
    let minute = parts.next()?.parse().ok()?;
    let second = parts.next().map_or(Some(0), |text| text.parse().ok())?;
    if parts.next().is_some() {
        return None;
    }
    Time::new(hour, minute, second, 0).ok()
}

/// RFC 3339.
fn absolute(text: &str, now: &Zoned) -> Option<Result<At, Problem>> {
    let then: Timestamp = text.parse().ok()?;
    Some(in_the_past(text, then, now))
}

fn in_the_past(text: &str, then: Timestamp, now: &Zoned) -> Result<At, Problem> {
    if then > now.timestamp() {
        return Err(Problem::usage(format!(
            "{text:?} is in the future; now it is {}",
            now.strftime("%Y-%m-%d %H:%M:%S %Z")
        )));
    }
    Ok(time(then))
}

fn time(then: Timestamp) -> At {
    // Whole seconds rounded down, and nanoseconds after them.
    let mut seconds = then.as_second();
    let mut nanos = then.subsec_nanosecond();
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    At::Time(prost_types::Timestamp { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::{TimeZone, offset};

    fn now() -> Zoned {
        let zone = TimeZone::fixed(offset(1));
        let now: Timestamp = "2026-11-22T17:30:00Z".parse().expect("a time");
        now.to_zoned(zone)
    }

    fn utc(text: &str) -> String {
        match parse(text, &now()).expect("a WHEN").at {
            Some(At::Time(time)) => Timestamp::new(time.seconds, time.nanos)
                .expect("in range")
                .to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn times_are_local_and_in_the_past() {
        for (text, wanted) in [
            ("now", "2026-11-22T17:30:00Z"),
            ("2h", "2026-11-22T15:30:00Z"),
            ("1d12h", "2026-11-21T05:30:00Z"),
            ("90 seconds ago", "2026-11-22T17:28:30Z"),
            ("2w", "2026-11-08T17:30:00Z"),
            ("today", "2026-11-21T23:00:00Z"),
            ("yesterday", "2026-11-20T23:00:00Z"),
            ("yesterday 18:00", "2026-11-21T17:00:00Z"),
            ("18:05", "2026-11-22T17:05:00Z"),
            ("2026-11-22", "2026-11-21T23:00:00Z"),
            ("2026-11-22 9:00:30", "2026-11-22T08:00:30Z"),
            ("2026-11-22T09:00:30", "2026-11-22T08:00:30Z"),
            ("2026-11-22T09:00:30Z", "2026-11-22T09:00:30Z"),
            ("2026-11-22T09:00:30.25+02:00", "2026-11-22T07:00:30.25Z"),
        ] {
            assert_eq!(utc(text), wanted, "{text}");
        }
        for text in ["2027-01-01", "23:59", "2026-11-22T17:30:01Z"] {
            let problem = parse(text, &now()).expect_err(text);
            assert!(problem.to_string().contains("future"), "{problem}");
        }
    }

    #[test]
    fn entries_versions_and_tags() {
        let id = |partition, index| v1::EntryId { partition, index };
        for (text, wanted) in [
            ("3:1842", At::After(id(3, 1842))),
            ("3:1842-", At::Before(id(3, 1842))),
            ("0:7", At::After(id(0, 7))),
            ("12:34-", At::Before(id(12, 34))),
            ("-5", At::VersionsAgo(5)),
            ("before-the-party", At::Tag("before-the-party".to_owned())),
            ("v1.0", At::Tag("v1.0".to_owned())),
        ] {
            assert_eq!(parse(text, &now()).expect(text).at, Some(wanted), "{text}");
        }
        for text in [
            "",
            "3:",
            ":4",
            "3:1842--",
            "Großer Tag",
            "-",
            "2x",
            "24:00",
            "x y",
        ] {
            assert!(parse(text, &now()).is_err(), "{text}");
        }
        assert!(may_name_a_tag("release-1", &now()));
        for text in ["now", "today", "yesterday", "2h", "-1", "3:4", "Big"] {
            assert!(!may_name_a_tag(text, &now()), "{text}");
        }
    }

    #[test]
    fn events_are_named_as_people_do() {
        let id = |partition, index| v1::EntryId { partition, index };
        assert_eq!(event("3:1842"), Some((id(3, 1842), None)));
        assert_eq!(event("3:1842.7"), Some((id(3, 1842), Some(7))));
        for bad in ["", "3", "3:", ":4", "3:4.", "3:4.0", "3:4-", "a:b", "-1"] {
            assert_eq!(event(bad), None, "{bad}");
        }
    }
}
