//! [adapter] One open file, by rustix.

use super::{SystemDisk, maybe_long};
use aber_log::env::disk::{File, FileKind, Stat};
use aber_proto::FileTime;
use rustix::fs::{FileType, Mode, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Copies from this size on (some 50 µs from the page cache) let other tasks of the worker run.
const LONG_COPY_BYTES: usize = 256 * 1024;

/// An open regular file of this machine.
pub struct SystemFile {
    handle: Arc<OwnedFd>,
}

impl SystemFile {
    pub(super) fn new(handle: OwnedFd) -> Self {
        let handle = Arc::new(handle);
        Self { handle }
    }

    pub(super) fn kind(&self) -> io::Result<FileKind> {
        Ok(self.stat()?.kind)
    }

    fn fill(&self, into: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let mut filled: usize = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.handle, rest, offset) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    offset = advance(offset, count)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(filled)
    }

    fn drain(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.handle, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    offset = advance(offset, count)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

fn advance(offset: u64, count: usize) -> io::Result<u64> {
    u64::try_from(count)
        .ok()
        .and_then(|count| offset.checked_add(count))
        .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl File for SystemFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        maybe_long(into.len() >= LONG_COPY_BYTES, || self.fill(into, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        maybe_long(bytes.len() >= LONG_COPY_BYTES, || self.drain(bytes, offset))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.handle, bytes)?)
    }

    fn set_meta(&self, mode: Option<u32>, mtime: Option<FileTime>) -> io::Result<()> {
        if let Some(mode) = mode {
            rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(mode & 0o777))?;
        }
        if let Some(mtime) = mtime {
            let times = times(mtime)?;
            rustix::fs::futimens(&self.handle, &times)?;
        }
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&rustix::fs::fstat(&self.handle)?))
    }

    async fn sync(&self) -> io::Result<()> {
        let handle = Arc::clone(&self.handle);
        SystemDisk::waiting(move || Ok(rustix::fs::fdatasync(&handle)?)).await
    }
}

/// The system reads two numbers above a thousand million nanoseconds as "now" and "leave it", so
/// the range is checked here.
fn times(mtime: FileTime) -> io::Result<Timestamps> {
    if mtime.nanos >= 1_000_000_000 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "nanoseconds above a second",
        ));
    }
    Ok(Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanos.into(),
        },
    })
}

/// `None` where the file system does not say.
pub(super) fn kind_of(file_type: FileType) -> Option<FileKind> {
    Some(match file_type {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Unknown => return None,
        _ => FileKind::Special,
    })
}

pub(super) fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    let kind = kind_of(FileType::from_raw_mode(stat.st_mode)).unwrap_or(FileKind::Special);
    Stat {
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: file_time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: file_time(stat.st_ctime, stat.st_ctime_nsec),
        inode: stat.st_ino,
        device: stat.st_dev,
        mode: stat.st_mode & 0o7777,
    }
}

fn file_time(seconds: i64, nanos: u64) -> FileTime {
    FileTime {
        seconds,
        nanos: u32::try_from(nanos).unwrap_or(0),
    }
}
