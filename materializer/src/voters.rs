//! [pure] How many members vote, and which: a function of the members alone (promise A7).

use crate::members::Members;
use aber_proto::NodeId;
use std::cmp::Reverse;

/// From so many members on, five vote.
const MANY_MEMBERS: usize = 20;

/// Who should vote in a group where these vote now, the longest-standing first: 1 until there are
/// three members that may, then 3, from twenty members on 5. Whoever votes now and still may stays;
/// the longest-standing others come in. Where nobody may, one member votes all the same.
#[must_use]
pub fn voters_for(members: &Members, present_voters: &[NodeId]) -> Vec<NodeId> {
    let mut candidates: Vec<_> = members
        .present()
        .filter(|row| row.is_voter_eligible)
        .collect();
    let wanted = match candidates.len() {
        0..=2 => 1,
        5.. if members.present_count() >= MANY_MEMBERS => 5,
        _ => 3,
    };
    if candidates.is_empty() {
        candidates = members.present().collect();
    }
    candidates.sort_by_key(|row| {
        let votes = present_voters.contains(&row.node);
        (Reverse(votes), row.admitted(), row.node)
    });
    let mut voters: Vec<_> = candidates.iter().take(wanted).collect();
    voters.sort_by_key(|row| (row.admitted(), row.node));
    voters.into_iter().map(|row| row.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::MemberRow;
    use aber_proto::{PublicKey, Rates, Role};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn members(rows: &[(u64, u64, bool, bool)]) -> Members {
        let mut members = Members::default();
        for (node, admitted, is_voter_eligible, present) in rows {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&node.to_le_bytes());
            let mut roles = vec![(*admitted, Some(Role::Reader))];
            if !present {
                roles.push((admitted + 1, None));
            }
            members.put(MemberRow {
                node: NodeId(*node),
                name: format!("n{node}"),
                key: PublicKey(key),
                is_voter_eligible: *is_voter_eligible,
                addresses: Vec::new(),
                uplink: Rates::default(),
                neighbours: Vec::new(),
                roles,
            });
        }
        members
    }

    fn nodes(numbers: &[u64]) -> Vec<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn voters_grow_from_one_to_three_to_five() {
        let all: Vec<_> = (1..=30).map(|node| (node, node, true, true)).collect();
        let voters =
            |count: usize, present: &[u64]| voters_for(&members(&all[..count]), &nodes(present));
        assert_eq!(voters(1, &[]), nodes(&[1]));
        assert_eq!(voters(2, &[2]), nodes(&[2]), "who votes stays");
        assert_eq!(voters(3, &[2]), nodes(&[1, 2, 3]));
        assert_eq!(voters(19, &[7, 8, 9]), nodes(&[7, 8, 9]));
        assert_eq!(voters(20, &[7, 8, 9]), nodes(&[1, 2, 7, 8, 9]));
        assert_eq!(voters(19, &[1, 2, 7, 8, 9]), nodes(&[1, 2, 7]));
    }

    #[test]
    fn who_may_not_vote_is_replaced_by_the_longest_standing() {
        let rows = [
            (1, 0, true, false),
            (2, 0, false, true),
            (9, 4, true, true),
            (5, 5, true, true),
            (6, 6, true, true),
        ];
        let voters = voters_for(&members(&rows), &nodes(&[1, 2, 6]));
        assert_eq!(voters, nodes(&[9, 5, 6]));
        // With two left, one votes: the one that does already.
        let voters = voters_for(&members(&rows[..4]), &nodes(&[1, 2, 5]));
        assert_eq!(voters, nodes(&[5]));
        let voters = voters_for(&members(&rows[..2]), &nodes(&[1]));
        assert_eq!(voters, nodes(&[2]), "somebody votes, eligible or not");
    }

    proptest! {
        /// A7: never two, never four, whoever is there.
        #[test]
        fn a7_an_odd_number_votes(
            rows in proptest::collection::vec((0..9_u64, any::<bool>(), any::<bool>()), 0..40),
            present in proptest::collection::vec(0..40_u64, 0..6),
        ) {
            let rows: Vec<_> = (0..).zip(&rows)
                .map(|(node, (admitted, eligible, here))| (node, *admitted, *eligible, *here))
                .chain([(99, 3, true, true)])
                .collect();
            let (members, present) = (members(&rows), nodes(&present));
            let voters = voters_for(&members, &present);
            prop_assert!([1, 3, 5].contains(&voters.len()));
            let unique: BTreeSet<_> = voters.iter().collect();
            prop_assert_eq!(unique.len(), voters.len());
            let may = |node: &NodeId| members.member(*node)
                .is_some_and(|row| row.is_voter_eligible && row.role().is_some());
            prop_assert!(voters.iter().all(may));
            let staying = present.iter().copied().collect::<BTreeSet<_>>();
            let staying = staying.iter().filter(|node| may(node)).count();
            let kept = voters.iter().filter(|node| present.contains(node)).count();
            prop_assert_eq!(kept, staying.min(voters.len()));
            prop_assert_eq!(voters_for(&members, &voters), voters);
        }
    }
}
