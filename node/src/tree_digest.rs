//! [pure] A digest of a tree: equal for equal names, kinds, contents, modes and times of files,
//! whoever computes it and however he came by them. `docs/format.md` says its bytes.

use aber_proto::generated::v1::{self, ItemKind};

const CONTEXT: &str = "aber 2026 tree digest v1";

/// Takes items in the order of a walk: a parent before its children, names by their bytes.
#[derive(Clone, Debug)]
pub(crate) struct TreeDigest(blake3::Hasher);

impl TreeDigest {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self(blake3::Hasher::new_derive_key(CONTEXT))
    }

    /// Adds an item under its path relative to the top of the tree.
    pub(crate) fn add(&mut self, path: &str, item: &v1::Item) {
        self.sized(path.as_bytes());
        let kind: u8 = match item.kind() {
            ItemKind::Directory => 1,
            ItemKind::Symlink => 2,
            _ => 0,
        };
        self.0.update(&[kind]);
        self.0.update(&item.mode.to_le_bytes());
        match item.kind() {
            ItemKind::Directory => {}
            ItemKind::Symlink => self.sized(item.symlink_target.as_bytes()),
            _ => {
                self.0.update(&item.size.to_le_bytes());
                self.sized(&item.blake3);
                let time = item.modify_time.unwrap_or_default();
                self.0.update(&time.seconds.to_le_bytes());
                self.0.update(&time.nanos.to_le_bytes());
            }
        }
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The digest, 64 digits of hexadecimal.
    pub(crate) fn text(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32, hash: u8) -> v1::Item {
        let mut item = v1::Item {
            mode,
            blake3: vec![hash; 32].into(),
            ..v1::Item::default()
        };
        item.set_kind(ItemKind::File);
        item
    }

    fn digest(items: &[(&str, v1::Item)]) -> String {
        let mut digest = TreeDigest::new();
        for (path, item) in items {
            digest.add(path, item);
        }
        digest.text()
    }

    /// Whatever can be told apart has another digest; who wrote it and when does not count.
    #[test]
    fn it_tells_trees_apart_and_nothing_else() {
        let one = digest(&[("a", file(0o644, 1))]);
        let mut same = file(0o644, 1);
        same.author = "yann".to_owned();
        same.etag = "3:4.1".to_owned();
        assert_eq!(one, digest(&[("a", same)]));
        let mut link = file(0o644, 1);
        link.set_kind(ItemKind::Symlink);
        for other in [
            digest(&[("b", file(0o644, 1))]),
            digest(&[("a", file(0o600, 1))]),
            digest(&[("a", file(0o644, 2))]),
            digest(&[("a", link)]),
            digest(&[]),
        ] {
            assert_ne!(one, other);
        }
    }
}
