//! A network lab: hosts at the ends of slow lines, on one Linux machine.
//!
//! Each host is a network namespace, with a cable (veth) to a bridge in a namespace of its own:
//!
//! ```text
//! aberlab-NAME-h1: eth0 (its uplink's rate) ── p1 (its downlink's rate) : aberlab-NAME-sw, br0
//! aberlab-NAME-h2: eth0                     ── p2
//! ```
//!
//! Hosts may be made far from each other: then a thread of the program carries each frame from its
//! cable to the switch, after a while, and the lab lives no longer than the program.
//!
//! The namespaces are all there is of a lab: what it is called, which hosts it has and what their
//! lines carried is read from them, so there is no state that could be stale. The machine's own
//! interfaces, addresses and routes are never touched. Needs root, `ip` and `tc` (Debian:
//! iproute2).

pub mod command;
mod distance;
mod plan;
mod system;

pub use plan::{Host, Name, Plan, Rate};

use anyhow::{Context as _, Result, bail, ensure};
use distance::{Distance, Taps};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use system::{run, run_with};

/// How long processes inside may take to end by themselves.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// How long killed ones may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Set when the program was told to stop: nothing further is made.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);

/// From now on no lab is made any more, and one that is being made is removed again.
pub fn stop_making() {
    IS_STOPPING.store(true, Ordering::SeqCst);
}

/// A lab that is up. The one who made it removes it by dropping it.
#[derive(Debug)]
pub struct Lab {
    name: Name,
    hosts: Vec<Host>,
    /// The namespaces that go away with it, the switch first; none where it was only found.
    made: Vec<String>,
    /// What carries frames, where hosts are far from each other. Ends before the namespaces go.
    distance: Option<Distance>,
}

/// What a host's line carried, in bytes of whole Ethernet frames, counted at the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carried {
    /// Whose line.
    pub host: Host,
    /// What it sent; what its own full queue dropped is not in it.
    pub up_bytes: u64,
    /// What was sent to it.
    pub down_bytes: u64,
}

impl Lab {
    /// Makes a lab. Whatever goes wrong, nothing of it stays.
    ///
    /// # Errors
    /// There is one of that name, or this machine lacks something ([`lacks`] says what).
    pub fn make(plan: &Plan) -> Result<Self> {
        let mut lab = Self {
            name: plan.name.clone(),
            hosts: plan.hosts()?,
            made: Vec::new(),
            distance: None,
        };
        distance::check(plan.delay)?;
        // The switch is the first to come and the last to go: whoever makes it owns the name.
        let switch = plan.name.switch();
        let taken = || format!("a lab {} is up already, or being made", plan.name);
        lab.add_namespace(switch.clone()).with_context(taken)?;
        run_with(&["ip", "-n", &switch, "-batch", "-"], Plan::switch_batch())?;
        for host in lab.hosts.clone() {
            lab.add_host(plan, host)?;
        }
        if !plan.delay.is_zero() {
            let taps = lab.hosts.iter().map(|host| Taps::make(&lab.name, *host));
            let taps = taps.collect::<Result<_>>()?;
            lab.distance = Some(Distance::start(taps, plan.delay)?);
        }
        Ok(lab)
    }

