//! What every index promises, and what happens to a damaged one.

use super::*;
use aber_log::env::kv::prefix_end;

fn path() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join(INDEX_DIR);
    (dir, path)
}

fn batch(rows: &[(&str, Option<&str>)]) -> KvBatch {
    let mut batch = KvBatch::default();
    for (key, value) in rows {
        let key = key.as_bytes().to_vec();
        match value {
            Some(value) => batch.put(key, value.as_bytes().to_vec()),
            None => batch.remove(key),
        }
    }
    batch
}

fn keys(rows: Vec<(Bytes, Bytes)>) -> Vec<String> {
    let names = rows
        .into_iter()
        .map(|(key, _)| String::from_utf8_lossy(&key).into_owned());
    names.collect()
}

#[tokio::test]
async fn rows_are_put_removed_scanned_and_kept() {
    let (_dir, path) = path();
    let index = SledKv::open(&path).expect("open");
    let rows = [
        ("a1", Some("1")),
        ("a2", Some("2")),
        ("a3", Some("3")),
        ("b", Some("4")),
    ];
    index.commit(batch(&rows)).expect("commit");
    index
        .commit(batch(&[("a2", None), ("a4", Some("5"))]))
        .expect("commit");
    assert_eq!(
        index.get(b"a1").expect("get"),
        Some(Bytes::from_static(b"1"))
    );
    assert_eq!(index.get(b"a2").expect("get"), None);
    let scan = |from: &[u8], to: &[u8], limit| keys(index.scan(from, to, limit).expect("scan"));
    assert_eq!(scan(b"a", &prefix_end(b"a"), 10), ["a1", "a3", "a4"]);
    assert_eq!(scan(b"a1", b"a3", 10), ["a1"]);
    assert_eq!(scan(b"a", &prefix_end(b"a"), 2), ["a1", "a3"]);
    assert_eq!(scan(b"a", b"b", 0), [""; 0]);
    assert_eq!(scan(b"b", b"a", 10), [""; 0]);
    // The index's own row is nobody's business.
    assert_eq!(scan(b"", &[u8::MAX; 8], 10), ["a1", "a3", "a4", "b"]);
    assert_eq!(index.get(FORMAT_KEY).expect("get"), None);
    index.flush().await.expect("flush");
    assert!(index.size_on_disk_bytes().expect("size") > 0);
    drop(index);
    let again = SledKv::open(&path).expect("reopen");
    assert_eq!(
        again.get(b"a4").expect("get"),
        Some(Bytes::from_static(b"5"))
    );
}

#[test]
fn a_scan_sees_a_commit_whole_or_not_at_all() {
    let (_dir, path) = path();
    let index = SledKv::open(&path).expect("open");
    let all = |value: &str| {
        let mut batch = KvBatch::default();
        for key in 0..200_u8 {
            batch.put(vec![b'k', key], value.as_bytes().to_vec());
        }
        batch
    };
    index.commit(all("0")).expect("commit");
    let writer = index.clone();
    let writing = std::thread::spawn(move || {
        for round in 1..100 {
            writer.commit(all(&round.to_string())).expect("commit");
        }
    });
    while !writing.is_finished() {
        let rows = index.scan(b"k", b"l", 1000).expect("scan");
        assert_eq!(rows.len(), 200);
        assert!(rows.iter().all(|(_, value)| *value == rows[0].1));
    }
    writing.join().expect("writer");
}

#[test]
fn other_formats_are_refused() {
    let (_dir, path) = path();
    let db = sled::open(&path).expect("sled");
    db.insert(FORMAT_KEY, b"aber index 999").expect("insert");
    drop(db);
    let refused = SledKv::open(&path).err().expect("refused");
    assert!(refused.what.contains("aber index 999"), "{refused}");
    let db = sled::open(&path).expect("sled");
    db.remove(FORMAT_KEY).expect("remove");
    db.insert(b"row", b"1").expect("insert");
    drop(db);
    assert!(SledKv::open(&path).is_err());
}

fn damage(path: &Path, how: impl Fn(&mut Vec<u8>)) {
    for entry in fs::read_dir(path).expect("list") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("kind").is_file() {
            let mut bytes = fs::read(entry.path()).expect("read");
            how(&mut bytes);
            fs::write(entry.path(), bytes).expect("write");
        }
    }
}

fn filled(path: &Path) {
    let index = SledKv::open(path).expect("open");
    for number in 0..500_u32 {
        let mut batch = KvBatch::default();
        batch.put(number.to_string().into_bytes(), vec![7; 100]);
        index.commit(batch).expect("commit");
    }
}

/// D5: an index that does not open is moved aside, a new one opens, and one old one is kept.
#[test]
fn a_damaged_index_is_a_problem_that_discarding_mends() {
    let (dir, path) = path();
    discard(dir.path()).expect("nothing to discard");
    for round in 1..=3 {
        filled(&path);
        // sled's configuration file is checked as text, so this is noticed at once.
        damage(&path, |bytes| {
            bytes.iter_mut().for_each(|byte| *byte = !*byte)
        });
        let found = SledKv::open(&path).err().expect("a problem");
        assert!(!found.what.is_empty());
        discard(dir.path()).expect("discard");
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(names, [format!("index.bad-{round}").as_str()]);
    }
    let fresh = SledKv::open(&path).expect("open");
    assert_eq!(fresh.get(b"1").expect("get"), None);
}

/// D5: whatever byte of it is damaged, the index answers or complains; it takes nothing down.
#[test]
fn damage_anywhere_is_survived() {
    for step in 0..12_usize {
        let (_dir, path) = path();
        filled(&path);
        damage(&path, |bytes| {
            if step % 2 == 0 {
                bytes.truncate(bytes.len() * step / 12);
            } else if !bytes.is_empty() {
                let start = bytes.len() * step / 13;
                bytes
                    .iter_mut()
                    .skip(start)
                    .take(64)
                    .for_each(|byte| *byte ^= 0x55);
            }
        });
        let Ok(index) = SledKv::open(&path) else {
            continue;
        };
        let _ = index.scan(b"", &[u8::MAX; 8], 1000);
        let _ = index.get(b"17");
        let _ = index.commit(batch(&[("x", Some("1"))]));
    }
}

#[test]
fn a_file_in_its_place_is_a_problem() {
    let (_dir, path) = path();
    fs::write(&path, b"no directory").expect("write");
    assert!(SledKv::open(&path).is_err());
}
