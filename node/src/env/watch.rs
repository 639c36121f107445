//! [adapter] Hints of changes below a directory, by notify. The scan is the truth (rule DE-5).
//!
//! What is told: every event but reads, as the path it names; a lost event, a failed watch or a
//! full queue as [`Hint::Everything`]. Files that appear in a new directory before it is watched
//! raise no event at all, so a new directory is told twice: at once, and again once the watch on
//! it stands. When the system has no watches left, one last [`Hint::Everything`] is told and the
//! queue closes: from then on only scans find changes.

use aber_log::env::disk::Hint;
use notify::event::{AccessKind, AccessMode, CreateKind, MetadataKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// A watch on a new directory stands well before this; also how soon a dropped queue is noticed.
const AGAIN_TIME: Duration = Duration::from_millis(500);
/// New directories remembered for the second hint; more of them fold into one for everything.
const AGAIN_PATHS: usize = 1024;

/// Watches `root` and all below it; the watch ends when the receiver is dropped.
pub(super) fn hints(root: &Path, bound: usize) -> Option<mpsc::Receiver<Hint>> {
    // One place more, for the hint that stands for all that did not fit.
    let (sender, receiver) = mpsc::channel(bound.checked_add(1)?.max(2));
    let funnel = Arc::new(Mutex::new(Funnel::new(sender)));
    let (told, path) = (Arc::clone(&funnel), root.to_path_buf());
    let on_event = move |event: notify::Result<Event>| {
        let heard = hear(&path, event);
        told.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(heard);
    };
    let config = Config::default().with_follow_symlinks(false);
    let watching = RecommendedWatcher::new(on_event, config).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    match watching {
        Ok(watcher) => {
            let work = move || keep(watcher, &funnel);
            let named = std::thread::Builder::new().name("aber-watch".to_owned());
            // Without a thread to hold it the watcher is gone and the queue closed.
            named.spawn(work).ok().map(|_| receiver)
        }
        Err(error) => {
            tracing::warn!(path = ?root, %error, "not watched; only scans find changes");
            let heard = Heard::Over;
            funnel
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(heard);
            Some(receiver)
        }
    }
}

/// Holds the watcher until nobody listens or it is of no more use.
fn keep(watcher: RecommendedWatcher, funnel: &Mutex<Funnel>) {
    loop {
        std::thread::sleep(AGAIN_TIME);
        let mut funnel = funnel.lock().unwrap_or_else(PoisonError::into_inner);
        if funnel.is_over() {
            break;
        }
        funnel.tell_again();
    }
    drop(watcher);
}

/// What one event of notify means.
#[derive(PartialEq, Eq, Debug)]
enum Heard {
    Nothing,
    Paths(Vec<PathBuf>),
    /// A directory that is not watched yet.
    NewDirectory(PathBuf),
    Everything,
    /// The last hint: nothing will be heard any more.
    Over,
}

fn hear(root: &Path, event: notify::Result<Event>) -> Heard {
    let event = match event {
        Ok(event) => event,
        Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
            tracing::warn!(
                path = ?root,
                "the system has no watches left (sysctl fs.inotify.max_user_watches); \
                 only scans find changes"
            );
            return Heard::Over;
        }
        Err(error) => {
            tracing::info!(path = ?root, %error, "an event was lost");
            return Heard::Everything;
        }
    };
    // Before anything else: this one carries no path.
    if event.need_rescan() {
        return Heard::Everything;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return Heard::Nothing,
        // Both ends of it were told by the two events before.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return Heard::Nothing,
        _ => {}
    }
    let is_root = event.paths.iter().any(|path| path == root);
    if is_root {
        let is_only_meta = matches!(
            event.kind,
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)) | EventKind::Access(_)
        );
        return if is_only_meta {
            Heard::Nothing
        } else {
            Heard::Everything
        };
    }
    let paths = event.paths.iter();
    let mut paths = paths.filter_map(|path| Some(path.strip_prefix(root).ok()?.to_path_buf()));
    match event.kind {
        EventKind::Create(CreateKind::Folder)
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            paths.next().map_or(Heard::Nothing, Heard::NewDirectory)
        }
        _ => Heard::Paths(paths.collect()),
    }
}

/// Puts what was heard into the bounded queue, and folds what does not fit.
struct Funnel {
    /// `None` once it is over; that closes the queue.
    sender: Option<mpsc::Sender<Hint>>,
    /// The hint told last. While anything is queued, so is this one.
    last: Option<Hint>,
    again: BTreeSet<PathBuf>,
    /// New directories of this interval: their watch may not stand yet.
    fresh: BTreeSet<PathBuf>,
}

