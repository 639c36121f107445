//! [pure] What retention lets go of a partition's past, on each node alone.
//!
//! A version is shown by the moments from the entry that made it up to the one before the entry
//! that replaced or removed it. It may go once it is not present, no tag shows it, and its volume's
//! retention says so: by age, all that no moment since then shows; by number, all but the newest of
//! its file; by size, the oldest first, until the rest fits. Time is order time against the
//! partition's newest entry, so that no clock of a node takes anything.
//!
//! By age what names and nodes were goes too, up to the volume's *horizon*: moments before it
//! cannot be told any more, but those that tags of the time of the prune name. By number and size
//! alone contents go, and a moment that shows one of them cannot be read where it does.
//!
//! All of this is derived and local: neither digest nor applied position change, and a node that
//! stops in the middle finds the rest the next time. Horizons are committed before anything goes.

mod gone;
mod history;
mod home;
mod rows;

pub use gone::{Gone, Release};
pub use rows::NamePrune;
use rows::{HorizonRow, horizon_key, passed_key};

use super::past::{self, PastName};
use super::read::TreeView;
use super::table::{self, Kind, Row, Table};
use crate::tree::{NodeKind, ROOT};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem, prefix_end};
use aber_proto::{EventId, FileId, PartitionId, Retention, Timestamp, VolumeId};
use home::Homes;
use std::collections::{BTreeMap, BTreeSet};

/// Rows read, and rows committed, at once.
const PAGE: usize = 256;

/// A version that may go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Its file.
    pub file: FileId,
    /// The volume the file is in, or its last directory is or was; `None` where nothing tells.
    pub volume: Option<VolumeId>,
    /// The event that made it.
    pub version: EventId,
    /// The entry that replaced or removed it.
    pub replaced: u64,
    /// Bytes of its content.
    pub bytes: u64,
}

/// What is to go of a partition: decided once, so that what is shown is what is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrunePlan {
    partition: PartitionId,
    /// Each volume's retention, where it is not for ever.
    retentions: BTreeMap<VolumeId, Retention>,
    /// By age and size: what was replaced up to there goes.
    cuts: BTreeMap<VolumeId, u64>,
    horizons: BTreeMap<VolumeId, HorizonRow>,
    /// What no volume of the partition needs.
    all: HorizonRow,
    /// The places of all tags in this partition.
    tags: BTreeSet<u64>,
    /// Only this one, if it is given.
    only: Option<VolumeId>,
}

impl<K: Kv> TreeView<K> {
    /// What retention lets go of a partition now; of one volume, if it is given.
    ///
    /// # Errors
    /// The index failed.
    pub fn plan_prune(
        &self,
        partition: PartitionId,
        only: Option<VolumeId>,
    ) -> Result<PrunePlan, KvProblem> {
        let tags = self.tags()?;
        let places = tags.values().map(|tag| tag.moment.get(&partition));
        let tags: BTreeSet<u64> = places.map(|index| index.copied().unwrap_or(0)).collect();
        let mut plan = PrunePlan {
            partition,
            retentions: self.retentions_in(partition)?,
            cuts: BTreeMap::new(),
            horizons: BTreeMap::new(),
            all: HorizonRow::default(),
            tags,
            only,
        };
        let Some(applied) = self.applied(partition)? else {
            return Ok(plan);
        };
        let newest = applied.order_time;
        for (volume, retention) in plan.retentions.clone() {
            if let Retention::Age(age_ms) = retention {
                let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
                let then = Timestamp(newest.0.saturating_sub(age_ms));
                let cut = self.index_at(partition, then)?.unwrap_or(0);
                plan.cuts.insert(volume, cut);
            }
        }
        self.cut_by_size(&mut plan)?;
        self.set_horizons(&mut plan)?;
        Ok(plan)
    }

