//! [pure] The text of the systemd user unit, and whether a file is one that this program wrote.
//!
//! The first line carries a hash of the rest: a unit that was edited, or that somebody else wrote,
//! is never replaced or removed.

use std::path::Path;

/// Its name.
pub(super) const UNIT: &str = "aber.service";
const MARK: &str =
    "# Written by: aber service install. Changes go into a drop-in: systemctl --user edit aber. ";

/// What the unit starts.
pub(super) struct Start<'s> {
    /// The program.
    pub(super) program: &'s Path,
    /// The data directory.
    pub(super) data: &'s Path,
    /// The mirror, if it is not in the data directory.
    pub(super) mirror: Option<&'s Path>,
    /// More arguments of `up`.
    pub(super) arguments: &'s [String],
}

/// A word of a command in a unit: `%` and `$` mean something there.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            '$' => out.push_str("$$"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A path in a setting: as in a command, but `$` means nothing.
fn path(path: &Path) -> String {
    quoted(&path.display().to_string()).replace("$$", "$")
}

/// The whole file.
pub(super) fn text(start: &Start<'_>) -> String {
    let mut command = vec![path(start.program), "up".to_owned(), "--data".to_owned()];
    command.push(quoted(&start.data.display().to_string()));
    let mut writable = vec![path(start.data)];
    if let Some(mirror) = start.mirror {
        command.push("--mirror".to_owned());
        command.push(quoted(&mirror.display().to_string()));
        writable.push(path(mirror));
    }
    command.extend(start.arguments.iter().map(|word| quoted(word)));
    let body = format!(
        "[Unit]\n\
         Description=aber, a shared folder that no machine owns\n\
         StartLimitIntervalSec=300\n\
         StartLimitBurst=10\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={}\n\
         Restart=on-failure\n\
         RestartSec=5\n\
         # Wrong use, damage, another version: starting again does not help.\n\
         RestartPreventExitStatus=2 8 12\n\
         TimeoutStopSec=60\n\
         LimitNOFILE=65536\n\
         UMask=0077\n\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n\
         ReadWritePaths={}\n\
         RestrictSUIDSGID=yes\n\
         LockPersonality=yes\n\
         RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        command.join(" "),
        writable.join(" "),
    );
    format!("{MARK}{}\n{body}", hash(&body))
}

fn hash(body: &str) -> String {
    let hash = blake3::hash(body.as_bytes()).to_hex();
    hash.chars().take(16).collect()
}

/// Whether a file is as this program, of any version, wrote it.
pub(super) fn is_ours(text: &str) -> bool {
    let marked = text
        .strip_prefix(MARK)
        .and_then(|rest| rest.split_once('\n'));
    marked.is_some_and(|(found, body)| found == hash(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(data: &str, arguments: &[String]) -> String {
        text(&Start {
            program: Path::new("/usr/bin/aber"),
            data: Path::new(data),
            mirror: None,
            arguments,
        })
    }

    #[test]
    fn a_unit_is_known_again_until_it_is_edited() {
        let ours = unit("/d", &[]);
        assert!(is_ours(&ours));
        assert!(!is_ours(&ours.replace("RestartSec=5", "RestartSec=6")));
        assert!(!is_ours("[Service]\nExecStart=/usr/bin/aber up\n"));
        assert!(!is_ours(""));
    }

    #[test]
    fn words_mean_themselves() {
        let arguments = ["--listen".to_owned(), "[::]:1".to_owned()];
        let text = unit("/a b/100%/$HOME/\"q\"\\", &arguments);
        let command = text.lines().find(|line| line.starts_with("ExecStart="));
        let wanted = r#"ExecStart="/usr/bin/aber" up --data "/a b/100%%/$$HOME/\"q\"\\" "--listen" "[::]:1""#;
        assert_eq!(command, Some(wanted));
        let paths = text
            .lines()
            .find(|line| line.starts_with("ReadWritePaths="));
        assert_eq!(paths, Some(r#"ReadWritePaths="/a b/100%%/$HOME/\"q\"\\""#));
    }
}
