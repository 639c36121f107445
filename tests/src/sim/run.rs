//! [driver] One run: a paused clock, a world, a scenario, and what it says in the end.
//!
//! The whole run happens on one thread. Panics of any task, promises the world recorded as broken,
//! and a run that does not end in its virtual time are failures alike.

use super::fault::{FaultCount, Swarm};
use super::panics;
use super::random::Random;
use super::world::World;
use aber_proto::NodeId;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// Virtual time a run may take beyond its safety phase.
const LIVENESS_LIMIT: Duration = Duration::from_secs(3600);

/// What is asked of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunOptions {
    /// The seed.
    pub seed: u64,
    /// Which scenario.
    pub scenario: String,
    /// How many nodes.
    pub node_count: u64,
    /// Where the trace goes.
    pub trace_file: Option<PathBuf>,
    /// The bug to plant.
    pub planted: Option<String>,
}

impl RunOptions {
    /// The command that repeats the run.
    #[must_use]
    pub fn command(&self) -> String {
        let mut command = format!(
            "cargo run --release -p aber-tests --bin simulate -- --seed {} --scenario {} --nodes {}",
            self.seed, self.scenario, self.node_count
        );
        if let Some(planted) = &self.planted {
            command.push_str(" --planted ");
            command.push_str(planted);
        }
        command
    }
}

/// What a scenario counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Faults dealt.
    pub faults: FaultCount,
    /// Acknowledgements that were checked.
    pub acked_count: u64,
}

/// How a run went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// What was asked.
    pub options: RunOptions,
    /// The hash of its trace.
    pub hash: String,
    /// Lines of its trace.
    pub line_count: u64,
    /// Virtual milliseconds it took.
    pub virtual_ms: u64,
    /// What the scenario counted.
    pub tally: Tally,
    /// The configuration the seed expanded into.
    pub swarm: String,
    /// What was broken; empty if nothing.
    pub failures: Vec<String>,
    /// The newest lines of the trace.
    pub recent: String,
}

impl Report {
    /// Whether nothing was broken.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.tally.faults;
        write!(
            f,
            "seed {} {} hash {} lines {} virtual {} s acked {} crashes {} cuts {} other {} {}",
            self.options.seed,
            self.options.scenario,
            self.hash,
            self.line_count,
            self.virtual_ms / 1000,
            self.tally.acked_count,
            faults.crash_count,
            faults.cut_count,
            faults.other_count,
            if self.is_well() { "ok" } else { "FAILED" }
        )
    }
}

/// Runs `body` in a new world made for `options`, on the configuration its seed expands into.
pub fn run<F>(options: &RunOptions, body: impl FnOnce(World, Swarm) -> F) -> Report
where
    F: Future<Output = Tally>,
{
    let swarm = Swarm::draw(options.node_count, &mut Random::new(!options.seed));
    run_with(options, swarm, body)
}

/// Runs `body` in a new world made for `options`, on this configuration.
pub fn run_with<F>(
    options: &RunOptions,
    swarm: Swarm,
    body: impl FnOnce(World, Swarm) -> F,
) -> Report
where
    F: Future<Output = Tally>,
{
    panics::watch();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let mut report = Report {
        options: options.clone(),
        hash: String::new(),
        line_count: 0,
        virtual_ms: 0,
        tally: Tally::default(),
        swarm: swarm.to_string(),
        failures: Vec::new(),
        recent: String::new(),
    };
    let made = runtime.and_then(|runtime| {
        let world = swarm.world_options(options.seed, options.trace_file.clone());
        Ok((runtime.block_on(async { World::new(world) })?, runtime))
    });
    match made {
        Ok((world, runtime)) => {
            let inside = || runtime.block_on(run_inside(&mut report, &world, swarm, body));
            // A panic of the scenario itself ends the run; the hook has recorded why.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(inside));
            runtime.block_on(finish(&mut report, &world));
        }
        Err(error) => report
            .failures
            .push(format!("the run cannot begin: {error}")),
    }
    report.failures.extend(panics::take());
    report
}

async fn run_inside<F>(
    report: &mut Report,
    world: &World,
    swarm: Swarm,
    body: impl FnOnce(World, Swarm) -> F,
) where
    F: Future<Output = Tally>,
{
    world.trace(NodeId(0), format_args!("SWARM {swarm}"));
    if let Some(rate) = swarm.uplink_bytes_per_s {
        let uplinks = (1..=swarm.node_count).map(|node| (NodeId(node), rate));
        world.with_net(|net| net.uplink_bytes_per_s = uplinks.collect());
    }
    let limit = Duration::from_millis(swarm.safety_ms) + LIVENESS_LIMIT;
    match tokio::time::timeout(limit, body(world.clone(), swarm)).await {
        Ok(tally) => report.tally = tally,
        Err(_) => world.broken(format!("the run did not end in {} s", limit.as_secs())),
    }
}

async fn finish(report: &mut Report, world: &World) {
    for node in world.nodes() {
        world.kill(node, "the run is over");
    }
    tokio::task::yield_now().await;
    report.virtual_ms = world.now_ns() / 1_000_000;
    report.failures.extend(world.failures());
    world.with_trace(|trace| {
        trace.flush();
        (report.hash, report.line_count) = (trace.hash(), trace.line_count());
        report.recent = trace.recent();
    });
}
