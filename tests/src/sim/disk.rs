//! [adapter] The simulated disk: one node's file systems behind `aber_log::env::Disk`.
//!
//! Each root (the data directory, each folder) is a file system of its own, with a device number of
//! its own, so that a sync of one never makes another durable by accident. All of them share the
//! node's capacity. Roots survive restarts; handles and open files do not: once their boot is dead,
//! every call answers an error and changes nothing.

mod machine;

pub use machine::Machine;

use super::disk_fault::{Call, Verdict};
use super::disk_image::{Id, Image, New};
use super::world::World;
use aber_log::env::disk::{DirEntry, Disk, File, Hint, Open, Rename, Space, Stat};
use aber_log::life::Life;
use aber_proto::{FileTime, NodeId};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Where the data directory lies on every simulated machine.
pub const DATA_ROOT: &str = "/var/lib/aber";

/// A directory of a simulated machine, as one boot of its node sees it.
#[derive(Clone)]
pub struct SimDisk {
    world: World,
    node: NodeId,
    life: Arc<Life>,
    machine: Arc<Mutex<Machine>>,
    root: usize,
    dir: Id,
    below: PathBuf,
}

/// An open file of a simulated machine.
pub struct SimFile {
    disk: SimDisk,
    id: Id,
    path: PathBuf,
    _holder: Arc<()>,
}

fn dead() -> io::Error {
    io::Error::other("the node is dead")
}

