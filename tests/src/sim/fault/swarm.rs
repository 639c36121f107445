//! [pure] The swarm configuration of a run: which faults, how often, on which network.

use crate::sim::random::Random;
use crate::sim::world::WorldOptions;
use std::fmt;

/// The configuration a seed expands into. A rate of `None` means that the class is off; a rate is
/// the mean time between two faults of the class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Swarm {
    /// Nodes at the start.
    pub node_count: u64,
    /// Length of the safety phase.
    pub safety_ms: u64,
    /// Nodes taken down.
    pub crash_every_ms: Option<u64>,
    /// How many of a thousand crashes are power cuts.
    pub power_permille: u64,
    /// Longest time a node is down.
    pub down_ms_max: u64,
    /// Most nodes down at once.
    pub down_max: u64,
    /// Deaths planned at a disk call to come.
    pub die_at_call_every_ms: Option<u64>,
    /// Cuts of one node, one pair, one direction.
    pub cut_every_ms: Option<u64>,
    /// Longest cut.
    pub cut_ms_max: u64,
    /// Resets of all links of a pair.
    pub reset_every_ms: Option<u64>,
    /// Jumps of a wall clock.
    pub jump_every_ms: Option<u64>,
    /// Disks that become slow for a while.
    pub slow_every_ms: Option<u64>,
    /// Disk calls that fail.
    pub disk_error_every_ms: Option<u64>,
    /// Indexes that are damaged.
    pub index_damage_every_ms: Option<u64>,
    /// All nodes down at once.
    pub outage_every_ms: Option<u64>,
    /// Drift of monotonic clocks.
    pub drift_ppm_max: u64,
    /// Base latency between two nodes, one way.
    pub latency_ms: (u64, u64),
    /// Jitter of a latency.
    pub jitter_permille: u64,
    /// Uplink of every node; unlimited where `None`.
    pub uplink_bytes_per_s: Option<u64>,
    /// Whether power cuts keep any subset of a directory's changes.
    pub has_any_subset: bool,
}

impl Swarm {
    /// A run without any fault on a fast network.
    #[must_use]
    pub fn calm(node_count: u64) -> Self {
        Self {
            node_count,
            safety_ms: 30_000,
            crash_every_ms: None,
            power_permille: 0,
            down_ms_max: 1000,
            down_max: node_count,
            die_at_call_every_ms: None,
            cut_every_ms: None,
            cut_ms_max: 1000,
            reset_every_ms: None,
            jump_every_ms: None,
            slow_every_ms: None,
            disk_error_every_ms: None,
            index_damage_every_ms: None,
            outage_every_ms: None,
            drift_ppm_max: 0,
            latency_ms: (1, 5),
            jitter_permille: 300,
            uplink_bytes_per_s: None,
            has_any_subset: false,
        }
    }

    /// Expands a seed.
    #[must_use]
    pub fn draw(node_count: u64, random: &mut Random) -> Self {
        let mut rate = |on_permille: u64, first_ms: u64, last_ms: u64| {
            let is_on = random.chance(on_permille);
            let every_ms = random.between(first_ms, last_ms);
            is_on.then_some(every_ms)
        };
        let calm = Self {
            crash_every_ms: rate(800, 1000, 20_000),
            die_at_call_every_ms: rate(500, 2000, 30_000),
            cut_every_ms: rate(700, 1000, 20_000),
            reset_every_ms: rate(400, 500, 20_000),
            jump_every_ms: rate(300, 2000, 30_000),
            slow_every_ms: rate(300, 5000, 40_000),
            disk_error_every_ms: rate(200, 10_000, 60_000),
            index_damage_every_ms: rate(200, 10_000, 60_000),
            uplink_bytes_per_s: rate(600, 8_000, 125_000),
            ..Self::calm(node_count)
        };
        let latencies = [(1, 1), (1, 30), (5, 60), (20, 300)];
        Self {
            safety_ms: random.between(60_000, 600_000),
            power_permille: random.pick(&[0, 300, 700, 1000]).copied().unwrap_or(500),
            down_ms_max: random.between(100, 20_000),
            down_max: random.between(1, node_count),
            cut_ms_max: random.between(500, 30_000),
            drift_ppm_max: random.pick(&[0, 100, 50_000]).copied().unwrap_or(0),
            latency_ms: random.pick(&latencies).copied().unwrap_or((1, 30)),
            jitter_permille: random.between(0, 2000),
            has_any_subset: random.chance(300),
            outage_every_ms: random.chance(400).then(|| random.between(10_000, 60_000)),
            ..calm
        }
    }

    /// The world this run takes place in.
    #[must_use]
    pub fn world_options(&self, seed: u64, trace_file: Option<std::path::PathBuf>) -> WorldOptions {
        WorldOptions {
            seed,
            trace_file,
            drift_ppm_max: self.drift_ppm_max,
            latency_ms: self.latency_ms,
            jitter_permille: self.jitter_permille,
            has_any_subset: self.has_any_subset,
            ..WorldOptions::default()
        }
    }
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, safety {} s, latency {}..{} ms jitter {}/1000",
            self.node_count,
            self.safety_ms / 1000,
            self.latency_ms.0,
            self.latency_ms.1,
            self.jitter_permille
        )?;
        for (name, every_ms) in [
            ("crash", self.crash_every_ms),
            ("die at a disk call", self.die_at_call_every_ms),
            ("cut", self.cut_every_ms),
            ("reset", self.reset_every_ms),
            ("clock jump", self.jump_every_ms),
            ("slow disk", self.slow_every_ms),
            ("disk error", self.disk_error_every_ms),
            ("index damage", self.index_damage_every_ms),
            ("outage", self.outage_every_ms),
        ] {
            if let Some(every_ms) = every_ms {
                write!(f, ", {name} each {every_ms} ms")?;
            }
        }
        if let Some(rate) = self.uplink_bytes_per_s {
            write!(f, ", uplink {rate} B/s")?;
        }
        write!(
            f,
            ", power {}/1000, down {} ms x {}, cuts {} ms, drift {} ppm, subset {}",
            self.power_permille,
            self.down_ms_max,
            self.down_max,
            self.cut_ms_max,
            self.drift_ppm_max,
            self.has_any_subset
        )
    }
}
