//! [pure] How long a body that is named is waited for, until it is asked for.
//!
//! A reference goes straight to who is to have the entry, its chunks go from node to node: they may
//! well come a moment later. To ask too early costs the sender a copy, to wait too long holds up all
//! entries behind.

use std::time::Duration;

/// What nobody has told of so long after it was named does not come by itself: announcements are
/// as urgent as entries, and go through a few nodes.
const UNTOLD: Duration = Duration::from_secs(1);
/// What is on its way is waited for no longer, in all: the longest body at 256 kbit/s, and a few
/// nodes between. To ask for it sooner would have such a line carry it twice.
pub const MOST: Duration = Duration::from_secs(12);
/// Of what is on its way something comes in this time, or it is asked for: the longest chunk of a
/// body, 64 KiB, takes two seconds at 256 kbit/s.
const STILL: Duration = Duration::from_secs(3);
/// Between looks, where nothing happens.
const LOOK: Duration = Duration::from_millis(250);

/// What is known of a body that is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// For how long it has been waited for.
    pub waited: Duration,
    /// For how long no chunk of it has come.
    pub still: Duration,
    /// Chunks that lack here.
    pub lacking: usize,
    /// Those of them that are on their way here.
    pub coming: usize,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// All of it is here.
    Take,
    /// Look again when a chunk came, or after this time.
    Wait(Duration),
    /// Ask whoever named it.
    Ask,
}

/// What to do next about a body.
#[must_use]
pub fn next(look: Look) -> Next {
    let Look {
        waited,
        still,
        lacking,
        coming,
    } = look;
    if lacking == 0 {
        return Next::Take;
    }
    let until = match coming < lacking {
        true => UNTOLD,
        false => (waited + STILL).saturating_sub(still).min(MOST),
    };
    match until.saturating_sub(waited) {
        Duration::ZERO => Next::Ask,
        left => Next::Wait(left.min(LOOK)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_waited_for_and_what_does_not_is_asked_for() {
        let ms = Duration::from_millis;
        let wait = |of| Next::Wait(ms(of));
        let table = [
            // waited, still, lacking, coming
            (0, 0, 0, 0, Next::Take),
            (9000, 9000, 0, 0, Next::Take),
            // Nobody has told of it, or not of all of it.
            (0, 0, 5, 0, wait(250)),
            (900, 900, 5, 0, wait(100)),
            (1000, 1000, 5, 0, Next::Ask),
            (1000, 0, 5, 4, Next::Ask),
            // It comes.
            (1000, 0, 5, 5, wait(250)),
            (2900, 2900, 5, 5, wait(100)),
            (3000, 3000, 5, 5, Next::Ask),
            (7000, 2900, 5, 5, wait(100)),
            (7000, 3000, 5, 5, Next::Ask),
            (11_900, 100, 1, 1, wait(100)),
            (12_000, 0, 1, 1, Next::Ask),
            (90_000, 0, 1, 1, Next::Ask),
        ];
        for (waited, still, lacking, coming, wanted) in table {
            let (waited, still) = (ms(waited), ms(still));
            let look = Look {
                waited,
                still,
                lacking,
                coming,
            };
            assert_eq!(next(look), wanted, "{look:?}");
        }
    }

    /// A5: whatever comes and goes, a wait ends.
    #[test]
    fn every_wait_ends() {
        for coming in 0..=3 {
            let (mut waited, mut looks) = (Duration::ZERO, 0);
            let look = |waited| Look {
                waited,
                still: Duration::ZERO,
                lacking: 3,
                coming,
            };
            while let Next::Wait(time) = next(look(waited)) {
                assert!(time > Duration::ZERO);
                (waited, looks) = (waited + time, looks + 1);
            }
            assert!(waited <= MOST && looks <= 48);
        }
    }
}
