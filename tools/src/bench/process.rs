//! Processes and directories of a run: started, watched, ended; on a signal too.
//!
//! Whatever is started here is listed until it is gone. SIGINT and SIGTERM end what is listed, each
//! by its id, remove a lab and the scratch directory, and exit.

use crate::lab::{self, Lab, Name, Plan};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// The kernel's clock ticks a second, the same on every Linux in use.
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug)]
struct Live {
    pids: Vec<Pid>,
    scratch: Option<PathBuf>,
    lab: Option<Name>,
}

static LIVE: Mutex<Live> = Mutex::new(Live {
    pids: Vec::new(),
    scratch: None,
    lab: None,
});

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lab that goes away with the program, one at a time.
#[derive(Debug)]
pub(crate) struct HeldLab(Lab);

impl HeldLab {
    pub(crate) fn make(plan: &Plan) -> Result<Self> {
        live().lab = Some(plan.name.clone());
        Ok(Self(Lab::make(plan)?))
    }
}

impl std::ops::Deref for HeldLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

/// A directory that goes away with the program.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let name = format!("aber-bench-{}", std::process::id());
        let path = std::path::absolute(parent)?.join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        live().scratch = Some(path.clone());
        watch_signals()?;
        Ok(Self { path })
    }

    /// A new directory in it, instead of what had this name.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        remove(&path);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a tree, read-only directories of mirrors too.
pub(crate) fn remove(path: &Path) {
    let make_writable = ["-R", "u+rwX"];
    let quiet = |command: &mut Command| {
        let _ = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
    };
    if path.exists() {
        quiet(Command::new("chmod").args(make_writable).arg(path));
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Ends everything and exits when the program is told to stop.
fn watch_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let install = |kind| signal(kind).ok();
                let (Some(mut interrupt), Some(mut terminate)) = (
                    install(SignalKind::interrupt()),
                    install(SignalKind::terminate()),
                ) else {
                    return;
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                lab::stop_making();
                let live = live();
                for pid in &live.pids {
                    let _ = kill_process(*pid, Signal::TERM);
                }
                thread::sleep(Duration::from_secs(2));
                for pid in &live.pids {
                    let _ = kill_process(*pid, Signal::KILL);
                }
                if let Some(name) = &live.lab {
                    // None of that name any more is as good.
                    let _ = lab::remove(name);
                }
                if let Some(scratch) = &live.scratch {
                    remove(scratch);
                }
                std::process::exit(130);
            });
        })?;
    Ok(())
}

/// A process of ours that runs until it is told to end.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    _stdin: Option<ChildStdin>,
}

impl Daemon {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut child = command.spawn().with_context(|| name.clone())?;
        live().pids.extend(pid_of(&child));
        Ok(Self {
            name,
            _stdin: child.stdin.take(),
            child,
            log: log.to_owned(),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log, if it is gone.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(5).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("{} ended: {status}: {}", self.name, tail.join(" / "));
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL; waits until it is gone.
    pub(crate) fn end(&mut self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + END_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        self.kill();
    }

    /// SIGKILL; waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let pid = pid_of(&self.child);
        let _ = self.child.kill();
        let _ = self.child.wait();
        live().pids.retain(|live| Some(*live) != pid);
    }

    fn signal(&mut self, signal: Signal) {
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid_of(&self.child)) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Whether a process with this id runs.
pub(crate) fn runs(id: u32) -> bool {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// What a command cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
}

/// Runs a command to its end, which is to be a good one.
pub(crate) fn run(command: &mut Command, patience: Duration) -> Result<Cost> {
    run_expecting(command, patience, &[0]).map(|(cost, _)| cost)
}

/// Runs a command to its end; answers how it ended too, which is to be one of these.
pub(crate) fn run_expecting(
    command: &mut Command,
    patience: Duration,
    codes: &[i32],
) -> Result<(Cost, i32)> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let before = children_cpu_s()?;
    let began = Instant::now();
    let child = command.spawn().with_context(|| name.clone())?;
    let pid = pid_of(&child);
    live().pids.extend(pid);
    let done = wait_at_most(child, patience);
    live().pids.retain(|live| Some(*live) != pid);
    let done = done?;
    let wall_s = began.elapsed().as_secs_f64();
    let code = done.status.code().filter(|code| codes.contains(code));
    let Some(code) = code else {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{name}: {}: {}", done.status, said.trim());
    };
    let cost = Cost {
        wall_s,
        cpu_s: children_cpu_s()? - before,
    };
    Ok((cost, code))
}

fn wait_at_most(child: Child, patience: Duration) -> Result<std::process::Output> {
    let pid = pid_of(&child);
    let (told, hear) = std::sync::mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        let timed_out = hear.recv_timeout(patience).is_err();
        if let (true, Some(pid)) = (timed_out, pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let done = child.wait_with_output();
    let _ = told.send(());
    let _ = guard.join();
    Ok(done?)
}

/// CPU seconds of all children that were waited for.
fn children_cpu_s() -> Result<f64> {
    cpu_fields("self", [13, 14])
}

/// CPU seconds a process has used.
pub(crate) fn cpu_s(id: u32) -> Result<f64> {
    cpu_fields(&id.to_string(), [11, 12])
}

fn cpu_fields(who: &str, places: [usize; 2]) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{who}/stat"))?;
    // The name, in parentheses, may hold spaces.
    let (_, fields) = text.rsplit_once(')').context("/proc/…/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = places
        .iter()
        .filter_map(|place| fields.get(*place)?.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS_PER_S)
}

/// The greatest resident memory a process has had, in MiB.
pub(crate) fn peak_mib(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("VmHWM")? / 1024.0)
}

/// CPU seconds of this thread, to the nanosecond.
pub(crate) fn thread_cpu_s() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    Ok(nanoseconds.context("/proc/thread-self/schedstat")? / 1e9)
}

/// Asks until the answer is yes.
pub(crate) fn wait_until(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let until = Instant::now() + patience;
    while !ask()? {
        if Instant::now() > until {
            bail!("{what}: not within {} s", patience.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_timed_and_its_failure_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]);
        let cost = run(&mut command, Duration::from_secs(60)).unwrap();
        assert!(cost.wall_s > 0.0 && cost.cpu_s <= cost.wall_s + 0.1);
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo broken >&2; exit 3"]);
        let known = run_expecting(&mut failing, Duration::from_secs(60), &[0, 3]);
        assert_eq!(known.unwrap().1, 3);
        let error = run(&mut failing, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let began = Instant::now();
        let mut command = Command::new("sleep");
        assert!(run(command.arg("60"), Duration::from_millis(100)).is_err());
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_daemon_is_watched_and_ended() {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        let mut daemon = Daemon::start(command.arg("60"), &home.path().join("log")).unwrap();
        let id = daemon.id();
        daemon.check().unwrap();
        assert!(cpu_s(id).unwrap() >= 0.0 && peak_mib(id).unwrap() > 0.0 && runs(id));
        daemon.end();
        assert!(!runs(id) && daemon.check().is_err());
    }
}
