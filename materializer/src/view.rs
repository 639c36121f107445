//! [pure] The folded namespace of a partition: `apply(entry) -> effects`, total and deterministic.
//!
//! An entry is applied whole or rejected with a reason, equally on all nodes and whatever its
//! bytes (promise C8): no clock, no randomness, nothing but the rows of its own partition. What
//! can fail is the index below, and a log that contradicts its chain; then the whole batch is
//! thrown away, nothing was committed, and the view stands where it stood.
//!
//! A change is judged in this order: its bytes and the rules that need no view; cluster and
//! partition; the control index, which must not fall; the request id, which may be answered
//! already; the author's sequence number, which must be above the last one that counted; the
//! verdict of the reader on author and role; its events, one after the other. Sequence number and
//! request id count once the change is known to be its author's, applied or not.

pub(crate) mod backfill;
pub(crate) mod code;
mod control;
pub(crate) mod digest;
mod guard;
mod history;
pub(crate) mod keep;
mod membership;
mod moment;
mod namespace;
mod operation;
mod outcome;
mod overlay;
pub(crate) mod past;
mod position;
mod prune;
mod read;
mod rehearse;
mod requests;
mod revive;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use backfill::{Backfill, BackfillProblem};
pub use history::Tenure;
pub use keep::Tag;
pub use moment::{Forgiven, Moment};
pub use outcome::{EntryOutcome, EntryResult, EventOutcome, Idle, Rejected, Rejection};
pub use outcome::{RequestOutcome, Verdict};
pub use past::{Fate, Happened};
pub use prune::{Gone, NamePrune, Passed, PrunePlan, Pruned, Release};
pub use read::is_forgotten;
pub use read::{Found, Resolved, TreeView, Version, Volume};

use crate::effect::Effect;
use crate::members::Members;
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem};
use aber_proto::{ChainHash, Change, ChangeHash, ChangeProblem, Entry, EntryKind, EventId};
use aber_proto::{Genesis, LogId, PartitionId, Timestamp, ViewDigest, codec, limit};
use digest::Buckets;
use namespace::{Fold, Stop};
use overlay::Overlay;
use std::sync::Arc;
use table::{AppliedRow, Row, Table};

/// How far a view is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The last entry applied; term and index 0 if none was.
    pub log_id: LogId,
    /// The chain hash there; the partition's start if no entry was applied.
    pub chain: ChainHash,
    /// Order time, clamped so that it never falls.
    pub order_time: Timestamp,
    /// The highest control index seen.
    pub control_index: u64,
    /// Regular files in the partition.
    pub files: u64,
    /// The sum of their present sizes in bytes.
    pub bytes: u64,
}

/// Why a view cannot be opened or go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViewProblem {
    /// The index failed, or a row in it is damaged: rebuild it.
    #[error(transparent)]
    Kv(#[from] KvProblem),
    /// The rows are of another cluster or format: rebuild the index.
    #[error("the index of partition {0} is of another cluster or format")]
    Foreign(PartitionId),
    /// A snapshot was being installed: install it again.
    #[error("a snapshot of partition {0} was not installed to its end")]
    Installing(PartitionId),
    /// An entry does not follow from the one before it.
    #[error("partition {partition}: the entry at index {found} does not follow index {applied}")]
    ChainBroken {
        /// Of which partition the view is.
        partition: PartitionId,
        /// The last index applied.
        applied: u64,
        /// The index of the entry.
        found: u64,
    },
}

/// What a batch did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// What became of each entry.
    pub outcomes: Vec<EntryOutcome>,
    /// What changed in the tree, in order.
    pub effects: Vec<Effect>,
}

/// The view of one partition.
pub struct View<K: Kv> {
    kv: K,
    partition: PartitionId,
    row: AppliedRow,
    applied: Applied,
    buckets: Buckets,
    requests_most: u64,
    digest_every: u64,
    /// Of the control partition alone: a copy of its rows, or the founders before the first entry.
    members: Option<Arc<Members>>,
}

/// A change as it was read from an entry.
type Decoded = Result<(Change, ChangeHash), ChangeProblem>;

