//! One test a rule, in a data partition: volume 1024 is the first one of a control partition.

use crate::effect::Effect;
use crate::testing::{World, at, chmod, copy, event, make_dir, put};
use crate::testing::{remove, rename, symlink};
use crate::tree::{NodeKind, Tree};
use crate::view::{EntryResult, EventOutcome, Idle, Rejection, Verdict};
use aber_proto::{Content, Event, EventId, Operation, Place, Precondition};
use aber_proto::{PartitionId, limit};
use bytes::Bytes;

pub(super) const V: u64 = 1 << 10;

pub(super) fn v(path: &str) -> Place {
    at(V, path)
}

pub(super) fn id(index: u64, ordinal: u32) -> EventId {
    EventId {
        partition: PartitionId(1),
        index,
        ordinal,
    }
}

pub(super) fn guarded(event: Event, precondition: Precondition) -> Event {
    Event {
        precondition,
        ..event
    }
}

pub(super) fn etag(version: EventId) -> Precondition {
    Precondition {
        etag: Some(version),
        ..Precondition::default()
    }
}

pub(super) fn absent() -> Precondition {
    Precondition {
        absent: true,
        ..Precondition::default()
    }
}

pub(super) fn since(index: u64) -> Precondition {
    Precondition {
        unchanged_since: Some(index),
        ..Precondition::default()
    }
}

pub(super) fn with_parents(mut event: Event) -> Event {
    match &mut event.operation {
        Operation::Put { parents, .. }
        | Operation::MakeDirectory { parents, .. }
        | Operation::MakeSymlink { parents, .. } => *parents = true,
        _ => {}
    }
    event
}

/// A world with `d/`, `d/f`, `d/s` (a symlink), `e/` and `g`, made by entry 1.
pub(super) fn world() -> World {
    let mut world = World::new(1);
    world.done(vec![
        make_dir(v("d")),
        put(v("d/f"), "one"),
        symlink(v("d/s")),
        make_dir(v("e")),
        put(v("g"), "g"),
    ]);
    world
}

pub(super) fn present(world: &World, path: &str) -> Option<EventId> {
    let mut directory = EventId {
        partition: PartitionId::CONTROL,
        index: 1,
        ordinal: 0,
    };
    // The volume's node is in another partition, so walk its names by hand.
    let mut found = None;
    for name in path.split('/') {
        let key = crate::view::table::name_key(PartitionId(1), directory, name);
        let value = world.kv.rows().get(key.as_slice())?.clone();
        let row = <crate::view::table::NameRow as crate::view::table::Row>::decode(&key, &value);
        directory = row.expect("a good row").id;
        found = Some(directory);
    }
    found
}

#[test]
fn tr_1_make_dir_on_a_directory_does_nothing_unless_it_must_be_absent() {
    let mut world = world();
    let outcome = EventOutcome::Idle(id(1, 0), Idle::Exists);
    assert_eq!(world.done(vec![make_dir(v("d"))]), [outcome]);
    let root = EventId {
        partition: PartitionId::CONTROL,
        index: 1,
        ordinal: 0,
    };
    let outcome = EventOutcome::Idle(root, Idle::Exists);
    assert_eq!(world.done(vec![make_dir(v(""))]), [outcome]);
    for path in ["d", ""] {
        let event = guarded(make_dir(v(path)), absent());
        assert_eq!(world.refused(vec![event]), Rejection::Exists);
    }
    assert_eq!(world.refused(vec![make_dir(v("g"))]), Rejection::Exists);
    assert_eq!(world.refused(vec![make_dir(v("d/s"))]), Rejection::Exists);
}

