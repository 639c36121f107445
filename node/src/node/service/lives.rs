//! [driver] Which entries concern one path: who was called so, from when to when, and what changed
//! them then. Nothing else is looked at, however long the log is.

use super::{NodeService, index_problem};
use crate::reason::Problem;
use aber_log::env::Env;
use aber_materializer::tree::{ROOT, Tree};
use aber_materializer::view::{Found, TreeView};
use aber_proto::{EventId, FileId, Operation, PartitionId, Timestamp, TreePath};
use std::collections::{BTreeMap, BTreeSet};

/// Holders of one name, and changes of one node, that are looked up at once.
const PAGE: usize = 64;
/// Copies of copies that are followed.
const COPIES_MOST: usize = 16;

/// A node, and the entries of its partition between which it is asked about, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Life {
    pub(super) id: FileId,
    pub(super) first: u64,
    pub(super) last: u64,
    /// The entry that brought it there, if that is what `first` is.
    begins: Option<u64>,
    /// The entry that took it away from there, if that is what `last` is.
    ends: Option<u64>,
}

impl Life {
    fn whole(id: FileId, last: u64) -> Self {
        Self {
            id,
            first: id.index,
            last,
            begins: Some(id.index),
            ends: None,
        }
    }
}

/// How the lives of a path are found in one partition.
#[derive(Clone, Debug)]
pub(super) enum Lives {
    /// By the names below these directories.
    Named {
        roots: Vec<Life>,
        names: Vec<String>,
    },
    /// These.
    Known(Vec<Life>),
}

/// Part of the entries that concern a path.
pub(super) struct Part {
    /// In the order asked for.
    pub(super) indexes: Vec<u64>,
    /// Where the next part begins; `None`: that was all.
    pub(super) next: Option<u64>,
}

/// Entries found from one end, and how far from there nothing is left out.
struct Gathered {
    newest_first: bool,
    indexes: BTreeSet<u64>,
    /// Beyond this one something may be missing.
    complete_to: Option<u64>,
}

impl Gathered {
    fn cut_at(&mut self, index: u64) {
        self.complete_to = Some(match self.complete_to {
            None => index,
            Some(before) if self.newest_first => before.max(index),
            Some(before) => before.min(index),
        });
    }

    fn part(self, range: (u64, u64)) -> Part {
        let newest_first = self.newest_first;
        let bound = self.complete_to;
        let is_whole = |index: &u64| match bound {
            None => true,
            Some(bound) if newest_first => *index >= bound,
            Some(bound) => *index <= bound,
        };
        let within = |index: &u64| (range.0..=range.1).contains(index);
        let mut indexes: Vec<u64> = self
            .indexes
            .into_iter()
            .filter(|index| is_whole(index) && within(index))
            .collect();
        if newest_first {
            indexes.reverse();
        }
        let next = bound.and_then(|bound| {
            let next = if newest_first {
                bound.checked_sub(1)
            } else {
                bound.checked_add(1)
            };
            next.filter(within)
        });
        Part { indexes, next }
    }
}

impl<E: Env> NodeService<E> {
    /// Whether a path names a file or symlink now, or did last if nothing stands there.
    pub(super) fn is_of_one_file(&self, path: &TreePath) -> Result<bool, Problem> {
        let tree = &self.node.parts.tree;
        match tree.lookup(path).map_err(index_problem)? {
            Found::Root => Ok(false),
            Found::Node(node) => Ok(!node.is_directory()),
            Found::Missing { .. } | Found::NotADirectory(_) => self.was_one_file(path),
        }
    }

    /// Whether what stood last at a path was a file or symlink.
    fn was_one_file(&self, path: &TreePath) -> Result<bool, Problem> {
        let tree = &self.node.parts.tree;
        let mut newest: Option<(Timestamp, bool)> = None;
        for (partition, lives) in self.lives_of(path, false)? {
            let mut gathered = Gathered {
                newest_first: true,
                indexes: BTreeSet::new(),
                complete_to: None,
            };
            let lives = holders(tree, &lives, (0, u64::MAX), &mut gathered)?;
            let Some(life) = lives.into_iter().max_by_key(|life| life.last) else {
                continue;
            };
            let then = self.tree_after(partition, life.last.saturating_sub(1), u64::MAX);
            let node = then.node(life.id).map_err(index_problem)?;
            let time = self.time_of(partition, life.last)?.unwrap_or_default();
            if let Some(node) = node
                && newest.is_none_or(|(before, _)| before <= time)
            {
                newest = Some((time, !node.is_directory()));
            }
        }
        Ok(newest.is_some_and(|(_, is_file)| is_file))
    }

