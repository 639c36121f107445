//! [pure] Members and tickets: rules that every node decides alike (promises S2, S5).
//!
//! Whether the author may do this at all was judged before, as for every change. Here stands what
//! depends on the rows: a ticket lets one node in, a number and a key are used once, names are
//! unique among those present, and somebody is always left to admit and to remove.

use super::namespace::{Fold, Outcome, Stop, refuse};
use super::outcome::{EventOutcome, Idle, Rejection};
use super::table::{self, Row};
use crate::members::{MemberRow, Members, TicketEnd, TicketRow};
use aber_log::env::Kv;
use aber_proto::{NodeId, Operation, PublicKey, Rates, Role, TicketId, Timestamp, limit};
use std::sync::Arc;

/// The highest number put behind a name that is taken.
const NAME_NUMBERS: u32 = 99;

/// What an admission asks for.
struct Newcomer<'e> {
    key: PublicKey,
    name: &'e str,
    addresses: &'e [String],
}

impl<K: Kv> Fold<K> {
    /// Writes the members of the genesis, with the first entry.
    pub(crate) fn seed_members(&mut self) {
        let founders = self.members.clone();
        for row in founders.iter().flat_map(|members| members.all()) {
            self.rows.put(table::member_key(row.node), row.encode());
        }
    }

    pub(crate) fn apply_membership(&mut self, operation: &Operation, author: NodeId) -> Outcome {
        match operation {
            Operation::Invite {
                ticket,
                role,
                is_voter_eligible,
                name,
                expires,
            } => self.invite(TicketRow {
                ticket: *ticket,
                inviter: author,
                role: *role,
                is_voter_eligible: *is_voter_eligible,
                name: name.clone(),
                expires: *expires,
                made: self.index(),
                used: None,
                revoked: None,
            }),
            Operation::RevokeTicket { ticket } => self.revoke(*ticket, author),
            Operation::Admit {
                ticket,
                key,
                name,
                addresses,
            } => {
                let key = *key;
                let newcomer = Newcomer {
                    key,
                    name,
                    addresses,
                };
                self.admit_member(*ticket, &newcomer)
            }
            Operation::SetMember { node, .. } => self.set_member(*node, operation),
            Operation::RemoveMember { node } => self.remove_member(*node),
            _ => refuse(Rejection::Malformed),
        }
    }

    /// A data partition has no members: a change that says so is rejected before it comes here.
    fn members(&self) -> Result<Arc<Members>, Stop> {
        match &self.members {
            Some(members) => Ok(Arc::clone(members)),
            None => refuse(Rejection::Malformed),
        }
    }

    /// Callers let go of what they hold of the members before, so that nothing is copied.
    fn save_member(&mut self, row: MemberRow) {
        self.rows.put(table::member_key(row.node), row.encode());
        if let Some(members) = &mut self.members {
            Arc::make_mut(members).put(row);
        }
    }

    fn save_ticket(&mut self, row: TicketRow) {
        self.rows.put(table::ticket_key(row.ticket), row.encode());
        if let Some(members) = &mut self.members {
            Arc::make_mut(members).put_ticket(row);
        }
    }

    fn invite(&mut self, row: TicketRow) -> Outcome {
        let (members, now) = (self.members()?, self.applied.order_time);
        if let Some(known) = members.ticket(row.ticket) {
            let made = known.made;
            return if (TicketRow { made, ..row }) == *known {
                ticket_done(known.ticket, Some(Idle::Same))
            } else {
                refuse(Rejection::TicketTaken)
            };
        }
        if row.expires < now {
            return refuse(Rejection::TicketExpired);
        }
        if row.expires.0.saturating_sub(now.0) > limit::TICKET_VALID_MS {
            return refuse(Rejection::TicketTooLong);
        }
        let is_open = |ticket: &&TicketRow| ticket.ended(now).is_none();
        if members.tickets().filter(is_open).count() >= limit::TICKETS_OPEN {
            return refuse(Rejection::TooManyTickets);
        }
        let forgotten = forgotten_tickets(&members, now);
        drop(members);
        for ticket in forgotten {
            self.rows.remove(table::ticket_key(ticket));
            if let Some(members) = &mut self.members {
                Arc::make_mut(members).remove_ticket(ticket);
            }
        }
        let ticket = row.ticket;
        self.save_ticket(row);
        ticket_done(ticket, None)
    }

    fn end_here(&self, node: NodeId) -> TicketEnd {
        TicketEnd {
            node,
            index: self.index(),
            time: self.applied.order_time,
        }
    }

    /// Whoever is late learns why: used goes before revoked, revoked before expired.
    fn revoke(&mut self, ticket: TicketId, author: NodeId) -> Outcome {
        let members = self.members()?;
        let Some(row) = members.ticket(ticket) else {
            return refuse(Rejection::TicketUnknown);
        };
        if row.used.is_some() {
            return refuse(Rejection::TicketUsed);
        }
        if row.revoked.is_some() {
            return ticket_done(ticket, Some(Idle::Same));
        }
        let mut row = row.clone();
        drop(members);
        row.revoked = Some(self.end_here(author));
        self.save_ticket(row);
        ticket_done(ticket, None)
    }