#[test]
fn tr_1_missing_parents_are_made_only_when_asked() {
    let mut world = world();
    for event in [
        put(v("x/y/z"), ""),
        make_dir(v("x/y/z")),
        symlink(v("x/y/z")),
    ] {
        assert_eq!(world.refused(vec![event.clone()]), Rejection::NoParent);
    }
    assert_eq!(
        world.refused(vec![copy(v("x/y"), "", false)]),
        Rejection::NoParent
    );
    assert_eq!(
        world.refused(vec![rename(v("g"), v("x/y"), false)]),
        Rejection::NoParent
    );
    let entry = world.log.write(vec![
        make_dir(v("x")),
        with_parents(put(v("x/1/2/3"), "")),
        with_parents(make_dir(v("x/1/4/5"))),
    ]);
    let index = world.log.index;
    let (result, effects) = world.apply(entry, Verdict::Allowed);
    assert!(matches!(result, EntryResult::Applied(_)), "{result:?}");
    let made: Vec<_> = effects.iter().map(Effect::dirty).collect();
    let expected = [
        id(index, 0),
        id(index, 1 | 1 << 10),
        id(index, 1 | 2 << 10),
        id(index, 1),
        id(index, 2 | 1 << 10),
        id(index, 2),
    ];
    assert_eq!(made, expected);
    assert_eq!(present(&world, "x/1/4/5"), Some(id(index, 2)));
    assert_eq!(present(&world, "x/1/2/3"), Some(id(index, 1)));
}

#[test]
fn a_name_on_the_way_that_is_no_directory_rejects() {
    for event in [
        put(v("g/x"), ""),
        with_parents(put(v("d/s/x/y"), "")),
        make_dir(v("g/x")),
        rename(v("d"), v("g/x"), true),
        rename(v("g/x"), v("h"), true),
        remove(v("g/x"), None),
        chmod(v("g/x"), 0),
    ] {
        assert_eq!(world().refused(vec![event]), Rejection::NotADirectory);
    }
}

#[test]
fn a_put_makes_the_next_version_of_the_same_file() {
    let mut world = world();
    world.done(vec![chmod(v("g"), 0o600)]);
    let outcome = world.done(vec![put(v("g"), "two")]);
    assert_eq!(outcome, [EventOutcome::Done(id(1, 4))]);
    let node = world.tree().node(id(1, 4)).expect("works").expect("there");
    assert_eq!(node.version, id(3, 0));
    assert_eq!(node.previous, Some(id(1, 4)));
    assert_eq!((node.mode, node.changed), (0o600, 3));
    assert_eq!(
        node.kind,
        NodeKind::File(Content::Inline(Bytes::from_static(b"two")))
    );
    for path in ["d", ""] {
        assert_eq!(
            world.refused(vec![put(v(path), "")]),
            Rejection::IsADirectory
        );
    }
}

#[test]
fn tr_9_a_change_of_type_is_a_remove_and_a_make_in_one_change() {
    let mut world = world();
    assert_eq!(world.refused(vec![put(v("d/s"), "")]), Rejection::Exists);
    assert_eq!(world.refused(vec![symlink(v("g"))]), Rejection::Exists);
    assert_eq!(world.refused(vec![symlink(v("d/s"))]), Rejection::Exists);
    let changes = [
        ("d/s", put(v("d/s"), "")),
        ("d/s", make_dir(v("d/s"))),
        ("d/s", symlink(v("d/s"))),
        ("g", make_dir(v("g"))),
        ("g", put(v("g"), "")),
        ("g", symlink(v("g"))),
    ];
    for (path, make) in changes {
        let outcomes = world.done(vec![remove(v(path), None), make]);
        let new = id(world.log.index, 1);
        assert_eq!(outcomes[1], EventOutcome::Done(new));
        assert_eq!(present(&world, path), Some(new));
    }
}

#[test]
fn tr_2_a_rename_keeps_the_id_and_moves_what_lies_below() {
    let mut world = world();
    let entry = world.log.write(vec![rename(v("d"), v("e/d2"), false)]);
    let (_, effects) = world.apply(entry, Verdict::Allowed);
    assert_eq!(effects.len(), 1, "one effect, whatever lies below");
    assert_eq!(present(&world, "d"), None);
    assert_eq!(present(&world, "e/d2"), Some(id(1, 0)));
    assert_eq!(present(&world, "e/d2/f"), Some(id(1, 1)));
    let node = world.tree().node(id(1, 0)).expect("works").expect("there");
    assert_eq!((node.name.as_str(), node.changed), ("d2", 2));
    assert_eq!(node.version, id(1, 0), "a rename makes no version");
}

