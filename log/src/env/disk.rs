//! Files below one directory.
//!
//! Calls that only touch the page cache are plain functions: they are short, and a hop to another
//! thread would cost more than they do. What waits for the device is `async`. The simulated disk
//! keeps a live and a durable image: what was not synced may be lost or torn in a crash, in any
//! order; a name is durable only once its directory was synced.
//!
//! Paths are relative to the handle. No component of a path, the last one included, is ever
//! followed if it is a symlink, and none may be `..`: such calls fail (promise S6).

use aber_proto::FileTime;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::Path;

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing; mode 0600.
    CreateNew,
}

/// What happens to a thing that already has the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rename {
    /// It is replaced (files and symlinks; an empty directory by a directory).
    Replace,
    /// The call fails with `AlreadyExists`.
    NoReplace,
    /// The two names exchange what they point to, whatever their kinds.
    Exchange,
}

/// What a name points to, as `lstat` tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Special,
}

/// What `lstat` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// File, directory, symlink, or else.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: FileTime,
    /// Time of the last change of the inode.
    pub ctime: FileTime,
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
    /// Permission bits, the upper three included.
    pub mode: u32,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name's bytes; maybe no UTF-8.
    pub name: OsString,
    /// Its kind.
    pub kind: FileKind,
}

/// Room on the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes of the whole file system.
    pub total_bytes: u64,
    /// Bytes this node may still write.
    pub free_bytes: u64,
}

/// A hint that something changed below the handle. Hints may be lost, late or wrong; the scan is
/// the truth (rule DE-5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hint {
    /// Something at this relative path, or below it.
    Path(std::path::PathBuf),
    /// Anything may have changed: scan all.
    Everything,
}

/// An open file.
pub trait File: Send + Sync + 'static {
    /// Reads at `offset` until `into` is full or the file ends; answers the bytes read.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Whatever the disk says; part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or extends it by zeros.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Sets permission bits (nine) and modification time.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_meta(&self, mode: Option<u32>, mtime: Option<FileTime>) -> io::Result<()>;
    /// What `fstat` tells.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn stat(&self) -> io::Result<Stat>;
    /// Makes content and size durable (`fdatasync`). Never repeated after a failure.
    fn sync(&self) -> impl Future<Output = io::Result<()>> + Send;
}

/// A handle on a directory.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: File;

    /// Opens a file. Never blocks on a FIFO; anything but a regular file is `InvalidInput`.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn open(&self, path: &Path, how: Open) -> io::Result<Self::File>;
    /// Makes a directory (mode 0755); its parent must exist.
    ///
    /// # Errors
    /// Whatever the disk says; `AlreadyExists` if the name is taken.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a symlink with this target, kept byte for byte.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn make_symlink(&self, path: &Path, target: &Path) -> io::Result<()>;
    /// Reads a symlink's target.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_link(&self, path: &Path) -> io::Result<OsString>;
    /// Takes a name away: a file's, symlink's or special file's.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// Whatever the disk says; `DirectoryNotEmpty`.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a thing another name, atomically.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()>;
    /// All names of a directory, without `.` and `..`, sorted by their bytes. `""` is the handle.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// What stands at a path.
    ///
    /// # Errors
    /// Whatever the disk says; `NotFound`.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Sets the nine permission bits of a directory or file by name, without following.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes the names of a directory durable.
    fn sync_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Makes everything written below this handle durable (`syncfs`).
    fn sync_all(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// Room on the file system.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn space(&self) -> io::Result<Space>;
    /// Hints of changes below the handle; at most `bound` wait, the rest fold into
    /// [`Hint::Everything`]. `None` where the disk cannot watch.
    fn hints(&self, bound: usize) -> Option<tokio::sync::mpsc::Receiver<Hint>>;
}

/// Reads exactly `length` bytes.
///
/// # Errors
/// Whatever the disk says; `UnexpectedEof` where the file is shorter.
pub fn read_exact(file: &impl File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    if file.read_at(&mut bytes, offset)? == length {
        Ok(bytes)
    } else {
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is shorter than expected",
        ))
    }
}

/// Reads a whole small file; above `limit` bytes it is an error.
///
/// # Errors
/// Whatever the disk says; `InvalidData` above the limit.
pub fn read_small(disk: &impl Disk, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let size = usize::try_from(file.stat()?.size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is too long",
        ));
    }
    read_exact(&file, 0, size)
}

/// Replaces a small file durably: written beside, synced, renamed, its directory synced.
///
/// # Errors
/// Whatever the disk says; the old file is then still whole.
pub async fn write_small<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let beside = path.with_file_name(name);
    match disk.remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&beside, Open::CreateNew)?;
    file.write_at(bytes, 0)?;
    file.sync().await?;
    disk.rename(&beside, path, Rename::Replace)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await
}

/// Makes a directory unless it is there.
///
/// # Errors
/// Whatever the disk says.
pub fn ensure_dir(disk: &impl Disk, path: &Path) -> io::Result<()> {
    match disk.make_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
