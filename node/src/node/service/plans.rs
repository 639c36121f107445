//! [pure] Plans that were shown and wait to be done: few, and for an hour.

use aber_proto::Timestamp;
use std::collections::BTreeMap;

/// How long a plan can be done, in milliseconds.
pub(super) const PLAN_VALID_MS: i64 = 3600 * 1000;

/// Plans by their ids. At most a number of them: the oldest make way.
#[derive(Debug)]
pub(super) struct Plans<I, P> {
    most: usize,
    rows: BTreeMap<I, (Timestamp, P)>,
}

impl<I: Ord + Clone, P> Plans<I, P> {
    pub(super) fn new(most: usize) -> Self {
        let rows = BTreeMap::new();
        Self { most, rows }
    }

    /// Keeps one that was made now.
    pub(super) fn put(&mut self, id: I, now: Timestamp, plan: P) {
        self.rows.retain(|_, (made, _)| is_valid(*made, now));
        while self.rows.len() >= self.most {
            let oldest = self.rows.iter().min_by_key(|(_, (made, _))| *made);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                break;
            };
            self.rows.remove(&oldest);
        }
        self.rows.insert(id, (now, plan));
    }

    /// One that is still valid.
    pub(super) fn get(&self, id: &I, now: Timestamp) -> Option<&P> {
        let (made, plan) = self.rows.get(id)?;
        is_valid(*made, now).then_some(plan)
    }

    /// The same, which is kept no longer.
    pub(super) fn take(&mut self, id: &I, now: Timestamp) -> Option<P> {
        self.get(id, now)?;
        self.rows.remove(id).map(|(_, plan)| plan)
    }
}

fn is_valid(made: Timestamp, now: Timestamp) -> bool {
    now.0.saturating_sub(made.0) < PLAN_VALID_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_bounded_and_expire() {
        let mut plans = Plans::new(64);
        for at in 0..100 {
            plans.put(at, Timestamp(at), at * 2);
        }
        assert_eq!(plans.rows.len(), 64);
        assert_eq!(plans.get(&0, Timestamp(100)), None, "it made way");
        let last = Timestamp(99 + PLAN_VALID_MS - 1);
        assert_eq!(plans.get(&99, last), Some(&198));
        assert_eq!(plans.get(&99, Timestamp(99 + PLAN_VALID_MS)), None);
        assert_eq!(plans.take(&99, last), Some(198));
        assert_eq!(plans.take(&99, last), None, "it is done once");
        plans.put(100, Timestamp(PLAN_VALID_MS + 99), 0);
        assert_eq!(plans.rows.len(), 1, "those that are over are let go");
    }
}