#[test]
fn tr_2_the_target_must_be_free_unless_replaced_or_named() {
    let mut world = world();
    let blind = rename(v("g"), v("d/f"), false);
    assert_eq!(world.refused(vec![blind]), Rejection::Exists);
    let named = |version| {
        event(Operation::Rename {
            from: v("g"),
            to: v("d/f"),
            replace: false,
            target: etag(version),
        })
    };
    assert_eq!(world.refused(vec![named(id(9, 9))]), Rejection::Stale);
    world.done(vec![named(id(1, 1))]);
    assert_eq!(present(&world, "d/f"), Some(id(1, 4)));
    assert_eq!(
        world.tree().node(id(1, 1)),
        Ok(None),
        "the replaced is gone"
    );
    world.done(vec![rename(v("d/f"), v("d/s"), true)]);
    assert_eq!(present(&world, "d/s"), Some(id(1, 4)));
    let onto = rename(v("d/s"), v("e"), true);
    assert_eq!(world.refused(vec![onto]), Rejection::IsADirectory);
    let onto = rename(v("e"), v("d/s"), true);
    assert_eq!(world.refused(vec![onto]), Rejection::NotADirectory);
    let onto = rename(v("e"), v(""), true);
    assert_eq!(world.refused(vec![onto]), Rejection::IsADirectory);
    let missing = rename(v("x"), v("y"), true);
    assert_eq!(world.refused(vec![missing]), Rejection::NotFound);
    let same = EventOutcome::Idle(id(1, 0), Idle::Same);
    assert_eq!(world.done(vec![rename(v("d"), v("d"), false)]), [same]);
}

#[test]
fn tr_3_a_directory_never_moves_into_itself() {
    for to in ["d/x", "d/x/y"] {
        let event = rename(v("d"), v(to), true);
        assert_eq!(world().refused(vec![event]), Rejection::Cycle);
    }
    let mut world = world();
    world.done(vec![rename(v("e"), v("d/e"), false)]);
    let event = rename(v("d"), v("d/e/d"), false);
    assert_eq!(world.refused(vec![event]), Rejection::Cycle);
}

/// A path of so many one-letter names.
fn deep(depth: usize) -> String {
    vec!["n"; depth].join("/")
}

#[test]
fn tr_3_a_rename_rejects_when_a_descendant_would_be_too_deep_or_too_long() {
    let mut world = world();
    let most = limit::PATH_DEPTH - 1;
    world.done(vec![with_parents(make_dir(v(&deep(most))))]);
    let longer = rename(v("n"), v("d/n"), false);
    assert_eq!(world.refused(vec![longer]), Rejection::PathTooDeep);
    // The known bound is too high for `e`, which is empty: the exact walk finds that it fits.
    let fits = rename(v("e"), v(&format!("{}/e", deep(most - 1))), false);
    world.done(vec![fits]);

    let name = "x".repeat(limit::NAME_BYTES);
    let long = vec![name.as_str(); 15].join("/");
    assert_eq!(long.len(), 3839);
    world.done(vec![with_parents(put(v(&long), ""))]);
    let one_more = put(v(&format!("{}/{}y", &long[..3583], &name[1..])), "");
    world.done(vec![one_more]);
    let moved = rename(v(&name), v("d/m"), false);
    world.done(vec![moved]);
    let back = rename(v("d/m"), v(&format!("d/{name}")), false);
    assert_eq!(world.refused(vec![back]), Rejection::PathTooLong);
    let over = put(v(&format!("{long}/y")), "");
    let mut fresh = World::new(1);
    assert_eq!(
        fresh.refused(vec![with_parents(over)]),
        Rejection::PathTooLong
    );
}

