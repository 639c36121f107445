//! [driver] The door: lets newcomers in who show a ticket's secret (promise S5).
//!
//! The control partition decides, and of two who race with one ticket lets in one. What is checked
//! here first is what a newcomer should hear at once, and that nobody without the secret makes this
//! node write anything. Asked again after a lost answer, by the same key, it answers the same.

use super::Node;
use super::control::ControlProblem;
use crate::env::network::{Doorkeeper, Knock, refuse};
use crate::security::proof;
use aber_log::env::{Env, Runtime};
use aber_materializer::members::{MemberRow, Members, TicketEnd, TicketRow};
use aber_materializer::view::Rejection;
use aber_proto::generated::joinservice::{
    JoinPeer, JoinRefusal, JoinRefusalCode, JoinResponse, JoinWelcome, join_response::Outcome,
};
use aber_proto::{
    Operation, PartitionId, PublicKey, RequestId, Role, TicketId, Timestamp, codec, member,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// For the admission to be ordered and applied; the newcomer is answered within 30 s.
const ADMIT_PATIENCE: Duration = Duration::from_secs(12);
/// For this node to read its own log; the two together are less than that.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// Numbers that founders of the genesis may have taken, and a few more.
const TRIES: u32 = 16;

/// Answers those who ask to join.
pub(crate) struct NodeDoor<E: Env> {
    pub(crate) node: Node<E>,
}

impl<E: Env> Doorkeeper for NodeDoor<E> {
    fn join(&self, knock: Knock) -> BoxFuture<'_, JoinResponse> {
        Box::pin(async move {
            let answer = self.answer(&knock).await;
            answer.unwrap_or_else(|refusal| *refusal)
        })
    }
}

type Refused = Box<JoinResponse>;

fn refused(code: JoinRefusalCode, why: impl Into<String>) -> Refused {
    Box::new(refuse(code, why))
}

impl<E: Env> NodeDoor<E> {
    async fn answer(&self, knock: &Knock) -> Result<JoinResponse, Refused> {
        let members = self.node.parts.members.get();
        self.wait_until_read().await?;
        self.check_own_role(&members)?;
        let ticket = self.check_proof(knock)?;
        if let Some(known) = members.by_key(&knock.key) {
            return self.welcome_again(&members, known);
        }
        let row = members.ticket(ticket);
        let row = row.ok_or_else(|| {
            let why = "no such ticket is known here";
            refused(JoinRefusalCode::Unknown, why)
        })?;
        check_ticket(&members, row, self.now())?;
        self.check_wishes(knock)?;
        self.admit(knock, ticket).await
    }

    fn now(&self) -> Timestamp {
        self.node.parts.env.runtime().wall_clock()
    }

    /// A node that has not read its own log yet does not know all tickets.
    async fn wait_until_read(&self) -> Result<(), Refused> {
        let (parts, control) = (&self.node.parts, PartitionId::CONTROL);
        let group = parts.partitions.get(&control);
        let committed = group.and_then(|group| group.committed().get());
        let committed = committed.map(|id| id.index);
        let applied = parts.applied.get(&control).cloned();
        let read = async move {
            if let Some(mut applied) = applied {
                applied.until(|index| *index >= committed).await;
            }
        };
        let read = parts.env.runtime().timeout(READ_PATIENCE, read).await;
        read.ok_or_else(|| {
            let why = "this node has not read all of its log yet; try again in a moment";
            refused(JoinRefusalCode::Busy, why)
        })
    }

    /// Admissions are this node's changes, and judged by its role.
    fn check_own_role(&self, members: &Members) -> Result<(), Refused> {
        let me = members.member(self.node.parts.config.me);
        if me.and_then(MemberRow::role) == Some(Role::Admin) {
            return Ok(());
        }
        let name = self.node.name_of(self.node.parts.config.me);
        let why = format!("{name} is no admin any more, and only admins let others in");
        Err(refused(JoinRefusalCode::NotAllowed, why))
    }

    fn check_proof(&self, knock: &Knock) -> Result<TicketId, Refused> {
        let wrong = || {
            let why = "the proof of the ticket's secret is wrong";
            refused(JoinRefusalCode::DamagedProof, why)
        };
        let ticket: [u8; 32] = (&knock.request.ticket_id[..])
            .try_into()
            .map_err(|_| wrong())?;
        let shown = (&knock.request.proof[..]).try_into().map_err(|_| wrong())?;
        let (ticket, parts) = (TicketId(ticket), &self.node.parts);
        let (exporter, me) = (&knock.exporter, parts.config.key.public());
        if proof::verify_proof(shown, ticket, exporter, &knock.key, &me, &parts.cluster) {
            Ok(ticket)
        } else {
            Err(wrong())
        }
    }

