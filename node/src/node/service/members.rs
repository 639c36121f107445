//! [driver] Members: who they are, how they are as far as this node knows, and setting them.

use super::prepare::Draft;
use super::{NodeService, render};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::{Env, Runtime};
use aber_materializer::members::{MemberRow, Members};
use aber_proto::generated::v1;
use aber_proto::member::is_member_name;
use aber_proto::{NodeId, Operation, Rates, RequestId, Role, Timestamp, codec, limit};
use bytes::Bytes;

/// Members or tickets of one answer.
const PAGE: usize = 500;
/// A member this many entries behind is catching up.
const CATCHING_UP: u64 = 100;
const BITS: u64 = 8;

/// What comes after `token` of rows in rising order of their keys, and the token of the next page.
pub(super) fn page<T, K: Ord>(
    rows: impl Iterator<Item = T>,
    after: Option<K>,
    asked: i32,
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Option<K>) {
    let most = match usize::try_from(asked) {
        Ok(0) | Err(_) => PAGE,
        Ok(asked) => asked.min(PAGE),
    };
    let is_next = |row: &T| after.as_ref().is_none_or(|after| key(row) > *after);
    let mut shown: Vec<T> = rows.filter(is_next).take(most + 1).collect();
    let is_more = shown.len() > most;
    shown.truncate(most);
    let last = shown.last().map(&key);
    (shown, last.filter(|_| is_more))
}

pub(super) fn role_message(role: Role) -> v1::Role {
    match role {
        Role::Reader => v1::Role::Reader,
        Role::Writer => v1::Role::Writer,
        Role::Admin => v1::Role::Admin,
    }
}

fn role_of(role: v1::Role) -> Option<Role> {
    Some(match role {
        v1::Role::Reader => Role::Reader,
        v1::Role::Writer => Role::Writer,
        v1::Role::Admin => Role::Admin,
        v1::Role::Unspecified => return None,
    })
}

/// A difference of clocks.
pub(super) fn skew_message(skew_ms: i64) -> prost_types::Duration {
    let nanos = i32::try_from(skew_ms % 1000 * 1_000_000).unwrap_or(0);
    prost_types::Duration {
        seconds: skew_ms / 1000,
        nanos,
    }
}

/// The present member with a name.
pub(super) fn named<'m>(members: &'m Members, name: &str) -> Result<&'m MemberRow, Problem> {
    if let Some(row) = members.by_name(name) {
        return Ok(row);
    }
    let was = members.all().filter(|row| row.name == name);
    let last = was
        .filter_map(|row| Some((row.removed()?, row)))
        .max_by_key(|(at, _)| *at);
    Err(match last {
        Some((at, _)) => Problem::new(Reason::MemberRemoved)
            .with("member", name)
            .with("entry", format!("0:{at}")),
        None => Problem::new(Reason::MemberUnknown).with("member", name),
    })
}

