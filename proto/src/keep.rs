//! [pure] What stays of the past: names of moments, and for how long a volume keeps versions.

use crate::limit;

/// How much of a volume's past its nodes keep. What a tag shows, and what is present, stays in any
/// case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Retention {
    /// All of it.
    #[default]
    Forever,
    /// What was there within so many milliseconds of order time before the partition's newest
    /// entry; at least 1.
    Age(u64),
    /// So many versions of each file, the present one included; at least 1.
    Versions(u64),
    /// So many bytes of content of versions that are not present any more: the oldest go first.
    Size(u64),
}

impl Retention {
    /// Whether it says anything that can be done.
    #[must_use]
    pub fn is_sane(self) -> bool {
        match self {
            Self::Forever | Self::Size(_) => true,
            Self::Age(least) | Self::Versions(least) => least > 0,
        }
    }
}

/// Whether `name` is 1 to 64 of `a-z`, `0-9`, `-`, `.` and `_`, and begins with a letter: so it is
/// neither a time, nor an entry, nor a number of versions.
#[must_use]
pub fn is_tag_name(name: &str) -> bool {
    let fits = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
    };
    (1..=limit::TAG_NAME_BYTES).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tags_begin_with_a_letter_and_are_short() {
        let longest = "a".repeat(limit::TAG_NAME_BYTES);
        for name in ["a", "before-the-party", "v1.0_b", &longest] {
            assert!(is_tag_name(name), "{name}");
        }
        let longer = "a".repeat(limit::TAG_NAME_BYTES + 1);
        for name in ["", "-1", "2h", "3:4", "Big", "é", "a b", "a/b", &longer] {
            assert!(!is_tag_name(name), "{name}");
        }
    }
}
