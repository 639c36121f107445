//! [driver] A page of the log: entries of all partitions, by order time, that are of a kind.
//!
//! What the index tells of an entry (its author, what became of it) is looked at first; the entry
//! itself is read only then. Of one file only the entries that concern it are looked at; below a
//! directory all are, a bounded number a call: the page token says where to go on.

use super::history::{EVENTS_DEFAULT, KnownNames, Told, damaged, decode_cursor, decode_entry};
use super::history::{encode_cursor, event_touches};
use super::lives::Lives;
use super::outcome::Counted;
use super::{NodeService, index_problem, parse_path};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_materializer::tree::ROOT;
use aber_materializer::view::{Fate, Happened};
use aber_proto::generated::v1;
use aber_proto::{Entry, NodeId, Operation, PartitionId, Timestamp, TreePath};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const PAGE_DEFAULT: usize = 100;
const PAGE_MOST: usize = 1000;
/// Entries looked at in one call.
const LOOKED_MOST: u64 = 20_000;
/// Bytes of a page, about.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Entries read at a time where all are looked at.
const BLOCK: u64 = 64;
const BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// What an entry must be like.
struct Wanted {
    path: TreePath,
    authors: BTreeSet<NodeId>,
    comment: String,
    removed_only: bool,
    rejected: bool,
    newest_first: bool,
    events_most: usize,
}

/// One partition's entries, in one direction.
struct Line {
    partition: PartitionId,
    /// Entries that may be shown, both included.
    range: (u64, u64),
    /// Who was called so; `None`: all entries.
    lives: Option<Lives>,
    /// The next entry to look at, or where to look for more; `None`: that was all.
    next: Option<u64>,
    ready: VecDeque<u64>,
    /// The next one to tell.
    head: Option<Head>,
    /// Entries that were read beside one that was wanted.
    block: BTreeMap<u64, Entry>,
}

struct Head {
    index: u64,
    time: Timestamp,
}

impl Line {
    /// Where to go on; `None` at the end.
    fn position(&self) -> Option<u64> {
        let head = self.head.as_ref().map(|head| head.index);
        head.or(self.ready.front().copied()).or(self.next)
    }

    fn step(&self, index: u64, newest_first: bool) -> Option<u64> {
        let next = if newest_first {
            index.checked_sub(1)
        } else {
            index.checked_add(1)
        };
        next.filter(|next| (self.range.0..=self.range.1).contains(next))
    }
}

impl Wanted {
    /// Whether the index rules an entry out already.
    fn excludes(&self, happened: &Happened) -> bool {
        let is_by = |author| self.authors.is_empty() || self.authors.contains(&author);
        let is_kind = match happened.fate {
            Fate::Nothing => false,
            Fate::Applied => true,
            Fate::Repeat | Fate::Rejected(..) => self.rejected,
        };
        !is_kind || !happened.author.is_some_and(is_by)
    }

    /// Whether an entry that was read is of the kind, but for its events.
    fn takes(&self, told: &Told) -> bool {
        let is_by = self.authors.is_empty() || self.authors.contains(&told.change.author);
        let comment = || told.change.comment.to_lowercase().contains(&self.comment);
        is_by && (self.comment.is_empty() || comment())
    }

    fn takes_event(&self, operation: &Operation) -> bool {
        let is_removal = matches!(
            operation,
            Operation::Remove { .. } | Operation::RemoveVolume { .. }
        );
        is_removal || !self.removed_only
    }
}

impl<E: Env> NodeService<E> {
    pub(super) fn history_list(
        &self,
        request: v1::ListEntriesRequest,
    ) -> Answer<v1::ListEntriesResponse> {
        let names = self.names();
        let wanted = self.wanted(&request)?;
        let asked = usize::try_from(request.page_size).unwrap_or(0);
        let most = match asked {
            0 => PAGE_DEFAULT,
            asked => asked.min(PAGE_MOST),
        };
        let mut lines = self.lines(&request, &wanted)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut looked = 0;
        let mut counted = Counted::default();
        while entries.len() < most && bytes < PAGE_BYTES {
            for line in &mut lines {
                self.find_head(line, &wanted, &mut looked)?;
            }
            let is_tired = |line: &Line| line.head.is_none() && line.position().is_some();
            if lines.iter().any(is_tired) {
                break;
            }
            let Some(line) = next_line(&mut lines, wanted.newest_first) else {
                break;
            };
            let Some(head) = line.head.take() else { break };
            let Some(told) = self.read_line(line, head.index, wanted.newest_first)? else {
                continue;
            };
            let events = self.events_wanted(line, &told, &wanted, &names)?;
            if events.is_empty() || !wanted.takes(&told) {
                continue;
            }
            let mut shown = self.tell_some(&told, &events, &names);
            if shown.applied || shown.outcome_unknown || wanted.rejected {
                self.add_outcomes(&mut shown, &told, &names, &mut counted)?;
                bytes += shown.encoded_len();
                entries.push(shown);
            }
        }
        let is_over = lines.iter().all(|line| line.position().is_none());
        Ok(v1::ListEntriesResponse {
            entries,
            next_page_token: if is_over {
                String::new()
            } else {
                token(&lines)
            },
            cursor: self.cursor(),
            looked_at_count: looked,
        })
    }

