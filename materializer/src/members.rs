//! [pure] Who is a member, in which role, since when: the members and tickets of the control
//! partition, in memory.
//!
//! The rows are the truth and these are a copy of them, for whoever judges: a role is asked for at
//! a control index (promise S2), and what was true then can be told for good, since rows of removed
//! members stay. Clones are cheap to make and each a snapshot of its own.

use crate::view::table::{self, Row, Table};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{Genesis, NodeId, PublicKey, Rates, Role, TicketId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows read from the index at once.
const PAGE: usize = 256;

/// A member, present or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRow {
    /// Its number: that of the genesis, or the index of the entry that admitted it.
    pub node: NodeId,
    /// Its name; of one that was removed, the last it had.
    pub name: String,
    /// Its key; for good.
    pub key: PublicKey,
    /// Whether it may be made a voter.
    pub is_voter_eligible: bool,
    /// `host:port` where other nodes reach it.
    pub addresses: Vec<String>,
    /// What its connection carries, as declared.
    pub uplink: Rates,
    /// What of its uplink others may count on for now, in bytes a second, by its own word; 0: what is
    /// declared.
    pub usable_up: u64,
    /// Members it has links to, in rising order; none: whoever it reaches.
    pub neighbours: Vec<NodeId>,
    /// What it may do from each of these control indexes on, in rising order; `None`: removed. The
    /// first is where it became a member, 0 for those of the genesis.
    pub roles: Vec<(u64, Option<Role>)>,
}

/// A ticket that was made, open or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketRow {
    /// The hash of its secret.
    pub ticket: TicketId,
    /// Who made it.
    pub inviter: NodeId,
    /// What the newcomer may do.
    pub role: Role,
    /// Whether it may be made a voter.
    pub is_voter_eligible: bool,
    /// The name it gets, if that was fixed.
    pub name: Option<String>,
    /// In order time.
    pub expires: Timestamp,
    /// The control index that made it.
    pub made: u64,
    /// The member it let in.
    pub used: Option<TicketEnd>,
    /// Who revoked it.
    pub revoked: Option<TicketEnd>,
}

/// How a ticket came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TicketEnd {
    /// The member it let in, or who revoked it.
    pub node: NodeId,
    /// The control index.
    pub index: u64,
    /// Order time there.
    pub time: Timestamp,
}

/// All members and tickets as of one control index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    rows: BTreeMap<NodeId, Arc<MemberRow>>,
    /// All keys ever.
    keys: BTreeMap<PublicKey, NodeId>,
    /// Of those present.
    names: BTreeMap<String, NodeId>,
    tickets: BTreeMap<TicketId, TicketRow>,
}

impl MemberRow {
    /// What it may do now; `None` if it was removed.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.roles.last().and_then(|(_, role)| *role)
    }

    /// What it may do in an entry judged by this control index; `None` before it was admitted and
    /// from its removal on.
    #[must_use]
    pub fn role_at(&self, control_index: u64) -> Option<Role> {
        let after = self
            .roles
            .partition_point(|(from, _)| *from <= control_index);
        self.roles.get(after.checked_sub(1)?)?.1
    }

    /// Where it became a member; 0 for those of the genesis.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.roles.first().map_or(0, |(index, _)| *index)
    }

    /// Where it was removed, if it was.
    #[must_use]
    pub fn removed(&self) -> Option<u64> {
        match self.roles.last() {
            Some((index, None)) => Some(*index),
            _ => None,
        }
    }

    /// Sets the role from an index on that is not below an earlier one.
    pub(crate) fn set_role(&mut self, index: u64, role: Option<Role>) {
        match self.roles.last_mut() {
            Some(last) if last.0 == index => last.1 = role,
            _ => self.roles.push((index, role)),
        }
    }
}

impl TicketRow {
    /// When it came to its end, as of an order time; `None` while it lets somebody in.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.used.or(self.revoked).map(|end| end.time);
        end.or((now > self.expires).then_some(self.expires))
    }
}

impl Members {
    /// Those of the genesis, before the first entry.
    #[must_use]
    pub fn of_genesis(genesis: &Genesis) -> Self {
        let mut members = Self::default();
        for founder in &genesis.members {
            let addresses = Some(founder.address.clone()).filter(|address| !address.is_empty());
            members.put(MemberRow {
                node: founder.node,
                name: founder.name.clone(),
                key: founder.key,
                is_voter_eligible: true,
                addresses: addresses.into_iter().collect(),
                uplink: Rates::default(),
                usable_up: 0,
                neighbours: Vec::new(),
                roles: vec![(0, Some(founder.role))],
            });
        }
        members
    }

