//! Bugs that the simulation plants, to show that it finds them. Without the feature `planted`,
//! which no release has, [`is_on`] is a constant.

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// The log acknowledges entries, votes and notes without a sync.
    LogUnsynced = 1,
    /// A change leaves the durable outbox when it is proposed.
    DroppedAtProposal,
    /// Entries are read before they are committed.
    ReadUncommitted,
    /// A mirrored file gets its name before its content is durable.
    NameBeforeContent,
    /// What a user wrote into a mirror is overwritten.
    StrangerOverwritten,
    /// Answered requests are forgotten.
    RequestsForgotten,
    /// Changes that touch the same path do not wait for each other.
    OrderIgnored,
    /// Chunks are said to be durable before they are.
    ContentUnsynced,
}

impl Bug {
    /// All of them, with the names they are planted by.
    pub const ALL: [(&'static str, Self); 8] = [
        ("log-unsynced", Self::LogUnsynced),
        ("dropped-at-proposal", Self::DroppedAtProposal),
        ("read-uncommitted", Self::ReadUncommitted),
        ("name-before-content", Self::NameBeforeContent),
        ("stranger-overwritten", Self::StrangerOverwritten),
        ("requests-forgotten", Self::RequestsForgotten),
        ("order-ignored", Self::OrderIgnored),
        ("content-unsynced", Self::ContentUnsynced),
    ];

    /// The bug of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, bug)| *bug)
    }
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug in this whole process, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as u8);
    PLANTED.store(number, std::sync::atomic::Ordering::SeqCst);
}

/// Whether a bug is planted.
#[cfg(feature = "planted")]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::SeqCst) == bug as u8
}

/// Whether a bug is planted: never.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is_on(_bug: Bug) -> bool {
    false
}
