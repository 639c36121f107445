//! Data to measure with: the same bytes on each machine, from fixed seeds.

use anyhow::Result;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Half of all data are words out of this many, some of them much more frequent than others.
const WORDS: u64 = 20_000;
const PIECE_BYTES: usize = 1 << 20;

/// A generator of numbers (splitmix64): quick, and good enough to be incompressible.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn random(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Words, lines, and now and then what stood before: compresses about as source text does.
    pub(crate) fn text(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 64);
        while bytes.len() < length {
            if self.below(5) < 2 {
                self.repeat(&mut bytes);
            } else {
                self.word(&mut bytes);
            }
        }
        bytes.truncate(length);
        bytes
    }

    fn word(&mut self, bytes: &mut Vec<u8>) {
        // The product of two is small more often than large: few words are most of the text.
        let word = self.below(WORDS) * self.below(WORDS) / WORDS;
        let mut letters = Self::new(word.wrapping_mul(0xA5A5_A5A5_1234_5677));
        for _ in 0..2 + letters.below(8) {
            let letter = u8::try_from(letters.below(26)).unwrap_or(0);
            bytes.push(b'a' + letter);
        }
        bytes.push(if self.below(9) == 0 { b'\n' } else { b' ' });
    }

    fn repeat(&mut self, bytes: &mut Vec<u8>) {
        let length = 8 + usize::try_from(self.below(40)).unwrap_or(0);
        let back = length + usize::try_from(self.below(16 * 1024)).unwrap_or(0);
        if let Some(from) = bytes.len().checked_sub(back) {
            bytes.extend_from_within(from..from + length);
        }
    }
}

/// `count` files of 1–16 KiB in 100 directories, half text, half random; answers their bytes.
pub(crate) fn small_files(into: &Path, count: usize) -> Result<u64> {
    let mut numbers = Numbers::new(42);
    let mut total = 0;
    for i in 0..count {
        let directory = into.join(format!("d{:02}", i % 100));
        std::fs::create_dir_all(&directory)?;
        let doublings = numbers.below(4);
        // Uniform within a doubling, all four doublings alike: about log-uniform.
        let length = usize::try_from((1024 + numbers.below(1024)) << doublings)?;
        let body = if i % 2 == 0 {
            numbers.text(length)
        } else {
            numbers.random(length)
        };
        std::fs::write(directory.join(format!("f{i:05}")), &body)?;
        total += body.len() as u64;
    }
    Ok(total)
}

/// One file, a MiB of random bytes and a MiB of text by turns.
pub(crate) fn big_file(path: &Path, length: u64) -> Result<()> {
    let mut numbers = Numbers::new(43);
    let mut file = BufWriter::with_capacity(PIECE_BYTES, std::fs::File::create(path)?);
    let mut left = usize::try_from(length)?;
    let mut is_text = true;
    while left > 0 {
        let piece = left.min(PIECE_BYTES);
        let body = if is_text {
            numbers.text(piece)
        } else {
            numbers.random(piece)
        };
        file.write_all(&body)?;
        (left, is_text) = (left - piece, !is_text);
    }
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_the_same_each_time() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let total = small_files(a.path(), 40).unwrap();
        assert_eq!(total, small_files(b.path(), 40).unwrap());
        let file = "d07/f00007";
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).unwrap();
        assert_eq!(read(&a), read(&b));
        assert!((1024..16 * 1024).contains(&read(&a).len()));
    }

    #[test]
    fn text_compresses_and_random_bytes_do_not() {
        let mut numbers = Numbers::new(1);
        let (text, random) = (numbers.text(1 << 16), numbers.random(1 << 16));
        let ratio = text.len() * 100 / lz4_flex::block::compress(&text).len();
        assert!((180..320).contains(&ratio), "{ratio} %");
        assert!(lz4_flex::block::compress(&random).len() >= random.len());
    }
}
