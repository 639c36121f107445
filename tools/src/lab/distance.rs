//! Distance between hosts: each frame waits before it reaches the switch.
//!
//! Kernels that can delay frames themselves (`netem`) are not everywhere. Here a host's cable and
//! the switch's port end in two taps (macvtap), and a thread carries frames between them: those of
//! the host after a while, those for it at once. It ends with the lab.

use super::system::run;
use super::{Host, Name};
use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A frame and the header that taps put before it; bundles of frames are none in a lab.
const FRAME_BYTES_MAX: usize = 2048;
/// Frames on their way from one host: 20 ms of 100 Mbit/s are 170.
const FRAMES_MAX: usize = 4096;
/// Of one tap before the next is looked at.
const FRAMES_AT_ONCE: usize = 64;
/// How often it is looked whether the lab ends.
const LOOK: Duration = Duration::from_millis(50);

/// Carries frames until it is dropped.
#[derive(Debug)]
pub(super) struct Distance {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A host's two taps: of its cable, and of the switch's port.
#[derive(Debug)]
pub(super) struct Taps {
    cable: OwnedFd,
    port: OwnedFd,
}

impl Taps {
    /// Makes them for a host whose cable lies in the switch's namespace and is plugged in nowhere.
    pub(super) fn make(name: &Name, host: Host) -> Result<Self> {
        let switch = name.switch();
        let ip = |words: &[&str]| run(&[&["ip", "-n", &switch], words].concat());
        let number = host.number();
        let (inner, outer) = (format!("q{number}"), format!("r{number}"));
        ip(&[
            "link", "add", "name", &inner, "type", "veth", "peer", "name", &outer,
        ])?;
        for link in [&inner, &outer] {
            ip(&["link", "set", link, "addrgenmode", "none"])?;
        }
        ip(&["link", "set", &outer, "master", "br0", "up"])?;
        ip(&["link", "set", &inner, "up"])?;
        Ok(Self {
            cable: tap(&switch, &host.port(), &format!("t{number}"))?,
            port: tap(&switch, &inner, &format!("u{number}"))?,
        })
    }
}

/// A tap on an interface: what comes in there is read, what is written goes out there.
fn tap(switch: &str, below: &str, name: &str) -> Result<OwnedFd> {
    let ip = |words: &[&str]| run(&[&["ip", "-n", switch], words].concat());
    ip(&[
        "link", "add", "link", below, "name", name, "type", "macvtap", "mode", "passthru",
    ])?;
    ip(&["link", "set", name, "addrgenmode", "none"])?;
    // What goes to many hosts is for this one tap too.
    ip(&[
        "link",
        "set",
        name,
        "promisc",
        "on",
        "allmulticast",
        "on",
        "up",
    ])?;
    // The kernel's own node is named after a number that another lab may have too.
    let told = run(&[
        "ip",
        "netns",
        "exec",
        switch,
        "sh",
        "-c",
        &format!("cat /sys/class/net/{name}/macvtap/*/dev"),
    ])?;
    let numbers = told.trim().split_once(':');
    let (major, minor) = numbers.with_context(|| format!("{name}: {told}"))?;
    let device = makedev(major.parse()?, minor.parse()?);
    let node = format!("/dev/aberlab-{}-{switch}-{name}", std::process::id());
    let node = Path::new(&node);
    mknodat(
        CWD,
        node,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        device,
    )
    .context("a tap's node")?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(node, flags, Mode::empty());
    rustix::fs::unlink(node)?;
    opened.context("a tap")
}

impl Distance {
    /// Carries between all these from now on.
    pub(super) fn start(all: Vec<Taps>, delay: Duration) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        let mut lines: Vec<Line> = all.into_iter().map(Line::new).collect();
        let thread = std::thread::Builder::new()
            .name("distance".to_owned())
            .spawn(move || {
                while !flag.load(Ordering::SeqCst) {
                    carry(&mut lines, delay);
                }
            })?;
        Ok(Self {
            is_over,
            thread: Some(thread),
        })
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A host's taps, and what is on its way from it.
#[derive(Debug)]
struct Line {
    taps: Taps,
    /// In the order of their time: all wait alike.
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

impl Line {
    fn new(taps: Taps) -> Self {
        Self {
            taps,
            waiting: VecDeque::new(),
        }
    }

    /// Sends what has waited long enough; answers how long the next has to.
    fn send_due(&mut self, now: Instant) -> Option<Duration> {
        while self.waiting.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, frame)) = self.waiting.pop_front() {
                write(&self.taps.port, &frame);
            }
        }
        let (due, _) = self.waiting.front()?;
        Some(due.saturating_duration_since(now))
    }

    fn take(&mut self, due: Instant) {
        for _ in 0..FRAMES_AT_ONCE {
            let Some(frame) = read(&self.taps.cable) else {
                break;
            };
            // A full queue loses frames, as any line's does.
            if self.waiting.len() < FRAMES_MAX {
                self.waiting.push_back((due, frame));
            }
        }
        for _ in 0..FRAMES_AT_ONCE {
            let Some(frame) = read(&self.taps.port) else {
                break;
            };
            write(&self.taps.cable, &frame);
        }
    }
}

/// Waits for frames, or until one is due, and passes on what can be.
fn carry(lines: &mut [Line], delay: Duration) {
    let now = Instant::now();
    let next = lines.iter_mut().filter_map(|line| line.send_due(now));
    let wait = next.min().unwrap_or(LOOK).min(LOOK);
    let ends = lines
        .iter()
        .flat_map(|line| [&line.taps.cable, &line.taps.port]);
    let mut ends: Vec<PollFd<'_>> = ends.map(|end| PollFd::new(end, PollFlags::IN)).collect();
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    let is_any = poll(&mut ends, Some(&wait)).is_ok_and(|count| count > 0);
    let all_well = ends
        .iter()
        .all(|end| !end.revents().intersects(PollFlags::ERR | PollFlags::HUP));
    if !all_well {
        // Its lab is going.
        std::thread::sleep(LOOK);
    }
    if is_any {
        let due = Instant::now() + delay;
        lines.iter_mut().for_each(|line| line.take(due));
    }
}

fn read(tap: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    let length = rustix::io::read(tap, frame.as_mut_slice()).ok();
    frame.truncate(length.filter(|length| *length > 0)?);
    Some(frame)
}

fn write(tap: &OwnedFd, frame: &[u8]) {
    // A frame that does not go is lost, as on any line.
    let _ = rustix::io::write(tap, frame);
}

/// Refuses a distance that would not be one.
pub(super) fn check(delay: Duration) -> Result<()> {
    let most = Duration::from_secs(2);
    ensure!(delay <= most, "hosts are at most 2 s apart");
    Ok(())
}
