//! [pure] The layout: what all trees are computed from.
//!
//! Members, their uplinks and their links, as the control partition has them; the layout's number is
//! the control partition's index of the last entry that changed any of them. Made once, it does not
//! change: a parcel keeps the layout it was announced with.

use super::hash::median;
use super::table::{PerNode, Position};
use aber_proto::{NodeId, limit};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Stripes of a layout whose uplinks are alike: little time to fill the trees, and a dead parent
/// costs an eighth.
const STRIPES: usize = 8;
/// Stripes where the fastest uplink is [`STEEP`] times the median: a fast writer needs more.
const STRIPES_STEEP: usize = 16;
const STEEP: u64 = 4;

/// A member as the layout sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its number.
    pub id: NodeId,
    /// Its uplink in kbit/s. [`Layout::new`] caps it at [`limit::UPLINK_KBIT`].
    pub up_kbit: u64,
    /// Whether it passes on what others wrote. If not (a metered line), its uplink counts as 0.
    pub relay_ok: bool,
}

impl Row {
    /// The uplink that trees may count on, in kbit/s.
    fn counted_kbit(&self) -> u64 {
        if self.relay_ok { self.up_kbit } else { 0 }
    }
}

/// Who can open a connection to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Links {
    /// Any member to any other.
    Any,
    /// These pairs, which both ends report; either order, once or twice.
    Pairs(BTreeSet<(NodeId, NodeId)>),
}

/// BLAKE3 of a layout's content, number included (`docs/format.md`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayoutDigest(pub [u8; 32]);

impl fmt::Debug for LayoutDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayoutDigest({})", blake3::Hash::from(self.0).to_hex())
    }
}

/// Why something is no layout.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutProblem {
    /// None, or more than [`limit::MEMBERS`].
    #[error("a layout of {0} members")]
    Members(usize),
    /// One node has two rows.
    #[error("node {0} is in the layout twice")]
    Twice(NodeId),
    /// More than [`limit::LAYOUT_LINKS`].
    #[error("a layout of {0} links")]
    Links(usize),
    /// A link of a node with itself, or with somebody who has no row.
    #[error("a link between {0} and {1}, which are no two members")]
    Link(NodeId, NodeId),
}

/// Members sorted by id, their uplinks and links, under a number. Checked when made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    number: u64,
    rows: Arc<[Row]>,
    /// Each node's neighbours, sorted; none where any may link to any.
    near: Option<PerNode<Vec<Position>>>,
    digest: LayoutDigest,
}

impl Layout {
    /// Sorts and checks. The same members and links, in whatever order, give the same layout.
    ///
    /// # Errors
    /// What [`LayoutProblem`] lists.
    pub fn new(number: u64, mut members: Vec<Row>, links: &Links) -> Result<Self, LayoutProblem> {
        if members.is_empty() || members.len() > limit::MEMBERS {
            return Err(LayoutProblem::Members(members.len()));
        }
        members.sort_by_key(|row| row.id);
        for (row, next) in members.iter().zip(members.iter().skip(1)) {
            if row.id == next.id {
                return Err(LayoutProblem::Twice(row.id));
            }
        }
        // A boast must neither overflow a sum nor keep the others from having a layout.
        for row in &mut members {
            row.up_kbit = row.up_kbit.min(limit::UPLINK_KBIT);
        }
        let near = match links {
            Links::Any => None,
            Links::Pairs(pairs) => Some(neighbours(&members, pairs)?),
        };
        let digest = digest(number, &members, near.as_ref());
        Ok(Self {
            number,
            rows: members.into(),
            near,
            digest,
        })
    }

    /// What turns its trees; made of its content where a node computes its own (decision 11).
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The members, sorted by id.
    #[must_use]
    pub fn members(&self) -> &[Row] {
        &self.rows
    }

    /// Equal for equal layouts only, as far as BLAKE3 goes.
    #[must_use]
    pub fn digest(&self) -> LayoutDigest {
        self.digest
    }

    /// Whether both are members and may link to each other.
    #[must_use]
    pub fn is_linked(&self, a: NodeId, b: NodeId) -> bool {
        let (Some(a), Some(b)) = (self.position(a), self.position(b)) else {
            return false;
        };
        match &self.near {
            None => a != b,
            Some(near) => near[a].binary_search(&b).is_ok(),
        }
    }

