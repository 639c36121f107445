//! [adapter] The command line: arguments in, exit code out.
//!
//! Every command but `up`, `demo` and `materialize` is a client of a node's socket. What goes wrong
//! is a [`Problem`], whose row says the exit code; `print` says it in words or JSON.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the command line reads and writes the user's own files"
)]

mod batch;
pub(crate) mod cluster;
mod doctor;
mod file;
mod get;
mod help;
mod history;
mod invite;
mod join;
mod links;
pub(crate) mod load;
mod members;
mod metrics;
mod outflow;
pub(crate) mod print;
pub(crate) mod progress;
mod put;
mod rate;
mod service;
mod start;
mod tickets;
mod tree;
mod unit;
mod upload;
pub(crate) mod walk;
mod where_is;
pub(crate) mod write;

use self::help::{
    DEMO_HELP, DOCTOR_HELP, EXAMPLES, INVITE_HELP, JOIN_HELP, MATERIALIZE_HELP, MEMBERS_HELP,
    METRICS_HELP, PUT_HELP, STATUS_HELP, TREE_HELP, UP_HELP,
};
use crate::client::{Client, Target};
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};
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

#[derive(Subcommand, Debug)]
enum Command {
    /// Start several nodes on this machine, to try things out
    #[command(after_help = DEMO_HELP)]
    Demo(start::DemoArgs),
    /// Start the node; with nothing set up: a cluster of one
    #[command(after_help = UP_HELP)]
    Up(start::UpArgs),
    /// Stop the node
    Down,
    /// Make a ticket that lets one more node in
    #[command(after_help = INVITE_HELP)]
    Invite(invite::InviteArgs),
    /// Make this machine a node of somebody's cluster, by a ticket
    #[command(after_help = JOIN_HELP)]
    Join(join::JoinArgs),
    /// How the node and its cluster are
    #[command(after_help = STATUS_HELP)]
    Status(cluster::StatusArgs),
    /// Put local files into the tree
    #[command(after_help = PUT_HELP)]
    Put(put::PutArgs),
    /// Get files from the tree
    Get(get::GetArgs),
    /// List a directory
    Ls(file::LsArgs),
    /// Write files to standard output
    Cat(get::CatArgs),
    /// Rename or move
    Mv(file::MoveArgs),
    /// Copy within the tree; sends nothing
    Cp(file::MoveArgs),
    /// Remove; history keeps it
    Rm(file::RmArgs),
    /// Make directories; a top-level one is a volume
    Mkdir(file::MkdirArgs),
    /// Which nodes have a file
    Where(where_is::WhereArgs),
    /// Who did what, newest first
    Log(history::LogArgs),
    /// Who belongs to the cluster, and how they are
    #[command(after_help = MEMBERS_HELP)]
    Members(members::MembersArgs),
    /// Whom this node is connected to, and why not
    Links,
    /// The trees down which content or entries go
    #[command(after_help = TREE_HELP)]
    Tree(tree::TreeArgs),
    /// Counters and gauges of the node, as text that Prometheus reads
    #[command(after_help = METRICS_HELP)]
    Metrics,
    /// Read everything again and check it
    Verify(history::VerifyArgs),
    /// Is everything here as a node needs it?
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// The node as a service of systemd
    Service(service::ServiceArgs),
    /// Follow a node into a directory, as a process of its own
    #[command(after_help = MATERIALIZE_HELP)]
    Materialize(start::MaterializeArgs),
    /// The version of this program
    Version,
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Demo(_) => "demo",
            Self::Up(_) => "up",
            Self::Down => "down",
            Self::Invite(_) => "invite",
            Self::Join(_) => "join",
            Self::Status(_) => "status",
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Ls(_) => "ls",
            Self::Cat(_) => "cat",
            Self::Mv(_) => "mv",
            Self::Cp(_) => "cp",
            Self::Rm(_) => "rm",
            Self::Mkdir(_) => "mkdir",
            Self::Where(_) => "where",
            Self::Log(_) => "log",
            Self::Members(_) => "members",
            Self::Links => "links",
            Self::Tree(_) => "tree",
            Self::Metrics => "metrics",
            Self::Verify(_) => "verify",
            Self::Doctor => "doctor",
            Self::Service(_) => "service",
            Self::Materialize(_) => "materialize",
            Self::Version => "version",
        }
    }

    /// Whether it ends by itself on Ctrl-C, and uses `--timeout` in its own way.
    fn is_its_own_master(&self) -> bool {
        match self {
            Self::Up(_) | Self::Demo(_) => true,
            Self::Join(args) => args.foreground,
            _ => false,
        }
    }

    /// Whether a change may be on its way when it is interrupted.
    fn writes(&self) -> bool {
        use Command::{Cp, Invite, Members, Mkdir, Mv, Put, Rm};
        match self {
            Put(_) | Mv(_) | Cp(_) | Rm(_) | Mkdir(_) => true,
            Members(args) => args.writes(),
            Invite(args) => args.writes(),
            _ => false,
        }
    }
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
    match Cli::try_parse_from(&arguments) {
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
        return dispatch(context, command).await;
    }
    let writes = command.writes();
    let limit = context.timeout.unwrap_or(Duration::MAX);
    tokio::select! {
        biased;
        outcome = dispatch(context, command) => outcome,
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

async fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Demo(args) => start::demo(context, args).await,
        Command::Up(args) => start::up(context, args).await,
        Command::Down => start::down(context).await,
        Command::Invite(args) => invite::invite(context, args).await,
        Command::Join(args) => join::join(context, args).await,
        Command::Status(args) => cluster::status(context, args).await,
        Command::Put(args) => put::put(context, args).await,
        Command::Get(args) => get::get(context, args).await,
        Command::Ls(args) => file::ls(context, args).await,
        Command::Cat(args) => get::cat(context, args).await,
        Command::Mv(args) => file::mv(context, args).await,
        Command::Cp(args) => file::cp(context, args).await,
        Command::Rm(args) => file::rm(context, args).await,
        Command::Mkdir(args) => file::mkdir(context, args).await,
        Command::Where(args) => where_is::where_is(context, args).await,
        Command::Log(args) => history::log(context, args).await,
        Command::Members(args) => members::members(context, args).await,
        Command::Links => links::links(context).await,
        Command::Tree(args) => tree::tree(context, args).await,
        Command::Metrics => metrics::metrics(context).await,
        Command::Verify(args) => history::verify(context, args).await,
        Command::Doctor => doctor::doctor(context).await,
        Command::Service(args) => service::service(context, args).await,
        Command::Materialize(args) => start::materialize(context, args).await,
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            context
                .out
                .result(Some(format!("aber {version}")), json!({"version": version}));
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests;