    /// Finds a lab that was made before.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn find(name: &Name) -> Result<Self> {
        let there = system::namespaces();
        ensure!(there.contains(&name.switch()), "no lab {name} is up");
        let mut hosts: Vec<Host> = there.iter().filter_map(|n| name.host_of(n)).collect();
        hosts.sort();
        Ok(Self {
            name: name.clone(),
            hosts,
            made: Vec::new(),
            distance: None,
        })
    }

    /// The names of all labs that are up.
    #[must_use]
    pub fn all() -> Vec<Name> {
        plan::labs(system::namespaces().iter().map(String::as_str))
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Lets it stay when the program ends.
    pub fn keep(mut self) {
        self.made.clear();
    }

    /// Ends what runs inside and removes it.
    ///
    /// # Errors
    /// Something is left.
    pub fn remove(mut self) -> Result<()> {
        self.made.clear();
        remove(&self.name)
    }

    /// A program on a host. Its process id is the program's own.
    ///
    /// # Errors
    /// There is no such host.
    pub fn command(&self, host: Host, program: impl AsRef<OsStr>) -> Result<Command> {
        let namespace = self.namespace(host)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace]).arg(program);
        Ok(command)
    }

    /// The file that stands for a host's namespace.
    ///
    /// # Errors
    /// There is no such host.
    pub fn namespace_file(&self, host: Host) -> Result<PathBuf> {
        Ok(system::file_of(&self.namespace(host)?))
    }

    /// Lets this thread be on a host, for good; the program's other threads stay where they are.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter(namespace: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(namespace, flags, Mode::empty())?;
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), kind).context("a host's namespace")
    }

    /// Pulls a host's cable, or plugs it in.
    ///
    /// # Errors
    /// There is no such host.
    pub fn set_link(&self, host: Host, is_up: bool) -> Result<()> {
        self.namespace(host)?;
        let state = if is_up { "up" } else { "down" };
        let switch = self.name.switch();
        run(&["ip", "-n", &switch, "link", "set", &host.port(), state])?;
        Ok(())
    }

    /// Keeps two hosts from reaching each other, both ways, or lets them again.
    ///
    /// # Errors
    /// There is no such host; or they were not kept apart.
    pub fn set_blocked(&self, pair: [Host; 2], is_blocked: bool) -> Result<()> {
        let [a, b] = pair;
        ensure!(a != b, "{a} and {b} are one host");
        let verb = if is_blocked { "replace" } else { "del" };
        for (from, to) in [(a, b), (b, a)] {
            let namespace = self.namespace(from)?;
            self.namespace(to)?;
            let routes = [("-6", to.ipv6() + "/128"), ("-4", to.ipv4() + "/32")];
            for (family, address) in routes {
                run(&[
                    "ip",
                    "-n",
                    &namespace,
                    family,
                    "route",
                    verb,
                    "unreachable",
                    &address,
                ])?;
            }
        }
        Ok(())
    }

    /// What each line carried since the lab was made.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn carried(&self) -> Result<Vec<Carried>> {
        let text = run(&["ip", "-n", &self.name.switch(), "-s", "-j", "link"])?;
        let links: Value = serde_json::from_str(&text).context("ip -j link")?;
        let row = |host: &Host| {
            let port = host.port();
            let mut links = links.as_array().into_iter().flatten();
            let link = links.find(|link| link.get("ifname") == Some(&Value::from(port.as_str())));
            let bytes = |way: &str| link?.pointer(&format!("/stats64/{way}/bytes"))?.as_u64();
            // What the switch receives is what the host sends.
            let (up, down) = (bytes("rx"), bytes("tx"));
            let known = up
                .zip(down)
                .with_context(|| format!("no counters of {port}"));
            known.map(|(up_bytes, down_bytes)| Carried {
                host: *host,
                up_bytes,
                down_bytes,
            })
        };
        self.hosts.iter().map(row).collect()
    }

    fn namespace(&self, host: Host) -> Result<String> {
        ensure!(
            self.hosts.contains(&host),
            "lab {} has no {host}",
            self.name
        );
        Ok(self.name.host(host))
    }

    fn add_namespace(&mut self, namespace: String) -> Result<()> {
        ensure!(!IS_STOPPING.load(Ordering::SeqCst), "stopped");
        run(&["ip", "netns", "add", &namespace])?;
        self.made.push(namespace);
        Ok(())
    }

    fn add_host(&mut self, plan: &Plan, host: Host) -> Result<()> {
        let (namespace, switch) = (plan.name.host(host), plan.name.switch());
        let port = host.port();
        self.add_namespace(namespace.clone())?;
        let cable = [
            "ip", "link", "add", "eth0", "netns", &namespace, "type", "veth",
        ];
        let end = ["peer", "name", &port, "netns", &switch];
        run(&[cable.as_slice(), &end].concat())?;
        let lines = [
            (plan.up, &namespace, "eth0"),
            (plan.down, &switch, port.as_str()),
        ];
        for (rate, namespace, interface) in lines {
            let Some(rate) = rate else { continue };
            // Whole frames only: a bundle of them would be counted, and delayed, as one.
            run(&[
                "ip",
                "-n",
                namespace,
                "link",
                "set",
                interface,
                "gso_max_segs",
                "1",
            ])?;
            let shape = rate.tbf();
            let shape: Vec<&str> = shape.iter().map(String::as_str).collect();
            let tc = [
                "tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root",
            ];
            run(&[tc.as_slice(), &shape].concat())?;
        }
        run_with(
            &["ip", "-n", &namespace, "-batch", "-"],
            &plan.host_batch(host),
        )?;
        run_with(
            &["ip", "-n", &switch, "-batch", "-"],
            &plan.port_batch(host),
        )?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.distance.take());
        // Nobody is left to tell; `lab down` finds what could not be removed.
        let _ = remove_namespaces(&self.made);
    }
}

