//! The simulated disk forgets only what it may.

use super::*;
use crate::sim::Random;
use proptest::prelude::*;
use std::path::PathBuf;

const NOW: FileTime = FileTime {
    seconds: 1,
    nanos: 0,
};
const ALL: NamesKept = NamesKept {
    keep_permille: 1000,
    is_any_subset: false,
};
const NONE: NamesKept = NamesKept {
    keep_permille: 0,
    is_any_subset: false,
};

fn image() -> Image {
    Image::new(7, NOW)
}

fn make(image: &mut Image, path: &str, what: New) -> Id {
    image
        .create(Image::TOP, Path::new(path), what, NOW)
        .unwrap()
}

fn mv(image: &mut Image, from: &str, to: &str, how: Rename) -> io::Result<()> {
    image.rename(Image::TOP, (Path::new(from), Path::new(to)), how, NOW)
}

fn find(image: &Image, path: &str) -> io::Result<Id> {
    image.resolve(Image::TOP, Path::new(path))
}

fn sync_dir(image: &mut Image, path: &str) {
    let (id, end) = (find(image, path).unwrap(), image.begin_dir_sync());
    image.end_dir_sync(id, end);
}

fn sync_all(image: &mut Image) {
    let ticket = image.begin_sync_all();
    image.end_sync_all(ticket, true);
}

fn cut(image: &mut Image, kept: NamesKept, seed: u64) {
    image.lose_power(kept, |_| Fate::Lose, &mut Random::new(seed));
}

fn names(image: &Image, path: &str) -> Vec<String> {
    let id = find(image, path).unwrap();
    let entries = image.list(id).unwrap();
    entries
        .into_iter()
        .map(|entry| entry.name.into_string().unwrap())
        .collect()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_raw_os_error(result.unwrap_err().raw_os_error().unwrap())
}

