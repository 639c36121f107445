//! [pure] Nodes that stand again under their old ids.
//!
//! Whether an id was ever used cannot be told from rows that all nodes have: history is thinned on
//! each alone. So all that is asked is that nothing has the id now, and that it is older than the
//! entry, so that no later node can get it. An author who revives what never was gives his own file
//! a strange id, and nothing else.

use super::namespace::{Fold, Outcome, Walk, link, reject};
use super::outcome::{EventOutcome, Rejection};
use super::table::{self, FileRow, InodeRow, Row};
use crate::effect::Effect;
use crate::tree::{Node, NodeKind, ROOT};
use aber_log::env::Kv;
use aber_proto::{Attributes, EventId, FileId, FileTime, Revived};

const FILE_MODE: u16 = 0o644;
const DIRECTORY_MODE: u16 = 0o755;
const SYMLINK_MODE: u16 = 0o777;

impl<K: Kv> Fold<K> {
    pub(super) fn revive(
        &mut self,
        walk: &Walk<'_>,
        event: EventId,
        (file, previous): (FileId, EventId),
        (what, attributes): (&Revived, Attributes),
    ) -> Outcome {
        let is_old = file.partition == self.partition && file.index < event.index;
        if !is_old || previous.partition != self.partition || previous.index >= event.index {
            return reject(Rejection::Malformed, walk.place);
        }
        let key = table::inode_key(file);
        let stands: Option<InodeRow> = self.rows.row(&key)?;
        if walk.exists() || stands.is_some() {
            return reject(Rejection::Exists, walk.place);
        }
        if *what == Revived::Directory && walk.parent() == Some(ROOT) {
            return reject(Rejection::NameNotAllowed, walk.place);
        }
        self.admit(walk)?;
        let parent = self.parent_for(walk, event, false)?;
        let (kind, mode, mtime) = match what {
            Revived::File(content) => (
                NodeKind::File(content.clone()),
                attributes.mode.unwrap_or(FILE_MODE),
                attributes.mtime,
            ),
            Revived::Symlink(target) => (
                NodeKind::Symlink(target.clone()),
                SYMLINK_MODE,
                FileTime::default(),
            ),
            Revived::Directory => (
                NodeKind::Directory,
                attributes.mode.unwrap_or(DIRECTORY_MODE),
                FileTime::default(),
            ),
        };
        let is_file = matches!(kind, NodeKind::File(_));
        self.effects.push(match kind {
            NodeKind::Directory | NodeKind::Volume(_) => Effect::MakeDir {
                file,
                link: link(parent, walk.name()),
            },
            NodeKind::Symlink(_) => Effect::Link {
                file,
                link: link(parent, walk.name()),
            },
            NodeKind::File(_) => Effect::Put {
                file,
                version: event,
                link: link(parent, walk.name()),
            },
        });
        if is_file {
            self.rows
                .put_new(table::version_file_key(event), FileRow(file).encode());
        }
        self.stand_again(Node {
            id: file,
            parent,
            name: walk.name().to_owned(),
            kind,
            mode,
            mtime,
            version: event,
            previous: is_file.then_some(previous),
            changed: event.index,
        });
        Ok(EventOutcome::Done(file))
    }
}
