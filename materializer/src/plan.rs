//! [pure] What a path of the mirror needs, and whether what stands there is ours.
//!
//! The mirror is driven by states, not by effects: for each node that may have changed, what the
//! tree wants is compared with what was written ([`Row`]), and only the net difference touches the
//! disk. Every decision about one path is taken here; `mirror/` carries it out.
//!
//! Invariants: a row is believed only as long as the disk shows the same inode, size and
//! modification time ([`is_ours`], rule MA-2); nothing is materialised whose name or link could
//! lead out of the mirror ([`check`], rules NA-1, LI-2).

use crate::tree::{Node, NodeKind};
use aber_log::env::disk::{FileKind, Stat};
use aber_proto::{EventId, FileId, FileTime, PartitionId};

/// The pseudo-directory `.aber/staging/swap`: things of ours that stand at no path of the tree for
/// a moment have it as their parent.
pub const PARK: FileId = FileId {
    partition: PartitionId(u32::MAX),
    index: u64::MAX,
    ordinal: u32::MAX,
};
/// Longest target of a symlink that is materialised, in bytes (rule LI-2).
pub const LINK_TARGET_BYTES: usize = 247;

/// The first half of a content's BLAKE3, or of a link target's; zero for directories.
pub type Tag = [u8; 16];

/// What was written for one node, as it was read back (rule MA-5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The directory that holds it, or [`PARK`].
    pub parent: FileId,
    /// Its name there.
    pub name: String,
    /// File, directory or symlink.
    pub kind: FileKind,
    /// The version it shows.
    pub version: EventId,
    /// Names its content.
    pub tag: Tag,
    /// The mode the tree gave it.
    pub mode: u16,
    /// The modification time the tree gave it.
    pub wanted_mtime: FileTime,
    /// Read back.
    pub inode: u64,
    /// Read back.
    pub size: u64,
    /// Read back: file systems round and clamp.
    pub mtime: FileTime,
}

/// What has to happen for one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// It stands as wanted.
    Nothing,
    /// Only mode or modification time differ.
    Attributes,
    /// It has another place; its bytes are right.
    Move,
    /// It is not there, or shows other bytes.
    Publish,
}

/// Why a node is not materialised on this disk (rule NA-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// A name that must not reach a disk.
    #[error("name: {0}")]
    Name(aber_proto::PathProblem),
    /// A symlink that is not portable, or might lead out of the mirror.
    #[error("link: the target is not portable")]
    Link,
    /// The disk takes no such name.
    #[error("name: the disk takes no such name")]
    DiskName,
    /// The disk holds two names of the tree to be the same.
    #[error("collision: the disk takes this name for another one")]
    Collision,
}

/// Whether a symlink at a place with `depth` directories above it is portable (rule LI-2).
#[must_use]
pub fn is_portable_link(target: &str, depth: usize) -> bool {
    if target.is_empty() || target.len() > LINK_TARGET_BYTES || target.contains([':', '\\', '\0']) {
        return false;
    }
    let ups = target.split('/').take_while(|part| *part == "..").count();
    let is_plain = |part: &str| !part.is_empty() && part != "..";
    ups <= depth && target.split('/').skip(ups).all(is_plain)
}

/// Whether a node may be materialised with `depth` directories above it.
///
/// # Errors
/// The rule that forbids it.
pub fn check(node: &Node, depth: usize) -> Result<(), Unfit> {
    aber_proto::path::check_name(&node.name).map_err(Unfit::Name)?;
    match &node.kind {
        NodeKind::Symlink(target) if !is_portable_link(target, depth) => Err(Unfit::Link),
        _ => Ok(()),
    }
}

/// The kind a node has on disk.
#[must_use]
pub fn kind_of(node: &Node) -> FileKind {
    match node.kind {
        NodeKind::Directory | NodeKind::Volume(_) => FileKind::Directory,
        NodeKind::File(_) => FileKind::File,
        NodeKind::Symlink(_) => FileKind::Symlink,
    }
}

/// Names a node's content.
#[must_use]
pub fn tag_of(node: &Node) -> Tag {
    match &node.kind {
        NodeKind::Directory | NodeKind::Volume(_) => Tag::default(),
        NodeKind::File(content) => tag(&content.blake3().0),
        NodeKind::Symlink(target) => tag(blake3::hash(target.as_bytes()).as_bytes()),
    }
}

/// The tag of a BLAKE3.
#[must_use]
pub fn tag(hash: &[u8; 32]) -> Tag {
    let (half, _) = hash.split_at(16);
    half.try_into().unwrap_or_default()
}