    /// For each partition, how to find who was ever called so.
    pub(super) fn lives_of(
        &self,
        path: &TreePath,
        follow_renames: bool,
    ) -> Result<BTreeMap<PartitionId, Lives>, Problem> {
        let tree = &self.node.parts.tree;
        let mut names = path.components();
        let Some(top) = names.next() else {
            return Ok(BTreeMap::new());
        };
        let rest: Vec<String> = names.map(str::to_owned).collect();
        let mut roots: BTreeMap<PartitionId, Vec<Life>> = BTreeMap::new();
        if rest.is_empty() {
            roots.insert(PartitionId::CONTROL, Vec::new());
        }
        let whole = (0, u64::MAX);
        let tops = tree.tenures((ROOT, top), whole, true, PAGE);
        for tenure in tops.map_err(index_problem)? {
            if rest.is_empty() {
                continue;
            }
            let partition = tree.content_partition(tenure.id).map_err(index_problem)?;
            // A file at the top has nothing below it.
            let Some(partition) = partition.filter(|_| self.is_volume(tenure.id)) else {
                continue;
            };
            let is_first = tenure.since == tenure.id.index;
            let first = match self.time_of(PartitionId::CONTROL, tenure.since)? {
                Some(time) if !is_first => tree.index_at(partition, time).map_err(index_problem)?,
                _ => None,
            };
            let last = match tenure.until {
                Some(until) => match self.time_of(PartitionId::CONTROL, until)? {
                    Some(time) => tree.index_at(partition, time).map_err(index_problem)?,
                    None => None,
                },
                None => None,
            };
            roots.entry(partition).or_default().push(Life {
                id: tenure.id,
                first: first.map_or(0, |first| first.saturating_add(1)),
                last: last.unwrap_or(u64::MAX),
                begins: None,
                ends: None,
            });
        }
        let mut lives = BTreeMap::new();
        for (partition, mut roots) in roots {
            let mut names = rest.clone();
            if rest.is_empty() {
                names.push(top.to_owned());
                roots.push(Life {
                    id: ROOT,
                    first: 0,
                    last: u64::MAX,
                    begins: None,
                    ends: None,
                });
            }
            lives.insert(partition, Lives::Named { roots, names });
        }
        if follow_renames {
            return self.whole_lives(&lives);
        }
        Ok(lives)
    }

    fn is_volume(&self, id: FileId) -> bool {
        id.partition == PartitionId::CONTROL && id != ROOT
    }

    fn time_of(&self, partition: PartitionId, index: u64) -> Result<Option<Timestamp>, Problem> {
        let tree = &self.node.parts.tree;
        let happened = tree.happened(partition, index).map_err(index_problem)?;
        Ok(happened.map(|happened| happened.order_time))
    }

    /// All that happened to the newest holders of the name, under whatever names, and to what they
    /// are copies of until they were copied.
    fn whole_lives(
        &self,
        named: &BTreeMap<PartitionId, Lives>,
    ) -> Result<BTreeMap<PartitionId, Lives>, Problem> {
        let tree = &self.node.parts.tree;
        let mut found: BTreeMap<PartitionId, Vec<Life>> = BTreeMap::new();
        let mut todo = Vec::new();
        for lives in named.values() {
            let mut ends = Gathered {
                newest_first: true,
                indexes: BTreeSet::new(),
                complete_to: None,
            };
            let lives = holders(tree, lives, (0, u64::MAX), &mut ends)?;
            todo.extend(lives.into_iter().map(|life| Life::whole(life.id, u64::MAX)));
        }
        let mut copies_left = COPIES_MOST;
        while let Some(life) = todo.pop() {
            let lives = found.entry(life.id.partition).or_default();
            if lives.iter().any(|known| known.id == life.id) {
                continue;
            }
            lives.push(life);
            if copies_left == 0 {
                continue;
            }
            if let Some((source, index)) = self.source_of(life.id)? {
                copies_left -= 1;
                let last = if source.partition == life.id.partition {
                    Some(index)
                } else {
                    match self.time_of(life.id.partition, index)? {
                        Some(time) => tree
                            .index_at(source.partition, time)
                            .map_err(index_problem)?,
                        None => None,
                    }
                };
                todo.push(Life::whole(source, last.unwrap_or(u64::MAX)));
            }
        }
        let known = found.into_iter();
        Ok(known.map(|(p, lives)| (p, Lives::Known(lives))).collect())
    }