    /// Those of the volumes that are or were in a partition.
    fn retentions_in(
        &self,
        partition: PartitionId,
    ) -> Result<BTreeMap<VolumeId, Retention>, KvProblem> {
        let volumes = self.volumes()?.into_iter();
        let places: BTreeMap<_, _> = volumes.map(|v| (v.id, v.partition)).collect();
        let mut retentions = self.retentions()?;
        let is_control = partition == PartitionId::CONTROL;
        retentions.retain(|volume, _| match places.get(volume) {
            Some(place) => *place == partition,
            None if *volume == VolumeId::ROOT => is_control,
            None => !is_control,
        });
        Ok(retentions)
    }

    /// Every volume's retention but for ever; of volumes that are gone, too.
    fn retentions(&self) -> Result<BTreeMap<VolumeId, Retention>, KvProblem> {
        let prefix = table::table_key(PartitionId::CONTROL, Table::Retention);
        let (mut from, to) = (prefix.clone(), prefix_end(&prefix));
        let mut found = BTreeMap::new();
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            for (key, value) in &page {
                let damaged = || table::damaged(key);
                let volume = table::volume_of(key).ok_or_else(damaged)?;
                let row = Retention::decode(key, value).map_err(|_| damaged())?;
                found.insert(volume, row);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = [key, [0].as_slice()].concat(),
                _ => return Ok(found),
            }
        }
    }

    /// The newest that fit stay. What a tag shows stays in any case, and takes its part of the room.
    fn cut_by_size(&self, plan: &mut PrunePlan) -> Result<(), KvProblem> {
        let sizes = plan.retentions.iter();
        let sizes = sizes.filter_map(|(volume, retention)| match retention {
            Retention::Size(bytes) => Some((*volume, *bytes)),
            _ => None,
        });
        let sizes: BTreeMap<_, _> = sizes.collect();
        if sizes.is_empty() {
            return Ok(());
        }
        let mut by_entry: BTreeMap<VolumeId, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut tagged: BTreeMap<VolumeId, u64> = BTreeMap::new();
        let mut homes = Homes::new(self);
        self.each_history(plan.partition, None, &mut |history| {
            let home = homes.of(history.file)?;
            let Some(volume) = home.filter(|volume| sizes.contains_key(volume)) else {
                return Ok(true);
            };
            for (version, replaced, bytes) in &history.versions {
                let sum = match plan.is_tagged(version.index, *replaced) {
                    true => tagged.entry(volume).or_default(),
                    false => {
                        let sums = by_entry.entry(volume).or_default();
                        sums.entry(*replaced).or_default()
                    }
                };
                *sum = sum.saturating_add(*bytes);
            }
            Ok(true)
        })?;
        for (volume, bytes) in sizes {
            let kept = tagged.get(&volume).copied().unwrap_or(0);
            let mut room = bytes.checked_sub(kept);
            for (replaced, bytes) in by_entry.remove(&volume).unwrap_or_default().iter().rev() {
                room = room.and_then(|room| room.checked_sub(*bytes));
                if room.is_none() {
                    plan.cuts.insert(volume, *replaced);
                    break;
                }
            }
        }
        Ok(())
    }

    /// By age; never back, and not of the root's own names, which volumes stand among.
    fn set_horizons(&self, plan: &mut PrunePlan) -> Result<(), KvProblem> {
        let volumes = self.volumes()?;
        let inside = volumes.iter().filter(|v| v.partition == plan.partition);
        let inside: BTreeSet<VolumeId> = inside.map(|volume| volume.id).collect();
        for volume in plan.retentions.keys().chain(&inside) {
            let before = self.horizon(plan.partition, *volume)?;
            let is_aged = matches!(plan.retentions.get(volume), Some(Retention::Age(_)));
            let cut = plan.cuts.get(volume).copied().unwrap_or(0);
            let wanted = plan.only.is_none_or(|only| only == *volume);
            if *volume == VolumeId::ROOT || (before.index == 0 && (!is_aged || cut == 0)) {
                continue;
            }
            let after = match is_aged && wanted {
                true => before.index.max(cut),
                false => before.index,
            };
            let told = plan.tags.iter().filter(|tag| before.tells(**tag));
            let kept = told.filter(|tag| **tag < after).copied().collect();
            let row = HorizonRow { index: after, kept };
            plan.horizons.insert(*volume, row);
        }
        // Names wander between the volumes of a partition: they go when none of them needs them.
        let ever = self.volumes_ever(plan.partition, inside)?;
        let horizon = |volume| plan.horizons.get(volume).map_or(0, |row| row.index);
        let least = ever.iter().map(horizon).min().unwrap_or(0);
        let kept = plan.tags.range(..least).copied().collect();
        plan.all = HorizonRow { index: least, kept };
        Ok(())
    }

    /// With those that are gone: their past is still looked at from moments when they were there.
    fn volumes_ever(
        &self,
        partition: PartitionId,
        mut ever: BTreeSet<VolumeId>,
    ) -> Result<BTreeSet<VolumeId>, KvProblem> {
        if partition == PartitionId::CONTROL {
            ever.insert(VolumeId::ROOT);
        }
        let prefix = past::names_prefix(PartitionId::CONTROL, ROOT);
        let (mut from, to) = (prefix.clone(), prefix_end(&prefix));
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            for (key, value) in &page {
                let row = PastName::decode(key, value)
                    .map_err(|_| table::damaged(key))?
                    .row;
                let node = match row.kind {
                    Kind::Volume => home::last_row(self, row.id)?.map(|row| row.node.kind),
                    _ => None,
                };
                if node == Some(NodeKind::Volume(partition)) {
                    ever.insert(VolumeId::made_by(row.id));
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = [key, [0].as_slice()].concat(),
                _ => return Ok(ever),
            }
        }
    }

    /// How far back a volume's names can be told.
    pub(super) fn horizon(
        &self,
        partition: PartitionId,
        volume: VolumeId,
    ) -> Result<HorizonRow, KvProblem> {
        let row = self.row(&horizon_key(partition, volume))?;
        Ok(row.unwrap_or_default())
    }

    /// The oldest entry after which a volume can be told by its names, if retention took what was
    /// before it; `Ok(None)`: `index` is not before it, or a tag has kept it.
    ///
    /// # Errors
    /// The index failed.
    pub fn forgotten(
        &self,
        partition: PartitionId,
        volume: VolumeId,
        index: u64,
    ) -> Result<Option<u64>, KvProblem> {
        let horizon = self.horizon(partition, volume)?;
        Ok((!horizon.tells(index)).then_some(horizon.index))
    }

    /// Calls `take` with every version that goes, of the file `from` and those after it, until it
    /// says `false`.
    ///
    /// # Errors
    /// The index failed, or `take` did.
    pub fn each_passed(
        &self,
        plan: &PrunePlan,
        from: Option<FileId>,
        take: &mut impl FnMut(Passed) -> Result<bool, KvProblem>,
    ) -> Result<(), KvProblem> {
        if plan.retentions.is_empty() {
            return Ok(());
        }
        let mut homes = Homes::new(self);
        self.each_history(plan.partition, from, &mut |history| {
            let volume = homes.of(history.file)?;
            let newer = u64::from(history.is_present);
            let count = history.versions.len() as u64;
            for (position, (version, replaced, bytes)) in (0_u64..).zip(&history.versions) {
                let rank = newer + count - position;
                if plan.lets_go(volume, (version.index, *replaced), rank) {
                    let passed = Passed {
                        file: history.file,
                        volume,
                        version: *version,
                        replaced: *replaced,
                        bytes: *bytes,
                    };
                    if !take(passed)? {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        })
    }

    /// Lets one page of the plan go, from a file on. What goes is noted with `now`, the wall clock,
    /// so that its content can follow when its time of grace is over.
    ///
    /// # Errors
    /// The index failed: what was committed is committed, do it again.
    pub fn prune_page(
        &self,
        plan: &PrunePlan,
        from: Option<FileId>,
        now: Timestamp,
    ) -> Result<Pruned, KvProblem> {
        self.note_horizons(plan)?;
        let mut batch = KvBatch::default();
        let mut pruned = Pruned::default();
        let mut last = self.passed(plan.partition)?;
        self.each_passed(plan, from, &mut |passed| {
            let version = self.version_row(&passed)?;
            gone::note(&mut batch, passed.version, &version.content, now);
            batch.remove(table::version_key(passed.file, passed.version));
            if passed.version != passed.file {
                batch.remove(table::version_file_key(passed.version));
            }
            last = last.max(passed.replaced);
            pruned.versions += 1;
            pruned.bytes += passed.bytes;
            pruned.next = Some(passed.file);
            Ok(pruned.versions < PAGE as u64)
        })?;
        if pruned.versions > 0 {
            batch.put(passed_key(plan.partition), rows::PassedRow(last).encode());
            self.kv.commit(batch)?;
        }
        if pruned.versions < PAGE as u64 {
            pruned.next = None;
        }
        Ok(pruned)
    }

    fn version_row(&self, passed: &Passed) -> Result<table::VersionRow, KvProblem> {
        let key = table::version_key(passed.file, passed.version);
        self.row(&key)?.ok_or_else(|| table::damaged(&key))
    }

    fn note_horizons(&self, plan: &PrunePlan) -> Result<(), KvProblem> {
        let mut batch = KvBatch::default();
        for (volume, row) in &plan.horizons {
            if self.horizon(plan.partition, *volume)? != *row {
                batch.put(horizon_key(plan.partition, *volume), row.encode());
            }
        }
        if batch.rows.is_empty() {
            return Ok(());
        }
        self.kv.commit(batch)
    }

    /// Versions that were replaced up to there may be gone; 0: none went.
    pub(super) fn passed(&self, partition: PartitionId) -> Result<u64, KvProblem> {
        let row: Option<rows::PassedRow> = self.row(&passed_key(partition))?;
        Ok(row.map_or(0, |row| row.0))
    }

    /// Lets what names and nodes were before the horizons go. To be done after all versions.
    #[must_use]
    pub fn prune_names<'t>(&'t self, plan: &'t PrunePlan) -> NamePrune<'t, K> {
        NamePrune::new(self, plan)
    }
}

/// What a page let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pruned {
    /// Versions.
    pub versions: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<FileId>,
}

impl PrunePlan {
    /// Whether any tag shows what stood from one entry until another.
    fn is_tagged(&self, made: u64, replaced: u64) -> bool {
        made < replaced && self.tags.range(made..replaced).next().is_some()
    }

    /// `rank`: how manyth version of its file it is, the newest being the first.
    fn lets_go(&self, volume: Option<VolumeId>, (made, replaced): (u64, u64), rank: u64) -> bool {
        if self.is_tagged(made, replaced) || (self.only.is_some() && self.only != volume) {
            return false;
        }
        let Some(volume) = volume else {
            return replaced <= self.all.index;
        };
        match self.retentions.get(&volume) {
            None | Some(Retention::Forever) => false,
            Some(Retention::Versions(count)) => rank > *count,
            Some(Retention::Age(_) | Retention::Size(_)) => {
                let cut = self.cuts.get(&volume);
                cut.is_some_and(|cut| replaced <= *cut)
            }
        }
    }

    /// Whether a row that says what was before `index` is needed by no moment that can be told.
    /// `before`: the index of the row before it, of the same name or node. It is read by the moments
    /// from that one on, up to just before itself.
    fn is_beyond(&self, before: u64, index: u64) -> bool {
        let is_kept = before < index && self.all.kept.range(before..index).next().is_some();
        index <= self.all.index && !is_kept
    }
}