/// The mode a file gets in a mirror: without write bits, always readable (rule MA-8).
#[must_use]
pub fn file_mode(mode: u16) -> u32 {
    u32::from(mode) & 0o555 | 0o444
}

/// Compares what is wanted with what was written.
#[must_use]
pub fn need(node: &Node, row: Option<&Row>) -> Need {
    let Some(row) = row.filter(|row| row.kind == kind_of(node)) else {
        return Need::Publish;
    };
    if row.version != node.version && row.tag != tag_of(node) {
        return Need::Publish;
    }
    if row.parent != node.parent || row.name != node.name {
        return Need::Move;
    }
    let is_file = row.kind == FileKind::File;
    if is_file && (row.mode != node.mode || row.wanted_mtime != node.mtime) {
        Need::Attributes
    } else {
        Need::Nothing
    }
}

/// Whether what stands there is what we wrote: not by ctime, which a rename changes. A directory
/// is ours as long as it is one; what it holds is looked at name by name.
#[must_use]
pub fn is_ours(row: &Row, stat: &Stat) -> bool {
    row.kind == stat.kind
        && (stat.kind == FileKind::Directory
            || (row.inode == stat.inode && row.size == stat.size && row.mtime == stat.mtime))
}

/// The row of a node as it was just written.
#[must_use]
pub fn row_of(node: &Node, stat: &Stat) -> Row {
    Row {
        parent: node.parent,
        name: node.name.clone(),
        kind: kind_of(node),
        version: node.version,
        tag: tag_of(node),
        mode: node.mode,
        wanted_mtime: node.mtime,
        inode: stat.inode,
        size: stat.size,
        mtime: stat.mtime,
    }
}

/// An id as part of a file's name: `3-1842-7`.
#[must_use]
pub fn id_text(id: EventId) -> String {
    format!("{}-{}-{}", id.partition.0, id.index, id.ordinal)
}

/// The name in `swap/` of something that goes in or came out: enough to know it again after a
/// crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapName {
    /// Names the content of what should come out.
    pub out: u64,
    /// Names the content of what goes in.
    pub into: u64,
    /// What should come out.
    pub occupant: FileId,
    /// What goes in.
    pub incoming: FileId,
}

/// The first eight bytes of a tag.
#[must_use]
pub fn short(tag: &Tag) -> u64 {
    tag.first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl SwapName {
    /// The text; `number` makes it unique.
    #[must_use]
    pub fn text(&self, number: u64) -> String {
        let (occupant, incoming) = (id_text(self.occupant), id_text(self.incoming));
        let (out, into) = (self.out, self.into);
        format!("{out:016x}-{into:016x}-{occupant}-{incoming}-{number}")
    }

    /// Reads the text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let [out, into, p1, i1, o1, p2, i2, o2, _] = parts.as_slice() else {
            return None;
        };
        let id = |p: &str, i: &str, o: &str| {
            Some(FileId {
                partition: PartitionId(p.parse().ok()?),
                index: i.parse().ok()?,
                ordinal: o.parse().ok()?,
            })
        };
        Some(Self {
            out: u64::from_str_radix(out, 16).ok()?,
            into: u64::from_str_radix(into, 16).ok()?,
            occupant: id(p1, i1, o1)?,
            incoming: id(p2, i2, o2)?,
        })
    }

    /// Whether a content is one of the two, so that the store has its bytes.
    #[must_use]
    pub fn names(&self, tag: &Tag) -> bool {
        short(tag) == self.out || short(tag) == self.into
    }
}

/// A path as one name of at most about 120 bytes, its end kept: slashes become `%2F`, and what is
/// no plain text is escaped.
#[must_use]
pub fn flatten(path: &std::path::Path) -> String {
    let mut flat = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b' ' => {
                flat.push(char::from(*byte));
            }
            other => flat.push_str(&format!("%{other:02X}")),
        }
    }
    let cut = flat.len().saturating_sub(96);
    flat.split_off(cut)
}

