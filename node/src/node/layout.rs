//! [pure] The layout that the members make: what the relay's trees are computed from.
//!
//! Its number is made of its content, so whoever has the same members with the same lines and
//! neighbours has the same layout, however it came to know them (decision 11).

use aber_log::relay::{Layout, Links, Row};
use aber_materializer::members::{MemberRow, Members};
use aber_proto::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// What a line is taken for where nobody declared one, in kbit/s.
const UNKNOWN_KBIT: u64 = 1000;

/// The layout of the present members; `None` if they make none.
pub(super) fn layout_of(members: &Members) -> Option<Layout> {
    let present: Vec<&MemberRow> = members.present().collect();
    let unknown = median(present.iter().filter_map(|row| known_kbit(row)).collect());
    let rows: Vec<Row> = present
        .iter()
        .map(|row| Row {
            id: row.node,
            up_kbit: known_kbit(row).unwrap_or(unknown),
            relay_ok: true,
        })
        .collect();
    let links = links_of(&present);
    let content = Layout::new(0, rows.clone(), &links).ok()?;
    let digest = content.digest().0;
    let (number, _) = digest.split_first_chunk::<8>()?;
    Layout::new(u64::from_le_bytes(*number), rows, &links).ok()
}

/// What a member says of its line: what is usable of it for now, else what was declared, both in
/// bytes a second. The slowest line that can be said still counts.
fn known_kbit(row: &MemberRow) -> Option<u64> {
    let said = [row.usable_up, row.uplink.up];
    let up = said.into_iter().find(|up| *up > 0)?;
    Some((up / 125).max(1))
}

/// Of whom nothing is known is taken for one like the others.
fn median(mut rates: Vec<u64>) -> u64 {
    rates.sort_unstable();
    let middle = rates.len().saturating_sub(1) / 2;
    rates.get(middle).copied().unwrap_or(UNKNOWN_KBIT)
}

/// Who names neighbours has links to those only, unless they name others.
fn links_of(present: &[&MemberRow]) -> Links {
    if present.iter().all(|row| row.neighbours.is_empty()) {
        return Links::Any;
    }
    let mut pairs = BTreeSet::new();
    for a in present {
        for b in present.iter().filter(|b| b.node > a.node) {
            if is_neighbour(a, b.node) && is_neighbour(b, a.node) {
                pairs.insert((a.node, b.node));
            }
        }
    }
    Links::Pairs(pairs)
}

/// Whether a member has links to another, by its own word.
pub(super) fn is_neighbour(row: &MemberRow, node: NodeId) -> bool {
    row.neighbours.is_empty() || row.neighbours.contains(&node)
}

/// Whom a member has links to: the present members that name it and that it names, where naming
/// nobody is naming all. One that agrees with nobody has links to everybody: else no entry would
/// reach it that mends its row. A node that is no member yet has links to all.
pub(super) fn neighbours_of(me: NodeId, members: &Members) -> BTreeSet<NodeId> {
    let present: Vec<&MemberRow> = members.present().collect();
    let others = || present.iter().filter(|row| row.node != me);
    let own = present.iter().find(|row| row.node == me);
    let Some(own) = own.filter(|_| present.iter().any(|row| !row.neighbours.is_empty())) else {
        return others().map(|row| row.node).collect();
    };
    let lost = agreeing_with_nobody(&present);
    let is_linked = |row: &&&MemberRow| {
        let both = is_neighbour(own, row.node) && is_neighbour(row, me);
        both || lost.contains(&me) || lost.contains(&row.node)
    };
    others().filter(is_linked).map(|row| row.node).collect()
}

/// Members whose neighbours all name others.
fn agreeing_with_nobody(present: &[&MemberRow]) -> BTreeSet<NodeId> {
    let by_node: BTreeMap<NodeId, &MemberRow> =
        present.iter().map(|row| (row.node, *row)).collect();
    let named: BTreeSet<NodeId> = present
        .iter()
        .flat_map(|row| row.neighbours.iter().copied().filter(|n| *n != row.node))
        .collect();
    let open = present.iter().filter(|row| row.neighbours.is_empty());
    let open_count = open.count();
    let agrees = |row: &MemberRow| match row.neighbours.is_empty() {
        true => open_count > 1 || named.contains(&row.node),
        false => row.neighbours.iter().any(|other| {
            let other = by_node.get(other).filter(|other| other.node != row.node);
            other.is_some_and(|other| is_neighbour(other, row.node))
        }),
    };
    let lost = present.iter().filter(|row| !agrees(row));
    lost.map(|row| row.node).collect()
}

