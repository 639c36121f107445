//! [driver] Segment files: their names, open handles, checked reads, preparation.

use super::LogIdentity;
use super::SegmentProblem;
use super::frame::{BLOCK_BYTES, Header, SegmentKey, wide};
use super::record::{CHECKSUM_BYTES, Place};
use crate::env::disk::{Open, Rename};
use crate::env::{Disk, Env, File, Runtime};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The log's directory.
pub(super) const DIRECTORY: &str = "log";
/// Most segments kept open for reading.
const OPEN_FILES: usize = 32;
/// Places that are this close are read at once.
const GAP_BYTES: u32 = 4096;
/// Longest single read.
const SPAN_BYTES: u32 = 1 << 20;
/// Zeros written at once to a segment that is being prepared.
const ZERO_BYTES: usize = 256 << 10;
/// The pause after each: preparation must not delay commits.
const PACE: Duration = Duration::from_millis(2);

/// The handle type of a world's files.
pub(super) type FileOf<E> = <<E as Env>::Disk as Disk>::File;

/// A segment's file.
pub(super) fn segment_path(number: u32) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}/{number:08}.seg"))
}

/// A segment's index file.
pub(super) fn index_path(number: u32) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}/{number:08}.idx"))
}

/// An error of the disk, with what was tried.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SegmentProblem {
    let path = path.display().to_string();
    move |error| SegmentProblem::Disk {
        what,
        path,
        kind: error.kind(),
        why: error.to_string(),
    }
}

/// Open segments and reads from them.
pub(super) struct Store<E: Env> {
    env: E,
    identity: LogIdentity,
    files: Mutex<BTreeMap<u32, Arc<FileOf<E>>>>,
}

impl<E: Env> Store<E> {
    pub(super) fn new(env: E, identity: LogIdentity) -> Self {
        let files = Mutex::new(BTreeMap::new());
        Self {
            env,
            identity,
            files,
        }
    }

    fn file(&self, number: u32) -> Result<Arc<FileOf<E>>, SegmentProblem> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&number) {
            return Ok(Arc::clone(file));
        }
        let path = segment_path(number);
        let file = self.env.disk().open(&path, Open::Read);
        let file = Arc::new(file.map_err(failed("open", &path))?);
        // New readers want the newest; of the others any may go.
        if files.len() >= OPEN_FILES {
            files.pop_first();
        }
        files.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// The bytes at a place, checked.
    pub(super) fn read(&self, place: Place) -> Result<Bytes, SegmentProblem> {
        let mut found = self.read_all(&[place])?;
        Ok(found.pop().unwrap_or_default())
    }

    /// The bytes at all places, in order, checked. Neighbours are read at once.
    pub(super) fn read_all(&self, places: &[Place]) -> Result<Vec<Bytes>, SegmentProblem> {
        let mut found = Vec::with_capacity(places.len());
        let mut rest = places;
        while let Some(first) = rest.first() {
            let count = 1 + rest
                .windows(2)
                .take_while(|pair| is_near(first, pair))
                .count();
            let (span, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            self.read_span(span, &mut found)?;
            rest = after;
        }
        Ok(found)
    }

    fn read_span(&self, span: &[Place], found: &mut Vec<Bytes>) -> Result<(), SegmentProblem> {
        let (Some(first), Some(last)) = (span.first(), span.last()) else {
            return Ok(());
        };
        let file = self.file(first.segment)?;
        let length = wide(last.offset - first.offset) + CHECKSUM_BYTES + wide(last.length);
        let mut bytes = vec![0; length];
        let path = segment_path(first.segment);
        let read = file.read_at(&mut bytes, first.offset.into());
        if read.map_err(failed("read", &path))? != length {
            return Err(damaged(first, "the segment is too short"));
        }
        let bytes = Bytes::from(bytes);
        let key = SegmentKey::new(&self.identity, first.segment);
        for place in span {
            let start = wide(place.offset - first.offset) + CHECKSUM_BYTES;
            let content = bytes.slice(start..start + wide(place.length));
            let crc = key.checksum(place.offset, &[&content]);
            let stored = bytes.get(start - CHECKSUM_BYTES..start);
            if stored != Some(crc.to_le_bytes().as_slice()) {
                return Err(damaged(place, "the checksum does not fit"));
            }
            found.push(content);
        }
        Ok(())
    }

    /// Prepares a segment: zeros and a header, durable before its name is.
    ///
    /// The name comes by a rename, so a segment that has one is whole, whatever happened.
    pub(super) async fn prepare(
        &self,
        number: u32,
        segment_bytes: u32,
        is_paced: bool,
    ) -> Result<FileOf<E>, SegmentProblem> {
        let disk = self.env.disk();
        let path = segment_path(number);
        let beside = path.with_extension("new");
        match disk.remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &beside)(error));
            }
            _ => {}
        }
        let file = disk.open(&beside, Open::CreateNew);
        let file = file.map_err(failed("create", &beside))?;
        let identity = self.identity;
        let header = Header {
            identity,
            number,
            segment_bytes,
        };
        let zeros = vec![0; ZERO_BYTES];
        let mut at = BLOCK_BYTES;
        file.write_at(&header.encode(), 0)
            .map_err(failed("write", &beside))?;
        while at < wide(segment_bytes) {
            let part = zeros.get(..wide(segment_bytes) - at).unwrap_or(&zeros);
            let offset = u64::try_from(at).unwrap_or(u64::MAX);
            file.write_at(part, offset)
                .map_err(failed("write", &beside))?;
            at += part.len();
            if is_paced {
                self.env.runtime().sleep(PACE).await;
            }
        }
        file.sync().await.map_err(failed("sync", &beside))?;
        // Not every file system can rename without replacing.
        if disk.stat(&path).is_ok() {
            return Err(SegmentProblem::Damaged {
                segment: number,
                offset: 0,
                what: "a segment that is about to be made exists".to_owned(),
            });
        }
        let renamed = disk.rename(&beside, &path, Rename::Replace);
        renamed.map_err(failed("rename", &path))?;
        let directory = Path::new(DIRECTORY);
        disk.sync_dir(directory)
            .await
            .map_err(failed("sync", directory))?;
        Ok(file)
    }
}

fn is_near(first: &Place, pair: &[Place]) -> bool {
    let &[a, b] = pair else {
        return false;
    };
    let end = a.offset.saturating_add(a.length);
    let checksum = super::frame::narrow(CHECKSUM_BYTES);
    a.segment == b.segment
        && b.offset >= end
        && b.offset - end <= GAP_BYTES + checksum
        && b.offset.saturating_add(b.length) - first.offset <= SPAN_BYTES
}

/// Damage found by a read.
pub(super) fn damaged(place: &Place, what: &str) -> SegmentProblem {
    SegmentProblem::Damaged {
        segment: place.segment,
        offset: place.offset.into(),
        what: what.to_owned(),
    }
}
