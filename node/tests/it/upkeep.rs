//! `doctor` and `service`: what they make of a machine that is bent for the purpose.

use super::Served;
use super::command::run;
use expect_test::expect;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::Command;

async fn doctor(data: &Path) -> (i32, Vec<serde_json::Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_aber"))
        .args(["doctor", "--json", "--data"])
        .arg(data)
        .output()
        .await
        .expect("ended");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    (output.status.code().expect("no signal"), lines.collect())
}

fn found<'l>(lines: &'l [serde_json::Value], check: &str) -> &'l serde_json::Value {
    let mut found = lines.iter().filter(|line| line["check"] == check);
    found
        .next()
        .unwrap_or_else(|| panic!("no {check}: {lines:?}"))
}

/// Without a node: what can be looked at is, and nothing is left behind.
#[tokio::test]
async fn the_doctor_needs_no_node() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_, lines) = doctor(&dir.path().join("none")).await;
    assert_eq!(found(&lines, "data")["severity"], "skipped");
    assert_eq!(found(&lines, "node")["severity"], "note");
    let key = dir.path().join("key");
    std::fs::write(&key, [7; 32]).expect("written");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode));
    mode(0o600).expect("chmod");
    let (_, lines) = doctor(dir.path()).await;
    assert_eq!(found(&lines, "key")["severity"], "ok");
    assert_eq!(found(&lines, "data")["severity"], "ok");
    let last = lines.last().expect("a result");
    assert_eq!(
        (&last["type"], &last["schema"]),
        (&"result".into(), &"aber.doctor/1".into())
    );
    mode(0o644).expect("chmod");
    let (code, lines) = doctor(dir.path()).await;
    let key = found(&lines, "key");
    assert_eq!((code, &key["severity"]), (1, &"problem".into()));
    assert!(
        key["mend"]
            .as_str()
            .is_some_and(|mend| mend.starts_with("chmod 600 ")),
        "{key}"
    );
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("listed")
        .flatten()
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// With a node: the addresses and clocks it knows are looked at, an unreachable member is said to
/// be one.
#[tokio::test]
async fn the_doctor_asks_a_running_node() {
    let served = Served::start().await;
    let (code, lines) = doctor(served.data.path()).await;
    assert_eq!(code, 1, "the fake's members are nowhere");
    assert_eq!(found(&lines, "node")["what"], "yann of breizh is running");
    let members: Vec<_> = lines
        .iter()
        .filter(|line| line["check"] == "member")
        .collect();
    let severities: Vec<_> = members
        .iter()
        .map(|line| line["severity"].as_str())
        .collect();
    assert_eq!(
        severities,
        ["problem", "problem", "note"].map(Some),
        "{members:?}"
    );
    assert!(
        members[0]["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("[fd42::1]:7787: "))
    );
    assert_eq!(
        found(&lines, "clock")["what"],
        "that of gwen agrees within 2 s"
    );
    let ran = run(&served, &["doctor"]).await;
    assert!(
        ran.out
            .contains("note     member   phone has no address\n    why   "),
        "{}",
        ran.out
    );
    assert!(ran.out.ends_with(" to mend\n"), "{}", ran.out);
}

/// A machine with a `systemctl` that writes down what it is asked and ends as it is told.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new(script: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("bin")).expect("made");
        if let Some(script) = script {
            let path = dir.path().join("bin/systemctl");
            let script = format!("#!/bin/sh\necho \"$@\" >> \"$CALLS\"\n{script}\n");
            std::fs::write(&path, script).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        }
        Self { dir }
    }

    fn unit(&self) -> std::path::PathBuf {
        self.dir.path().join("config/systemd/user/aber.service")
    }

    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.dir.path().join("calls"));
        calls.lines().map(str::to_owned).collect()
    }

    async fn service(&self, arguments: &[&str]) -> (i32, String) {
        let dir = self.dir.path();
        let output = Command::new(env!("CARGO_BIN_EXE_aber"))
            .arg("service")
            .args(arguments)
            .env("ABER_DATA", dir.join("data"))
            .env("XDG_CONFIG_HOME", dir.join("config"))
            .env("HOME", dir)
            .env("CALLS", dir.join("calls"))
            .env("PATH", dir.join("bin"))
            .stdin(Stdio::null())
            .output()
            .await
            .expect("ended");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let said = text(output.stdout) + &text(output.stderr);
        let said = said.replace(&*dir.to_string_lossy(), "DIR");
        (output.status.code().expect("no signal"), said)
    }
}

