//! [pure] The least time in which anybody could do it.
//!
//! Kumar & Ross, "Peer-assisted file distribution: the minimum distribution time" (HotWeb 2006),
//! with one holder; with several, what they can send together. All lines of a lab are alike here.

/// What a paced node keeps free: the bucket gives 85 of 100, and 4,096 of 4,296 bytes charged are
/// content.
pub(super) const PACED: f64 = 0.81;

/// The lines of all nodes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Lines {
    /// What each sends at most, bits a second.
    pub up_bps: f64,
    /// What each receives at most, bits a second.
    pub down_bps: f64,
}

impl Lines {
    /// Seconds in which `holders` nodes can get so many bytes to `receivers` others, at the least:
    /// out of the holders' lines, into each receiver's, and through all lines together.
    #[must_use]
    pub(super) fn bound_s(&self, bytes: f64, holders: f64, receivers: f64) -> f64 {
        let bits = bytes * 8.0;
        let out = bits / (holders * self.up_bps);
        let into = bits / self.down_bps;
        let all = receivers * bits / ((holders + receivers) * self.up_bps);
        out.max(into).max(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: Lines = Lines {
        up_bps: 8e6,
        down_bps: 80e6,
    };

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.05
    }

    #[test]
    fn one_writer_is_bound_by_its_own_line() {
        let big = f64::from(16 << 20);
        for receivers in [7.0, 15.0] {
            assert!(is_near(LINES.bound_s(big, 1.0, receivers), 16.8));
        }
        assert!(is_near(LINES.bound_s(4_096_000.0, 1.0, 7.0), 4.1));
    }

    #[test]
    fn several_holders_are_bound_by_all_lines_together() {
        let big = f64::from(16 << 20);
        assert!(is_near(LINES.bound_s(big, 4.0, 4.0), 8.4));
        assert!(is_near(LINES.bound_s(big, 15.0, 1.0), 1.7));
    }

    #[test]
    fn a_thin_line_into_a_receiver_is_the_bound() {
        let thin = Lines {
            down_bps: 4e6,
            ..LINES
        };
        assert!(is_near(thin.bound_s(4_000_000.0, 8.0, 8.0), 8.0));
    }
}
