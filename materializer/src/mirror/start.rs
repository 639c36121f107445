//! [driver] Opens a mirror: layout, marker, rows, and what a crash left in staging.

use super::core::{Core, Held, NEW};
use super::ledger::{Ledger, SWAP};
use super::stranger::LOST;
use super::written::Table;
use super::{Kind, MirrorParts, MirrorProblem, MirrorStatus};
use crate::tree::Tree;
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{self, File, Open, Rename};
use aber_log::env::{Disk, Env};
use aber_log::watch::Watched;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::Path;

pub(super) const MARKER: &str = ".aber/marker";
/// Longest marker, in bytes.
const MARKER_BYTES: usize = 4096;
/// Held paths read at once.
const PAGE: usize = 1024;

fn layout(path: &str) -> impl Fn(io::Error) -> MirrorProblem + '_ {
    move |error| MirrorProblem::Layout {
        path: path.to_owned(),
        error: error.to_string(),
    }
}

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    pub(super) async fn open(parts: MirrorParts<E, T, C>) -> Result<Self, MirrorProblem> {
        let device = make_layout(&parts.disk)?;
        let ledger = Ledger::new(parts.kv, parts.options.folder);
        let mut core = Self {
            env: parts.env,
            disk: parts.disk,
            tree: parts.tree,
            chunks: parts.chunks,
            options: parts.options,
            ledger,
            status: Watched::new(MirrorStatus::default()),
            held: BTreeMap::new(),
            queue: BTreeSet::new(),
            found: BTreeSet::new(),
            rounds: BTreeMap::new(),
            scans: Vec::new(),
            parked: BTreeMap::new(),
            positions: BTreeMap::new(),
            has_exchange: true,
            device,
            swap_count: 0,
            failed_syncs: 0,
            must_pause: false,
        };
        core.check_marker_at_start().await?;
        core.load_held()?;
        let positions = core.ledger.positions()?;
        core.status.update(|status| status.positions = positions);
        core.find_moved_directories()?;
        core.clean_staging()?;
        core.rescan_all();
        core.publish_status();
        Ok(core)
    }

    /// The marker tells that this is the folder, and this the attachment, that the rows speak of.
    async fn check_marker_at_start(&mut self) -> Result<(), MirrorProblem> {
        let wanted = self.options.marker.clone();
        let found = self.read_marker()?;
        let known = self.ledger.marker()?;
        let is_known = known.as_deref() == Some(&wanted);
        if found.as_deref() != Some(&wanted) {
            if found.is_some() || is_known {
                return Err(MirrorProblem::Marker { wanted, found });
            }
            let written = self.write_marker(&wanted).await;
            written.map_err(layout(MARKER))?;
        }
        if !is_known {
            self.ledger.wipe()?;
            self.ledger.set_marker(&wanted);
            self.ledger.commit()?;
        }
        Ok(())
    }

    /// Whether the folder is still the one that was attached (rules FO-1, FO-2).
    pub(super) fn check_marker(&self) -> Result<(), MirrorProblem> {
        let (wanted, found) = (self.options.marker.clone(), self.read_marker()?);
        if found.as_deref() == Some(&wanted) {
            Ok(())
        } else {
            Err(MirrorProblem::Marker { wanted, found })
        }
    }

    fn read_marker(&self) -> Result<Option<String>, MirrorProblem> {
        match disk::read_small(&self.disk, Path::new(MARKER), MARKER_BYTES) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(layout(MARKER)(error)),
        }
    }

    /// Whole or not there, and durable before anything relies on it: a torn one would stop the
    /// mirror for good.
    async fn write_marker(&self, text: &str) -> io::Result<()> {
        let beside = Path::new(NEW).join("marker");
        match self.disk.remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.open(&beside, Open::CreateNew)?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync().await?;
        self.disk
            .rename(&beside, Path::new(MARKER), Rename::NoReplace)?;
        self.disk.sync_dir(Path::new(".aber")).await?;
        self.disk.sync_dir(Path::new("")).await
    }

    fn load_held(&mut self) -> Result<(), MirrorProblem> {
        let mut after = None;
        loop {
            let page = self.ledger.ids(Table::Held, after, PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (id, row) in page {
                let text = String::from_utf8_lossy(&row).into_owned();
                let kind = if text.starts_with('w') {
                    Kind::Waiting
                } else {
                    Kind::Unmaterialisable
                };
                let reason = text.get(1..).unwrap_or_default().to_owned();
                let version = self.tree.node(id)?.map(|node| node.version);
                let held = Held {
                    kind,
                    reason,
                    version,
                };
                self.held.insert(id, held);
                self.queue.insert(id);
            }
        }
    }
}

/// Makes `.aber` and answers the mirror's device (rule MA-1).
fn make_layout(disk: &impl Disk) -> Result<u64, MirrorProblem> {
    for path in [".aber", ".aber/staging", NEW, SWAP, LOST] {
        disk::ensure_dir(disk, Path::new(path)).map_err(layout(path))?;
    }
    let device_of = |path: &str| {
        let stat = disk.stat(Path::new(path)).map_err(layout(path))?;
        Ok::<u64, MirrorProblem>(stat.device)
    };
    let device = device_of("")?;
    for path in [NEW, SWAP, LOST] {
        if device_of(path)? != device {
            let path = path.to_owned();
            return Err(MirrorProblem::OtherDevice { path });
        }
    }
    Ok(device)
}
