//! [driver] Making tickets (promise S5).

use super::{NodeService, render};
use crate::node::control::ControlProblem;
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::{Env, Runtime};
use aber_log::outbox::OutboxProblem;
use aber_materializer::members::MemberRow;
use aber_materializer::view::Rejection;
use aber_proto::generated::v1;
use aber_proto::{
    KeyPin, NodeId, Operation, PartitionId, Role, Ticket, TicketAddress, TicketId, TicketSecret,
    limit, member,
};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a ticket is good when nothing else is said.
const VALID: Duration = Duration::from_secs(24 * 3600);
/// For the invitation to be ordered: a ticket that is not in the log lets nobody in.
const PATIENCE: Duration = Duration::from_secs(12);

/// What a ticket is to grant.
struct Offer {
    role: Role,
    is_voter_eligible: bool,
    name: Option<String>,
    expires_seconds: u32,
    addresses: Vec<TicketAddress>,
}

impl<E: Env> NodeService<E> {
    pub(super) async fn make_ticket(
        &self,
        request: v1::CreateTicketRequest,
    ) -> Answer<v1::CreateTicketResponse> {
        self.check_admin()?;
        let offer = self.offer(&request)?;
        let parts = &self.node.parts;
        let mut bytes = Zeroizing::new([0; 16]);
        parts.env.runtime().fill_random(&mut *bytes);
        let ticket = Ticket {
            cluster: parts.cluster,
            inviter: KeyPin::of(&parts.config.key.public()),
            addresses: offer.addresses,
            secret: TicketSecret(*bytes),
            expires_seconds: offer.expires_seconds,
        };
        let operation = Operation::Invite {
            ticket: ticket.id(),
            role: offer.role,
            is_voter_eligible: offer.is_voter_eligible,
            name: offer.name.clone(),
            expires: ticket.expires(),
        };
        let node = &self.node;
        let invited = node.change_control(node.fresh_request(), operation, PATIENCE);
        invited
            .await
            .map_err(|problem| self.control_problem(problem))?;
        Ok(v1::CreateTicketResponse {
            ticket: Some(v1::Ticket {
                id: id_text(ticket.id()),
                role: role_message(offer.role).into(),
                voter_eligible: offer.is_voter_eligible,
                node_name: offer.name.unwrap_or_default(),
                inviter: node.name_of(parts.config.me),
                expire_time: Some(render::stamp_message(ticket.expires())),
                ..v1::Ticket::default()
            }),
            text: ticket.to_text(),
            addresses: ticket.addresses.iter().map(ToString::to_string).collect(),
        })
    }

    /// Changes of this node are judged by its role: it is asked before anything is written.
    fn check_admin(&self) -> Result<(), Problem> {
        let parts = &self.node.parts;
        let members = parts.members.get();
        let role = members.member(parts.config.me).and_then(MemberRow::role);
        if role == Some(Role::Admin) {
            return Ok(());
        }
        Err(self.beyond_role(Problem::new(Reason::NotAllowed), Role::Admin))
    }

    fn offer(&self, request: &v1::CreateTicketRequest) -> Result<Offer, Problem> {
        let parts = &self.node.parts;
        let role = match request.role() {
            v1::Role::Reader => Role::Reader,
            v1::Role::Unspecified | v1::Role::Writer => Role::Writer,
            v1::Role::Admin => Role::Admin,
        };
        let valid = match request.valid_for {
            None => VALID,
            Some(asked) => Duration::try_from(asked)
                .map_err(|_| Problem::usage("a ticket is good for a positive time"))?,
        };
        let valid_ms = i64::try_from(valid.as_millis()).unwrap_or(i64::MAX);
        if !(1000..=limit::TICKET_VALID_MS).contains(&valid_ms) {
            return Err(Problem::usage("a ticket is good for a second to 31 days"));
        }
        let name = Some(request.node_name.clone()).filter(|name| !name.is_empty());
        if name
            .as_ref()
            .is_some_and(|name| !member::is_member_name(name))
        {
            let why = "a node's name is 1 to 32 of a-z, 0-9 and '-'";
            return Err(Problem::usage(why));
        }
        let expires_ms = parts.env.runtime().wall_clock().0.saturating_add(valid_ms);
        let expires_seconds = u32::try_from(expires_ms / 1000).map_err(Problem::internal)?;
        Ok(Offer {
            role,
            is_voter_eligible: request.voter_eligible.unwrap_or(true),
            name,
            expires_seconds,
            addresses: self.ticket_addresses(&request.addresses)?,
        })
    }

