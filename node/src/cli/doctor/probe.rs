//! [adapter] What the doctor asks of the system: disk, ports, limits, addresses.

use crate::doctor::{self, Finding};
use crate::security::identity::KEY_FILE;
use rustix::fs::{Mode, OFlags};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For a name, and for a connection.
const TRY_TIME: Duration = Duration::from_secs(2);
/// Written, synced, and removed.
const PROBE_BYTES: usize = 4096;
/// Directories of a mirror that are counted at most.
const DIRECTORIES: u64 = 2_000_000;

/// What is known of the disk under the data directory.
pub(super) struct Disk {
    pub(super) magic: u64,
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) sync_took: Duration,
}

/// Writes and syncs a file in the data directory; `None` if there is no such directory.
pub(super) fn disk(data: &Path) -> io::Result<Option<Disk>> {
    if !data.try_exists()? {
        return Ok(None);
    }
    let probe = data.join(format!(".doctor-{}", std::process::id()));
    let began = Instant::now();
    let written = write_and_sync(&probe);
    // It may never have been made.
    let _ = std::fs::remove_file(&probe);
    written?;
    let sync_took = began.elapsed();
    let (system, space) = (rustix::fs::statfs(data)?, rustix::fs::statvfs(data)?);
    Ok(Some(Disk {
        magic: u64::try_from(system.f_type).unwrap_or(0) & 0xFFFF_FFFF,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        sync_took,
    }))
}

fn write_and_sync(path: &Path) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(file);
    file.write_all(&[0; PROBE_BYTES])?;
    file.sync_all()
}

/// The mode and owner of the key's file.
pub(super) fn key(data: &Path) -> Finding {
    let path = data.join(KEY_FILE);
    match std::fs::symlink_metadata(&path) {
        Ok(meta) => {
            let own = rustix::process::geteuid().as_raw();
            // Root reads it anyway.
            let is_own = own == 0 || meta.uid() == own;
            doctor::key(&path.display().to_string(), meta.mode(), is_own)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::skipped("key", "there is none yet; aber up makes one")
        }
        Err(error) => Finding::problem(
            "key",
            format!("{} cannot be looked at", path.display()),
            error.to_string(),
            "run it as the user of the node",
        ),
    }
}

/// Whether a node could listen on a port.
pub(super) fn is_free(port: u16) -> bool {
    let is_free = |ip: IpAddr| TcpListener::bind((ip, port)).is_ok();
    is_free(Ipv6Addr::UNSPECIFIED.into()) || (!has_ipv6() && is_free(Ipv4Addr::UNSPECIFIED.into()))
}

pub(super) fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Whether this machine has one of the addresses that `host:port` stands for; `None` if it stands
/// for none.
pub(super) async fn is_of_this_machine(address: &str) -> Option<bool> {
    let found = timeout(TRY_TIME, tokio::net::lookup_host(address)).await;
    let found: Vec<_> = found.ok()?.ok()?.collect();
    // A socket can only be bound to an address of its own machine.
    let is_here = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    (!found.is_empty()).then(|| found.iter().any(|address| is_here(address.ip())))
}

/// Connects to the first of these that answers; tells how the tries before it ended.
pub(super) async fn connect(addresses: &[String]) -> (Option<String>, Vec<(String, String)>) {
    let mut tried = Vec::new();
    for address in addresses.iter().filter(|address| !address.is_empty()) {
        let why = match timeout(TRY_TIME, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return (Some(address.clone()), tried),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TRY_TIME.as_secs()),
        };
        tried.push((address.clone(), why));
    }
    (None, tried)
}

/// The limit of a process, of this one if none runs.
pub(super) fn open_files(process: Option<u32>) -> Finding {
    let of = process.map_or_else(|| "self".to_owned(), |id| id.to_string());
    let limits = std::fs::read_to_string(format!("/proc/{of}/limits"));
    let Ok(limits) = limits else {
        return Finding::skipped("files", "the limit of open files cannot be read here");
    };
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft.map(|number| (number, number.parse())) {
        Some(("unlimited", _)) => doctor::open_files(None),
        Some((_, Ok(number))) => doctor::open_files(Some(number)),
        _ => Finding::skipped("files", "the limit of open files cannot be read here"),
    }
}

/// Directories of the mirror against the watches that the kernel gives.
pub(super) fn watches(mirror: &Path) -> Finding {
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let most = most.ok().and_then(|text| text.trim().parse().ok());
    match most {
        Some(most) => doctor::watches(directories_of(mirror), most),
        None => Finding::skipped(
            "watches",
            "the kernel's limit of watches cannot be read here",
        ),
    }
}

fn directories_of(root: &Path) -> u64 {
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    let mut count = 0;
    while let Some(directory) = left.pop() {
        // One that cannot be read, or is gone by now, is not watched either.
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        count += 1;
        if count >= DIRECTORIES {
            break;
        }
        let is_directory = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|t| t.is_dir());
        left.extend(
            entries
                .flatten()
                .filter(is_directory)
                .map(|entry| entry.path()),
        );
    }
    count
}