#[tokio::test]
async fn a_service_is_installed_and_removed() {
    let machine = Machine::new(Some("exit 0"));
    let (code, said) = machine
        .service(&["install", "--", "--listen", "[::]:1"])
        .await;
    assert_eq!(code, 0, "{said}");
    expect![[r#"
        Installed DIR/config/systemd/user/aber.service
          aber status                  how it is
          journalctl --user -u aber    what it says
        It runs while you are logged in. To have it run always: loginctl enable-linger
        $ systemctl --user show-environment
        $ systemctl --user daemon-reload
        $ systemctl --user enable --now aber.service
    "#]]
    .assert_eq(&said);
    let unit = std::fs::read_to_string(machine.unit()).expect("written");
    let program = format!("\"{}\"", env!("CARGO_BIN_EXE_aber"));
    let shown = unit.replace(&*machine.dir.path().to_string_lossy(), "DIR");
    let (head, body) = shown
        .replace(&program, "ABER")
        .split_once('\n')
        .map_or_else(Default::default, |(head, body)| {
            (head.to_owned(), body.to_owned())
        });
    assert!(
        head.starts_with("# Written by: aber service install."),
        "{head}"
    );
    expect![[r#"
        [Unit]
        Description=aber, a shared folder that no machine owns
        StartLimitIntervalSec=300
        StartLimitBurst=10

        [Service]
        Type=exec
        ExecStart=ABER up --data "DIR/data" "--listen" "[::]:1"
        Restart=on-failure
        RestartSec=5
        # Wrong use, damage, another version: starting again does not help.
        RestartPreventExitStatus=2 8 12
        TimeoutStopSec=60
        LimitNOFILE=65536
        UMask=0077
        NoNewPrivileges=yes
        ProtectSystem=strict
        ReadWritePaths="DIR/data"
        RestrictSUIDSGID=yes
        LockPersonality=yes
        RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

        [Install]
        WantedBy=default.target
    "#]]
    .assert_eq(&body);
    let wanted = [
        "show-environment",
        "daemon-reload",
        "enable --now aber.service",
    ];
    assert_eq!(machine.calls(), wanted.map(|call| format!("--user {call}")));
    let mode = std::fs::metadata(machine.dir.path().join("data"))
        .expect("made")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
    // Again: the same, and nothing is restarted. Otherwise: restarted.
    assert_eq!(
        machine
            .service(&["install", "--", "--listen", "[::]:1"])
            .await
            .0,
        0
    );
    assert_eq!(machine.calls().len(), 3);
    assert_eq!(machine.service(&["install"]).await.0, 0);
    assert_eq!(
        machine.calls().last().map(String::as_str),
        Some("--user restart aber.service")
    );
    let (code, said) = machine.service(&["uninstall"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(!machine.unit().exists() && machine.dir.path().join("data").exists());
    let wanted = ["disable --now aber.service", "daemon-reload"];
    assert_eq!(machine.calls(), wanted.map(|call| format!("--user {call}")));
    assert_eq!(
        machine.service(&["uninstall"]).await,
        (0, "no unit is installed\n".to_owned())
    );
    let left = std::fs::read_dir(machine.unit().parent().expect("a directory")).expect("listed");
    assert_eq!(left.count(), 0, "nothing half written stays");
}

/// What this program did not write, and what was edited, stays as it is.
#[tokio::test]
async fn a_unit_of_somebody_else_is_left_alone() {
    let machine = Machine::new(Some("exit 0"));
    std::fs::create_dir_all(machine.unit().parent().expect("a directory")).expect("made");
    std::fs::write(machine.unit(), "[Service]\nExecStart=/bin/true\n").expect("written");
    for command in ["install", "uninstall"] {
        let (code, said) = machine.service(&[command]).await;
        assert!(code == 1 && said.contains("[UNIT_FOREIGN]"), "{said}");
    }
    let text = std::fs::read_to_string(machine.unit()).expect("there");
    assert_eq!(text, "[Service]\nExecStart=/bin/true\n");
    assert!(machine.calls().is_empty());
    std::fs::remove_file(machine.unit()).expect("removed");
    assert_eq!(machine.service(&["install"]).await.0, 0);
    let edited = std::fs::read_to_string(machine.unit()).expect("there") + "Nice=5\n";
    std::fs::write(machine.unit(), &edited).expect("written");
    assert_eq!(machine.service(&["install"]).await.0, 1);
    assert_eq!(
        std::fs::read_to_string(machine.unit()).expect("there"),
        edited
    );
}

/// Where there is no systemd nothing is written, and it is said what to do instead.
#[tokio::test]
async fn without_systemd_nothing_is_left_behind() {
    for script in [None, Some("echo 'Failed to connect to bus' >&2; exit 1")] {
        let machine = Machine::new(script);
        let (code, said) = machine.service(&["install"]).await;
        assert!(code == 1 && said.contains("[NO_SYSTEMD]"), "{said}");
        assert!(
            said.contains("let another supervisor run: aber up"),
            "{said}"
        );
        assert!(!machine.unit().exists() && !machine.dir.path().join("data").exists());
    }
}