fn lock(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// Opens the directory at `path` of a machine, made if missing.
    ///
    /// # Errors
    /// Whatever making it says.
    pub fn open_root(
        world: &World,
        (node, life): (NodeId, &Arc<Life>),
        machine: &Arc<Mutex<Machine>>,
        path: &Path,
    ) -> io::Result<Self> {
        let now = world.file_time(node);
        let mut inner = lock(machine);
        let (root, below) = inner.root_of(path, now);
        let image = inner.image(root)?;
        let mut dir = Image::TOP;
        for name in &below {
            let step = Path::new(name);
            dir = match image.resolve(dir, step) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    image.create(dir, step, New::Directory, now)?
                }
                other => other?,
            };
            image.list(dir)?;
        }
        drop(inner);
        Ok(Self {
            world: world.clone(),
            node,
            life: Arc::clone(life),
            machine: Arc::clone(machine),
            root,
            dir,
            below,
        })
    }

    /// Counts a call, and answers the machine if the call is to be made.
    fn enter(&self, call: Call, path: &Path) -> io::Result<MutexGuard<'_, Machine>> {
        if self.life.is_dead() {
            return Err(dead());
        }
        let mut machine = lock(&self.machine);
        let verdict = machine.faults.judge(call, &self.below.join(path));
        if verdict == Verdict::Go {
            return Ok(machine);
        }
        drop(machine);
        self.world.trace(
            self.node,
            format_args!("disk {call:?} {} {verdict:?}", path.display()),
        );
        match verdict {
            Verdict::Fail(failure) => Err(failure.error()),
            Verdict::Go | Verdict::Die => {
                self.world.kill(self.node, "planned at a disk call");
                Err(dead())
            }
        }
    }

    fn image<R>(
        &self,
        call: Call,
        path: &Path,
        work: impl FnOnce(&mut Image, Id, FileTime) -> io::Result<R>,
    ) -> io::Result<R> {
        let now = self.world.file_time(self.node);
        let mut machine = self.enter(call, path)?;
        let done = work(machine.image(self.root)?, self.dir, now);
        drop(machine);
        if call.is_change() {
            let result = done.as_ref().err().map_or("", |_| " failed");
            self.trace(call, path, result);
            self.hint_own(path);
        }
        done
    }

    /// Watching a directory shows the watcher's own changes too.
    fn hint_own(&self, path: &Path) {
        let permille = {
            let machine = lock(&self.machine);
            let is_watched = machine.is_watched(self.root);
            if is_watched {
                machine.faults.own_hint_permille
            } else {
                0
            }
        };
        if permille > 0 && self.world.draw(1000) < permille {
            lock(&self.machine).hint(self.root, &self.below.join(path));
        }
    }

    fn trace(&self, call: Call, path: &Path, result: &str) {
        let path = self.below.join(path);
        self.world.trace(
            self.node,
            format_args!("disk{} {call:?} {}{result}", self.root, path.display()),
        );
    }

    async fn wait_for_device(&self) -> io::Result<()> {
        let (longest, slowness) = {
            let machine = lock(&self.machine);
            (machine.faults.sync_us_max, machine.faults.slowness)
        };
        let wait_us = self.world.draw(longest + 1).saturating_mul(slowness);
        tokio::time::sleep(Duration::from_micros(wait_us)).await;
        if self.life.is_dead() {
            Err(dead())
        } else {
            Ok(())
        }
    }

    /// A sync's verdict, drawn on entry and told at its end.
    fn enter_sync(&self, call: Call, path: &Path) -> io::Result<Option<io::Error>> {
        match self.enter(call, path) {
            Ok(_) => Ok(None),
            Err(_) if self.life.is_dead() => Err(dead()),
            Err(error) => Ok(Some(error)),
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        let call = if how == Open::CreateNew {
            Call::Create
        } else {
            Call::Open
        };
        let (id, holder) = self.image(call, path, |image, dir, now| {
            let id = if how == Open::CreateNew {
                image.create(dir, path, New::File, now)?
            } else {
                image.resolve(dir, path)?
            };
            Ok((id, image.hold(id)?))
        })?;
        Ok(SimFile {
            disk: self.clone(),
            id,
            path: path.to_path_buf(),
            _holder: holder,
        })
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.image(Call::MakeDir, path, |image, dir, now| {
            image.create(dir, path, New::Directory, now).map(drop)
        })
    }

    fn make_symlink(&self, path: &Path, target: &Path) -> io::Result<()> {
        let target = New::Symlink(target.as_os_str().to_os_string());
        self.image(Call::MakeSymlink, path, |image, dir, now| {
            image.create(dir, path, target, now).map(drop)
        })
    }

    fn read_link(&self, path: &Path) -> io::Result<OsString> {
        self.image(Call::ReadLink, path, |image, dir, _| {
            image.read_link(image.resolve(dir, path)?)
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.image(Call::RemoveFile, path, |image, dir, now| {
            image.remove(dir, path, false, now)
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.image(Call::RemoveDir, path, |image, dir, now| {
            image.remove(dir, path, true, now)
        })
    }

    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        self.image(Call::Rename, from, |image, dir, now| {
            image.rename(dir, (from, to), how, now)
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.image(Call::List, path, |image, dir, _| {
            image.list(image.resolve(dir, path)?)
        })
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.image(Call::Stat, path, |image, dir, _| {
            image.stat(image.resolve(dir, path)?)
        })
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.image(Call::SetMeta, path, |image, dir, now| {
            let id = image.resolve(dir, path)?;
            image.set_attributes(id, (Some(mode), None), now)
        })
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let failure = self.enter_sync(Call::SyncDir, path)?;
        let (id, end) = {
            let mut machine = lock(&self.machine);
            let image = machine.image(self.root)?;
            let id = image.resolve(self.dir, path)?;
            image.list(id)?;
            (id, image.begin_dir_sync())
        };
        self.wait_for_device().await?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        lock(&self.machine).image(self.root)?.end_dir_sync(id, end);
        self.trace(Call::SyncDir, path, "");
        Ok(())
    }

    async fn sync_all(&self) -> io::Result<()> {
        let failure = self.enter_sync(Call::SyncAll, Path::new(""))?;
        let ticket = lock(&self.machine).image(self.root)?.begin_sync_all();
        self.wait_for_device().await?;
        lock(&self.machine)
            .image(self.root)?
            .end_sync_all(ticket, failure.is_none());
        self.trace(Call::SyncAll, Path::new(""), "");
        failure.map_or(Ok(()), Err)
    }

    fn space(&self) -> io::Result<Space> {
        let machine = self.enter(Call::Stat, Path::new(""))?;
        let total_bytes = machine.faults.capacity_bytes;
        Ok(Space {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(machine.used_bytes()),
        })
    }

    fn hints(&self, bound: usize) -> Option<mpsc::Receiver<Hint>> {
        let (to, hints) = mpsc::channel(bound.saturating_add(1));
        lock(&self.machine).watch(self.root, self.below.clone(), to);
        Some(hints)
    }
}

impl SimFile {
    fn change(
        &self,
        call: Call,
        work: impl FnOnce(&mut Machine, FileTime) -> io::Result<()>,
    ) -> io::Result<()> {
        let now = self.disk.world.file_time(self.disk.node);
        let done = work(&mut *self.disk.enter(call, &self.path)?, now);
        let result = done.as_ref().err().map_or("", |_| " failed");
        self.disk.trace(call, &self.path, result);
        self.disk.hint_own(&self.path);
        done
    }

    /// A write that failed has written a part of it, as far as the device got.
    fn write_part(&self, bytes: &[u8], offset: u64) {
        let kept = self
            .disk
            .world
            .with_random(|random| random.index(bytes.len() + 1));
        let part = bytes.get(..kept).unwrap_or_default();
        let now = self.disk.world.file_time(self.disk.node);
        let mut machine = lock(&self.disk.machine);
        let more = machine.image(self.disk.root).and_then(|image| {
            let content = image.content(self.id)?;
            Ok(content.grows_by(offset, part.len()))
        });
        if more.is_ok_and(|more| machine.check_space(more).is_ok())
            && let Ok(image) = machine.image(self.disk.root)
        {
            let write = |content: &mut super::disk_image::Content| content.write_at(part, offset);
            // It was open a moment ago.
            let _ = image.change_content(self.id, Some(now), write);
        }
    }
}

impl File for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut machine = self.disk.enter(Call::Read, &self.path)?;
        let image = machine.image(self.disk.root)?;
        Ok(image.content(self.id)?.read_at(into, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (root, id) = (self.disk.root, self.id);
        let done = self.change(Call::Write, |machine, now| {
            let more = machine
                .image(root)?
                .content(id)?
                .grows_by(offset, bytes.len());
            machine.check_space(more)?;
            let write = |content: &mut super::disk_image::Content| content.write_at(bytes, offset);
            machine.image(root)?.change_content(id, Some(now), write)
        });
        if done.is_err() && !self.disk.life.is_dead() {
            self.write_part(bytes, offset);
        }
        done
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (root, id) = (self.disk.root, self.id);
        self.change(Call::SetLen, |machine, now| {
            let image = machine.image(root)?;
            image.change_content(id, Some(now), |content| content.set_len(bytes))
        })
    }

    fn set_meta(&self, mode: Option<u32>, mtime: Option<FileTime>) -> io::Result<()> {
        let (root, id) = (self.disk.root, self.id);
        self.change(Call::SetMeta, |machine, now| {
            machine.image(root)?.set_attributes(id, (mode, mtime), now)
        })
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut machine = self.disk.enter(Call::Stat, &self.path)?;
        machine.image(self.disk.root)?.stat(self.id)
    }

    async fn sync(&self) -> io::Result<()> {
        let (disk, root, id) = (&self.disk, self.disk.root, self.id);
        let failure = disk.enter_sync(Call::Sync, &self.path)?;
        let ticket = {
            let mut machine = lock(&disk.machine);
            machine
                .image(root)?
                .change_content(id, None, |content| content.begin_sync())?
        };
        disk.wait_for_device().await?;
        let is_well = failure.is_none();
        let is_grown = lock(&disk.machine)
            .image(root)?
            .change_content(id, None, |content| {
                if is_well {
                    return content.end_sync(ticket);
                }
                content.fail_sync(ticket);
                false
            })?;
        if is_grown {
            // A changed size makes `fdatasync` write the inode, and so mode and times.
            lock(&disk.machine).image(root)?.keep_attributes(id);
        }
        disk.trace(Call::Sync, &self.path, if is_well { "" } else { " failed" });
        failure.map_or(Ok(()), Err)
    }
}
