//! What the mirror did not write is never lost.

use super::*;

/// MA-3: an edit, a new file and a foreign directory go to `lost+edits`; what was deleted or
/// changed in its mode comes back.
#[tokio::test(start_paused = true)]
async fn a_scan_repairs_the_mirror_and_keeps_what_is_foreign() {
    let mut world = World::new();
    let directory = world.tree.directory(ROOT, "d");
    for name in ["edited", "deleted", "mode", "same"] {
        let content = world.chunks.content(name.as_bytes());
        world.tree.file(directory, name, content);
    }
    world.start().expect("starts");
    world.apply(vec![]).await;
    {
        use aber_log::env::Disk;
        let disk = &world.env.disk;
        disk.state().user_writes("d/edited", b"my edit");
        disk.state().user_writes("new", b"my file");
        disk.make_dir("foreign".as_ref()).expect("made");
        disk.state().user_writes("foreign/deep", b"my deep file");
        disk.remove_file("d/deleted".as_ref()).expect("removed");
        disk.set_mode("d/mode".as_ref(), 0o777).expect("set");
        disk.state().user_writes("d/same", b"same");
    }
    world.scan().await;
    world.assert_equal("repaired");
    let lost: Vec<Vec<u8>> = [&b"my deep file"[..], b"my edit", b"my file"]
        .map(<[u8]>::to_vec)
        .to_vec();
    assert_eq!(world.lost(), lost);
    let status = world.handle().status.get();
    assert_eq!(status.stranger_count, 3, "{status:?}");
    assert!(
        status
            .notices
            .iter()
            .any(|notice| notice.path == "d/edited")
    );
}

/// DE-5: a hint has its path looked at after the settle time; lost hints have everything scanned.
#[tokio::test(start_paused = true)]
async fn a_hint_has_its_path_looked_at() {
    use aber_log::env::disk::Hint;
    let mut world = World::new();
    let directory = world.tree.directory(ROOT, "d");
    for name in ["f", "g"] {
        let content = world.chunks.content(b"ours");
        world.tree.file(directory, name, content);
    }
    world.start().expect("starts");
    world.apply(vec![]).await;
    world.env.disk.state().user_writes("d/f", b"edit one");
    world.env.disk.state().user_writes("d/g", b"edit two");
    let sender = world.env.disk.state().hints.clone().expect("watched");
    sender.send(Hint::Path("d/f".into())).await.expect("heard");
    world.wait(1000).await;
    assert_eq!(world.lost().len(), 0, "not yet settled");
    world.wait(2000).await;
    assert_eq!(world.lost(), [b"edit one".to_vec()]);
    sender.send(Hint::Everything).await.expect("heard");
    world.wait(100_000).await;
    assert_eq!(world.lost().len(), 2);
    world.assert_equal("repaired");
}

/// M3: an edited file that is then updated, moved, removed, or removed with its directory.
#[tokio::test(start_paused = true)]
async fn an_edit_survives_whatever_happens_to_its_path() {
    for case in 0..5 {
        let mut world = World::new();
        let directory = world.tree.directory(ROOT, "d");
        let file = world
            .tree
            .file(directory, "f", world.chunks.content(b"ours"));
        world.start().expect("starts");
        world.apply(vec![]).await;
        assert!(world.env.disk.state().user_writes("d/f", b"an edit"));
        let touched = match case {
            0 => world.tree.put(file, world.chunks.content(b"theirs")),
            1 => world.tree.rename(file, ROOT, "g"),
            2 => world.tree.remove(file),
            3 => world.tree.remove(directory),
            _ => world.tree.make(directory, "f", NodeKind::Directory),
        };
        world.apply(touched).await;
        world.assert_equal(&format!("case {case}"));
        assert_eq!(world.lost(), [b"an edit".to_vec()], "case {case}");
    }
}

