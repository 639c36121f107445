//! [pure] Frames of the mesh: whole messages, parts of messages, and messages made of parts.
//!
//! `kind u8 | id u64 | method u8 | priority u8 | rest`. The rest of a whole message is its payload.
//! That of a part is `offset u32 | length u32 | bytes`: the length is the message's, its parts come
//! in order, and the last is the one that completes it. Parts of different messages may alternate on
//! a link. A length of 0 says that the asker has given up: no more of the request will come, and no
//! answer is wanted.

use super::method::Method;
use crate::uplink::Priority;
use aber_proto::limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// Bytes of a frame before its rest.
pub(super) const HEAD_BYTES: usize = 11;
const PART_HEAD_BYTES: usize = HEAD_BYTES + 8;
/// Marks the kind of a part.
const IS_PART: u8 = 0x80;
/// Room that is taken for a message before more of it came.
const FIRST_BYTES: usize = 64 * 1024;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Request = 1,
    Answer = 2,
    Failure = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Request, Self::Answer, Self::Failure];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What is said of a message in each of its frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) method: Method,
    /// Of the call.
    pub(super) priority: Priority,
}

/// What came over a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// A whole message.
    Message(Head, Bytes),
    /// Nothing more is to be done for this one.
    GivenUp(Head),
}

/// A frame broke the protocol; its link is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BrokenFrame {
    #[error("a frame that is too short, or of an unknown kind, method or priority")]
    Malformed,
    #[error("a part that does not follow the one before it")]
    Astray,
    #[error("a message of {0} bytes")]
    TooLong(usize),
    #[error("too many messages are unfinished")]
    TooMany,
}

impl Head {
    fn put(self, mark: u8, room: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(PART_HEAD_BYTES + room);
        bytes.put_u8(self.kind as u8 | mark);
        bytes.put_u64_le(self.id);
        bytes.put_u8(self.method as u8);
        bytes.put_u8(self.priority as u8);
        bytes
    }

    /// The frame of a message that fits into one.
    pub(super) fn whole(self, payload: &[u8]) -> Bytes {
        let mut bytes = self.put(0, payload.len());
        bytes.put_slice(payload);
        bytes.freeze()
    }

    /// The frame of a part of a message.
    pub(super) fn part(self, offset: usize, length: usize, part: &[u8]) -> Bytes {
        let mut bytes = self.put(IS_PART, part.len());
        bytes.put_u32_le(to_u32(offset));
        bytes.put_u32_le(to_u32(length));
        bytes.put_slice(part);
        bytes.freeze()
    }

    /// The frame that says that a message is given up.
    pub(super) fn cancel(self) -> Bytes {
        self.part(0, 0, &[])
    }
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("messages are far below 4 GiB")
}

struct Unfinished {
    head: Head,
    length: usize,
    bytes: BytesMut,
}

/// Makes messages of the frames of one link. What it holds is bounded: so many messages, each so
/// long, and no room is taken before bytes came for it.
#[derive(Default)]
pub(super) struct Assembly {
    unfinished: BTreeMap<(Kind, u64), Unfinished>,
}

impl Assembly {
    /// Takes the next frame of the link; `None` if that completes nothing.
    ///
    /// # Errors
    /// The frame breaks the protocol.
    pub(super) fn take(&mut self, mut frame: Bytes) -> Result<Option<Taken>, BrokenFrame> {
        let (head, is_part) = head_of(&mut frame).ok_or(BrokenFrame::Malformed)?;
        if !is_part {
            return Ok(Some(Taken::Message(head, frame)));
        }
        if frame.len() < PART_HEAD_BYTES - HEAD_BYTES {
            return Err(BrokenFrame::Malformed);
        }
        let (offset, length) = (frame.get_u32_le() as usize, frame.get_u32_le() as usize);
        let key = (head.kind, head.id);
        if length == 0 {
            // Of a message of which nothing came, too: its first part may have been kept back.
            self.unfinished.remove(&key);
            return match offset == 0 && frame.is_empty() {
                true => Ok(Some(Taken::GivenUp(head))),
                false => Err(BrokenFrame::Malformed),
            };
        }
        if length > limit::MESSAGE_BYTES {
            return Err(BrokenFrame::TooLong(length));
        }
        if offset == 0 && !self.unfinished.contains_key(&key) {
            if self.unfinished.len() >= limit::MESSAGES_UNFINISHED {
                return Err(BrokenFrame::TooMany);
            }
            let begun = Unfinished {
                head,
                length,
                bytes: BytesMut::with_capacity(length.min(FIRST_BYTES)),
            };
            self.unfinished.insert(key, begun);
        }
        let message = self.unfinished.get_mut(&key).ok_or(BrokenFrame::Astray)?;
        let follows = message.head == head && message.length == length;
        let fits = frame.len() <= length.saturating_sub(message.bytes.len());
        if !follows || !fits || frame.is_empty() || offset != message.bytes.len() {
            return Err(BrokenFrame::Astray);
        }
        message.bytes.extend_from_slice(&frame);
        if message.bytes.len() < length {
            return Ok(None);
        }
        let whole = self.unfinished.remove(&key);
        Ok(whole.map(|message| Taken::Message(message.head, message.bytes.freeze())))
    }
}

