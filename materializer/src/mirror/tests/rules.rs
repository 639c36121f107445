//! Rules of the semantics, one by one.

use super::*;
use aber_log::env::Disk;

/// A6: a missing chunk stalls its path alone, and positions move on; it comes, the path follows.
#[tokio::test(start_paused = true)]
async fn a_missing_chunk_stalls_its_path_alone() {
    let mut world = World::new();
    world.start().await.expect("starts");
    let content = world.chunks.content(&[1; 350]);
    let gone = content.rows()[2].hash;
    world.chunks.missing.lock().expect("no panic").insert(gone);
    let file = world.tree.file(ROOT, "big", content);
    let other = world
        .tree
        .file(ROOT, "other", world.chunks.content(b"other"));
    world.apply(vec![file, other]).await;
    let status = world.handle().status.get();
    assert_eq!(status.waiting_count, 1);
    assert_eq!(status.waiting[0].path, "big");
    // Who asks for what is shown is not told that all of it is.
    let (position, complete) = (status.positions[&PARTITION], status.complete[&PARTITION]);
    assert!(complete < position, "{complete} of {position}");
    assert_eq!(world.shown().keys().next(), Some(&PathBuf::from("other")));
    // The wait is durable.
    world.reboot();
    world.start().await.expect("starts");
    let status = world.handle().status.get();
    assert_eq!(status.waiting_count, 1);
    assert_eq!(status.complete[&PARTITION], complete);
    world.wait(30_000).await;
    world.chunks.missing.lock().expect("no panic").clear();
    world.wait(120_000).await;
    world.assert_equal("the chunk came");
    let status = world.handle().status.get();
    assert_eq!(status.waiting_count, 0);
    assert_eq!(status.complete, status.positions);
}

/// FO-3: with the rows gone, what is right is taken over, not written again.
#[tokio::test(start_paused = true)]
async fn without_its_rows_an_equal_directory_is_adopted() {
    let (mut world, mut rng) = (World::new(), Rng(5));
    for _ in 0..60 {
        world.mutate(&mut rng);
    }
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    let inodes = |world: &World| -> Vec<u64> {
        let paths = world.shown();
        let stat = |path: &PathBuf| world.env.disk.stat(path).expect("there").inode;
        paths.keys().map(stat).collect()
    };
    let before = inodes(&world);
    world.reboot();
    *world.env.kv.states.lock().expect("no panic") = vec![BTreeMap::new()];
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    world.assert_equal("adopted");
    assert_eq!(inodes(&world), before);
    assert_eq!(world.handle().status.get().stranger_count, 0);
}

/// FO-2: a marker that is missing or foreign stops the mirror; nothing is written.
#[tokio::test(start_paused = true)]
async fn a_missing_or_foreign_marker_stops_the_mirror() {
    let mut world = World::new();
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    world.reboot();
    world.options.marker = "another".into();
    let refused = world.start().await;
    assert!(matches!(
        refused,
        Err(MirrorProblem::Marker { found: Some(_), .. })
    ));
    world.options.marker = "cluster folder epoch".into();
    world.start().await.expect("starts");
    world
        .env
        .disk
        .remove_file(".aber/marker".as_ref())
        .expect("removed");
    world.handle().scan().await;
    world.wait(100).await;
    let status = world.handle().status.get();
    assert!(status.stopped && status.problem.is_some(), "{status:?}");
    world.reboot();
    let refused = world.start().await;
    assert!(matches!(
        refused,
        Err(MirrorProblem::Marker { found: None, .. })
    ));
}

