//! The world seen through `aber_log::env`, as a node sees it.

use super::disk_fault::{Call, FailRule, Failure};
use super::disk_image::New;
use super::fault::Swarm;
use super::outsider::{Rot, Shown};
use super::run::{Report, RunOptions, Tally, run_with};
use super::{Crash, SimEnv, World};
use crate::scenario;
use aber_log::env::disk::{File, Hint, Open, Space, ensure_dir, read_small, write_small};
use aber_log::env::network::{Link, LinkClass, LinkProblem, Network};
use aber_log::env::{Disk, Env, Runtime};
use aber_proto::NodeId;
use bytes::Bytes;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Runs `body` in a calm world of two nodes.
fn in_world(seed: u64, body: impl AsyncFnOnce(&World)) -> Report {
    let options = RunOptions {
        seed,
        ..RunOptions::default()
    };
    let report = run_with(&options, Swarm::calm(2), async |world, _| {
        world.add_node(ONE);
        world.add_node(TWO);
        body(&world).await;
        Tally::default()
    });
    assert!(report.is_well(), "{:?}\n{}", report.failures, report.recent);
    report
}

async fn reboot(world: &World, node: NodeId, crash: Crash) -> SimEnv {
    world.crash(node, crash).await;
    world.boot(node).unwrap()
}

fn plan(world: &World, node: NodeId, calls: &[Call], after: u64, failure: Failure) {
    let machine = world.machine(node);
    let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
    machine.faults.fail(FailRule {
        calls: calls.to_vec(),
        prefix: String::new(),
        after,
        failure,
        times: 1,
    });
}

async fn append(env: &SimEnv, path: &str, bytes: &[u8], is_synced: bool) -> std::io::Result<()> {
    let file = match env.disk().open(Path::new(path), Open::Write) {
        Ok(file) => file,
        Err(_) => env.disk().open(Path::new(path), Open::CreateNew)?,
    };
    file.write_at(bytes, file.stat()?.size)?;
    if is_synced {
        file.sync().await?;
        env.disk().sync_dir(Path::new("")).await?;
    }
    Ok(())
}

/// Promise D1: a power cut takes only what was not synced; promise D6 rests on it.
#[test]
fn a_crash_loses_only_unsynced_data() {
    let mut lost = 0;
    for seed in 0..30 {
        in_world(seed, async |world| {
            let env = world.boot(ONE).unwrap();
            append(&env, "log", b"synced.", true).await.unwrap();
            append(&env, "log", b"maybe.", false).await.unwrap();
            append(&env, "other", b"maybe", false).await.unwrap();
            let env = reboot(world, ONE, Crash::Process).await;
            let log = read_small(env.disk(), Path::new("log"), 100).unwrap();
            assert_eq!(log, b"synced.maybe.", "the page cache outlives a process");
            let env = reboot(world, ONE, Crash::Power).await;
            let log = read_small(env.disk(), Path::new("log"), 100).unwrap();
            assert!(log.starts_with(b"synced."));
            lost += usize::from(log != b"synced.maybe.");
            let other = read_small(env.disk(), Path::new("other"), 100);
            lost += usize::from(other.is_err());
        });
    }
    assert!(
        lost > 20,
        "a world that forgets nothing tests nothing: {lost}"
    );
}

#[test]
fn whole_small_files_are_old_or_new_after_any_death() {
    for calls in 0..8 {
        in_world(calls, async |world| {
            let env = world.boot(ONE).unwrap();
            write_small(env.disk(), Path::new("f"), b"old")
                .await
                .unwrap();
            let machine = world.machine(ONE);
            machine.lock().unwrap().faults.die_after(calls);
            let (there, written) = (env.clone(), env.clone());
            let task = env.life().spawn(async move {
                let disk = written.disk();
                write_small(disk, Path::new("f"), b"new").await.is_ok()
            });
            let is_acked = task.await.unwrap_or(false);
            drop(there);
            let env = reboot(world, ONE, Crash::Power).await;
            let bytes = read_small(env.disk(), Path::new("f"), 100).unwrap();
            assert!(
                bytes == b"new" || (bytes == b"old" && !is_acked),
                "{bytes:?}"
            );
        });
    }
}

