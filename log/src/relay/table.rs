//! [pure] Positions of members in a layout, and tables of one value each.
//!
//! Builders work with positions, which are small and dense, and not with ids. A position is a type
//! of its own so that it cannot be taken for an id, nor a table be read with anything else.

use aber_proto::limit;
use std::num::NonZeroU16;
use std::ops::{Index, IndexMut};

const _: () = assert!(limit::MEMBERS < u16::MAX as usize);

/// Where a member stands in the sorted list of a layout, from 0. Kept as the successor, so that an
/// `Option` of it takes two bytes as well: a cache holds millions of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position(NonZeroU16);

impl Position {
    /// # Panics
    /// From [`limit::MEMBERS`] on: no layout has so many.
    pub(super) fn new(index: usize) -> Self {
        assert!(index < limit::MEMBERS, "position {index}");
        let next = u16::try_from(index + 1).ok().and_then(NonZeroU16::new);
        Self(next.expect("not 0, and MEMBERS fits"))
    }

    /// All positions of a layout of `members`, in order.
    pub(super) fn all(members: usize) -> impl Iterator<Item = Self> {
        (0..members).map(Self::new)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0.get() - 1)
    }
}

/// A value for each member of a layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PerNode<T>(Vec<T>);

impl<T> PerNode<T> {
    pub(super) fn collect(values: impl Iterator<Item = T>) -> Self {
        Self(values.collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of the member that follows; none after the last.
    pub(super) fn next(&self, at: Position) -> Option<&T> {
        self.0.get(at.index() + 1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Position, &T)> {
        let pair = |(index, value)| (Position::new(index), value);
        self.0.iter().enumerate().map(pair)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

impl<T: Clone> PerNode<T> {
    pub(super) fn filled(members: usize, value: T) -> Self {
        Self(vec![value; members])
    }
}

impl<T> Index<Position> for PerNode<T> {
    type Output = T;
    fn index(&self, at: Position) -> &T {
        self.0
            .get(at.index())
            .expect("table and position are of one layout")
    }
}

impl<T> IndexMut<Position> for PerNode<T> {
    fn index_mut(&mut self, at: Position) -> &mut T {
        self.0
            .get_mut(at.index())
            .expect("table and position are of one layout")
    }
}