impl<K: Kv> View<K> {
    /// Opens the view as the index holds it; empty if it holds nothing. The control partition of
    /// an empty one starts from the members of the genesis.
    ///
    /// # Errors
    /// The index failed or is not usable; see [`ViewProblem`].
    pub fn open(kv: K, partition: PartitionId, genesis: &Genesis) -> Result<Self, ViewProblem> {
        let cluster = genesis.cluster_id();
        if kv
            .get(&table::table_key(partition, Table::Installing))?
            .is_some()
        {
            return Err(ViewProblem::Installing(partition));
        }
        let key = table::table_key(partition, Table::Applied);
        let row = match kv.get(&key)? {
            None => AppliedRow {
                cluster,
                log_id: LogId::default(),
                chain: ChainHash::genesis(&cluster, partition),
                order_time: Timestamp(i64::MIN),
                control_index: 0,
                files: 0,
                bytes: 0,
                requests: (0, 0),
                longest_bytes: 0,
                deepest: 0,
            },
            Some(value) => AppliedRow::decode(&key, &value)
                .ok()
                .filter(|row| row.cluster == cluster)
                .ok_or(ViewProblem::Foreign(partition))?,
        };
        let buckets = Buckets::read(&kv, partition)?;
        let members = match partition {
            PartitionId::CONTROL => Some(Arc::new(Members::load(&kv, genesis)?)),
            _ => None,
        };
        Ok(Self {
            kv,
            partition,
            applied: row.to_applied(),
            row,
            buckets,
            requests_most: limit::REQUESTS_REMEMBERED,
            digest_every: limit::DIGEST_ENTRIES,
            members,
        })
    }

    /// Members and tickets as of the last entry applied; `None` but for the control partition.
    #[must_use]
    pub fn members(&self) -> Option<&Arc<Members>> {
        self.members.as_ref()
    }

    /// How far the view is.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Its partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The digest of its rows, history left out (promise M4).
    #[must_use]
    pub fn digest(&self) -> ViewDigest {
        self.buckets.digest()
    }

    /// Folds entries that follow the last one applied, each with the reader's verdict, and commits
    /// the outcome together with `extra`, all or nothing. Where nodes compare their views (see
    /// [`View::is_compared`]) a batch is to end, else nothing is noted of that entry.
    ///
    /// # Errors
    /// The index failed, or an entry does not follow from the chain. Nothing was committed, unless
    /// the index says so of its commit.
    pub fn apply_batch(
        &mut self,
        entries: &[(Entry, Verdict)],
        extra: KvBatch,
    ) -> Result<Batch, ViewProblem> {
        let mut fold = Fold {
            partition: self.partition,
            rows: Overlay::new(self.kv.clone()),
            applied: self.row.clone(),
            effects: Vec::new(),
            members: self.members.clone(),
        };
        if self.applied_index().is_none() && !entries.is_empty() {
            fold.seed_members();
        }
        let mut outcomes = Vec::with_capacity(entries.len());
        for (entry, verdict) in entries {
            check_follows(&fold.applied, self.partition, entry)?;
            let control_index_fell = fold.advance(entry);
            let mut outcome = EntryOutcome {
                log_id: entry.log_id,
                request: None,
                result: EntryResult::Nothing,
            };
            let (mut author, mut plan) = (None, None);
            if entry.kind == EntryKind::Change {
                let decoded = decode(entry);
                if let Ok((change, _)) = &decoded {
                    author = Some(change.author);
                    plan = change.origin.map(|origin| origin.plan);
                }
                outcome.request = decoded.as_ref().ok().map(|(change, _)| change.request);
                outcome.result = match decoded {
                    Err(problem) => rejected(of_problem(&problem)),
                    Ok(_) if control_index_fell => rejected(Rejection::ControlIndexFell),
                    Ok(change) => fold.apply_change(&change, *verdict, self.requests_most)?,
                };
            }
            fold.note_past(author, plan, &outcome.result)?;
            fold.rows.keep();
            outcomes.push(outcome);
        }
        self.commit(fold, extra, outcomes)
    }

    fn commit(
        &mut self,
        mut fold: Fold<K>,
        extra: KvBatch,
        outcomes: Vec<EntryOutcome>,
    ) -> Result<Batch, ViewProblem> {
        let (row, members) = (fold.applied, fold.members);
        let key = table::table_key(self.partition, Table::Applied);
        if !outcomes.is_empty() {
            fold.rows.put(key, row.encode());
        }
        let mut buckets = self.buckets.clone();
        let (rows, base) = fold.rows.into_rows();
        for (key, value) in &rows {
            if key.first() != Some(&table::VIEW) || !Table::of(key).is_some_and(Table::is_digested)
            {
                continue;
            }
            let before = match base.get(key) {
                Some(before) => before.clone(),
                None => self.kv.get(key)?,
            };
            if before == *value {
                continue;
            }
            if let Some(before) = before {
                buckets.subtract(key, &before);
            }
            if let Some(value) = value {
                buckets.add(key, value);
            }
        }
        let mut batch = extra;
        batch.rows.extend(rows);
        let index = row.log_id.index;
        if !outcomes.is_empty() && self.is_compared(index) {
            let key = past::digest_key(self.partition, index);
            batch.put(key, past::DigestRow(buckets.digest()).encode());
        }
        buckets.write_changed(self.partition, &mut batch);
        self.kv.commit(batch)?;
        self.applied = row.to_applied();
        self.row = row;
        self.buckets = buckets;
        self.members = members;
        let effects = fold.effects;
        Ok(Batch { outcomes, effects })
    }
}

