//! [pure] Names between the live image and the durable one.
//!
//! A name change takes effect in the live image at once and in the durable one when a sync of one
//! of its directories covers it, together with what that directory's and, for a rename, the other
//! directory's earlier changes need. In a power cut each directory keeps a prefix of its changes,
//! or, on a wilder disk, any subset that makes sense.

use super::{Body, Fate, Id, Image, Inode, Names, SyncTicket};
use crate::sim::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

/// Name changes wait for a sync up to this count; then the older half is written anyway, as a
/// kernel does after seconds.
const PENDING_MAX: usize = 2048;

/// A change of one or two names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NameChange {
    Link {
        dir: Id,
        name: OsString,
        id: Id,
    },
    Unlink {
        dir: Id,
        name: OsString,
        id: Id,
    },
    Move {
        from: (Id, OsString),
        to: (Id, OsString),
        id: Id,
        over: Option<Id>,
    },
    Swap {
        one: (Id, OsString, Id),
        two: (Id, OsString, Id),
    },
}

impl NameChange {
    /// The directories it changes.
    fn directories(&self) -> [Id; 2] {
        match self {
            Self::Link { dir, .. } | Self::Unlink { dir, .. } => [*dir, *dir],
            Self::Move { from, to, .. } => [from.0, to.0],
            Self::Swap { one, two } => [one.0, two.0],
        }
    }

    /// The names it sets, and to what.
    fn rows(&self) -> Vec<(Id, &OsStr, Option<Id>)> {
        match self {
            Self::Link { dir, name, id } => vec![(*dir, name, Some(*id))],
            Self::Unlink { dir, name, .. } => vec![(*dir, name, None)],
            Self::Move { from, to, id, .. } => {
                vec![(from.0, &from.1, None), (to.0, &to.1, Some(*id))]
            }
            Self::Swap { one, two } => {
                vec![(one.0, &one.1, Some(two.2)), (two.0, &two.1, Some(one.2))]
            }
        }
    }

    fn mentions(&self) -> Vec<Id> {
        let [one, two] = self.directories();
        let things = match self {
            Self::Link { id, .. } | Self::Unlink { id, .. } => [Some(*id), None],
            Self::Move { id, over, .. } => [Some(*id), *over],
            Self::Swap { one, two } => [Some(one.2), Some(two.2)],
        };
        things.into_iter().flatten().chain([one, two]).collect()
    }
}

/// Which of the name changes that no sync covered are seen after a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamesKept {
    /// How many of a thousand are kept, while their directory keeps any.
    pub keep_permille: u64,
    /// Whether a directory may keep a later change and lose an earlier one.
    pub is_any_subset: bool,
}

/// What a `syncfs` that began will make durable.
#[derive(Debug)]
pub struct SyncAll {
    changes_before: u64,
    files: Vec<(Id, SyncTicket)>,
    touched: Vec<Id>,
}

impl Image {
    pub(super) fn change_name(&mut self, change: NameChange) {
        for (dir, name, id) in change.rows() {
            self.set_name(dir, name, id, true);
        }
        self.pending.insert(self.next_change, change);
        self.next_change += 1;
        if self.pending.len() > PENDING_MAX {
            let half = self.pending.keys().nth(PENDING_MAX / 2).copied();
            self.settle_before(half.unwrap_or(0));
        }
    }

    fn set_name(&mut self, dir: Id, name: &OsStr, id: Option<Id>, is_live: bool) {
        let Some(Inode {
            body: Body::Directory(names),
            ..
        }) = self.inodes.get_mut(&dir)
        else {
            return;
        };
        let map = if is_live {
            &mut names.live
        } else {
            &mut names.durable
        };
        let before = match id {
            Some(id) => map.insert(name.to_os_string(), id),
            None => map.remove(name),
        };
        if let Some(before) = before {
            self.count_link(before, is_live, false);
            self.doubtful.insert(before);
        }
        if let Some(id) = id {
            self.count_link(id, is_live, true);
            if !is_live
                && let Some(Inode {
                    body: Body::Directory(names),
                    ..
                }) = self.inodes.get_mut(&id)
            {
                names.durable_parent = Some((dir, name.to_os_string()));
            }
        }
    }

