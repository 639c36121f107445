//! [adapter] The rebuildable index: sled, one tree, one atomic batch a commit.
//!
//! sled is neither trusted nor needed: what it holds can be rebuilt from the log. It is opened in
//! a thread of its own under a time limit, and a panic of it, there or in any later call, is a
//! [`KvProblem`]. A problem is mended by dropping all handles, [`discard`] and opening again; an
//! open index is never repaired in place, and a reopened one is checked by those who own its rows.
//!
//! A scan never sees half a commit: commits and scans exclude each other here, which sled's own
//! iterators do not promise.

use super::runtime::{guarded, index_panics};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem};
use bytes::Bytes;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::{Duration, Instant};

/// Where the index lives in the data directory.
pub const INDEX_DIR: &str = "index";
/// What an index that was moved aside is called, and a number.
const BAD_PREFIX: &str = "index.bad-";
/// sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
const FLUSH_EVERY_MS: u64 = 1000;
/// A sound index opens within a second or two; one that takes longer is quicker to rebuild.
const OPEN_TIME: Duration = Duration::from_secs(30);
/// How long the handles of a run that just ended may take to let go of the files.
const RELEASE_TIME: Duration = Duration::from_secs(5);
const RELEASE_STEP: Duration = Duration::from_millis(50);
/// The row that names the format of the index; nobody else sees it.
const FORMAT_KEY: &[u8] = b"\0format";
const FORMAT: &[u8] = b"aber index 1";

/// The index. Clones are the same one.
#[derive(Clone)]
pub struct SledKv {
    inner: Arc<Inner>,
}

struct Inner {
    db: sled::Db,
    path: PathBuf,
    /// Commits write, scans read.
    turn: RwLock<()>,
    panics_before: u64,
}

fn problem(what: impl std::fmt::Display) -> KvProblem {
    KvProblem {
        what: what.to_string(),
    }
}

impl SledKv {
    /// Opens the index in the directory `path`, made if missing.
    ///
    /// # Errors
    /// It does not open in time, panics, or is of another format.
    pub fn open(path: &Path) -> Result<Self, KvProblem> {
        let (sender, opened) = mpsc::sync_channel(1);
        let (path, panics_before) = (path.to_path_buf(), index_panics());
        let here = path.clone();
        let work = move || {
            // A receiver that gave up has its answer already; the index is then dropped here.
            let _ = sender.send(guarded(|| open_checked(&path)));
        };
        std::thread::Builder::new()
            .name("aber-index-open".to_owned())
            .spawn(work)
            .map_err(|error| problem(format!("no thread to open it: {error}")))?;
        let seconds = OPEN_TIME.as_secs();
        let db = match opened.recv_timeout(OPEN_TIME) {
            Ok(outcome) => outcome.map_err(problem)??,
            Err(_) => return Err(problem(format!("it did not open within {seconds} s"))),
        };
        let inner = Inner {
            db,
            path: here,
            turn: RwLock::new(()),
            panics_before,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Bytes of its files; the caller rebuilds an index that grew out of proportion.
    ///
    /// # Errors
    /// Whatever sled says.
    pub fn size_on_disk_bytes(&self) -> Result<u64, KvProblem> {
        self.ask(|db| db.size_on_disk())
    }

    fn ask<R>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<R>) -> Result<R, KvProblem> {
        if index_panics() != self.inner.panics_before {
            return Err(problem("one of its threads panicked"));
        }
        guarded(|| call(&self.inner.db))
            .map_err(problem)?
            .map_err(problem)
    }
}

fn open_checked(path: &Path) -> Result<sled::Db, KvProblem> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    let give_up = Instant::now() + RELEASE_TIME;
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(error) if is_locked(&error) && Instant::now() < give_up => {
                std::thread::sleep(RELEASE_STEP);
            }
            Err(error) => return Err(problem(error)),
        }
    };
    match db.get(FORMAT_KEY).map_err(problem)? {
        Some(found) if found == FORMAT => Ok(db),
        Some(found) => Err(problem(format!(
            "its format is {:?} and not {:?}",
            String::from_utf8_lossy(&found),
            String::from_utf8_lossy(FORMAT)
        ))),
        None if db.iter().next().is_none() => {
            db.insert(FORMAT_KEY, FORMAT).map_err(problem)?;
            Ok(db)
        }
        None => Err(problem("it has rows but none that names its format")),
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        if key == FORMAT_KEY {
            return Ok(None);
        }
        let row = self.ask(|db| db.get(key))?;
        Ok(row.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        if from >= to {
            return Ok(Vec::new());
        }
        let _turn = self
            .inner
            .turn
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.ask(|db| {
            db.range(from..to)
                .filter(|row| !matches!(row, Ok((key, _)) if key == FORMAT_KEY))
                .take(limit)
                .map(|row| {
                    let (key, value) = row?;
                    Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
                })
                .collect()
        })
    }

    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        let mut rows = sled::Batch::default();
        for (key, value) in &batch.rows {
            assert!(&key[..] != FORMAT_KEY, "the format row is the index's own");
            match value {
                Some(value) => rows.insert(&key[..], &value[..]),
                None => rows.remove(&key[..]),
            }
        }
        let _turn = self
            .inner
            .turn
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.ask(|db| db.apply_batch(rows))
    }

    async fn flush(&self) -> Result<(), KvProblem> {
        let this = self.clone();
        let work = move || {
            this.ask(|db| db.flush())?;
            sync_files(&this.inner.path).map_err(problem)
        };
        tokio::task::spawn_blocking(work).await.map_err(problem)?
    }
}

/// sled's flush is no fsync of all its files: this is.
fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let synced = if kind.is_dir() {
            sync_files(&entry.path())
        } else if kind.is_file() {
            fs::File::open(entry.path()).and_then(|file| file.sync_data())
        } else {
            Ok(())
        };
        match synced {
            // sled removes old snapshots and blobs while this looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    fs::File::open(dir)?.sync_all()
}

/// Moves the index of the data directory aside as `index.bad-N`, and forgets the one moved before.
/// All handles on it must be gone: sled would go on writing to the moved files.
///
/// # Errors
/// Whatever the disk says. An index that is not there is no error.
pub fn discard(data: &Path) -> io::Result<()> {
    let mut old = Vec::new();
    let mut highest: u64 = 0;
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(BAD_PREFIX));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            highest = highest.max(number);
            old.push(entry.path());
        }
    }
    let aside = data.join(format!("{BAD_PREFIX}{}", highest.saturating_add(1)));
    match fs::rename(data.join(INDEX_DIR), &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    fs::File::open(data)?.sync_all()?;
    for path in old {
        if path.symlink_metadata()?.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
