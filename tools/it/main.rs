//! The program `lab`, as people and tests run it. Says SKIPPED where the machine has no namespaces
//! to give.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "these are tests of real processes"
)]

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv6Addr;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LAB: &str = env!("CARGO_BIN_EXE_lab");
const PATIENCE: Duration = Duration::from_secs(20);

fn lab(arguments: &[&str]) -> Output {
    Command::new(LAB).args(arguments).output().unwrap()
}

fn ok(arguments: &[&str]) -> String {
    let done = lab(arguments);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{arguments:?}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// Whether labs can be made here. In CI the programs are there: it installs them.
fn can_run() -> bool {
    let checked = lab(&["check"]);
    let lacks = String::from_utf8_lossy(&checked.stdout).into_owned();
    let must = std::env::var_os("CI").is_some() && rustix::process::geteuid().is_root();
    assert!(!(must && checked.status.code() == Some(1)), "{lacks}");
    if !checked.status.success() {
        eprintln!("SKIPPED: no lab on this machine, which lacks: {lacks}");
    }
    checked.status.success()
}

/// A lab that goes away with the test, however that ends.
struct Held {
    name: String,
    child: Child,
}

impl Held {
    fn up(label: &str, arguments: &[&str]) -> Self {
        let name = format!("{label}{}", std::process::id());
        let mut child = Command::new(LAB)
            .args(["--name", &name, "up", "--until-eof"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.starts_with(&name), "{line:?}");
        Self { name, child }
    }

    fn run(&self, arguments: &[&str]) -> String {
        ok(&[&["--name", &self.name], arguments].concat())
    }

    /// Starts a shell on a host.
    fn shell(&self, host: &str, script: &str) -> Child {
        Command::new(LAB)
            .args(["--name", &self.name, "exec", host, "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// This test itself, as a program on a host: `TALK` says what it does there.
    fn talker(&self, host: &str, talk: &str) -> Command {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(LAB);
        command
            .args(["--name", &self.name, "exec", host, "--"])
            .arg(own)
            .args(["--exact", "talk", "--nocapture", "--ignored"])
            .env("LAB_TALK", talk);
        command
    }

    /// Whether a host hears another's answer over TCP within a second.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let done = self.talker(from, &format!("try {to}")).output().unwrap();
        done.status.success()
    }

    fn carried(&self, host: &str, way: &str) -> u64 {
        let all: Value = serde_json::from_str(&self.run(&["counters", "--json"])).unwrap();
        all[host][way].as_u64().unwrap()
    }

    fn namespaces(&self) -> usize {
        let entries = std::fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten();
        let ours = format!("aberlab-{}-", self.name);
        let names = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&ours));
        names.count()
    }

    fn wait_until_gone(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the lab does not end");
            sleep(Duration::from_millis(20));
        }
        assert_eq!(self.namespaces(), 0);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn address(host: &str) -> (Ipv6Addr, u16) {
    let number: u16 = host.strip_prefix('h').unwrap().parse().unwrap();
    (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number), 7000)
}

/// No test of its own: what the others run on hosts.
#[test]
#[ignore = "a program for the other tests"]
#[expect(clippy::disallowed_types, reason = "it tries the lab's lines")]
fn talk() {
    use std::net::{TcpListener, TcpStream};
    let Ok(talk) = std::env::var("LAB_TALK") else {
        return;
    };
    let (verb, host) = talk.split_once(' ').unwrap();
    match verb {
        // Sends each caller a byte for each it gets.
        "echo" => {
            let listener = TcpListener::bind(address(host)).unwrap();
            eprintln!("listening");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut piece = vec![0; 1 << 16];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    let _ = stream.write_all(&piece[..length.min(1)]);
                }
            }
        }
        "try" => {
            let to = address(host).into();
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            stream.write_all(b"?").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        }
        _ => {
            let mut stream = TcpStream::connect(address(host)).unwrap();
            stream.write_all(&vec![0; 1_000_000]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).unwrap();
            assert!(!answers.is_empty());
        }
    }
}

fn start_echo(lab: &Held, host: &str) -> Child {
    let mut child = lab.talker(host, &format!("echo {host}"));
    let mut child = child
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stderr = child.stderr.take().unwrap();
    BufReader::new(stderr).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    child
}

