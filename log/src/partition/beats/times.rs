//! [pure] How long heartbeats took to be answered: whether Raft is well while lines are full.

use std::time::Duration;

/// Greatest times of the classes, in milliseconds; what took longer, or was never answered, is in one
/// more.
pub const LIMITS_MS: [u64; 9] = [5, 10, 25, 50, 100, 250, 500, 1000, 2000];

/// Heartbeats by how long their answers took, since the node started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BeatTimes {
    /// How many took at most as long as [`LIMITS_MS`] says and longer than the one before, and then those
    /// that took longer than all or were not answered.
    pub counts: [u64; LIMITS_MS.len() + 1],
    /// Of those that were answered, all times together.
    pub sum: Duration,
}

impl BeatTimes {
    /// A heartbeat was answered after so long; `None`: it was not.
    pub(super) fn note(&mut self, took: Option<Duration>) {
        let fits = |limit: &u64| took.is_some_and(|took| took <= Duration::from_millis(*limit));
        let class = LIMITS_MS.iter().position(fits).unwrap_or(LIMITS_MS.len());
        if let Some(count) = self.counts.get_mut(class) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(took.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_the_first_class_that_it_fits() {
        let mut times = BeatTimes::default();
        let ms = Duration::from_millis;
        let all = [ms(0), ms(5), ms(6), ms(100), ms(2000), ms(2001)];
        for took in all {
            times.note(Some(took));
        }
        times.note(None);
        assert_eq!(times.counts, [2, 1, 0, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!(times.sum, all.iter().sum());
    }
}
