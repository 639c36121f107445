//! [driver] Chunks go down the trees, few at once.

use super::super::message::{decode_taken, encode_push};
use super::super::state::{Push, Taken};
use super::{
    PUSH_DEADLINE, Relay, STUCK_AFTER, UNDER_WAY, UNDER_WAY_LEAST, UNDER_WAY_SMALL, UNDER_WAY_TIME,
};
use crate::chunk::frame::FrameHeader;
use crate::env::{Env, Runtime};
use crate::mesh::Method;
use crate::uplink::{Priority, Sample};
use aber_proto::ChunkRef;
use bytes::Bytes;

impl<E: Env> Relay<E> {
    /// Sends what is next, as long as there is something and little is under way.
    pub(super) async fn push_all(self) {
        let mut wake = self.inner.wake.clone();
        loop {
            let seen = wake.get();
            match self.next_push() {
                Some((id, push)) => {
                    let sent = self.clone().push(id, push);
                    self.inner.env.runtime().spawn("relay send", sent);
                }
                None => {
                    wake.until(|count| *count != seen).await;
                }
            }
        }
    }

    /// Who does not answer for long is not counted: its siblings must not wait for it (T12).
    fn next_push(&self) -> Option<(u64, Push)> {
        let now = self.inner.env.runtime().now();
        let mut state = self.state();
        let counted = state.under_way.values().filter(|(until, _)| now < *until);
        let (count, bytes) = counted.fold((0, 0), |(count, sum), (_, one)| (count + 1, sum + one));
        let is_full = bytes >= state.most_bytes || count >= UNDER_WAY;
        let small = match count < UNDER_WAY_SMALL {
            true => state.core.next_small_push(now),
            false => None,
        };
        let push = match small {
            Some(push) => push,
            None if is_full && count >= UNDER_WAY_LEAST => return None,
            None => state.core.next_push(now)?,
        };
        let (id, length) = (state.next_send, push.bytes());
        state.next_send += 1;
        let lines = u32::try_from(length / state.most_bytes.max(1)).unwrap_or(u32::MAX);
        let patience = STUCK_AFTER + UNDER_WAY_TIME * lines.saturating_mul(2);
        state.under_way.insert(id, (now + patience, length));
        Some((id, push))
    }

    async fn push(self, id: u64, push: Push) {
        let runtime = self.inner.env.runtime();
        let begun = runtime.now();
        let frame = |(number, chunk): &(usize, ChunkRef)| {
            let frame = self.inner.store.read_frame(&chunk.hash).ok()?;
            let header = FrameHeader::parse(&frame)?;
            (header.chunk() == *chunk).then_some((*number, frame))
        };
        // One that rotted is left out with those after it; others have it, and it is fetched when it
        // is read. So is one that is not as long as its writer said.
        let frames: Vec<_> = push.chunks.iter().map_while(frame).collect();
        let taken = match frames.is_empty() {
            true => Vec::new(),
            false => self.send(&push, frames).await,
        };
        let now = runtime.now();
        runtime.trace(format_args!(
            "push: {:?} of {} to {}: {taken:?}, after {:?}",
            push.chunks.first().map(|(number, _)| number),
            push.parcel,
            push.to,
            now - begun
        ));
        let actions = {
            let mut state = self.state();
            state.under_way.remove(&id);
            state.core.pushed(&push, &taken, now)
        };
        self.act(actions);
        self.tell();
    }

    async fn send(&self, push: &Push, frames: Vec<(usize, Bytes)>) -> Vec<Taken> {
        let mesh = &self.inner.mesh;
        let priority = match push.is_small {
            true => Priority::Log,
            false => Priority::Content,
        };
        let payload = encode_push(&push.parcel, frames);
        let answer = mesh
            .call_as(push.to, Method::Push, priority, payload, PUSH_DEADLINE)
            .await;
        if answer.is_ok() {
            self.heard(push.to);
            mesh.uplink().sample(Sample::Acknowledged(push.bytes()));
        }
        answer.map(decode_taken).unwrap_or_default()
    }
}
