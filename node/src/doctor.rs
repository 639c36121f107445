//! [pure] What `aber doctor` makes of what it found: a line each, with what, why and mend where
//! something is wrong.
//!
//! The facts come from `cli/doctor/`, which asks the system and the node; nothing here does. A
//! problem is what keeps a node from working as promised; a note is what may be meant so.

use std::time::Duration;

/// Clocks that differ by more than this are a problem.
const SKEW: Duration = Duration::from_secs(120);
/// Watches of the kernel, one a directory, that should be left for others.
const WATCHES_SPARE: u64 = 1024;
/// A node has segments, packs, links and calls open.
const OPEN_FILES: u64 = 1024;

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Skipped,
    /// May be meant so.
    Note,
    /// Something to mend.
    Problem,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// What was looked at: one word.
    pub(crate) check: &'static str,
    /// How it ended.
    pub(crate) severity: Severity,
    /// What was found.
    pub(crate) what: String,
    /// Why that is so; empty if nothing is wrong.
    pub(crate) why: String,
    /// What to do about it; empty if nothing is wrong.
    pub(crate) mend: String,
}

impl Finding {
    /// As it should be.
    pub(crate) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::plain(check, Severity::Ok, what)
    }

    /// Not looked at, and why.
    pub(crate) fn skipped(check: &'static str, what: impl Into<String>) -> Self {
        Self::plain(check, Severity::Skipped, what)
    }

    fn plain(check: &'static str, severity: Severity, what: impl Into<String>) -> Self {
        Self {
            check,
            severity,
            what: what.into(),
            why: String::new(),
            mend: String::new(),
        }
    }

    /// Something to mend: what, why, and how.
    pub(crate) fn problem(
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            why: why.into(),
            mend: mend.into(),
            ..Self::plain(check, Severity::Problem, what)
        }
    }

    /// The same as something that may be meant so.
    pub(crate) fn into_note(self) -> Self {
        Self {
            severity: Severity::Note,
            ..self
        }
    }
}

/// A file system by the number that the kernel gives it, and what is wrong with it.
fn file_system(magic: u64) -> (&'static str, Option<&'static str>) {
    const LOST: &str = "it is in memory: everything is lost when the machine stops";
    const FAR: &str = "it is on another machine: locks, renames and syncs may not hold";
    const POOR: &str = "it has no modes and no links";
    match magic {
        0xEF53 => ("ext4", None),
        0x5846_5342 => ("xfs", None),
        0x9123_683E => ("btrfs", None),
        0xF2F5_2010 => ("f2fs", None),
        0x2FC1_2FC1 => ("zfs", None),
        0x794C_7630 => ("overlay", None),
        0x0102_1994 => ("tmpfs", Some(LOST)),
        0x8584_58F6 => ("ramfs", Some(LOST)),
        0x6969 => ("nfs", Some(FAR)),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => ("smb", Some(FAR)),
        0x4D44 | 0x2011_BAB0 => ("fat", Some(POOR)),
        0x6573_5546 => ("fuse", None),
        _ => ("an unknown file system", None),
    }
}

/// What the data directory is on.
pub(crate) fn file_system_of(directory: &str, magic: u64) -> Finding {
    let (name, wrong) = file_system(magic);
    match wrong {
        None => Finding::ok("disk", format!("{directory} is on {name}")),
        Some(why) => Finding::problem(
            "disk",
            format!("{directory} is on {name}"),
            why,
            "choose a directory on a local disk: --data DIR",
        ),
    }
}

/// Free space against what is kept for the log; sizes as text.
pub(crate) fn space(free_bytes: u64, reserve_bytes: u64, text: impl Fn(u64) -> String) -> Finding {
    let (free, reserve) = (text(free_bytes), text(reserve_bytes));
    if free_bytes >= reserve_bytes {
        let what = format!("{free} are free, {reserve} are kept for the log");
        return Finding::ok("space", what);
    }
    Finding::problem(
        "space",
        format!("only {free} are free"),
        format!("{reserve} are kept for the log; below, writes and content are refused"),
        "free space on the disk; the rest happens by itself",
    )
}

/// The key's file: nobody else may read it.
pub(crate) fn key(path: &str, mode: u32, is_own: bool) -> Finding {
    let bits = mode & 0o777;
    if !is_own {
        return Finding::problem(
            "key",
            format!("{path} belongs to another user"),
            "who has the key can speak and write as this node",
            format!("run aber as the user of the node, or: sudo chown $USER {path}"),
        );
    }
    if bits & 0o077 == 0 {
        return Finding::ok("key", format!("{path} has mode {bits:04o}"));
    }
    Finding::problem(
        "key",
        format!("{path} has mode {bits:04o}: others can read it"),
        "who has the key can speak and write as this node",
        format!(
            "chmod 600 {path}; if somebody else may have read it, remove this member and join anew"
        ),
    )
}

/// Watches of the kernel against directories of the mirror.
pub(crate) fn watches(directories: u64, watches_max: u64) -> Finding {
    let wanted = directories.saturating_add(WATCHES_SPARE);
    if wanted <= watches_max {
        let what = format!("{directories} directories in the mirror, {watches_max} can be watched");
        return Finding::ok("watches", what);
    }
    let raised = wanted.saturating_mul(2).next_power_of_two();
    Finding::problem(
        "watches",
        format!("{directories} directories in the mirror, and only {watches_max} can be watched"),
        "what is changed in the others is seen at the next scan, within an hour, and not at once",
        format!(
            "sudo sysctl fs.inotify.max_user_watches={raised}; to keep it, put that line without sudo sysctl into /etc/sysctl.d/60-aber.conf"
        ),
    )
}

