//! [driver] What other relays send and say.

use super::super::bits::Bits;
use super::super::message::{Reply, Word, decode_push, encode_taken};
use super::super::parcel::{Announcement, ParcelId};
use super::super::push::TOGETHER_BYTES;
use super::super::state::Taken;
use super::Relay;
use crate::chunk::ChunkProblem;
use crate::env::{Env, Runtime};
use crate::mesh::Method;
use aber_proto::{ChunkHash, ChunkRef, NodeId};
use bytes::Bytes;
use std::collections::BTreeSet;

impl<E: Env> Relay<E> {
    /// Answers another relay.
    ///
    /// # Errors
    /// A malformed message, or a store that failed.
    pub async fn answer(
        self,
        from: NodeId,
        method: Method,
        payload: Bytes,
    ) -> Result<Bytes, String> {
        self.heard(from);
        match method {
            Method::Push => self.take(from, payload),
            _ => {
                let word = Word::decode(payload).map_err(|problem| problem.to_string())?;
                self.hear(from, word).map(|reply| reply.encode())
            }
        }
    }

    fn take(&self, from: NodeId, payload: Bytes) -> Result<Bytes, String> {
        let (parcel, chunks) = decode_push(payload).map_err(|p| p.to_string())?;
        let expected: Vec<Option<ChunkRef>> = {
            let state = self.state();
            let known = chunks.iter();
            let known = known.map(|(number, _)| state.core.chunk_of(&parcel, *number));
            known.collect()
        };
        let known = expected.iter().flatten();
        let bytes: u64 = known.map(|chunk| u64::from(chunk.length)).sum();
        if chunks.len() > 1 && bytes > TOGETHER_BYTES {
            return Err("more chunks in a message than go together".to_owned());
        }
        let taken = expected
            .into_iter()
            .zip(chunks)
            .map(|(expected, (_, frame))| self.take_one(from, parcel, expected, &frame));
        let taken = taken.collect::<Result<Vec<_>, _>>()?;
        if taken
            .iter()
            .any(|one| matches!(one, Taken::Stored | Taken::Had))
        {
            let told = self.state().core.pushed_here(from, parcel);
            self.act(told.into_iter().collect());
        }
        Ok(encode_taken(&taken))
    }

    fn take_one(
        &self,
        from: NodeId,
        parcel: ParcelId,
        expected: Option<ChunkRef>,
        frame: &Bytes,
    ) -> Result<Taken, String> {
        // One before it in the message may have been bad.
        if self.state().core.is_blamed(from) {
            return Ok(Taken::Bad);
        }
        let Some(chunk) = expected else {
            return Ok(Taken::Unknown);
        };
        let had = self.inner.store.has(&chunk.hash);
        let had = had.map_err(|problem| problem.to_string())?;
        let taken = match self.inner.store.put_frame(frame) {
            Ok(got) if got == chunk && had => Taken::Had,
            Ok(got) if got == chunk => Taken::Stored,
            Ok(_) | Err(ChunkProblem::Damaged { .. }) => Taken::Bad,
            Err(problem) => return Err(problem.to_string()),
        };
        if taken == Taken::Bad {
            let runtime = self.inner.env.runtime();
            runtime.trace(format_args!("relay: {from} sent a bad chunk of {parcel}"));
            self.state().core.strike(from);
        } else {
            self.stored(chunk.hash, Some(from));
        }
        Ok(taken)
    }

    fn hear(&self, from: NodeId, word: Word) -> Result<Reply, String> {
        let now = self.inner.env.runtime().now();
        let mut reply = Reply {
            is_taken: true,
            ..Reply::default()
        };
        match word {
            Word::Announce(announcement, report) => {
                let id = announcement.id;
                self.hear_of(announcement)?;
                // Who had all of it before is late to tell, and this node late to hear.
                if let Some(report) = report.filter(|_| from != id.writer) {
                    let actions = self.state().core.have(from, report, now);
                    self.act(actions.unwrap_or_default());
                }
                let report = self.state().core.answer_to(from, &id);
                reply = report.map(Reply::from).unwrap_or_default();
            }
            Word::Have(reports) => {
                for report in reports {
                    let heard = self.state().core.have(from, report, now);
                    match heard {
                        Some(actions) => self.act(actions),
                        None => reply.unknown.push(report.parcel),
                    }
                }
            }
            Word::Adopt(parcel, stripe) => {
                let report = self.state().core.adopted(from, parcel, stripe);
                reply = report.map(Reply::from).unwrap_or_default();
            }
            Word::Holders(parcel, nodes) => {
                let actions = {
                    let mut state = self.state();
                    reply.is_taken = state.core.holders_of(&parcel).is_some();
                    state.core.holders(parcel, &nodes, now)
                };
                self.act(actions);
                self.tell();
            }
        }
        Ok(reply)
    }

    fn hear_of(&self, announcement: Announcement) -> Result<(), String> {
        if self.state().core.report_of(&announcement.id).is_some() {
            return Ok(());
        }
        if !self.inner.roster.is_good(&announcement) {
            return Err("an announcement that no member who may write signed".to_owned());
        }
        let lacking = self.inner.store.missing(&announcement.chunks);
        let lacking = lacking.map_err(|problem| problem.to_string())?;
        let lacking: BTreeSet<ChunkHash> = lacking.iter().map(|chunk| chunk.hash).collect();
        let numbered = announcement.chunks.iter().enumerate();
        let present: Bits = numbered
            .filter(|(_, chunk)| !lacking.contains(&chunk.hash))
            .map(|(number, _)| number)
            .collect();
        let now = self.inner.env.runtime().now();
        let actions = self.state().core.announced(announcement, present, now);
        self.act(actions.unwrap_or_default());
        Ok(())
    }
}