#[test]
fn lines_have_their_rate_and_are_counted_pulled_and_cut() {
    if !can_run() {
        return;
    }
    let shape = [
        "--hosts",
        "3",
        "--up",
        "4mbit",
        "--down",
        "40mbit",
        "--no-ipv4",
    ];
    let lab = Held::up("t", &shape);
    assert_eq!(lab.namespaces(), 4);
    assert!(
        !lab.run(&["exec", "h1", "--", "ip", "-4", "addr", "show", "eth0"])
            .contains("inet")
    );
    let mut echo = start_echo(&lab, "h2");
    assert!(lab.reaches("h1", "h2") && lab.reaches("h3", "h2"));

    let before = (
        lab.carried("h1", "up_bytes"),
        lab.carried("h2", "down_bytes"),
    );
    let began = Instant::now();
    let sent = lab.talker("h1", "send h2").output().unwrap();
    let took_s = began.elapsed().as_secs_f64();
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
    // 1 MB at 4 Mbit/s are 2 s; slower is a busy machine, quicker a line that is none.
    assert!(took_s > 1.7, "{took_s}");
    let up = lab.carried("h1", "up_bytes") - before.0;
    let down = lab.carried("h2", "down_bytes") - before.1;
    // Headers are 6 to 9 in a hundred; what was lost on the way was sent again.
    assert!((1_050_000..1_300_000).contains(&up) && (1_050_000..1_300_000).contains(&down));
    assert!(lab.carried("h3", "up_bytes") < 10_000);

    lab.run(&["block", "h1", "h2"]);
    assert!(!lab.reaches("h1", "h2") && lab.reaches("h3", "h2"));
    lab.run(&["unblock", "h1", "h2"]);
    assert!(lab.reaches("h1", "h2"));
    lab.run(&["link", "h2", "down"]);
    assert!(!lab.reaches("h1", "h2"));
    lab.run(&["link", "h2", "up"]);
    assert!(lab.reaches("h1", "h2"));
    let unknown = ["--name", &lab.name, "link", "h4", "down"];
    assert!(
        !Command::new(LAB)
            .args(unknown)
            .output()
            .unwrap()
            .status
            .success()
    );
    drop(lab);
    echo.wait().unwrap();
}

/// Frames wait on their way to the switch, and only there: the way there and back is two waits.
#[test]
fn hosts_are_as_far_from_each_other_as_was_asked_for() {
    if !can_run() {
        return;
    }
    let name = format!("f{}", std::process::id());
    let far = ["up", "--until-eof", "--delay-ms", "150"];
    let tried = Command::new(LAB)
        .args(["--name", &name])
        .args(far)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    if said.contains("macvtap") {
        eprintln!("SKIPPED: the kernel has no taps: {said}");
        return;
    }
    assert!(tried.status.success(), "{said}");
    let shape = ["--hosts", "2", "--delay-ms", "150"];
    let lab = Held::up("f", &shape);
    let mut echo = start_echo(&lab, "h2");
    // A connection, a question and its answer: there and back twice.
    let began = Instant::now();
    assert!(lab.reaches("h1", "h2"));
    let took_s = began.elapsed().as_secs_f64();
    assert!(took_s >= 0.6, "{took_s}");
    assert!(lab.carried("h1", "up_bytes") > 0 && lab.carried("h2", "down_bytes") > 0);
    drop(lab);
    echo.wait().unwrap();
    // One that would lose its distance with its maker is not made.
    let kept = Command::new(LAB).args(["up", "--delay-ms", "5"]).output();
    assert!(!kept.unwrap().status.success());
}

#[test]
fn nothing_of_a_lab_stays() {
    if !can_run() {
        return;
    }
    // Its maker is interrupted, and what runs inside does not want to end.
    let mut interrupted = Held::up("i", &["--hosts", "2"]);
    let script = "trap '' TERM; echo here; while :; do sleep 1; done";
    let mut deaf = interrupted.shell("h1", script);
    let mut line = String::new();
    BufReader::new(deaf.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let bystander = Command::new("sleep").arg("60").spawn();
    let pid = rustix::process::Pid::from_child(&interrupted.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    interrupted.wait_until_gone();
    assert!(!deaf.wait().unwrap().success());
    // Only what was inside was ended.
    let mut bystander = bystander.unwrap();
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();

    // Its maker is killed: by its name all of it is found.
    let mut killed = Held::up("k", &["--hosts", "2"]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert_eq!(killed.namespaces(), 3);
    let again = lab(&["--name", &killed.name, "up", "--hosts", "1"]);
    assert!(!again.status.success());
    assert_eq!(
        killed.namespaces(),
        3,
        "a second of that name took the first away"
    );
    killed.run(&["down"]);
    assert_eq!(killed.namespaces(), 0);
    killed.run(&["down"]);
}

#[test]
fn what_is_no_name_is_refused() {
    for arguments in [
        ["exec", "h0", "--", "true"].as_slice(),
        &["link", "h1", "sideways"],
        &["--name", "../x", "down"],
        &["up", "--up", "fast"],
        &["up", "--hosts", "251"],
    ] {
        assert!(!lab(arguments).status.success(), "{arguments:?}");
    }
}
