//! [pure] What the other members said of themselves when they were asked the last time.
//!
//! For people alone: nothing is decided by it, and clocks least of all (rule CL-1).

use aber_proto::generated::rpc;
use aber_proto::{NodeId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Clocks that differ by more than this are worth a notice.
pub(crate) const SKEW_MS: i64 = 2 * 60 * 1000;
/// Of a version that another node told, so many characters are kept.
const VERSION_CHARS: usize = 32;

/// All that were heard of since this node started, by number.
pub(crate) type Sightings = BTreeMap<NodeId, Sighting>;

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sighting {
    /// When it came, by this node's clock.
    pub(crate) seen: Timestamp,
    /// From the question to the answer.
    pub(crate) round_trip: Duration,
    /// The other clock less this node's, in milliseconds; `None` if it did not tell.
    pub(crate) skew_ms: Option<i64>,
    /// Entries that were committed as this node or the other knew, and not applied there.
    pub(crate) entries_behind: u64,
    /// Of its program; empty if it did not tell.
    pub(crate) version: String,
}

impl Sighting {
    /// What an answer says that came at `seen`; `committed` is how far each partition is, as this
    /// node knows.
    pub(crate) fn of(
        status: &rpc::StatusResponse,
        (seen, round_trip): (Timestamp, Duration),
        committed: &BTreeMap<u32, u64>,
    ) -> Self {
        let behind = status.positions.iter().map(|position| {
            let known = committed.get(&position.partition).copied().unwrap_or(0);
            known
                .max(position.committed)
                .saturating_sub(position.applied)
        });
        let version = status.version.chars().filter(char::is_ascii_graphic);
        Self {
            seen,
            round_trip,
            skew_ms: skew_ms(status.wall_ms, seen, round_trip),
            entries_behind: behind.fold(0, u64::saturating_add),
            version: version.take(VERSION_CHARS).collect(),
        }
    }
}

/// The other clock less this one, at the moment an answer came: it was read half a round trip ago.
fn skew_ms(told: i64, seen: Timestamp, round_trip: Duration) -> Option<i64> {
    let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
    let now_there = told.saturating_add(half);
    (told != 0).then(|| now_there.saturating_sub(seen.0))
}

/// Members whose clocks differ much from this node's, or this node's from most others'.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Skewed {
    /// Most others, and there are several, agree that this node's clock is this much ahead, in
    /// milliseconds.
    Here(i64),
    /// These clocks are this much ahead of this node's.
    There(Vec<(NodeId, i64)>),
}

/// Whose clock is wrong among members that are up; `None` if all are about right.
pub(crate) fn skewed(sightings: &Sightings, is_up: impl Fn(NodeId) -> bool) -> Option<Skewed> {
    let told = sightings
        .iter()
        .filter(|(node, _)| is_up(**node))
        .filter_map(|(node, sighting)| Some((*node, sighting.skew_ms?)));
    let told: Vec<_> = told.collect();
    let (far, near): (Vec<_>, Vec<_>) = told
        .into_iter()
        .partition(|(_, skew)| skew.unsigned_abs() > SKEW_MS.unsigned_abs());
    let middle = far.get(far.len() / 2)?.1;
    let is_near = |(_, skew): &(NodeId, i64)| skew.abs_diff(middle) <= SKEW_MS.unsigned_abs();
    if far.len() > 1 && near.is_empty() && far.iter().all(is_near) {
        return Some(Skewed::Here(middle.saturating_neg()));
    }
    Some(Skewed::There(far))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn answer(wall_ms: i64, round_trip: Duration) -> Sighting {
        let status = rpc::StatusResponse {
            wall_ms,
            ..Default::default()
        };
        Sighting::of(&status, (NOW, round_trip), &BTreeMap::new())
    }

    fn sightings(skews_ms: &[i64]) -> Sightings {
        let nodes = (1..).map(NodeId);
        let answers = skews_ms
            .iter()
            .map(|skew| answer(NOW.0 + skew, Duration::ZERO));
        nodes.zip(answers).collect()
    }

    #[test]
    fn lag_is_what_either_side_knows_to_be_committed() {
        let position = |partition, committed, applied| rpc::PartitionPosition {
            partition,
            committed,
            applied,
            mirrored: 0,
        };
        let status = rpc::StatusResponse {
            positions: vec![position(0, 9, 7), position(1, 3, 3), position(2, 0, 5)],
            version: "0.1.0\u{1b}[31m".to_owned(),
            ..Default::default()
        };
        let committed = BTreeMap::from([(0, 8), (1, 10), (2, 4)]);
        let sighting = Sighting::of(&status, (NOW, Duration::ZERO), &committed);
        assert_eq!(sighting.entries_behind, 2 + 7);
        assert_eq!(sighting.version, "0.1.0[31m");
        assert_eq!(sighting.skew_ms, None, "no clock was told");
    }

    #[test]
    fn the_odd_clock_is_the_one_that_is_named() {
        let all = |_| true;
        let minutes = |count: i64| count * 60_000;
        assert_eq!(skewed(&sightings(&[0, minutes(2)]), all), None);
        let one = sightings(&[0, minutes(-3), minutes(1)]);
        let there = Skewed::There(vec![(NodeId(2), minutes(-3))]);
        assert_eq!(skewed(&one, all), Some(there));
        assert_eq!(skewed(&one, |node| node != NodeId(2)), None, "it is away");
        let here = skewed(&sightings(&[minutes(5), minutes(5) + 7, minutes(6)]), all);
        assert_eq!(here, Some(Skewed::Here(-minutes(5) - 7)));
        let pair = skewed(&sightings(&[minutes(5)]), all);
        assert_eq!(pair, Some(Skewed::There(vec![(NodeId(1), minutes(5))])));
    }

    proptest! {
        /// CL-1: a notice appears when clocks are apart, and is gone once they are not, whatever
        /// the way between them takes.
        #[test]
        fn cl1_a_notice_appears_and_disappears(
            skew_ms in -10_000_000..10_000_000_i64,
            way_ms in (0..2_000_u64, 0..2_000_u64),
        ) {
            let round_trip = Duration::from_millis(way_ms.0 + way_ms.1);
            let back_ms = i64::try_from(way_ms.1).expect("small");
            let half_ms = i64::try_from(round_trip.as_millis()).expect("small") / 2 + 1;
            // The other read its clock when it sent the answer.
            let told = |skew_ms: i64| answer(NOW.0 - back_ms + skew_ms, round_trip);
            let found = told(skew_ms).skew_ms.expect("told");
            prop_assert!(found.abs_diff(skew_ms) <= half_ms.unsigned_abs());
            let notice = |skew_ms| {
                let sightings = BTreeMap::from([(NodeId(2), told(skew_ms))]);
                skewed(&sightings, |_| true).is_some()
            };
            if skew_ms.abs() > SKEW_MS + half_ms {
                prop_assert!(notice(skew_ms));
            }
            if skew_ms.abs() <= SKEW_MS - half_ms {
                prop_assert!(!notice(skew_ms));
            }
            prop_assert!(!notice(0), "a mended clock is no notice");
        }
    }
}
