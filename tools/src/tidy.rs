//! Three checks that neither rustfmt nor clippy can make: layers, files, documents.
//!
//! Each is a pure function from text to problems, with tests of good and of bad input; what is
//! read, and from where, is in [`Tree::read`]. Only what git tracks is looked at.

pub mod docs;
pub mod files;
pub mod layers;
pub mod source;

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file or package it is in.
    pub place: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl Problem {
    pub(crate) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// A tracked file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
    /// Its content, where it is UTF-8 and not far above the limit.
    pub text: Option<String>,
}

/// All that the checks look at.
#[derive(Debug)]
pub struct Tree {
    files: Vec<Tracked>,
    metadata: serde_json::Value,
    lock: String,
}

impl Tree {
    /// Reads the tracked files, the metadata of the workspace and its lock file.
    ///
    /// # Errors
    /// git or cargo is missing, or `root` is no repository.
    pub fn read(root: &Path) -> Result<Self> {
        let listed = output(root, "git", &["ls-files", "-z"])?;
        let mut files = Vec::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            if let Some(file) = read_tracked(root, path)? {
                files.push(file);
            }
        }
        let arguments = [
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ];
        let metadata = output(root, &cargo(), &arguments)?;
        Ok(Self {
            files,
            metadata: serde_json::from_str(&metadata).context("cargo metadata is not JSON")?,
            lock: std::fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock")?,
        })
    }

    /// Every problem, in the order layers, files, documents.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = layers::check(&self.metadata, &self.lock);
        problems.extend(self.files.iter().flat_map(files::check));
        let paths: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        for file in self.files.iter().filter(|file| file.path.ends_with(".md")) {
            if let Some(text) = &file.text {
                problems.extend(docs::check_links(&file.path, text, &paths));
            }
        }
        problems.extend(self.check_promises());
        problems
    }

    fn check_promises(&self) -> Vec<Problem> {
        let text_of = |path: &str| {
            let file = self.files.iter().find(|file| file.path == path);
            file.and_then(|file| file.text.as_deref())
        };
        let Some(invariants) = text_of(docs::INVARIANTS) else {
            return vec![Problem::new(
                docs::INVARIANTS,
                "missing: it lists the promises",
            )];
        };
        let sources = self.files.iter().filter(|file| file.path.ends_with(".rs"));
        let named = sources
            .filter_map(|file| file.text.as_deref())
            .flat_map(docs::ids_named_by_tests)
            .collect();
        docs::check_promises(invariants, &named)
    }
}

fn read_tracked(root: &Path, path: &str) -> Result<Option<Tracked>> {
    let full = root.join(path);
    // Removed in the working tree and not yet committed, or a link: nothing to read.
    let Ok(meta) = std::fs::symlink_metadata(&full) else {
        return Ok(None);
    };
    if !meta.is_file() {
        return Ok(None);
    }
    let text = if meta.len() <= files::SIZE_MAX_BYTES * 4 {
        let bytes = std::fs::read(&full).with_context(|| path.to_owned())?;
        String::from_utf8(bytes).ok()
    } else {
        None
    };
    Ok(Some(Tracked {
        path: path.to_owned(),
        size_bytes: meta.len(),
        text,
    }))
}

/// The cargo that runs us, or the one on the path.
#[must_use]
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// The root of the repository the program was started in.
///
/// # Errors
/// Not inside a git repository.
pub fn root() -> Result<PathBuf> {
    let top = output(Path::new("."), "git", &["rev-parse", "--show-toplevel"])?;
    Ok(PathBuf::from(top.trim_end_matches('\n')))
}

pub(crate) fn output(directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!(
            "{program} {}: {}: {}",
            arguments.join(" "),
            done.status,
            said.trim()
        );
    }
    String::from_utf8(done.stdout).with_context(|| format!("{program} did not answer in UTF-8"))
}
