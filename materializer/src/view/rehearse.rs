//! [pure] What a change would come to as things stand. Writes nothing.

use super::namespace::{Fold, Stop};
use super::outcome::{EventOutcome, Rejected};
use super::overlay::Overlay;
use super::read::TreeView;
use super::table::{self, AppliedRow, Table};
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use aber_proto::{Event, EventId, NodeId, PartitionId};

impl<K: Kv> TreeView<K> {
    /// Applies events to the view of a partition as it is now, and throws the result away. Others may
    /// write before the caller does.
    ///
    /// # Errors
    /// The index failed.
    pub fn rehearse(
        &self,
        partition: PartitionId,
        author: NodeId,
        events: &[Event],
    ) -> Result<Result<Vec<EventOutcome>, Rejected>, KvProblem> {
        let key = table::table_key(partition, Table::Applied);
        let row: Option<AppliedRow> = self.row(&key)?;
        let mut applied = row.ok_or_else(|| table::damaged(&key))?;
        applied.log_id.index += 1;
        let mut fold = Fold {
            partition,
            rows: Overlay::new(self.kv.clone()),
            applied,
            effects: Vec::new(),
            members: None,
        };
        let mut outcomes = Vec::with_capacity(events.len());
        for (ordinal, event) in (0_u32..).zip(events) {
            let id = EventId {
                partition,
                index: fold.index(),
                ordinal,
            };
            match fold.apply_event(event, id, author) {
                Ok(outcome) => outcomes.push(outcome),
                Err(Stop::Kv(problem)) => return Err(problem),
                Err(Stop::Reject(reason, place)) => {
                    return Ok(Err(Rejected {
                        reason,
                        event: Some(ordinal),
                        place,
                    }));
                }
            }
        }
        Ok(Ok(outcomes))
    }
}