/// The limit of open files; `None`: there is none.
pub(crate) fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        None => Finding::ok("files", "no limit of open files"),
        Some(limit) if limit >= OPEN_FILES => {
            Finding::ok("files", format!("{limit} files may be open at once"))
        }
        Some(limit) => Finding::problem(
            "files",
            format!("only {limit} files may be open at once"),
            format!("links, calls and content need up to {OPEN_FILES}"),
            format!(
                "ulimit -n {OPEN_FILES} before aber up; as a service: LimitNOFILE={OPEN_FILES}"
            ),
        ),
    }
}

/// The clock of another member, in milliseconds ahead of this machine's.
pub(crate) fn clock(name: &str, ahead_ms: i64) -> Finding {
    let apart = Duration::from_millis(ahead_ms.unsigned_abs());
    if apart <= SKEW {
        return Finding::ok(
            "clock",
            format!("that of {name} agrees within {} s", apart.as_secs() + 1),
        );
    }
    let word = if ahead_ms < 0 { "behind" } else { "ahead of" };
    Finding::problem(
        "clock",
        format!(
            "that of {name} is {} min {word} this one",
            apart.as_secs() / 60
        ),
        "one of the two is wrong: times shown are off; the order of changes is not",
        "timedatectl set-ntp true, on the machine whose clock is wrong",
    )
}

/// An address in this node's own row: `is_here` if this machine has it, `None` if its name leads
/// nowhere.
pub(crate) fn own_address(name: &str, address: &str, is_here: Option<bool>) -> Finding {
    let mend = format!("if it moved: aber members set {name} --address HOST:PORT");
    match is_here {
        Some(true) => Finding::ok("address", format!("{address} is of this machine")),
        Some(false) => Finding::problem(
            "address",
            format!("{address} is not of this machine"),
            "others look for this node there: right only if a router passes it on",
            mend,
        )
        .into_note(),
        None => Finding::problem(
            "address",
            format!("{address} leads nowhere"),
            "others look for this node there, and the name has no address",
            mend,
        ),
    }
}

/// The API over TCP: `address` is empty where it is off; `wrong` says how a call there ended.
pub(crate) fn api(address: &str, wrong: Option<String>) -> Finding {
    if address.is_empty() {
        let what = "for this machine alone; members elsewhere: aber up --api HOST:PORT";
        return Finding::ok("api", what);
    }
    match wrong {
        None => Finding::ok("api", format!("open to members at {address}")),
        Some(why) => Finding::problem(
            "api",
            format!("it does not answer at {address}"),
            why,
            "choose an address of this machine, aber up --api HOST:PORT, or close it: --api off",
        ),
    }
}

/// Whether another member answers at one of its addresses; `tried` says how each try ended.
pub(crate) fn reachable(name: &str, at: Option<&str>, tried: &[(String, String)]) -> Finding {
    if let Some(at) = at {
        return Finding::ok("member", format!("{name} answers at {at}"));
    }
    if tried.is_empty() {
        return Finding::problem(
            "member",
            format!("{name} has no address"),
            "this node cannot open links to it, and waits for it to open one",
            format!("aber members set {name} --address HOST:PORT"),
        )
        .into_note();
    }
    let why: Vec<_> = tried
        .iter()
        .map(|(at, why)| format!("{at}: {why}"))
        .collect();
    Finding::problem(
        "member",
        format!("{name} cannot be reached"),
        why.join("; "),
        format!(
            "start it; else look at the firewalls between; if it moved: aber members set {name} \
             --address HOST:PORT"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: u64) -> String {
        format!("{count} B")
    }

    /// E1: whatever is wrong says why, and what to do; whatever is not says neither.
    #[test]
    fn every_problem_says_why_and_what_to_do() {
        let tried = [("a:1".to_owned(), "connection refused".to_owned())];
        let good = [
            file_system_of("/d", 0xEF53),
            file_system_of("/d", 1),
            space(10, 10, bytes),
            key("/d/key", 0o100_600, true),
            key("/d/key", 0o400, true),
            watches(100, 8192),
            open_files(None),
            open_files(Some(1024)),
            clock("gwen", -120_000),
            own_address("me", "a:1", Some(true)),
            reachable("gwen", Some("a:1"), &tried),
            api("", None),
            api("pin@a:1", None),
        ];
        for finding in good {
            let is_plain = finding.why.is_empty() && finding.mend.is_empty();
            assert!(finding.severity == Severity::Ok && is_plain, "{finding:?}");
        }
        let bad = [
            file_system_of("/d", 0x6969),
            file_system_of("/d", 0x0102_1994),
            space(9, 10, bytes),
            key("/d/key", 0o640, true),
            key("/d/key", 0o600, false),
            watches(8000, 8192),
            open_files(Some(256)),
            clock("gwen", 120_001),
            own_address("me", "a:1", None),
            reachable("gwen", None, &tried),
            api("pin@a:1", Some("refused".to_owned())),
        ];
        for finding in bad {
            let has_words = !finding.why.is_empty() && !finding.mend.is_empty();
            assert!(
                finding.severity == Severity::Problem && has_words,
                "{finding:?}"
            );
        }
        for finding in [
            own_address("me", "a:1", Some(false)),
            reachable("gwen", None, &[]),
        ] {
            assert!(finding.severity == Severity::Note && !finding.mend.is_empty());
        }
    }

    #[test]
    fn enough_watches_are_proposed() {
        let finding = watches(100_000, 65_536);
        let raised = "fs.inotify.max_user_watches=262144";
        assert!(finding.mend.contains(raised), "{finding:?}");
        assert_eq!(watches(100_000, 262_144).severity, Severity::Ok);
    }
}