    fn count_link(&mut self, id: Id, is_live: bool, is_more: bool) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            let links = if is_live {
                &mut inode.live_links
            } else {
                &mut inode.durable_links
            };
            *links = if is_more {
                *links + 1
            } else {
                links.saturating_sub(1)
            };
        }
    }

    fn durable_child(&self, dir: Id, name: &OsStr) -> Option<Id> {
        self.names(dir).ok()?.durable.get(name).copied()
    }

    fn is_durably_empty(&self, id: Id) -> bool {
        self.names(id)
            .map_or(true, |names| names.durable.is_empty())
    }

    /// Whether a directory hangs below the top in the durable image, and not below `moved`.
    fn is_fit_target(&self, dir: Id, moved: &[Id]) -> bool {
        let mut at = dir;
        for _ in 0..self.inodes.len() {
            if moved.contains(&at) {
                return false;
            }
            if at == Self::TOP {
                return true;
            }
            let parent = self
                .names(at)
                .ok()
                .and_then(|names| names.durable_parent.as_ref());
            match parent {
                Some((parent, name)) if self.durable_child(*parent, name) == Some(at) => {
                    at = *parent;
                }
                _ => return false,
            }
        }
        false
    }

    /// Whether a change makes sense on the durable image as it is.
    fn fits(&self, change: &NameChange) -> bool {
        match change {
            NameChange::Link { dir, name, .. } => self.durable_child(*dir, name).is_none(),
            NameChange::Unlink { dir, name, id } => {
                self.durable_child(*dir, name) == Some(*id) && self.is_durably_empty(*id)
            }
            NameChange::Move { from, to, id, over } => {
                self.durable_child(from.0, &from.1) == Some(*id)
                    && self.durable_child(to.0, &to.1) == *over
                    && over.is_none_or(|over| self.is_durably_empty(over))
                    && self.is_fit_target(to.0, &[*id])
            }
            NameChange::Swap { one, two } => {
                self.durable_child(one.0, &one.1) == Some(one.2)
                    && self.durable_child(two.0, &two.1) == Some(two.2)
                    && self.is_fit_target(one.0, &[one.2, two.2])
                    && self.is_fit_target(two.0, &[one.2, two.2])
            }
        }
    }

    fn settle(&mut self, change: &NameChange) {
        for (dir, name, id) in change.rows() {
            self.set_name(dir, name, id, false);
            if let Some(id) = id {
                self.keep_attributes(id);
            }
        }
    }

    /// Makes all changes before `end` durable, in their order.
    fn settle_before(&mut self, end: u64) {
        let later = self.pending.split_off(&end);
        for change in std::mem::replace(&mut self.pending, later).into_values() {
            self.settle(&change);
        }
        self.collect();
    }

    /// Where the changes stand that a directory sync beginning now will cover.
    #[must_use]
    pub fn begin_dir_sync(&self) -> u64 {
        self.next_change
    }

    /// Ends the sync of a directory that began at `end`.
    pub fn end_dir_sync(&mut self, dir: Id, end: u64) {
        let mut needed = BTreeSet::from([dir]);
        let mut chosen = Vec::new();
        for (number, change) in self.pending.range(..end).rev() {
            let directories = change.directories();
            if directories.iter().any(|id| needed.contains(id)) {
                needed.extend(directories);
                chosen.push(*number);
            }
        }
        for number in chosen.into_iter().rev() {
            match self.pending.get(&number).cloned() {
                Some(change) if self.fits(&change) => {
                    self.settle(&change);
                    self.pending.remove(&number);
                }
                // It leans on a change of a third directory: the journal is written in order.
                Some(_) => self.settle_before(number + 1),
                None => {}
            }
        }
        self.keep_attributes(dir);
        self.collect();
    }

    /// Begins a sync of everything.
    pub fn begin_sync_all(&mut self) -> SyncAll {
        let touched: Vec<Id> = std::mem::take(&mut self.touched).into_iter().collect();
        let mut files = Vec::new();
        for id in &touched {
            if let Some(Inode {
                body: Body::File(content),
                ..
            }) = self.inodes.get_mut(id)
            {
                files.push((*id, content.begin_sync()));
            }
        }
        SyncAll {
            changes_before: self.next_change,
            files,
            touched,
        }
    }

    /// Ends a sync of everything, well or with a failure.
    pub fn end_sync_all(&mut self, ticket: SyncAll, is_well: bool) {
        for (id, ticket) in ticket.files {
            if let Some(Inode {
                body: Body::File(content),
                ..
            }) = self.inodes.get_mut(&id)
            {
                if is_well {
                    content.end_sync(ticket);
                } else {
                    content.fail_sync(ticket);
                }
            }
        }
        if is_well {
            ticket
                .touched
                .into_iter()
                .for_each(|id| self.keep_attributes(id));
            self.settle_before(ticket.changes_before);
        }
    }

    /// Makes every name durable, to give back the space of what was removed.
    pub fn settle_names(&mut self) {
        self.settle_before(self.next_change);
    }

    /// Drops inodes that nothing needs any more.
    fn collect(&mut self) {
        if self.doubtful.is_empty() {
            return;
        }
        let mentioned: BTreeSet<Id> = self
            .pending
            .values()
            .flat_map(NameChange::mentions)
            .collect();
        for id in std::mem::take(&mut self.doubtful) {
            let Some(inode) = self.inodes.get(&id) else {
                continue;
            };
            if inode.live_links > 0 || inode.durable_links > 0 {
                continue;
            }
            if mentioned.contains(&id) || std::sync::Arc::strong_count(&inode.holders) > 1 {
                self.doubtful.insert(id);
            } else {
                self.drop_inode(id);
            }
        }
    }

    fn drop_inode(&mut self, id: Id) {
        if let Some(inode) = self.inodes.remove(&id) {
            self.free_numbers.push(inode.number);
            if let Body::File(content) = &inode.body {
                self.used_bytes = self.used_bytes.saturating_sub(content.allocated_bytes());
            }
        }
    }

    /// A power cut: afterwards the live image is what the device holds.
    pub fn lose_power(
        &mut self,
        kept: NamesKept,
        mut fate_of: impl FnMut(&mut Random) -> Fate,
        random: &mut Random,
    ) {
        let mut closed = BTreeSet::new();
        for change in std::mem::take(&mut self.pending).into_values() {
            let directories = change.directories();
            let is_open = kept.is_any_subset || !directories.iter().any(|id| closed.contains(id));
            if is_open && random.chance(kept.keep_permille) && self.fits(&change) {
                self.settle(&change);
            } else {
                closed.extend(directories);
            }
        }
        self.touched.clear();
        self.doubtful.clear();
        self.show_durable();
        self.used_bytes = 0;
        for inode in self.inodes.values_mut() {
            if inode.attributes != inode.kept && random.chance(500) {
                inode.attributes = inode.kept;
            }
            inode.kept = inode.attributes;
            if let Body::File(content) = &mut inode.body {
                if content.is_dirty() {
                    let fate = fate_of(random);
                    content.lose_power(fate, random);
                } else {
                    content.lose_power(Fate::Lose, random);
                }
                self.used_bytes += content.allocated_bytes();
            }
        }
    }

    /// Rebuilds the live image from the durable names; what they do not reach is gone.
    fn show_durable(&mut self) {
        let mut reached: BTreeMap<Id, u32> = BTreeMap::from([(Self::TOP, 0)]);
        let mut left = vec![Self::TOP];
        while let Some(dir) = left.pop() {
            if let Ok(Names { durable, .. }) = self.names(dir) {
                for id in durable.values() {
                    let count = reached.entry(*id).or_default();
                    *count += 1;
                    if *count == 1 {
                        left.push(*id);
                    }
                }
            }
        }
        let lost: Vec<Id> = self
            .inodes
            .keys()
            .filter(|id| !reached.contains_key(id))
            .copied()
            .collect();
        lost.into_iter().for_each(|id| self.drop_inode(id));
        for (id, inode) in &mut self.inodes {
            let count = reached.get(id).copied().unwrap_or(0);
            (inode.live_links, inode.durable_links) = (count, count);
            inode.holders = std::sync::Arc::new(());
            if let Body::Directory(names) = &mut inode.body {
                names.live = names.durable.clone();
            }
        }
    }
}