impl<E: Env> NodeService<E> {
    pub(super) fn members(
        &self,
        request: &v1::ListMembersRequest,
    ) -> Answer<v1::ListMembersResponse> {
        let parts = &self.node.parts;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| foreign(token))?),
        };
        let members = parts.members.get();
        let me = parts.config.me;
        let is_shown =
            |row: &&MemberRow| request.with_removed || row.role().is_some() || row.node == me;
        let rows = members.all().filter(is_shown);
        let (rows, next) = page(rows, after, request.page_size, |row| row.node.0);
        let shown = rows.into_iter().map(|row| self.member(&members, row));
        Ok(v1::ListMembersResponse {
            members: shown.collect(),
            next_page_token: next.map_or_else(String::new, |next| next.to_string()),
            genesis: codec::encode_genesis(&parts.config.genesis).into(),
        })
    }

    /// A row, and what this node knows of the member.
    fn member(&self, members: &Members, row: &MemberRow) -> v1::Member {
        let parts = &self.node.parts;
        let is_me = row.node == parts.config.me;
        let sighting = parts.sightings.get().remove(&row.node);
        let behind = sighting.as_ref().map_or(0, |seen| seen.entries_behind);
        let state = if row.role().is_none() {
            v1::MemberState::Removed
        } else if self.is_away(row.node) {
            v1::MemberState::Away
        } else if !self.is_up(row.node) {
            // No neighbour: others know.
            v1::MemberState::Unspecified
        } else if behind >= CATCHING_UP {
            v1::MemberState::CatchingUp
        } else {
            v1::MemberState::Up
        };
        let is_up = matches!(state, v1::MemberState::Up | v1::MemberState::CatchingUp);
        let seen: Option<Timestamp> = match is_up {
            true => Some(parts.env.runtime().wall_clock()),
            false => sighting.as_ref().map(|seen| seen.seen),
        };
        let groups = |wanted: &dyn Fn(&aber_log::partition::Partition<E>) -> bool| -> Vec<u32> {
            let found = parts.partitions.iter().filter(|(_, group)| wanted(group));
            found.map(|(partition, _)| partition.0).collect()
        };
        let name_of = |node: &NodeId| {
            let known = members.member(*node);
            known.map_or_else(|| node.to_string(), |row| row.name.clone())
        };
        let version = match &sighting {
            _ if is_me => env!("CARGO_PKG_VERSION").to_owned(),
            Some(seen) => seen.version.clone(),
            None => String::new(),
        };
        let last_role = row.roles.iter().rev().find_map(|(_, role)| *role);
        v1::Member {
            name: row.name.clone(),
            key: Bytes::copy_from_slice(&row.key.0),
            role: last_role.map_or(v1::Role::Unspecified, role_message).into(),
            voter_eligible: row.is_voter_eligible,
            addresses: row.addresses.clone(),
            neighbours: row.neighbours.iter().map(name_of).collect(),
            uplink_bits_per_second: row.uplink.up.saturating_mul(BITS),
            downlink_bits_per_second: row.uplink.down.saturating_mul(BITS),
            usable_uplink_bits_per_second: row.usable_up.saturating_mul(BITS),
            state: state.into(),
            last_seen_time: seen.map(render::stamp_message),
            version,
            entries_behind: if is_me { 0 } else { behind },
            votes_in: groups(&|group| group.voters().contains(&row.node)),
            leads: groups(&|group| group.leader() == Some(row.node)),
            clock_skew: sighting.and_then(|seen| seen.skew_ms).map(skew_message),
            id: row.node.0,
            admitted_index: row.admitted(),
            removed_index: row.removed().unwrap_or(0),
        }
    }

    pub(super) async fn set_member(
        &self,
        request: v1::UpdateMemberRequest,
    ) -> Answer<v1::UpdateMemberResponse> {
        let members = self.node.parts.members.get();
        let row = named(&members, &request.name)?.clone();
        let operation = set_operation(&members, &row, &request)?;
        drop(members);
        let id = self.request_id(&request.request_id)?;
        let done = self.write_membership(operation, id).await;
        let result = done.map_err(|problem| {
            let wanted = request.member.unwrap_or_default().name;
            match problem.reason {
                Reason::NameTaken => problem.with("name", wanted),
                _ => problem.with("member", &row.name),
            }
        })?;
        let members = self.node.parts.members.get();
        let now = members
            .member(row.node)
            .map(|row| self.member(&members, row));
        Ok(v1::UpdateMemberResponse {
            member: now,
            result: Some(result),
        })
    }

    /// Appends a change of the membership, as any change, and waits for its outcome.
    pub(super) async fn write_membership(
        &self,
        operation: Operation,
        request: RequestId,
    ) -> Result<v1::WriteResult, Problem> {
        let options = v1::WriteOptions {
            via: "members".to_owned(),
            ..v1::WriteOptions::default()
        };
        let draft = Draft::of_members(operation);
        let written = self.write_draft(draft, request, &options).await;
        written.map_err(|problem| match problem.reason {
            Reason::NotAllowed => self.beyond_role(problem, Role::Admin),
            _ => problem,
        })
    }

    /// The problem of a change that takes another role than this node has.
    pub(super) fn beyond_role(&self, problem: Problem, needed: Role) -> Problem {
        let parts = &self.node.parts;
        let members = parts.members.get();
        let role = members.member(parts.config.me).and_then(MemberRow::role);
        problem
            .with("member", self.node.name_of(parts.config.me))
            .with("role", role.map_or("removed member", render::role_text))
            .with("needed", render::role_text(needed))
    }
}

pub(super) fn foreign(token: &str) -> Problem {
    Problem::new(Reason::CursorForeign).with("detail", format!("page token {token:?}"))
}

