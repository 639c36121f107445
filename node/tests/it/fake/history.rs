//! What the fake node says of history.

use aber_proto::generated::v1::{self, DiffKind, EventResult, ItemKind, event::Operation};

fn stamp() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_763_812_800,
        nanos: 0,
    })
}

fn id(index: u64) -> Option<v1::EntryId> {
    Some(v1::EntryId {
        partition: 3,
        index,
    })
}

fn put() -> v1::Entry {
    let put = v1::Put {
        path: "/music/a\u{1b}b".to_owned(),
        size: 2048,
        ..Default::default()
    };
    let event = v1::Event {
        number: 1,
        operation: Some(Operation::Put(put)),
        ..Default::default()
    };
    let change = v1::Change {
        author: "yann".to_owned(),
        via: "cli".to_owned(),
        events: vec![event],
        events_total: 3,
        ..Default::default()
    };
    v1::Entry {
        id: id(1843),
        order_time: stamp(),
        change: Some(change),
        applied: true,
        ..Default::default()
    }
}

pub fn entries() -> v1::ListEntriesResponse {
    v1::ListEntriesResponse {
        entries: vec![put()],
        looked_at_count: 1,
        ..Default::default()
    }
}

/// Bytes that are no entry: whoever checks them says so.
pub fn entry() -> v1::GetEntryResponse {
    let mut entry = put();
    if let Some(change) = &mut entry.change {
        change.act = "undo".to_owned();
        change.takes_back = "3:1800".to_owned();
        change.comment = "not that".to_owned();
        change.events[0].outcome = Some(v1::EventOutcome {
            result: EventResult::Done.into(),
            etag_before: "3:1700.1".to_owned(),
            etag_after: "3:1843.1".to_owned(),
            ..Default::default()
        });
    }
    v1::GetEntryResponse {
        entry: Some(entry),
        entry_bytes: vec![1, 2, 3].into(),
        ..Default::default()
    }
}

fn item(path: &str, index: u64) -> Option<v1::Item> {
    Some(v1::Item {
        path: path.to_owned(),
        kind: ItemKind::File.into(),
        size: 2048,
        etag: format!("3:{index}.1"),
        mode: 0o644,
        entry: id(index),
        author: "yann".to_owned(),
        order_time: stamp(),
        ..Default::default()
    })
}

pub fn versions() -> v1::ListVersionsResponse {
    v1::ListVersionsResponse {
        versions: vec![
            v1::Version {
                item: item("/music/a", 1843),
                previous_etag: "3:9.1".to_owned(),
                is_present: true,
            },
            v1::Version {
                item: item("/music/old\u{1b}", 9),
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

pub fn differences(request: &v1::DiffRequest) -> Vec<v1::DiffResponse> {
    let directory = item("/music", 7).map(|item| v1::Item {
        kind: ItemKind::Directory.into(),
        ..item
    });
    let changed = v1::DiffResponse {
        kind: DiffKind::Changed.into(),
        before: item("/music/b", 9),
        after: item("/music/b", 1843),
        changed_bytes: 1024,
        unified: if request.text {
            "--- /music/b\n+++ /music/b\n@@ -1 +1 @@\n-a\tb\n+\u{1b}[2J\n".to_owned()
        } else {
            String::new()
        },
    };
    vec![
        changed,
        v1::DiffResponse {
            kind: DiffKind::Added.into(),
            after: item("/music/a", 1843),
            changed_bytes: 2048,
            ..Default::default()
        },
        v1::DiffResponse {
            kind: DiffKind::Renamed.into(),
            before: directory.clone(),
            after: directory.map(|item| v1::Item {
                path: "/songs".to_owned(),
                ..item
            }),
            ..Default::default()
        },
    ]
}

pub fn blame() -> v1::BlameResponse {
    let span = |start, length, index, author: &str, text: &str| v1::BlameSpan {
        start,
        length,
        entry: id(index),
        author: author.to_owned(),
        order_time: stamp(),
        text: text.to_owned(),
    };
    v1::BlameResponse {
        spans: vec![
            span(1, 2, 9, "malo", "one\n\ttwo\n"),
            span(3, 1, 1843, "yann", "\u{1b}[2J"),
        ],
        by_line: true,
        versions_count: 1000,
        complete: false,
    }
}