#[test]
fn handles_of_a_dead_boot_change_nothing() {
    in_world(1, async |world| {
        let env = world.boot(ONE).unwrap();
        let file = env.disk().open(Path::new("f"), Open::CreateNew).unwrap();
        let index = env.open_index().unwrap();
        world.kill(ONE, "test");
        assert!(file.write_at(b"late", 0).is_err());
        assert!(env.disk().make_dir(Path::new("d")).is_err());
        assert!(aber_log::env::Kv::get(&index, b"k").is_err());
        let env = reboot(world, ONE, Crash::Process).await;
        assert!(file.sync().await.is_err());
        assert_eq!(env.disk().stat(Path::new("f")).unwrap().size, 0);
        assert_eq!(env.disk().list(Path::new("")).unwrap().len(), 1);
    });
}

/// Promise D4: a sync that failed fails once; the next one is a lie.
#[test]
fn planned_failures_strike_once() {
    in_world(1, async |world| {
        let env = world.boot(ONE).unwrap();
        append(&env, "f", b"1", true).await.unwrap();
        plan(world, ONE, &[Call::Sync], 0, Failure::Io);
        assert!(append(&env, "f", b"2", true).await.is_err());
        append(&env, "f", b"", true).await.unwrap();
        let env = reboot(world, ONE, Crash::Power).await;
        let bytes = read_small(env.disk(), Path::new("f"), 10).unwrap();
        assert_ne!(bytes, b"12");
        plan(world, ONE, &[Call::Write], 1, Failure::NoSpace);
        append(&env, "g", b"1", true).await.unwrap();
        let full = append(&env, "g", b"2", true).await.unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    });
}

/// Promise B3.
#[test]
fn a_full_disk_refuses_and_room_comes_back() {
    in_world(1, async |world| {
        let machine = world.machine(ONE);
        machine.lock().unwrap().faults.capacity_bytes = 64 << 10;
        let env = world.boot(ONE).unwrap();
        append(&env, "f", &[1; 40 << 10], true).await.unwrap();
        assert!(append(&env, "g", &[1; 40 << 10], true).await.is_err());
        let folder = env.open_folder(Path::new("/home/folder")).unwrap();
        // A write that fails may have written a part.
        let Space { free_bytes, .. } = env.disk().space().unwrap();
        assert!(free_bytes <= 24 << 10);
        assert_eq!(
            folder.space().unwrap().free_bytes,
            free_bytes,
            "the room is the machine's"
        );
        env.disk().remove_file(Path::new("g")).unwrap();
        env.disk().remove_file(Path::new("f")).unwrap();
        append(&env, "g", &[1; 40 << 10], true).await.unwrap();
    });
}

#[test]
fn folders_survive_restarts_and_have_devices_of_their_own() {
    in_world(1, async |world| {
        let env = world.boot(ONE).unwrap();
        let path = Path::new("/home/folder");
        let folder = env.open_folder(path).unwrap();
        folder.make_dir(Path::new("d")).unwrap();
        ensure_dir(&folder, Path::new("d")).unwrap();
        folder.sync_all().await.unwrap();
        env.disk().make_dir(Path::new("own")).unwrap();
        let stat = |disk: &super::disk::SimDisk| disk.stat(Path::new("")).unwrap().device;
        assert_ne!(stat(&folder), stat(env.disk()));
        let nested = env.open_folder(&path.join("d")).unwrap();
        nested.make_dir(Path::new("e")).unwrap();
        assert!(folder.stat(Path::new("d/e")).is_ok());
        let env = reboot(world, ONE, Crash::Power).await;
        assert!(env.open_folder(path).unwrap().stat(Path::new("d")).is_ok());
    });
}