    /// The newcomer's name and addresses have to be such as a row may have.
    fn check_wishes(&self, knock: &Knock) -> Result<(), Refused> {
        let request = &knock.request;
        let is_row = member::is_member_name(&request.name)
            && request.addresses.iter().all(|address| is_address(address));
        is_row.then_some(()).ok_or_else(|| {
            let why = "the name or an address that the newcomer asks for is none";
            refused(JoinRefusalCode::NotAllowed, why)
        })
    }

    async fn admit(&self, knock: &Knock, ticket: TicketId) -> Result<JoinResponse, Refused> {
        let operation = Operation::Admit {
            ticket,
            key: knock.key,
            name: knock.request.name.clone(),
            addresses: knock.request.addresses.clone(),
        };
        for attempt in 0..TRIES {
            // The same newcomer asking again waits for the admission that is under way.
            let request = request_of(ticket, &knock.key, attempt);
            let admitted = self
                .node
                .change_control(request, operation.clone(), ADMIT_PATIENCE);
            match admitted.await {
                Ok(_) => break,
                Err(ControlProblem::Rejected(Rejection::NumberTaken)) => {}
                Err(problem) => return Err(self.not_admitted(&problem, ticket)),
            }
        }
        let members = self.node.parts.members.get();
        match members.by_key(&knock.key) {
            Some(row) => self.welcome_again(&members, row),
            None => {
                let why = "the admission is not applied here yet; try again in a moment";
                Err(refused(JoinRefusalCode::Busy, why))
            }
        }
    }

    fn not_admitted(&self, problem: &ControlProblem, ticket: TicketId) -> Refused {
        let members = self.node.parts.members.get();
        if let Some(row) = members.ticket(ticket)
            && let Err(refusal) = check_ticket(&members, row, self.now())
        {
            return refusal;
        }
        let other = |code, why: &str| refused(code, why);
        match problem {
            ControlProblem::Waits(why) => refused(
                JoinRefusalCode::Busy,
                format!("the admission waits to be ordered: {why}"),
            ),
            ControlProblem::NotTaken(why) => refused(JoinRefusalCode::Busy, why.to_string()),
            ControlProblem::Rejected(why) => match why {
                Rejection::TicketExpired => {
                    other(JoinRefusalCode::Expired, "this ticket has expired")
                }
                Rejection::TicketUnknown => {
                    other(JoinRefusalCode::Unknown, "no such ticket is known here")
                }
                Rejection::NameTaken => other(
                    JoinRefusalCode::NotAllowed,
                    "the name is taken, and so are all numbers behind it: --name chooses another",
                ),
                Rejection::TooManyMembers => other(
                    JoinRefusalCode::NotAllowed,
                    "the cluster has as many members as it may have",
                ),
                Rejection::MemberRemoved => other(JoinRefusalCode::NotAllowed, REMOVED),
                why => refused(
                    JoinRefusalCode::NotAllowed,
                    format!("the admission was rejected: {why:?}"),
                ),
            },
        }
    }

    /// The answer for somebody who is in, now or since an earlier call whose answer was lost.
    fn welcome_again(&self, members: &Members, row: &MemberRow) -> Result<JoinResponse, Refused> {
        if row.role().is_none() {
            return Err(refused(JoinRefusalCode::NotAllowed, REMOVED));
        }
        let parts = &self.node.parts;
        let peer = |row: &MemberRow| JoinPeer {
            node: row.node.0,
            name: row.name.clone(),
            key: Bytes::copy_from_slice(&row.key.0),
            addresses: row.addresses.clone(),
        };
        let control = parts.applied.get(&PartitionId::CONTROL);
        let welcome = JoinWelcome {
            genesis: codec::encode_genesis(&parts.config.genesis).into(),
            node: row.node.0,
            name: row.name.clone(),
            peers: members.present().map(peer).collect(),
            control_index: control.and_then(|at| at.get()).unwrap_or(0),
        };
        Ok(JoinResponse {
            outcome: Some(Outcome::Welcome(welcome)),
        })
    }
}

/// Why the ticket is not good any more, with what people want to know.
fn check_ticket(members: &Members, row: &TicketRow, now: Timestamp) -> Result<(), Refused> {
    let ended = |code: JoinRefusalCode, why: &str, facts: &[(&str, String)]| {
        let inviter = ("inviter", name_in(members, row.inviter));
        let facts = facts.iter().cloned().chain([inviter]);
        let details = facts.map(|(key, value)| (key.to_owned(), value));
        Box::new(JoinResponse {
            outcome: Some(Outcome::Refusal(JoinRefusal {
                code: code.into(),
                reason: why.to_owned(),
                details: details.collect(),
            })),
        })
    };
    let by = |end: TicketEnd| (name_in(members, end.node), stamp(end.time));
    if let Some(end) = row.used {
        let (who, when) = by(end);
        let facts = [("usedBy", who), ("usedAt", when)];
        return Err(ended(JoinRefusalCode::Used, "this ticket was used", &facts));
    }
    if let Some(end) = row.revoked {
        let (who, when) = by(end);
        let facts = [("revokedBy", who), ("revokedAt", when)];
        return Err(ended(
            JoinRefusalCode::Revoked,
            "this ticket was revoked",
            &facts,
        ));
    }
    if now > row.expires {
        let facts = [("expiredAt", stamp(row.expires))];
        return Err(ended(
            JoinRefusalCode::Expired,
            "this ticket has expired",
            &facts,
        ));
    }
    Ok(())
}