    fn ticket_addresses(&self, asked: &[String]) -> Result<Vec<TicketAddress>, Problem> {
        let own = &self.node.parts.config.options.addresses;
        let chosen = if asked.is_empty() { own } else { asked };
        if asked.len() > limit::TICKET_ADDRESSES {
            let most = limit::TICKET_ADDRESSES;
            let why = format!("a ticket has room for {most} addresses");
            return Err(Problem::usage(why));
        }
        let mut addresses = Vec::new();
        for text in chosen.iter().take(limit::TICKET_ADDRESSES) {
            let address = TicketAddress::parse(text).ok_or_else(|| {
                let form = "it looks like host:7787, 192.0.2.1:7787 or [2001:db8::1]:7787";
                Problem::usage(format!("{text:?} is no address: {form}"))
            })?;
            addresses.push(address);
        }
        if addresses.is_empty() {
            let why = "this machine has no address that others could call: name one by --address";
            return Err(Problem::usage(why));
        }
        Ok(addresses)
    }

    /// Why a change of the control partition did not come to be.
    pub(super) fn control_problem(&self, problem: ControlProblem) -> Problem {
        match problem {
            ControlProblem::NotTaken(OutboxProblem::Stopped) => Problem::new(Reason::Stopping),
            ControlProblem::NotTaken(why @ OutboxProblem::Full(_)) => {
                Problem::new(Reason::OutboxFull).with("detail", why)
            }
            ControlProblem::NotTaken(OutboxProblem::Storage(why)) => {
                Problem::new(Reason::StorageFailed).with("detail", why)
            }
            ControlProblem::Waits(_) => self.no_majority_problem(PartitionId::CONTROL),
            ControlProblem::Rejected(Rejection::NotAllowed) => {
                self.beyond_role(Problem::new(Reason::NotAllowed), Role::Admin)
            }
            ControlProblem::Rejected(Rejection::TooManyTickets) => {
                let most = limit::TICKETS_OPEN;
                let why = format!("{most} tickets are open, which is as many as may be");
                Problem::new(Reason::ChangeRejected).with("detail", why)
            }
            ControlProblem::Rejected(why) => {
                Problem::new(Reason::ChangeRejected).with("detail", format!("{why:?}"))
            }
        }
    }

    pub(super) fn no_majority_problem(&self, partition: PartitionId) -> Problem {
        let group = self.node.parts.partitions.get(&partition);
        let voters = group.map(|group| group.voters()).unwrap_or_default();
        let (up, away): (Vec<NodeId>, Vec<NodeId>) =
            voters.iter().partition(|voter| self.is_up(**voter));
        let away: Vec<_> = away.iter().map(|node| self.node.name_of(*node)).collect();
        let problem = Problem::new(Reason::NoMajority)
            .with("partition", partition)
            .with("votersUp", up.len())
            .with("votersNeeded", voters.len() / 2 + 1);
        match away.is_empty() {
            true => problem,
            false => problem.with("votersAway", away.join(", ")),
        }
    }
}

fn id_text(ticket: TicketId) -> String {
    ticket.to_string()
}

fn role_message(role: Role) -> v1::Role {
    match role {
        Role::Reader => v1::Role::Reader,
        Role::Writer => v1::Role::Writer,
        Role::Admin => v1::Role::Admin,
    }
}
