//! `simulate`: runs seeds of the simulated world, one line each; on a failure, how to repeat it.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a command line program that prints its results and starts copies of itself"
)]

use aber_tests::scenario;
use aber_tests::sim::run::RunOptions;
use anyhow::{Context, bail};
use clap::Parser;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Copies of itself that run at once with `--fork`.
const FORKS: usize = 2;

/// Runs the simulated world.
#[derive(Parser, Debug)]
struct Arguments {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds FROM..TO, TO excluded.
    #[arg(long, value_name = "FROM..TO")]
    seeds: Option<String>,
    /// Which scenario.
    #[arg(long, default_value = "echo")]
    scenario: String,
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Writes the whole trace here.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Plants a bug.
    #[arg(long)]
    planted: Option<String>,
    /// One process a seed, two at a time.
    #[arg(long)]
    fork: bool,
    /// Seconds of real time a seed may take; then it is a failure.
    #[arg(long, default_value_t = 600)]
    patience_s: u64,
    /// Ends after the first seed that fails.
    #[arg(long)]
    until_failure: bool,
    /// Runs each seed twice and compares the traces' hashes.
    #[arg(long)]
    twice: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let seeds = match (&arguments.seed, &arguments.seeds) {
        (Some(seed), _) => *seed..seed + 1,
        (None, Some(range)) => parse_range(range)?,
        (None, None) => bail!("give --seed N or --seeds FROM..TO"),
    };
    let is_well = if arguments.fork {
        run_forked(&arguments, seeds)?
    } else {
        run_here(&arguments, seeds)?
    };
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn parse_range(text: &str) -> anyhow::Result<std::ops::Range<u64>> {
    let (from, to) = text
        .split_once("..")
        .context("seeds are given as FROM..TO")?;
    Ok(from.parse()?..to.parse()?)
}

fn run_here(arguments: &Arguments, seeds: std::ops::Range<u64>) -> anyhow::Result<bool> {
    let names = || {
        scenario::SCENARIOS
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
    };
    let Some(scenario) = scenario::find(&arguments.scenario) else {
        bail!(
            "no scenario {:?}; there are {:?}",
            arguments.scenario,
            names()
        );
    };
    let mut is_well = true;
    for seed in seeds {
        let options = RunOptions {
            seed,
            scenario: arguments.scenario.clone(),
            node_count: arguments.nodes,
            trace_file: arguments.trace.clone(),
            planted: arguments.planted.clone(),
        };
        let watchdog = watch(&options, arguments.patience_s);
        let mut report = scenario(&options);
        if arguments.twice {
            let again = scenario(&options);
            if (&again.hash, again.line_count) != (&report.hash, report.line_count) {
                report
                    .failures
                    .push(format!("the second run differs: {again}"));
            }
        }
        drop(watchdog);
        println!("{report}");
        if !report.is_well() {
            is_well = false;
            println!("{}\n  {}", report.recent, report.swarm);
            for failure in &report.failures {
                println!("  BROKEN {failure}");
            }
            println!("  repeat: {}", report.options.command());
            if arguments.until_failure {
                break;
            }
        }
    }
    Ok(is_well)
}

/// Ends the process unless the answer is dropped in time: tasks that yield to each other for ever
/// let no virtual time pass, and no virtual deadline would end them.
fn watch(options: &RunOptions, patience_s: u64) -> Sender<()> {
    let (watchdog, barks) = channel();
    let command = options.command();
    std::thread::spawn(move || {
        if barks.recv_timeout(Duration::from_secs(patience_s)) == Err(RecvTimeoutError::Timeout) {
            println!("FAILED: not done in {patience_s} s of real time\n  repeat: {command}");
            std::process::exit(1);
        }
    });
    watchdog
}

fn run_forked(arguments: &Arguments, seeds: std::ops::Range<u64>) -> anyhow::Result<bool> {
    let this = std::env::current_exe().context("finding this program")?;
    let mut running: Vec<Child> = Vec::new();
    let mut is_well = true;
    for seed in seeds {
        if running.len() >= FORKS {
            is_well &= running.remove(0).wait()?.success();
        }
        let mut command = Command::new(&this);
        command.args([
            "--seed",
            &seed.to_string(),
            "--scenario",
            &arguments.scenario,
        ]);
        command.args(["--nodes", &arguments.nodes.to_string()]);
        if let Some(planted) = &arguments.planted {
            command.args(["--planted", planted]);
        }
        if arguments.twice {
            command.arg("--twice");
        }
        if let Some(trace) = &arguments.trace {
            command
                .arg("--trace")
                .arg(trace.with_extension(seed.to_string()));
        }
        running.push(command.spawn().context("starting a copy of this program")?);
    }
    for mut child in running {
        is_well &= child.wait()?.success();
    }
    Ok(is_well)
}