    /// Some members, without tickets.
    #[must_use]
    pub fn of_rows(rows: impl IntoIterator<Item = MemberRow>) -> Self {
        let mut members = Self::default();
        for row in rows {
            members.put(row);
        }
        members
    }

    /// Those of the control partition's view as the index holds it; those of the genesis while it
    /// holds nothing.
    ///
    /// # Errors
    /// The index failed, or a row in it is damaged.
    pub fn load<K: Kv>(kv: &K, genesis: &Genesis) -> Result<Self, KvProblem> {
        let mut members = Self::default();
        each_row(kv, Table::Member, |row| members.put(row))?;
        if members.rows.is_empty() {
            return Ok(Self::of_genesis(genesis));
        }
        each_row(kv, Table::Ticket, |row| members.put_ticket(row))?;
        Ok(members)
    }

    /// What a node may do in an entry judged by this control index.
    #[must_use]
    pub fn role_at(&self, node: NodeId, control_index: u64) -> Option<Role> {
        self.rows.get(&node)?.role_at(control_index)
    }

    /// The key of a node, present or removed.
    #[must_use]
    pub fn key_of(&self, node: NodeId) -> Option<PublicKey> {
        self.rows.get(&node).map(|row| row.key)
    }

    /// The row of a node, present or removed.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&MemberRow> {
        self.rows.get(&node).map(Arc::as_ref)
    }

    /// All rows, those of removed members included, by number.
    pub fn all(&self) -> impl Iterator<Item = &MemberRow> {
        self.rows.values().map(Arc::as_ref)
    }

    /// All members now, by number.
    pub fn present(&self) -> impl Iterator<Item = &MemberRow> {
        self.all().filter(|row| row.role().is_some())
    }

    /// The member with this key, present or removed.
    #[must_use]
    pub fn by_key(&self, key: &PublicKey) -> Option<&MemberRow> {
        self.member(*self.keys.get(key)?)
    }

    /// The present member with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&MemberRow> {
        self.member(*self.names.get(name)?)
    }

    /// How many members there are now.
    #[must_use]
    pub fn present_count(&self) -> usize {
        self.names.len()
    }

    /// How many members there ever were.
    #[must_use]
    pub fn ever_count(&self) -> usize {
        self.rows.len()
    }

    /// All tickets remembered.
    pub fn tickets(&self) -> impl Iterator<Item = &TicketRow> {
        self.tickets.values()
    }

    /// A ticket.
    #[must_use]
    pub fn ticket(&self, ticket: TicketId) -> Option<&TicketRow> {
        self.tickets.get(&ticket)
    }

    /// The members as they would be if this one were removed next.
    #[must_use]
    pub fn without(&self, node: NodeId) -> Self {
        let mut members = self.clone();
        if let Some(row) = self.member(node).filter(|row| row.role().is_some()) {
            let mut row = row.clone();
            let last = row.roles.last().map_or(0, |(index, _)| *index);
            row.set_role(last.saturating_add(1), None);
            members.put(row);
        }
        members
    }

    /// Whether this one is an admin and nobody else is.
    #[must_use]
    pub fn is_last_admin(&self, node: NodeId) -> bool {
        let is_admin = |row: &&MemberRow| row.role() == Some(Role::Admin);
        let mut admins = self.present().filter(is_admin).map(|row| row.node);
        admins.next() == Some(node) && admins.next().is_none()
    }

    pub(crate) fn put(&mut self, row: MemberRow) {
        if let Some(before) = self.rows.get(&row.node)
            && before.role().is_some()
        {
            self.names.remove(&before.name);
        }
        if row.role().is_some() {
            self.names.insert(row.name.clone(), row.node);
        }
        self.keys.insert(row.key, row.node);
        self.rows.insert(row.node, Arc::new(row));
    }

    pub(crate) fn put_ticket(&mut self, row: TicketRow) {
        self.tickets.insert(row.ticket, row);
    }

    pub(crate) fn remove_ticket(&mut self, ticket: TicketId) {
        self.tickets.remove(&ticket);
    }
}

fn each_row<K: Kv, R: Row>(kv: &K, table: Table, mut take: impl FnMut(R)) -> Result<(), KvProblem> {
    let mut from = table::table_key(aber_proto::PartitionId::CONTROL, table);
    let to = prefix_end(&from);
    loop {
        let page = kv.scan(&from, &to, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        from = [last, [0].as_slice()].concat();
        for (key, value) in &page {
            take(R::decode(key, value).map_err(|_| table::damaged(key))?);
        }
    }
}
