//! [pure] What one author appends at once: all of it takes effect, or none.

use crate::event::{Event, Operation, Precondition, Revived};
use crate::hash::ChangeHash;
use crate::id::{ClusterId, NodeId, PartitionId, RequestId};
use crate::keep::is_tag_name;
use crate::key::{BatchSignature, PublicKey, SignatureProblem};
use crate::limit;
use crate::manifest::ManifestProblem;
use crate::member::is_member_name;
use crate::origin::Origin;
use crate::path::PathProblem;
use crate::unit::{FileTime, Timestamp};
use bytes::Bytes;

/// A change before it is encoded and signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The cluster it is meant for.
    pub cluster: ClusterId,
    /// The partition it is meant for.
    pub partition: PartitionId,
    /// Who made it.
    pub author: NodeId,
    /// Rising for each author and partition; a repeated or falling one is void (promise D3).
    pub author_sequence: u64,
    /// The author's change before it in this partition; zero for the first.
    pub previous: ChangeHash,
    /// Repeating it answers what the first did.
    pub request: RequestId,
    /// The author's clock. For people only.
    pub wall_time: Timestamp,
    /// Free text for people.
    pub comment: String,
    /// How it came in: "cli", "folder", "api:NAME".
    pub via: String,
    /// What it is part of, if it is not an action by itself.
    pub origin: Option<Origin>,
    /// 1 to [`limit::CHANGE_EVENTS`].
    pub events: Vec<Event>,
}

/// A change as it travels: the exact bytes that were signed, and the signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedChange {
    /// The encoded [`Change`]; kept and passed on, never encoded anew.
    pub body: Bytes,
    /// The author's signature over the body's [`ChangeHash`].
    pub signature: BatchSignature,
}

/// Why a change was refused before anything looked at its meaning.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeProblem {
    /// No event at all.
    #[error("a change without events")]
    Empty,
    /// More events than one change may have.
    #[error("{events} events; one change holds at most 1,024")]
    TooManyEvents {
        /// Events found.
        events: usize,
    },
    /// The encoded body is too long.
    #[error("{bytes} bytes; one change holds at most 262,144")]
    TooLong {
        /// Bytes found.
        bytes: usize,
    },
    /// A name or path breaks a rule.
    #[error("path {path:?}: {problem}")]
    Path {
        /// The path.
        path: String,
        /// The rule.
        problem: PathProblem,
    },
    /// A manifest breaks a rule.
    #[error("content: {0}")]
    Manifest(#[from] ManifestProblem),
    /// A symlink target that is empty, too long, or has a NUL.
    #[error("a symlink target is 1 to 4,095 bytes without NUL")]
    SymlinkTarget,
    /// Mode bits outside the nine.
    #[error("mode {0:o} has bits besides the nine permission bits")]
    Mode(u32),
    /// Comment or label above its limit.
    #[error("{0} is too long")]
    TextTooLong(&'static str),
    /// A name outside `[a-z0-9-]{1,32}`; of an overlong one its first bytes.
    #[error("{0:?} is no member name: 1 to 32 of a-z, 0-9 and '-'")]
    MemberName(String),
    /// A name that no tag can have; of an overlong one its first bytes.
    #[error("{0:?} is no tag: 1 to 64 of a-z, 0-9, '-', '.' and '_', a letter first")]
    TagName(String),
    /// An event that must be the only one of its change, or must not be guarded, and is not so.
    #[error(
        "an admission is alone in its change, and only an event on paths or volumes is guarded"
    )]
    NotAlone,
    /// A control event outside the control partition, or the reverse.
    #[error("the event does not belong in partition {0}")]
    WrongPartition(PartitionId),
    /// The bytes are no encoding of a change.
    #[error("the bytes are no change: {0}")]
    Encoding(&'static str),
    /// The signature does not fit.
    #[error(transparent)]
    Signature(#[from] SignatureProblem),
}

impl ChangeProblem {
    /// A path that breaks a rule; of an overlong one the first [`limit::PATH_BYTES`] are kept.
    #[must_use]
    pub fn path(path: &str, problem: PathProblem) -> Self {
        let mut end = path.len().min(limit::PATH_BYTES);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        Self::Path {
            path: path.get(..end).unwrap_or_default().to_owned(),
            problem,
        }
    }
}

impl Change {
    /// Checks all limits and rules that need no view (rules NA-1, LI-1, LI-5, LI-6; promise B2).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ChangeProblem> {
        if self.events.is_empty() {
            return Err(ChangeProblem::Empty);
        }
        if self.events.len() > limit::CHANGE_EVENTS {
            return Err(ChangeProblem::TooManyEvents {
                events: self.events.len(),
            });
        }
        if self.comment.len() > limit::COMMENT_BYTES {
            return Err(ChangeProblem::TextTooLong("the comment"));
        }
        if self.via.len() > limit::VIA_BYTES {
            return Err(ChangeProblem::TextTooLong("the label of the way in"));
        }
        self.events.iter().try_for_each(|event| {
            let operation = &event.operation;
            let is_admission = matches!(operation, Operation::Admit { .. });
            let is_guarded = event.precondition != Precondition::default();
            let has_guards = !(operation.is_membership() || operation.is_about_history());
            if (is_admission && self.events.len() > 1) || (is_guarded && !has_guards) {
                return Err(ChangeProblem::NotAlone);
            }
            self.check_operation(operation)
        })
    }

    fn check_operation(&self, operation: &Operation) -> Result<(), ChangeProblem> {
        if operation.is_control() && self.partition != PartitionId::CONTROL {
            return Err(ChangeProblem::WrongPartition(self.partition));
        }
        if let Some(content) = operation.content() {
            content.check()?;
        }
        match operation {
            Operation::Revive {
                what, attributes, ..
            } => {
                if let Revived::Symlink(target) = what {
                    check_target(target)?;
                }
                check_mode(attributes.mode)?;
                check_time(Some(attributes.mtime))
            }
            Operation::Put { attributes, .. } | Operation::Copy { attributes, .. } => {
                check_mode(attributes.mode)?;
                check_time(Some(attributes.mtime))
            }
            Operation::SetAttributes { mode, mtime, .. } => {
                check_mode(*mode)?;
                check_time(*mtime)
            }
            Operation::MakeSymlink { target, .. } => check_target(target),
            Operation::MakeVolume { name, .. } | Operation::RenameVolume { name, .. } => {
                crate::path::check_name(name).map_err(|problem| ChangeProblem::path(name, problem))
            }
            Operation::SetTag { .. }
            | Operation::RemoveTag { .. }
            | Operation::SetRetention { .. } => check_history(operation),
            _ => check_membership(operation),
        }
    }
}

