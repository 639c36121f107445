//! [adapter] Walking a local tree for `put`: what is found, in order, parents before children.
//!
//! Runs on a blocking thread and feeds a bounded queue; small files come with their content. Names
//! are sorted by bytes, symbolic links are never followed. What cannot be taken (special files,
//! unreadable ones, names that are not UTF-8 or that the tree does not allow) is reported and left
//! out; the rest goes on.

use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Files up to this size travel in batches, larger ones in a stream of their own.
pub(crate) const SMALL_BYTES: u64 = 128 * 1024;

/// Something of a local tree and its place in ours.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Found {
    /// A directory; its children come after it.
    Directory {
        /// Its place.
        path: TreePath,
        /// Nine permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Its place.
        path: TreePath,
        /// Where its content is.
        local: PathBuf,
        /// Its size when it was looked at, in bytes.
        size: u64,
        /// Its modification time.
        mtime: prost_types::Timestamp,
        /// Nine permission bits.
        mode: u32,
        /// Its bytes, if it is small.
        content: Option<Bytes>,
    },
    /// A symbolic link.
    Symlink {
        /// Its place.
        path: TreePath,
        /// Its target, as it is.
        target: String,
    },
    /// Left out.
    Left(Problem),
}

/// Nobody takes what is found any more.
struct Gone;

/// Walks `local` as `path`, below it too if it is a directory.
pub(crate) fn walk(local: &Path, path: &TreePath, found: &mpsc::Sender<Found>) {
    let _ = visit(local, path, found);
}

fn visit(local: &Path, path: &TreePath, found: &mpsc::Sender<Found>) -> Result<(), Gone> {
    let metadata = match std::fs::symlink_metadata(local) {
        Ok(metadata) => metadata,
        Err(error) => return send(found, Found::Left(unreadable(local, &error))),
    };
    if metadata.is_dir() {
        let mode = metadata.mode() & 0o777;
        let directory = Found::Directory {
            path: path.clone(),
            mode,
        };
        send(found, directory)?;
        return children(local, path, found);
    }
    send(found, leaf(local, path, &metadata))
}

fn children(local: &Path, path: &TreePath, found: &mpsc::Sender<Found>) -> Result<(), Gone> {
    let (names, problems) = names(local);
    for problem in problems {
        send(found, Found::Left(problem))?;
    }
    for name in names {
        match path.join(&name) {
            Ok(below) => visit(&local.join(&name), &below, found)?,
            Err(problem) => {
                let whole = local.join(&name);
                let problem = Problem::name(&whole.to_string_lossy(), problem);
                send(found, Found::Left(problem))?;
            }
        }
    }
    Ok(())
}

/// The names in a local directory, sorted by bytes, and what is wrong with the others.
pub(crate) fn names(local: &Path) -> (Vec<String>, Vec<Problem>) {
    let (mut names, mut problems) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(local) {
        Ok(entries) => entries,
        Err(error) => return (names, vec![unreadable(local, &error)]),
    };
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            Err(error) => {
                problems.push(unreadable(local, &error));
                break;
            }
        };
        match name.into_string() {
            Ok(name) => names.push(name),
            Err(name) => {
                let bytes = name.as_bytes().escape_ascii().to_string();
                let path = format!("{}/{bytes}", local.display());
                let problem = Problem::new(Reason::SourceUnreadable)
                    .with("path", path)
                    .with("detail", "its name is not UTF-8; such names are left alone");
                problems.push(problem);
            }
        }
    }
    names.sort_unstable();
    (names, problems)
}

fn leaf(local: &Path, path: &TreePath, metadata: &Metadata) -> Found {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return symlink(local, path);
    }
    if kind.is_file() {
        return file(local, path).unwrap_or_else(|error| Found::Left(unreadable(local, &error)));
    }
    let kind = if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    let problem = Problem::new(Reason::SourceUnreadable)
        .with("path", local.display())
        .with(
            "detail",
            format!("it is {kind}; only files, directories and links are kept"),
        );
    Found::Left(problem)
}

