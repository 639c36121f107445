//! [adapter] `materialize --at`: a moment as a directory.
//!
//! The tree is written beside its place and renamed there at the end, so that it appears whole.
//! Nothing that stands there is overwritten. Names are checked again, and nothing is written
//! through a link.

use super::get::unwritable;
use super::print;
use super::progress::{Counters, Movement, Progress};
use super::{Context, Outcome, at, parse_path};
use crate::client::{Client, Target};
use crate::reason::{Problem, Reason};
use crate::tree_digest::TreeDigest;
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, ItemKind, tree_piece::Piece};
use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// What is wanted.
pub(super) struct Wanted {
    /// Whom to ask; `None`: this machine's node.
    pub(super) from: Option<String>,
    /// As of when.
    pub(super) when: String,
    /// The directory to make.
    pub(super) into: PathBuf,
    /// The part of the tree.
    pub(super) path: String,
}

/// Makes the directory.
pub(super) async fn run(context: &Context, wanted: Wanted) -> Outcome {
    let path = parse_path(&wanted.path)?;
    let client = match &wanted.from {
        Some(from) => context.connect_to(&Target::parse(from)?).await?,
        None => context.connect().await?,
    };
    let moment = at::moment(context, &client, &wanted.when, path.as_str()).await?;
    let request = v1::DownloadTreeRequest {
        path: path.as_str().to_owned(),
        read: Some(v1::ReadOptions {
            at: Some(moment),
            ..v1::ReadOptions::default()
        }),
        without_content: false,
    };
    check_free(&wanted.into)?;
    let fresh = beside(&wanted.into);
    let movement = Counters::start();
    let progress = Progress::show(&context.out, "written", &movement);
    let mut copy = Copy::begin(&fresh, path)?;
    let written = copy.write_all(&client, request, &movement).await;
    drop(progress);
    let placed = written.and_then(|()| {
        // An empty directory that stood there gives way; anything else does not.
        std::fs::rename(&fresh, &wanted.into).map_err(|error| unwritable(&wanted.into, &error))
    });
    if let Err(problem) = placed {
        let _left_over = std::fs::remove_dir_all(&fresh).is_err();
        return Err(problem);
    }
    report(context, &wanted, &copy, &movement);
    Ok(0)
}

fn report(context: &Context, wanted: &Wanted, copy: &Copy, movement: &Movement) {
    let files = movement.files.load(Ordering::Relaxed);
    let bytes = movement.read_bytes.load(Ordering::Relaxed);
    let into = wanted.into.display().to_string();
    let digest = copy.digest.text();
    let text = format!(
        "{} · {} · {} · digest {}",
        print::plural(files, "file"),
        print::bytes(bytes),
        print::escape(&into),
        digest.get(..16).unwrap_or_default(),
    );
    let value = json!({
        "into": into, "path": wanted.path, "when": wanted.when,
        "files": files, "items": copy.items, "bytes": bytes, "digest": digest,
    });
    context.out.result(Some(text), value);
}

