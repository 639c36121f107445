//! What every disk promises, on a real file system; with `openat2` and without.

use super::*;
use aber_log::env::File;
use aber_log::env::disk::{ensure_dir, read_exact, read_small, write_small};
use aber_proto::FileTime;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;

/// A handle on `root`, beside it `outside`, each with a file.
struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
    outside: PathBuf,
    disk: SystemDisk,
}

fn world(has_openat2: bool) -> World {
    let dir = tempfile::tempdir().expect("directory");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    std::fs::create_dir(&root).expect("root");
    std::fs::create_dir(&outside).expect("outside");
    std::fs::write(outside.join("secret"), b"secret").expect("secret");
    let disk = SystemDisk::open_folder(&root).expect("open");
    if !has_openat2 {
        disk.inner.root.forget_openat2();
    }
    World {
        _dir: dir,
        root,
        outside,
        disk,
    }
}

fn both(check: impl Fn(World)) {
    check(world(true));
    check(world(false));
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn put(disk: &SystemDisk, path: &str, bytes: &[u8]) {
    let file = disk.open(p(path), Open::CreateNew).expect("create");
    file.write_at(bytes, 0).expect("write");
}

fn text(disk: &SystemDisk, path: &str) -> Vec<u8> {
    read_small(disk, p(path), 1 << 20).expect("read")
}

fn kind<T>(outcome: io::Result<T>) -> ErrorKind {
    match outcome {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.kind(),
    }
}

#[test]
fn files_are_made_read_and_cut() {
    both(|world| {
        let disk = &world.disk;
        ensure_dir(disk, p("a")).expect("dir");
        ensure_dir(disk, p("a")).expect("again");
        put(disk, "a/f", b"hello world");
        assert_eq!(
            kind(disk.open(p("a/f"), Open::CreateNew)),
            ErrorKind::AlreadyExists
        );
        assert_eq!(kind(disk.open(p("a/g"), Open::Read)), ErrorKind::NotFound);
        let file = disk.open(p("a/f"), Open::Write).expect("open");
        let mut into = [0; 20];
        assert_eq!(file.read_at(&mut into, 6).expect("read"), 5);
        assert_eq!(&into[..5], b"world");
        file.set_len(5).expect("cut");
        file.set_len(7).expect("extend");
        assert_eq!(text(disk, "a/f"), b"hello\0\0");
        file.write_at(b"!", 10).expect("beyond");
        assert_eq!(file.stat().expect("stat").size, 11);
        let read_only = disk.open(p("a/f"), Open::Read).expect("open");
        assert!(read_only.write_at(b"x", 0).is_err());
        assert_eq!(
            kind(read_exact(&read_only, 0, 12)),
            ErrorKind::UnexpectedEof
        );
        let stat = disk.stat(p("a/f")).expect("stat");
        assert_eq!((stat.kind, stat.mode), (FileKind::File, 0o600));
        let stat = disk.stat(p("a")).expect("stat");
        assert_eq!((stat.kind, stat.mode), (FileKind::Directory, 0o755));
        assert_eq!(disk.stat(p("")).expect("root").kind, FileKind::Directory);
    });
}

fn refuses_all(disk: &SystemDisk, path: &Path) {
    assert!(disk.open(path, Open::Read).is_err(), "{path:?}");
    assert!(disk.open(path, Open::Write).is_err(), "{path:?}");
    assert!(disk.open(path, Open::CreateNew).is_err(), "{path:?}");
    assert!(disk.stat(path).is_err(), "{path:?}");
    assert!(disk.set_mode(path, 0o777).is_err(), "{path:?}");
    assert!(disk.make_dir(path).is_err(), "{path:?}");
    assert!(disk.make_symlink(path, p("x")).is_err(), "{path:?}");
    assert!(disk.read_link(path).is_err(), "{path:?}");
    assert!(disk.remove_file(path).is_err(), "{path:?}");
    assert!(disk.remove_dir(path).is_err(), "{path:?}");
    assert!(disk.list(path).is_err(), "{path:?}");
    for how in [Rename::Replace, Rename::NoReplace, Rename::Exchange] {
        assert!(disk.rename(path, p("taken"), how).is_err(), "{path:?}");
        assert!(
            disk.rename(p("inside/secret"), path, how).is_err(),
            "{path:?}"
        );
    }
}

/// S6, MA-6: nothing reaches outside, by whatever call.
#[test]
fn escapes_are_refused() {
    both(|world| {
        let disk = &world.disk;
        symlink(&world.outside, world.root.join("absolute")).expect("link");
        symlink("../outside", world.root.join("up")).expect("link");
        symlink("inside", world.root.join("sideways")).expect("link");
        std::fs::create_dir(world.root.join("inside")).expect("dir");
        put(disk, "inside/secret", b"own");
        let absolute = world.outside.join("secret");
        let absolute = absolute.to_str().expect("utf-8");
        let plain = [
            "absolute/secret",
            "up/secret",
            "sideways/secret",
            "../outside/secret",
            "inside/../../outside/secret",
            "inside/../inside/secret",
            "./../outside/secret",
            absolute,
            "/",
            "..",
        ];
        for path in plain {
            refuses_all(disk, p(path));
        }
        for link in ["absolute", "up", "sideways"] {
            assert!(disk.list(p(link)).is_err(), "{link}");
            assert_eq!(kind(disk.set_mode(p(link), 0o700)), ErrorKind::InvalidInput);
            assert_eq!(
                kind(disk.open(p(link), Open::Read)),
                ErrorKind::InvalidInput
            );
            assert_eq!(
                kind(disk.open(p(link), Open::Write)),
                ErrorKind::InvalidInput
            );
            assert_eq!(
                kind(disk.open(p(link), Open::CreateNew)),
                ErrorKind::AlreadyExists
            );
            let below = p(link).join("new");
            assert_eq!(
                kind(disk.open(&below, Open::CreateNew)),
                ErrorKind::NotADirectory
            );
            assert_eq!(disk.stat(p(link)).expect("lstat").kind, FileKind::Symlink);
        }
        let secret = std::fs::read(world.outside.join("secret")).expect("read");
        assert_eq!(
            (secret, text(disk, "inside/secret")),
            (b"secret".to_vec(), b"own".to_vec())
        );
        assert_eq!(std::fs::read_dir(&world.outside).expect("list").count(), 1);
    });
}

/// S6: a directory that becomes a symlink between two calls is not followed by the second.
#[test]
fn a_parent_swapped_for_a_symlink_is_not_followed() {
    both(|world| {
        let disk = &world.disk;
        disk.make_dir(p("d")).expect("dir");
        put(disk, "d/f", b"1");
        std::fs::rename(world.root.join("d"), world.root.join("moved")).expect("rename");
        symlink(&world.outside, world.root.join("d")).expect("link");
        assert!(disk.open(p("d/new"), Open::CreateNew).is_err());
        assert!(disk.remove_file(p("d/secret")).is_err());
        assert!(world.outside.join("secret").exists());
        assert!(!world.outside.join("new").exists());
    });
}

/// MA-6: what is mounted below a folder is out of reach, but named.
#[test]
fn other_file_systems_are_out_of_reach() {
    let root = SystemDisk::open_with(p("/"), true).expect("open");
    for has_openat2 in [true, false] {
        if !has_openat2 {
            root.inner.root.forget_openat2();
        }
        let found = root.stat(p("proc")).expect("stat");
        if found.device == root.stat(p("")).expect("stat").device {
            continue;
        }
        assert_eq!(kind(root.list(p("proc"))), ErrorKind::CrossesDevices);
        assert_eq!(kind(root.stat(p("proc/self"))), ErrorKind::CrossesDevices);
        assert_eq!(
            kind(root.open(p("proc/version"), Open::Read)),
            ErrorKind::CrossesDevices
        );
    }
    let whole = SystemDisk::open(p("/")).expect("open");
    assert!(whole.open(p("proc/version"), Open::Read).is_ok());
}

#[test]
fn renames_replace_exchange_or_refuse() {
    both(|world| {
        let disk = &world.disk;
        disk.make_dir(p("d")).expect("dir");
        put(disk, "d/inner", b"inner");
        put(disk, "a", b"a");
        put(disk, "b", b"b");
        assert_eq!(
            kind(disk.rename(p("a"), p("b"), Rename::NoReplace)),
            ErrorKind::AlreadyExists
        );
        disk.rename(p("a"), p("d"), Rename::Exchange)
            .expect("file and directory");
        assert_eq!(
            (text(disk, "d"), text(disk, "a/inner")),
            (b"a".to_vec(), b"inner".to_vec())
        );
        disk.rename(p("d"), p("b"), Rename::Replace)
            .expect("replace");
        assert_eq!(text(disk, "b"), b"a");
        disk.rename(p("b"), p("a/c"), Rename::NoReplace)
            .expect("move");
        assert_eq!(
            kind(disk.rename(p("b"), p("x"), Rename::Replace)),
            ErrorKind::NotFound
        );
        assert_eq!(kind(disk.rename(p("a"), p("a/d"), Rename::NoReplace)), {
            ErrorKind::InvalidInput
        });
        assert_eq!(
            kind(disk.rename(p("a/c"), p("x"), Rename::Exchange)),
            ErrorKind::NotFound
        );
        assert_eq!(kind(disk.remove_dir(p("a"))), ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(disk.remove_dir(p("a/c"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.remove_file(p("a"))), ErrorKind::IsADirectory);
        disk.remove_file(p("a/c")).expect("remove");
        disk.remove_file(p("a/inner")).expect("remove");
        disk.remove_dir(p("a")).expect("remove");
        assert_eq!(disk.list(p("")).expect("list"), []);
    });
}

#[test]
fn special_files_are_refused_without_waiting() {
    both(|world| {
        let fifo = world.root.join("fifo");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("fifo");
        let _socket = std::os::unix::net::UnixListener::bind(world.root.join("socket"));
        world.disk.make_dir(p("d")).expect("dir");
        for name in ["fifo", "socket", "d"] {
            for how in [Open::Read, Open::Write] {
                let outcome = world.disk.open(p(name), how);
                assert_eq!(kind(outcome), ErrorKind::InvalidInput, "{name}");
            }
        }
        assert_eq!(
            kind(world.disk.set_mode(p("fifo"), 0o600)),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            world.disk.stat(p("fifo")).expect("stat").kind,
            FileKind::Special
        );
        world.disk.remove_file(p("fifo")).expect("remove");
    });
}

#[test]
fn modes_and_times_come_back() {
    both(|world| {
        let disk = &world.disk;
        put(disk, "f", b"x");
        disk.make_dir(p("d")).expect("dir");
        let file = disk.open(p("f"), Open::Write).expect("open");
        // 1902, 1969, 1970, 2026, 2100; ext4 and xfs reach back to the end of 1901.
        for (seconds, nanos) in [
            (-2_140_000_000, 1),
            (-1, 999_999_999),
            (0, 0),
            (1_795_000_000, 123_456_789),
            (4_102_444_800, 5),
        ] {
            let mtime = FileTime { seconds, nanos };
            file.set_meta(Some(0o640), Some(mtime)).expect("set");
            let stat = file.stat().expect("stat");
            assert_eq!((stat.mtime, stat.mode), (mtime, 0o640));
            assert_eq!(disk.stat(p("f")).expect("stat"), stat);
        }
        // Two values above a second mean "now" and "leave it" to the system.
        for nanos in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2] {
            let mtime = FileTime { seconds: 0, nanos };
            assert_eq!(
                kind(file.set_meta(None, Some(mtime))),
                ErrorKind::InvalidInput
            );
        }
        file.set_meta(Some(0o7755), None).expect("set");
        assert_eq!(file.stat().expect("stat").mode, 0o755);
        disk.set_mode(p("f"), 0o4000).expect("set");
        disk.set_mode(p("d"), 0o2500).expect("set");
        assert_eq!(disk.stat(p("f")).expect("stat").mode, 0);
        assert_eq!(disk.stat(p("d")).expect("stat").mode, 0o500);
        disk.set_mode(p("f"), 0o444)
            .expect("a file without read permission");
        assert_eq!(
            kind(disk.set_mode(p("nothing"), 0o444)),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn listings_are_sorted_by_bytes_whatever_the_names() {
    both(|world| {
        let disk = &world.disk;
        let names: [&[u8]; 5] = [b"\xff\xfe", b"B", b"a", "é".as_bytes(), b"new\nline"];
        for name in names {
            let path = Path::new(OsStr::from_bytes(name));
            drop(disk.open(path, Open::CreateNew).expect("create"));
        }
        disk.make_dir(p("dir")).expect("dir");
        disk.make_symlink(p("link"), Path::new(OsStr::from_bytes(b"to\xff/../x")))
            .expect("link");
        let listed = disk.list(p("")).expect("list");
        let mut sorted = listed.clone();
        sorted.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        assert_eq!((listed.len(), &listed), (7, &sorted));
        let kind_of = |name: &str| listed.iter().find(|e| e.name == name).map(|e| e.kind);
        assert_eq!(kind_of("dir"), Some(FileKind::Directory));
        assert_eq!(kind_of("link"), Some(FileKind::Symlink));
        assert_eq!(kind_of("a"), Some(FileKind::File));
        assert_eq!(
            disk.read_link(p("link")).expect("target").as_bytes(),
            b"to\xff/../x"
        );
        assert_eq!(disk.list(p("dir")).expect("list"), []);
        assert_eq!(kind(disk.list(p("a"))), ErrorKind::NotADirectory);
    });
}

/// NA-1: the longest path of a tree, below a folder, is longer than the system takes at once.
#[test]
fn paths_longer_than_one_call_work() {
    let world = world(true);
    let disk = &world.disk;
    let mut path = PathBuf::new();
    for _ in 0..20 {
        path.push("n".repeat(250));
        disk.make_dir(&path).expect("dir");
    }
    path.push("f");
    assert!(path.as_os_str().len() > 5000);
    let file = disk.open(&path, Open::CreateNew).expect("create");
    file.write_at(b"deep", 0).expect("write");
    assert_eq!(disk.stat(&path).expect("stat").size, 4);
    let to = path.with_file_name("g");
    disk.rename(&path, &to, Rename::NoReplace).expect("rename");
    assert_eq!(
        disk.list(to.parent().expect("parent")).expect("list").len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_copies_and_syncs_work_on_workers() {
    let world = world(true);
    let disk = world.disk.clone();
    let task = tokio::spawn(async move {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let file = disk.open(p("big"), Open::CreateNew).expect("create");
        file.write_at(&bytes, 5).expect("write");
        file.sync().await.expect("sync");
        disk.sync_dir(p("")).await.expect("sync_dir");
        disk.sync_all().await.expect("sync_all");
        assert_eq!(read_exact(&file, 5, bytes.len()).expect("read"), bytes);
        write_small(&disk, p("small"), b"1").await.expect("small");
        write_small(&disk, p("small"), b"22").await.expect("small");
        assert_eq!(read_small(&disk, p("small"), 10).expect("read"), b"22");
        assert!(disk.sync_dir(p("missing")).await.is_err());
    });
    task.await.expect("task");
    let space = world.disk.space().expect("space");
    assert!(space.total_bytes > space.free_bytes && space.free_bytes > 0);
}

async fn hear(queue: &mut tokio::sync::mpsc::Receiver<Hint>, wanted: &Hint) {
    let time = std::time::Duration::from_secs(10);
    let waiting = async { while queue.recv().await.expect("open queue") != *wanted {} };
    tokio::time::timeout(time, waiting)
        .await
        .expect("the hint in time");
}

/// DE-5: changes raise hints; reads do not; a new directory is hinted at even when what it holds
/// came before its watch.
#[tokio::test]
async fn changes_are_hinted_at() {
    let world = world(true);
    world.disk.make_dir(p("d")).expect("dir");
    put(&world.disk, "d/old", b"1");
    let mut queue = world.disk.hints(100).expect("a watcher");
    text(&world.disk, "d/old");
    world.disk.list(p("d")).expect("list");
    put(&world.disk, "d/new", b"1");
    assert_eq!(queue.recv().await, Some(Hint::Path("d/new".into())));
    world.disk.make_dir(p("e")).expect("dir");
    world.disk.make_dir(p("e/f")).expect("dir");
    hear(&mut queue, &Hint::Path("e".into())).await;
    hear(&mut queue, &Hint::Path("e".into())).await;
    put(&world.disk, "e/f/deep", b"1");
    hear(&mut queue, &Hint::Path("e/f/deep".into())).await;
    world
        .disk
        .rename(p("e"), p("g"), Rename::Replace)
        .expect("rename");
    hear(&mut queue, &Hint::Path("e".into())).await;
    hear(&mut queue, &Hint::Path("g".into())).await;
}

#[tokio::test]
async fn more_changes_than_fit_mean_everything() {
    let world = world(true);
    let mut queue = world.disk.hints(4).expect("a watcher");
    for number in 0..50 {
        put(&world.disk, &format!("f{number}"), b"1");
    }
    hear(&mut queue, &Hint::Everything).await;
}

/// Measures how a single-record commit waits best, asked for by another task as commits are:
/// `cargo test -- --ignored --nocapture commit_loop`.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "a measurement"]
async fn commit_loop() {
    let dir = tempfile::tempdir_in(".").expect("directory");
    let disk = SystemDisk::open(dir.path()).expect("open");
    for round in 0..8 {
        let name = PathBuf::from(format!("f{round}"));
        let file = disk.open(&name, Open::CreateNew).expect("create");
        file.write_at(&vec![0; 1 << 20], 0).expect("zeros");
        file.sync().await.expect("sync");
        let handle = disk.inner.root.open(&name, OFlags::RDWR, Mode::empty());
        let handle = Arc::new(handle.expect("open"));
        let (queue, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(8);
        tokio::spawn(async move {
            let mut offset = 0;
            while let Some(answer) = asked.recv().await {
                file.write_at(&[7; 256], offset).expect("write");
                offset += 256;
                if round % 2 == 0 {
                    file.sync().await.expect("sync");
                } else {
                    tokio::task::block_in_place(|| rustix::fs::fdatasync(&handle)).expect("sync");
                }
                answer.send(()).expect("asker");
            }
        });
        let client = tokio::spawn(async move {
            let mut times = Vec::new();
            for _ in 0..1000 {
                let start = std::time::Instant::now();
                let (answer, done) = tokio::sync::oneshot::channel();
                queue.send(answer).await.expect("writer");
                done.await.expect("answer");
                times.push(start.elapsed());
            }
            times.sort();
            times
        });
        let times = client.await.expect("client");
        let how = ["spawn_blocking", "block_in_place"][round % 2];
        eprintln!(
            "{how}: median {:?}, 99th of 100 {:?}",
            times[500], times[990]
        );
    }
}
