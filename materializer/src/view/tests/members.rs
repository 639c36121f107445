//! Members and tickets: every rule, and what holds after any of them (promises S2, S5).

use crate::members::{MemberRow, Members, TicketRow};
use crate::testing::{MemKv, World, event, genesis, make_volume};
use crate::view::{EntryResult, EventOutcome, Idle, Rejection, Verdict};
use aber_proto::{Event, Genesis, Member, NodeId, Operation, PublicKey, Rates, Role};
use aber_proto::{TicketId, Timestamp, limit};
use std::collections::BTreeSet;

pub(super) const HOUR_MS: i64 = 3_600_000;

fn ticket(number: u8) -> TicketId {
    TicketId([number; 32])
}

fn key(number: u8) -> PublicKey {
    PublicKey([100 + number; 32])
}

pub(super) fn invite(number: u8, role: Role) -> Event {
    event(Operation::Invite {
        ticket: ticket(number),
        role,
        is_voter_eligible: true,
        name: None,
        expires: Timestamp(HOUR_MS),
    })
}

pub(super) fn revoke(number: u8) -> Event {
    event(Operation::RevokeTicket {
        ticket: ticket(number),
    })
}

pub(super) fn admit(number: u8, newcomer: u8, name: &str) -> Event {
    event(Operation::Admit {
        ticket: ticket(number),
        key: key(newcomer),
        name: name.to_owned(),
        addresses: vec!["new:1".to_owned()],
    })
}

fn nothing_of(node: u64) -> Operation {
    Operation::SetMember {
        node: NodeId(node),
        name: None,
        role: None,
        is_voter_eligible: None,
        addresses: None,
        uplink: None,
        usable_up: None,
        neighbours: None,
    }
}

pub(super) fn set_role(node: u64, to: Role) -> Event {
    let mut operation = nothing_of(node);
    if let Operation::SetMember { role, .. } = &mut operation {
        *role = Some(to);
    }
    event(operation)
}

pub(super) fn set_name(node: u64, to: &str) -> Event {
    let mut operation = nothing_of(node);
    if let Operation::SetMember { name, .. } = &mut operation {
        *name = Some(to.to_owned());
    }
    event(operation)
}

pub(super) fn remove(node: u64) -> Event {
    event(Operation::RemoveMember { node: NodeId(node) })
}

pub(super) fn members(world: &World) -> &Members {
    world.view.members().expect("the control partition")
}

fn row(world: &World, node: u64) -> MemberRow {
    let row = members(world).member(NodeId(node));
    row.expect("a member").clone()
}

/// Admits with a fresh ticket.
pub(super) fn newcomer(world: &mut World, number: u8, role: Role, name: &str) -> (u64, String) {
    world.done(vec![invite(number, role)]);
    match world.done(vec![admit(number, number, name)]).remove(0) {
        EventOutcome::Member {
            node,
            name,
            idle: None,
        } => (node.0, name),
        other => panic!("not admitted: {other:?}"),
    }
}

/// Past the numbers of the genesis.
pub(super) fn control() -> World {
    let mut world = World::new(0);
    for name in ["a", "b", "c"] {
        world.done(vec![make_volume(name, 1)]);
    }
    world
}

#[test]
fn founders_are_members_from_the_start_and_rows_from_the_first_entry() {
    let mut world = World::new(0);
    assert_eq!(*members(&world), Members::of_genesis(&genesis()));
    assert!(world.kv.rows().is_empty());
    let empty = world.view.digest();
    let blank = world
        .log
        .entry(aber_proto::EntryKind::Blank, bytes::Bytes::new());
    world.apply(blank, Verdict::Allowed);
    assert_ne!(world.view.digest(), empty);
    let loaded = Members::load(&world.kv, &genesis()).expect("works");
    assert_eq!(loaded, Members::of_genesis(&genesis()));
    assert_eq!(loaded.present_count(), 3);
    assert_eq!(row(&world, 2).role_at(0), Some(Role::Writer));
    assert_eq!(row(&world, 2).admitted(), 0);
}

