//! [pure] Entries that other nodes gave back.

use super::super::SegmentProblem;
use super::super::frame::wide;
use super::super::record::Record;
use super::{Core, Done, Found};
use aber_proto::{ChainHash, Entry, PartitionId};
use std::ops::Range;

impl Core {
    /// Entries below the oldest one, or in place of damaged ones, come in. They are readable once
    /// they are durable.
    pub(in crate::segment) fn history(
        &mut self,
        partition: PartitionId,
        previous: ChainHash,
        entries: Vec<Entry>,
        done: &mut Option<Done>,
    ) -> Result<(), SegmentProblem> {
        self.check_open()?;
        let index = entries.first().map_or(0, |first| first.log_id.index);
        let refused = |what| SegmentProblem::Contradiction {
            partition,
            index,
            what,
        };
        if entries.iter().any(|entry| entry.partition != partition) {
            return Err(refused("the entry belongs to another partition"));
        }
        let marks = &self.live(partition).marks;
        marks.check_history(&previous, &entries).map_err(refused)?;
        let record = Record::History { previous, entries };
        self.check_size(&record)?;
        if let Record::History { previous, entries } = &record {
            self.live(partition).marks.history(previous, entries);
        }
        self.push(record, done.take());
        self.is_urgent = true;
        Ok(())
    }

    /// Where entries stand below the oldest one that were here before a snapshot took their place:
    /// consecutive and on disk, but only the chain can tell whether they are of the history.
    pub(in crate::segment) fn find_kept(
        &self,
        partition: PartitionId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Vec<Found> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for index in range.rev() {
            let Some(place) = self.index.get(partition, index) else {
                break;
            };
            bytes += wide(place.length);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(Found::At(index, place));
        }
        found.reverse();
        found
    }
}
