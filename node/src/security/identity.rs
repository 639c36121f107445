//! [adapter] The node's key file: the 32-byte seed of its Ed25519 key, readable by its owner alone.
//!
//! The key is the node. It is made once, on this machine, and never replaced: an
//! existing file is used or refused, not overwritten. It is written beside, synced, and given its
//! name only then, so that a crash leaves a whole key or none.

use aber_log::env::disk::{FileKind, Open, Rename, read_exact};
use aber_log::env::{Disk, Env, File, Runtime};
use aber_proto::SecretKey;
use std::io;
use std::path::Path;
use zeroize::Zeroizing;

/// The key file's name in the data directory.
pub const KEY_FILE: &str = "key";
const NEW_FILE: &str = "key.new";
const SEED_BYTES: usize = 32;
const KEY_MODE: u32 = 0o600;

/// Why the node's key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// There is none yet.
    #[error("this node has no key yet")]
    Missing,
    /// There is one already; it is never replaced.
    #[error("this node has a key already")]
    Exists,
    /// Others could have read it.
    #[error("the key file has mode {mode:04o}; others may have read it (expected 0600)")]
    Open {
        /// Its permission bits.
        mode: u32,
    },
    /// It is no seed.
    #[error("the key file is damaged: {what}")]
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// The disk failed.
    #[error("the key file: {0}")]
    Io(#[from] io::Error),
}

/// Loads the node's key, or makes it if there is none.
///
/// # Errors
/// [`KeyProblem`].
pub async fn load_or_create<E: Env>(env: &E) -> Result<SecretKey, KeyProblem> {
    match load(env.disk()) {
        Err(KeyProblem::Missing) => create(env).await,
        outcome => outcome,
    }
}

/// Loads the node's key.
///
/// # Errors
/// [`KeyProblem`]; `Missing` where none was made yet.
pub fn load<D: Disk>(disk: &D) -> Result<SecretKey, KeyProblem> {
    let path = Path::new(KEY_FILE);
    let found = match disk.stat(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeyProblem::Missing),
        other => other?,
    };
    if found.kind != FileKind::File {
        return Err(damaged("it is not a regular file"));
    }
    let file = disk.open(path, Open::Read)?;
    let stat = file.stat()?;
    if stat.mode & 0o077 != 0 {
        return Err(KeyProblem::Open { mode: stat.mode });
    }
    if usize::try_from(stat.size) != Ok(SEED_BYTES) {
        return Err(damaged(&format!("{} bytes, not {SEED_BYTES}", stat.size)));
    }
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    let read = Zeroizing::new(read_exact(&file, 0, SEED_BYTES)?);
    seed.copy_from_slice(&read);
    key_of(&seed)
}

/// Makes the node's key and keeps it durably.
///
/// # Errors
/// [`KeyProblem`]; `Exists` where there is one.
pub async fn create<E: Env>(env: &E) -> Result<SecretKey, KeyProblem> {
    let disk = env.disk();
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    env.runtime().fill_random(&mut *seed);
    let key = key_of(&seed)?;
    let beside = Path::new(NEW_FILE);
    match disk.remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = disk.open(beside, Open::CreateNew)?;
    file.set_meta(Some(KEY_MODE), None)?;
    file.write_at(&*seed, 0)?;
    file.sync().await?;
    match disk.rename(beside, Path::new(KEY_FILE), Rename::NoReplace) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove_file(beside)?;
            return Err(KeyProblem::Exists);
        }
        other => other?,
    }
    disk.sync_dir(Path::new("")).await?;
    Ok(key)
}

fn damaged(what: &str) -> KeyProblem {
    KeyProblem::Damaged {
        what: what.to_owned(),
    }
}

fn key_of(seed: &[u8; SEED_BYTES]) -> Result<SecretKey, KeyProblem> {
    if seed.iter().all(|byte| *byte == 0) {
        return Err(damaged("it holds zeros only"));
    }
    SecretKey::from_seed(seed).map_err(|problem| damaged(&problem.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::runtime::SystemRuntime;
    use crate::env::{SystemEnv, SystemOptions};

    fn world(dir: &tempfile::TempDir) -> SystemEnv {
        let options = SystemOptions {
            data: dir.path().join("data"),
            runtime: SystemRuntime::new(),
        };
        SystemEnv::open(options).expect("open")
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_loaded_ever_after() {
        let dir = tempfile::tempdir().expect("directory");
        let env = world(&dir);
        assert!(matches!(load(env.disk()), Err(KeyProblem::Missing)));
        let made = load_or_create(&env).await.expect("made");
        let loaded = load_or_create(&env).await.expect("loaded");
        assert_eq!(made.public(), loaded.public());
        assert!(matches!(create(&env).await, Err(KeyProblem::Exists)));
        let stat = env.disk().stat(Path::new(KEY_FILE)).expect("stat");
        assert_eq!((stat.mode, stat.size), (0o600, 32));
        assert_eq!(load(env.disk()).expect("kept").public(), made.public());
    }

    /// S6 and the secrets' rule: what others can read, or what is no seed, is no key.
    #[tokio::test]
    async fn open_and_damaged_keys_are_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let env = world(&dir);
        load_or_create(&env).await.expect("made");
        let (disk, path) = (env.disk(), Path::new(KEY_FILE));
        disk.set_mode(path, 0o640).expect("chmod");
        assert!(matches!(load(disk), Err(KeyProblem::Open { mode: 0o640 })));
        disk.set_mode(path, 0o600).expect("chmod");
        let file = disk.open(path, Open::Write).expect("open");
        file.set_len(31).expect("cut");
        assert!(matches!(load(disk), Err(KeyProblem::Damaged { .. })));
        file.set_len(0).expect("cut");
        file.set_len(32).expect("zeros");
        assert!(matches!(load(disk), Err(KeyProblem::Damaged { .. })));
        disk.remove_file(path).expect("remove");
        disk.make_symlink(path, Path::new("elsewhere"))
            .expect("link");
        assert!(matches!(load(disk), Err(KeyProblem::Damaged { .. })));
    }
}