/// Whether two names are the same to a file system that folds case and Unicode forms (rule NA-3).
#[must_use]
pub fn folds_equal(one: &str, other: &str) -> bool {
    use unicode_normalization::UnicodeNormalization;
    one.nfc()
        .flat_map(char::to_lowercase)
        .eq(other.nfc().flat_map(char::to_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(kind: NodeKind) -> Node {
        let id = EventId {
            partition: PartitionId(1),
            index: 4,
            ordinal: 2,
        };
        Node {
            id,
            parent: crate::tree::ROOT,
            name: "n".into(),
            kind,
            mode: 0o644,
            mtime: FileTime::default(),
            version: id,
            previous: None,
            changed: 4,
        }
    }

    fn stat(kind: FileKind) -> Stat {
        Stat {
            kind,
            size: 3,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            inode: 9,
            device: 1,
            mode: 0o444,
        }
    }

    /// LI-2, S6: the table of targets that stay in and of those that might not.
    #[test]
    fn only_portable_links_are_materialised() {
        let good = [
            ("a", 0),
            ("a/b", 0),
            ("./a", 0),
            ("../a", 1),
            ("../../a", 2),
            ("..", 1),
            ("a..b", 0),
        ];
        for (target, depth) in good {
            assert!(is_portable_link(target, depth), "{target} at {depth}");
        }
        let bad = [
            ("", 3),
            ("/a", 3),
            ("../a", 0),
            ("..", 0),
            ("../../a", 1),
            ("a/../b", 3),
            ("a/b/c/up/../x", 9),
            ("a//../../x", 3),
            ("./../a", 3),
            ("a/", 3),
            ("c:x", 3),
            ("a\\b", 3),
        ];
        for (target, depth) in bad {
            assert!(!is_portable_link(target, depth), "{target} at {depth}");
        }
        assert!(is_portable_link(&"x".repeat(247), 0));
        assert!(!is_portable_link(&"x".repeat(248), 0));
    }

    proptest! {
        /// LI-2, S6: resolved without any other link, an accepted target never leaves the root.
        #[test]
        fn an_accepted_target_never_climbs_above_the_root(
            parts in proptest::collection::vec(
                prop_oneof!["a", "b", Just("..".to_owned()), Just(".".to_owned()), Just(String::new())],
                1..8),
            depth in 0usize..4,
        ) {
            let target = parts.join("/");
            if is_portable_link(&target, depth) {
                let mut level = i64::try_from(depth).expect("small");
                for part in &parts {
                    level += match part.as_str() { ".." => -1, "." | "" => 0, _ => 1 };
                    prop_assert!(level >= 0);
                }
            }
        }
    }

    #[test]
    fn the_net_difference_of_one_node() {
        let wanted = node(NodeKind::File(aber_proto::Content::Inline("abc".into())));
        let row = row_of(&wanted, &stat(FileKind::File));
        assert_eq!(need(&wanted, None), Need::Publish);
        assert_eq!(need(&wanted, Some(&row)), Need::Nothing);
        let moved = Node {
            name: "m".into(),
            mode: 0o600,
            ..wanted.clone()
        };
        assert_eq!(need(&moved, Some(&row)), Need::Move);
        let mode = Node {
            mode: 0o600,
            ..wanted.clone()
        };
        assert_eq!(need(&mode, Some(&row)), Need::Attributes);
        let mut newer = wanted.clone();
        newer.version.index = 5;
        assert_eq!(need(&newer, Some(&row)), Need::Nothing, "equal bytes");
        newer.kind = NodeKind::File(aber_proto::Content::Inline("abd".into()));
        assert_eq!(need(&newer, Some(&row)), Need::Publish);
        assert_eq!(
            need(&node(NodeKind::Directory), Some(&row)),
            Need::Publish,
            "another kind"
        );
    }

    /// MA-2, MA-8.
    #[test]
    fn an_edit_or_another_inode_is_a_stranger() {
        let wanted = node(NodeKind::File(aber_proto::Content::Inline("abc".into())));
        let seen = stat(FileKind::File);
        let row = row_of(&wanted, &seen);
        assert!(is_ours(&row, &seen));
        assert!(!is_ours(&row, &Stat { inode: 10, ..seen }));
        assert!(!is_ours(&row, &Stat { size: 4, ..seen }));
        let later = FileTime {
            seconds: 1,
            nanos: 0,
        };
        assert!(!is_ours(
            &row,
            &Stat {
                mtime: later,
                ..seen
            }
        ));
        assert!(!is_ours(&row, &stat(FileKind::Directory)));
        assert_eq!(file_mode(0o777), 0o555);
        assert_eq!(file_mode(0o200), 0o444);
    }

    #[test]
    fn swap_names_come_back_and_flat_names_stay_short() {
        let name = SwapName {
            out: 7,
            into: u64::MAX,
            occupant: PARK,
            incoming: node(NodeKind::Directory).id,
        };
        assert_eq!(SwapName::parse(&name.text(12)), Some(name));
        assert!(name.text(u64::MAX).len() < 143);
        assert_eq!(SwapName::parse("x"), None);
        let long = "\u{e2}/".repeat(300);
        assert!(flatten(std::path::Path::new(&long)).len() <= 120);
        assert_eq!(flatten(std::path::Path::new("a/b c")), "a%2Fb c");
        assert!(folds_equal("\u{e2}A", "a\u{302}a") && !folds_equal("a", "b"));
    }
}