fn check_history(operation: &Operation) -> Result<(), ChangeProblem> {
    match operation {
        Operation::SetTag {
            name,
            moment,
            comment,
        } => {
            if comment.len() > limit::COMMENT_BYTES {
                return Err(ChangeProblem::TextTooLong("the comment of a tag"));
            }
            let most = u32::try_from(limit::PARTITIONS).unwrap_or(u32::MAX);
            let is_place =
                |(partition, index): (&PartitionId, &u64)| partition.0 < most && *index > 0;
            if !moment.iter().all(is_place) {
                return Err(ChangeProblem::Encoding("a tag's place that no log has"));
            }
            check_tag_name(name)
        }
        Operation::RemoveTag { name } => check_tag_name(name),
        Operation::SetRetention { retention, .. } if !retention.is_sane() => {
            Err(ChangeProblem::Encoding("a retention that keeps nothing"))
        }
        _ => Ok(()),
    }
}

fn check_tag_name(name: &str) -> Result<(), ChangeProblem> {
    if is_tag_name(name) {
        return Ok(());
    }
    let shown = name.chars().take(limit::TAG_NAME_BYTES).collect();
    Err(ChangeProblem::TagName(shown))
}

fn check_membership(operation: &Operation) -> Result<(), ChangeProblem> {
    match operation {
        Operation::Invite { name, .. } => check_member_name(name.as_deref()),
        Operation::Admit {
            name, addresses, ..
        } => {
            check_member_name(Some(name))?;
            check_addresses(addresses)
        }
        Operation::SetMember {
            name,
            addresses,
            neighbours,
            ..
        } => {
            check_member_name(name.as_deref())?;
            check_addresses(addresses.as_deref().unwrap_or_default())?;
            check_neighbours(neighbours.as_deref().unwrap_or_default())
        }
        _ => Ok(()),
    }
}

fn check_member_name(name: Option<&str>) -> Result<(), ChangeProblem> {
    match name {
        Some(name) if !is_member_name(name) => {
            let shown = name.chars().take(limit::MEMBER_NAME_BYTES).collect();
            Err(ChangeProblem::MemberName(shown))
        }
        _ => Ok(()),
    }
}

fn check_addresses(addresses: &[String]) -> Result<(), ChangeProblem> {
    if addresses.len() > limit::MEMBER_ADDRESSES {
        return Err(ChangeProblem::TextTooLong("the list of addresses"));
    }
    let fits = |address: &String| (1..=limit::ADDRESS_BYTES).contains(&address.len());
    if addresses.iter().all(fits) {
        Ok(())
    } else {
        Err(ChangeProblem::TextTooLong(
            "an address, unless it is empty,",
        ))
    }
}

fn check_neighbours(nodes: &[NodeId]) -> Result<(), ChangeProblem> {
    if nodes.len() > limit::MEMBER_NEIGHBOURS {
        return Err(ChangeProblem::TextTooLong("the list of neighbours"));
    }
    if nodes.is_sorted_by(|one, next| one < next) {
        Ok(())
    } else {
        Err(ChangeProblem::Encoding("neighbours out of order"))
    }
}

fn check_mode(mode: Option<u16>) -> Result<(), ChangeProblem> {
    match mode {
        Some(bits) if bits & !0o777 != 0 => Err(ChangeProblem::Mode(bits.into())),
        _ => Ok(()),
    }
}

fn check_time(time: Option<FileTime>) -> Result<(), ChangeProblem> {
    match time {
        Some(time) if time.nanos >= 1_000_000_000 => Err(ChangeProblem::Encoding(
            "a modification time with a second or more of nanoseconds",
        )),
        _ => Ok(()),
    }
}

fn check_target(target: &str) -> Result<(), ChangeProblem> {
    let fits = (1..=limit::SYMLINK_TARGET_BYTES).contains(&target.len());
    if fits && !target.contains('\0') {
        Ok(())
    } else {
        Err(ChangeProblem::SymlinkTarget)
    }
}

impl SignedChange {
    /// The hash the signature covers.
    #[must_use]
    pub fn hash(&self) -> ChangeHash {
        ChangeHash::of(&self.body)
    }

    /// Checks the signature by `key`.
    ///
    /// # Errors
    /// [`ChangeProblem::Signature`].
    pub fn verify(&self, key: &PublicKey) -> Result<(), ChangeProblem> {
        Ok(self.signature.verify(key, &self.hash())?)
    }
}
