//! TR-11: volumes, and what may stand at the root.

use crate::effect::Effect;
use crate::testing::{World, at, chmod, copy, event, make_dir, make_volume, put, remove, rename};
use crate::tree::NodeKind;
use crate::view::{EventOutcome, Idle, Rejection, Verdict};
use aber_proto::{Event, EventId, Operation, PartitionId, Precondition, VolumeId};

const MUSIC: VolumeId = VolumeId(1 << 10);

fn control(index: u64, ordinal: u32) -> EventId {
    EventId {
        partition: PartitionId::CONTROL,
        index,
        ordinal,
    }
}

fn rename_volume(volume: VolumeId, name: &str) -> Event {
    event(Operation::RenameVolume {
        volume,
        name: name.to_owned(),
    })
}

fn remove_volume(volume: VolumeId) -> Event {
    event(Operation::RemoveVolume { volume })
}

/// `/music` in partition 2, and a file `/note`.
fn world() -> World {
    let mut world = World::new(0);
    world.done(vec![make_volume("music", 2), put(at(0, "note"), "n")]);
    world
}

#[test]
fn tr_11_a_volume_is_made_once() {
    let mut world = world();
    let node = world.node("/music").expect("made");
    assert_eq!(node.kind, NodeKind::Volume(PartitionId(2)));
    assert_eq!(node.id, control(1, 0));
    let again = EventOutcome::Idle(node.id, Idle::Exists);
    assert_eq!(world.done(vec![make_volume("music", 3)]), [again]);
    let absent = Event {
        precondition: Precondition {
            absent: true,
            ..Precondition::default()
        },
        ..make_volume("music", 2)
    };
    assert_eq!(world.refused(vec![absent]), Rejection::Exists);
    assert_eq!(
        world.refused(vec![make_volume("note", 2)]),
        Rejection::Exists
    );
    assert_eq!(
        world.refused(vec![make_volume("x", 256)]),
        Rejection::Malformed
    );
    let volumes = world.tree().volumes().expect("works");
    assert_eq!(volumes.len(), 1);
    assert_eq!((volumes[0].id, volumes[0].name.as_str()), (MUSIC, "music"));
    assert_eq!(volumes[0].partition, PartitionId(2));
}

#[test]
fn tr_11_a_volume_is_renamed_and_removed_by_its_own_events_only() {
    let mut world = world();
    for event in [
        rename(at(0, "music"), at(0, "songs"), true),
        remove(at(0, "music"), Some(u64::MAX)),
        remove(at(0, ""), Some(u64::MAX)),
    ] {
        assert_eq!(world.refused(vec![event]), Rejection::CrossPartition);
    }
    for event in [
        put(at(0, "music"), ""),
        rename(at(0, "note"), at(0, "music"), true),
        copy(at(0, "music"), "", true),
    ] {
        assert_eq!(world.refused(vec![event]), Rejection::IsADirectory);
    }
    let taken = rename_volume(MUSIC, "note");
    assert_eq!(world.refused(vec![taken]), Rejection::NameTaken);
    let unknown = rename_volume(VolumeId(77), "x");
    assert_eq!(world.refused(vec![unknown]), Rejection::NotFound);
    let root = rename_volume(VolumeId::ROOT, "x");
    assert_eq!(world.refused(vec![root]), Rejection::NotFound);

    let entry = world.log.write(vec![rename_volume(MUSIC, "songs")]);
    let (_, effects) = world.apply(entry, Verdict::Allowed);
    assert_eq!(effects.len(), 1, "one entry, never a saga");
    assert_eq!(effects[0].dirty(), control(1, 0));
    assert_eq!(world.node("/music"), None);
    assert_eq!(world.node("/songs").expect("there").id, control(1, 0));
    let same = EventOutcome::Idle(control(1, 0), Idle::Same);
    assert_eq!(world.done(vec![rename_volume(MUSIC, "songs")]), [same]);

    world.done(vec![chmod(at(0, "songs"), 0o700)]);
    assert_eq!(world.node("/songs").expect("there").mode, 0o700);
    let entry = world.log.write(vec![remove_volume(MUSIC)]);
    let (_, effects) = world.apply(entry, Verdict::Allowed);
    let gone = Effect::RemoveVolume {
        file: control(1, 0),
        name: "songs".to_owned(),
    };
    assert_eq!(effects, [gone]);
    assert_eq!(world.tree().volumes(), Ok(Vec::new()));
    assert_eq!(
        world.refused(vec![remove_volume(MUSIC)]),
        Rejection::NotFound
    );
}

#[test]
fn tr_11_a_directory_at_the_root_must_be_a_volume() {
    let mut world = world();
    let plain = make_dir(at(0, "d"));
    assert_eq!(world.refused(vec![plain]), Rejection::NameNotAllowed);
    let implied = event(Operation::MakeDirectory {
        place: at(0, "d/e"),
        parents: true,
    });
    assert_eq!(world.refused(vec![implied]), Rejection::NoParent);
    // A volume may live in the control partition itself; its directories stay off the root too.
    world.done(vec![make_volume("admin", 0)]);
    let admin = world.tree().volumes().expect("works")[1].id;
    world.done(vec![
        make_dir(at(admin.0, "d")),
        put(at(admin.0, "d/f"), ""),
    ]);
    let out = rename(at(admin.0, "d"), at(0, "d"), false);
    assert_eq!(world.refused(vec![out]), Rejection::NameNotAllowed);
    world.done(vec![rename(at(admin.0, "d/f"), at(0, "f"), false)]);
    assert!(world.node("/f").is_some());
    assert_eq!(
        world.refused(vec![remove_volume(admin)]),
        Rejection::NotEmpty
    );
}

#[test]
fn a_path_through_a_volumes_name_is_not_of_the_control_partition() {
    let mut world = world();
    for event in [
        put(at(0, "music/x"), ""),
        make_dir(at(0, "music/x")),
        put(at(0, "note/x"), ""),
    ] {
        assert_eq!(world.refused(vec![event]), Rejection::NotADirectory);
    }
}

/// C8: no id of another node passes for a volume's.
#[test]
fn a_place_in_no_volume_of_the_control_partition_rejects() {
    let mut world = world();
    world.done(vec![make_volume("admin", 0)]);
    let admin = world.tree().volumes().expect("works")[1].id;
    world.done(vec![make_dir(at(admin.0, "d"))]);
    let directory = VolumeId::made_by(control(3, 0));
    let note = VolumeId::made_by(control(1, 1));
    for strange in [directory, note, VolumeId(u64::MAX)] {
        let event = put(at(strange.0, "x"), "");
        assert_eq!(world.refused(vec![event]), Rejection::NotFound);
    }
    let event = put(at(MUSIC.0, "x"), "");
    assert_eq!(world.refused(vec![event]), Rejection::CrossPartition);
}

#[test]
fn a_volume_outside_the_control_partition_is_no_change() {
    let mut world = World::new(1);
    let reason = world.refused(vec![make_volume("music", 2)]);
    assert_eq!(reason, Rejection::OtherCluster);
}