/// S5: the number is the index of the entry, the role is the ticket's, and the ticket is used up.
#[test]
fn s5_an_admission_uses_its_ticket_once() {
    let mut world = control();
    let (node, name) = newcomer(&mut world, 1, Role::Writer, "malo");
    assert_eq!((node, name.as_str()), (world.log.index, "malo"));
    let admitted = row(&world, node);
    assert_eq!(admitted.roles, [(node, Some(Role::Writer))]);
    assert_eq!(admitted.addresses, ["new:1"]);
    let again = world.done(vec![admit(1, 1, "other")]).remove(0);
    let idle = Some(Idle::Exists);
    let node = NodeId(node);
    assert_eq!(again, EventOutcome::Member { node, name, idle });
    let used = world.refused(vec![admit(1, 2, "next")]);
    assert_eq!(used, Rejection::TicketUsed);
    let end = members(&world).ticket(ticket(1)).and_then(|row| row.used);
    assert_eq!(end.map(|end| end.node), Some(node));
}

/// S5: each reason why nobody is let in has its own name.
#[test]
fn s5_bad_tickets_are_told_apart() {
    let mut world = control();
    let refused = world.refused(vec![admit(1, 1, "malo")]);
    assert_eq!(refused, Rejection::TicketUnknown);
    assert_eq!(world.refused(vec![revoke(1)]), Rejection::TicketUnknown);
    let made = world.done(vec![invite(1, Role::Reader)]);
    let (idle, ticket) = (None, ticket(1));
    assert_eq!(made, [EventOutcome::Ticket { ticket, idle }]);
    let idle = Some(Idle::Same);
    let same = world.done(vec![invite(1, Role::Reader)]);
    assert_eq!(same, [EventOutcome::Ticket { ticket, idle }]);
    let taken = world.refused(vec![invite(1, Role::Admin)]);
    assert_eq!(taken, Rejection::TicketTaken);
    world.done(vec![revoke(1)]);
    let twice = world.done(vec![revoke(1)]);
    assert_eq!(twice, [EventOutcome::Ticket { ticket, idle }]);
    let refused = world.refused(vec![admit(1, 1, "malo")]);
    assert_eq!(refused, Rejection::TicketRevoked);
    world.done(vec![invite(2, Role::Reader)]);
    world.log.ahead_ms = HOUR_MS;
    let refused = world.refused(vec![admit(2, 1, "malo")]);
    assert_eq!(refused, Rejection::TicketExpired);
    assert_eq!(
        world.refused(vec![invite(3, Role::Reader)]),
        Rejection::TicketExpired
    );
    // Order time does not fall with a leader's clock.
    world.log.ahead_ms = 0;
    let refused = world.refused(vec![admit(2, 1, "malo")]);
    assert_eq!(refused, Rejection::TicketExpired);
    let mut long = invite(4, Role::Reader);
    if let Operation::Invite { expires, .. } = &mut long.operation {
        *expires = Timestamp(limit::TICKET_VALID_MS + 2 * HOUR_MS);
    }
    assert_eq!(world.refused(vec![long]), Rejection::TicketTooLong);
}

#[test]
fn names_are_unique_and_numbered_where_they_are_taken() {
    let mut world = control();
    assert_eq!(newcomer(&mut world, 1, Role::Reader, "anna").1, "anna-2");
    assert_eq!(newcomer(&mut world, 2, Role::Reader, "anna").1, "anna-3");
    let long = "x".repeat(32);
    assert_eq!(newcomer(&mut world, 3, Role::Reader, &long).1, long);
    let cut = format!("{}-2", "x".repeat(30));
    assert_eq!(newcomer(&mut world, 4, Role::Reader, &long).1, cut);
    assert_eq!(
        world.refused(vec![set_name(2, "anna")]),
        Rejection::NameTaken
    );
    world.done(vec![set_name(2, "robert")]);
    assert_eq!(newcomer(&mut world, 5, Role::Reader, "bob").1, "bob");
    world.done(vec![remove(3)]);
    world.done(vec![set_name(2, "carl")]);
    assert_eq!(row(&world, 3).name, "carl");
    let bad = world.write(vec![set_name(2, "Carl")]);
    assert!(matches!(bad, EntryResult::Rejected(why) if why.reason == Rejection::NameNotAllowed));
    let mut fixed = invite(6, Role::Reader);
    if let Operation::Invite { name, .. } = &mut fixed.operation {
        *name = Some("soizic".to_owned());
    }
    world.done(vec![fixed]);
    world.done(vec![admit(6, 6, "whatever")]);
    assert!(members(&world).by_name("soizic").is_some());
    for number in 2..=99 {
        let name = format!("z-{number}");
        let number = u8::try_from(number).expect("small");
        newcomer(&mut world, 10 + number, Role::Reader, &name);
    }
    newcomer(&mut world, 120, Role::Reader, "z");
    world.done(vec![invite(121, Role::Reader)]);
    let refused = world.refused(vec![admit(121, 121, "z")]);
    assert_eq!(refused, Rejection::NameTaken);
}

