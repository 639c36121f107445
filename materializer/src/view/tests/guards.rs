//! CO-1 and what else holds for a change as a whole, in the world of `rules`.

use super::rules::{absent, etag, guarded, id, present, since, v, with_parents, world};
use crate::testing::{World, chmod, chunked, copy, event, put, remove, rename};
use crate::tree::Tree;
use crate::view::{EntryResult, EventOutcome, Idle, Rejection, Verdict};
use aber_proto::{Attributes, FileTime, Operation};

#[test]
fn tr_10_attributes_merge_and_make_no_version() {
    let mut world = world();
    let mtime = FileTime {
        seconds: -5,
        nanos: 7,
    };
    let touch = |path: &str| {
        event(Operation::SetAttributes {
            place: v(path),
            mode: None,
            mtime: Some(mtime),
        })
    };
    world.done(vec![chmod(v("g"), 0o640), touch("g")]);
    let node = world.tree().node(id(1, 4)).expect("works").expect("there");
    assert_eq!((node.mode, node.mtime), (0o640, mtime));
    assert_eq!((node.version, node.changed), (id(1, 4), 2));
    let same = [EventOutcome::Idle(id(1, 4), Idle::Same)];
    assert_eq!(world.done(vec![touch("g")]), same);
    let no_times = [EventOutcome::Idle(id(1, 0), Idle::Same)];
    assert_eq!(world.done(vec![touch("d")]), no_times);
    let no_mode = [EventOutcome::Idle(id(1, 2), Idle::Same)];
    assert_eq!(world.done(vec![chmod(v("d/s"), 0o600)]), no_mode);
    assert_eq!(world.refused(vec![touch("x")]), Rejection::NotFound);
    assert_eq!(world.refused(vec![touch("")]), Rejection::IsADirectory);
}

#[test]
fn co_1_guards_hold_on_every_operation() {
    let head = id(1, 4);
    let operations = |path: &str| {
        [
            put(v(path), "new"),
            remove(v(path), None),
            chmod(v(path), 0o600),
            rename(v(path), v("h"), false),
            copy(v(path), "new", true),
        ]
    };
    for operation in operations("g") {
        for (guard, verdict) in [
            (etag(head), None),
            (etag(id(1, 3)), Some(Rejection::Stale)),
            (absent(), Some(Rejection::Exists)),
            (since(1), None),
            (since(0), Some(Rejection::Stale)),
        ] {
            let event = guarded(operation.clone(), guard.clone());
            let mut world = world();
            match verdict {
                None => assert_eq!(world.done(vec![event]).len(), 1),
                Some(reason) => assert_eq!(world.refused(vec![event]), reason, "{guard:?}"),
            }
        }
    }
    for operation in operations("missing") {
        let event = guarded(operation, etag(head));
        assert_eq!(world().refused(vec![event]), Rejection::Stale);
    }
    let mut world = world();
    world.done(vec![guarded(put(v("new"), ""), absent())]);
    world.done(vec![guarded(put(v("new2"), ""), since(0))]);
    let below = guarded(remove(v("d"), Some(u64::MAX)), since(1));
    world.done(vec![put(v("d/f"), "two")]);
    assert_eq!(world.refused(vec![below]), Rejection::Stale);
    let all = guarded(remove(v(""), Some(u64::MAX)), since(3));
    assert_eq!(world.refused(vec![all]), Rejection::Stale);
}

#[test]
fn co_1_one_failing_event_rejects_the_whole_change() {
    let mut world = world();
    let before = world.view.digest();
    let (files, bytes) = (world.view.applied().files, world.view.applied().bytes);
    let events = vec![
        put(v("d/f"), "two"),
        rename(v("d"), v("e/d"), false),
        remove(v("e"), Some(u64::MAX)),
        with_parents(put(v("p/q/r"), "")),
        event(Operation::Put {
            place: v("big"),
            content: chunked(9, 5000),
            attributes: Attributes::default(),
            parents: false,
        }),
        guarded(put(v("g"), "x"), etag(id(9, 9))),
    ];
    let entry = world.log.write(events);
    let (result, effects) = world.apply(entry, Verdict::Allowed);
    match result {
        EntryResult::Rejected(rejected) => {
            assert_eq!(rejected.reason, Rejection::Stale);
            assert_eq!((rejected.event, rejected.place), (Some(5), Some(v("g"))));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(effects, []);
    assert_eq!(world.view.applied().files, files);
    assert_eq!(world.view.applied().bytes, bytes);
    assert_ne!(world.view.digest(), before, "the request is remembered");
    assert_eq!(present(&world, "d/f"), Some(id(1, 1)));
}

#[test]
fn files_and_bytes_are_counted_and_chunks_are_referenced() {
    let mut world = World::new(1);
    let big = |path: &str, seed, length| {
        event(Operation::Put {
            place: v(path),
            content: chunked(seed, length),
            attributes: Attributes::default(),
            parents: false,
        })
    };
    world.done(vec![
        big("a", 1, 5000),
        big("b", 2, 6000),
        put(v("c"), "xyz"),
    ]);
    assert_eq!(world.view.applied().files, 3);
    assert_eq!(world.view.applied().bytes, 11_003);
    world.done(vec![big("a", 3, 10), remove(v("b"), None)]);
    assert_eq!(
        (world.view.applied().files, world.view.applied().bytes),
        (2, 13)
    );
    let tree = world.tree();
    for (seed, known) in [(1, true), (2, true), (3, true), (4, false)] {
        let chunk = aber_proto::ChunkHash([seed; 32]);
        assert_eq!(tree.is_referenced(&chunk), Ok(known), "history is for ever");
    }
}
