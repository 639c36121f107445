//! [pure] Which part of a line is used: as much as leaves no queue in a modem.
//!
//! What a frame really takes of a line is not known here: headers of many layers, acknowledgements of
//! what comes the other way, a modem's own. A part that is fixed must leave room for the worst of it,
//! and wastes a tenth of most lines. So the part grows while small questions are answered as soon as on
//! idle lines, and shrinks once they are not (LEDBAT, RFC 6817, in rounds of some questions). A question
//! may wait for one frame on its way here and another there: the shortest wait of a round tells.

use super::bucket::PART_PERCENT;
use aber_proto::Instant;
use std::time::Duration;

/// The most that is used, in hundredths.
const MOST_PERCENT: u64 = 97;
/// A round of questions takes so long at least,
const ROUND: Duration = Duration::from_millis(800);
/// and has so many of them.
const ROUND_SAMPLES: u32 = 3;
/// Answers that come so much later than the soonest at most mean that nothing queues.
const CALM: Duration = Duration::from_millis(20);
/// From so much on something does.
const QUEUE: Duration = Duration::from_millis(40);
/// What is taken back then, in hundredths; one more for each [`CALM`] beyond.
const BACK_PERCENT: u64 = 2;
/// Once something queued, the part grows a hundredth in so many rounds.
const CAREFUL_ROUNDS: u32 = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Round {
    since: Instant,
    samples: u32,
    least_wait: Duration,
}

/// The part of a line that is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    percent: u64,
    /// The most that the line has room for was passed already: how many rounds were calm since the
    /// last step.
    careful: Option<u32>,
    round: Option<Round>,
}

impl Part {
    /// Of a line of which nothing was seen.
    pub(super) const NEW: Self = Self {
        percent: PART_PERCENT,
        careful: None,
        round: None,
    };

    /// In hundredths, [`PART_PERCENT`] to [`MOST_PERCENT`].
    #[must_use]
    pub(super) fn percent(self) -> u64 {
        self.percent
    }

    /// While content waits for the line a question was answered `wait` later than the soonest.
    pub(super) fn note(&mut self, now: Instant, wait: Duration) {
        let round = self.round.get_or_insert(Round {
            since: now,
            samples: 0,
            least_wait: wait,
        });
        round.samples += 1;
        round.least_wait = round.least_wait.min(wait);
        let Round {
            since,
            samples,
            least_wait,
        } = *round;
        if now - since < ROUND || samples < ROUND_SAMPLES {
            return;
        }
        self.round = None;
        if least_wait >= QUEUE {
            self.careful = Some(0);
            let more = (least_wait - QUEUE).as_millis() / CALM.as_millis();
            let back = BACK_PERCENT.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
            self.percent = self.percent.saturating_sub(back).max(PART_PERCENT);
        } else if least_wait <= CALM {
            let step = match &mut self.careful {
                None => 2,
                Some(rounds) => {
                    *rounds = (*rounds + 1) % CAREFUL_ROUNDS;
                    u64::from(*rounds == 0)
                }
            };
            self.percent = (self.percent + step).min(MOST_PERCENT);
        }
    }

    /// The line is not full: what is answered now says nothing of it.
    pub(super) fn rest(&mut self) {
        self.round = None;
    }
}