/// S2: somebody is always left who may admit and remove.
#[test]
fn the_last_admin_stays() {
    let mut world = control();
    assert_eq!(world.refused(vec![remove(1)]), Rejection::LastAdmin);
    let demote = set_role(1, Role::Writer);
    assert_eq!(world.refused(vec![demote.clone()]), Rejection::LastAdmin);
    let both = vec![set_role(2, Role::Admin), demote.clone()];
    world.done(both);
    assert_eq!(world.refused(vec![remove(2)]), Rejection::LastAdmin);
    world.done(vec![set_role(1, Role::Admin)]);
    world.done(vec![remove(2)]);
    // What the first event did to the count of admins is taken back with the second.
    let refused = world.refused(vec![set_role(3, Role::Admin), demote.clone(), remove(3)]);
    assert_eq!(refused, Rejection::LastAdmin);
    assert_eq!(world.refused(vec![demote]), Rejection::LastAdmin);
}

/// S2: numbers and keys are used once.
#[test]
fn who_was_removed_stays_removed() {
    let mut world = control();
    let (node, _) = newcomer(&mut world, 1, Role::Writer, "malo");
    world.done(vec![remove(node)]);
    let removed = row(&world, node);
    assert_eq!(removed.removed(), Some(world.log.index));
    assert_eq!(removed.role_at(world.log.index - 1), Some(Role::Writer));
    assert_eq!(removed.role_at(world.log.index), None);
    assert_eq!(removed.role_at(node - 1), None);
    let again = world.done(vec![remove(node)]).remove(0);
    let idle = Some(Idle::Same);
    assert!(matches!(again, EventOutcome::Member { idle: found, .. } if found == idle));
    let refused = world.refused(vec![set_role(node, Role::Admin)]);
    assert_eq!(refused, Rejection::MemberRemoved);
    world.done(vec![invite(2, Role::Writer)]);
    let refused = world.refused(vec![admit(2, 1, "malo")]);
    assert_eq!(refused, Rejection::MemberRemoved);
    let (_, name) = newcomer(&mut world, 3, Role::Reader, "malo");
    assert_eq!(name, "malo");
    assert_eq!(world.refused(vec![remove(999)]), Rejection::MemberUnknown);
    let refused = world.refused(vec![set_name(999, "x")]);
    assert_eq!(refused, Rejection::MemberUnknown);
}

/// S2: a founder's number is not given again; the next entry has another one.
#[test]
fn an_entry_with_a_founders_number_admits_nobody() {
    let mut world = World::new(0);
    world.done(vec![invite(1, Role::Writer)]);
    let refused = world.refused(vec![admit(1, 1, "malo")]);
    assert_eq!((refused, world.log.index), (Rejection::NumberTaken, 2));
    assert_eq!(
        world.refused(vec![admit(1, 1, "malo")]),
        Rejection::NumberTaken
    );
    let done = world.done(vec![admit(1, 1, "malo")]).remove(0);
    let node = NodeId(4);
    assert!(matches!(done, EventOutcome::Member { node: found, .. } if found == node));
}

