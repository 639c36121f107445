//! [pure] What stays of the past, as the log says it: names of moments, and each volume's
//! retention. What a node forgets by them is decided on each node alone (`crate::prune`).

use super::namespace::{Fold, Outcome, refuse, volume_root};
use super::outcome::{EventOutcome, Idle, Rejection};
use super::read::TreeView;
use super::table::{self, Row, Table, VolumeRow};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{NodeId, Operation, PartitionId, Retention, Timestamp, VolumeId, limit};
use std::collections::BTreeMap;

/// A name of a moment, without the name itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag {
    /// The last entry that is seen of each partition; of one that is not named: none.
    pub moment: BTreeMap<PartitionId, u64>,
    /// For people.
    pub comment: String,
    /// Who set it.
    pub author: NodeId,
    /// The entry of the control partition that set it.
    pub made: u64,
    /// When: its order time, clamped.
    pub time: Timestamp,
}

impl<K: Kv> Fold<K> {
    pub(crate) fn apply_history(&mut self, operation: &Operation, author: NodeId) -> Outcome {
        // A change of a data partition that says so is rejected before it comes here.
        if self.partition != PartitionId::CONTROL {
            return refuse(Rejection::Malformed);
        }
        match operation {
            Operation::SetTag {
                name,
                moment,
                comment,
            } => self.set_tag(
                name,
                Tag {
                    moment: moment.clone(),
                    comment: comment.clone(),
                    author,
                    made: self.index(),
                    time: self.applied.order_time,
                },
            ),
            Operation::RemoveTag { name } => {
                let key = table::tag_key(name);
                if self.rows.get(&key)?.is_none() {
                    return refuse(Rejection::TagUnknown);
                }
                self.rows.remove(key);
                Ok(EventOutcome::Tag { idle: None })
            }
            Operation::SetRetention { volume, retention } => {
                self.set_retention(*volume, *retention)
            }
            _ => refuse(Rejection::Malformed),
        }
    }

    /// A name means one moment for as long as it stands: another one takes a removal first.
    fn set_tag(&mut self, name: &str, tag: Tag) -> Outcome {
        let key = table::tag_key(name);
        let known: Option<Tag> = self.rows.row(&key)?;
        if let Some(known) = known {
            let is_same = (&known.moment, &known.comment) == (&tag.moment, &tag.comment);
            return if is_same {
                let idle = Some(Idle::Same);
                Ok(EventOutcome::Tag { idle })
            } else {
                refuse(Rejection::NameTaken)
            };
        }
        let prefix = table::table_key(PartitionId::CONTROL, Table::Tag);
        let tags = self.rows.scan(&prefix, &prefix_end(&prefix), limit::TAGS)?;
        if tags.len() >= limit::TAGS {
            return refuse(Rejection::TooManyTags);
        }
        self.rows.put(key, tag.encode());
        Ok(EventOutcome::Tag { idle: None })
    }

    /// A volume that is gone keeps what was said last of it: its past is pruned on.
    fn set_retention(&mut self, volume: VolumeId, retention: Retention) -> Outcome {
        let known: Option<VolumeRow> = self.rows.row(&table::volume_key(volume))?;
        if known.is_none() && volume != VolumeId::ROOT {
            return refuse(Rejection::NotFound);
        }
        let file = volume_root(volume);
        let key = table::retention_key(volume);
        let before: Option<Retention> = self.rows.row(&key)?;
        if before.unwrap_or_default() == retention {
            return Ok(EventOutcome::Idle(file, Idle::Same));
        }
        match retention {
            Retention::Forever => self.rows.remove(key),
            kept => self.rows.put(key, kept.encode()),
        }
        Ok(EventOutcome::Done(file))
    }
}

impl<K: Kv> TreeView<K> {
    /// A tag.
    ///
    /// # Errors
    /// The index failed.
    pub fn tag(&self, name: &str) -> Result<Option<Tag>, KvProblem> {
        self.row(&table::tag_key(name))
    }

    /// All tags, by name.
    ///
    /// # Errors
    /// The index failed.
    pub fn tags(&self) -> Result<BTreeMap<String, Tag>, KvProblem> {
        let prefix = table::table_key(PartitionId::CONTROL, Table::Tag);
        let rows = self.kv.scan(&prefix, &prefix_end(&prefix), limit::TAGS)?;
        rows.iter()
            .map(|(key, value)| {
                let damaged = || table::damaged(key);
                let name = table::tag_of(key).ok_or_else(damaged)?;
                let tag = Tag::decode(key, value).map_err(|_| damaged())?;
                Ok((name.to_owned(), tag))
            })
            .collect()
    }

    /// How much of a volume's past is kept.
    ///
    /// # Errors
    /// The index failed.
    pub fn retention(&self, volume: VolumeId) -> Result<Retention, KvProblem> {
        let row = self.row(&table::retention_key(volume))?;
        Ok(row.unwrap_or_default())
    }
}