const REMOVED: &str = "a node with this key was removed from the cluster, and a key is let in once: \
                       join with another, empty data directory";

/// The request id of one newcomer's admission by one ticket.
fn request_of(ticket: TicketId, key: &PublicKey, attempt: u32) -> RequestId {
    let parts = [&ticket.0[..], &key.0, &attempt.to_le_bytes()].concat();
    let hash = blake3::derive_key("aber 2026 admission v1", &parts);
    let (id, _) = hash.split_at(16);
    RequestId(id.try_into().unwrap_or_default())
}

fn name_in(members: &Members, node: aber_proto::NodeId) -> String {
    let row = members.member(node);
    row.map_or_else(|| node.to_string(), |row| row.name.clone())
}

/// A time for people, to the second.
fn stamp(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{}Z", text.split(['.', 'Z']).next().unwrap_or_default())
}

fn is_address(address: &str) -> bool {
    !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The door of a node.
pub(crate) fn door<E: Env>(node: &Node<E>) -> Arc<dyn Doorkeeper> {
    Arc::new(NodeDoor { node: node.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{Genesis, Member, NodeId};

    fn members() -> Members {
        Members::of_genesis(&Genesis {
            name: "c".to_owned(),
            created: Timestamp(1),
            members: vec![Member {
                node: NodeId(1),
                name: "enora".to_owned(),
                key: PublicKey([1; 32]),
                role: Role::Admin,
                address: String::new(),
            }],
            voters: vec![NodeId(1)],
            partitions: 2,
            min_copies: 1,
        })
    }

    fn row() -> TicketRow {
        TicketRow {
            ticket: TicketId([3; 32]),
            inviter: NodeId(1),
            role: Role::Writer,
            is_voter_eligible: true,
            name: None,
            expires: Timestamp(2_000_000),
            made: 2,
            used: None,
            revoked: None,
        }
    }

    fn refusal(row: &TicketRow, now: i64) -> Option<(JoinRefusalCode, String)> {
        let refused = check_ticket(&members(), row, Timestamp(now)).err()?;
        match refused.outcome {
            Some(Outcome::Refusal(refusal)) => {
                let facts = refusal.details.iter();
                let facts = facts.map(|(key, value)| format!("{key}={value}"));
                Some((refusal.code(), facts.collect::<Vec<_>>().join(" ")))
            }
            _ => None,
        }
    }

    /// S5: whoever comes with a ticket that ended hears how, by whom and when.
    #[test]
    fn a_ticket_that_ended_says_how() {
        assert_eq!(refusal(&row(), 2_000_000), None);
        let expired = "expiredAt=1970-01-01T00:33:20Z inviter=enora";
        let expected = Some((JoinRefusalCode::Expired, expired.to_owned()));
        assert_eq!(refusal(&row(), 2_000_001), expected);
        let end = TicketEnd {
            node: NodeId(1),
            index: 4,
            time: Timestamp(61_500),
        };
        let revoked = TicketRow {
            revoked: Some(end),
            ..row()
        };
        let facts = "inviter=enora revokedAt=1970-01-01T00:01:01Z revokedBy=enora";
        let expected = Some((JoinRefusalCode::Revoked, facts.to_owned()));
        assert_eq!(refusal(&revoked, 1), expected);
        // Used goes before all else: it is what the newcomer's owner has to know.
        let used = TicketRow {
            used: Some(TicketEnd {
                node: NodeId(9),
                ..end
            }),
            ..revoked
        };
        let facts = "inviter=enora usedAt=1970-01-01T00:01:01Z usedBy=9";
        let expected = Some((JoinRefusalCode::Used, facts.to_owned()));
        assert_eq!(refusal(&used, 3_000_000), expected);
    }

    /// One newcomer's tries are told apart from each other and from those of others.
    #[test]
    fn requests_of_admissions_differ() {
        let ticket = TicketId([3; 32]);
        let first = request_of(ticket, &PublicKey([1; 32]), 0);
        assert_eq!(first, request_of(ticket, &PublicKey([1; 32]), 0));
        assert_ne!(first, request_of(ticket, &PublicKey([1; 32]), 1));
        assert_ne!(first, request_of(ticket, &PublicKey([2; 32]), 0));
        assert_ne!(first, request_of(TicketId([4; 32]), &PublicKey([1; 32]), 0));
    }
}
