//! [pure] Names and paths: checked once here, by everybody (rules NA-1, NA-2, NA-7).
//!
//! A [`TreePath`] is absolute in the tree, as people write it: `/music/a.flac`. A [`RelPath`] is
//! relative to its volume, as changes carry it: `a.flac`; the empty one is the volume's root.
//! Both are kept byte for byte as given; order is by bytes, component by component, so that a
//! parent always sorts before its children.

use crate::limit;
use std::cmp::Ordering;
use std::fmt;

/// The reserved component, in any case: a folder's own state lives below it (rule NA-7).
pub const RESERVED: &str = ".aber";

/// Why a name or path was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathProblem {
    /// A path of the tree starts with a slash.
    #[error("a path of the tree starts with '/'")]
    NotAbsolute,
    /// Two slashes in a row, or one at the end.
    #[error("a name is empty")]
    EmptyName,
    /// `.` or `..`.
    #[error("'.' and '..' are not names")]
    Dots,
    /// A NUL byte, or a slash inside a name.
    #[error("a name contains NUL or '/'")]
    BadByte,
    /// The name is above [`limit::NAME_BYTES`].
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// The path is above [`limit::PATH_BYTES`].
    #[error("the path is longer than 4,096 bytes")]
    PathTooLong,
    /// The path is above [`limit::PATH_DEPTH`].
    #[error("the path is deeper than 128 names")]
    TooDeep,
    /// `.aber`, in any case.
    #[error("the name .aber is reserved")]
    Reserved,
}

impl PathProblem {
    /// The rule of the semantics that was broken.
    #[must_use]
    pub fn rule(self) -> &'static str {
        if self == Self::Reserved {
            "NA-7"
        } else {
            "NA-1"
        }
    }
}

/// Checks one name (rules NA-1, NA-7).
///
/// # Errors
/// The first rule it breaks.
pub fn check_name(name: &str) -> Result<(), PathProblem> {
    if name.is_empty() {
        Err(PathProblem::EmptyName)
    } else if name == "." || name == ".." {
        Err(PathProblem::Dots)
    } else if name.len() > limit::NAME_BYTES {
        Err(PathProblem::NameTooLong)
    } else if name.bytes().any(|b| b == 0 || b == b'/') {
        Err(PathProblem::BadByte)
    } else if name.eq_ignore_ascii_case(RESERVED) {
        Err(PathProblem::Reserved)
    } else {
        Ok(())
    }
}

fn check_components(path: &str, depth_max: usize) -> Result<(), PathProblem> {
    if path.len() >= limit::PATH_BYTES {
        return Err(PathProblem::PathTooLong);
    }
    for (position, name) in path.split('/').enumerate() {
        if position >= depth_max {
            return Err(PathProblem::TooDeep);
        }
        check_name(name)?;
    }
    Ok(())
}

/// An absolute path of the tree; `/` is the root.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath(String);

/// A path relative to its volume; empty for the volume's root. One name less deep than a path of
/// the tree, whose first name is the volume's. Below a volume with a long name, the whole path can
/// still be longer than a [`TreePath`] may be.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(String);

impl TreePath {
    /// The root of the tree.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Checks and takes a path as people write it. One trailing slash is dropped.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, PathProblem> {
        let inner = text.strip_prefix('/').ok_or(PathProblem::NotAbsolute)?;
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.is_empty() {
            return if text.len() <= 1 {
                Ok(Self::root())
            } else {
                Err(PathProblem::EmptyName)
            };
        }
        check_components(inner, limit::PATH_DEPTH)?;
        Ok(Self(format!("/{inner}")))
    }

    /// The text, starting with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The names from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The last name; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The directory that holds it; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (head, _) = self.0.rsplit_once('/').filter(|_| !self.is_root())?;
        Some(if head.is_empty() {
            Self::root()
        } else {
            Self(head.to_owned())
        })
    }

    /// This path with one more name.
    ///
    /// # Errors
    /// The first rule the name or the longer path breaks.
    pub fn join(&self, name: &str) -> Result<Self, PathProblem> {
        check_name(name)?;
        let base = if self.is_root() { "" } else { self.as_str() };
        Self::parse(&format!("{base}/{name}"))
    }

    /// Whether `self` is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self
                .0
                .strip_prefix(&other.0)
                .is_some_and(|r| r.is_empty() || r.starts_with('/'))
    }

    /// The top-level name and the rest below it, if there is at least one name.
    #[must_use]
    pub fn split_volume(&self) -> Option<(&str, RelPath)> {
        let inner = self.0.strip_prefix('/').filter(|inner| !inner.is_empty())?;
        Some(match inner.split_once('/') {
            Some((volume, rest)) => (volume, RelPath(rest.to_owned())),
            None => (inner, RelPath::default()),
        })
    }
}