fn symlink(local: &Path, path: &TreePath) -> Found {
    let target = match std::fs::read_link(local) {
        Ok(target) => target,
        Err(error) => return Found::Left(unreadable(local, &error)),
    };
    match target.into_os_string().into_string() {
        Ok(target) => Found::Symlink {
            path: path.clone(),
            target,
        },
        Err(_) => Found::Left(
            Problem::new(Reason::SourceUnreadable)
                .with("path", local.display())
                .with(
                    "detail",
                    "its target is not UTF-8; such links are left alone",
                ),
        ),
    }
}

fn file(local: &Path, path: &TreePath) -> std::io::Result<Found> {
    let (file, metadata) = open(local)?;
    let size = metadata.len();
    let content = if size <= SMALL_BYTES {
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(SMALL_BYTES + 1).read_to_end(&mut content)?;
        let grew = content.len() as u64 > SMALL_BYTES;
        (!grew).then(|| Bytes::from(content))
    } else {
        None
    };
    Ok(Found::File {
        path: path.clone(),
        local: local.to_owned(),
        size,
        mtime: mtime(&metadata),
        mode: metadata.mode() & 0o777,
        content,
    })
}

/// Opens a regular file, and nothing that took its place meanwhile: not a link, not a pipe.
pub(crate) fn open(local: &Path) -> std::io::Result<(std::fs::File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(local, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file any more"));
    }
    Ok((file, metadata))
}

/// A file's modification time.
pub(crate) fn mtime(metadata: &Metadata) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: metadata.mtime(),
        nanos: i32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

/// SOURCE_MISSING or SOURCE_UNREADABLE.
pub(crate) fn unreadable(local: &Path, error: &std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Problem::new(Reason::SourceMissing).with("path", local.display());
    }
    Problem::new(Reason::SourceUnreadable)
        .with("path", local.display())
        .with("detail", error)
}

fn send(found: &mpsc::Sender<Found>, what: Found) -> Result<(), Gone> {
    found.blocking_send(what).map_err(|_| Gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn walked(local: &Path) -> Vec<String> {
        let (sender, mut found) = mpsc::channel(1000);
        let path = TreePath::parse("/t").expect("good path");
        walk(local, &path, &sender);
        drop(sender);
        let mut lines = Vec::new();
        while let Ok(found) = found.try_recv() {
            lines.push(match found {
                Found::Directory { path, mode } => format!("{path}/ {mode:o}"),
                Found::File {
                    path,
                    size,
                    content,
                    ..
                } => {
                    format!("{path} {size} {}", content.is_some())
                }
                Found::Symlink { path, target } => format!("{path} -> {target}"),
                Found::Left(problem) => format!("left {}", problem.reason.name()),
            });
        }
        lines
    }

    #[test]
    fn a_tree_is_walked_in_order_and_odd_things_are_left_out() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("t");
        std::fs::create_dir_all(root.join("b/c")).expect("directories");
        std::fs::create_dir(root.join(".aber")).expect("directory");
        for path in [&root, &root.join("b"), &root.join("b/c")] {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, mode).expect("mode");
        }
        std::fs::write(root.join("a"), b"x").expect("file");
        std::fs::write(root.join("z"), vec![0; 200_000]).expect("file");
        std::os::unix::fs::symlink("../no/where", root.join("b/l")).expect("link");
        let odd = std::ffi::OsString::from_vec(vec![0xff, 0xfe]);
        std::fs::write(root.join(odd), b"x").expect("file");
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).expect("socket");
        let lines = [
            "/t/ 755",
            "left SOURCE_UNREADABLE",
            "left NAME_NOT_ALLOWED",
            "/t/a 1 true",
            "/t/b/ 755",
            "/t/b/c/ 755",
            "/t/b/l -> ../no/where",
            "left SOURCE_UNREADABLE",
            "/t/z 200000 false",
        ];
        assert_eq!(walked(&root), lines);
        assert_eq!(walked(&root.join("nothing")), ["left SOURCE_MISSING"]);
    }
}
