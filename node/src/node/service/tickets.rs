//! [driver] Tickets that were made: listed without their secrets, revoked.

use super::members::{foreign, page, role_message};
use super::{NodeService, render};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::{Env, Runtime};
use aber_materializer::members::{Members, TicketRow};
use aber_proto::generated::v1;
use aber_proto::{Operation, TicketId, Timestamp};

/// Digits of a ticket's id that are enough if no other starts like it.
const START_DIGITS: usize = 4;

impl<E: Env> NodeService<E> {
    pub(super) fn tickets(
        &self,
        request: &v1::ListTicketsRequest,
    ) -> Answer<v1::ListTicketsResponse> {
        let members = self.node.parts.members.get();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(parse(token).ok_or_else(|| foreign(token))?),
        };
        let (rows, next) = page(members.tickets(), after, request.page_size, |row| {
            row.ticket
        });
        Ok(v1::ListTicketsResponse {
            tickets: rows.into_iter().map(|row| self.ticket(row)).collect(),
            next_page_token: next.map_or_else(String::new, |next| next.to_string()),
        })
    }

    /// A ticket, without its secret, which no node knows.
    pub(super) fn ticket(&self, row: &TicketRow) -> v1::Ticket {
        let now = self.node.parts.env.runtime().wall_clock();
        let name_of = |node| self.node.name_of(node);
        let (used, revoked) = (row.used, row.revoked);
        v1::Ticket {
            id: row.ticket.to_string(),
            role: role_message(row.role).into(),
            voter_eligible: row.is_voter_eligible,
            node_name: row.name.clone().unwrap_or_default(),
            inviter: name_of(row.inviter),
            expire_time: Some(render::stamp_message(row.expires)),
            used_by: used.map(|end| name_of(end.node)).unwrap_or_default(),
            use_time: used.map(|end| render::stamp_message(end.time)),
            revoked_by: revoked.map(|end| name_of(end.node)).unwrap_or_default(),
            revoke_time: revoked.map(|end| render::stamp_message(end.time)),
            state: state(row, now).into(),
        }
    }

    pub(super) async fn revoke(
        &self,
        request: v1::RevokeTicketRequest,
    ) -> Answer<v1::RevokeTicketResponse> {
        let found = find(&self.node.parts.members.get(), &request.id)?;
        let id = self.request_id(&request.request_id)?;
        let ticket = found.ticket;
        let done = self.write_membership(Operation::RevokeTicket { ticket }, id);
        let result = done.await.map_err(|problem| {
            let members = self.node.parts.members.get();
            let problem = problem.with("ticket", short(ticket));
            match members.ticket(ticket).and_then(|row| row.used) {
                Some(used) if problem.reason == Reason::TicketUsed => problem
                    .with("usedBy", self.node.name_of(used.node))
                    .with("usedAt", used.time)
                    .with("inviter", self.node.name_of(found.inviter)),
                _ => problem,
            }
        })?;
        let members = self.node.parts.members.get();
        let now = members.ticket(ticket).unwrap_or(&found);
        Ok(v1::RevokeTicketResponse {
            ticket: Some(self.ticket(now)),
            result: Some(result),
        })
    }
}

/// Used goes before revoked, revoked before expired, as in the view.
fn state(row: &TicketRow, now: Timestamp) -> v1::TicketState {
    match (row.used, row.revoked) {
        (Some(_), _) => v1::TicketState::Used,
        (None, Some(_)) => v1::TicketState::Revoked,
        (None, None) if row.ended(now).is_some() => v1::TicketState::Expired,
        (None, None) => v1::TicketState::Open,
    }
}

fn short(ticket: TicketId) -> String {
    ticket.to_string().get(..8).unwrap_or_default().to_owned()
}

fn parse(text: &str) -> Option<TicketId> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
    TicketId::from_slice(&bytes.ok()?)
}

/// The ticket with this id, or the only one whose id starts so.
fn find(members: &Members, text: &str) -> Result<TicketRow, Problem> {
    let unknown = || Problem::new(Reason::TicketUnknown).with("ticket", text);
    let start = text.to_ascii_lowercase();
    if start.len() < START_DIGITS {
        let rule =
            format!("{text:?} is too short: {START_DIGITS} digits of a ticket's id at least");
        return Err(Problem::usage(rule));
    }
    let starts = |row: &&TicketRow| row.ticket.to_string().starts_with(&start);
    let mut found = members.tickets().filter(starts);
    match (found.next(), found.next()) {
        (Some(row), None) => Ok(row.clone()),
        (Some(_), Some(_)) => {
            let rule = format!("several tickets start with {text:?}: give more digits of the one");
            Err(Problem::usage(rule))
        }
        (None, _) => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_materializer::members::TicketEnd;
    use aber_proto::{NodeId, Role};

    #[test]
    fn a_ticket_is_open_until_it_came_to_an_end() {
        let end = Some(TicketEnd {
            node: NodeId(4),
            index: 9,
            time: Timestamp(50),
        });
        let open = TicketRow {
            ticket: TicketId([7; 32]),
            inviter: NodeId(1),
            role: Role::Writer,
            is_voter_eligible: true,
            name: None,
            expires: Timestamp(100),
            made: 3,
            used: None,
            revoked: None,
        };
        assert_eq!(state(&open, Timestamp(100)), v1::TicketState::Open);
        assert_eq!(state(&open, Timestamp(101)), v1::TicketState::Expired);
        let revoked = TicketRow {
            revoked: end,
            ..open.clone()
        };
        assert_eq!(state(&revoked, Timestamp(101)), v1::TicketState::Revoked);
        let used = TicketRow {
            used: end,
            ..revoked
        };
        assert_eq!(state(&used, Timestamp(101)), v1::TicketState::Used);
        assert_eq!(parse(&open.ticket.to_string()), Some(open.ticket));
        assert_eq!(short(open.ticket), "07070707");
        let few = find(&Members::default(), "070").expect_err("too short");
        assert_eq!(few.reason, Reason::Usage);
        let none = find(&Members::default(), "07070707").expect_err("none");
        assert_eq!(none.reason, Reason::TicketUnknown);
    }
}