    fn wanted(&self, request: &v1::ListEntriesRequest) -> Result<Wanted, Problem> {
        let path = if request.path.is_empty() {
            TreePath::root()
        } else {
            parse_path(&request.path)?
        };
        let members = self.node.parts.members.get();
        let mut authors = BTreeSet::new();
        for name in &request.authors {
            let found: Vec<NodeId> = members
                .all()
                .filter(|member| member.name == *name)
                .map(|member| member.node)
                .collect();
            if found.is_empty() {
                return Err(Problem::new(Reason::MemberUnknown).with("member", name));
            }
            authors.extend(found);
        }
        let events_most = usize::try_from(request.events_per_change).unwrap_or(0);
        Ok(Wanted {
            path,
            authors,
            comment: request.comment.to_lowercase(),
            removed_only: request.removed_only,
            rejected: request.include_rejected,
            newest_first: !request.oldest_first,
            events_most: if events_most == 0 {
                EVENTS_DEFAULT
            } else {
                events_most
            },
        })
    }

    fn lines(
        &self,
        request: &v1::ListEntriesRequest,
        wanted: &Wanted,
    ) -> Result<Vec<Line>, Problem> {
        let foreign = || Problem::new(Reason::CursorForeign).with("detail", "the page token");
        let resumed = if request.page_token.is_empty() {
            None
        } else {
            let bytes = data_encoding::HEXLOWER.decode(request.page_token.as_bytes());
            Some(decode_cursor(&bytes.map_err(|_| foreign())?).ok_or_else(foreign)?)
        };
        let since = self.moment(request.since.as_ref(), &request.path)?;
        let until = self.moment(request.until.as_ref(), &request.path)?;
        // What was rejected changed nothing, so that nothing leads to it but the log itself.
        let mut lives = if wanted.rejected || !self.is_of_one_file(&wanted.path)? {
            None
        } else {
            Some(self.lives_of(&wanted.path, request.follow_renames)?)
        };
        let among = self.partitions_of(&wanted.path)?;
        let mut lines = Vec::new();
        for (partition, applied) in &self.node.parts.applied {
            let Some(applied) = applied.get() else {
                continue;
            };
            let lives = match &mut lives {
                None if among.as_ref().is_some_and(|p| !p.contains(partition)) => continue,
                None => None,
                Some(lives) => match lives.remove(partition) {
                    Some(lives) => Some(lives),
                    None => continue,
                },
            };
            let oldest = self.node.parts.log.state(*partition).oldest.unwrap_or(0);
            let after = since.as_ref().map_or(0, |at| at.index(*partition) + 1);
            let last = until.as_ref().map_or(applied, |at| at.index(*partition));
            let range = (oldest.max(after), last.min(applied));
            let start = if wanted.newest_first {
                range.1
            } else {
                range.0
            };
            let next = match &resumed {
                None => Some(start),
                // A token holds the next index plus one; 0 is the end.
                Some(at) => at.get(partition).copied().unwrap_or(0).checked_sub(1),
            };
            lines.push(Line {
                partition: *partition,
                range,
                lives,
                next: next.filter(|next| (range.0..=range.1).contains(next)),
                ready: VecDeque::new(),
                head: None,
                block: BTreeMap::new(),
            });
        }
        Ok(lines)
    }

    /// The partitions that may hold something of a path; `None`: all. Only a volume that alone ever
    /// had its name says so.
    fn partitions_of(&self, path: &TreePath) -> Result<Option<BTreeSet<PartitionId>>, Problem> {
        let Some(top) = path.components().next() else {
            return Ok(None);
        };
        let tree = &self.node.parts.tree;
        let tenures = tree.tenures((ROOT, top), (0, u64::MAX), true, 2);
        let tenures = tenures.map_err(index_problem)?;
        let [only] = tenures.as_slice() else {
            return Ok(None);
        };
        if only.until.is_some() || only.since != only.id.index {
            return Ok(None);
        }
        let content = tree.content_partition(only.id).map_err(index_problem)?;
        let content = content.unwrap_or(PartitionId::CONTROL);
        Ok(Some([PartitionId::CONTROL, content].into()))
    }

