//! [pure] Volumes: top-level directories whose content lives in a partition (rule TR-11).

use super::namespace::{Fold, Outcome, Walk, reject, volume_root};
use super::outcome::{EventOutcome, Idle, Rejection};
use super::table::{self, InodeRow, Kind, Row, VolumeRow};
use crate::effect::Effect;
use crate::tree::{NodeKind, ROOT};
use aber_log::env::Kv;
use aber_proto::{EventId, PartitionId, Place, Precondition, RelPath, VolumeId, limit};

const VOLUME_MODE: u16 = 0o755;
/// Indexes from here on do not fit a volume id.
const VOLUME_INDEXES: u64 = 1 << 54;

impl<K: Kv> Fold<K> {
    pub(crate) fn make_volume(
        &mut self,
        guard: &Precondition,
        event: EventId,
        name: &str,
        partition: PartitionId,
    ) -> Outcome {
        let place = top(name);
        if partition.0 as usize >= limit::PARTITIONS || event.index >= VOLUME_INDEXES {
            return reject(Rejection::Malformed, &place);
        }
        let walk = self.walk_top(&place, name)?;
        self.guard(guard, &walk)?;
        match walk.child {
            Some(child) if child.kind == Kind::Volume => {
                return Ok(EventOutcome::Idle(child.id, Idle::Exists));
            }
            Some(_) => return reject(Rejection::Exists, &place),
            None => {}
        }
        let volume = VolumeId::made_by(event);
        self.create(event, ROOT, name, NodeKind::Volume(partition), VOLUME_MODE);
        self.rows
            .put(table::volume_key(volume), VolumeRow(partition).encode());
        self.effects.push(Effect::MakeVolume {
            file: event,
            volume,
            partition,
            name: name.to_owned(),
        });
        Ok(EventOutcome::Done(event))
    }

    pub(crate) fn rename_volume(
        &mut self,
        guard: &Precondition,
        volume: VolumeId,
        name: &str,
    ) -> Outcome {
        let row = self.volume(guard, volume)?;
        let place = top(name);
        match self.walk_top(&place, name)?.child {
            Some(child) if child.id == row.node.id => {
                return Ok(EventOutcome::Idle(child.id, Idle::Same));
            }
            Some(_) => return reject(Rejection::NameTaken, &place),
            None => {}
        }
        let file = row.node.id;
        self.effects.push(Effect::RenameVolume {
            file,
            from: row.node.name.clone(),
            to: name.to_owned(),
        });
        self.relink(row, ROOT, name);
        Ok(EventOutcome::Done(file))
    }

    pub(crate) fn remove_volume(&mut self, guard: &Precondition, volume: VolumeId) -> Outcome {
        let row = self.volume(guard, volume)?;
        // Only the content of a volume in this very partition can be looked at.
        if !self.is_empty(row.node.id)? {
            return reject(Rejection::NotEmpty, &top(&row.node.name));
        }
        self.erase(&row.node);
        self.rows.remove(table::volume_key(volume));
        let file = row.node.id;
        let name = row.node.name;
        self.effects.push(Effect::RemoveVolume { file, name });
        Ok(EventOutcome::Done(file))
    }

    /// The node of a volume that exists and passes the guard.
    fn volume(
        &mut self,
        guard: &Precondition,
        volume: VolumeId,
    ) -> Result<InodeRow, super::namespace::Stop> {
        let here = Place {
            volume,
            path: RelPath::root(),
        };
        let known: Option<VolumeRow> = self.rows.row(&table::volume_key(volume))?;
        if known.is_none() {
            return reject(Rejection::NotFound, &here);
        }
        let row = self.load(volume_root(volume))?;
        let place = top(&row.node.name);
        let walk = self.walk_top(&place, &row.node.name)?;
        self.guard(guard, &walk)?;
        Ok(row)
    }

    /// What stands at the root under a name that was checked.
    fn walk_top<'p>(
        &mut self,
        place: &'p Place,
        name: &'p str,
    ) -> Result<Walk<'p>, super::namespace::Stop> {
        if place.path.as_str() != name {
            return reject(Rejection::NameNotAllowed, place);
        }
        self.walk(place)
    }
}

/// A name at the root. A name that is none gives the root itself.
fn top(name: &str) -> Place {
    Place {
        volume: VolumeId::ROOT,
        path: RelPath::root().join(name).unwrap_or_default(),
    }
}
