//! [pure] What is planned to go wrong on a node's disk, and the counts of its calls.
//!
//! Every call is counted by kind before it is made. A rule fails the n-th call of its kinds from
//! when it was set; the death point kills the node on entry of the n-th call that changes
//! something, which is how every crash point of a workload is enumerated.

use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// A kind of call on the disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Call {
    /// Opening an existing file.
    Open,
    /// Making a file.
    Create,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Cutting or extending a file.
    SetLen,
    /// Setting mode or times.
    SetMeta,
    /// `stat` or `fstat`.
    Stat,
    /// `fdatasync`.
    Sync,
    /// Making a directory.
    MakeDir,
    /// Making a symlink.
    MakeSymlink,
    /// Reading a symlink.
    ReadLink,
    /// Removing a file.
    RemoveFile,
    /// Removing a directory.
    RemoveDir,
    /// Renaming.
    Rename,
    /// Listing a directory.
    List,
    /// `fsync` of a directory.
    SyncDir,
    /// `syncfs`.
    SyncAll,
}

impl Call {
    /// Whether it changes either image.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(
            self,
            Self::Open | Self::Read | Self::Stat | Self::ReadLink | Self::List
        )
    }

    /// Whether it makes something durable.
    #[must_use]
    pub fn is_sync(self) -> bool {
        matches!(self, Self::Sync | Self::SyncDir | Self::SyncAll)
    }
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
}

impl Failure {
    /// The error a program sees.
    #[must_use]
    pub fn error(self) -> io::Error {
        match self {
            Self::Io => Errno::IO.into(),
            Self::NoSpace => Errno::NOSPC.into(),
        }
    }
}

/// A call that is planned to fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailRule {
    /// Which kinds of call count; empty means all that change something.
    pub calls: Vec<Call>,
    /// Which paths count, below the top of their file system.
    pub prefix: String,
    /// How many of them still succeed.
    pub after: u64,
    /// How it fails.
    pub failure: Failure,
    /// How many fail; `u64::MAX` for ever. A failed sync that is repeated succeeds falsely.
    pub times: u64,
}

/// What the fault plan says about one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is made.
    Go,
    /// It fails.
    Fail(Failure),
    /// The node dies before it is made.
    Die,
}

/// The plan of one node's disk.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    rules: Vec<FailRule>,
    die_after: Option<u64>,
    counts: BTreeMap<Call, u64>,
    change_count: u64,
    /// Longest wait of a sync, in virtual microseconds.
    pub sync_us_max: u64,
    /// How many times slower than usual.
    pub slowness: u64,
    /// Bytes of all file systems of the node together.
    pub capacity_bytes: u64,
    /// How many of a thousand hints of users' changes are delivered.
    pub hint_permille: u64,
    /// How many of a thousand hints of the node's own changes are delivered.
    pub own_hint_permille: u64,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            die_after: None,
            counts: BTreeMap::new(),
            change_count: 0,
            sync_us_max: 4000,
            slowness: 1,
            capacity_bytes: 1 << 40,
            hint_permille: 900,
            own_hint_permille: 300,
        }
    }
}

impl DiskFaults {
    /// Plans a failure.
    pub fn fail(&mut self, rule: FailRule) {
        self.rules.push(rule);
    }

    /// Kills the node on entry of the call that follows `calls` more that change something.
    pub fn die_after(&mut self, calls: u64) {
        self.die_after = Some(self.change_count + calls);
    }

    /// Forgets all planned failures and deaths.
    pub fn heal(&mut self) {
        self.rules.clear();
        self.die_after = None;
        self.slowness = 1;
    }

    /// Calls by kind since the world began.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<Call, u64> {
        &self.counts
    }

    /// Calls that change something, since the world began.
    #[must_use]
    pub fn change_count(&self) -> u64 {
        self.change_count
    }

    /// Counts a call and says what becomes of it.
    pub fn judge(&mut self, call: Call, path: &Path) -> Verdict {
        *self.counts.entry(call).or_default() += 1;
        if call.is_change() {
            self.change_count += 1;
            if self.die_after.is_some_and(|last| self.change_count > last) {
                self.die_after = None;
                return Verdict::Die;
            }
        }
        for rule in &mut self.rules {
            let is_meant = if rule.calls.is_empty() {
                call.is_change()
            } else {
                rule.calls.contains(&call)
            };
            let is_there = path
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(rule.prefix.as_bytes());
            if !is_meant || !is_there || rule.times == 0 {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            rule.times = if rule.times == u64::MAX {
                u64::MAX
            } else {
                rule.times - 1
            };
            return Verdict::Fail(rule.failure);
        }
        Verdict::Go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_of_a_kind_fails_and_the_next_does_not() {
        let mut faults = DiskFaults::default();
        faults.fail(FailRule {
            calls: vec![Call::Sync],
            prefix: "log/".to_owned(),
            after: 1,
            failure: Failure::Io,
            times: 1,
        });
        let mut judge = |call, path: &str| faults.judge(call, Path::new(path));
        assert_eq!(judge(Call::Sync, "log/1"), Verdict::Go);
        assert_eq!(judge(Call::Write, "log/1"), Verdict::Go);
        assert_eq!(judge(Call::Sync, "pack/1"), Verdict::Go);
        assert_eq!(judge(Call::Sync, "log/1"), Verdict::Fail(Failure::Io));
        assert_eq!(judge(Call::Sync, "log/1"), Verdict::Go);
        assert_eq!(faults.counts()[&Call::Sync], 4);
    }

    #[test]
    fn the_node_dies_once_at_the_planned_change() {
        let mut faults = DiskFaults::default();
        faults.judge(Call::Write, Path::new("a"));
        faults.die_after(1);
        let mut judge = |call| faults.judge(call, Path::new("a"));
        assert_eq!(judge(Call::Read), Verdict::Go);
        assert_eq!(judge(Call::Write), Verdict::Go);
        assert_eq!(judge(Call::Rename), Verdict::Die);
        assert_eq!(judge(Call::Write), Verdict::Go);
    }
}
