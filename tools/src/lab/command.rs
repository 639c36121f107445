//! The command line of `lab`.

use super::{Host, Lab, Name, Plan, Rate, lacks, remove};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// After a signal.
const EXIT_STOPPED: u8 = 130;
/// Something is lacking that can be mended, or cannot.
const EXIT_LACKING: u8 = 1;
const EXIT_FORBIDDEN: u8 = 3;

/// Hosts at the ends of slow lines, on this machine: h1, h2, … reach each other and nothing else.
#[derive(Parser, Debug)]
#[command(name = "lab")]
pub struct Options {
    /// Which lab [default: the only one; for `up` a new name]
    #[arg(long, global = true, value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Makes a lab and says its name
    Up(Up),
    /// Runs a program on a host
    Exec {
        /// The host
        #[arg(value_parser = Host::parse)]
        host: Host,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Bytes that each line carried, whole frames
    Counters {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Hosts and addresses
    List,
    /// Pulls a host's cable, or plugs it in
    Link {
        /// The host
        #[arg(value_parser = Host::parse)]
        host: Host,
        /// Whether it is plugged in
        state: State,
    },
    /// Keeps two hosts from reaching each other
    Block(Pair),
    /// Lets two hosts reach each other again
    Unblock(Pair),
    /// Ends what runs inside and removes the lab
    Down,
    /// What this machine lacks; exits 1 where that can be mended, 3 where it cannot
    Check,
}

#[derive(Args, Debug)]
struct Up {
    /// How many hosts, at most 250
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// What each sends at most, as 8mbit [default: unlimited]
    #[arg(long, value_name = "RATE", value_parser = Rate::parse)]
    up: Option<Rate>,
    /// What each receives at most, as 80mbit [default: unlimited]
    #[arg(long, value_name = "RATE", value_parser = Rate::parse)]
    down: Option<Rate>,
    /// How far each host is from the switch, e.g. 20: the way between two takes that long each way
    #[arg(long, value_name = "MS", default_value_t = 0, requires = "until_eof")]
    delay_ms: u16,
    /// IPv6 alone
    #[arg(long)]
    no_ipv4: bool,
    /// Stay, and remove the lab when standard input closes: for programs that may be killed
    #[arg(long)]
    until_eof: bool,
}

#[derive(Args, Debug)]
struct Pair {
    #[arg(value_parser = Host::parse)]
    a: Host,
    #[arg(value_parser = Host::parse)]
    b: Host,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum State {
    Up,
    Down,
}

/// Does what was asked.
///
/// # Errors
/// It could not be done; a lab that was being made is gone again.
pub fn run(options: Options) -> Result<ExitCode> {
    let name = options.name;
    let lab = || Lab::find(&which(name.as_ref())?);
    match options.verb {
        Verb::Up(up) => return make(&up, name),
        Verb::Check => return Ok(check()),
        Verb::Exec { host, command } => {
            let (program, arguments) = command.split_first().context("no program")?;
            let error = lab()?.command(host, program)?.args(arguments).exec();
            bail!("{program}: {error}");
        }
        Verb::Counters { json } => counters(&lab()?, json)?,
        Verb::List => {
            let lab = lab()?;
            for host in lab.hosts() {
                say(&format!("{host:5} {:12} {}", host.ipv6(), host.ipv4()));
            }
        }
        Verb::Link { host, state } => lab()?.set_link(host, matches!(state, State::Up))?,
        Verb::Block(pair) => lab()?.set_blocked([pair.a, pair.b], true)?,
        Verb::Unblock(pair) => lab()?.set_blocked([pair.a, pair.b], false)?,
        // By its name, without finding it: what a killed `up` left behind may lack a switch.
        Verb::Down => match name {
            Some(name) => remove(&name)?,
            None => remove(&which(None)?)?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// The lab that is meant.
fn which(name: Option<&Name>) -> Result<Name> {
    if let Some(name) = name {
        return Ok(name.clone());
    }
    let mut all = Lab::all();
    let names: Vec<String> = all.iter().map(Name::to_string).collect();
    ensure!(
        all.len() < 2,
        "which lab? --name one of: {}",
        names.join(", ")
    );
    all.pop().context("no lab is up")
}

fn check() -> ExitCode {
    let lacks = lacks();
    for lack in lacks.mendable.iter().chain(&lacks.forbidden) {
        say(lack);
    }
    match (lacks.mendable.is_empty(), lacks.forbidden) {
        (false, _) => ExitCode::from(EXIT_LACKING),
        (true, Some(_)) => ExitCode::from(EXIT_FORBIDDEN),
        (true, None) => ExitCode::SUCCESS,
    }
}

fn make(up: &Up, name: Option<Name>) -> Result<ExitCode> {
    let (tell, told) = channel();
    watch_signals(tell.clone())?;
    let name = match name {
        Some(name) => name,
        None => Name::new(&format!("l{}", std::process::id()))?,
    };
    let plan = Plan {
        name,
        hosts: up.hosts,
        up: up.up,
        down: up.down,
        has_ipv4: !up.no_ipv4,
        delay: Duration::from_millis(up.delay_ms.into()),
    };
    let made = Lab::make(&plan);
    if let Ok(End::Signal) = told.try_recv() {
        // Whether it was finished or not: dropped, it is gone.
        return Ok(ExitCode::from(EXIT_STOPPED));
    }
    let lab = made.context("no lab was made (`lab check` says what this machine lacks)")?;
    say(&format!("{} {}", lab.name(), lab.hosts().len()));
    if !up.until_eof {
        lab.keep();
        return Ok(ExitCode::SUCCESS);
    }
    watch_stdin(tell)?;
    let end = wait(&told);
    lab.remove()?;
    Ok(match end {
        End::Eof => ExitCode::SUCCESS,
        End::Signal => ExitCode::from(EXIT_STOPPED),
    })
}

/// Why a lab ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Signal,
    Eof,
}

fn wait(told: &Receiver<End>) -> End {
    // All who could tell are gone: nobody will ask for the lab again.
    told.recv().unwrap_or(End::Signal)
}

fn watch_signals(tell: Sender<End>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [mut interrupt, mut terminate, mut hangup] = {
        let [a, b, c] = kinds.map(signal);
        [a?, b?, c?]
    };
    drop(guard);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            super::stop_making();
            let _ = tell.send(End::Signal);
        })?;
    Ok(())
}

fn watch_stdin(tell: Sender<End>) -> Result<()> {
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut piece = [0; 64];
            while matches!(std::io::stdin().read(&mut piece), Ok(1..)) {}
            let _ = tell.send(End::Eof);
        })?;
    Ok(())
}

fn counters(lab: &Lab, is_json: bool) -> Result<()> {
    let carried = lab.carried()?;
    if is_json {
        let row = |c: &super::Carried| {
            let value = json!({"up_bytes": c.up_bytes, "down_bytes": c.down_bytes});
            (c.host.to_string(), value)
        };
        say(&Value::Object(carried.iter().map(row).collect::<Map<_, _>>()).to_string());
        return Ok(());
    }
    say(&format!("{:5} {:>15} {:>15}", "host", "sent", "received"));
    for c in carried {
        say(&format!(
            "{:5} {:>15} {:>15}",
            c.host, c.up_bytes, c.down_bytes
        ));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn say(line: &str) {
    println!("{line}");
}
