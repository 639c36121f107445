//! Nodes that stand again under their old ids.

use super::fold::world;
use crate::testing::{at, event, made_at as id, make_dir, put, remove};
use crate::tree::Tree;
use crate::view::{Moment, Rejection};
use aber_proto::{Attributes, Content, Event, EventId, FileId, Operation, PartitionId, Revived};
use bytes::Bytes;
use std::sync::Arc;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);

fn revive(file: FileId, previous: EventId, path: &str, what: Revived) -> Event {
    event(Operation::Revive {
        file,
        previous,
        place: at(V, path),
        what,
        attributes: Attributes::default(),
    })
}

fn text(text: &str) -> Revived {
    Revived::File(Content::Inline(Bytes::copy_from_slice(text.as_bytes())))
}

/// Its history goes on where it ended: the same id, the version before, and the time it was gone.
#[test]
fn a_file_that_stands_again_is_the_one_it_was() {
    let mut world = world();
    world.done(vec![put(at(V, "f"), "one")]); // 1
    world.done(vec![put(at(V, "f"), "two")]); // 2
    world.done(vec![remove(at(V, "f"), None)]); // 3
    world.done(vec![revive(id(1), id(1), "g", text("one"))]); // 4
    let node = world.node("/v/g").expect("stands");
    assert_eq!(
        (node.id, node.version, node.previous),
        (id(1), id(4), Some(id(1)))
    );
    assert_eq!(node.changed, 4);
    let tree = world.tree();
    assert_eq!(tree.file_of(id(4)), Ok(Some(id(1))));
    assert_eq!(tree.changes_of(id(1), 0), Ok(vec![2, 3, 4]));
    for (index, version) in [(1, Some(1)), (2, Some(2)), (3, None), (4, Some(4))] {
        let moment = [(PartitionId::CONTROL, u64::MAX), (DATA, index)];
        let then = tree.at(Arc::new(Moment(moment.into())));
        let node = then.node(id(1)).expect("works");
        assert_eq!(
            node.map(|node| node.version),
            version.map(id),
            "after {index}"
        );
    }
}

/// Within one batch too, where the old row was in the index when it began: the digest is that of
/// the rows.
#[test]
fn a_batch_that_removes_and_revives_keeps_the_digest() {
    let mut world = world();
    world.done(vec![make_dir(at(V, "d")), put(at(V, "d/f"), "one")]);
    let file = world.node("/v/d/f").expect("there").id;
    let entries = [
        world.log.write(vec![remove(at(V, "d/f"), None)]),
        world
            .log
            .write(vec![revive(file, file, "d/f", text("one"))]),
        world.log.write(vec![remove(at(V, "d/f"), None)]),
    ];
    let batch = entries.map(|entry| (entry, crate::view::Verdict::Allowed));
    let applied = world
        .view
        .apply_batch(&batch, aber_log::env::kv::KvBatch::default());
    applied.expect("works");
    assert_eq!(world.view.digest(), super::fold::digest_of_rows(&world.kv));
    assert_eq!(world.node("/v/d/f"), None);
}

#[test]
fn what_stands_or_is_to_come_is_not_revived() {
    let mut world = world();
    world.done(vec![put(at(V, "f"), "one")]); // 1
    world.done(vec![put(at(V, "gone"), "x")]); // 2
    world.done(vec![remove(at(V, "gone"), None)]); // 3
    let other = EventId {
        partition: PartitionId(2),
        ..id(1)
    };
    for (event, why) in [
        (revive(id(1), id(1), "g", text("")), Rejection::Exists),
        (revive(id(2), id(2), "f", text("")), Rejection::Exists),
        (revive(id(99), id(2), "g", text("")), Rejection::Malformed),
        (revive(id(2), id(99), "g", text("")), Rejection::Malformed),
        (revive(other, other, "g", text("")), Rejection::Malformed),
        (revive(id(2), id(2), "x/g", text("")), Rejection::NoParent),
        (
            revive(id(2), id(2), "", Revived::Directory),
            Rejection::Exists,
        ),
    ] {
        assert_eq!(world.refused(vec![event]), why);
    }
    world.done(vec![revive(id(2), id(2), "d", Revived::Directory)]);
    world.done(vec![put(at(V, "d/f"), "below")]);
}
