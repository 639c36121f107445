//! Reading the tree across partitions.

use crate::testing::{MemKv, World, at, event, make_dir, make_volume, put, remove, rename};
use crate::tree::{ROOT, Tree};
use crate::view::{Found, RequestOutcome, Resolved};
use aber_proto::{Content, EventId, PartitionId, RelPath, RequestId, TreePath, VolumeId};
use bytes::Bytes;

const MUSIC: u64 = 1 << 10;

/// Control partition and partition 2 over one index: `/note`, `/music` with `a/`, `a/f` and `b`.
fn worlds() -> (World, World) {
    let kv = MemKv::default();
    let mut control = World::over(kv.clone(), 0);
    control.done(vec![make_volume("music", 2), put(at(0, "note"), "n")]);
    let mut data = World::over(kv, 2);
    data.done(vec![
        make_dir(at(MUSIC, "a")),
        put(at(MUSIC, "a/f"), "1"),
        put(at(MUSIC, "b"), "b"),
    ]);
    (control, data)
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).expect("a good path")
}

#[test]
fn paths_lead_through_volumes_to_nodes_and_back() {
    let (control, data) = worlds();
    let tree = data.tree();
    assert_eq!(tree.lookup(&TreePath::root()), Ok(Found::Root));
    for text in ["/music", "/note", "/music/a", "/music/a/f", "/music/b"] {
        let node = control.node(text).expect("there");
        assert_eq!(tree.path_of(node.id), Ok(Some(path(text))));
        assert_eq!(tree.child(node.parent, &node.name), Ok(Some(node)));
    }
    let names = |directory, after, limit| -> Vec<String> {
        let nodes = tree.children(directory, after, limit).expect("works");
        nodes.into_iter().map(|node| node.name).collect()
    };
    let music = control.node("/music").expect("there").id;
    assert_eq!(names(ROOT, None, 9), ["music", "note"]);
    assert_eq!(names(music, None, 9), ["a", "b"]);
    assert_eq!(names(music, None, 1), ["a"]);
    assert_eq!(names(music, Some("a"), 9), ["b"]);
    assert_eq!(tree.path_of(EventId::default()), Ok(Some(TreePath::root())));
}

#[test]
fn a_missing_path_tells_how_far_it_exists() {
    let (control, data) = worlds();
    let tree = data.tree();
    let id = |text: &str| control.node(text).expect("there").id;
    for (text, deepest, names) in [
        ("/x/y", ROOT, 0),
        ("/music/x", id("/music"), 1),
        ("/music/a/x/y", id("/music/a"), 2),
    ] {
        let missing = Found::Missing { deepest, names };
        assert_eq!(tree.lookup(&path(text)), Ok(missing));
    }
    let note = control.node("/note").expect("there");
    let found = tree.lookup(&path("/note/x"));
    assert_eq!(found, Ok(Found::NotADirectory(note)));
}

#[test]
fn a_path_resolves_to_its_partition_and_place() {
    let (_, data) = worlds();
    let tree = data.tree();
    let place = |partition, volume, text: &str| Resolved::At {
        partition: PartitionId(partition),
        place: at(volume, text),
    };
    for (text, resolved) in [
        ("/", place(0, 0, "")),
        ("/note", place(0, 0, "note")),
        ("/free", place(0, 0, "free")),
        ("/music", place(2, MUSIC, "")),
        ("/music/x/y", place(2, MUSIC, "x/y")),
        ("/free/x", Resolved::NoVolume("free".to_owned())),
        ("/note/x", Resolved::NotADirectory("note".to_owned())),
    ] {
        assert_eq!(tree.resolve(&path(text)), Ok(resolved), "{text}");
    }
    assert!(RelPath::root().is_root() && VolumeId::ROOT == VolumeId(0));
}

#[test]
fn earlier_versions_are_found_through_renames_and_after_removal() {
    let (_, mut data) = worlds();
    let file = data.node("/music/a/f").expect("there").id;
    data.done(vec![put(at(MUSIC, "a/f"), "2")]);
    data.done(vec![rename(at(MUSIC, "a"), at(MUSIC, "c"), false)]);
    data.done(vec![put(at(MUSIC, "c/f"), "3")]);
    let tree = data.tree();
    let head = data.node("/music/c/f").expect("there");
    assert_eq!(head.id, file);
    let texts = |data: &World| -> Vec<Content> {
        let versions = data.tree().earlier_versions(file, None, 9).expect("works");
        versions
            .into_iter()
            .map(|version| version.content)
            .collect()
    };
    let text = |text: &'static str| Content::Inline(Bytes::from_static(text.as_bytes()));
    assert_eq!(texts(&data), [text("1"), text("2")]);
    data.done(vec![remove(at(MUSIC, "c"), Some(u64::MAX))]);
    assert_eq!(texts(&data), [text("1"), text("2"), text("3")]);
    assert_eq!(tree.path_of(file), Ok(None));
    let mut at_version = Some(head.version);
    let mut chain = Vec::new();
    while let Some(version) = at_version {
        assert_eq!(tree.file_of(version), Ok(Some(file)));
        let found = tree.version(file, version).expect("works").expect("kept");
        at_version = found.previous;
        chain.push(found.content);
    }
    assert_eq!(chain, [text("3"), text("2"), text("1")]);
    let page = tree.earlier_versions(file, Some(file), 1).expect("works");
    assert_eq!(page[0].content, text("2"));
    let strange = EventId { index: 99, ..file };
    assert_eq!(tree.file_of(strange), Ok(None));
}

/// D3: what a request was answered can be asked for later.
#[test]
fn d3_requests_are_remembered_with_their_answer() {
    let (_, mut data) = worlds();
    let change = data.log.change(vec![event(aber_proto::Operation::Remove {
        place: at(MUSIC, "none"),
        recursive: false,
        base: 0,
    })]);
    let entry = data.log.order(&change);
    data.apply(entry, crate::view::Verdict::Allowed);
    let tree = data.tree();
    let partition = PartitionId(2);
    let rejected = RequestOutcome::Rejected(crate::view::Rejection::NotFound);
    let answer = tree.request(partition, change.request);
    assert_eq!(answer, Ok(Some((2, rejected))));
    let mut first = [0; 16];
    first[0] = 1;
    let answer = tree.request(partition, RequestId(first));
    assert_eq!(answer, Ok(Some((1, RequestOutcome::Applied))));
    assert_eq!(tree.request(partition, RequestId([9; 16])), Ok(None));
    let author = tree.author(partition, change.author).expect("works");
    assert_eq!(author.expect("known").0, change.author_sequence);
    let applied = tree.applied(partition).expect("works").expect("applied");
    assert_eq!(&applied, data.view.applied());
    assert_eq!(tree.applied(PartitionId(5)), Ok(None));
}
