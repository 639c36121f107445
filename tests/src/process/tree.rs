//! [driver] What a directory holds, as one value that compares.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The name that mirrors keep for themselves.
const RESERVED: &str = ".aber";

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A directory.
    Directory,
    /// A file: the hash of its bytes, its mode, its time of change in nanoseconds.
    File(blake3::Hash, u32, i128),
    /// A link: where to.
    Link(String),
}

/// What a directory holds, by path.
pub type Listing = BTreeMap<String, Found>;

/// Lists all that is in a directory but the reserved names.
///
/// # Errors
/// Something cannot be read.
pub fn list(directory: &Path) -> Result<Listing> {
    let mut listing = Listing::new();
    walk(directory, "", &mut listing)?;
    Ok(listing)
}

fn walk(directory: &Path, path: &str, listing: &mut Listing) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == RESERVED {
            continue;
        }
        let (place, path) = (entry.path(), format!("{path}/{name}"));
        let about = entry.metadata()?;
        let found = if about.is_dir() {
            walk(&place, &path, listing)?;
            Found::Directory
        } else if about.is_symlink() {
            Found::Link(std::fs::read_link(&place)?.to_string_lossy().into_owned())
        } else {
            let time = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
            let hash = blake3::hash(&std::fs::read(&place)?);
            Found::File(hash, about.mode() & 0o777, time)
        };
        listing.insert(path, found);
    }
    Ok(())
}

/// Whether two listings are equal.
///
/// # Errors
/// They are not: with the first paths that differ.
pub fn ensure_equal(left: &Listing, right: &Listing) -> Result<()> {
    let paths = left
        .keys()
        .chain(right.keys().filter(|p| !left.contains_key(*p)));
    let mut differ: Vec<_> = paths
        .filter(|path| left.get(*path) != right.get(*path))
        .map(|path| format!("{path}: {:?} {:?}", left.get(path), right.get(path)))
        .collect();
    let count = differ.len();
    differ.truncate(5);
    ensure!(
        differ.is_empty(),
        "{count} paths differ: {}",
        differ.join("; ")
    );
    Ok(())
}

/// The whole files of a directory that changes meanwhile, with their bytes.
pub fn each_file(directory: &Path, look: &mut dyn FnMut(&Path, &[u8])) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let place = entry.path();
        if entry.file_name() == RESERVED {
            continue;
        }
        match std::fs::read(&place) {
            Ok(bytes) => look(&place, &bytes),
            Err(error) if error.kind() == ErrorKind::IsADirectory => each_file(&place, look),
            // It went meanwhile.
            Err(_) => {}
        }
    }
}

/// Gives the owner back the right to remove what is in a directory.
pub fn make_writable(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    // What cannot be changed is found by whoever removes it.
    let _ = std::fs::set_permissions(directory, Permissions::from_mode(0o700));
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
