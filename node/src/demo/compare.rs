//! [adapter] Two directories, side by side: is the mirror what was put?
//!
//! Compared are names, kinds, bytes, modification times of files, modes but for write bits, and
//! targets of links. Left out is what a tree cannot hold: special files, reserved names, and the
//! mirror's own state. Modes of top-level directories are those of volumes and not compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How many differences are told one by one.
const TOLD: u64 = 20;
/// Permission bits that are compared.
const MODE_BITS: u32 = 0o555;
/// Bytes compared at once.
const BLOCK_BYTES: usize = 128 * 1024;

/// What differs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Differences {
    /// How much.
    pub(super) count: u64,
    /// The first of it, in words.
    pub(super) first: Vec<String>,
}

impl Differences {
    fn add(&mut self, path: &Path, what: &str) {
        self.count += 1;
        if self.count <= TOLD {
            self.first.push(format!("{} {what}", path.display()));
        }
    }
}

/// What differs between a tree and its mirror.
pub(super) fn compare(tree: &Path, mirror: &Path) -> Differences {
    let mut differences = Differences::default();
    directories(tree, mirror, Path::new("/"), &mut differences);
    differences
}

fn directories(tree: &Path, mirror: &Path, path: &Path, out: &mut Differences) {
    let (wanted, found) = match (list(tree), list(mirror)) {
        (Ok(wanted), Ok(found)) => (wanted, found),
        (Err(error), _) => return out.add(path, &format!("cannot be read in the tree: {error}")),
        (_, Err(error)) => return out.add(path, &format!("cannot be read in the mirror: {error}")),
    };
    for (name, there) in &found {
        let special = !(there.is_file() || there.is_dir() || there.is_symlink());
        if special || !wanted.contains_key(name) {
            out.add(&path.join(name), "is only in the mirror");
        }
    }
    for (name, wanted) in &wanted {
        let below = path.join(name);
        match found.get(name) {
            None => out.add(&below, "is missing"),
            Some(found) => {
                let (tree, mirror) = (tree.join(name), mirror.join(name));
                if let Err(error) = item((&tree, wanted), (&mirror, found), &below, out) {
                    out.add(&below, &format!("cannot be read: {error}"));
                }
            }
        }
    }
}

/// What stands in a directory, but for what a tree cannot hold.
fn list(directory: &Path) -> io::Result<BTreeMap<OsString, Metadata>> {
    let mut items = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let kept = metadata.is_file() || metadata.is_dir() || metadata.is_symlink();
        if kept
            && !entry
                .file_name()
                .eq_ignore_ascii_case(aber_proto::path::RESERVED)
        {
            items.insert(entry.file_name(), metadata);
        }
    }
    Ok(items)
}

fn item(
    tree: (&Path, &Metadata),
    mirror: (&Path, &Metadata),
    path: &Path,
    out: &mut Differences,
) -> io::Result<()> {
    let (wanted, found) = (tree.1, mirror.1);
    if wanted.file_type() != found.file_type() {
        out.add(path, "is of another kind");
        return Ok(());
    }
    if wanted.is_symlink() {
        if std::fs::read_link(tree.0)? != std::fs::read_link(mirror.0)? {
            out.add(path, "has another target");
        }
        return Ok(());
    }
    let is_volume = wanted.is_dir() && path.parent().is_some_and(|parent| parent == Path::new("/"));
    if !is_volume && wanted.mode() & MODE_BITS != found.mode() & MODE_BITS {
        let (wanted, found) = (wanted.mode() & 0o7777, found.mode() & 0o7777);
        out.add(path, &format!("has mode {found:04o}, not {wanted:04o}"));
    }
    if wanted.is_dir() {
        directories(tree.0, mirror.0, path, out);
        return Ok(());
    }
    let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
    if time(wanted) != time(found) {
        let (wanted, found) = (time(wanted), time(found));
        let text = format!(
            "has time {}.{:09}, not {}.{:09}",
            found.0, found.1, wanted.0, wanted.1
        );
        out.add(path, &text);
    }
    if wanted.len() != found.len() {
        out.add(
            path,
            &format!("has {} bytes, not {}", found.len(), wanted.len()),
        );
    } else if let Some(offset) = first_difference(tree.0, mirror.0)? {
        out.add(path, &format!("has other bytes from offset {offset} on"));
    }
    Ok(())
}

