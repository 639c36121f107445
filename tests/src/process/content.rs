//! [pure] File contents that tell by themselves whether they are whole.
//!
//! The first line says whose version it is and how long it is; the rest follows from that line. A
//! torn or mixed file does not match.

const HEADER: &str = "aber-test";

/// The content of a version of a path: `size_bytes` long, or the header's length.
#[must_use]
pub fn content(path: &str, version: u64, size_bytes: usize) -> Vec<u8> {
    let mut bytes = format!("{HEADER} {path} {version} {size_bytes}\n").into_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let at = bytes.len();
    bytes.resize(size_bytes.max(at), 0);
    if let Some(rest) = bytes.get_mut(at..) {
        hasher.finalize_xof().fill(rest);
    }
    bytes
}

/// The path and version a content is of; `None` if it is not whole.
#[must_use]
pub fn version_of(bytes: &[u8]) -> Option<(String, u64)> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    let [HEADER, path, version, size] = words[..] else {
        return None;
    };
    let (version, size) = (version.parse().ok()?, size.parse().ok()?);
    (content(path, version, size) == bytes).then(|| (path.to_owned(), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_content_tells_its_version() {
        for size in [0, 100, 70_000] {
            let bytes = content("/a/b", 7, size);
            assert_eq!(version_of(&bytes), Some(("/a/b".to_owned(), 7)));
        }
    }

    #[test]
    fn a_torn_or_mixed_content_tells_none() {
        let (old, new) = (content("/a", 1, 5000), content("/a", 2, 5000));
        let mixed = [&new[..2000], &old[2000..]].concat();
        assert_eq!(version_of(&mixed), None);
        assert_eq!(version_of(&new[..4999]), None);
        assert_eq!(version_of(b""), None);
    }
}
