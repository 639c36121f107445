//! [pure] Which events travel in one change: bounded, and of one partition.
//!
//! A change must stay below three limits: events, content in the call, and bytes as stored. The
//! last is estimated from above: content up to the inline limit is stored as it is, longer content
//! as rows of its chunk list. What lies in different top-level directories can be in different
//! partitions and never shares a change; what stands at the root itself is a group of its own.

use aber_proto::generated::v1::{self, event::Operation, put::Source};
use aber_proto::{TreePath, limit};

/// Most content in one call, in bytes.
pub(crate) const CONTENT_BYTES: usize = 1024 * 1024;
/// Most bytes of one change as stored: below the limit, as the estimate leaves out its envelope.
const STORED_BYTES: usize = limit::CHANGE_BYTES - 16 * 1024;
/// What an event takes beside its paths and content.
const EVENT_BYTES: usize = 96;

const _: () = assert!(CONTENT_BYTES < limit::MESSAGE_BYTES / 2);

/// Events that will be one change.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Batch {
    events: Vec<v1::Event>,
    content_bytes: usize,
    stored_bytes: usize,
}

/// The open changes: one of the root, one of the top-level directory at hand.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Batches {
    root: Batch,
    below: Batch,
    volume: String,
}

impl Batch {
    fn fits(&self, event: &v1::Event) -> bool {
        self.events.len() < limit::CHANGE_EVENTS
            && self.content_bytes + content_bytes(event) <= CONTENT_BYTES
            && self.stored_bytes + stored_bytes(event) <= STORED_BYTES
    }

    /// Adds an event; if it does not fit any more, what was there before comes out.
    fn add(&mut self, event: v1::Event) -> Option<Vec<v1::Event>> {
        let full = (!self.fits(&event)).then(|| self.take()).flatten();
        self.content_bytes += content_bytes(&event);
        self.stored_bytes += stored_bytes(&event);
        self.events.push(event);
        full
    }

    fn take(&mut self) -> Option<Vec<v1::Event>> {
        let taken = std::mem::take(self);
        (!taken.events.is_empty()).then_some(taken.events)
    }
}

impl Batches {
    /// Adds an event on `path`; changes that became full, or that can have no more, come out.
    pub(crate) fn add(&mut self, path: &TreePath, event: v1::Event) -> Vec<Vec<v1::Event>> {
        let Some(volume) = volume_of(path) else {
            return self.root.add(event).into_iter().collect();
        };
        let mut full = Vec::new();
        if volume != self.volume {
            full.extend(self.below.take());
            volume.clone_into(&mut self.volume);
        }
        full.extend(self.below.add(event));
        full
    }

    /// What is left.
    pub(crate) fn finish(mut self) -> Vec<Vec<v1::Event>> {
        self.root
            .take()
            .into_iter()
            .chain(self.below.take())
            .collect()
    }
}

/// The top-level directory a path lies in; none for the root and what stands in it.
fn volume_of(path: &TreePath) -> Option<&str> {
    let (volume, below) = path.split_volume()?;
    (!below.is_root()).then_some(volume)
}

fn content_bytes(event: &v1::Event) -> usize {
    match &event.operation {
        Some(Operation::Put(v1::Put {
            source: Some(Source::Content(content)),
            ..
        })) => content.len(),
        _ => 0,
    }
}

fn stored_bytes(event: &v1::Event) -> usize {
    let content = match content_bytes(event) {
        small if small <= limit::INLINE_BYTES => small,
        large => (large.div_ceil(limit::CHUNK_MIN_BYTES) + 2) * (limit::CHUNK_ROW_BYTES + 4),
    };
    let paths = match &event.operation {
        Some(Operation::Put(put)) => put.path.len(),
        Some(Operation::MakeDirectory(make)) => make.path.len(),
        Some(Operation::MakeSymlink(make)) => make.path.len() + make.target.len(),
        Some(Operation::SetAttributes(set)) => set.path.len(),
        Some(Operation::Rename(v1::Rename {
            from_path, to_path, ..
        })) => from_path.len() + to_path.len(),
        // The source's chunk list is repeated in the event, whatever its size.
        Some(Operation::Copy(copy)) => {
            copy.to_path.len() + limit::MANIFEST_CHUNKS * limit::CHUNK_ROW_BYTES
        }
        _ => limit::PATH_BYTES,
    };
    EVENT_BYTES + paths + content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &str, size: usize) -> (TreePath, v1::Event) {
        let put = v1::Put {
            path: path.to_owned(),
            source: Some(Source::Content(vec![0; size].into())),
            ..Default::default()
        };
        let event = v1::Event {
            operation: Some(Operation::Put(put)),
            ..Default::default()
        };
        (TreePath::parse(path).expect("good path"), event)
    }

    fn changes(puts: impl IntoIterator<Item = (TreePath, v1::Event)>) -> Vec<Vec<v1::Event>> {
        let mut batches = Batches::default();
        let mut changes = Vec::new();
        for (path, event) in puts {
            changes.extend(batches.add(&path, event));
        }
        changes.extend(batches.finish());
        changes
    }

    fn sizes(changes: &[Vec<v1::Event>]) -> Vec<usize> {
        changes.iter().map(Vec::len).collect()
    }

    #[test]
    fn each_limit_closes_a_change() {
        let many = (0..2500).map(|n| put(&format!("/v/{n}"), 0));
        assert_eq!(sizes(&changes(many)), [1024, 1024, 452]);
        let large = (0..20).map(|n| put(&format!("/v/{n}"), 100 * 1024));
        assert_eq!(sizes(&changes(large)), [10, 10]);
        let inline = changes((0..400).map(|n| put(&format!("/v/{n}"), 1024)));
        for change in &inline {
            let stored: usize = change.iter().map(stored_bytes).sum();
            assert!(stored <= STORED_BYTES, "{stored}");
        }
        assert_eq!(inline.len(), 2);
    }

    #[test]
    fn top_level_directories_never_share_a_change() {
        let puts = ["/a", "/v/1", "/v/2", "/w/1", "/b", "/v/3"].map(|path| put(path, 1));
        assert_eq!(sizes(&changes(puts)), [2, 1, 2, 1]);
    }
}