fn decode(entry: &Entry) -> Decoded {
    let signed = codec::decode_signed(&entry.body)?;
    Ok((codec::decode_change(&signed.body)?, signed.hash()))
}

fn of_problem(problem: &ChangeProblem) -> Rejection {
    match problem {
        ChangeProblem::TooManyEvents { .. } | ChangeProblem::TooLong { .. } => Rejection::TooLarge,
        ChangeProblem::Path { .. } | ChangeProblem::MemberName(_) | ChangeProblem::TagName(_) => {
            Rejection::NameNotAllowed
        }
        ChangeProblem::WrongPartition(_) => Rejection::OtherCluster,
        _ => Rejection::Malformed,
    }
}

fn rejected(reason: Rejection) -> EntryResult {
    EntryResult::Rejected(Rejected {
        reason,
        event: None,
        place: None,
    })
}

/// The chain says which entry comes next. The first one has whatever index the log starts with.
fn check_follows(
    applied: &AppliedRow,
    partition: PartitionId,
    entry: &Entry,
) -> Result<(), ViewProblem> {
    let start = applied.chain == ChainHash::genesis(&applied.cluster, partition);
    let next = start || applied.log_id.index.checked_add(1) == Some(entry.log_id.index);
    if next && entry.partition == partition && entry.verify(&applied.chain).is_ok() {
        return Ok(());
    }
    Err(ViewProblem::ChainBroken {
        partition,
        applied: applied.log_id.index,
        found: entry.log_id.index,
    })
}

impl AppliedRow {
    fn to_applied(&self) -> Applied {
        Applied {
            log_id: self.log_id,
            chain: self.chain,
            order_time: self.order_time,
            control_index: self.control_index,
            files: self.files,
            bytes: self.bytes,
        }
    }
}

impl<K: Kv> Fold<K> {
    /// Takes note of an entry, whatever it holds; whether its control index fell.
    fn advance(&mut self, entry: &Entry) -> bool {
        let applied = &mut self.applied;
        let fell = entry.control_index < applied.control_index;
        applied.log_id = entry.log_id;
        applied.chain = entry.chain;
        applied.order_time = applied.order_time.max(entry.order_time);
        applied.control_index = applied.control_index.max(entry.control_index);
        fell
    }

    fn apply_change(
        &mut self,
        (change, hash): &(Change, ChangeHash),
        verdict: Verdict,
        requests_most: u64,
    ) -> Result<EntryResult, KvProblem> {
        // Index 0 would give a file the id of the root.
        if self.index() == 0 {
            return Ok(rejected(Rejection::Malformed));
        }
        if change.cluster != self.applied.cluster || change.partition != self.partition {
            return Ok(rejected(Rejection::OtherCluster));
        }
        let is_void = change.author_sequence <= self.last_sequence(change.author)?;
        let refused = match verdict {
            Verdict::Allowed => None,
            Verdict::Refused(reason) => Some(reason),
        };
        if refused.is_none_or(Rejection::is_of_author) && !is_void {
            self.set_author(change.author, change.author_sequence, *hash);
        }
        // A change that is proposed again has a number that counted already: it is answered.
        if let Some(first) = self.answered(change.request)? {
            let (index, outcome) = (first.index, first.outcome);
            return Ok(EntryResult::Repeat { index, outcome });
        }
        if is_void {
            return Ok(rejected(Rejection::Void));
        }
        if let Some(reason) = refused {
            if reason.is_of_author() {
                self.answer(
                    change.request,
                    RequestOutcome::Rejected(reason),
                    requests_most,
                )?;
            }
            return Ok(rejected(reason));
        }
        let result = self.apply_events(change)?;
        let outcome = match &result {
            EntryResult::Rejected(rejected) => RequestOutcome::Rejected(rejected.reason),
            _ => RequestOutcome::Applied,
        };
        self.answer(change.request, outcome, requests_most)?;
        Ok(result)
    }

    /// All events, or none.
    fn apply_events(&mut self, change: &Change) -> Result<EntryResult, KvProblem> {
        self.rows.keep();
        let (applied, effects) = (self.applied.clone(), self.effects.len());
        let members = self.members.clone();
        let mut outcomes = Vec::with_capacity(change.events.len());
        for (ordinal, event) in (0_u32..).zip(&change.events) {
            let id = EventId {
                partition: self.partition,
                index: self.index(),
                ordinal,
            };
            match self.apply_event(event, id, change.author) {
                Ok(outcome) => outcomes.push(outcome),
                Err(Stop::Kv(problem)) => return Err(problem),
                Err(Stop::Reject(reason, place)) => {
                    self.rows.roll_back();
                    self.applied = applied;
                    self.members = members;
                    self.effects.truncate(effects);
                    return Ok(EntryResult::Rejected(Rejected {
                        reason,
                        event: Some(ordinal),
                        place,
                    }));
                }
            }
        }
        Ok(EntryResult::Applied(outcomes))
    }
}