#[test]
fn tr_7_a_copy_is_a_new_file() {
    let mut world = world();
    let to_new = copy(v("e/c"), "copied", false);
    assert_eq!(world.done(vec![to_new]), [EventOutcome::Done(id(2, 0))]);
    let blind = copy(v("g"), "copied", false);
    assert_eq!(world.refused(vec![blind]), Rejection::Exists);
    world.done(vec![copy(v("g"), "copied", true)]);
    assert_eq!(present(&world, "g"), Some(id(4, 0)), "not the old id");
    world.done(vec![guarded(copy(v("g"), "c", false), etag(id(4, 0)))]);
    assert_eq!(present(&world, "g"), Some(id(5, 0)));
    let onto = copy(v("d"), "copied", true);
    assert_eq!(world.refused(vec![onto]), Rejection::IsADirectory);
}

#[test]
fn tr_8_a_plain_remove_of_a_full_directory_rejects() {
    let mut world = world();
    assert_eq!(
        world.refused(vec![remove(v("d"), None)]),
        Rejection::NotEmpty
    );
    assert_eq!(
        world.refused(vec![remove(v(""), None)]),
        Rejection::NotEmpty
    );
    assert_eq!(
        world.refused(vec![remove(v("x"), None)]),
        Rejection::NotFound
    );
    world.done(vec![remove(v("e"), None), remove(v("g"), None)]);
    assert_eq!(present(&world, "e"), None);
    assert_eq!(world.view.applied().files, 1);
}

#[test]
fn tr_8_a_recursive_remove_keeps_what_is_newer_and_its_ancestors() {
    let mut world = world();
    world.done(vec![make_dir(v("d/sub")), put(v("d/sub/old"), "")]);
    world.done(vec![put(v("d/sub/new"), ""), chmod(v("d/s"), 0o600)]);
    let entry = world.log.write(vec![remove(v("d"), Some(2))]);
    let (result, effects) = world.apply(entry, Verdict::Allowed);
    let done = EntryResult::Applied(vec![EventOutcome::Done(id(1, 0))]);
    assert_eq!(result, done);
    let gone: Vec<_> = effects.iter().map(Effect::dirty).collect();
    assert_eq!(gone, [id(1, 1), id(1, 2), id(2, 1)]);
    assert!(present(&world, "d/sub/new").is_some());
    let idle = EventOutcome::Idle(id(1, 0), Idle::Newer);
    assert_eq!(world.done(vec![remove(v("d"), Some(2))]), [idle]);
    world.done(vec![remove(v("d"), Some(3))]);
    assert_eq!(present(&world, "d"), None);
}

#[test]
fn tr_8_what_was_moved_in_after_the_base_stays_whole() {
    let mut world = world();
    world.done(vec![rename(v("d"), v("e/d"), false)]);
    world.done(vec![remove(v("e"), Some(1))]);
    assert_eq!(present(&world, "e/d/f"), Some(id(1, 1)));
    world.done(vec![remove(v("e"), Some(2))]);
    assert_eq!(present(&world, "e"), None);
    assert_eq!(present(&world, "g"), Some(id(1, 4)));
}

#[test]
fn a_volume_is_emptied_by_a_recursive_remove_of_its_root() {
    let mut world = world();
    world.done(vec![put(v("new"), "")]);
    world.done(vec![remove(v(""), Some(1))]);
    assert!(present(&world, "new").is_some());
    assert_eq!(present(&world, "d"), None);
    world.done(vec![remove(v(""), Some(2))]);
    let root = EventId {
        partition: PartitionId::CONTROL,
        index: 1,
        ordinal: 0,
    };
    let idle = EventOutcome::Idle(root, Idle::Same);
    assert_eq!(world.done(vec![remove(v(""), None)]), [idle]);
    assert_eq!(
        (world.view.applied().files, world.view.applied().bytes),
        (0, 0)
    );
}

#[test]
fn a_place_at_the_root_belongs_to_the_control_partition() {
    let event = put(at(0, "x"), "");
    assert_eq!(world().refused(vec![event]), Rejection::CrossPartition);
}
