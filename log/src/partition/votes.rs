//! [pure] The leader's next step towards the voters that should be (promise A7).
//!
//! A learner gets a vote once two things hold of it, in this order. Its log matches the leader's: by
//! Raft's word. Then its replay has applied what is committed: by its own word, given when the leader
//! asks for it in the look that decides. An older word does not count, as a node that lost its index
//! meanwhile starts to replay anew with the log it has.

use aber_proto::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// A learner that lacks fewer entries than this is as good as there: of the leader's log, and of what
/// is committed.
pub(super) const CAUGHT_UP: u64 = 64;

/// What a learner said of its replay in this look.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Word {
    /// It was not asked.
    #[default]
    Unasked,
    /// It did not answer, or has no such partition.
    Silent,
    /// It answered.
    Applied {
        /// The last index it has applied; 0 if none.
        applied: u64,
        /// The last index that was committed at the leader when the answer came.
        committed: u64,
    },
}

/// What the leader knows of another node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Standing {
    /// Whether a link leads there.
    pub(super) is_up: bool,
    /// The last index up to which its log is known to be the leader's; `None` if nothing is known.
    pub(super) matched: Option<u64>,
    /// What it said of its replay.
    pub(super) word: Word,
}

impl Standing {
    /// Nothing that matched yet is not "little is missing": it has not entered the group.
    fn has_log(&self, last: u64) -> bool {
        let is_near = |matched| last.saturating_sub(matched) < CAUGHT_UP;
        self.is_up && self.matched.is_some_and(is_near)
    }

    /// Neither is nothing that was applied: its replay has not begun.
    fn has_applied(&self) -> bool {
        let Word::Applied { applied, committed } = self.word else {
            return false;
        };
        let has_begun = applied > 0 || committed == 0;
        has_begun && committed.saturating_sub(applied) < CAUGHT_UP
    }
}

/// What the leader sees in one look.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Look {
    /// The leader.
    pub(super) me: NodeId,
    /// Who should vote; empty if nobody can say.
    pub(super) wanted: BTreeSet<NodeId>,
    /// Who votes.
    pub(super) voters: BTreeSet<NodeId>,
    /// Who is part of the group: votes or learns.
    pub(super) known: BTreeSet<NodeId>,
    /// Whether a change of the voters is half done.
    pub(super) is_joint: bool,
    /// The index of the entry that says so.
    pub(super) told: u64,
    /// The last index of the leader's log.
    pub(super) last: u64,
    /// Of the others; one that is missing is away.
    pub(super) standings: BTreeMap<NodeId, Standing>,
}

impl Look {
    fn standing(&self, node: NodeId) -> Standing {
        self.standings.get(&node).copied().unwrap_or_default()
    }

    /// Whether a node knows of the present voters, or cannot be told.
    fn is_told(&self, node: NodeId) -> bool {
        let standing = self.standing(node);
        !standing.is_up || standing.matched >= Some(self.told)
    }
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing before the next look.
    Wait,
    /// These leave the group.
    LetGo(BTreeSet<NodeId>),
    /// These become learners.
    TakeIn(BTreeSet<NodeId>),
    /// These are asked how far they have applied the log; then the look goes on.
    Ask(BTreeSet<NodeId>),
    /// Those who should vote do so from now on, in one change.
    Change,
}

