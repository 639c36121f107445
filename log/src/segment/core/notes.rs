//! [pure] Notes on their way in, and those that are durable.

use super::super::SegmentProblem;
use super::super::ledger::INLINE_NOTE_BYTES;
use super::super::record::{NoteValue, Record};
use super::{Core, Done};
use bytes::Bytes;

/// Longest key of a note.
const NOTE_KEY_BYTES: usize = 1024;

impl Core {
    /// The durable notes whose key starts with `prefix`.
    pub(in crate::segment) fn notes_with(&self, prefix: &[u8]) -> Vec<(Bytes, NoteValue)> {
        let from = self.ledger.notes.range(Bytes::copy_from_slice(prefix)..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        found
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Notes come in.
    pub(in crate::segment) fn notes(
        &mut self,
        notes: Vec<(Bytes, Option<Bytes>)>,
        done: &mut Option<Done>,
    ) -> Result<(), SegmentProblem> {
        self.check_open()?;
        if let Some((key, _)) = notes.iter().find(|(key, _)| key.len() > NOTE_KEY_BYTES) {
            return Err(SegmentProblem::TooLong {
                size_bytes: key.len(),
                limit_bytes: NOTE_KEY_BYTES,
            });
        }
        let (cost, grows) = (
            notes_cost(&notes),
            notes.iter().any(|(_, value)| value.is_some()),
        );
        let values = notes.into_iter();
        let record = Record::Notes(values.map(|(k, v)| (k, v.map(NoteValue::Bytes))).collect());
        self.check_size(&record)?;
        let size_bytes = self.ledger.notes_bytes + self.notes_waiting_bytes + cost;
        let limit_bytes = self.limits.notes_bytes;
        if grows && size_bytes > limit_bytes {
            return Err(SegmentProblem::NotesFull {
                size_bytes,
                limit_bytes,
            });
        }
        self.notes_waiting_bytes += cost;
        self.push(record, done.take());
        self.is_urgent = true;
        Ok(())
    }
}

/// Bytes a note will take in checkpoints.
pub(super) fn note_cost(key: &Bytes, value: Option<&Bytes>) -> usize {
    let kept = match value {
        None => 0,
        Some(bytes) if bytes.len() <= INLINE_NOTE_BYTES => bytes.len() + 8,
        Some(_) => 12,
    };
    key.len() + 3 + kept
}

fn notes_cost(notes: &[(Bytes, Option<Bytes>)]) -> usize {
    let costs = notes.iter();
    costs
        .map(|(key, value)| note_cost(key, value.as_ref()))
        .sum()
}
