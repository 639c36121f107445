//! The environment as a whole.

use super::*;
use aber_log::env::disk::Open;
use aber_log::env::kv::KvBatch;
use aber_log::env::{Disk, Kv, Runtime};

fn options(path: PathBuf) -> SystemOptions {
    SystemOptions {
        data: path,
        runtime: SystemRuntime::new(),
    }
}

#[test]
fn a_world_opens_once_and_again_after_it_ended() {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    for _ in 0..2 {
        let env = SystemEnv::open(options(data.clone())).expect("open");
        let second = SystemEnv::open(options(data.clone()));
        assert!(matches!(second.err(), Some(DataDirProblem::InUse { .. })));
        let index = env.open_index().expect("index");
        let mut batch = KvBatch::default();
        batch.put(&b"k"[..], &b"v"[..]);
        index.commit(batch).expect("commit");
    }
}

#[test]
fn a_discarded_index_is_empty_again() {
    let dir = tempfile::tempdir().expect("directory");
    let env = SystemEnv::open(options(dir.path().join("data"))).expect("open");
    let index = env.open_index().expect("index");
    let mut batch = KvBatch::default();
    batch.put(&b"k"[..], &b"v"[..]);
    index.commit(batch).expect("commit");
    drop(index);
    env.discard_index().expect("discard");
    let index = env.open_index().expect("index");
    assert_eq!(index.get(b"k"), Ok(None));
}

/// The traits are usable as the node uses them: generic, in tasks of its life.
#[test]
fn a_root_task_sees_the_whole_world() {
    async fn root<E: Env>(env: E, folder: PathBuf) -> usize {
        let disk = env.open_folder(&folder).expect("folder");
        let inner = env.clone();
        let (sender, done) = tokio::sync::oneshot::channel();
        env.runtime().spawn("maker", async move {
            drop(disk.open(Path::new("f"), Open::CreateNew).expect("create"));
            disk.sync_dir(Path::new("")).await.expect("sync");
            inner
                .runtime()
                .sleep(std::time::Duration::from_millis(1))
                .await;
            let _ = sender.send(disk.list(Path::new("")).expect("list").len());
        });
        done.await.expect("maker")
    }
    let dir = tempfile::tempdir().expect("directory");
    let options = options(dir.path().join("data"));
    let runtime = options.runtime.clone();
    let env = SystemEnv::open(options).expect("open");
    let found = runtime.block_on_root(root(env, dir.path().join("some/folder")));
    assert_eq!(found.expect("root"), 1);
}
