//! [driver] Numbers and signatures for changes that can be proposed.

use super::{Driver, Notes, RESERVE, author_key, item_key};
use crate::env::{Env, Runtime};
use crate::outbox::state::{self, Sequence};
use aber_proto::{ChangeHash, Instant, PartitionId, SignedChange, codec, limit};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

impl<E: Env> Driver<E> {
    /// Gives every item that may be proposed its place and signature; answers what to send.
    pub(super) fn sign_ready(&mut self, notes: &mut Notes) -> BTreeMap<PartitionId, Vec<Sequence>> {
        let now = self.options.env.runtime().now();
        let mut batches: BTreeMap<PartitionId, Vec<Sequence>> = BTreeMap::new();
        let mut unsigned = Vec::new();
        for sequence in self.state.to_propose(now, limit::BATCH_CHANGES) {
            if self.settle(sequence, now, notes) {
                let Some(item) = self.state.item(sequence) else {
                    continue;
                };
                if item.signed.is_none() {
                    unsigned.push(sequence);
                }
                batches.entry(item.partition()).or_default().push(sequence);
            }
        }
        for group in unsigned.chunks(limit::BATCH_CHANGES) {
            self.sign(group, notes);
        }
        for (partition, sequences) in &mut batches {
            sequences.retain(|sequence| self.author_sequence(*sequence).is_some());
            sequences.sort_by_key(|sequence| self.author_sequence(*sequence));
            self.state.sent(*partition, sequences);
        }
        batches
    }

    fn author_sequence(&self, sequence: Sequence) -> Option<u64> {
        Some(self.state.item(sequence)?.signed.as_ref()?.0)
    }

    /// Checks an item against the view: whether it was answered already, and where its volume is.
    fn settle(&mut self, sequence: Sequence, now: Instant, notes: &mut Notes) -> bool {
        let Some(item) = self.state.item_mut(sequence) else {
            return false;
        };
        let request = item.request();
        let collaborator = Arc::clone(&self.options.collaborator);
        if let Some((signed, _)) = &item.signed {
            let signed = *signed;
            let seen = collaborator.seen(item.partition(), request);
            if let Some(outcome) = seen.outcome {
                self.finish(request, &outcome, notes);
                return false;
            }
            if seen.last_sequence >= signed {
                self.state.void(request, signed);
            }
            return true;
        }
        let Some(name) = item.volume.clone() else {
            return true;
        };
        match collaborator.volume(&name) {
            Some((volume, partition)) => {
                item.place_in(volume, partition);
                true
            }
            None => {
                let why = format!("the volume {name} is not there yet");
                self.state
                    .postponed(sequence, now + state::REFUSED_PAUSE, why);
                false
            }
        }
    }

    fn sign(&mut self, group: &[Sequence], notes: &mut Notes) {
        let mut bodies = Vec::with_capacity(group.len());
        for sequence in group {
            let Some(item) = self.state.item(*sequence) else {
                continue;
            };
            let mut change = item.change.clone();
            let chain = self.authors.entry(change.partition).or_default();
            // Number 0 means "none yet" in a view.
            chain.next = chain.next.max(1);
            change.author_sequence = chain.next;
            change.previous = chain.previous;
            change.author = self.options.me;
            change.cluster = self.options.cluster;
            let body = codec::encode_change(&change);
            chain.previous = ChangeHash::of(&body);
            chain.next += 1;
            bodies.push((*sequence, change.author_sequence, change.partition, body));
        }
        self.reserve(notes);
        let hashes: Vec<_> = bodies
            .iter()
            .map(|(.., body)| ChangeHash::of(body))
            .collect();
        let signatures = self.options.key.sign_batch(&hashes);
        for ((sequence, number, _, body), signature) in bodies.into_iter().zip(signatures) {
            if let Some(item) = self.state.item_mut(sequence) {
                item.set_signed(number, &SignedChange { body, signature });
                notes.push((item_key(sequence), Some(item.encode())));
            }
        }
    }

    /// Numbers are durable before they are used: after a crash none is given twice.
    fn reserve(&mut self, notes: &mut Notes) {
        for (partition, chain) in &mut self.authors {
            if chain.next > chain.reserved {
                chain.reserved = chain.next + RESERVE;
                let value = Bytes::copy_from_slice(&chain.reserved.to_le_bytes());
                notes.push((author_key(*partition), Some(value)));
            }
        }
    }
}