    /// Looks for the next entry of a line that the index does not rule out.
    fn find_head(&self, line: &mut Line, wanted: &Wanted, looked: &mut u64) -> Result<(), Problem> {
        while line.head.is_none() && *looked < LOOKED_MOST {
            let Some(index) = self.next_index(line, wanted.newest_first)? else {
                return Ok(());
            };
            *looked += 1;
            let tree = &self.node.parts.tree;
            let happened = tree.happened(line.partition, index);
            let time = match happened.map_err(index_problem)? {
                Some(happened) if wanted.excludes(&happened) => continue,
                Some(happened) => happened.order_time,
                // Older than what the index tells: the entry itself says.
                None => match self.entry_of(line, index, wanted.newest_first)? {
                    Some(entry) => entry.order_time,
                    None => continue,
                },
            };
            line.head = Some(Head { index, time });
        }
        Ok(())
    }

    fn next_index(&self, line: &mut Line, newest_first: bool) -> Result<Option<u64>, Problem> {
        let Some(lives) = &line.lives else {
            let index = line.next;
            line.next = index.and_then(|index| line.step(index, newest_first));
            return Ok(index);
        };
        while line.ready.is_empty() {
            let Some(next) = line.next else {
                return Ok(None);
            };
            let range = if newest_first {
                (line.range.0, next)
            } else {
                (next, line.range.1)
            };
            let part = self.part_of(lives, range, newest_first)?;
            line.ready = part.indexes.into();
            line.next = part.next;
        }
        Ok(line.ready.pop_front())
    }

    fn read_line(
        &self,
        line: &mut Line,
        index: u64,
        newest_first: bool,
    ) -> Result<Option<Told>, Problem> {
        let entry = self.entry_of(line, index, newest_first)?.cloned();
        Ok(entry.and_then(decode_entry))
    }

    /// An entry of a line, read with its neighbours where those are looked at too.
    fn entry_of<'l>(
        &self,
        line: &'l mut Line,
        index: u64,
        newest_first: bool,
    ) -> Result<Option<&'l Entry>, Problem> {
        if line.block.contains_key(&index) {
            return Ok(line.block.get(&index));
        }
        line.block.clear();
        let (from, to) = match (&line.lives, newest_first) {
            (Some(_), _) => (index, index + 1),
            (None, true) => (index.saturating_sub(BLOCK - 1).max(line.range.0), index + 1),
            (None, false) => (index, (index + BLOCK).min(line.range.1 + 1)),
        };
        let log = &self.node.parts.log;
        let mut at = from;
        while at < to {
            let read = log.read(line.partition, at, to, BLOCK_BYTES);
            let read = read.map_err(damaged)?;
            let Some(last) = read.last() else { break };
            at = last.log_id.index + 1;
            let entries = read.into_iter();
            line.block
                .extend(entries.map(|entry| (entry.log_id.index, entry)));
        }
        Ok(line.block.get(&index))
    }

    /// Which events of a change to show: those that are asked about.
    fn events_wanted(
        &self,
        line: &Line,
        told: &Told,
        wanted: &Wanted,
        names: &KnownNames,
    ) -> Result<Vec<usize>, Problem> {
        let events = &told.change.events;
        let mut found: Vec<usize> = match &line.lives {
            None => {
                let touches = |position: &usize| {
                    let event = events.get(*position);
                    event.is_some_and(|event| event_touches(event, &wanted.path, names))
                };
                (0..events.len()).filter(touches).collect()
            }
            Some(lives) => {
                let index = told.entry.log_id.index;
                let ids = self.holders_at(lives, index)?;
                self.events_of(told, &ids)?
            }
        };
        found.retain(|position| {
            let event = events.get(*position);
            event.is_some_and(|event| wanted.takes_event(&event.operation))
        });
        found.truncate(wanted.events_most);
        Ok(found)
    }
}

/// The line whose next entry comes first.
fn next_line(lines: &mut [Line], newest_first: bool) -> Option<&mut Line> {
    let place = |line: &&mut Line| {
        let time = line.head.as_ref().map_or(0, |head| head.time.0);
        (if newest_first { -time } else { time }, line.partition)
    };
    let waiting = lines.iter_mut().filter(|line| line.head.is_some());
    waiting.min_by_key(place)
}

fn token(lines: &[Line]) -> String {
    let at = lines
        .iter()
        .map(|line| (line.partition, line.position().map_or(0, |next| next + 1)));
    data_encoding::HEXLOWER.encode(&encode_cursor(at))
}