/// Rule DE-5: hints come for what users change; the overflow folds into one.
#[test]
fn users_changes_are_hinted_and_too_many_fold_into_everything() {
    in_world(1, async |world| {
        let machine = world.machine(ONE);
        machine.lock().unwrap().faults.hint_permille = 1000;
        let env = world.boot(ONE).unwrap();
        let top = Path::new("/home/folder");
        let folder = env.open_folder(top).unwrap();
        let mut hints = folder.hints(2).unwrap();
        for name in ["a", "b", "c", "d"] {
            world
                .outsider_write(ONE, top, Path::new(name), b"user")
                .unwrap();
        }
        let heard: Vec<Hint> = std::iter::from_fn(|| hints.try_recv().ok()).collect();
        let path = |name: &str| Hint::Path(name.into());
        assert_eq!(heard, [path("a"), path("b"), Hint::Everything]);
        assert_eq!(read_small(&folder, Path::new("a"), 10).unwrap(), b"user");
        world
            .outsider_make(ONE, top, Path::new("fifo"), New::Special)
            .unwrap();
        world
            .outsider_rename(ONE, top, (Path::new("a"), Path::new("z")))
            .unwrap();
        world.outsider_remove(ONE, top, Path::new("b")).unwrap();
        let is_left_out = |path: &Path| path == Path::new("c");
        let shown = world.outsider_tree(ONE, top, is_left_out).unwrap();
        let names: Vec<_> = shown.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["d", "fifo", "z"]);
        assert_eq!(shown[Path::new("fifo")], Shown::Special);
        let fifo = folder.open(Path::new("fifo"), Open::Read).map(drop);
        assert_eq!(fifo.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    });
}

#[test]
fn rot_old_copies_and_wiped_disks_are_seen_after_a_restart() {
    in_world(1, async |world| {
        let env = world.boot(ONE).unwrap();
        write_small(env.disk(), Path::new("f"), b"first")
            .await
            .unwrap();
        let copy = world.copy_disks(ONE);
        write_small(env.disk(), Path::new("f"), b"second")
            .await
            .unwrap();
        assert!(world.rot(ONE, "g", Rot::Flip).is_none());
        world.rot(ONE, "f", Rot::Flip).unwrap();
        let read = |env: &SimEnv| read_small(env.disk(), Path::new("f"), 100);
        let bytes = read(&env).unwrap();
        assert!(bytes != b"second" && bytes.len() == 6);
        world.crash(ONE, Crash::Power).await;
        world.restore_disks(ONE, copy);
        assert_eq!(read(&world.boot(ONE).unwrap()).unwrap(), b"first");
        world.crash(ONE, Crash::Power).await;
        world.wipe_disks(ONE);
        assert!(read(&world.boot(ONE).unwrap()).is_err());
    });
}

async fn pair(world: &World) -> (super::network::SimLink, super::network::SimLink) {
    let (one, two) = (world.boot(ONE).unwrap(), world.boot(TWO).unwrap());
    let (dialled, accepted) = tokio::join!(
        one.network().dial(TWO, LinkClass::Control),
        two.network().accept()
    );
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!((dialled.remote(), accepted.remote()), (TWO, ONE));
    (dialled, accepted)
}

#[test]
fn a_cut_stalls_a_link_and_healing_delivers_what_was_sent() {
    in_world(1, async |world| {
        let (dialled, accepted) = pair(world).await;
        world.isolate(ONE);
        dialled.send(Bytes::from_static(b"stalled")).await.unwrap();
        let early = tokio::time::timeout(Duration::from_secs(2), accepted.receive()).await;
        assert!(early.is_err());
        for (from, to) in world.with_net(|net| net.cuts()) {
            world.mend(from, to);
        }
        assert_eq!(accepted.receive().await.unwrap(), &b"stalled"[..]);
    });
}

#[test]
fn a_long_cut_breaks_links_and_dials_fail_until_it_heals() {
    in_world(1, async |world| {
        let (dialled, accepted) = pair(world).await;
        let pairs = world.isolate(ONE);
        assert_eq!(accepted.receive().await, Err(LinkProblem::Closed));
        assert_eq!(dialled.receive().await, Err(LinkProblem::Closed));
        assert!(world.now_ns() > 2_000_000_000);
        let network = super::network::SimNetwork::new(world, ONE, &life(world, ONE).await);
        let refused = network.dial(TWO, LinkClass::Bulk).await.map(drop);
        assert!(matches!(
            refused,
            Err(LinkProblem::Unreachable { node: TWO, .. })
        ));
        pairs
            .into_iter()
            .for_each(|(from, to)| world.mend(from, to));
        assert!(network.dial(TWO, LinkClass::Bulk).await.is_ok());
    });
}

async fn life(world: &World, node: NodeId) -> std::sync::Arc<aber_log::life::Life> {
    let env = reboot(world, node, Crash::Process).await;
    std::sync::Arc::clone(env.life())
}

