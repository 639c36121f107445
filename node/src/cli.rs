//! [adapter] The command line: arguments in, exit code out.
//!
//! Every command but `up`, `demo` and `materialize` is a client of a node's socket. What goes wrong
//! is a [`Problem`], whose row says the exit code; `print` says it in words or JSON.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the command line reads and writes the user's own files"
)]

mod at;
mod audit;
mod batch;
mod blame;
pub(crate) mod cluster;
mod command;
mod diff;
mod doctor;
mod event;
mod file;
mod get;
mod help;
mod history;
mod invite;
mod join;
mod links;
pub(crate) mod load;
mod log;
mod members;
mod metrics;
mod moment;
mod outflow;
pub(crate) mod print;
pub(crate) mod progress;
mod prune;
mod put;
mod rate;
mod revert;
mod service;
mod show;
mod start;
mod tag;
mod tickets;
mod tree;
mod unit;
mod upload;
mod volume;
pub(crate) mod walk;
mod watch;
mod when;
mod where_is;
pub(crate) mod write;

use self::command::Command;
use self::help::EXAMPLES;
use crate::client::{Client, Target};
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use clap::{Args, ColorChoice, CommandFactory, Parser};
use print::Output;
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// An exit code, or what went wrong.
pub(crate) type Outcome = Result<u8, Problem>;

/// Threads: some may wait for a disk while others keep Raft alive.
const WORKERS: usize = 8;

/// A shared folder for machines that trust each other a little
#[derive(Parser, Debug)]
#[command(name = "aber", bin_name = "aber", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The data directory of the node that is meant [default: ~/.local/share/aber]
    #[arg(
        long,
        global = true,
        env = "ABER_DATA",
        value_name = "DIR",
        hide_env_values = true
    )]
    data: Option<PathBuf>,
    /// Another node: PIN@HOST:PORT, called with the key in --data, or unix:SOCKET
    #[arg(
        long,
        global = true,
        env = "ABER_NODE",
        value_name = "ADDR",
        hide_env_values = true
    )]
    node: Option<String>,
    /// JSON lines on standard output
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no notices
    #[arg(short, long, global = true)]
    quiet: bool,
    /// More to read in logs; twice: even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Colours on standard error
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Give up after this long, e.g. 30s, 5m, 2h
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// What every command knows.
pub(crate) struct Context {
    /// Where words go.
    pub(crate) out: Output,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// `--timeout`.
    pub(crate) timeout: Option<Duration>,
    data: Option<PathBuf>,
    node: Option<String>,
}

impl Context {
    /// The data directory, if one was named.
    pub(crate) fn given_data(&self) -> Option<PathBuf> {
        self.data.clone()
    }

    /// The data directory: as named, else by the XDG rules.
    pub(crate) fn data(&self) -> Result<PathBuf, Problem> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let xdg = set("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let home = || set("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        let base = xdg.or_else(home);
        let base = base.ok_or_else(|| Problem::usage("HOME is not set: name a --data DIR"))?;
        Ok(base.join("aber"))
    }

    /// A connection to the node that is meant.
    pub(crate) async fn connect(&self) -> Result<Client, Problem> {
        match &self.node {
            Some(node) => self.connect_to(&Target::parse(node)?).await,
            None => Client::connect_data(&self.data()?).await,
        }
    }

    /// A connection to a node, with the key of the data directory where that is asked for.
    pub(crate) async fn connect_to(&self, target: &Target) -> Result<Client, Problem> {
        match target {
            Target::Remote(_) => Client::connect(target, &self.data()?).await,
            Target::Data(_) | Target::Socket(_) => Client::connect(target, Path::new("")).await,
        }
    }

    /// Whether the node that is meant is on another machine, or may be.
    pub(crate) fn is_remote(&self) -> bool {
        let target = self.node.as_deref().map(Target::parse);
        matches!(target, Some(Ok(Target::Remote(_))))
    }
}

/// A path of the tree, as a user wrote it.
pub(crate) fn parse_path(text: &str) -> Result<TreePath, Problem> {
    TreePath::parse(text).map_err(|problem| Problem::name(text, problem))
}

/// `30s`, `5m`, `2h`, `250ms`, or bare seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "a number and a unit: 30s, 5m, 2h".to_owned())?;
    let unit_ms = match text.get(digits.len()..) {
        Some("ms") => 1,
        Some("" | "s") => 1000,
        Some("m" | "min") => 60_000,
        Some("h") => 3_600_000,
        _ => return Err("units are ms, s, m and h".to_owned()),
    };
    let millis = number.checked_mul(unit_ms).ok_or("this is too long")?;
    Ok(Duration::from_millis(millis))
}

/// Runs the program on its own arguments.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    match Cli::try_parse_from(&arguments).and_then(at::expand) {
        Ok(cli) => ExitCode::from(start(cli)),
        Err(error) if json && error.use_stderr() => {
            let out = Output {
                command: "aber",
                json: true,
                quiet: false,
                color: false,
            };
            let text = error.kind().to_string();
            let problem = Problem::usage(text);
            out.error(&problem);
            ExitCode::from(problem.reason.row().exit)
        }
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() {
                Reason::Usage.row().exit
            } else {
                0
            })
        }
    }
}

fn start(cli: Cli) -> u8 {
    let color = match cli.global.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    let command = cli.command.as_ref().map_or("status", Command::name);
    let out = Output {
        command,
        json: cli.global.json,
        quiet: cli.global.quiet,
        color,
    };
    let context = Context {
        out: out.clone(),
        verbose: cli.global.verbose,
        timeout: cli.global.timeout,
        data: cli.global.data,
        node: cli.global.node,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let problem = Problem::internal(format!("no runtime: {error}"));
            out.error(&problem);
            return problem.reason.row().exit;
        }
    };
    let outcome = runtime.block_on(run(&context, cli.command));
    // A read of standard input cannot be called off: it must not hold the process.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|problem| {
        out.error(&problem);
        problem.reason.row().exit
    })
}

/// Runs a command, unless Ctrl-C or the timeout come first.
async fn run(context: &Context, command: Option<Command>) -> Outcome {
    let Some(command) = command else {
        return alone(context).await;
    };
    if command.is_its_own_master() {
        return command::dispatch(context, command).await;
    }
    let writes = command.writes();
    let limit = context.timeout.unwrap_or(Duration::MAX);
    tokio::select! {
        biased;
        outcome = command::dispatch(context, command) => outcome,
        _ = tokio::signal::ctrl_c() => interrupted(context, writes),
        () = tokio::time::sleep(limit) => {
            Err(Problem::new(Reason::TimedOut).with("seconds", limit.as_secs()))
        }
    }
}

/// Ctrl-C ends a command, not the change it sent: the node goes on with that.
fn interrupted(context: &Context, writes: bool) -> Outcome {
    if !writes {
        return Err(Problem::new(Reason::Interrupted));
    }
    let text = "interrupted; what reached the node goes on there: aber status";
    context.out.result(
        Some(text.to_owned()),
        json!({"interrupted": true, "level": null}),
    );
    Ok(7)
}

/// `aber` alone: how it is, or how to start.
async fn alone(context: &Context) -> Outcome {
    match cluster::status(context, cluster::StatusArgs::default()).await {
        Err(problem) if problem.reason == Reason::DaemonNotRunning && !context.out.json => {
            let help = Cli::command().render_help();
            context.out.notice(&help.to_string(), json!({}));
            Err(problem)
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests;
