//! [pure] The values of rows of members and tickets.

use super::{Row, from_big};
use crate::members::{MemberRow, TicketEnd, TicketRow};
use crate::view::code::{Cursor, Damaged, Writer};
use aber_proto::member::is_member_name;
use aber_proto::{NodeId, PublicKey, Rates, Role, TicketId, Timestamp, limit};

impl Row for MemberRow {
    fn write(&self, out: &mut Writer) {
        out.sized(self.name.as_bytes());
        out.raw(&self.key.0);
        out.byte(self.is_voter_eligible.into());
        out.number(self.addresses.len() as u64);
        for address in &self.addresses {
            out.sized(address.as_bytes());
        }
        out.number(self.uplink.up);
        out.number(self.uplink.down);
        out.number(self.neighbours.len() as u64);
        for node in &self.neighbours {
            out.number(node.0);
        }
        out.number(self.roles.len() as u64);
        for (index, role) in &self.roles {
            out.number(*index);
            out.byte(role.map_or(0, code_of));
        }
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let node = node_of(key).ok_or(Damaged)?;
        let (name, key) = (cursor.text()?, PublicKey(cursor.array()?));
        let is_voter_eligible = flag(cursor)?;
        let addresses = list(cursor, limit::MEMBER_ADDRESSES, |cursor| cursor.text())?;
        let (up, down) = (cursor.number()?, cursor.number()?);
        let neighbours = list(cursor, limit::MEMBER_NEIGHBOURS, |cursor| {
            cursor.number().map(NodeId)
        })?;
        // One more than roles may be set: the removal.
        let roles = list(cursor, limit::MEMBER_ROLES + 1, |cursor| {
            Ok((cursor.number()?, role_or_none(cursor)?))
        })?;
        let ends = roles.iter().position(|(_, role)| role.is_none());
        let is_sane = is_member_name(&name)
            && roles.is_sorted_by(|one, next| one.0 < next.0)
            && ends.is_none_or(|end| end + 1 == roles.len())
            && !roles.is_empty();
        if !is_sane {
            return Err(Damaged);
        }
        Ok(Self {
            node,
            name,
            key,
            is_voter_eligible,
            addresses,
            uplink: Rates { up, down },
            neighbours,
            roles,
        })
    }
}

impl Row for TicketRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.inviter.0);
        out.byte(code_of(self.role));
        out.byte(self.is_voter_eligible.into());
        out.byte(self.name.is_some().into());
        if let Some(name) = &self.name {
            out.sized(name.as_bytes());
        }
        out.signed(self.expires.0);
        out.number(self.made);
        for end in [self.used, self.revoked] {
            out.byte(end.is_some().into());
            if let Some(TicketEnd { node, index, time }) = end {
                out.number(node.0);
                out.number(index);
                out.signed(time.0);
            }
        }
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let ticket = key.get(super::PREFIX_BYTES..).ok_or(Damaged)?;
        let ticket = TicketId::from_slice(ticket).ok_or(Damaged)?;
        let inviter = NodeId(cursor.number()?);
        let role = role_or_none(cursor)?.ok_or(Damaged)?;
        let is_voter_eligible = flag(cursor)?;
        let name = flag(cursor)?.then(|| cursor.text()).transpose()?;
        Ok(Self {
            ticket,
            inviter,
            role,
            is_voter_eligible,
            name,
            expires: Timestamp(cursor.signed()?),
            made: cursor.number()?,
            used: end(cursor)?,
            revoked: end(cursor)?,
        })
    }
}

fn node_of(key: &[u8]) -> Option<NodeId> {
    let bytes = key.get(super::PREFIX_BYTES..)?.try_into().ok()?;
    Some(NodeId(from_big(bytes)))
}

fn code_of(role: Role) -> u8 {
    match role {
        Role::Reader => 1,
        Role::Writer => 2,
        Role::Admin => 3,
    }
}

fn role_or_none(cursor: &mut Cursor<'_>) -> Result<Option<Role>, Damaged> {
    Ok(match cursor.byte()? {
        0 => None,
        1 => Some(Role::Reader),
        2 => Some(Role::Writer),
        3 => Some(Role::Admin),
        _ => return Err(Damaged),
    })
}

fn flag(cursor: &mut Cursor<'_>) -> Result<bool, Damaged> {
    match cursor.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Damaged),
    }
}

fn end(cursor: &mut Cursor<'_>) -> Result<Option<TicketEnd>, Damaged> {
    if !flag(cursor)? {
        return Ok(None);
    }
    Ok(Some(TicketEnd {
        node: NodeId(cursor.number()?),
        index: cursor.number()?,
        time: Timestamp(cursor.signed()?),
    }))
}

fn list<T>(
    cursor: &mut Cursor<'_>,
    most: usize,
    read: impl Fn(&mut Cursor<'_>) -> Result<T, Damaged>,
) -> Result<Vec<T>, Damaged> {
    let count = usize::try_from(cursor.number()?).map_err(|_| Damaged)?;
    if count > most {
        return Err(Damaged);
    }
    (0..count).map(|_| read(cursor)).collect()
}
