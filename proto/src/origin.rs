//! [pure] What a change is part of: one action of a person may be several changes, and may take
//! another action back.

use crate::id::PartitionId;
use std::fmt;
use std::sync::LazyLock;

/// Names one action of a person: the same in all its changes. Drawn at random by the node that
/// makes them. Printed as `8hd2x0mk3a7qe`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanId(pub [u8; 8]);

/// What kind of action a change is part of. The number is durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Act {
    /// Something new.
    Write = 1,
    /// One path as it was.
    Restore = 2,
    /// A tree as it was.
    Rollback = 3,
    /// One's own last action taken back.
    Undo = 4,
    /// What was undone last, done again.
    Redo = 5,
    /// One change or event inverted.
    Revert = 6,
}

/// An action, as another names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// All changes of a plan.
    Plan(PlanId),
    /// One entry, which is no part of a plan.
    Entry(PartitionId, u64),
}

/// What a change is part of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// The kind of action.
    pub act: Act,
    /// The action.
    pub plan: PlanId,
    /// The action whose effect it takes back, where it is a whole one.
    pub takes_back: Option<Action>,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Write,
        Self::Restore,
        Self::Rollback,
        Self::Undo,
        Self::Redo,
        Self::Revert,
    ];

    /// Its durable number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Act::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.code() == code)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Restore => "restore",
            Self::Rollback => "rollback",
            Self::Undo => "undo",
            Self::Redo => "redo",
            Self::Revert => "revert",
        }
    }
}

/// 13 digits of Crockford's base 32, in small letters.
static DIGITS: LazyLock<data_encoding::Encoding> = LazyLock::new(|| {
    let mut specification = data_encoding::Specification::new();
    specification
        .symbols
        .push_str("0123456789abcdefghjkmnpqrstvwxyz");
    // The alphabet is fixed and good.
    specification
        .encoding()
        .unwrap_or(data_encoding::BASE32HEX_NOPAD)
});

impl PlanId {
    /// The inverse of its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = DIGITS.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&DIGITS.encode(&self.0))
    }
}

impl fmt::Debug for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(plan) => write!(f, "{plan}"),
            Self::Entry(partition, index) => write!(f, "{partition}:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_id_reads_back_from_its_text() {
        let plan = PlanId([0, 1, 2, 0xfd, 0xfe, 0xff, 7, 8]);
        let text = plan.to_string();
        assert_eq!(text.len(), 13);
        assert_eq!(PlanId::parse(&text), Some(plan));
        assert_eq!(PlanId::parse("8hd2"), None);
        assert_eq!(PlanId::parse("iiiiiiiiiiiii"), None);
    }

    #[test]
    fn acts_have_numbers_of_their_own() {
        for act in Act::ALL {
            assert_eq!(Act::from_code(act.code()), Some(act));
        }
        assert_eq!(Act::from_code(0), None);
    }
}
