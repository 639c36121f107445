//! [adapter] Opening names beneath a directory handle, never by a string the system resolves.
//!
//! `openat2` does it in one call; where the kernel or a filter lacks it, and for paths longer than
//! one call takes, the components are walked one by one, none of them followed. Both refuse
//! symlinks, `..` and absolute paths, and with `one_device` what is mounted below the handle.
//!
//! A symlink on the way is answered as `NotADirectory`, which is what it is to us.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Paths from this length on are walked: the system takes 4,096 bytes, its final zero included.
const ONE_CALL_BYTES: usize = 4000;
/// The kernel asks to try again when it raced with a rename or mount elsewhere.
const TRIES: usize = 64;

/// A directory handle and how to resolve names below it.
pub(super) struct Beneath {
    handle: OwnedFd,
    device: u64,
    one_device: bool,
    /// Cleared once the kernel or a filter refused `openat2`.
    has_openat2: AtomicBool,
}

/// A directory that an `*at` call starts from.
pub(super) enum Parent<'a> {
    Handle(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Handle(handle) => handle.as_fd(),
            Self::Opened(handle) => handle.as_fd(),
        }
    }
}

fn outside() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the path is not a plain one beneath the directory",
    )
}

/// The components of a relative path; `..`, a root, and a leading `.` are refused.
fn names(path: &Path) -> impl Iterator<Item = io::Result<&OsStr>> {
    path.components().map(|component| match component {
        Component::Normal(name) if !name.as_bytes().contains(&0) => Ok(name),
        _ => Err(outside()),
    })
}

/// The last component of a path that has at least one; all of them are checked.
pub(super) fn last_name(path: &Path) -> io::Result<&OsStr> {
    names(path)
        .try_fold(None, |_, name| name.map(Some))?
        .ok_or_else(outside)
}

impl Beneath {
    pub(super) fn new(handle: OwnedFd, one_device: bool) -> io::Result<Self> {
        let device = rustix::fs::fstat(&handle)?.st_dev;
        let has_openat2 = AtomicBool::new(true);
        Ok(Self {
            handle,
            device,
            one_device,
            has_openat2,
        })
    }

    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// The directory that holds the last component of `path`.
    pub(super) fn parent(&self, path: &Path) -> io::Result<Parent<'_>> {
        last_name(path)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                self.open(parent, flags, Mode::empty()).map(Parent::Opened)
            }
            _ => Ok(Parent::Handle(self.handle())),
        }
    }

    /// Opens what stands at `path`, following nothing; `""` is the handle itself.
    pub(super) fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        for name in names(path) {
            name?;
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.as_os_str().is_empty() {
            return Ok(rustix::fs::openat(&self.handle, ".", flags, mode)?);
        }
        let is_short = path.as_os_str().len() < ONE_CALL_BYTES;
        if is_short && self.has_openat2.load(Relaxed) {
            match self.open_at_once(path, flags, mode) {
                // EPERM is also what a filter answers, or the file system for its own reasons:
                // the walk tells which, and stays the way only where the call is unknown.
                Err(Errno::NOSYS) => self.has_openat2.store(false, Relaxed),
                Err(Errno::PERM) => {}
                done => return done.map_err(problem),
            }
        }
        self.walk(path, flags, mode).map_err(problem)
    }

    fn open_at_once(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if self.one_device {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let mut last = Errno::AGAIN;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.handle, path, flags, mode, resolve) {
                Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
                done => return done,
            }
        }
        Err(last)
    }

    fn walk(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut at = Parent::Handle(self.handle());
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            let is_last = names.peek().is_none();
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let (flags, mode) = if is_last {
                (flags, mode)
            } else {
                (step, Mode::empty())
            };
            let opened = retry(|| rustix::fs::openat(&at, name, flags, mode))?;
            if self.one_device && rustix::fs::fstat(&opened)?.st_dev != self.device {
                return Err(Errno::XDEV);
            }
            if is_last {
                return Ok(opened);
            }
            at = Parent::Opened(opened);
        }
        Err(Errno::INVAL)
    }

    /// Makes all later calls walk, as on a kernel without `openat2`.
    #[cfg(test)]
    pub(super) fn forget_openat2(&self) {
        self.has_openat2.store(false, Relaxed);
    }
}

fn retry(mut call: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn problem(errno: Errno) -> io::Error {
    if errno == Errno::LOOP {
        return io::Error::new(
            io::ErrorKind::NotADirectory,
            "a symbolic link is in the way",
        );
    }
    errno.into()
}
