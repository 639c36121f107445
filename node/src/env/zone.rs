//! [adapter] The time zone of this machine: `TZ`, else `/etc/localtime`.

use crate::zone::{ZONE_BYTES, Zone};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

const LOCAL: &str = "/etc/localtime";
const ZONES: &str = "/usr/share/zoneinfo";

/// The zone of this machine; UTC where none can be read.
pub(crate) fn local() -> Zone {
    let named = std::env::var("TZ").ok();
    let path = named.map_or_else(|| Some(PathBuf::from(LOCAL)), |name| file_of(&name));
    path.and_then(|path| read(&path)).unwrap_or_default()
}

/// The file that a value of `TZ` names; `None`: none, so that UTC holds, as it does for `TZ=`.
fn file_of(name: &str) -> Option<PathBuf> {
    let name = name.strip_prefix(':').unwrap_or(name);
    let path = Path::new(name);
    let mut parts = path.components();
    let is_below = parts.all(|part| matches!(part, Component::Normal(_)));
    (!name.is_empty() && (is_below || path.is_absolute())).then(|| Path::new(ZONES).join(path))
}

fn read(path: &Path) -> Option<Zone> {
    let mut bytes = Vec::new();
    let most = u64::try_from(ZONE_BYTES).unwrap_or(u64::MAX);
    File::open(path)
        .ok()?
        .take(most)
        .read_to_end(&mut bytes)
        .ok()?;
    Zone::parse(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_named_or_is_a_file() {
        let file = |name| file_of(name).map(|path| path.display().to_string());
        let paris = Some("/usr/share/zoneinfo/Europe/Paris".to_owned());
        assert_eq!(file("Europe/Paris"), paris);
        assert_eq!(file(":Europe/Paris"), paris);
        assert_eq!(file("/etc/zone"), Some("/etc/zone".to_owned()));
        assert_eq!(file("../../etc/passwd"), None);
        assert_eq!(file(""), None);
        assert_eq!(read(Path::new("/no/such/zone")), None);
    }
}
