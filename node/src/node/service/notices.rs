//! [driver] What a person should know or do: the notices of `status`.

use super::NodeService;
use crate::node::finding::Finding;
use crate::node::sighting::{Skewed, skewed};
use crate::reason::Reason;
use aber_log::env::{Disk, Env};
use aber_materializer::members::{MemberRow, Members};
use aber_materializer::mirror::MirrorStatus;
use aber_proto::NodeId;
use aber_proto::generated::v1;

/// Members that are away are named up to this many.
const AWAY_SHOWN: usize = 10;

impl<E: Env> NodeService<E> {
    /// Partitions that cannot order changes now.
    fn no_majority(&self, away: &[&str]) -> Option<v1::Notice> {
        let partitions = &self.node.parts.partitions;
        let stuck = partitions.keys().filter(|p| !self.has_majority(**p));
        let stuck: Vec<_> = stuck.map(ToString::to_string).collect();
        if stuck.is_empty() {
            return None;
        }
        let (some, all) = (stuck.len(), partitions.len());
        let what = format!("changes are not ordered in {some} of {all} partitions");
        let why = if away.is_empty() {
            format!("no leader is known for partitions {}", stuck.join(", "))
        } else {
            format!("too many voters are away: {}", away.join(", "))
        };
        let mend =
            "writes wait in the outbox and land by themselves; start the nodes that are away";
        let mend = mend.to_owned();
        Some(notice("NO_MAJORITY", v1::Health::Queuing, what, why, mend))
    }

    pub(super) async fn notices(&self) -> Vec<v1::Notice> {
        let parts = &self.node.parts;
        let members = parts.members.get();
        let mut notices = Vec::new();
        notices.extend(self.removed(&members));
        let is_away = |row: &&MemberRow| self.is_away(row.node);
        let away: Vec<_> = match notices.is_empty() {
            true => members.present().filter(is_away).collect(),
            // Who is up is no business of a node that was put out.
            false => Vec::new(),
        };
        notices.extend(self.away(&away));
        let away: Vec<_> = away.iter().map(|row| row.name.as_str()).collect();
        notices.extend(self.no_majority(&away));
        notices.extend(self.one_voter(&members));
        notices.extend(self.skewed_clocks(&members));
        notices.extend(self.wrong_content());
        let waiting = parts.outbox.list().await;
        if let Some(first) = waiting.iter().find(|waiting| waiting.problem.is_some()) {
            let what = match waiting.len() {
                1 => "a change waits in the outbox".to_owned(),
                more => format!("{more} changes wait in the outbox"),
            };
            let path = first.path.clone().unwrap_or_default();
            let why = format!("{path}: {}", first.problem.clone().unwrap_or_default());
            let mend = "nothing is lost; they land by themselves once the cause is gone".to_owned();
            notices.push(notice("CHANGE_WAITS", v1::Health::Queuing, what, why, mend));
        }
        notices.extend(parts.findings.get().into_iter().map(found));
        if let Some(Err(why)) = &parts.config.options.api {
            let what = "the API is not open to the network".to_owned();
            let mend = "free the address and restart the node, or choose: aber up --api HOST:PORT, \
                or --api off";
            let (why, mend) = (why.clone(), mend.to_owned());
            notices.push(notice("API_CLOSED", v1::Health::Degraded, what, why, mend));
        }
        notices.extend(self.no_space());
        if let Some(damage) = parts.log.damage().map(|damage| damage.problem) {
            let what = "the log of this node is damaged".to_owned();
            let mend =
                "what is damaged is not served; check the disk, and ask another node".to_owned();
            let why = damage.to_string();
            notices.push(notice("LOG_DAMAGED", v1::Health::Failed, what, why, mend));
        }
        if let Some(mirror) = &parts.mirror {
            notices.extend(waiting_paths(&mirror.status.get()));
            for edit in mirror.status.get().notices.iter().rev().take(3) {
                let what = format!("a local edit of {} was moved aside", edit.path);
                let why = format!(
                    "the mirror is read-only; the edit is kept as {}",
                    edit.kept_as
                );
                let mend = "put it with: aber put".to_owned();
                notices.push(notice("LOCAL_EDIT", v1::Health::Ok, what, why, mend));
            }
        }
        notices
    }

    /// This node was removed: it learned so from the log, or from all who answer it.
    fn removed(&self, members: &Members) -> Option<v1::Notice> {
        let parts = &self.node.parts;
        let me = members.member(parts.config.me);
        let entry = me.and_then(MemberRow::removed);
        let outcast_by = parts.mesh.outcast_by();
        let is_put_out = !outcast_by.is_empty() && parts.mesh.peers_up().is_empty();
        if entry.is_none() && !is_put_out {
            return None;
        }
        let what = "this node was removed from the cluster".to_owned();
        let why = match entry {
            Some(index) => format!("entry 0:{index} says so; every member refuses it since"),
            None => format!("{} refuse it as no member", self.names_of(&outcast_by)),
        };
        let mend = "what it has can still be read here; its changes reach nobody. To come back it \
            needs a new ticket and an empty data directory";
        let code = Reason::MemberRemoved.name();
        Some(notice(code, v1::Health::Failed, what, why, mend.to_owned()))
    }