/// Where two files begin to differ.
fn first_difference(one: &Path, other: &Path) -> io::Result<Option<u64>> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut offset = 0u64;
    loop {
        for (file, block) in [(&mut one, &mut a), (&mut other, &mut b)] {
            block.clear();
            file.take(BLOCK_BYTES as u64).read_to_end(block)?;
        }
        if a != b {
            let equal = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            return Ok(Some(offset + equal as u64));
        }
        if a.is_empty() {
            return Ok(None);
        }
        offset += a.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, FileTimes, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("v/d")).expect("directories");
        fs::write(root.join("v/d/f"), b"content").expect("file");
        fs::write(root.join("top"), b"x").expect("file");
        std::os::unix::fs::symlink("d/f", root.join("v/l")).expect("link");
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
        for name in ["v/d/f", "top"] {
            let file = File::options()
                .write(true)
                .open(root.join(name))
                .expect("file");
            file.set_times(FileTimes::new().set_modified(time))
                .expect("time");
        }
    }

    fn differ(change: impl Fn(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (left, right) = (dir.path().join("tree"), dir.path().join("mirror"));
        tree(&left);
        tree(&right);
        fs::create_dir(right.join(".aber")).expect("directory");
        change(&right);
        compare(&left, &right).first
    }

    #[test]
    fn equal_trees_do_not_differ_and_write_bits_do_not_count() {
        let read_only = |root: &Path| {
            let mode = Permissions::from_mode(0o444);
            fs::set_permissions(root.join("v/d/f"), mode).expect("mode");
        };
        assert_eq!(differ(|_| {}), Vec::<String>::new());
        assert_eq!(differ(read_only), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_found() {
        let executable = |root: &Path| {
            let mode = Permissions::from_mode(0o755);
            fs::set_permissions(root.join("top"), mode).expect("mode");
        };
        assert_eq!(differ(executable), ["/top has mode 0755, not 0644"]);
        let gone = |root: &Path| fs::remove_file(root.join("top")).expect("removed");
        assert_eq!(differ(gone), ["/top is missing"]);
        let extra = |root: &Path| fs::write(root.join("v/x"), b"").expect("file");
        assert_eq!(differ(extra), ["/v/x is only in the mirror"]);
        let kind = |root: &Path| {
            fs::remove_file(root.join("v/l")).expect("removed");
            fs::create_dir(root.join("v/l")).expect("directory");
        };
        assert_eq!(differ(kind), ["/v/l is of another kind"]);
        let target = |root: &Path| {
            fs::remove_file(root.join("v/l")).expect("removed");
            std::os::unix::fs::symlink("d/g", root.join("v/l")).expect("link");
        };
        assert_eq!(differ(target), ["/v/l has another target"]);
        let bytes = |root: &Path| {
            let time = fs::metadata(root.join("v/d/f"))
                .expect("file")
                .modified()
                .expect("time");
            fs::write(root.join("v/d/f"), b"contenX").expect("file");
            let file = File::options()
                .write(true)
                .open(root.join("v/d/f"))
                .expect("file");
            file.set_times(FileTimes::new().set_modified(time))
                .expect("time");
        };
        assert_eq!(differ(bytes), ["/v/d/f has other bytes from offset 6 on"]);
        let time = |root: &Path| {
            let file = File::options()
                .write(true)
                .open(root.join("top"))
                .expect("file");
            let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 0);
            file.set_times(FileTimes::new().set_modified(time))
                .expect("time");
        };
        assert_eq!(
            differ(time),
            ["/top has time 1000000.000000000, not 1000000.123456789"]
        );
    }
}