/// What is in the mask, as an operation.
fn set_operation(
    members: &Members,
    row: &MemberRow,
    request: &v1::UpdateMemberRequest,
) -> Result<Operation, Problem> {
    let wanted = request.member.clone().unwrap_or_default();
    let mask = &request.update_mask;
    let has = |field: &str| mask.iter().any(|named| named == field);
    let known = [
        "name",
        "role",
        "voter_eligible",
        "addresses",
        "neighbours",
        "uplink_bits_per_second",
        "downlink_bits_per_second",
    ];
    if let Some(other) = mask.iter().find(|field| !known.contains(&field.as_str())) {
        return Err(Problem::usage(format!(
            "{other:?} of a member cannot be set"
        )));
    }
    if mask.is_empty() {
        return Err(Problem::usage("nothing to set is named"));
    }
    if has("name") && !is_member_name(&wanted.name) {
        let most = limit::MEMBER_NAME_BYTES;
        let rule = format!(
            "a name is 1 to {most} of a-z, 0-9 and -, not {:?}",
            wanted.name
        );
        return Err(Problem::usage(rule));
    }
    if let Some(bad) = wanted.addresses.iter().find(|text| !is_address(text)) {
        let rule = format!("{bad:?} is no address: it looks like malo.lan:7787 or [fd42::7]:7787");
        return Err(Problem::usage(rule));
    }
    if wanted.addresses.len() > limit::MEMBER_ADDRESSES {
        let most = limit::MEMBER_ADDRESSES;
        return Err(Problem::usage(format!(
            "a member has at most {most} addresses"
        )));
    }
    let role = match has("role") {
        true => Some(role_of(wanted.role()).ok_or_else(|| Problem::usage("no such role"))?),
        false => None,
    };
    let neighbours = has("neighbours").then(|| numbers(members, &wanted.neighbours));
    let (up, down) = (
        has("uplink_bits_per_second"),
        has("downlink_bits_per_second"),
    );
    let rate = |is_set: bool, bits: u64, before: u64| if is_set { bits / BITS } else { before };
    Ok(Operation::SetMember {
        node: row.node,
        name: has("name").then(|| wanted.name.clone()),
        role,
        is_voter_eligible: has("voter_eligible").then_some(wanted.voter_eligible),
        addresses: has("addresses").then(|| wanted.addresses.clone()),
        uplink: (up || down).then(|| Rates {
            up: rate(up, wanted.uplink_bits_per_second, row.uplink.up),
            down: rate(down, wanted.downlink_bits_per_second, row.uplink.down),
        }),
        usable_up: None,
        neighbours: neighbours.transpose()?,
    })
}

/// Whether others could dial this: `host:port`, with brackets around an IPv6 host.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_ip = text.parse::<std::net::SocketAddr>().is_ok();
    let is_host = is_ip || (!host.is_empty() && host.chars().all(is_name));
    is_port && is_host && text.len() <= limit::ADDRESS_BYTES
}

/// The numbers of these members, in rising order.
fn numbers(members: &Members, names: &[String]) -> Result<Vec<NodeId>, Problem> {
    let found = names.iter().map(|name| Ok(named(members, name)?.node));
    let mut found = found.collect::<Result<Vec<_>, Problem>>()?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_meet_without_gap_or_overlap() {
        let numbers = |after, asked| page(1..=7_u64, after, asked, |number| *number);
        assert_eq!(numbers(None, 3), (vec![1, 2, 3], Some(3)));
        assert_eq!(numbers(Some(3), 3), (vec![4, 5, 6], Some(6)));
        assert_eq!(numbers(Some(6), 3), (vec![7], None));
        assert_eq!(
            numbers(Some(4), 3),
            (vec![5, 6, 7], None),
            "no empty last page"
        );
        assert_eq!(numbers(None, 0).0.len(), 7);
        assert_eq!(numbers(None, -1).0.len(), 7);
    }

    #[test]
    fn addresses_can_be_dialled() {
        for good in [
            "10.0.0.1:7787",
            "[fd42::7]:1",
            "malo.lan:65535",
            "my_host-2:80",
        ] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}:1", "a".repeat(limit::ADDRESS_BYTES));
        for bad in [
            "",
            "x y",
            "host",
            "host:",
            ":1",
            "host:0",
            "a:99999",
            "fd42::7:1",
            "h:1 ",
            &long,
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn differences_of_clocks_keep_their_sign() {
        let skew = skew_message(-1_500);
        assert_eq!((skew.seconds, skew.nanos), (-1, -500_000_000));
        let skew = skew_message(120_001);
        assert_eq!((skew.seconds, skew.nanos), (120, 1_000_000));
    }
}