/// Ends what runs inside a lab and removes it; there being none is as good.
///
/// # Errors
/// Something is left.
pub fn remove(name: &Name) -> Result<()> {
    let there = system::namespaces();
    let is_ours = |n: &&String| **n == name.switch() || name.host_of(n).is_some();
    let mut ours: Vec<String> = there.iter().filter(is_ours).cloned().collect();
    ours.sort_by_key(|namespace| *namespace != name.switch());
    remove_namespaces(&ours)
}

/// The switch stands first and goes last.
fn remove_namespaces(namespaces: &[String]) -> Result<()> {
    if namespaces.is_empty() {
        return Ok(());
    }
    for (signal, patience) in [(Signal::TERM, END_PATIENCE), (Signal::KILL, KILL_PATIENCE)] {
        let end = Instant::now() + patience;
        // Again and again: what runs may start more.
        while system::signal_in(namespaces, Some(signal)) && Instant::now() < end {
            sleep(LOOK);
        }
    }
    let mut left = Vec::new();
    for namespace in namespaces.iter().rev() {
        if let Err(error) = run(&["ip", "netns", "del", namespace]) {
            left.push(format!("{error:#}"));
        }
    }
    if system::signal_in(namespaces, None) {
        left.push("a process inside does not end".to_owned());
    }
    ensure!(left.is_empty(), "{}", left.join("; "));
    Ok(())
}

/// What this machine lacks for a lab.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lacks {
    /// What somebody can mend, a sentence each.
    pub mendable: Vec<String>,
    /// What the kernel, or whatever confines this program, does not let it do.
    pub forbidden: Option<String>,
}

/// Looks what this machine lacks, by making a lab of one host.
#[must_use]
pub fn lacks() -> Lacks {
    let mut lacks = Lacks::default();
    if !rustix::process::geteuid().is_root() {
        let root = "root: nobody else makes network namespaces";
        lacks.mendable.push(root.to_owned());
    }
    for program in ["ip", "tc"] {
        if !system::is_there(program) {
            let text = format!("the program {program} (Debian: iproute2)");
            lacks.mendable.push(text);
        }
    }
    if lacks.mendable.is_empty()
        && let Err(error) = try_one(Duration::ZERO)
    {
        lacks.forbidden = Some(format!("something of the kernel: {error:#}"));
    }
    lacks
}

/// Why hosts cannot be far from each other here, where a lab can be made at all.
#[must_use]
pub fn lacks_distance() -> Option<String> {
    let error = try_one(Duration::from_millis(1)).err()?;
    Some(format!("taps of the kernel (macvtap): {error:#}"))
}

/// A lab of one host with everything in it, for a moment.
fn try_one(delay: Duration) -> Result<()> {
    let lab = Lab::make(&Plan {
        name: Name::new(&format!("try{}", std::process::id()))?,
        hosts: 1,
        up: Some(Rate::parse("8mbit")?),
        down: Some(Rate::parse("80mbit")?),
        has_ipv4: true,
        delay,
    })?;
    let done = lab.command(Host::new(1)?, "ip")?.arg("-V").output()?;
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    lab.remove()
}