#[test]
fn what_a_member_says_of_itself_is_kept() {
    let mut world = control();
    let set = Operation::SetMember {
        node: NodeId(3),
        name: None,
        role: None,
        is_voter_eligible: Some(false),
        addresses: Some(vec!["[fd00::1]:1".to_owned(), "h:2".to_owned()]),
        uplink: Some(Rates { up: 5, down: 6 }),
        usable_up: Some(4),
        neighbours: Some(vec![NodeId(1), NodeId(2)]),
    };
    world.done(vec![event(set.clone())]);
    let carl = row(&world, 3);
    assert_eq!((carl.uplink.up, carl.uplink.down), (5, 6));
    assert_eq!(carl.usable_up, 4);
    assert_eq!(carl.neighbours, [NodeId(1), NodeId(2)]);
    assert!(!carl.is_voter_eligible && carl.addresses.len() == 2);
    let same = world.done(vec![event(set)]).remove(0);
    let idle = Some(Idle::Same);
    assert!(matches!(same, EventOutcome::Member { idle: found, .. } if found == idle));
    let untouched = world.done(vec![event(nothing_of(2))]).remove(0);
    assert!(matches!(untouched, EventOutcome::Member { idle: found, .. } if found == idle));
}

/// B2: members, tickets and roles are bounded.
#[test]
fn b2_members_roles_and_tickets_are_bounded() {
    let mut world = control();
    let roles = [Role::Writer, Role::Reader];
    for number in 1..limit::MEMBER_ROLES {
        world.done(vec![set_role(2, roles[number % 2])]);
    }
    let refused = world.refused(vec![set_role(2, Role::Admin)]);
    assert_eq!(refused, Rejection::TooManyRoles);
    world.done(vec![remove(2)]);
    assert_eq!(row(&world, 2).role(), None);

    let numbered = |number: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        TicketId(id)
    };
    let invite = |number: usize| {
        event(Operation::Invite {
            ticket: numbered(number),
            role: Role::Reader,
            is_voter_eligible: false,
            name: None,
            expires: Timestamp(HOUR_MS),
        })
    };
    for round in 0..6 {
        let numbers = round * limit::TICKETS_OPEN..(round + 1) * limit::TICKETS_OPEN;
        world.done(numbers.clone().map(invite).collect());
        let refused = world.refused(vec![invite(usize::MAX)]);
        assert_eq!(refused, Rejection::TooManyTickets);
        let revoke = |number| {
            event(Operation::RevokeTicket {
                ticket: numbered(number),
            })
        };
        world.done(numbers.map(revoke).collect());
        assert!(members(&world).tickets().count() <= limit::TICKETS);
    }
    let kept: BTreeSet<_> = members(&world).tickets().map(|row| row.ticket).collect();
    assert!(!kept.contains(&numbered(0)) && kept.contains(&numbered(6 * 1024 - 1)));
    world.log.ahead_ms = limit::TICKET_KEPT_MS + HOUR_MS;
    let late = Timestamp(world.log.ahead_ms + HOUR_MS);
    let mut last = invite(7);
    if let Operation::Invite { expires, .. } = &mut last.operation {
        *expires = late;
    }
    world.done(vec![last]);
    let left: Vec<&TicketRow> = members(&world).tickets().collect();
    assert_eq!(left.len(), 1, "what ended a month ago is forgotten");
}

#[test]
fn b2_a_full_cluster_admits_nobody() {
    let member = |node: u64| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&node.to_le_bytes());
        Member {
            node: NodeId(node),
            name: format!("n{node}"),
            key: PublicKey(key),
            role: Role::Admin,
            address: String::new(),
        }
    };
    let full = Genesis {
        members: (0..5000).map(|node| member(node + 10_000)).collect(),
        voters: vec![NodeId(10_000)],
        ..genesis()
    };
    let mut world = World::of(MemKv::default(), 0, &full);
    world.done(vec![invite(1, Role::Reader)]);
    assert_eq!(
        world.refused(vec![admit(1, 1, "malo")]),
        Rejection::TooManyMembers
    );
    world.done(vec![remove(10_000)]);
    world.done(vec![admit(1, 1, "malo")]);
    assert_eq!(members(&world).present_count(), 5000);
}
