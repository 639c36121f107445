//! [pure] What somebody may ask of a node over TCP: each call, and the least right it takes.
//!
//! Members read and write as their roles say. What changes the node, or speaks in its name about
//! members and tickets, is for its own key alone: history names nodes, and an admin has a node of
//! its own to do it at. It stops at its socket alone. A call that is not in the table is for
//! nobody.

use aber_proto::Role;

/// What a caller may ask for; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Right {
    /// To read, as any member.
    Read,
    /// To change files, as a writer. The node signs the change, and says in it who asked.
    Write,
    /// To have the node work for long, as an admin.
    Admin,
    /// To do what only the node itself may: it has the node's own key.
    Own,
    /// What the socket alone takes: nobody has it.
    Local,
}

impl Right {
    /// What a member may ask for.
    #[must_use]
    pub fn of_role(role: Role) -> Self {
        match role {
            Role::Reader => Self::Read,
            Role::Writer => Self::Write,
            Role::Admin => Self::Admin,
        }
    }

    /// Who has it where no role gives it.
    pub(super) fn who(self) -> &'static str {
        if self == Self::Local {
            "nobody"
        } else {
            "its own key alone"
        }
    }

    /// The role that gives it, if one does.
    pub(super) fn role_text(self) -> Option<&'static str> {
        match self {
            Self::Read => Some("reader"),
            Self::Write => Some("writer"),
            Self::Admin => Some("admin"),
            Self::Own | Self::Local => None,
        }
    }
}

/// A caller whose key is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    /// The member's name.
    pub name: String,
    /// What it may ask for.
    pub right: Right,
}

/// The service and method of a path, `/aber.v1.FileService/GetItem`.
pub(super) fn call_of(path: &str) -> &str {
    path.strip_prefix("/aber.v1.").unwrap_or(path)
}

/// The least right that a call takes.
pub(super) fn needed(call: &str) -> Right {
    match call {
        "FileService/GetItem"
        | "FileService/ListItems"
        | "FileService/Download"
        | "FileService/DownloadTree"
        | "FileService/WatchChange"
        | "HistoryService/ListEntries"
        | "HistoryService/GetEntry"
        | "HistoryService/ResolveMoment"
        | "HistoryService/PlanRevert"
        | "HistoryService/ListVersions"
        | "HistoryService/Diff"
        | "HistoryService/Blame"
        | "WatchService/Watch"
        | "WatchService/FollowPartition"
        | "WatchService/ReadSnapshot"
        | "WatchService/ReadChunks"
        | "ClusterService/GetStatus"
        | "ClusterService/ListMembers"
        | "ClusterService/ListLinks"
        | "ClusterService/GetRelay"
        | "ClusterService/GetMetrics"
        | "ClusterService/ListTickets"
        | "ClusterService/ListVolumes"
        | "ClusterService/ListPartitions"
        | "HistoryService/ListTags"
        | "UpkeepService/PlanPrune" => Right::Read,
        "FileService/AppendChange" | "HistoryService/ApplyRevert" | UPLOAD => Right::Write,
        "UpkeepService/Verify" => Right::Admin,
        "ClusterService/UpdateMember"
        | "ClusterService/CreateTicket"
        | "ClusterService/RevokeTicket"
        | "ClusterService/PlanRemoval"
        | "ClusterService/ApplyClusterPlan"
        | "HistoryService/CreateTag"
        | "HistoryService/DeleteTag"
        | "ClusterService/UpdateVolume"
        | "UpkeepService/ApplyPrune" => Right::Own,
        _ => Right::Local,
    }
}

/// The one call that may take as long as its content does.
pub(super) const UPLOAD: &str = "FileService/Upload";

#[cfg(test)]
mod tests {
    use super::*;

    /// S2: what changes something takes more than the role to read, and what is not known
    /// is for nobody.
    #[test]
    fn each_call_takes_a_right() {
        for (path, right) in [
            ("/aber.v1.FileService/GetItem", Right::Read),
            ("/aber.v1.FileService/Upload", Right::Write),
            ("/aber.v1.FileService/AppendChange", Right::Write),
            ("/aber.v1.UpkeepService/Verify", Right::Admin),
            ("/aber.v1.UpkeepService/Stop", Right::Local),
            ("/aber.v1.ClusterService/CreateTicket", Right::Own),
            ("/aber.v1.ClusterService/RevokeTicket", Right::Own),
            ("/aber.v1.ClusterService/UpdateMember", Right::Own),
            ("/aber.v1.ClusterService/PlanRemoval", Right::Own),
            ("/aber.v1.ClusterService/ApplyClusterPlan", Right::Own),
            ("/aber.v1.HistoryService/ListTags", Right::Read),
            ("/aber.v1.HistoryService/CreateTag", Right::Own),
            ("/aber.v1.HistoryService/DeleteTag", Right::Own),
            ("/aber.v1.ClusterService/UpdateVolume", Right::Own),
            ("/aber.v1.UpkeepService/PlanPrune", Right::Read),
            ("/aber.v1.UpkeepService/ApplyPrune", Right::Own),
            ("/aber.v1.FileService/getitem", Right::Local),
            ("/aber.v1.FileService/GetItem/", Right::Local),
            ("/aber.v2.FileService/GetItem", Right::Local),
            ("", Right::Local),
        ] {
            assert_eq!(needed(call_of(path)), right, "{path}");
        }
        assert!(
            Right::Read < Right::Write && Right::Admin < Right::Own && Right::Own < Right::Local
        );
        assert_eq!(Right::of_role(Role::Admin), Right::Admin);
    }
}
