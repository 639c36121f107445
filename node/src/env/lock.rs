//! [adapter] The data directory: made, locked, and of a format this program knows.
//!
//! One file, `lock`, is held by `flock` for as long as the [`DataDir`] lives; the system lets go of
//! it when the process dies, however it dies. Its content, the holder's process id, is only told
//! to people. `format` names the layout, `cluster` the cluster whose data this is.

use aber_proto::ClusterId;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The layout this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
const FORMAT_FILE: &str = "format";
const FORMAT_PREFIX: &str = "aber data ";
const CLUSTER_FILE: &str = "cluster";
const LOCK_FILE: &str = "lock";
/// None of these files is longer.
const SMALL_BYTES: u64 = 4096;

/// Why a data directory does not open.
#[derive(Debug, thiserror::Error)]
pub enum DataDirProblem {
    /// Another process, or another part of this one, has it open.
    #[error("{} is in use{}", path.display(), by(*pid))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Who holds it, where that is known.
        pid: Option<u32>,
    },
    /// Something else stands there.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// What should be the data directory.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "{} has data format {found}; this program knows formats up to {FORMAT_VERSION}",
        path.display()
    )]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// Its format file says nothing that any program wrote.
    #[error("{} is no data directory: its format file says {found:?}", path.display())]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// It holds the data of another cluster.
    #[error("{} belongs to cluster {found}, not to {wanted}", path.display())]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// Whose data it holds.
        found: String,
        /// Whose was wanted.
        wanted: ClusterId,
    },
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}"))
        .unwrap_or_default()
}

/// A locked data directory; dropping it unlocks.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: OwnedFd,
}

impl DataDir {
    /// Opens and locks the data directory, made with mode 0700 if missing.
    ///
    /// # Errors
    /// [`DataDirProblem`].
    pub fn open(path: &Path) -> Result<Self, DataDirProblem> {
        let failed = |source| DataDirProblem::Io {
            path: path.to_path_buf(),
            source,
        };
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                let path = path.to_path_buf();
                return Err(DataDirProblem::NotADirectory { path });
            }
            Ok(_) => {}
            Err(_) => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed)?,
        }
        let path = fs::canonicalize(path).map_err(failed)?;
        let lock = lock(&path)?;
        check_format(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds the data of some cluster.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.path.join(CLUSTER_FILE).exists()
    }

    /// Ties the directory to a cluster at the first call; later ones check that it is the same.
    ///
    /// # Errors
    /// [`DataDirProblem::OtherCluster`], or the disk fails.
    pub fn claim_for(&self, wanted: ClusterId) -> Result<(), DataDirProblem> {
        let file = self.path.join(CLUSTER_FILE);
        let failed = |source| DataDirProblem::Io {
            path: file.clone(),
            source,
        };
        match read_small(&file).map_err(failed)? {
            None => write_small(&file, &format!("{wanted}\n")).map_err(failed),
            Some(text) if text.trim() == wanted.to_string() => Ok(()),
            Some(text) => Err(DataDirProblem::OtherCluster {
                path: self.path.clone(),
                found: text.trim().escape_default().to_string(),
                wanted,
            }),
        }
    }
}

fn lock(dir: &Path) -> Result<OwnedFd, DataDirProblem> {
    let file = dir.join(LOCK_FILE);
    let failed = |errno: Errno| DataDirProblem::Io {
        path: dir.join(LOCK_FILE),
        source: errno.into(),
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let text = read_small(&file).ok().flatten();
            return Err(DataDirProblem::InUse {
                path: dir.to_path_buf(),
                pid: text.and_then(|text| text.trim().parse().ok()),
            });
        }
        Err(errno) => return Err(failed(errno)),
    }
    let pid = format!("{}\n", std::process::id());
    rustix::fs::ftruncate(&handle, 0).map_err(failed)?;
    rustix::io::pwrite(&handle, pid.as_bytes(), 0).map_err(failed)?;
    Ok(handle)
}

fn check_format(dir: &Path) -> Result<(), DataDirProblem> {
    let file = dir.join(FORMAT_FILE);
    let failed = |source| DataDirProblem::Io {
        path: file.clone(),
        source,
    };
    let path = dir.to_path_buf();
    let Some(text) = read_small(&file).map_err(failed)? else {
        return write_small(&file, &format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n")).map_err(failed);
    };
    let number = text.trim_end().strip_prefix(FORMAT_PREFIX);
    match number.and_then(|number| number.parse().ok()) {
        Some(1..=FORMAT_VERSION) => Ok(()),
        Some(found) if found > FORMAT_VERSION => Err(DataDirProblem::NewerFormat { path, found }),
        _ => Err(DataDirProblem::Damaged { path, found: text }),
    }
}

fn read_small(file: &Path) -> io::Result<Option<String>> {
    let opened = match fs::File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    opened.take(SMALL_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Written beside, synced and renamed: after a crash it is there whole or not at all.
fn write_small(file: &Path, text: &str) -> io::Result<()> {
    let beside = file.with_extension("new");
    let mut written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(&beside, file)?;
    fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/data");
        (dir, path)
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, path) = data();
        let first = DataDir::open(&path).expect("first");
        let mode = fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        match DataDir::open(&path) {
            Err(DataDirProblem::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        DataDir::open(&path).expect("free again");
        let format = fs::read_to_string(path.join("format")).expect("format");
        assert_eq!(format, "aber data 1\n");
    }

    #[test]
    fn newer_and_damaged_formats_are_told_apart() {
        let (_dir, path) = data();
        drop(DataDir::open(&path).expect("made"));
        fs::write(path.join("format"), "aber data 2\n").expect("write");
        let newer = DataDir::open(&path);
        assert!(matches!(
            newer,
            Err(DataDirProblem::NewerFormat { found: 2, .. })
        ));
        for text in ["", "aber data 0", "aber data x", "holiday pictures"] {
            fs::write(path.join("format"), text).expect("write");
            let damaged = DataDir::open(&path);
            assert!(
                matches!(damaged, Err(DataDirProblem::Damaged { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let (dir, _) = data();
        let path = dir.path().join("file");
        fs::write(&path, "").expect("write");
        let refused = DataDir::open(&path);
        assert!(matches!(refused, Err(DataDirProblem::NotADirectory { .. })));
    }

    #[test]
    fn a_directory_belongs_to_one_cluster() {
        let (_dir, path) = data();
        let open = DataDir::open(&path).expect("made");
        let (mine, other) = (ClusterId([1; 32]), ClusterId([2; 32]));
        open.claim_for(mine).expect("first claim");
        open.claim_for(mine).expect("same claim");
        match open.claim_for(other) {
            Err(DataDirProblem::OtherCluster { found, wanted, .. }) => {
                assert_eq!((found, wanted), (mine.to_string(), other));
            }
            other => panic!("{other:?}"),
        }
    }
}
