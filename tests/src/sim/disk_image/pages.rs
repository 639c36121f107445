//! [pure] The content of one simulated file: what programs see, and what a power cut leaves.
//!
//! Content is sparse pages that both images share until they differ. A page that was written is
//! dirty until a sync covers it; in a power cut each 512-byte block of a dirty page is the old or
//! the new one, and so is the size. A sync covers what was written before it *began*. A sync that
//! failed leaves its pages clean but not durable, as Linux does: a later sync that succeeds does
//! not bring them back.

use crate::sim::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of the smallest piece that is lost or kept in a power cut.
pub(super) const BLOCK_BYTES: usize = 512;
const PAGE: u64 = PAGE_BYTES as u64;

type Page = Arc<[u8; PAGE_BYTES]>;

/// What a power cut does to a file that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// All that was written is there.
    Keep,
    /// Nothing since the last sync is there.
    Lose,
    /// Each block, and the size, is there or not.
    Blocks {
        /// How many of a thousand blocks are kept.
        keep_permille: u64,
        /// Whether a block may be torn in its middle.
        has_torn: bool,
    },
}

#[derive(Clone, Default, Debug)]
struct Pages {
    pages: BTreeMap<u64, Page>,
    size: u64,
}

impl Pages {
    fn set(&mut self, number: u64, page: Option<Page>) {
        match page {
            Some(page) => self.pages.insert(number, page),
            None => self.pages.remove(&number),
        };
    }

    fn clip(&mut self) {
        self.pages.split_off(&self.size.div_ceil(PAGE));
        let tail = usize::try_from(self.size % PAGE).unwrap_or(0);
        if tail != 0
            && let Some(page) = self.pages.get_mut(&(self.size / PAGE))
            && page.iter().skip(tail).any(|byte| *byte != 0)
        {
            Arc::make_mut(page)
                .iter_mut()
                .skip(tail)
                .for_each(|byte| *byte = 0);
        }
    }
}

/// What a sync that began will make durable.
#[derive(Debug)]
pub struct SyncTicket {
    number: u64,
    pages: Vec<(u64, Option<Page>)>,
    size: u64,
}

/// The content of one file.
#[derive(Clone, Default, Debug)]
pub struct Content {
    live: Pages,
    durable: Pages,
    dirty: BTreeSet<u64>,
    syncs_begun: u64,
    newest_sync: u64,
}

/// The parts of `offset..offset + length` in pages: page number, first byte in it, byte count.
fn spans(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let first = at % PAGE;
            let count = (PAGE - first).min(end - at);
            let span = (at / PAGE, first, count);
            at += count;
            let small = |number| usize::try_from(number).unwrap_or(PAGE_BYTES);
            (span.0, small(span.1), small(span.2))
        })
    })
}

