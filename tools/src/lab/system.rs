//! [adapter] The programs `ip` and `tc`, and the processes of a namespace.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `ip` keeps the namespaces that have names.
const NAMESPACES: &str = "/run/netns";

/// A command of `ip` or `tc`. In a process group of its own: a Ctrl-C is for the program, which
/// still needs them to clear up.
fn command(words: &[&str]) -> Result<Command> {
    let (program, rest) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(rest).process_group(0);
    Ok(command)
}

/// Runs a command; answers what it printed.
pub(super) fn run(words: &[&str]) -> Result<String> {
    run_with(words, "")
}

/// The same, with this on standard input.
pub(super) fn run_with(words: &[&str], input: &str) -> Result<String> {
    let mut child = command(words)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| words.join(" "))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ended early says itself why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "{}: {}",
        words.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The namespaces that have names.
pub(super) fn namespaces() -> Vec<String> {
    // Without the directory there is none yet.
    let entries = std::fs::read_dir(NAMESPACES)
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The file that stands for a namespace.
pub(super) fn file_of(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

/// Which namespace a path stands for.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Signals each process in these namespaces; answers whether there was any. Without a signal it
/// only looks.
///
/// A process is held by a descriptor before its namespace is looked at: should it end meanwhile and
/// its number go to another, the other is not hit.
pub(super) fn signal_in(namespaces: &[String], signal: Option<Signal>) -> bool {
    let paths = namespaces.iter().map(|name| file_of(name));
    let ours: BTreeSet<(u64, u64)> = paths.filter_map(|path| identity(&path)).collect();
    let is_inside = |pid: i32| {
        let namespace = identity(Path::new(&format!("/proc/{pid}/ns/net")));
        namespace.is_some_and(|namespace| ours.contains(&namespace))
    };
    let own = std::process::id();
    let mut found = false;
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| u32::try_from(*number) != Ok(own)) {
        if !is_inside(number) {
            continue;
        }
        let handle = Pid::from_raw(number).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let Some(Ok(handle)) = handle else { continue };
        if is_inside(number) {
            found = true;
            if let Some(signal) = signal {
                // It may have ended by itself.
                let _ = pidfd_send_signal(&handle, signal);
            }
        }
    }
    found
}

/// Whether a program is on the path.
pub(super) fn is_there(program: &str) -> bool {
    let quiet = Command::new(program)
        .arg("-V")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok()
}