/// One step: learners first, votes once all who come in are there, in one change, so that two never
/// vote. Who votes already keeps its vote whatever its replay does.
pub(super) fn next_step(look: &Look) -> Step {
    if look.wanted.is_empty() {
        return Step::Wait;
    }
    if look.wanted == look.voters && !look.is_joint {
        // Who lost its vote is let go once it knows.
        let spare = look.known.difference(&look.voters).copied();
        let spare: BTreeSet<_> = spare.filter(|node| look.is_told(*node)).collect();
        return match spare.is_empty() {
            true => Step::Wait,
            false => Step::LetGo(spare),
        };
    }
    let new: BTreeSet<_> = look.wanted.difference(&look.known).copied().collect();
    if !new.is_empty() {
        return Step::TakeIn(new);
    }
    let mut others = look.wanted.iter().filter(|node| **node != look.me);
    if !others.all(|node| look.standing(*node).has_log(look.last)) {
        return Step::Wait;
    }
    let learners = look.wanted.difference(&look.voters).copied();
    let learners: BTreeSet<_> = learners.filter(|node| *node != look.me).collect();
    let is_unasked = |node: &NodeId| look.standing(*node).word == Word::Unasked;
    let unasked: BTreeSet<_> = learners.iter().copied().filter(is_unasked).collect();
    if !unasked.is_empty() {
        return Step::Ask(unasked);
    }
    match learners
        .iter()
        .all(|node| look.standing(*node).has_applied())
    {
        true => Step::Change,
        false => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn standing(matched: u64, word: Word) -> Standing {
        Standing {
            is_up: true,
            matched: Some(matched),
            word,
        }
    }

    fn said(applied: u64, committed: u64) -> Word {
        Word::Applied { applied, committed }
    }

    /// Node 1 leads alone, 2 and 3 learn and should vote; the log ends at 1000.
    fn look(of_two: Standing, of_three: Standing) -> Look {
        Look {
            me: NodeId(1),
            wanted: nodes(&[1, 2, 3]),
            voters: nodes(&[1]),
            known: nodes(&[1, 2, 3]),
            is_joint: false,
            told: 7,
            last: 1000,
            standings: [(NodeId(2), of_two), (NodeId(3), of_three)].into(),
        }
    }

    /// A7: first the log, then the replay's word.
    #[test]
    fn a_learner_votes_once_its_log_matches_and_it_has_applied_it() {
        let good = standing(1000, said(1000, 1000));
        let away = Standing {
            is_up: false,
            ..good
        };
        let never = Standing {
            matched: None,
            ..good
        };
        let ask = || Step::Ask(nodes(&[2]));
        let table = [
            (good, Step::Change),
            (away, Step::Wait),
            (never, Step::Wait),
            (Standing::default(), Step::Wait),
            // The log is not there: then nobody is asked.
            (standing(936, Word::Unasked), Step::Wait),
            (standing(936, said(1000, 1000)), Step::Wait),
            (standing(937, Word::Unasked), ask()),
            (standing(937, said(1000, 1000)), Step::Change),
            // The log is, the replay is not.
            (standing(1000, Word::Unasked), ask()),
            (standing(1000, Word::Silent), Step::Wait),
            (standing(1000, said(936, 1000)), Step::Wait),
            (standing(1000, said(937, 1000)), Step::Change),
            (standing(1000, said(1001, 1000)), Step::Change),
            (standing(1000, said(u64::MAX, u64::MAX)), Step::Change),
            // A replay that has not begun is not near the start.
            (standing(1000, said(0, 5)), Step::Wait),
            (standing(1000, said(1, 5)), Step::Change),
            (standing(1000, said(0, 0)), Step::Change),
        ];
        for (of_two, step) in table {
            assert_eq!(next_step(&look(of_two, good)), step, "{of_two:?}");
        }
        let unasked = standing(1000, Word::Unasked);
        let step = next_step(&look(unasked, unasked));
        assert_eq!(step, Step::Ask(nodes(&[2, 3])));
    }

    #[test]
    fn learners_come_first_and_go_last() {
        let good = standing(1000, said(1000, 1000));
        let mut new = look(good, good);
        new.known = nodes(&[1, 2]);
        assert_eq!(next_step(&new), Step::TakeIn(nodes(&[3])));
        new.wanted = BTreeSet::new();
        assert_eq!(next_step(&new), Step::Wait, "nobody can say who should");
        let mut spare = look(standing(7, Word::Unasked), standing(6, Word::Unasked));
        spare.wanted = nodes(&[1]);
        assert_eq!(next_step(&spare), Step::LetGo(nodes(&[2])));
        spare.standings.remove(&NodeId(3));
        assert_eq!(next_step(&spare), Step::LetGo(nodes(&[2, 3])));
        spare.known = nodes(&[1]);
        assert_eq!(next_step(&spare), Step::Wait);
    }

    /// A5: a change that is half done, or one of those who vote, waits for nobody's replay.
    #[test]
    fn who_votes_is_not_asked() {
        let behind = standing(1000, Word::Silent);
        let mut half = look(behind, behind);
        half.voters = nodes(&[1, 2, 3]);
        assert_eq!(next_step(&half), Step::Wait, "all is as it should be");
        half.is_joint = true;
        assert_eq!(next_step(&half), Step::Change);
        half.is_joint = false;
        half.wanted = nodes(&[1]);
        assert_eq!(next_step(&half), Step::Change);
        // A third in the place of another: it alone is asked.
        half.wanted = nodes(&[1, 2, 4]);
        half.known = nodes(&[1, 2, 3, 4]);
        let unasked = standing(1000, Word::Unasked);
        half.standings.insert(NodeId(4), unasked);
        assert_eq!(next_step(&half), Step::Ask(nodes(&[4])));
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        let word = prop_oneof![
            Just(Word::Unasked),
            Just(Word::Silent),
            (0..300_u64, 0..300_u64).prop_map(|(applied, committed)| said(applied, committed)),
        ];
        let matched = proptest::option::of(0..300_u64);
        (any::<bool>(), matched, word).prop_map(|(is_up, matched, word)| Standing {
            is_up,
            matched,
            word,
        })
    }

    proptest! {
        /// A7: whatever is seen, a vote is given only to those that said in this look that they
        /// applied what is committed; and a look in which the asked answer ends.
        #[test]
        fn a7_no_vote_without_a_good_word(
            sets in proptest::collection::vec(proptest::collection::btree_set(1..6_u64, 0..6), 3),
            standings in proptest::collection::btree_map(2..6_u64, any_standing(), 0..5),
            is_joint in any::<bool>(),
            last in 0..300_u64,
        ) {
            let set = |at: usize| sets.iter().skip(at).flatten().copied().map(NodeId);
            let voters: BTreeSet<_> = set(1).take(sets.get(1).map_or(0, BTreeSet::len)).collect();
            let mut look = Look {
                me: NodeId(1),
                wanted: set(0).take(sets.first().map_or(0, BTreeSet::len)).collect(),
                known: voters.iter().copied().chain(set(2)).collect(),
                voters,
                is_joint,
                told: 0,
                last,
                standings: standings.into_iter().map(|(n, s)| (NodeId(n), s)).collect(),
            };
            if let Step::Ask(asked) = next_step(&look) {
                prop_assert!(!asked.contains(&look.me) && asked.is_disjoint(&look.voters));
                for node in asked {
                    let standing = look.standings.get_mut(&node);
                    standing.expect("its log is there").word = said(last, last);
                }
                let after = next_step(&look);
                prop_assert!(matches!(after, Step::Change | Step::Wait), "{after:?}");
            }
            if next_step(&look) == Step::Change {
                let learners = look.wanted.difference(&look.voters).filter(|n| **n != look.me);
                for node in learners {
                    let standing = look.standing(*node);
                    let Word::Applied { applied, committed } = standing.word else {
                        panic!("{node} said nothing");
                    };
                    prop_assert!(applied + CAUGHT_UP > committed);
                    prop_assert!(standing.matched.expect("matched") + CAUGHT_UP > last);
                    prop_assert!(standing.is_up && look.known.contains(node));
                }
            }
        }
    }
}