    /// The version that an event copied; `None` if it copied nothing, or is not here.
    pub(super) fn copied_from(
        &self,
        partition: PartitionId,
        index: u64,
        ordinal: u32,
    ) -> Result<Option<EventId>, Problem> {
        let Some(told) = self.told_at(partition, index)? else {
            return Ok(None);
        };
        let position = usize::try_from(ordinal).unwrap_or(usize::MAX);
        let event = told.change.events.into_iter().nth(position);
        Ok(match event.map(|event| event.operation) {
            Some(Operation::Copy { source, .. }) => Some(source),
            _ => None,
        })
    }

    /// The file whose copy a file began as, and the entry that copied it.
    fn source_of(&self, id: FileId) -> Result<Option<(FileId, u64)>, Problem> {
        let Some(source) = self.copied_from(id.partition, id.index, id.ordinal)? else {
            return Ok(None);
        };
        let file = self.node.parts.tree.file_of(source);
        Ok(file.map_err(index_problem)?.map(|file| (file, id.index)))
    }

    /// The next entries that concern a path, of one partition.
    pub(super) fn part_of(
        &self,
        lives: &Lives,
        range: (u64, u64),
        newest_first: bool,
    ) -> Result<Part, Problem> {
        let tree = &self.node.parts.tree;
        let mut gathered = Gathered {
            newest_first,
            indexes: BTreeSet::new(),
            complete_to: None,
        };
        for life in holders(tree, lives, range, &mut gathered)? {
            let (first, last) = (life.first.max(range.0), life.last.min(range.1));
            gathered.indexes.extend(life.begins);
            gathered.indexes.extend(life.ends);
            let changes = tree.changes_within(life.id, (first, last), newest_first, PAGE);
            let changes = changes.map_err(index_problem)?;
            if let Some(end) = changes.get(PAGE - 1) {
                gathered.cut_at(*end);
            }
            gathered.indexes.extend(changes);
        }
        Ok(gathered.part(range))
    }

    /// Whose entry it is, of those who were called so.
    pub(super) fn holders_at(&self, lives: &Lives, index: u64) -> Result<Vec<FileId>, Problem> {
        let mut ends = Gathered {
            newest_first: true,
            indexes: BTreeSet::new(),
            complete_to: None,
        };
        let lives = holders(&self.node.parts.tree, lives, (index, index), &mut ends)?;
        Ok(lives.into_iter().map(|life| life.id).collect())
    }
}

/// Who was called so between two entries.
fn holders<K: aber_log::env::Kv>(
    tree: &TreeView<K>,
    lives: &Lives,
    range: (u64, u64),
    gathered: &mut Gathered,
) -> Result<Vec<Life>, Problem> {
    let meets = |life: &Life| life.first <= range.1 && life.last >= range.0;
    let (roots, names) = match lives {
        Lives::Known(lives) => return Ok(lives.iter().copied().filter(meets).collect()),
        Lives::Named { roots, names } => (roots, names),
    };
    let mut above: Vec<Life> = roots.iter().copied().filter(meets).collect();
    for name in names {
        let mut below = Vec::new();
        for directory in above {
            let within = (directory.first.max(range.0), directory.last.min(range.1));
            let newest_first = gathered.newest_first;
            let tenures = tree.tenures((directory.id, name), within, newest_first, PAGE);
            let tenures = tenures.map_err(index_problem)?;
            if let Some(end) = tenures.get(PAGE - 1) {
                // The last one's own time is told whole.
                gathered.cut_at(if newest_first {
                    end.since
                } else {
                    end.until.unwrap_or(u64::MAX)
                });
            }
            below.extend(tenures.into_iter().map(|tenure| Life {
                id: tenure.id,
                first: directory.first.max(tenure.since),
                last: directory.last.min(tenure.until.unwrap_or(u64::MAX)),
                begins: if tenure.since >= directory.first {
                    Some(tenure.since)
                } else {
                    directory.begins
                },
                ends: match tenure.until {
                    Some(until) if until <= directory.last => Some(until),
                    _ => directory.ends,
                },
            }));
        }
        above = below;
    }
    above.retain(|life| life.first <= life.last);
    Ok(above)
}

/// The version that an event of a change makes, if it makes one.
pub(super) fn event_id(partition: PartitionId, index: u64, position: usize) -> EventId {
    EventId {
        partition,
        index,
        ordinal: u32::try_from(position).unwrap_or(u32::MAX),
    }
}
