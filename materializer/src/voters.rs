//! [pure] How many members vote, and which: a function of the members alone (promise A7).

use crate::members::{MemberRow, Members};
use aber_proto::NodeId;
use std::cmp::Reverse;

/// From so many members on, five vote.
const MANY_MEMBERS: usize = 20;

/// Members that are tried as the first voter, where neighbours are declared.
const FIRST_TRIED: usize = 64;

/// Who should vote in a group where these vote now, the longest-standing first: 1 until there are
/// three members that may, then 3, from twenty members on 5. Whoever votes now and still may stays;
/// the longest-standing others come in. Where nobody may, one member votes all the same. Voters have
/// links to each other: where neighbours are declared, fewer may vote, and others than otherwise.
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
    let is_present = |row: &MemberRow| present_voters.contains(&row.node);
    let voting: Vec<&MemberRow> = candidates
        .iter()
        .filter(|r| is_present(r))
        .copied()
        .collect();
    candidates.sort_by_key(|row| {
        // Of those who vote the ones first that reach the others who do: one of them can lead.
        let apart = voting
            .iter()
            .filter(|other| !are_linked(row, other))
            .count();
        let apart = if is_present(row) { apart } else { 0 };
        (Reverse(is_present(row)), apart, row.admitted(), row.node)
    });
    let mut voters: Vec<&MemberRow> = Vec::new();
    for first in candidates.iter().take(FIRST_TRIED) {
        let found = linked_with(first, &candidates, wanted);
        if found.len() > voters.len() {
            voters = found;
        }
        if voters.len() == wanted {
            break;
        }
    }
    voters.sort_by_key(|row| (row.admitted(), row.node));
    voters.into_iter().map(|row| row.node).collect()
}

/// An odd number of members, `wanted` at most, that all have links to each other: `first`, and of
/// the others the first ones.
fn linked_with<'m>(
    first: &'m MemberRow,
    others: &[&'m MemberRow],
    wanted: usize,
) -> Vec<&'m MemberRow> {
    let mut found = vec![first];
    for row in others {
        if found.len() == wanted {
            break;
        }
        if row.node != first.node && found.iter().all(|known| are_linked(known, row)) {
            found.push(row);
        }
    }
    if found.len().is_multiple_of(2) {
        found.pop();
    }
    found
}

/// Whether each of the two names the other as its neighbour; naming nobody is naming all.
fn are_linked(a: &MemberRow, b: &MemberRow) -> bool {
    let names = |a: &MemberRow, b: &MemberRow| {
        a.neighbours.is_empty() || a.neighbours.contains(&b.node) || a.node == b.node
    };
    names(a, b) && names(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;
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
                usable_up: 0,
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

    fn with_neighbours(rows: &[(u64, &[u64])]) -> Members {
        let all: Vec<_> = rows
            .iter()
            .map(|(node, _)| (*node, 0, true, true))
            .collect();
        let rows = rows.iter().map(|(node, neighbours)| {
            let mut row = members(&all).member(NodeId(*node)).expect("put").clone();
            row.neighbours = nodes(neighbours);
            row
        });
        Members::of_rows(rows)
    }

    /// A7: a voter that has no link to another would never hear from it when it leads.
    #[test]
    fn voters_have_links_to_each_other() {
        let chain = with_neighbours(&[(1, &[2]), (2, &[1, 3]), (3, &[2, 4]), (4, &[3])]);
        assert_eq!(voters_for(&chain, &nodes(&[1])), nodes(&[1]));
        assert_eq!(voters_for(&chain, &nodes(&[4])), nodes(&[4]));
        let voters = voters_for(&chain, &nodes(&[1, 2, 3]));
        assert_eq!(voters, nodes(&[2]), "whoever leads now reaches it");
        // 3, 4 and 5 know each other; 1 and 2 have links at the edge.
        let edge = with_neighbours(&[
            (1, &[2]),
            (2, &[1, 3]),
            (3, &[2, 4, 5]),
            (4, &[3, 5]),
            (5, &[3, 4]),
        ]);
        assert_eq!(voters_for(&edge, &nodes(&[1])), nodes(&[3, 4, 5]));
        assert_eq!(voters_for(&edge, &nodes(&[3, 4, 5])), nodes(&[3, 4, 5]));
        let star = with_neighbours(&[(1, &[]), (2, &[1]), (3, &[1]), (4, &[])]);
        assert_eq!(voters_for(&star, &nodes(&[2])), nodes(&[2]));
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
