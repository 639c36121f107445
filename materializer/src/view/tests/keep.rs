//! Tags and retention: every rule, and that snapshots and the digest have them.

use super::membership::{installed, snapshot_of};
use crate::testing::{World, event, make_volume};
use crate::tree::ROOT;
use crate::view::{EventOutcome, Idle, Rejection, Tag};
use aber_proto::{Event, Operation, PartitionId, Retention, VolumeId, limit};

fn tag(name: &str, place: (u32, u64)) -> Event {
    event(Operation::SetTag {
        name: name.to_owned(),
        moment: [(PartitionId(place.0), place.1)].into(),
        comment: "why not".to_owned(),
    })
}

fn remove_tag(name: &str) -> Event {
    event(Operation::RemoveTag {
        name: name.to_owned(),
    })
}

fn retention(volume: VolumeId, retention: Retention) -> Event {
    event(Operation::SetRetention { volume, retention })
}

fn done(idle: Option<Idle>) -> [EventOutcome; 1] {
    [EventOutcome::Tag { idle }]
}

#[test]
fn a_tag_names_one_moment_until_it_is_removed() {
    let mut world = World::new(0);
    let made = world.done(vec![tag("v1", (1, 7))]);
    assert_eq!(made, done(None));
    let (known, author) = (world.tree().tag("v1"), world.log.change(vec![]).author);
    let known = known.expect("works").expect("is there");
    let expected = Tag {
        moment: [(PartitionId(1), 7)].into(),
        comment: "why not".to_owned(),
        author,
        made: 1,
        time: world.view.applied().order_time,
    };
    assert_eq!(known, expected);
    // Said again it is the same; another moment is another tag.
    assert_eq!(world.done(vec![tag("v1", (1, 7))]), done(Some(Idle::Same)));
    assert_eq!(world.refused(vec![tag("v1", (1, 8))]), Rejection::NameTaken);
    assert_eq!(world.tree().tag("v1"), Ok(Some(expected)));
    assert_eq!(world.refused(vec![remove_tag("v2")]), Rejection::TagUnknown);
    assert_eq!(world.done(vec![remove_tag("v1")]), done(None));
    assert_eq!(world.tree().tag("v1"), Ok(None));
    assert_eq!(world.done(vec![tag("v1", (1, 8))]), done(None));
    let names: Vec<_> = world.tree().tags().expect("works").into_keys().collect();
    assert_eq!(names, ["v1"]);
}

#[test]
fn b2_there_are_only_so_many_tags() {
    let mut world = World::new(0);
    let name = |number: usize| format!("t{number}");
    let all = (0..limit::TAGS).map(|number| tag(&name(number), (1, 1)));
    world.done(all.collect());
    let refused = world.refused(vec![tag("more", (1, 1))]);
    assert_eq!(refused, Rejection::TooManyTags);
    // One that is there takes no room, and one that goes makes some.
    assert_eq!(world.done(vec![tag("t0", (1, 1))]), done(Some(Idle::Same)));
    world.done(vec![remove_tag("t0"), tag("more", (1, 1))]);
    assert_eq!(world.tree().tags().expect("works").len(), limit::TAGS);
}

#[test]
fn a_volume_keeps_what_was_said_last() {
    let mut world = World::new(0);
    world.done(vec![make_volume("music", 1)]);
    let volume = world.tree().volumes().expect("works")[0].clone();
    let of = |world: &World, volume| world.tree().retention(volume).expect("works");
    assert_eq!(of(&world, volume.id), Retention::Forever);
    for kept in [
        Retention::Age(1),
        Retention::Versions(3),
        Retention::Size(0),
        Retention::Forever,
    ] {
        let outcome = world.done(vec![retention(volume.id, kept)]);
        assert_eq!(outcome, [EventOutcome::Done(volume.file)]);
        assert_eq!(of(&world, volume.id), kept);
        let again = world.done(vec![retention(volume.id, kept)]);
        assert_eq!(again, [EventOutcome::Idle(volume.file, Idle::Same)]);
    }
    let root = world.done(vec![retention(VolumeId::ROOT, Retention::Age(5))]);
    assert_eq!(root, [EventOutcome::Done(ROOT)]);
    assert_eq!(of(&world, VolumeId::ROOT), Retention::Age(5));
    let strange = retention(VolumeId(9 << 10), Retention::Age(1));
    assert_eq!(world.refused(vec![strange]), Rejection::NotFound);
}

/// M4: all nodes have the same tags and retention, those that start from a snapshot too.
#[test]
fn tags_and_retention_are_digested_and_in_snapshots() {
    let mut world = World::new(0);
    world.done(vec![make_volume("music", 1)]);
    let music = world.tree().volumes().expect("works")[0].id;
    let mut digests = vec![world.view.digest()];
    for change in [
        tag("v1", (1, 7)),
        retention(music, Retention::Versions(3)),
        retention(music, Retention::Versions(4)),
    ] {
        world.done(vec![change]);
        digests.push(world.view.digest());
    }
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 4);
    let (kv, view) = installed(&snapshot_of(&world.kv), 100);
    assert_eq!(kv.present_rows(), world.kv.present_rows());
    assert_eq!(view.digest(), world.view.digest());
}