    fn admit_member(&mut self, ticket: TicketId, newcomer: &Newcomer<'_>) -> Outcome {
        let members = self.members()?;
        if let Some(known) = members.by_key(&newcomer.key) {
            // Its first try landed, and the answer was lost.
            return match known.role() {
                Some(_) => member_done(known, Some(Idle::Exists)),
                None => refuse(Rejection::MemberRemoved),
            };
        }
        let Some(offer) = members.ticket(ticket) else {
            return refuse(Rejection::TicketUnknown);
        };
        if offer.used.is_some() {
            return refuse(Rejection::TicketUsed);
        }
        if offer.revoked.is_some() {
            return refuse(Rejection::TicketRevoked);
        }
        if self.applied.order_time > offer.expires {
            return refuse(Rejection::TicketExpired);
        }
        let node = NodeId(self.index());
        if members.member(node).is_some() {
            return refuse(Rejection::NumberTaken);
        }
        if members.present_count() >= limit::MEMBERS || members.ever_count() >= limit::MEMBERS_EVER
        {
            return refuse(Rejection::TooManyMembers);
        }
        let name = offer.name.as_deref().unwrap_or(newcomer.name);
        let Some(name) = free_name(&members, name) else {
            return refuse(Rejection::NameTaken);
        };
        let row = MemberRow {
            node,
            name,
            key: newcomer.key,
            is_voter_eligible: offer.is_voter_eligible,
            addresses: newcomer.addresses.to_vec(),
            uplink: Rates::default(),
            usable_up: 0,
            neighbours: Vec::new(),
            roles: vec![(self.index(), Some(offer.role))],
        };
        let (outcome, mut offer) = (member_done(&row, None), offer.clone());
        drop(members);
        offer.used = Some(self.end_here(node));
        self.save_ticket(offer);
        self.save_member(row);
        outcome
    }

    fn set_member(&mut self, node: NodeId, operation: &Operation) -> Outcome {
        let Operation::SetMember {
            name,
            role,
            is_voter_eligible,
            addresses,
            uplink,
            usable_up,
            neighbours,
            ..
        } = operation
        else {
            return refuse(Rejection::Malformed);
        };
        let members = self.members()?;
        let known = member_of(&members, node)?;
        let Some(present) = known.role() else {
            return refuse(Rejection::MemberRemoved);
        };
        let mut row = known.clone();
        if let Some(name) = name {
            let holder = members.by_name(name);
            if holder.is_some_and(|holder| holder.node != node) {
                return refuse(Rejection::NameTaken);
            }
            row.name.clone_from(name);
        }
        if let Some(role) = role.filter(|role| *role != present) {
            if role < Role::Admin && members.is_last_admin(node) {
                return refuse(Rejection::LastAdmin);
            }
            row.set_role(self.index(), Some(role));
            if row.roles.len() > limit::MEMBER_ROLES {
                return refuse(Rejection::TooManyRoles);
            }
        }
        row.is_voter_eligible = is_voter_eligible.unwrap_or(row.is_voter_eligible);
        let rates = uplink.unwrap_or(row.uplink);
        // What was measured of another line says nothing of this one.
        let usable_before = row.usable_up * u64::from(rates.up == row.uplink.up);
        row.uplink = rates;
        row.usable_up = usable_up.unwrap_or(usable_before);
        if let Some(addresses) = addresses {
            row.addresses.clone_from(addresses);
        }
        if let Some(neighbours) = neighbours {
            row.neighbours.clone_from(neighbours);
        }
        if row == *known {
            return member_done(known, Some(Idle::Same));
        }
        drop(members);
        let outcome = member_done(&row, None);
        self.save_member(row);
        outcome
    }

    fn remove_member(&mut self, node: NodeId) -> Outcome {
        let members = self.members()?;
        let known = member_of(&members, node)?;
        if known.role().is_none() {
            return member_done(known, Some(Idle::Same));
        }
        if members.is_last_admin(node) {
            return refuse(Rejection::LastAdmin);
        }
        let mut row = known.clone();
        drop(members);
        row.set_role(self.index(), None);
        let outcome = member_done(&row, None);
        self.save_member(row);
        outcome
    }
}

/// Tickets that ended long ago, and the longest ended ones where there are too many.
fn forgotten_tickets(members: &Members, now: Timestamp) -> Vec<TicketId> {
    let mut ended: Vec<_> = members
        .tickets()
        .filter_map(|row| Some((row.ended(now)?, row.ticket)))
        .collect();
    ended.sort_unstable();
    let too_many = (members.tickets().count() + 1).saturating_sub(limit::TICKETS);
    let is_old = |end: Timestamp| now.0.saturating_sub(end.0) > limit::TICKET_KEPT_MS;
    ended
        .into_iter()
        .enumerate()
        .take_while(|(position, (end, _))| is_old(*end) || *position < too_many)
        .map(|(_, (_, ticket))| ticket)
        .collect()
}

fn member_of(members: &Members, node: NodeId) -> Result<&MemberRow, Stop> {
    match members.member(node) {
        Some(row) => Ok(row),
        None => refuse(Rejection::MemberUnknown),
    }
}

fn member_done(row: &MemberRow, idle: Option<Idle>) -> Outcome {
    Ok(EventOutcome::Member {
        node: row.node,
        name: row.name.clone(),
        idle,
    })
}

fn ticket_done(ticket: TicketId, idle: Option<Idle>) -> Outcome {
    Ok(EventOutcome::Ticket { ticket, idle })
}

/// The name, or the first of `name-2` to `name-99` that nobody has; a long one is cut for that.
fn free_name(members: &Members, name: &str) -> Option<String> {
    let numbered = (2..=NAME_NUMBERS).map(|number| {
        let end = format!("-{number}");
        let room = limit::MEMBER_NAME_BYTES.saturating_sub(end.len());
        let start = name.get(..name.len().min(room)).unwrap_or_default();
        format!("{start}{end}")
    });
    std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| members.by_name(name).is_none())
}
