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
        out.number(self.usable_up);
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
        let usable_up = cursor.number()?;
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
            usable_up,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::table::{check_row, member_key, ticket_key};
    use proptest::prelude::*;

    fn member() -> MemberRow {
        MemberRow {
            node: NodeId(7),
            name: "malo".to_owned(),
            key: PublicKey([3; 32]),
            is_voter_eligible: true,
            addresses: vec!["[fd00::1]:7787".to_owned(), "h:1".to_owned()],
            uplink: Rates { up: 500, down: 0 },
            usable_up: 60,
            neighbours: vec![NodeId(1), NodeId(300)],
            roles: vec![
                (7, Some(Role::Writer)),
                (300, Some(Role::Admin)),
                (301, None),
            ],
        }
    }

    fn ticket() -> TicketRow {
        let end = TicketEnd {
            node: NodeId(7),
            index: 7,
            time: Timestamp(-5),
        };
        TicketRow {
            ticket: TicketId([9; 32]),
            inviter: NodeId(1),
            role: Role::Reader,
            is_voter_eligible: false,
            name: Some("malo".to_owned()),
            expires: Timestamp(1 << 40),
            made: 6,
            used: Some(end),
            revoked: None,
        }
    }

    #[test]
    fn rows_come_back() {
        let (key, value) = (member_key(NodeId(7)), member().encode());
        assert_eq!(MemberRow::decode(&key, &value), Ok(member()));
        assert!(check_row(&key, &value).is_ok());
        let (key, value) = (ticket_key(TicketId([9; 32])), ticket().encode());
        assert_eq!(TicketRow::decode(&key, &value), Ok(ticket()));
        assert!(check_row(&key, &value).is_ok());
    }

    /// S2: no row says that a role came before another one that was set earlier, that a removed
    /// member came back, or that it never had a role.
    #[test]
    fn a_past_that_cannot_be_is_refused() {
        let bad: [&[(u64, Option<Role>)]; 4] = [
            &[],
            &[(7, Some(Role::Reader)), (7, Some(Role::Admin))],
            &[(8, Some(Role::Reader)), (7, None)],
            &[(7, None), (8, Some(Role::Reader))],
        ];
        for roles in bad {
            let roles = roles.to_vec();
            let row = MemberRow { roles, ..member() };
            let decoded = MemberRow::decode(&member_key(NodeId(7)), &row.encode());
            assert_eq!(decoded, Err(Damaged));
        }
    }

    proptest! {
        /// C8: a row has one spelling, whatever was done to its bytes.
        #[test]
        fn damaged_rows_are_refused_or_are_whole_ones(position: usize, flip: u8, cut in 0..3_usize) {
            let damaged = |mut bytes: Vec<u8>| {
                let length = bytes.len();
                bytes[position % length] ^= flip;
                bytes.truncate(length - cut);
                bytes
            };
            let bytes = damaged(member().encode());
            if let Ok(row) = MemberRow::decode(&member_key(NodeId(7)), &bytes) {
                prop_assert_eq!(row.encode(), bytes);
            }
            let bytes = damaged(ticket().encode());
            if let Ok(row) = TicketRow::decode(&ticket_key(TicketId([9; 32])), &bytes) {
                prop_assert_eq!(row.encode(), bytes);
            }
        }
    }
}
