//! [driver] What other nodes ask about content.

use super::{ANSWER_BYTES, FetchProblem, NodeContent, groups};
use crate::chunk::ChunkProblem;
use crate::env::Env;
use crate::mesh::Method;
use aber_proto::generated::rpc;
use aber_proto::{ChunkHash, ChunkRef, NodeId, limit, manifest};
use bytes::Bytes;
use prost::Message;

impl<E: Env> NodeContent<E> {
    /// Answers another node's question about content.
    ///
    /// # Errors
    /// A malformed question, or a store that failed.
    pub async fn answer(
        self,
        from: NodeId,
        method: Method,
        payload: Bytes,
    ) -> Result<Bytes, String> {
        let answer = match method {
            Method::Hold => self.answer_hold(from, payload).await,
            Method::Chunks => self.answer_chunks(payload),
            Method::Held => self.answer_held(payload),
            Method::Push | Method::Relay => {
                return self.inner.relay.clone().answer(from, method, payload).await;
            }
            _ => Err(FetchProblem::Lied(from)),
        };
        answer.map_err(|problem| problem.to_string())
    }

    async fn answer_hold(&self, from: NodeId, payload: Bytes) -> Result<Bytes, FetchProblem> {
        let chunks = parcel_of(rpc::HoldRequest::decode(payload).map(|r| r.rows), from)?;
        for group in groups(self.inner.store.missing(&chunks)?) {
            self.fetch_group(&group, Some(from)).await?;
        }
        let lacking = self.inner.store.missing(&chunks)?;
        let held = lacking.is_empty();
        if held {
            self.inner.store.sync().await?;
        }
        let problem = if held {
            String::new()
        } else {
            format!("{} chunks lack", lacking.len())
        };
        Ok(rpc::HoldResponse { held, problem }.encode_to_vec().into())
    }

    fn answer_chunks(&self, payload: Bytes) -> Result<Bytes, FetchProblem> {
        let request =
            rpc::ChunksRequest::decode(payload).map_err(|_| FetchProblem::Lied(self.inner.me))?;
        let (mut answer, mut bytes) = (rpc::ChunksResponse::default(), 0);
        for hash in request.hashes.into_iter().take(limit::PARCEL_CHUNKS) {
            let Some(known) = ChunkHash::from_slice(&hash) else {
                continue;
            };
            match self.inner.store.read_frame(&known) {
                Ok(frame) => {
                    if bytes + frame.len() > ANSWER_BYTES {
                        break;
                    }
                    bytes += frame.len();
                    self.inner.relay.handed_out(&known);
                    answer.frames.push(frame);
                }
                Err(ChunkProblem::Missing { .. } | ChunkProblem::Damaged { .. }) => {
                    answer.missing.push(hash);
                }
                Err(problem) => return Err(problem.into()),
            }
        }
        Ok(answer.encode_to_vec().into())
    }

    fn answer_held(&self, payload: Bytes) -> Result<Bytes, FetchProblem> {
        let rows = rpc::HeldRequest::decode(payload).map(|request| request.rows);
        let chunks = parcel_of(rows, self.inner.me)?;
        let lacking = self.inner.store.missing(&chunks)?;
        let sum = |chunks: &[ChunkRef]| chunks.iter().map(|c| u64::from(c.length)).sum::<u64>();
        let held_bytes = sum(&chunks).saturating_sub(sum(&lacking));
        Ok(rpc::HeldResponse { held_bytes }.encode_to_vec().into())
    }
}

fn parcel_of(
    rows: Result<Bytes, prost::DecodeError>,
    from: NodeId,
) -> Result<Vec<ChunkRef>, FetchProblem> {
    let rows = rows.map_err(|_| FetchProblem::Lied(from))?;
    if rows.len() > limit::PARCEL_CHUNKS * limit::CHUNK_ROW_BYTES {
        return Err(FetchProblem::Lied(from));
    }
    manifest::decode_list(&rows).map_err(|_| FetchProblem::Lied(from))
}
