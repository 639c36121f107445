//! Looks at mirrors until all hold something. What stands in a mirror is whole: its name is enough.

use super::super::slow::count_files;
use anyhow::Result;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a mirror is to hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// The file of this place.
    File,
    /// So many files below it.
    Files(usize),
}

impl Wanted {
    /// Between two looks: a look at a thousand files of sixteen mirrors takes some milliseconds.
    fn pause(self) -> Duration {
        match self {
            Self::File => Duration::from_millis(3),
            Self::Files(_) => Duration::from_millis(40),
        }
    }

    fn is_at(self, place: &PathBuf) -> bool {
        match self {
            Self::File => std::fs::symlink_metadata(place).is_ok(),
            Self::Files(count) => count_files(place) >= count,
        }
    }
}

/// Seconds from `began` until each place held it; `None`: not within the patience. `each` is called
/// with the seconds after every look.
pub(super) fn watch(
    places: &[PathBuf],
    wanted: Wanted,
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
    fn a_tree_is_there_once_every_file_is() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().to_owned();
        std::fs::create_dir(place.join("d")).unwrap();
        std::fs::write(place.join("d/a"), "x").unwrap();
        assert!(Wanted::Files(1).is_at(&place) && !Wanted::Files(2).is_at(&place));
    }
}