    fn names_of(&self, nodes: &[NodeId]) -> String {
        let names: Vec<_> = nodes.iter().map(|node| self.node.name_of(*node)).collect();
        names.join(", ")
    }

    /// One notice for each member that is away, and one for all above a few.
    fn away(&self, away: &[&MemberRow]) -> Vec<v1::Notice> {
        let refusals = self.node.parts.mesh.refusals();
        let shown = away.iter().take(AWAY_SHOWN);
        let mut notices: Vec<_> = shown
            .map(|row| {
                let refused = refusals.get(&row.node).cloned();
                let name = &row.name;
                if let Some(why) = &refused
                    && let Some(late) = must_upgrade(why, self.node.parts.config.me, row.node)
                {
                    let late = self.node.name_of(late);
                    let what = format!("{name} and this node speak different protocols");
                    let mend = format!("install a newer aber on {late}, and start it again there");
                    let code = Reason::VersionTooOld.name();
                    return notice(code, v1::Health::Degraded, what, why.clone(), mend);
                }
                let what = format!("{name} is away");
                let addresses = row.addresses.join(", ");
                let why = refused.unwrap_or_else(|| format!("no answer from {addresses}"));
                let mend = format!("start it: aber up, on {name}");
                notice("NODE_AWAY", v1::Health::Degraded, what, why, mend)
            })
            .collect();
        let rest = away.get(AWAY_SHOWN..).unwrap_or_default();
        if !rest.is_empty() {
            let what = format!("{} more are away", rest.len());
            let why = "none of their addresses answers".to_owned();
            let mend = "see which: aber members".to_owned();
            let mut more = notice("NODE_AWAY", v1::Health::Degraded, what, why, mend);
            more.repeats = rest.len() as u64;
            notices.push(more);
        }
        notices
    }

    /// One of several members votes alone: nobody orders changes while it is off.
    fn one_voter(&self, members: &Members) -> Option<v1::Notice> {
        let voters = self.node.parts.partitions.values().next()?.voters();
        let (&[voter], true) = (voters.as_slice(), members.present_count() > 1) else {
            return None;
        };
        let eligible = members.present().filter(|row| row.is_voter_eligible);
        if eligible.count() >= 3 {
            // It is about to change.
            return None;
        }
        let name = self.node.name_of(voter);
        let what = format!("1 voter: while {name} is off, changes wait in the outbox");
        let (why, mend) = match members.present_count() {
            2 => (
                "two members have no majority without each other",
                "a third node mends it: aber invite",
            ),
            _ => (
                "fewer than three members may vote",
                "let more of them vote: aber members set NAME --vote yes",
            ),
        };
        let (why, mend) = (why.to_owned(), mend.to_owned());
        Some(notice("ONE_VOTER", v1::Health::Ok, what, why, mend))
    }

    /// Members of which no content is taken (promise T9).
    fn wrong_content(&self) -> Option<v1::Notice> {
        let state = self.node.parts.content.relay().look();
        if state.blamed.is_empty() {
            return None;
        }
        let names = self.names_of(&state.blamed);
        let what = format!("content that {names} sent was not what it was said to be");
        let why = format!(
            "{} chunks did not have their hash. None was kept, and nothing more is taken from there; \
             others send it",
            state.counts.bad_count
        );
        let mend = format!(
            "check disk and memory of {names}, or remove it: aber members rm. It is asked again once \
             the members or their rates change, or this node restarts"
        );
        Some(notice(
            "WRONG_CONTENT",
            v1::Health::Degraded,
            what,
            why,
            mend,
        ))
    }

    /// Clocks that are far apart. What is ordered never depends on them (rule CL-1).
    fn skewed_clocks(&self, members: &Members) -> Option<v1::Notice> {
        let is_up = |node| self.is_up(node) && members.member(node).is_some();
        let (what, why, whose) = match skewed(&self.node.parts.sightings.get(), is_up)? {
            Skewed::Here(ahead_ms) => (
                "the clock of this node is wrong".to_owned(),
                format!("it is {} those of all others", apart(ahead_ms)),
                "this machine".to_owned(),
            ),
            Skewed::There(far) => {
                let names: Vec<_> = far.iter().map(|(node, _)| *node).collect();
                let told = far.iter().map(|(node, ahead_ms)| {
                    let name = self.node.name_of(*node);
                    format!("that of {name} is {} this one", apart(*ahead_ms))
                });
                let told: Vec<_> = told.collect();
                let names = self.names_of(&names);
                let what = format!("the clocks of {names} and this node differ");
                (what, told.join(", "), format!("{names} or this machine"))
            }
        };
        let mend = format!(
            "set the clock of {whose}: timedatectl set-ntp true. Times shown are off until then; \
             the order of changes is not"
        );
        Some(notice("CLOCK_SKEW", v1::Health::Degraded, what, why, mend))
    }