impl Content {
    /// Bytes of the file as programs see it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.live.size
    }

    /// Bytes it takes on the device.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        u64::try_from(self.live.pages.len()).unwrap_or(0) * PAGE
    }

    /// Bytes a write would newly take on the device.
    #[must_use]
    pub fn grows_by(&self, offset: u64, length: usize) -> u64 {
        let new = spans(offset, length).filter(|span| !self.live.pages.contains_key(&span.0));
        u64::try_from(new.count()).unwrap_or(0) * PAGE
    }

    /// Whether something was written since the last sync that went well.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.live.size != self.durable.size
    }

    /// Reads at `offset`; answers the bytes read.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> usize {
        let left = self.live.size.saturating_sub(offset);
        let length = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut rest = into;
        for (number, first, count) in spans(offset, length) {
            let (part, after) = rest.split_at_mut(count);
            let page = self.live.pages.get(&number);
            match page.and_then(|page| page.get(first..first + count)) {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.fill(0),
            }
            rest = after;
        }
        length
    }

    /// Writes at `offset`.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) {
        let mut rest = bytes;
        for (number, first, count) in spans(offset, bytes.len()) {
            let (part, after) = rest.split_at(count);
            let page = self.live.pages.entry(number);
            let page = Arc::make_mut(page.or_insert_with(|| Arc::new([0; PAGE_BYTES])));
            for (to, from) in page.iter_mut().skip(first).zip(part) {
                *to = *from;
            }
            self.dirty.insert(number);
            rest = after;
        }
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        self.live.size = self.live.size.max(if bytes.is_empty() { 0 } else { end });
    }

    /// Cuts or extends the file.
    pub fn set_len(&mut self, size: u64) {
        if size < self.live.size {
            let gone: Vec<u64> = self.live.pages.range(size / PAGE..).map(|p| *p.0).collect();
            self.dirty.extend(gone);
        }
        self.live.size = size;
        self.live.clip();
    }

    /// Begins a sync: what was written until now will be durable when it ends.
    pub fn begin_sync(&mut self) -> SyncTicket {
        self.syncs_begun += 1;
        let page = |number: &u64| (*number, self.live.pages.get(number).cloned());
        SyncTicket {
            number: self.syncs_begun,
            pages: self.dirty.iter().map(page).collect(),
            size: self.live.size,
        }
    }

    /// Ends a sync well. One that began before another that already ended changes nothing: the
    /// later one covered all of it. Answers whether the durable size changed.
    pub fn end_sync(&mut self, ticket: SyncTicket) -> bool {
        if ticket.number < self.newest_sync {
            return false;
        }
        let is_resized = self.durable.size != ticket.size;
        self.newest_sync = ticket.number;
        for (number, page) in ticket.pages {
            self.forget_dirty(number, page.as_ref());
            self.durable.set(number, page);
        }
        self.durable.size = ticket.size;
        self.durable.clip();
        is_resized
    }

    /// Ends a sync with a failure: what it covered is neither durable nor dirty.
    pub fn fail_sync(&mut self, ticket: SyncTicket) {
        for (number, page) in ticket.pages {
            self.forget_dirty(number, page.as_ref());
        }
    }

    fn forget_dirty(&mut self, number: u64, synced: Option<&Page>) {
        let is_same = match (self.live.pages.get(&number), synced) {
            (Some(live), Some(synced)) => Arc::ptr_eq(live, synced),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            self.dirty.remove(&number);
        }
    }

    /// A power cut: afterwards programs see what the device holds.
    pub fn lose_power(&mut self, fate: Fate, random: &mut Random) {
        let size = match fate {
            Fate::Keep => self.live.size,
            Fate::Lose => self.durable.size,
            Fate::Blocks { .. } if random.chance(500) => self.live.size,
            Fate::Blocks { .. } => self.durable.size,
        };
        for number in std::mem::take(&mut self.dirty) {
            match fate {
                Fate::Keep => self
                    .durable
                    .set(number, self.live.pages.get(&number).cloned()),
                Fate::Lose => {}
                Fate::Blocks {
                    keep_permille,
                    has_torn,
                } => {
                    let page = self.mixed(number, keep_permille, has_torn, random);
                    self.durable.set(number, Some(Arc::new(page)));
                }
            }
        }
        self.durable.size = size;
        self.durable.clip();
        self.live = self.durable.clone();
    }

    fn mixed(
        &self,
        number: u64,
        keep_permille: u64,
        has_torn: bool,
        random: &mut Random,
    ) -> [u8; PAGE_BYTES] {
        let of = |image: &Pages| {
            image
                .pages
                .get(&number)
                .map_or([0; PAGE_BYTES], |page| **page)
        };
        let (mut mixed, live) = (of(&self.durable), of(&self.live));
        let blocks = mixed.chunks_mut(BLOCK_BYTES).zip(live.chunks(BLOCK_BYTES));
        for (old, new) in blocks {
            if random.chance(keep_permille) {
                let is_torn = has_torn && random.chance(50);
                let kept = if is_torn {
                    random.index(BLOCK_BYTES)
                } else {
                    BLOCK_BYTES
                };
                for (old, new) in old.iter_mut().zip(new).take(kept) {
                    *old = *new;
                }
            }
        }
        mixed
    }

    /// Flips bits of a byte on the device and in the cache: rot.
    pub fn flip(&mut self, offset: u64, mask: u8) {
        let (number, at) = (offset / PAGE, usize::try_from(offset % PAGE).unwrap_or(0));
        for image in [&mut self.live, &mut self.durable] {
            if offset < image.size {
                let page = image.pages.entry(number);
                let page = Arc::make_mut(page.or_insert_with(|| Arc::new([0; PAGE_BYTES])));
                page.iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= mask);
            }
        }
    }

    /// Makes the page that holds `offset` zeros, on the device and in the cache: rot.
    pub fn zero(&mut self, offset: u64) {
        self.live.pages.remove(&(offset / PAGE));
        self.durable.pages.remove(&(offset / PAGE));
    }

    /// Cuts the file on the device and in the cache: rot.
    pub fn rot_to(&mut self, size: u64) {
        for image in [&mut self.live, &mut self.durable] {
            image.size = image.size.min(size);
            image.clip();
        }
        let kept = size.div_ceil(PAGE);
        self.dirty.split_off(&kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(content.size()).unwrap()];
        assert_eq!(content.read_at(&mut bytes, 0), bytes.len());
        bytes
    }

    fn synced(content: &mut Content) {
        let ticket = content.begin_sync();
        content.end_sync(ticket);
    }

    #[test]
    fn synced_content_survives_a_power_cut_and_unsynced_may_not() {
        let mut content = Content::default();
        content.write_at(b"old", 5000);
        synced(&mut content);
        content.write_at(b"new", 5000);
        content.write_at(b"more", 9000);
        content.lose_power(Fate::Lose, &mut Random::new(1));
        assert_eq!(content.size(), 5003);
        assert!(bytes_of(&content).ends_with(b"old"));
        content.write_at(b"new", 5000);
        content.lose_power(Fate::Keep, &mut Random::new(1));
        assert!(bytes_of(&content).ends_with(b"new"));
    }

    #[test]
    fn a_power_cut_mixes_old_and_new_blocks_only() {
        let mut content = Content::default();
        content.write_at(&[1; 8192], 0);
        synced(&mut content);
        content.write_at(&[2; 8192], 0);
        let fate = Fate::Blocks {
            keep_permille: 500,
            has_torn: false,
        };
        content.lose_power(fate, &mut Random::new(3));
        let bytes = bytes_of(&content);
        let firsts: BTreeSet<u8> = bytes.iter().copied().collect();
        assert_eq!(firsts, BTreeSet::from([1, 2]));
        for block in bytes.chunks(BLOCK_BYTES) {
            assert!(block.iter().all(|byte| *byte == block[0]));
        }
    }

    #[test]
    fn a_sync_covers_only_what_was_written_before_it_began() {
        let mut content = Content::default();
        content.write_at(b"one", 0);
        let ticket = content.begin_sync();
        content.write_at(b"two", 0);
        content.end_sync(ticket);
        assert!(content.is_dirty());
        content.lose_power(Fate::Lose, &mut Random::new(1));
        assert_eq!(bytes_of(&content), b"one");
    }

    #[test]
    fn a_slow_sync_does_not_bring_old_bytes_back() {
        let mut content = Content::default();
        content.write_at(b"one", 0);
        let slow = content.begin_sync();
        content.write_at(b"two", 0);
        synced(&mut content);
        content.end_sync(slow);
        content.lose_power(Fate::Lose, &mut Random::new(1));
        assert_eq!(bytes_of(&content), b"two");
    }

    /// Promise D4: the second sync after a failed one succeeds falsely.
    #[test]
    fn a_failed_sync_is_not_mended_by_the_next() {
        let mut content = Content::default();
        content.write_at(b"one", 0);
        synced(&mut content);
        content.write_at(b"two", 0);
        let ticket = content.begin_sync();
        content.fail_sync(ticket);
        synced(&mut content);
        assert_eq!(bytes_of(&content), b"two");
        content.lose_power(Fate::Keep, &mut Random::new(1));
        assert_eq!(bytes_of(&content), b"one");
    }

    proptest! {
        #[test]
        fn content_equals_a_vector_of_bytes(
            steps in proptest::collection::vec((0u8..3, 0u64..20_000, 0usize..9000), 1..20)
        ) {
            let (mut content, mut model) = (Content::default(), Vec::<u8>::new());
            for (number, (what, offset, length)) in steps.into_iter().enumerate() {
                let at = usize::try_from(offset).unwrap();
                match what {
                    0 => {
                        let bytes = vec![u8::try_from(number + 1).unwrap(); length];
                        content.write_at(&bytes, offset);
                        if length > 0 {
                            model.resize(model.len().max(at + length), 0);
                            model[at..at + length].copy_from_slice(&bytes);
                        }
                    }
                    1 => {
                        content.set_len(offset);
                        model.resize(at, 0);
                    }
                    _ => {
                        synced(&mut content);
                        content.lose_power(Fate::Lose, &mut Random::new(offset));
                    }
                }
                prop_assert_eq!(&bytes_of(&content), &model);
            }
        }
    }
}
