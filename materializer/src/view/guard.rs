//! [pure] Guards of events: what must hold of a path before anything is done (rule CO-1).

use super::namespace::{Fold, Stop, Walk, check_sane, reject, volume_root};
use super::outcome::Rejection;
use super::table::{Kind, NameRow};
use aber_log::env::Kv;
use aber_proto::{FileId, Precondition};

impl<K: Kv> Fold<K> {
    /// Checks a guard against what a path names (rule CO-1).
    pub(crate) fn guard(&mut self, guard: &Precondition, walk: &Walk<'_>) -> Result<(), Stop> {
        if guard.absent && walk.exists() {
            return reject(Rejection::Exists, walk.place);
        }
        if let Some(etag) = guard.etag {
            let found = match walk.child {
                Some(child) => Some(self.load(child.id)?.node.version),
                None => None,
            };
            if found != Some(etag) {
                return reject(Rejection::Stale, walk.place);
            }
        }
        let Some(since) = guard.unchanged_since else {
            return Ok(());
        };
        let newer = match walk.child {
            Some(child) => self.is_newer(child, since, 0)?,
            None if walk.is_root() => self.holds_newer(volume_root(walk.place.volume), since, 0)?,
            None => false,
        };
        if newer {
            return reject(Rejection::Stale, walk.place);
        }
        Ok(())
    }

    /// Whether anything at or below a name is newer than an index. A volume's content is not of
    /// this partition, or has a guard of its own.
    fn is_newer(&mut self, child: NameRow, since: u64, depth: usize) -> Result<bool, Stop> {
        if self.load(child.id)?.node.changed > since {
            return Ok(true);
        }
        if child.kind == Kind::Directory {
            return self.holds_newer(child.id, since, depth + 1);
        }
        Ok(false)
    }

    fn holds_newer(&mut self, directory: FileId, since: u64, depth: usize) -> Result<bool, Stop> {
        check_sane(depth, directory)?;
        let mut newer = false;
        self.each_name(directory, |fold, _, child| {
            newer = newer || fold.is_newer(child, since, depth)?;
            Ok(())
        })?;
        Ok(newer)
    }
}