    /// How many stripes content has.
    #[must_use]
    pub fn stripes(&self) -> usize {
        let ups = || self.rows.iter().map(Row::counted_kbit);
        if ups().max().unwrap_or(0) >= STEEP * median(ups()) {
            STRIPES_STEEP
        } else {
            STRIPES
        }
    }

    pub(super) fn rows(&self) -> &Arc<[Row]> {
        &self.rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn near(&self) -> Option<&PerNode<Vec<Position>>> {
        self.near.as_ref()
    }

    /// The counted uplinks, in kbit/s.
    pub(super) fn ups(&self) -> PerNode<u64> {
        PerNode::collect(self.rows.iter().map(Row::counted_kbit))
    }

    /// The ids, as the words that hashes are made of.
    pub(super) fn words(&self) -> PerNode<u64> {
        PerNode::collect(self.rows.iter().map(|row| row.id.0))
    }

    pub(super) fn position(&self, node: NodeId) -> Option<Position> {
        position(&self.rows, node)
    }
}

/// Where a node stands in sorted rows.
pub(super) fn position(rows: &[Row], node: NodeId) -> Option<Position> {
    let found = rows.binary_search_by_key(&node, |row| row.id);
    found.ok().map(Position::new)
}

fn neighbours(
    rows: &[Row],
    pairs: &BTreeSet<(NodeId, NodeId)>,
) -> Result<PerNode<Vec<Position>>, LayoutProblem> {
    // Each pair may be there in both orders.
    if pairs.len() > 2 * limit::LAYOUT_LINKS {
        return Err(LayoutProblem::Links(pairs.len()));
    }
    let mut near = PerNode::filled(rows.len(), Vec::new());
    for &(a, b) in pairs {
        let ends = position(rows, a).zip(position(rows, b));
        let Some((from, to)) = ends.filter(|(from, to)| from != to) else {
            return Err(LayoutProblem::Link(a, b));
        };
        near[from].push(to);
        near[to].push(from);
    }
    for list in near.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    let ends: usize = near.iter().map(|(_, list)| list.len()).sum();
    if ends > 2 * limit::LAYOUT_LINKS {
        return Err(LayoutProblem::Links(ends / 2));
    }
    Ok(near)
}

/// Number, rows, then 0 for any to any, or 1 and each link once, from its lower end.
fn digest(number: u64, rows: &[Row], near: Option<&PerNode<Vec<Position>>>) -> LayoutDigest {
    let mut hasher = blake3::Hasher::new_derive_key("aber 2026 layout v1");
    hasher.update(&number.to_le_bytes());
    hasher.update(&(rows.len() as u64).to_le_bytes());
    for row in rows {
        hasher.update(&row.id.0.to_le_bytes());
        hasher.update(&row.up_kbit.to_le_bytes());
        hasher.update(&[u8::from(row.relay_ok)]);
    }
    hasher.update(&[u8::from(near.is_some())]);
    let lists = near.into_iter().flat_map(PerNode::iter);
    let both = lists.flat_map(|(a, list)| list.iter().map(move |b| (a, *b)));
    for (a, b) in both.filter(|(a, b)| a < b) {
        for end in [a, b] {
            let id = rows.get(end.index()).map_or(0, |row| row.id.0);
            hasher.update(&id.to_le_bytes());
        }
    }
    LayoutDigest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, up_kbit: u64) -> Row {
        Row {
            id: NodeId(id),
            up_kbit,
            relay_ok: true,
        }
    }

    fn pairs(of: &[(u64, u64)]) -> Links {
        Links::Pairs(of.iter().map(|(a, b)| (NodeId(*a), NodeId(*b))).collect())
    }