/// Members to make layouts of, for tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use aber_proto::{PublicKey, Rates, Role};

    pub(in crate::node) fn member(node: u64, up: u64, neighbours: &[u64]) -> MemberRow {
        MemberRow {
            node: NodeId(node),
            name: format!("n{node}"),
            key: PublicKey([u8::try_from(node).expect("small"); 32]),
            is_voter_eligible: true,
            addresses: Vec::new(),
            uplink: Rates { up, down: 0 },
            usable_up: 0,
            neighbours: neighbours.iter().copied().map(NodeId).collect(),
            roles: vec![(0, Some(Role::Writer))],
        }
    }

    pub(in crate::node) fn members(rows: &[MemberRow]) -> Members {
        Members::of_rows(rows.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{member, members};
    use super::*;

    fn ups(layout: &Layout) -> Vec<u64> {
        layout.members().iter().map(|row| row.up_kbit).collect()
    }

    #[test]
    fn who_declared_nothing_is_like_the_others() {
        let nobody = members(&[member(1, 0, &[]), member(2, 0, &[])]);
        assert_eq!(ups(&layout_of(&nobody).expect("a layout")), [1000, 1000]);
        let some = members(&[
            member(1, 0, &[]),
            member(2, 1_000_000, &[]),
            member(3, 125_000, &[]),
            member(4, 250_000, &[]),
        ]);
        let layout = layout_of(&some).expect("a layout");
        assert_eq!(ups(&layout), [2000, 8000, 1000, 2000]);
    }

    #[test]
    fn what_is_usable_for_now_counts_more_than_what_was_declared() {
        let slow = |node, up| MemberRow {
            usable_up: 25_000,
            ..member(node, up, &[])
        };
        let some = members(&[slow(1, 125_000), slow(2, 0), member(3, 125_000, &[])]);
        let layout = layout_of(&some).expect("a layout");
        assert_eq!(ups(&layout), [200, 200, 1000]);
    }

    #[test]
    fn neighbours_are_links_if_both_ends_agree() {
        let rows = [member(1, 0, &[2]), member(2, 0, &[]), member(3, 0, &[1, 2])];
        let layout = layout_of(&members(&rows)).expect("a layout");
        let linked = |a, b| layout.is_linked(NodeId(a), NodeId(b));
        assert!(linked(1, 2) && linked(2, 3));
        assert!(!linked(1, 3), "1 does not name 3");
    }

    #[test]
    fn whoever_agrees_with_nobody_has_links_to_all() {
        let chain = [
            member(1, 0, &[2]),
            member(2, 0, &[1, 3]),
            member(3, 0, &[2, 4]),
            member(4, 0, &[3]),
            member(5, 0, &[1]),
        ];
        let members = members(&chain);
        let links = |me: u64| -> Vec<u64> {
            let found = neighbours_of(NodeId(me), &members);
            found.into_iter().map(|node| node.0).collect()
        };
        assert_eq!(links(1), [2, 5], "1 does not name 5, but nobody does");
        assert_eq!(links(3), [2, 4, 5]);
        assert_eq!(links(5), [1, 2, 3, 4]);
        assert_eq!(links(9), [1, 2, 3, 4, 5], "no member yet");
    }

    /// Whoever has a link to another is had a link to, whatever is declared.
    #[test]
    fn links_are_links_at_both_ends() {
        for seed in 0..200_u64 {
            let drawn =
                |a: u64, b: u64| aber_log::relay::mix(seed * 64 + a * 8 + b).is_multiple_of(3);
            let row = |a| {
                let named: Vec<u64> = (1..=6).filter(|b| a != *b && drawn(a, *b)).collect();
                member(a, 0, &named)
            };
            let rows: Vec<_> = (1..=6).map(row).collect();
            let members = members(&rows);
            for a in (1..=6).map(NodeId) {
                let links = neighbours_of(a, &members);
                assert!(!links.is_empty(), "{seed}: {a} is lost");
                for b in links {
                    assert!(neighbours_of(b, &members).contains(&a), "{seed}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_same_members_make_the_same_layout_and_others_another() {
        let one = layout_of(&members(&[member(1, 5000, &[]), member(2, 0, &[])]));
        let same = layout_of(&members(&[member(2, 0, &[]), member(1, 5000, &[])]));
        let other = layout_of(&members(&[member(1, 50_000, &[]), member(2, 0, &[])]));
        assert_eq!(one, same);
        let digest = |layout: &Option<Layout>| layout.as_ref().map(|l| (l.number(), l.digest()));
        assert_ne!(digest(&one), digest(&other));
        assert_eq!(layout_of(&members(&[])), None);
    }
}