/// LI-2, LI-3: a link that is not portable is not made; a move of its directory tests it again.
#[tokio::test(start_paused = true)]
async fn links_are_tested_again_when_a_directory_above_them_moves() {
    let mut world = World::new();
    let p = world.tree.directory(ROOT, "p");
    let r = world.tree.directory(p, "r");
    let link = |name: &str, target: &str| {
        let kind = NodeKind::Symlink(target.into());
        *world.tree.make(r, name, kind).last().expect("one")
    };
    let deep = link("deep", "../../x");
    let fine = link("fine", "y");
    let absolute = link("absolute", "/etc");
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    let is_there = |world: &World, path: &str| world.env.disk.stat(path.as_ref()).is_ok();
    assert!(is_there(&world, "p/r/deep") && is_there(&world, "p/r/fine"));
    assert!(!is_there(&world, "p/r/absolute"));
    assert_eq!(world.handle().status.get().unmaterialisable_count, 1);
    let ids = world.tree.rename(r, ROOT, "r");
    world.apply(ids).await;
    assert!(!is_there(&world, "r/deep") && is_there(&world, "r/fine"));
    assert_eq!(world.handle().status.get().unmaterialisable_count, 2);
    let ids = world.tree.rename(r, p, "back");
    world.apply(ids).await;
    assert!(is_there(&world, "p/back/deep"));
    assert_eq!(world.handle().status.get().unmaterialisable_count, 1);
    assert_eq!(world.handle().status.get().stranger_count, 0);
    world.tree.remove(absolute);
    world.apply(vec![absolute, deep, fine]).await;
    world.assert_equal("the bad one is gone");
}

/// NA-8: a name the disk does not take is one path's state; with another name it appears.
#[tokio::test(start_paused = true)]
async fn a_name_too_long_for_the_disk_is_that_paths_state() {
    let mut world = World::new();
    world.env.disk.state().rules.name_max = Some(143);
    let long = "x".repeat(150);
    let directory = world.tree.directory(ROOT, &long);
    let inner = world.tree.file(directory, "f", world.chunks.content(b"in"));
    let file = world.tree.file(ROOT, "fine", world.chunks.content(b"fine"));
    world.start().await.expect("starts");
    world.apply(vec![directory, inner, file]).await;
    let status = world.handle().status.get();
    assert_eq!(status.unmaterialisable_count, 1, "{status:?}");
    assert_eq!(world.shown().len(), 1);
    let ids = world.tree.rename(directory, ROOT, "short");
    world.apply(ids).await;
    world.assert_equal("with a shorter name");
    let ids = world.tree.rename(directory, ROOT, &long);
    world.apply(ids).await;
    assert_eq!(world.shown().len(), 1, "too long again");
    assert_eq!(world.lost().len(), 0);
}

/// NA-3, NA-4: on a disk that folds case, a collision is said and nothing is overwritten; a
/// case-only rename is one rename.
#[tokio::test(start_paused = true)]
async fn a_collision_on_a_folding_disk_is_said() {
    let mut world = World::new();
    world.env.disk.state().rules.folds_case = true;
    let first = world.tree.file(ROOT, "a", world.chunks.content(b"first"));
    let second = world.tree.file(ROOT, "A", world.chunks.content(b"second"));
    world.start().await.expect("starts");
    world.apply(vec![first, second]).await;
    let status = world.handle().status.get();
    assert_eq!(status.unmaterialisable_count, 1, "{status:?}");
    assert_eq!(status.stranger_count, 0, "{status:?}");
    assert_eq!(world.shown().len(), 1);
    let mut ids = world.tree.remove(second);
    ids.extend(world.tree.rename(first, ROOT, "A"));
    world.apply(ids).await;
    world.assert_equal("only its case changed");
}

/// MA-7, NA-1: a name that must not reach a disk never does.
#[tokio::test(start_paused = true)]
async fn names_that_lead_elsewhere_are_not_materialised() {
    let mut world = World::new();
    for name in ["..", ".", "a/b", ".ABER", ""] {
        world.tree.file(ROOT, name, world.chunks.content(b"bad"));
    }
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    assert_eq!(world.shown().len(), 0);
    assert_eq!(world.handle().status.get().unmaterialisable_count, 5);
}

/// A volume that appears after its content shows all of it.
#[tokio::test(start_paused = true)]
async fn content_waits_for_its_volume() {
    let mut world = World::new();
    world.start().await.expect("starts");
    let volume = world.tree.tick();
    let directory = world.tree.directory(volume, "d");
    let file = world.tree.file(directory, "f", world.chunks.content(b"f"));
    world.apply(vec![directory, file]).await;
    assert_eq!(world.shown().len(), 0);
    let mut node = world.tree.nodes()[&directory].clone();
    (node.id, node.parent, node.name) = (volume, ROOT, "v".into());
    node.kind = NodeKind::Volume(PARTITION);
    world.tree.nodes().insert(volume, node);
    world.apply(vec![volume]).await;
    world.assert_equal("the volume is there");
}
