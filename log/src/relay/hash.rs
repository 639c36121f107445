//! [pure] The arithmetic that all trees rest on: one mixing function, one hash, one median.
//!
//! Not cryptographic: it breaks ties and spreads load. Every node must get the same bits, so all of it
//! is u64 arithmetic that wraps where it says so. The formulas are in `docs/protocol.md`, Trees.

/// One in fixed point.
pub(super) const ONE: u64 = 1024;

/// One step of splitmix64 (Steele, Lea and Flood, 2014): a bijection of the words.
#[must_use]
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Folds words into one, in their order; 0 for none.
#[must_use]
pub fn fold(words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(0, |sum, word| mix(sum ^ word))
}

/// The lower one of the two in the middle, and at least 1.
pub(super) fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of splitmix64 from state 0, as its authors' code prints them.
    #[test]
    fn mix_is_splitmix64() {
        let step = 0x9E37_79B9_7F4A_7C15;
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(step), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(mix(step.wrapping_mul(2)), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn the_median_is_the_lower_middle_and_never_zero() {
        assert_eq!(median([4, 1, 3, 2].into_iter()), 2);
        assert_eq!(median([9, 1, 5].into_iter()), 5);
        assert_eq!(median([0, 0, 7].into_iter()), 1);
        assert_eq!(median(std::iter::empty()), 1);
    }
}