fn head_of(frame: &mut Bytes) -> Option<(Head, bool)> {
    if frame.len() < HEAD_BYTES {
        return None;
    }
    let kind = frame.get_u8();
    let id = frame.get_u64_le();
    let head = Head {
        kind: Kind::from_byte(kind & !IS_PART)?,
        id,
        method: Method::from_byte(frame.get_u8())?,
        priority: Priority::from_byte(frame.get_u8())?,
    };
    Some((head, kind & IS_PART != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn head(id: u64) -> Head {
        Head {
            kind: Kind::Answer,
            id,
            method: Method::Chunks,
            priority: Priority::Content,
        }
    }

    fn parts(head: Head, payload: &[u8], piece: usize) -> Vec<Bytes> {
        let starts = (0..payload.len()).step_by(piece);
        let part = |at: usize| &payload[at..(at + piece).min(payload.len())];
        starts
            .map(|at| head.part(at, payload.len(), part(at)))
            .collect()
    }

    #[test]
    fn a_message_of_parts_is_the_message() {
        let payload: Vec<u8> = (0..10_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        for piece in [1, 999, 4096, 10_000, 20_000] {
            let mut assembly = Assembly::default();
            let mut frames = parts(head(7), &payload, piece);
            let last = frames.pop().unwrap();
            for frame in frames {
                assert_eq!(assembly.take(frame), Ok(None));
            }
            let whole = Taken::Message(head(7), Bytes::from(payload.clone()));
            assert_eq!(assembly.take(last), Ok(Some(whole)));
            assert!(assembly.unfinished.is_empty());
        }
    }

    #[test]
    fn parts_of_different_messages_alternate() {
        let (one, two) = (vec![1; 100], vec![2; 120]);
        let mut assembly = Assembly::default();
        let mut whole = Vec::new();
        let pairs = parts(head(1), &one, 40).into_iter();
        for (a, b) in pairs.zip(parts(head(2), &two, 40)) {
            whole.extend(assembly.take(a).unwrap());
            let small = Taken::Message(head(3), Bytes::from("x"));
            assert_eq!(assembly.take(head(3).whole(b"x")), Ok(Some(small)));
            whole.extend(assembly.take(b).unwrap());
        }
        let wanted = [
            Taken::Message(head(1), Bytes::from(one)),
            Taken::Message(head(2), Bytes::from(two)),
        ];
        assert_eq!(whole, wanted);
    }

    #[test]
    fn a_cancelled_message_is_forgotten() {
        let mut assembly = Assembly::default();
        let given_up = |id| Ok(Some(Taken::GivenUp(head(id))));
        assert_eq!(assembly.take(head(1).cancel()), given_up(1));
        for id in 0..3 * limit::MESSAGES_UNFINISHED as u64 {
            assert_eq!(assembly.take(head(id).part(0, 9, b"half")), Ok(None));
            assert_eq!(assembly.take(head(id).cancel()), given_up(id));
        }
        let late = assembly.take(head(1).part(4, 9, b"more"));
        assert_eq!(late, Err(BrokenFrame::Astray));
    }

    /// B2: whatever another node sends, what is held for it is bounded.
    #[test]
    fn parts_that_do_not_follow_end_the_link() {
        let begun = || {
            let mut assembly = Assembly::default();
            assert_eq!(assembly.take(head(1).part(0, 9, b"half")), Ok(None));
            assembly
        };
        let astray = [
            head(1).part(0, 9, b"half"),
            head(1).part(3, 9, b"more"),
            head(1).part(5, 9, b"more"),
            head(1).part(4, 8, b"more"),
            head(1).part(4, 9, b""),
            head(1).part(4, 9, b"far too much"),
            head(2).part(4, 9, b"more"),
        ];
        for frame in astray {
            assert_eq!(begun().take(frame), Err(BrokenFrame::Astray));
        }
        let long = limit::MESSAGE_BYTES + 1;
        let refused = begun().take(head(2).part(0, long, b"half"));
        assert_eq!(refused, Err(BrokenFrame::TooLong(long)));
        let mut assembly = Assembly::default();
        for id in 0..limit::MESSAGES_UNFINISHED as u64 {
            let begun = head(id).part(0, limit::MESSAGE_BYTES, b"half");
            assert_eq!(assembly.take(begun), Ok(None));
        }
        let held = assembly.unfinished.values().map(|m| m.bytes.capacity());
        assert!(held.sum::<usize>() <= limit::MESSAGES_UNFINISHED * FIRST_BYTES);
        let refused = assembly.take(head(99).part(0, 9, b"half"));
        assert_eq!(refused, Err(BrokenFrame::TooMany));
        let whole = assembly.take(head(99).whole(b"whole")).unwrap();
        assert!(whole.is_some(), "what fits into a frame needs no place");
    }

    fn below(random: &mut Random, bound: usize) -> usize {
        usize::try_from(random.below(bound as u64)).unwrap()
    }

    #[test]
    fn arbitrary_frames_never_panic() {
        let mut random = Random(11);
        for _ in 0..20_000 {
            let mut assembly = Assembly::default();
            for _ in 0..4 {
                let mut frame = parts(head(random.below(2)), &[7; 30], 10)[0].to_vec();
                frame.truncate(below(&mut random, 40));
                for _ in 0..random.below(3) {
                    let at = below(&mut random, frame.len().max(1));
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = random.next().to_le_bytes()[0];
                    }
                }
                if assembly.take(frame.into()).is_err() {
                    break;
                }
            }
        }
    }
}
