//! Kills and power losses at every call.

use super::*;

async fn prepared(seed: u64) -> (World, Rng) {
    let (mut world, mut rng) = (World::new(), Rng(seed));
    for _ in 0..25 {
        world.mutate(&mut rng);
    }
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    world.assert_equal("prepared");
    (world, rng)
}

/// The same changes, killed at the n-th call; answers whether it died at all.
async fn killed_at(seed: u64, calls: u64, power: bool) -> bool {
    let (mut world, mut rng) = prepared(seed).await;
    let mut versions = world.versions();
    let mut touched = BTreeSet::new();
    for _ in 0..14 {
        touched.extend(world.mutate(&mut rng));
        versions.extend(world.versions());
    }
    world.env.disk.state().rules.dies_after = Some(calls);
    let before = world.handle().status.get().positions;
    world.send(touched.iter().copied().collect()).await;
    world.rest().await;
    let died = !world.env.disk.is_alive();
    world.reboot();
    if power {
        world.env.disk.lose_power(seed ^ calls);
        let back = rng.below(3);
        let mut states = world.env.kv.states.lock().expect("no panic");
        let keep = states.len().saturating_sub(back).max(1);
        states.truncate(keep);
    }
    let what = format!("seed {seed}, call {calls}, power {power}");
    for bytes in world.env.disk.shown() {
        assert!(versions.contains(&bytes), "{what}: a torn file");
    }
    world.start().await.expect(&what);
    let after = world.handle().status.get().positions;
    assert!(power || after >= before, "{what}: positions fell");
    // The node replays from the durable position.
    world.apply(touched.into_iter().collect()).await;
    world.rest().await;
    world.assert_equal(&what);
    if !power {
        assert!(world.lost().is_empty(), "{what}: {}", world.notes());
    }
    died
}

/// M1, M2, MA-1: killed at any call, a restart converges, and nothing is taken for a stranger.
#[tokio::test(start_paused = true)]
async fn killed_at_any_call_a_restart_converges() {
    let mut total = 0;
    for seed in 60..75 {
        let mut calls = 0;
        while killed_at(seed, calls, false).await {
            calls += 1;
        }
        total += calls;
    }
    assert!(total > 200, "{total} calls only");
}

/// M1, M2: after power loss every path is absent or whole, and a restart converges.
#[tokio::test(start_paused = true)]
async fn after_power_loss_at_any_call_a_restart_converges() {
    for seed in 310..322 {
        let mut calls = 0;
        while killed_at(seed, calls, true).await {
            calls += 1;
        }
    }
}

/// A call that fails stalls its path until it works; nothing is lost or doubled.
#[tokio::test(start_paused = true)]
async fn failing_calls_are_survived() {
    for seed in 20..40 {
        let (mut world, mut rng) = prepared(seed).await;
        world.env.disk.state().rules.fails_one_in = Some(9);
        for _ in 0..4 {
            let mut touched = BTreeSet::new();
            for _ in 0..10 {
                touched.extend(world.mutate(&mut rng));
            }
            world.send(touched.into_iter().collect()).await;
            world.wait(5000).await;
        }
        world.env.disk.state().rules.fails_one_in = None;
        world.wait(200_000).await;
        world.scan().await;
        world.wait(200_000).await;
        world.rest().await;
        world.assert_equal(&format!("seed {seed}"));
    }
}

/// B3: a full disk is said; with room again the mirror goes on by itself.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_and_survived() {
    let (mut world, mut rng) = prepared(3).await;
    world.env.disk.state().rules.room = Some(700);
    let ids: Vec<FileId> = (0..20)
        .map(|number| {
            let content = world.chunks.content(&world.random_bytes(&mut rng));
            world.tree.file(ROOT, &format!("new {number}"), content)
        })
        .collect();
    world.apply(ids).await;
    let status = world.handle().status.get();
    assert!(status.waiting_count > 0, "{status:?}");
    assert!(status.problem.expect("said").contains("write"));
    world.env.disk.state().rules.room = None;
    world.wait(120_000).await;
    world.assert_equal("room again");
    assert_eq!(world.handle().status.get().problem, None);
}
