//! [pure] Who is sent a reference, and who the body itself.
//!
//! A node passes on by reference what came to it by reference: a body whose chunks it offered or had,
//! lately. Everything else goes whole: what is old, what had to be asked for, and all that goes to
//! somebody who did not find a body a short while ago. So a body that does not come costs each node
//! on its way at most one wait, and whoever catches up waits for nothing.

use super::BodyRef;
use aber_proto::{ContentHash, Instant, NodeId, limit};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long a body is passed on by reference: about as long as relays remember its parcel.
const KNOWN_TIME: Duration = Duration::from_secs(60);
/// Bodies that are known at most; at a rate that fills this in less time, some go whole.
const KNOWN: usize = 1024;
/// How long who did not find a body is sent all of them.
const WHOLE_TIME: Duration = Duration::from_secs(30);

/// What a node knows of bodies and of those who ask for them.
#[derive(Default, Debug)]
pub struct Book {
    known: BTreeMap<ContentHash, (BodyRef, Instant)>,
    /// The same by age; one that was renewed stands here more than once.
    order: VecDeque<(Instant, ContentHash)>,
    /// Until when these are sent everything whole.
    whole: BTreeMap<NodeId, Instant>,
}

impl Book {
    /// The chunks of a body are on their way to everybody, or came that way.
    pub fn know(&mut self, body: BodyRef, now: Instant) {
        let hash = body.hash;
        self.order.push_back((now, hash));
        self.known.insert(hash, (body, now));
        while let Some((at, hash)) = self.order.front().copied() {
            let is_over = now >= at + KNOWN_TIME || self.order.len() > KNOWN;
            if !is_over {
                break;
            }
            self.order.pop_front();
            if self.known.get(&hash).is_some_and(|(_, known)| *known == at) {
                self.known.remove(&hash);
            }
        }
    }

    /// What `to` is sent instead of a body; `None`: the body.
    #[must_use]
    pub fn reference_for(&self, to: NodeId, body: &[u8], now: Instant) -> Option<&BodyRef> {
        let finds_none = self.whole.get(&to).is_some_and(|until| now < *until);
        if body.len() <= limit::BODY_BYTES || finds_none || self.known.is_empty() {
            return None;
        }
        let (known, at) = self.known.get(&ContentHash::of(body))?;
        (now < *at + KNOWN_TIME).then_some(known)
    }

    /// A node did not find a body: it is sent everything whole for a while.
    pub fn lacks(&mut self, node: NodeId, now: Instant) {
        self.whole.retain(|_, until| now < *until);
        if self.whole.len() < limit::MEMBERS {
            self.whole.insert(node, now + WHOLE_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;

    const LARGE: usize = limit::BODY_BYTES + 1;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn what_is_large_and_known_goes_by_reference() {
        let (a, b) = (NodeId(1), NodeId(2));
        let (body, small) = (noise(LARGE, 1), noise(limit::BODY_BYTES, 2));
        let mut book = Book::default();
        assert_eq!(
            book.reference_for(a, &body, at(1)),
            None,
            "nobody offered it"
        );
        let (reference, _) = BodyRef::of(&body);
        book.know(reference.clone(), at(1));
        book.know(BodyRef::of(&small).0, at(1));
        let sent = |book: &Book, to, seconds| book.reference_for(to, &body, at(seconds)).cloned();
        assert_eq!(sent(&book, a, 1), Some(reference.clone()));
        assert_eq!(book.reference_for(a, &small, at(1)), None, "it is small");
        assert_eq!(sent(&book, a, 61), None, "it is old");
        // One did not find it: it alone gets everything whole, for a while.
        book.lacks(a, at(2));
        assert_eq!(sent(&book, a, 31), None);
        assert_eq!(sent(&book, b, 31), Some(reference.clone()));
        assert_eq!(sent(&book, a, 32), Some(reference.clone()));
        // What is renewed stays.
        book.know(reference.clone(), at(50));
        assert_eq!(sent(&book, b, 100), Some(reference));
        assert_eq!(sent(&book, b, 110), None);
    }

    /// B2: neither bodies nor nodes can be so many that memory ends.
    #[test]
    fn the_book_is_bounded() {
        let mut book = Book::default();
        let chunks = Vec::new();
        for number in 0..3 * KNOWN as u64 {
            let mut hash = ContentHash::default();
            hash.0[..8].copy_from_slice(&number.to_le_bytes());
            let chunks = chunks.clone();
            book.know(BodyRef { hash, chunks }, at(1));
            book.know(
                BodyRef {
                    hash,
                    chunks: Vec::new(),
                },
                at(1),
            );
            book.lacks(NodeId(number), at(1));
        }
        assert!(book.known.len() <= KNOWN && book.order.len() <= KNOWN);
        for node in 0..2 * limit::MEMBERS as u64 {
            book.lacks(NodeId(node), at(2));
        }
        assert!(book.whole.len() <= limit::MEMBERS);
        book.know(
            BodyRef {
                hash: ContentHash::default(),
                chunks,
            },
            at(200),
        );
        assert_eq!((book.known.len(), book.order.len()), (1, 1));
    }
}
