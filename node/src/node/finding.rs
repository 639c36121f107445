//! [pure] What a node found out about its own state, for `status`.

use aber_log::watch::Watched;
use aber_proto::PartitionId;

/// Something that a person should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// It mended something at its start: what.
    Repaired(String),
    /// Another node and this one have signed or hold two histories of a partition (promise I4).
    TwoHistories(String),
    /// Other nodes have another view after the same entries (promise M4).
    OtherView {
        /// Of which partition.
        partition: PartitionId,
        /// Who, and where.
        what: String,
        /// A majority of the voters has, and so had they when the index was built anew for it.
        is_wrong: bool,
    },
}

/// All that a node found out since it started.
pub(crate) type Findings = Watched<Vec<Finding>>;

/// Whether a partition is not to be served: its view is known to be wrong (promise M4).
pub(crate) fn is_withheld(findings: &Findings, of: PartitionId) -> bool {
    let is_wrong = |one: &Finding| matches!(one, Finding::OtherView { partition, is_wrong: true, .. } if *partition == of);
    findings.get().iter().any(is_wrong)
}

/// Adds one, once.
pub(crate) fn add(findings: &Findings, found: Finding) {
    findings.update(|all| {
        if !all.contains(&found) {
            all.push(found);
        }
    });
}

/// What is known now of other views of a partition takes the place of what was.
pub(crate) fn set_other_view(findings: &Findings, of: PartitionId, found: Option<Finding>) {
    let is_it =
        |one: &Finding| matches!(one, Finding::OtherView { partition, .. } if *partition == of);
    if found.is_none() && !findings.get().iter().any(is_it) {
        return;
    }
    findings.update(|all| {
        all.retain(|one| !is_it(one));
        all.extend(found);
    });
}