impl Funnel {
    fn new(sender: mpsc::Sender<Hint>) -> Self {
        Self {
            sender: Some(sender),
            last: None,
            again: BTreeSet::new(),
            fresh: BTreeSet::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.sender.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Paths(paths) => {
                for path in paths {
                    self.tell(Hint::Path(path));
                }
            }
            Heard::NewDirectory(path) => {
                if self.fresh.len() < AGAIN_PATHS {
                    self.fresh.insert(path.clone());
                } else {
                    // The root stands for all of them.
                    self.fresh = BTreeSet::from([PathBuf::new()]);
                }
                self.tell(Hint::Path(path));
            }
            Heard::Everything => self.tell(Hint::Everything),
            Heard::Over => {
                self.tell(Hint::Everything);
                self.sender = None;
            }
        }
    }

    /// Tells the new directories of the interval before the last one again.
    fn tell_again(&mut self) {
        for path in std::mem::take(&mut self.again) {
            let is_root = path.as_os_str().is_empty();
            self.tell(if is_root {
                Hint::Everything
            } else {
                Hint::Path(path)
            });
        }
        self.again = std::mem::take(&mut self.fresh);
    }

    fn tell(&mut self, hint: Hint) {
        let Some(sender) = &self.sender else { return };
        let free = sender.capacity();
        let is_queued = free < sender.max_capacity();
        // What is queued has not been acted on, so it covers what happens until it is.
        if is_queued && (self.last == Some(Hint::Everything) || self.last.as_ref() == Some(&hint)) {
            return;
        }
        let hint = if free > 1 { hint } else { Hint::Everything };
        // There is room, or nobody listens any more.
        let _ = sender.try_send(hint.clone());
        self.last = Some(hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{DataChange, Flag};

    fn path(text: &str) -> Hint {
        Hint::Path(PathBuf::from(text))
    }

    fn heard(kind: EventKind, paths: &[&str]) -> Heard {
        let mut event = Event::new(kind);
        for path in paths {
            event = event.add_path(PathBuf::from(path));
        }
        hear(Path::new("/f"), Ok(event))
    }

    /// DE-5: a lost event has no path and still means a scan.
    #[test]
    fn events_are_judged_by_kind() {
        use notify::event::{AccessKind::Open, RemoveKind};
        let rescan = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(hear(Path::new("/f"), Ok(rescan)), Heard::Everything);
        let full = notify::Error::new(ErrorKind::MaxFilesWatch);
        assert_eq!(hear(Path::new("/f"), Err(full)), Heard::Over);
        let open = EventKind::Access(Open(AccessMode::Any));
        assert_eq!(heard(open, &["/f/a"]), Heard::Nothing);
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(heard(close, &["/f/a"]), Heard::Paths(vec!["a".into()]));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert_eq!(
            heard(written, &["/f/a/b"]),
            Heard::Paths(vec!["a/b".into()])
        );
        let made = EventKind::Create(CreateKind::Folder);
        assert_eq!(heard(made, &["/f/d"]), Heard::NewDirectory("d".into()));
        let both = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        assert_eq!(heard(both, &["/f/a", "/f/b"]), Heard::Nothing);
        assert_eq!(
            heard(EventKind::Remove(RemoveKind::Folder), &["/f"]),
            Heard::Everything
        );
    }

    #[test]
    fn a_full_queue_folds_into_everything_and_recovers() {
        let (sender, mut queue) = mpsc::channel(3);
        let mut funnel = Funnel::new(sender);
        for name in ["a", "a", "b", "c", "d"] {
            funnel.take(Heard::Paths(vec![name.into()]));
        }
        let mut told = Vec::new();
        while let Ok(hint) = queue.try_recv() {
            told.push(hint);
        }
        assert_eq!(told, [path("a"), path("b"), Hint::Everything]);
        funnel.take(Heard::Paths(vec!["e".into()]));
        assert_eq!(queue.try_recv(), Ok(path("e")));
    }

    #[test]
    fn a_new_directory_is_told_again_after_an_interval() {
        let (sender, mut queue) = mpsc::channel(8);
        let mut funnel = Funnel::new(sender);
        funnel.take(Heard::NewDirectory("d".into()));
        assert_eq!(queue.try_recv(), Ok(path("d")));
        funnel.tell_again();
        assert!(queue.try_recv().is_err());
        funnel.tell_again();
        assert_eq!(queue.try_recv(), Ok(path("d")));
        funnel.tell_again();
        assert!(queue.try_recv().is_err());
    }

    #[test]
    fn the_watch_limit_is_one_last_hint() {
        let (sender, mut queue) = mpsc::channel(8);
        let mut funnel = Funnel::new(sender);
        funnel.take(Heard::Over);
        assert!(funnel.is_over());
        assert_eq!(queue.try_recv(), Ok(Hint::Everything));
        assert_eq!(
            queue.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }
}
