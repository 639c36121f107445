//! [pure] Which of a parcel's chunks: a set of small numbers.

use aber_proto::limit;
use std::fmt;

const WORDS: usize = limit::PARCEL_CHUNKS / 64;

/// Some of a parcel's chunks, by their numbers in it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Bits([u64; WORDS]);

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Bits {
    /// The first `count` numbers, of [`limit::PARCEL_CHUNKS`] at most.
    #[must_use]
    pub fn first(count: usize) -> Self {
        (0..count.min(limit::PARCEL_CHUNKS)).collect()
    }

    /// Adds a number; a number beyond a parcel is none.
    pub fn add(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// Takes a number away.
    pub fn take(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// Whether a number is in it.
    #[must_use]
    pub fn has(&self, number: usize) -> bool {
        let word = self.0.get(number / 64);
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// In one or the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.with(other, |a, b| a | b)
    }

    /// In both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.with(other, |a, b| a & b)
    }

    /// In this and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        self.with(other, |a, b| a & !b)
    }

    fn with(mut self, other: Self, word: impl Fn(u64, u64) -> u64) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = word(*mine, theirs);
        }
        self
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The least.
    #[must_use]
    pub fn lowest(&self) -> Option<usize> {
        let mut words = self.0.iter().enumerate();
        let (at, word) = words.find(|(_, word)| **word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    /// In rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..limit::PARCEL_CHUNKS).filter(|number| self.has(*number))
    }

    /// As little-endian words.
    #[must_use]
    pub fn to_bytes(self) -> [u8; WORDS * 8] {
        let mut bytes = [0; WORDS * 8];
        for (part, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What [`Bits::to_bytes`] wrote; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != WORDS * 8 {
            return None;
        }
        let mut words = [0; WORDS];
        for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(part.try_into().ok()?);
        }
        Some(Self(words))
    }
}

impl FromIterator<usize> for Bits {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut bits = Self::default();
        for number in numbers {
            bits.add(number);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// As sets of numbers do, there and back in bytes.
        #[test]
        fn bits_are_sets(a: BTreeSet<u8>, b: BTreeSet<u8>) {
            let of = |set: &BTreeSet<u8>| set.iter().map(|n| usize::from(*n)).collect::<Bits>();
            let (x, y) = (of(&a), of(&b));
            prop_assert_eq!(x.or(y), of(&a.union(&b).copied().collect()));
            prop_assert_eq!(x.and(y), of(&a.intersection(&b).copied().collect()));
            prop_assert_eq!(x.without(y), of(&a.difference(&b).copied().collect()));
            prop_assert!(x.iter().eq(a.iter().map(|n| usize::from(*n))));
            prop_assert_eq!((x.len(), x.is_empty()), (a.len(), a.is_empty()));
            prop_assert_eq!(x.lowest(), a.first().map(|n| usize::from(*n)));
            prop_assert_eq!(Bits::from_bytes(&x.to_bytes()), Some(x));
        }
    }

    #[test]
    fn what_no_parcel_has_is_in_none() {
        let mut bits = Bits::first(1000);
        assert_eq!(bits.len(), limit::PARCEL_CHUNKS);
        bits.add(limit::PARCEL_CHUNKS);
        assert!(!bits.has(limit::PARCEL_CHUNKS));
        bits.take(3);
        assert_eq!((bits.has(3), bits.has(4)), (false, true));
        assert_eq!(Bits::from_bytes(&[0; 31]), None);
    }
}
