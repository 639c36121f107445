//! [driver] The mirror, byte by byte.
//!
//! A scan believes inode, size and times; here every file is read and hashed. What differs is
//! given to the mirror as suspect: it moves aside what stands there and writes the version anew.

use super::Run;
use super::walk::path_of;
use aber_log::env::disk::{Disk, FileKind};
use aber_log::env::{Env, Runtime};
use aber_materializer::mirror::{MirrorHandle, MirrorStatus, hash_file};
use aber_materializer::tree::{Node, NodeKind, Tree};
use aber_proto::FileId;
use aber_proto::generated::v1;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// The longest a scan of the mirror is waited for.
const SCAN_TIME: Duration = Duration::from_secs(3600);
/// The longest the mirror may take to write what differed anew.
const MEND_TIME: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many that differ are mended in one run; the next run finds the others.
const SUSPECTS: usize = 4096;

/// A file whose bytes are not those of its version.
struct Suspect {
    id: FileId,
    path: String,
    detail: String,
}

impl<E: Env> Run<E> {
    /// Reads every file of the mirror, and has it mended.
    pub(super) async fn verify_mirror(&mut self) {
        let parts = std::sync::Arc::clone(&self.service.node.parts);
        let (Some(mirror), Some((folder, _))) = (&parts.mirror, &parts.config.options.mirror)
        else {
            return;
        };
        let before = mirror.status.get();
        let suspects = match parts.env.open_folder(folder) {
            Ok(disk) => {
                let suspects = self.read_mirror(&disk, mirror).await;
                mirror
                    .suspect(suspects.iter().map(|s| s.id).collect())
                    .await;
                if !self.scan(mirror).await || !self.tell_suspects(&disk, &suspects).await {
                    return;
                }
                suspects
            }
            Err(error) => {
                let detail = format!("the mirror cannot be read: {error}");
                let path = String::new();
                if !self.find(differs(path, detail, false)).await {
                    return;
                }
                Vec::new()
            }
        };
        self.tell_scanned(&before, &mirror.status.get(), &suspects)
            .await;
    }

    /// Hashes all files of the mirror that it says to be current.
    async fn read_mirror(&mut self, disk: &E::Disk, mirror: &MirrorHandle) -> Vec<Suspect> {
        let tree = self.service.node.parts.tree.clone();
        let (mut walk, mut suspects) = (self.walk(), Vec::new());
        while let Some((node, path)) = walk.next(&tree) {
            let status = mirror.status.get();
            tokio::task::yield_now().await;
            let Err(detail) = look(disk, &node, &path) else {
                continue;
            };
            let version = (node.version.partition, node.version.index);
            let is_shown = status.positions.get(&version.0) >= Some(&version.1);
            let is_held = status.waiting_count + status.unmaterialisable_count > 0;
            let is_same = tree.node(node.id).ok().flatten().as_ref() == Some(&node)
                && path_of(&tree, node.id).as_ref() == Some(&path);
            if is_shown && is_same && !is_held && suspects.len() < SUSPECTS {
                let id = node.id;
                suspects.push(Suspect { id, path, detail });
            }
        }
        suspects
    }

    /// Has the mirror scanned; `false` if it took too long.
    async fn scan(&self, mirror: &MirrorHandle) -> bool {
        let before = mirror.status.get();
        mirror.scan().await;
        let mut status = mirror.status.clone();
        let scanned = status.until(|now| now.stopped || now.last_scan != before.last_scan);
        let runtime = self.service.node.parts.env.runtime();
        runtime.timeout(SCAN_TIME, scanned).await.is_some()
    }

    /// `false` if the caller is gone.
    async fn tell_suspects(&mut self, disk: &E::Disk, suspects: &[Suspect]) -> bool {
        let runtime = self.service.node.parts.env.runtime().clone();
        let end = runtime.now() + MEND_TIME;
        for suspect in suspects {
            let mut mended = self.is_mended(disk, suspect);
            while !mended && runtime.now() < end {
                runtime.sleep(LOOK_EVERY).await;
                mended = self.is_mended(disk, suspect);
            }
            let finding = differs(suspect.path.clone(), suspect.detail.clone(), mended);
            if !self.find(finding).await {
                return false;
            }
        }
        true
    }

    fn is_mended(&self, disk: &E::Disk, suspect: &Suspect) -> bool {
        let tree = &self.service.node.parts.tree;
        let node = tree.node(suspect.id).ok().flatten();
        match (node, path_of(tree, suspect.id)) {
            (Some(node), Some(path)) => look(disk, &node, &path).is_ok(),
            _ => true,
        }
    }

    /// What the scan moved aside, and what cannot be shown.
    async fn tell_scanned(
        &mut self,
        before: &MirrorStatus,
        after: &MirrorStatus,
        suspects: &[Suspect],
    ) {
        let new = after.stranger_count.saturating_sub(before.stranger_count);
        let shown = usize::try_from(new).unwrap_or(usize::MAX);
        let is_told = |path: &str| {
            let path = path.trim_start_matches('/');
            suspects
                .iter()
                .any(|s| s.path.trim_start_matches('/') == path)
        };
        for notice in after.notices.iter().rev().take(shown) {
            if is_told(&notice.path) {
                continue;
            }
            let detail = format!("a local edit; kept as {}", notice.kept_as);
            if !self.find(differs(notice.path.clone(), detail, true)).await {
                return;
            }
        }
        for held in after.waiting.iter().chain(&after.unmaterialisable) {
            let finding = differs(held.path.clone(), held.reason.clone(), false);
            if !self.find(finding).await {
                return;
            }
        }
    }
}

fn differs(path: String, detail: String, mended: bool) -> v1::Finding {
    v1::Finding {
        code: "FOLDER_DIFFERS".to_owned(),
        path,
        detail,
        mended,
        ..v1::Finding::default()
    }
}

/// Whether a file or link stands in the mirror as its version says; else what does not fit.
fn look(disk: &impl Disk, node: &Node, path: &str) -> Result<(), String> {
    let place = Path::new(path.trim_start_matches('/'));
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let stat = disk.stat(place).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "it is missing".to_owned(),
        _ => unreadable(error),
    })?;
    let is_equal = match (&node.kind, stat.kind) {
        (NodeKind::File(content), FileKind::File) => {
            stat.size == content.size()
                && hash_file(disk, place).map_err(unreadable)? == content.blake3()
        }
        (NodeKind::Symlink(target), FileKind::Symlink) => {
            disk.read_link(place).map_err(unreadable)?.as_os_str() == target.as_str()
        }
        (NodeKind::Directory | NodeKind::Volume(_), FileKind::Directory) => true,
        _ => return Err("something else stands there".to_owned()),
    };
    if is_equal {
        Ok(())
    } else {
        Err("its bytes are not those of its version".to_owned())
    }
}