/// Promise S6.
#[test]
fn no_symlink_is_followed_and_no_path_leaves_the_handle() {
    let mut image = image();
    make(&mut image, "d", New::Directory);
    make(&mut image, "d/f", New::File);
    make(&mut image, "link", New::Symlink("d".into()));
    assert_eq!(errno(find(&image, "link/f")), Errno::LOOP);
    assert_eq!(errno(find(&image, "../d")), Errno::XDEV);
    assert_eq!(errno(find(&image, "d/../d")), Errno::XDEV);
    assert_eq!(errno(find(&image, "/d")), Errno::XDEV);
    let link = find(&image, "link").unwrap();
    assert_eq!(image.stat(link).unwrap().kind, FileKind::Symlink);
    assert_eq!(image.read_link(link).unwrap(), "d");
    assert_eq!(
        image.hold(link).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    let below = image.create(Image::TOP, Path::new("link/new"), New::File, NOW);
    assert_eq!(errno(below), Errno::LOOP);
    let mode = image.set_attributes(link, (Some(0o700), None), NOW);
    assert_eq!(errno(mode), Errno::LOOP);
}

#[test]
fn removing_and_renaming_fail_as_linux_does() {
    let mut image = image();
    make(&mut image, "d", New::Directory);
    make(&mut image, "d/f", New::File);
    make(&mut image, "e", New::Directory);
    make(&mut image, "g", New::File);
    let remove = |image: &mut Image, path: &str, is_directory| {
        image.remove(Image::TOP, Path::new(path), is_directory, NOW)
    };
    assert_eq!(errno(remove(&mut image, "d", true)), Errno::NOTEMPTY);
    assert_eq!(errno(remove(&mut image, "d", false)), Errno::ISDIR);
    assert_eq!(errno(remove(&mut image, "g", true)), Errno::NOTDIR);
    assert_eq!(errno(remove(&mut image, "x", false)), Errno::NOENT);
    assert_eq!(errno(remove(&mut image, "", true)), Errno::BUSY);
    assert_eq!(
        errno(mv(&mut image, "g", "e", Rename::Replace)),
        Errno::ISDIR
    );
    assert_eq!(
        errno(mv(&mut image, "e", "g", Rename::Replace)),
        Errno::NOTDIR
    );
    assert_eq!(
        errno(mv(&mut image, "e", "d", Rename::Replace)),
        Errno::NOTEMPTY
    );
    assert_eq!(
        errno(mv(&mut image, "d", "d/in", Rename::Replace)),
        Errno::INVAL
    );
    assert_eq!(
        errno(mv(&mut image, "g", "d/f", Rename::NoReplace)),
        Errno::EXIST
    );
    assert_eq!(
        errno(mv(&mut image, "g", "x", Rename::Exchange)),
        Errno::NOENT
    );
    assert_eq!(
        errno(mv(&mut image, "d/f", "d", Rename::Exchange)),
        Errno::INVAL
    );
    let new = image.create(Image::TOP, Path::new("g"), New::Directory, NOW);
    assert_eq!(errno(new), Errno::EXIST);
    mv(&mut image, "d", "e", Rename::Replace).unwrap();
    assert_eq!(names(&image, ""), ["e", "g"]);
    assert_eq!(names(&image, "e"), ["f"]);
}

#[test]
fn exchange_swaps_things_of_different_kinds() {
    let mut image = image();
    make(&mut image, "d", New::Directory);
    make(&mut image, "d/f", New::File);
    make(&mut image, "l", New::Symlink("x".into()));
    mv(&mut image, "d", "l", Rename::Exchange).unwrap();
    assert_eq!(names(&image, "l"), ["f"]);
    let link = find(&image, "d").unwrap();
    assert_eq!(image.read_link(link).unwrap(), "x");
}

#[test]
fn a_name_is_durable_once_its_directory_was_synced() {
    let mut image = image();
    let file = make(&mut image, "a", New::File);
    image
        .change_content(file, None, |content| content.write_at(b"x", 0))
        .unwrap();
    let ticket = image
        .change_content(file, None, Content::begin_sync)
        .unwrap();
    image
        .change_content(file, None, |content| content.end_sync(ticket))
        .unwrap();
    cut(&mut image, NONE, 1);
    assert_eq!(names(&image, ""), Vec::<String>::new());
    make(&mut image, "a", New::File);
    sync_dir(&mut image, "");
    make(&mut image, "b", New::File);
    cut(&mut image, NONE, 1);
    assert_eq!(names(&image, ""), ["a"]);
}

#[test]
fn a_directory_sync_covers_that_directory_alone() {
    let mut image = image();
    for name in ["d", "e"] {
        make(&mut image, name, New::Directory);
    }
    sync_all(&mut image);
    make(&mut image, "d/a", New::File);
    make(&mut image, "e/b", New::File);
    sync_dir(&mut image, "d");
    cut(&mut image, NONE, 1);
    assert_eq!((names(&image, "d").len(), names(&image, "e").len()), (1, 0));
}

#[test]
fn an_open_file_outlives_its_name() {
    let mut image = image();
    let file = make(&mut image, "a", New::File);
    let holder = image.hold(file).unwrap();
    image
        .change_content(file, None, |content| content.write_at(b"x", 0))
        .unwrap();
    image
        .remove(Image::TOP, Path::new("a"), false, NOW)
        .unwrap();
    sync_all(&mut image);
    assert_eq!(image.content(file).unwrap().size(), 1);
    assert!(image.used_bytes() > 0);
    drop(holder);
    sync_all(&mut image);
    assert!(image.content(file).is_err());
    assert_eq!(image.used_bytes(), 0);
}

#[test]
fn mode_and_times_last_as_long_as_the_name_that_made_them_durable() {
    let mut image = image();
    let file = make(&mut image, "a", New::File);
    image
        .set_attributes(file, (Some(0o640), None), NOW)
        .unwrap();
    sync_dir(&mut image, "");
    let modes: BTreeSet<u32> = (0..16)
        .map(|seed| {
            image
                .set_attributes(file, (Some(0o600), None), NOW)
                .unwrap();
            cut(&mut image, NONE, seed);
            let mode = image.stat(file).unwrap().mode;
            image
                .set_attributes(file, (Some(0o640), None), NOW)
                .unwrap();
            sync_all(&mut image);
            mode
        })
        .collect();
    assert_eq!(modes, BTreeSet::from([0o600, 0o640]));
}

#[derive(Clone, Debug)]
enum Step {
    File(u8),
    Directory(u8),
    Remove(u8),
    RemoveDir(u8),
    Move(u8, u8, bool),
    SyncDir(u8),
    SyncAll,
}

fn path(number: u8) -> PathBuf {
    let top = ["a", "b", "c"][usize::from(number % 3)];
    match number / 3 % 3 {
        0 => top.into(),
        1 => format!("{top}/x").into(),
        _ => format!("{top}/x/y").into(),
    }
}

fn take(image: &mut Image, step: &Step) -> bool {
    let top = Image::TOP;
    let done = match step {
        Step::File(at) => image.create(top, &path(*at), New::File, NOW).map(drop),
        Step::Directory(at) => image.create(top, &path(*at), New::Directory, NOW).map(drop),
        Step::Remove(at) => image.remove(top, &path(*at), false, NOW),
        Step::RemoveDir(at) => image.remove(top, &path(*at), true, NOW),
        Step::Move(from, to, is_swap) => {
            let how = if *is_swap {
                Rename::Exchange
            } else {
                Rename::Replace
            };
            image.rename(top, (&path(*from), &path(*to)), how, NOW)
        }
        Step::SyncDir(at) => image.resolve(top, &path(*at)).map(|id| {
            let end = image.begin_dir_sync();
            image.end_dir_sync(id, end);
        }),
        Step::SyncAll => {
            sync_all(image);
            Ok(())
        }
    };
    done.is_ok()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0u8..9;
    let step = prop_oneof![
        3 => at().prop_map(Step::File),
        3 => at().prop_map(Step::Directory),
        1 => at().prop_map(Step::Remove),
        1 => at().prop_map(Step::RemoveDir),
        4 => (at(), at(), any::<bool>()).prop_map(|(from, to, swap)| Step::Move(from, to, swap)),
        1 => at().prop_map(Step::SyncDir),
        1 => Just(Step::SyncAll),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Every inode a name leads to, each at how many paths.
fn reached(image: &Image) -> BTreeMap<Id, u32> {
    let mut seen = BTreeMap::new();
    let mut left = vec![Image::TOP];
    while let Some(id) = left.pop() {
        let count = seen.entry(id).or_insert(0);
        *count += 1;
        assert!(*count == 1, "inode {id} has two names");
        if let Ok(names) = image.names(id) {
            left.extend(names.live.values());
        }
    }
    seen
}

proptest! {
    /// Everything kept is the live image; everything synced is kept.
    #[test]
    fn a_power_cut_that_keeps_all_changes_nothing(steps in steps()) {
        let mut image = image();
        for step in &steps {
            take(&mut image, step);
        }
        let before = reached(&image);
        cut(&mut image, ALL, 1);
        prop_assert_eq!(reached(&image), before);
    }

    /// A moved thing is at one place, the old or the new one: never at neither, never at both.
    #[test]
    fn what_was_durable_and_never_removed_is_still_there(
        steps in steps(), seed in any::<u64>(), is_any_subset in any::<bool>()
    ) {
        let mut image = image();
        for number in 0..3 {
            take(&mut image, &Step::Directory(number));
            take(&mut image, &Step::Directory(number + 3));
            take(&mut image, &Step::File(number + 6));
        }
        sync_all(&mut image);
        let durable = reached(&image);
        let mut replaced = BTreeSet::new();
        for step in &steps {
            let before: BTreeSet<Id> = reached(&image).into_keys().collect();
            take(&mut image, step);
            let after = reached(&image);
            replaced.extend(before.into_iter().filter(|id| !after.contains_key(id)));
        }
        let kept = NamesKept { keep_permille: 600, is_any_subset };
        cut(&mut image, kept, seed);
        let after = reached(&image);
        for id in durable.keys().filter(|id| !replaced.contains(id)) {
            prop_assert!(after.contains_key(id), "inode {} is at neither place", id);
        }
        // The image works on.
        for step in &steps {
            take(&mut image, step);
        }
        sync_all(&mut image);
        let before = reached(&image);
        cut(&mut image, NONE, seed);
        prop_assert_eq!(reached(&image), before);
    }

    /// A directory that was synced has exactly the names it had then, if nothing followed.
    #[test]
    fn a_synced_directory_keeps_its_names(steps in steps(), number in 0u8..9, seed in any::<u64>()) {
        let mut image = image();
        for step in &steps {
            take(&mut image, step);
        }
        let path = path(number);
        let Ok(id) = image.resolve(Image::TOP, &path) else { return Ok(()) };
        let Ok(before) = image.list(id) else { return Ok(()) };
        for parent in path.ancestors() {
            let parent = parent.to_str().unwrap();
            sync_dir(&mut image, parent);
        }
        cut(&mut image, NamesKept { keep_permille: 500, is_any_subset: false }, seed);
        let id = image.resolve(Image::TOP, &path).unwrap();
        prop_assert_eq!(image.list(id).unwrap(), before);
    }
}