#[test]
fn the_other_end_learns_of_a_death_and_of_a_close() {
    for crash in [Crash::Process, Crash::Power] {
        in_world(1, async |world| {
            let (dialled, accepted) = pair(world).await;
            world.crash(TWO, crash).await;
            assert_eq!(dialled.receive().await, Err(LinkProblem::Closed));
            assert_eq!(accepted.receive().await, Err(LinkProblem::Closed));
        });
    }
    in_world(1, async |world| {
        let (dialled, accepted) = pair(world).await;
        dialled.send(Bytes::from_static(b"last")).await.unwrap();
        drop(dialled);
        assert_eq!(accepted.receive().await.unwrap(), &b"last"[..]);
        assert_eq!(accepted.receive().await, Err(LinkProblem::Closed));
    });
}

#[test]
fn clocks_drift_and_jump_and_sleep_keeps_to_them() {
    let mut swarm = Swarm::calm(2);
    swarm.drift_ppm_max = 50_000;
    let report = run_with(&RunOptions::default(), swarm, async |world, _| {
        for node in [ONE, TWO] {
            world.add_node(node);
        }
        let envs = [ONE, TWO].map(|node| world.boot(node).unwrap());
        let before = envs.each_ref().map(|env| env.runtime().now());
        let wakes = before[0] + Duration::from_secs(100);
        envs[0].runtime().sleep_until(wakes).await;
        assert!(envs[0].runtime().now() >= wakes);
        let passed = envs[1].runtime().now() - before[1];
        assert_ne!(passed.as_millis(), 100_000);
        assert!(passed > Duration::from_secs(90) && passed < Duration::from_secs(111));
        let wall = envs[0].runtime().wall_clock();
        world.jump_clock(ONE, -3_600_000);
        assert_eq!(envs[0].runtime().wall_clock().0, wall.0 - 3_600_000);
        Tally::default()
    });
    assert!(report.is_well(), "{:?}", report.failures);
}

#[test]
fn a_panic_of_a_task_and_a_run_without_end_are_failures() {
    let options = RunOptions::default();
    let report = run_with(&options, Swarm::calm(1), async |world, _| {
        world.add_node(ONE);
        let env = world.boot(ONE).unwrap();
        env.runtime().spawn("bad", async { panic!("an invariant") });
        tokio::time::sleep(Duration::from_secs(1)).await;
        Tally::default()
    });
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].contains("an invariant"));
    let report = run_with(&options, Swarm::calm(1), async |_, _| {
        std::future::pending().await
    });
    assert!(report.failures[0].contains("did not end"));
}

#[test]
fn a_node_that_fails_is_dead_and_says_why() {
    in_world(1, async |world| {
        let env = world.boot(ONE).unwrap();
        let runtime = env.runtime().clone();
        env.runtime().spawn("fails", async move {
            runtime.fail(74, "an fsync failed");
            runtime.sleep(Duration::from_secs(1)).await;
            runtime.trace(format_args!("never"));
            panic!("it outlived its failure");
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(world.is_dead(ONE) && !world.is_up(ONE));
        assert_eq!(world.failed(ONE), Some((74, "an fsync failed".to_owned())));
        reboot(world, ONE, Crash::Process).await;
        assert_eq!(world.failed(ONE), None);
    });
}

fn echo(seed: u64, planted: Option<&str>) -> Report {
    scenario::find("echo").unwrap()(&RunOptions {
        seed,
        scenario: "echo".to_owned(),
        node_count: 3,
        trace_file: None,
        planted: planted.map(str::to_owned),
    })
}

#[test]
fn a_seed_repeats_in_one_process_and_another_seed_differs() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..6 {
        let (first, again) = (echo(seed, None), echo(seed, None));
        assert!(first.is_well(), "{first} {:?}", first.failures);
        assert_eq!(first, again);
        assert!(first.tally.acked_count > 0);
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 6);
}

/// Promise D1: the world finds each bug planted in the echo node.
#[test]
fn planted_bugs_are_found() {
    for bug in super::echo::PLANTED {
        let found = (0..50).find(|seed| !echo(*seed, Some(bug)).is_well());
        assert!(found.is_some(), "{bug} was not found in 50 seeds");
    }
}
