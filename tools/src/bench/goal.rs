//! [pure] What is aimed at, and what a release needs.
//!
//! A floor or an aim compares a ratio with its divisor, or, where a goal has none, the figure
//! itself. Further conditions of an aim may be unknown, as where a peer was not measured: then the
//! aim is not said to be met.

/// What a goal is measured against.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// Needed for a release.
    pub floor: f64,
    /// The ambition.
    pub aim: f64,
    /// Whether larger is better.
    pub more_is_better: bool,
    /// Whether it is CPU or memory, which a busy machine does not spoil.
    pub is_load_proof: bool,
}

/// The verdict on a goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// Below its floor.
    No,
    /// At its floor.
    Floor,
    /// At its aim, every condition of it known to hold.
    Aim,
}

impl Met {
    /// As rows say it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Floor => "floor",
            Self::Aim => "aim",
        }
    }
}

impl Bounds {
    /// Judges a ratio, or an absolute figure, and the further conditions of the aim.
    #[must_use]
    pub fn judge(&self, figure: f64, conditions: &[Option<bool>]) -> Met {
        let reaches = |bound: f64| {
            if self.more_is_better {
                figure >= bound
            } else {
                figure <= bound
            }
        };
        let all_hold = conditions.iter().all(|holds| *holds == Some(true));
        match (reaches(self.floor), reaches(self.aim) && all_hold) {
            (true, true) => Met::Aim,
            (true, false) => Met::Floor,
            (false, _) => Met::No,
        }
    }
}

const fn ratio(floor: f64, aim: f64, is_load_proof: bool) -> Bounds {
    Bounds {
        floor,
        aim,
        more_is_better: true,
        is_load_proof,
    }
}

/// One bound that is both floor and aim.
#[must_use]
pub const fn limit(most: f64, is_load_proof: bool) -> Bounds {
    at_most(most, most, is_load_proof)
}

const fn at_most(floor: f64, aim: f64, is_load_proof: bool) -> Bounds {
    Bounds {
        floor,
        aim,
        more_is_better: false,
        is_load_proof,
    }
}

/// The bounds of a goal.
#[must_use]
pub fn bounds(goal: u8) -> Option<Bounds> {
    Some(match goal {
        1 => ratio(1.0, 2.0, false),
        4 => ratio(0.5, 0.75, true),
        6 => ratio(0.5, 1.0, false),
        8 => ratio(0.6, 1.0, false),
        18 => at_most(5.0, 2.0, false),
        19 => at_most(256.0, 80.0, true),
        _ => return None,
    })
}

/// A goal in a few words.
#[must_use]
pub fn name(goal: u8) -> &'static str {
    match goal {
        1 => "durable commits, 3 nodes",
        4 => "put of a large file, cluster of one",
        6 => "put -r of small files, cluster of one",
        8 => "replay into an empty directory",
        18 => "restart after kill -9",
        19 => "memory while a large file passes through",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_judged_upwards_and_a_figure_downwards() {
        let up = ratio(0.5, 1.0, false);
        assert_eq!(up.judge(0.49, &[]), Met::No);
        assert_eq!(up.judge(0.5, &[]), Met::Floor);
        assert_eq!(up.judge(1.0, &[]), Met::Aim);
        let down = at_most(256.0, 80.0, true);
        assert_eq!(down.judge(257.0, &[]), Met::No);
        assert_eq!(down.judge(256.0, &[]), Met::Floor);
        assert_eq!(down.judge(80.0, &[]), Met::Aim);
    }

    #[test]
    fn an_unknown_condition_keeps_an_aim_from_being_met() {
        let up = ratio(0.5, 1.0, false);
        assert_eq!(up.judge(2.0, &[Some(true), None]), Met::Floor);
        assert_eq!(up.judge(2.0, &[Some(true), Some(false)]), Met::Floor);
        assert_eq!(up.judge(2.0, &[Some(true)]), Met::Aim);
    }
}