    /// T1: what was given in another order is the same layout.
    #[test]
    fn the_order_of_the_input_does_not_matter() {
        let one = Layout::new(
            7,
            vec![row(1, 5), row(9, 6), row(4, 0)],
            &pairs(&[(1, 9), (4, 1)]),
        );
        let other = Layout::new(
            7,
            vec![row(9, 6), row(4, 0), row(1, 5)],
            &pairs(&[(1, 4), (9, 1), (1, 9)]),
        );
        assert_eq!(one, other);
        let one = one.expect("good");
        assert!(one.is_linked(NodeId(4), NodeId(1)) && one.is_linked(NodeId(1), NodeId(4)));
        assert!(!one.is_linked(NodeId(4), NodeId(9)) && !one.is_linked(NodeId(1), NodeId(2)));
    }

    #[test]
    fn whatever_differs_changes_the_digest() {
        let rows = || vec![row(1, 5), row(2, 6), row(3, 6)];
        let metered = || {
            let mut rows = rows();
            rows[0].relay_ok = false;
            rows
        };
        let layouts = [
            Layout::new(7, rows(), &Links::Any),
            Layout::new(8, rows(), &Links::Any),
            Layout::new(7, metered(), &Links::Any),
            Layout::new(7, vec![row(1, 5), row(2, 6), row(4, 6)], &Links::Any),
            Layout::new(7, vec![row(1, 5), row(2, 7), row(3, 6)], &Links::Any),
            Layout::new(7, rows(), &pairs(&[])),
            Layout::new(7, rows(), &pairs(&[(1, 2)])),
            Layout::new(7, rows(), &pairs(&[(1, 3)])),
        ];
        let digests: BTreeSet<LayoutDigest> = layouts
            .iter()
            .map(|layout| layout.as_ref().expect("good").digest())
            .collect();
        assert_eq!(digests.len(), layouts.len());
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        let two = || vec![row(1, 5), row(2, 6)];
        let problem = |rows, links: &Links| Layout::new(7, rows, links).expect_err("refused");
        assert_eq!(problem(vec![], &Links::Any), LayoutProblem::Members(0));
        let many = (0..=limit::MEMBERS as u64).map(|id| row(id, 1)).collect();
        let count = limit::MEMBERS + 1;
        assert_eq!(problem(many, &Links::Any), LayoutProblem::Members(count));
        let twice = vec![row(2, 1), row(1, 1), row(2, 2)];
        assert_eq!(problem(twice, &Links::Any), LayoutProblem::Twice(NodeId(2)));
        for (a, b) in [(1, 1), (1, 3), (3, 1)] {
            let expected = LayoutProblem::Link(NodeId(a), NodeId(b));
            assert_eq!(problem(two(), &pairs(&[(a, b)])), expected);
        }
    }

    #[test]
    fn too_many_links_are_refused() {
        let rows = || (0..1000).map(|id| row(id, 1)).collect::<Vec<_>>();
        let all = (0..1000).flat_map(|a| (0..a).map(move |b| (NodeId(b), NodeId(a))));
        let just: BTreeSet<_> = all.clone().take(limit::LAYOUT_LINKS).collect();
        assert!(Layout::new(7, rows(), &Links::Pairs(just)).is_ok());
        let more: BTreeSet<_> = all.take(limit::LAYOUT_LINKS + 1).collect();
        assert_eq!(
            Layout::new(7, rows(), &Links::Pairs(more)),
            Err(LayoutProblem::Links(limit::LAYOUT_LINKS + 1))
        );
    }

    #[test]
    fn a_boast_is_capped_and_a_metered_line_counts_as_none() {
        let mut rows = vec![row(1, u64::MAX), row(2, 1000)];
        rows[1].relay_ok = false;
        let layout = Layout::new(7, rows, &Links::Any).expect("good");
        let ups: Vec<u64> = layout.ups().iter().map(|(_, up)| *up).collect();
        assert_eq!(ups, [limit::UPLINK_KBIT, 0]);
    }

    #[test]
    fn steep_layouts_have_more_stripes() {
        let stripes = |ups: &[u64]| {
            let rows = ups.iter().zip(1..).map(|(up, id)| row(id, *up)).collect();
            Layout::new(7, rows, &Links::Any).expect("good").stripes()
        };
        assert_eq!(stripes(&[1000, 1000, 3999]), 8);
        assert_eq!(stripes(&[1000, 1000, 4000]), 16);
        assert_eq!(stripes(&[0, 0]), 8);
    }
}
