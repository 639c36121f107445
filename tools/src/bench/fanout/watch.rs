//! Looks at mirrors until all hold something. What stands in a mirror is whole: its name is enough.

use super::super::slow::count_files;
use anyhow::Result;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SAMPLES: usize = 256;
const SAMPLE_BYTES: usize = 32;

/// What a mirror is to hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// The file of this place, which is whole as soon as it has its name.
    File,
    /// A file of these bytes, which has its name before it is whole.
    Bytes(&'a [u8]),
    /// So many files below it; while this one of them is missing, counting is in vain.
    Files(usize, &'a str),
}

impl Wanted<'_> {
    /// Between two looks: the nodes need the processors more.
    fn pause(self) -> Duration {
        match self {
            Self::File => Duration::from_millis(3),
            Self::Files(..) => Duration::from_millis(10),
            Self::Bytes(_) => Duration::from_millis(100),
        }
    }

    fn is_at(self, place: &Path) -> bool {
        match self {
            Self::File => std::fs::symlink_metadata(place).is_ok(),
            Self::Files(count, one) => place.join(one).exists() && count_files(place) >= count,
            Self::Bytes(bytes) => is_equal(place, bytes),
        }
    }
}

/// Seconds from `began` until each place held it; `None`: not within the patience. `each` is called
/// with the seconds after every look.
pub(super) fn watch(
    places: &[PathBuf],
    wanted: Wanted<'_>,
    began: Instant,
    patience: Duration,
    mut each: impl FnMut(f64) -> Result<()>,
) -> Result<Vec<Option<f64>>> {
    let mut times = vec![None; places.len()];
    loop {
        for (place, time) in places.iter().zip(&mut times) {
            if time.is_none() && wanted.is_at(place) {
                *time = Some(began.elapsed().as_secs_f64());
            }
        }
        let is_over = times.iter().all(Option::is_some) || began.elapsed() > patience;
        each(began.elapsed().as_secs_f64())?;
        if is_over {
            return Ok(times);
        }
        sleep(wanted.pause());
    }
}

/// Looks at a few places first: most looks come long before the file is whole.
fn is_equal(place: &Path, bytes: &[u8]) -> bool {
    let Ok(file) = std::fs::File::open(place) else {
        return false;
    };
    if file.metadata().map_or(0, |found| found.len()) != bytes.len() as u64 {
        return false;
    }
    let step = (bytes.len() / SAMPLES).max(SAMPLE_BYTES);
    let samples = bytes.chunks(step).enumerate().all(|(at, piece)| {
        let wanted = piece.get(..SAMPLE_BYTES).unwrap_or(piece);
        let mut found = vec![0; wanted.len()];
        let read = file.read_exact_at(&mut found, (at * step) as u64);
        read.is_ok() && found == wanted
    });
    samples && std::fs::read(place).is_ok_and(|found| found == bytes)
}

/// When the last one had it; infinite where one never did: slower than any other round.
pub(super) fn last(times: &[Option<f64>]) -> f64 {
    let times = times.iter().map(|time| time.unwrap_or(f64::INFINITY));
    times.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_never_holds_it_makes_the_round_infinite() {
        let home = tempfile::tempdir().unwrap();
        let (there, missing) = (home.path().join("a"), home.path().join("b"));
        std::fs::write(&there, "x").unwrap();
        let patience = Duration::from_millis(20);
        let places = [there.clone(), missing];
        let times = watch(&places, Wanted::File, Instant::now(), patience, |_| Ok(())).unwrap();
        assert!(times[0].is_some() && times[1].is_none());
        assert!(last(&times).is_infinite() && last(&times[..1]).is_finite());
    }

    #[test]
    fn a_file_with_a_hole_is_not_whole() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("f");
        let bytes = vec![7; 100_000];
        let mut holed = bytes.clone();
        holed[50_000] = 0;
        std::fs::write(&place, &holed).unwrap();
        assert!(!Wanted::Bytes(&bytes).is_at(&place));
        std::fs::write(&place, &bytes[..99_999]).unwrap();
        assert!(!Wanted::Bytes(&bytes).is_at(&place));
        std::fs::write(&place, &bytes).unwrap();
        assert!(Wanted::Bytes(&bytes).is_at(&place));
    }

    #[test]
    fn a_tree_is_there_once_every_file_is() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().to_owned();
        std::fs::create_dir(place.join("d")).unwrap();
        std::fs::write(place.join("d/a"), "x").unwrap();
        assert!(Wanted::Files(1, "d/a").is_at(&place));
        assert!(!Wanted::Files(2, "d/a").is_at(&place));
        assert!(!Wanted::Files(1, "d/b").is_at(&place));
    }
}