    /// Said while writes are refused because the disk is below its reserve (promise B3).
    fn no_space(&self) -> Option<v1::Notice> {
        let parts = &self.node.parts;
        let space = parts.env.disk().space().ok()?;
        let reserve_bytes = parts.config.options.store.reserve_bytes(space.total_bytes);
        if space.free_bytes >= reserve_bytes {
            return None;
        }
        let what = "no space left on this node: it takes no writes and no content".to_owned();
        let why = format!(
            "{} bytes are free, and {reserve_bytes} are kept for the log",
            space.free_bytes
        );
        let mend = "free space on its disk; the rest happens by itself".to_owned();
        Some(notice("NO_SPACE", v1::Health::Degraded, what, why, mend))
    }
}

fn found(finding: Finding) -> v1::Notice {
    let (code, health, what, why, mend) = match finding {
        Finding::Repaired(why) => (
            "REPAIRED",
            v1::Health::Ok,
            "this node repaired something at its start",
            why,
            "nothing to do",
        ),
        Finding::TwoHistories(why) => (
            "TWO_HISTORIES",
            v1::Health::Failed,
            "the history of this cluster was told in two ways",
            why,
            "one of them is no member's word any more: compare the logs (aber audit --compare), and \
             remove the member that lies or was set back to an older copy",
        ),
        Finding::OtherView { what, is_wrong, .. } => (
            "OTHER_VIEW",
            if is_wrong {
                v1::Health::Failed
            } else {
                v1::Health::Degraded
            },
            "nodes show different trees after the same entries",
            what,
            if is_wrong {
                "this node is wrong, and building its index anew did not help, so it does not serve that \
                 partition: install the same aber as on the others, check its memory, then stop it, \
                 remove its directory index, and start it"
            } else {
                "a majority of the voters decides: the others build their index anew by themselves"
            },
        ),
    };
    notice(code, health, what.to_owned(), why, mend.to_owned())
}

/// `5 min 3 s ahead of`.
fn apart(ahead_ms: i64) -> String {
    let seconds = ahead_ms.unsigned_abs() / 1000;
    let word = if ahead_ms < 0 { "behind" } else { "ahead of" };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s {word}"),
        (hours, minutes, _) => format!("{hours} h {minutes} min {word}"),
    }
}

/// Which of two nodes a refusal says must upgrade; `None` if it is about something else.
fn must_upgrade(why: &str, me: NodeId, peer: NodeId) -> Option<NodeId> {
    let number = |text: &str| -> Option<NodeId> {
        let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(NodeId(digits.parse().ok()?))
    };
    let (before, _) = why.rsplit_once(" must upgrade")?;
    let (_, last) = before.rsplit_once(": ")?;
    if let Some(named) = last.strip_prefix("node ") {
        return number(named).filter(|node| [me, peer].contains(node));
    }
    let (_, speaker) = why.split_once("node ")?;
    let speaker = number(speaker)?;
    match (speaker == me, speaker == peer) {
        (true, _) => Some(peer),
        (_, true) => Some(me),
        _ => None,
    }
}

/// Paths that the mirror could not show so far.
fn waiting_paths(status: &MirrorStatus) -> Option<v1::Notice> {
    let first = status.waiting.first()?;
    let paths = if status.waiting_count == 1 {
        "1 path waits".to_owned()
    } else {
        format!("{} paths wait", status.waiting_count)
    };
    let what = format!("{paths} to be shown in the mirror");
    let why = format!("{}: {}", first.path, first.reason);
    let mend = "they are tried again by themselves".to_owned();
    Some(notice("PATHS_WAIT", v1::Health::Ok, what, why, mend))
}

fn notice(code: &str, severity: v1::Health, what: String, why: String, mend: String) -> v1::Notice {
    let code = code.to_owned();
    v1::Notice {
        code,
        severity: severity.into(),
        what,
        why,
        mend,
        ..v1::Notice::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::network::LinkIdentity;

    /// However the words came to this node, the older of the two is named.
    #[test]
    fn the_older_of_two_protocols_must_upgrade() {
        let newer = crate::env::network::PROTOCOL_VERSION + 1;
        let (me, peer) = (NodeId(1), NodeId(12));
        let said =
            |speaker: u64, theirs| LinkIdentity::example(speaker).other_protocol(theirs, "0.2.0");
        for (why, late) in [
            (said(1, newer), me),
            (said(1, newer - 2), peer),
            (said(12, newer), peer),
            (said(12, newer - 2), me),
            (format!("10.0.0.1:7787: {}", said(12, newer)), peer),
        ] {
            assert_eq!(must_upgrade(&why, me, peer), Some(late), "{why}");
        }
        for other in [
            "this is cluster 07070707, not 08080808",
            "no answer",
            " must upgrade",
        ] {
            assert_eq!(must_upgrade(other, me, peer), None);
        }
    }

    #[test]
    fn differences_of_clocks_are_words() {
        assert_eq!(apart(125_000), "2 min 5 s ahead of");
        assert_eq!(apart(-7_380_000), "2 h 3 min behind");
    }
}
