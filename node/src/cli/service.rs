//! [adapter] `service install`, `service uninstall`: the node as a systemd user unit.

use super::unit::{self, Start, UNIT};
use super::{Context, Outcome, print};
use crate::reason::{Problem, Reason};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Arguments of `service`.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Subcommand, Debug)]
enum ServiceCommand {
    /// Write the unit, start it now and at each login
    #[command(after_help = INSTALL_HELP)]
    Install(InstallArgs),
    /// Stop it and remove the unit; the data stays
    Uninstall,
}

const INSTALL_HELP: &str = "\
A unit that somebody else wrote, or that was edited, is never overwritten. The commands that are run
are printed.

Examples:
  aber service install                           the node of the default data directory
  aber service install --data /srv/aber -- --listen [::]:7788
  aber service uninstall                         stop it; nothing of its data goes";

/// Arguments of `service install`.
#[derive(Args, Debug)]
pub(crate) struct InstallArgs {
    /// The mirror directory, if it is not in the data directory
    #[arg(long, value_name = "DIR")]
    mirror: Option<PathBuf>,
    /// More arguments of `aber up`, behind --
    #[arg(last = true, value_name = "UP")]
    up: Vec<String>,
}

/// Runs `service`.
pub(crate) async fn service(context: &Context, args: ServiceArgs) -> Outcome {
    match args.command {
        ServiceCommand::Install(args) => install(context, args).await,
        ServiceCommand::Uninstall => uninstall(context).await,
    }
}

/// Where user units are.
fn unit_path() -> Result<PathBuf, Problem> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let xdg = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let xdg = xdg.filter(|path| path.is_absolute());
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = xdg.or_else(home);
    let base = base.ok_or_else(|| Problem::usage("HOME is not set: where are your units?"))?;
    Ok(base.join("systemd/user").join(UNIT))
}

fn unwritable(path: &Path, error: &io::Error) -> Problem {
    Problem::new(Reason::TargetUnwritable)
        .with("path", path.display())
        .with("detail", error)
}

/// What stands where the unit belongs: `None` for nothing. What is not ours is a problem.
fn present(path: &Path) -> Result<Option<String>, Problem> {
    match fs::read_to_string(path) {
        Ok(text) if unit::is_ours(&text) => Ok(Some(text)),
        Ok(_) => Err(Problem::new(Reason::UnitForeign).with("path", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Problem::new(Reason::UnitForeign).with("path", path.display()))
        }
        Err(error) => Err(unwritable(path, &error)),
    }
}

/// Whole or not at all, and only over what was looked at just before.
fn write_unit(path: &Path, text: &str, is_new: bool) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut file = tempfile_in(directory)?;
    let written = file
        .1
        .write_all(text.as_bytes())
        .and_then(|()| file.1.sync_all());
    let placed = written.and_then(|()| {
        if is_new {
            // Fails if somebody made one meanwhile.
            fs::hard_link(&file.0, path)
        } else {
            fs::rename(&file.0, path)
        }
    });
    // After a rename there is none.
    let _ = fs::remove_file(&file.0);
    placed
}

fn tempfile_in(directory: &Path) -> io::Result<(PathBuf, fs::File)> {
    let path = directory.join(format!(".{UNIT}.{}", std::process::id()));
    let file = fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)?;
    Ok((path, file))
}

/// Runs `systemctl --user` with these, and says so.
async fn systemctl(context: &Context, arguments: &[&str]) -> Result<(), Problem> {
    let shown = format!("systemctl --user {}", arguments.join(" "));
    context
        .out
        .notice(&format!("$ {shown}"), json!({"command": shown}));
    let ran = Command::new("systemctl")
        .arg("--user")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await;
    let no_systemd = |detail: String| Problem::new(Reason::NoSystemd).with("detail", detail);
    let ran = match ran {
        Ok(ran) => ran,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(no_systemd("there is no systemctl".to_owned()));
        }
        Err(error) => return Err(no_systemd(error.to_string())),
    };
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(no_systemd(format!("{shown}: {}", said.trim())))
}

async fn install(context: &Context, args: InstallArgs) -> Outcome {
    let path = unit_path()?;
    let absolute = |path: &Path| {
        let absolute = std::path::absolute(path);
        absolute.map_err(|error| Problem::usage(format!("{}: {error}", path.display())))
    };
    let data = absolute(&context.data()?)?;
    let mirror = args.mirror.as_deref().map(absolute).transpose()?;
    let program = std::env::current_exe();
    let program = program.map_err(|error| Problem::internal(format!("no own path: {error}")))?;
    let before = present(&path)?;
    // Asked before anything is written: where there is no systemd, nothing is left behind.
    systemctl(context, &["show-environment"]).await?;
    // The unit may write to directories that are there, and to no others.
    for directory in std::iter::once(&data).chain(&mirror) {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|error| unwritable(directory, &error))?;
    }
    let text = unit::text(&Start {
        program: &program,
        data: &data,
        mirror: mirror.as_deref(),
        arguments: &args.up,
    });
    let is_changed = before.as_deref() != Some(text.as_str());
    if is_changed {
        let written = write_unit(&path, &text, before.is_none());
        written.map_err(|error| unwritable(&path, &error))?;
    }
    systemctl(context, &["daemon-reload"]).await?;
    systemctl(context, &["enable", "--now", UNIT]).await?;
    if is_changed && before.is_some() {
        systemctl(context, &["restart", UNIT]).await?;
    }
    let shown = print::escape(&path.display().to_string());
    let text = format!(
        "Installed {shown}\n  aber status                  how it is\n  \
         journalctl --user -u aber    what it says\n\
         It runs while you are logged in. To have it run always: loginctl enable-linger"
    );
    context.out.result(Some(text), value(&path, true));
    Ok(0)
}

async fn uninstall(context: &Context) -> Outcome {
    let path = unit_path()?;
    if present(&path)?.is_none() {
        context
            .out
            .result(Some("no unit is installed".to_owned()), value(&path, false));
        return Ok(0);
    }
    systemctl(context, &["disable", "--now", UNIT]).await?;
    fs::remove_file(&path).map_err(|error| unwritable(&path, &error))?;
    systemctl(context, &["daemon-reload"]).await?;
    let shown = print::escape(&path.display().to_string());
    let text = format!("Removed {shown}; the data stays where it is");
    context.out.result(Some(text), value(&path, false));
    Ok(0)
}

fn value(path: &Path, is_installed: bool) -> Value {
    json!({"unit": path.display().to_string(), "installed": is_installed})
}