/// A program that writes at random moments into the mirror; no finished byte of it is lost.
async fn hammered(seed: u64, dies_after: Option<u64>) {
    let (mut world, mut rng) = (World::new(), Rng(seed));
    for _ in 0..20 {
        world.mutate(&mut rng);
    }
    world.start().expect("starts");
    world.apply(vec![]).await;
    let written = Arc::new(Mutex::new(BTreeSet::<Vec<u8>>::new()));
    let (mine, mut dice) = (Arc::clone(&written), Rng(seed + 1));
    let names = ["a", "b", "a/a", "a/b", "b/a", "c", "c/a/b", "dd"];
    world.env.disk.intrude(move |state| {
        if !dice.one_in(4) {
            return;
        }
        let path = names[dice.below(names.len())];
        let bytes = format!("stranger {:x}", dice.next()).into_bytes();
        let old = state.bytes_at(path);
        if state.user_writes(path, &bytes) {
            let mut mine = mine.lock().expect("no panic");
            if let Some(old) = old {
                mine.remove(&old);
            }
            mine.insert(bytes);
        }
    });
    world.env.disk.state().rules.dies_after = dies_after;
    for _ in 0..6 {
        let mut touched = BTreeSet::new();
        for _ in 0..8 {
            touched.extend(world.mutate(&mut rng));
        }
        world.send(touched.into_iter().collect()).await;
        world.wait(3000).await;
        if !world.env.disk.is_alive() {
            world.env.disk.no_intruder();
            world.reboot();
            world.start().expect("starts again");
        }
    }
    world.env.disk.no_intruder();
    world.env.disk.state().rules.dies_after = None;
    if !world.env.disk.is_alive() {
        world.reboot();
        world.start().expect("starts again");
    }
    world.send(vec![]).await;
    world.wait(200_000).await;
    world.scan().await;
    world.wait(200_000).await;
    world.rest().await;
    world.assert_equal(&format!("seed {seed}, killed after {dies_after:?}"));
    let lost: BTreeSet<Vec<u8>> = world.lost().into_iter().collect();
    for bytes in written.lock().expect("no panic").iter() {
        assert!(
            lost.contains(bytes),
            "seed {seed}, killed after {dies_after:?}: {} is lost",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// M3, MA-2: a writer hammering during replaces, moves and removals.
#[tokio::test(start_paused = true)]
async fn a_hammering_writer_loses_nothing() {
    for seed in 0..50 {
        hammered(seed, None).await;
    }
}

/// M3, MA-2: the same, the mirror killed at any step.
#[tokio::test(start_paused = true)]
async fn a_hammering_writer_loses_nothing_when_the_mirror_is_killed() {
    for seed in 0..3 {
        for calls in 0..40 {
            hammered(seed, Some(calls * 3)).await;
        }
    }
}

/// M3, MA-2: an edit that slips in right before any call, the mirror killed one or two calls later:
/// what the exchange took out lies in `swap/` unseen, and is found at the start.
#[tokio::test(start_paused = true)]
async fn an_edit_just_before_a_kill_is_found_in_staging() {
    let mut edits = 0;
    for call in 0..14 {
        for later in 1..3 {
            let mut world = World::new();
            let file = world.tree.file(ROOT, "f", world.chunks.content(b"ours"));
            world.start().expect("starts");
            world.apply(vec![]).await;
            let ids = world.tree.put(file, world.chunks.content(b"theirs"));
            let mut left: i64 = call;
            let done = Arc::new(Mutex::new(false));
            let wrote = Arc::clone(&done);
            world.env.disk.intrude(move |state| {
                if left == 0 {
                    *wrote.lock().expect("no panic") = state.user_writes("f", b"an edit");
                }
                left -= 1;
            });
            world.env.disk.state().rules.dies_after = Some(call.unsigned_abs() + later);
            world.send(ids.clone()).await;
            world.rest().await;
            world.env.disk.no_intruder();
            world.reboot();
            world.start().expect("starts");
            world.apply(ids).await;
            world.scan().await;
            let what = format!("edit at call {call}, killed {later} later");
            world.assert_equal(&what);
            if *done.lock().expect("no panic") {
                edits += 1;
                assert_eq!(world.lost(), [b"an edit".to_vec()], "{what}");
            }
        }
    }
    assert!(edits > 10, "{edits} edits");
}