/// Only what does not exist, or an empty directory, is taken.
fn check_free(into: &Path) -> Result<(), Problem> {
    let taken = match std::fs::read_dir(into) {
        Ok(mut names) => names.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if taken {
        let error = std::io::Error::other("something stands there, and nothing is overwritten");
        return Err(unwritable(into, &error));
    }
    Ok(())
}

/// A name in the same directory, so that renaming works.
fn beside(into: &Path) -> PathBuf {
    let name = into.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(40).collect();
    into.with_file_name(format!(".{short}.aber-{}", std::process::id()))
}

/// A tree as it is written down.
struct Copy {
    into: PathBuf,
    base: TreePath,
    /// Directories that were made here: the only ones that anything is written into.
    made: BTreeSet<PathBuf>,
    /// Directories whose mode would keep files out, set at the end.
    modes: Vec<(PathBuf, u32)>,
    open: Option<Open>,
    digest: TreeDigest,
    items: u64,
}

/// The file whose content comes.
struct Open {
    file: File,
    local: PathBuf,
    item: v1::Item,
    hasher: blake3::Hasher,
    left_bytes: u64,
}

impl Copy {
    fn begin(into: &Path, base: TreePath) -> Result<Self, Problem> {
        make(into)?;
        Ok(Self {
            into: into.to_owned(),
            base,
            made: BTreeSet::from([into.to_owned()]),
            modes: Vec::new(),
            open: None,
            digest: TreeDigest::new(),
            items: 0,
        })
    }

    async fn write_all(
        &mut self,
        client: &Client,
        request: v1::DownloadTreeRequest,
        movement: &Movement,
    ) -> Result<(), Problem> {
        let mut stream = client.download_tree(request).await?;
        while let Some(response) = stream.next().await? {
            for piece in response.pieces {
                match piece.piece {
                    Some(Piece::Item(item)) => self.take_item(item, movement)?,
                    Some(Piece::Data(data)) => self.take_data(&data, movement)?,
                    None => {}
                }
            }
        }
        self.close(movement)?;
        for (local, mode) in self.modes.iter().rev() {
            let mode = Permissions::from_mode(mode & 0o777);
            std::fs::set_permissions(local, mode).map_err(|error| unwritable(local, &error))?;
        }
        Ok(())
    }

    fn take_item(&mut self, item: v1::Item, movement: &Movement) -> Result<(), Problem> {
        self.close(movement)?;
        let path = TreePath::parse(&item.path).map_err(|p| Problem::name(&item.path, p))?;
        let strange = || Problem::internal(format!("{path} does not belong into {}", self.base));
        if !path.is_within(&self.base) || path == self.base {
            return Err(strange());
        }
        let below = path.components().skip(self.base.components().count());
        let relative: Vec<&str> = below.collect();
        let local = self.into.join(relative.iter().collect::<PathBuf>());
        if !local
            .parent()
            .is_some_and(|above| self.made.contains(above))
        {
            return Err(strange());
        }
        self.digest.add(&relative.join("/"), &item);
        self.items += 1;
        let failed = |error: std::io::Error| unwritable(&local, &error);
        match item.kind() {
            ItemKind::Directory => {
                make(&local)?;
                self.modes.push((local.clone(), item.mode));
                self.made.insert(local);
            }
            ItemKind::Symlink => {
                std::os::unix::fs::symlink(&item.symlink_target, &local).map_err(failed)?;
                movement.add(&movement.files, 1);
            }
            _ => {
                let file = OpenOptions::new().write(true).create_new(true).open(&local);
                self.open = Some(Open {
                    file: file.map_err(failed)?,
                    left_bytes: item.size,
                    local,
                    item,
                    hasher: blake3::Hasher::new(),
                });
            }
        }
        Ok(())
    }

    fn take_data(&mut self, data: &Bytes, movement: &Movement) -> Result<(), Problem> {
        let Some(open) = &mut self.open else {
            return Err(Problem::internal("content without a file"));
        };
        open.hasher.update(data);
        open.left_bytes = open.left_bytes.saturating_sub(data.len() as u64);
        movement.add(&movement.read_bytes, data.len() as u64);
        let written = open.file.write_all(data);
        written.map_err(|error| unwritable(&open.local, &error))
    }

    /// Ends a file: its content must be whole and what its hash says.
    fn close(&mut self, movement: &Movement) -> Result<(), Problem> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let found = open.hasher.finalize();
        if open.left_bytes > 0 || open.item.blake3 != found.as_bytes().as_slice() {
            return Err(Problem::new(Reason::ContentMismatch)
                .with("path", &open.item.path)
                .with("wanted", print::hex(&open.item.blake3).unwrap_or_default())
                .with("found", found.to_hex()));
        }
        movement.add(&movement.files, 1);
        let set = super::get::set_attributes(&open.file, &open.item);
        set.map_err(|error| unwritable(&open.local, &error))
    }
}

fn make(local: &Path) -> Result<(), Problem> {
    let made = DirBuilder::new().mode(0o700).create(local);
    made.map_err(|error| unwritable(local, &error))
}