impl RelPath {
    /// The volume's root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks and takes a relative path; empty is the root.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, PathProblem> {
        if !text.is_empty() {
            check_components(text, limit::PATH_DEPTH - 1)?;
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, without a leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the volume's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the volume's root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The last name; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The directory that holds it; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(
            self.0
                .rsplit_once('/')
                .map_or_else(Self::root, |(head, _)| Self(head.to_owned())),
        )
    }

    /// This path with one more name.
    ///
    /// # Errors
    /// The first rule the name or the longer path breaks.
    pub fn join(&self, name: &str) -> Result<Self, PathProblem> {
        check_name(name)?;
        if self.is_root() {
            return Self::parse(name);
        }
        Self::parse(&format!("{}/{name}", self.0))
    }
}

macro_rules! ordered_text {
    ($name:ident) => {
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.components().cmp(other.components())
            }
        }
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

ordered_text!(TreePath);
ordered_text!(RelPath);

#[cfg(test)]
mod tests {
    use super::*;

    /// NA-1, NA-7: each bad name against both kinds of path.
    #[test]
    fn bad_names_are_refused_with_their_rule() {
        let long = "x".repeat(256);
        let cases = [
            ("", PathProblem::EmptyName),
            (".", PathProblem::Dots),
            ("..", PathProblem::Dots),
            ("a\0b", PathProblem::BadByte),
            (long.as_str(), PathProblem::NameTooLong),
            (".aber", PathProblem::Reserved),
            (".ABER", PathProblem::Reserved),
        ];
        for (name, problem) in cases {
            assert_eq!(check_name(name), Err(problem), "{name:?}");
            assert_eq!(
                TreePath::parse(&format!("/a/{name}/b")),
                Err(problem),
                "{name:?}"
            );
            assert_eq!(
                RelPath::parse(&format!("a/{name}/b")),
                Err(problem),
                "{name:?}"
            );
        }
        assert_eq!(TreePath::parse("a"), Err(PathProblem::NotAbsolute));
        assert_eq!(TreePath::parse("//"), Err(PathProblem::EmptyName));
        assert_eq!(
            TreePath::parse(&"/a".repeat(129)),
            Err(PathProblem::TooDeep)
        );
        let long = format!("/{}", vec!["y".repeat(255); 17].join("/"));
        assert_eq!(TreePath::parse(&long), Err(PathProblem::PathTooLong));
    }

    #[test]
    fn parents_sort_before_children_and_children_before_neighbours() {
        let mut paths: Vec<_> = ["/a/b", "/a-b", "/", "/a", "/a/b/c", "/b"]
            .map(|p| TreePath::parse(p).expect("good path"))
            .to_vec();
        paths.sort();
        let sorted: Vec<_> = paths.iter().map(TreePath::as_str).collect();
        assert_eq!(sorted, ["/", "/a", "/a/b", "/a/b/c", "/a-b", "/b"]);
    }

    #[test]
    fn parts_of_a_path() {
        let path = TreePath::parse("/music/x/y.flac/").expect("good path");
        assert_eq!(path.as_str(), "/music/x/y.flac");
        assert_eq!(path.name(), Some("y.flac"));
        assert_eq!(path.parent().expect("parent").as_str(), "/music/x");
        let (volume, rest) = path.split_volume().expect("volume");
        assert_eq!((volume, rest.as_str()), ("music", "x/y.flac"));
        assert_eq!(rest.parent().expect("parent").as_str(), "x");
        assert!(path.is_within(&TreePath::parse("/music").expect("good path")));
        assert!(!path.is_within(&TreePath::parse("/mus").expect("good path")));
        assert_eq!(TreePath::root().parent(), None);
    }
}
