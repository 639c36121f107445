//! [pure] What happens once a frame is durable.

use super::super::record::{NoteValue, Place, Record, Written};
use super::notes::note_cost;
use super::{Core, entry_bytes};
use aber_proto::Entry;
use std::collections::BTreeSet;

/// Entries kept in memory although the disk has them.
const RECENT_BYTES: usize = 4 << 20;

impl Core {
    /// A frame is durable.
    pub(in crate::segment) fn complete(&mut self, written: &[Written]) {
        let mut touched = BTreeSet::new();
        for done in written {
            self.waiting_bytes -= done.record.size();
            self.ledger.apply(done);
            match &done.record {
                Record::Append(entry) => {
                    self.complete_append(entry, done.places.first());
                    touched.insert(entry.partition);
                }
                Record::Truncate(partition, _) => {
                    self.live(*partition).cuts.pop_front();
                }
                Record::Purge {
                    partition,
                    upto,
                    is_restart: true,
                    ..
                } => {
                    let live = self.live(*partition);
                    live.cuts.pop_front();
                    live.flushed = live.flushed.max(Some(upto.index));
                    touched.insert(*partition);
                }
                Record::History { entries, .. } => {
                    self.complete_history(entries, &done.places);
                }
                Record::Notes(notes) => {
                    let costs = notes.iter().map(|(key, value)| match value {
                        Some(NoteValue::Bytes(bytes)) => note_cost(key, Some(bytes)),
                        _ => note_cost(key, None),
                    });
                    self.notes_waiting_bytes -= costs.sum::<usize>();
                }
                _ => {}
            }
        }
        for partition in touched {
            let live = self.live(partition);
            live.watch.set(live.flushed.unwrap_or(0));
        }
        self.evict();
    }

    fn complete_append(&mut self, entry: &Entry, place: Option<&Place>) {
        let (partition, index) = (entry.partition, entry.log_id.index);
        let live = self.live(partition);
        let is_gone = live
            .cuts
            .iter()
            .any(|keep| keep.is_none_or(|keep| index > keep));
        if is_gone {
            return;
        }
        live.flushed = Some(index);
        let place = place.expect("an entry has one place");
        self.index.put(partition, index, *place);
        self.evictable.push_back((partition, index));
    }

    /// A restart of the partition's log may have come in meanwhile: then nothing is wanted of it.
    fn complete_history(&mut self, entries: &[Entry], places: &[Place]) {
        let Some(first) = entries.first() else {
            return;
        };
        let (partition, index) = (first.partition, first.log_id.index);
        if index >= self.live(partition).marks.first {
            self.index.put_history(partition, index, places);
        }
    }

    fn evict(&mut self) {
        while self.recent_bytes > RECENT_BYTES {
            let Some((partition, index)) = self.evictable.pop_front() else {
                return;
            };
            let live = self.live(partition);
            // It may have been truncated since, and another one may be on its way to the disk.
            let is_durable = live.flushed.is_some_and(|flushed| index <= flushed);
            let entry = if is_durable {
                live.recent.remove(&index)
            } else {
                None
            };
            if let Some(entry) = entry {
                self.recent_bytes -= entry_bytes(&entry);
            }
        }
    }
}
