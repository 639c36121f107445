//! [pure] The newest heads of one partition that this node believed, for those that follow it.
//!
//! A node that follows does not sign: it passes on entries under heads that voters signed. Each
//! answer that it was given came under one, so what it received in pieces it passes on in pieces.

use aber_proto::{SignedHead, limit};
use std::collections::BTreeMap;

/// At most [`limit::HEADS_KEPT`] heads, by index.
#[derive(Default, Debug)]
pub(crate) struct KeptHeads {
    by_index: BTreeMap<u64, SignedHead>,
}

impl KeptHeads {
    /// Keeps a head; the one of the lowest index goes, if there are too many.
    pub(super) fn put(&mut self, head: SignedHead) {
        self.by_index.insert(head.head.log_id.index, head);
        if self.by_index.len() > limit::HEADS_KEPT {
            self.by_index.pop_first();
        }
        assert!(self.by_index.len() <= limit::HEADS_KEPT, "one in, one out");
    }

    /// The newest head at an entry from `first` to `last`, both included, that `is_good`.
    pub(super) fn last_in(
        &self,
        first: u64,
        last: u64,
        is_good: impl Fn(&SignedHead) -> bool,
    ) -> Option<SignedHead> {
        if first > last {
            return None;
        }
        let mut between = self.by_index.range(first..=last);
        let found = between.rfind(|(_, head)| is_good(head));
        found.map(|(_, head)| *head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{ChainHash, Head, LogId, NodeId, PartitionId};

    fn head(index: u64) -> SignedHead {
        SignedHead {
            head: Head {
                partition: PartitionId(1),
                log_id: LogId { term: 1, index },
                chain: ChainHash([7; 32]),
            },
            signer: NodeId(index),
            signature: [0; 64],
        }
    }

    #[test]
    fn the_oldest_go_and_the_newest_in_a_range_is_found() {
        let mut kept = KeptHeads::default();
        for index in (0..2 * limit::HEADS_KEPT as u64).map(|n| 10 * n) {
            kept.put(head(index));
        }
        let newest = 10 * (2 * limit::HEADS_KEPT as u64 - 1);
        let last = |first, last| kept.last_in(first, last, |_| true);
        assert_eq!(kept.by_index.len(), limit::HEADS_KEPT);
        assert_eq!(last(0, 100), None, "it is gone");
        assert_eq!(last(newest, u64::MAX), Some(head(newest)));
        assert_eq!(last(newest - 25, newest - 1), Some(head(newest - 10)));
        assert_eq!(last(newest - 9, newest - 1), None);
        assert_eq!(last(newest, newest - 1), None);
        let not_the_newest = |head: &SignedHead| head.head.log_id.index < newest;
        assert_eq!(
            kept.last_in(0, u64::MAX, not_the_newest),
            Some(head(newest - 10))
        );
    }
}
