//! Signatures and roles, at the index that judges (promises S1, S2).

use super::*;
use crate::testing::{Log, at, event, genesis, key_of, make_dir, make_volume};
use aber_proto::{Event, Rates, Retention, TicketId, Timestamp, VolumeId};

const V: u64 = 1 << 10;

fn founders() -> Members {
    Members::of_genesis(&genesis())
}

/// The founders, with node 2's roles set.
fn with_roles(roles: &[(u64, Option<Role>)]) -> Members {
    let mut members = founders();
    let mut row = members.member(NodeId(2)).expect("a founder").clone();
    for (index, role) in roles {
        row.set_role(*index, *role);
    }
    members.put(row);
    members
}

fn refused(reason: Rejection) -> Verdict {
    Verdict::Refused(reason)
}

fn write(log: &mut Log, author: u8, control_index: u64) -> Entry {
    log.control_index = control_index;
    log.signed(author, vec![make_dir(at(V, "d"))])
}

/// S2: what is ordered under a control index is judged by it, whatever came later.
#[test]
fn s2_a_removal_bites_from_its_index_on() {
    let members = with_roles(&[(10, None)]);
    let (mut log, mut judge) = (Log::new(1), Judge::new());
    let mut verdict = |index| judge.judge(&write(&mut log, 2, index), &members).verdict;
    assert_eq!(verdict(0), Verdict::Allowed);
    assert_eq!(verdict(9), Verdict::Allowed);
    assert_eq!(verdict(10), refused(Rejection::NotAMember));
    assert_eq!(verdict(99), refused(Rejection::NotAMember));
    // An entry stamped with an old index is judged by the old index.
    assert_eq!(verdict(9), Verdict::Allowed);
}

#[test]
fn s2_a_role_counts_from_its_index_on() {
    let roles = [(5, Some(Role::Reader)), (8, Some(Role::Admin))];
    let members = with_roles(&roles);
    let (mut log, mut judge) = (Log::new(1), Judge::new());
    let mut verdict = |index| judge.judge(&write(&mut log, 2, index), &members).verdict;
    assert_eq!(verdict(4), Verdict::Allowed);
    assert_eq!(verdict(5), refused(Rejection::NotAllowed));
    assert_eq!(verdict(7), refused(Rejection::NotAllowed));
    assert_eq!(verdict(8), Verdict::Allowed);
}

/// S2: the control partition is judged by what stands right before the entry, whatever index it
/// was stamped with.
#[test]
fn s2_the_control_partition_is_judged_by_itself() {
    let members = with_roles(&[(5, None)]);
    let (mut log, mut judge) = (Log::new(0), Judge::new());
    log.control_index = 4;
    let entries: Vec<_> = (0..6)
        .map(|_| log.signed(2, vec![make_volume("v", 1)]))
        .collect();
    let verdicts = entries
        .iter()
        .map(|entry| judge.judge(entry, &members).verdict);
    let verdicts: Vec<_> = verdicts.collect();
    assert_eq!(verdicts[..5], vec![Verdict::Allowed; 5]);
    assert_eq!(verdicts[5], refused(Rejection::NotAMember));
}

/// S1: who signed, and nobody else.
#[test]
fn s1_a_signature_is_the_authors() {
    let (mut log, mut judge) = (Log::new(1), Judge::new());
    let members = founders();
    let mut change = log.change(vec![make_dir(at(V, "d"))]);
    let forged = log.signed_by(&change, &key_of(2));
    let verdict = judge.judge(&forged, &members).verdict;
    assert_eq!(verdict, refused(Rejection::BadSignature));
    assert!(!judge.is_signed(&forged, &members));
    let good = log.signed_by(&change, &key_of(1));
    assert_eq!(judge.judge(&good, &members).verdict, Verdict::Allowed);
    assert!(judge.is_signed(&good, &members));
    change.author = NodeId(77);
    let strange = log.signed_by(&change, &key_of(1));
    let verdict = judge.judge(&strange, &members).verdict;
    assert_eq!(verdict, refused(Rejection::NotAMember));
    assert!(!judge.is_signed(&strange, &members));
}

/// What a removed member signed is no forgery.
#[test]
fn a_removed_members_signature_still_verifies() {
    let members = with_roles(&[(3, None)]);
    let (mut log, mut judge) = (Log::new(1), Judge::new());
    let late = write(&mut log, 2, 7);
    assert!(judge.is_signed(&late, &members));
    let verdict = judge.judge(&late, &members).verdict;
    assert_eq!(verdict, refused(Rejection::NotAMember));
}

fn set(node: u64, name: Option<&str>, role: Option<Role>) -> Event {
    event(Operation::SetMember {
        node: NodeId(node),
        name: name.map(str::to_owned),
        role,
        is_voter_eligible: None,
        addresses: Some(vec!["h:1".to_owned()]),
        uplink: Some(Rates { up: 1, down: 1 }),
        usable_up: Some(1),
        neighbours: Some(Vec::new()),
    })
}

/// S2: members are the admins' business, but for where a member is, whom it has links to, and
/// that it leaves.
#[test]
fn s2_each_operation_has_its_role() {
    let ticket = TicketId([1; 32]);
    let remove = |node| event(Operation::RemoveMember { node: NodeId(node) });
    let admins = vec![
        event(Operation::Invite {
            ticket,
            role: Role::Reader,
            is_voter_eligible: false,
            name: None,
            expires: Timestamp(1),
        }),
        event(Operation::RevokeTicket { ticket }),
        event(Operation::Admit {
            ticket,
            key: key_of(9).public(),
            name: "x".to_owned(),
            addresses: Vec::new(),
        }),
        set(3, Some("x"), None),
        set(3, None, Some(Role::Admin)),
        set(2, Some("x"), None),
        event(Operation::SetRetention {
            volume: VolumeId::ROOT,
            retention: Retention::Versions(1),
        }),
    ];
    let others = [
        (set(3, None, None), [true, false, true]),
        (set(2, None, None), [true, true, false]),
        (remove(3), [true, false, true]),
        (make_volume("v", 1), [true, true, false]),
        (
            event(Operation::SetTag {
                name: "v1".to_owned(),
                moment: BTreeMap::new(),
                comment: String::new(),
            }),
            [true, true, false],
        ),
        (
            event(Operation::RemoveTag {
                name: "v1".to_owned(),
            }),
            [true, true, false],
        ),
    ];
    let admins = admins
        .into_iter()
        .map(|event| (event, [true, false, false]));
    let (mut log, mut judge, members) = (Log::new(0), Judge::new(), founders());
    for (event, expected) in admins.chain(others) {
        for (author, is_allowed) in (1..).zip(expected) {
            let entry = log.signed(author, vec![event.clone()]);
            let verdict = judge.judge(&entry, &members).verdict;
            let expected = match is_allowed {
                true => Verdict::Allowed,
                false => refused(Rejection::NotAllowed),
            };
            assert_eq!(verdict, expected, "{event:?} by node {author}");
        }
    }
    // All events of a change must be allowed.
    let mixed = log.signed(3, vec![set(3, None, None), make_volume("v", 1)]);
    let verdict = judge.judge(&mixed, &members).verdict;
    assert_eq!(verdict, refused(Rejection::NotAllowed));
}

/// A proposal has no entry yet; it is judged by the index it will be stamped with.
#[test]
fn a_proposal_is_judged_at_the_index_given() {
    let members = with_roles(&[(10, None)]);
    let (mut log, mut judge) = (Log::new(1), Judge::new());
    let body = write(&mut log, 2, 0).body;
    let verdict = judge.judge_change(&body, &members, 9).verdict;
    assert_eq!(verdict, Verdict::Allowed);
    let verdict = judge.judge_change(&body, &members, u64::MAX).verdict;
    assert_eq!(verdict, refused(Rejection::NotAMember));
    let unread = judge.judge_change(&Bytes::from_static(b"?"), &members, 0);
    assert_eq!(unread, UNREAD);
    let blank = log.entry(EntryKind::Blank, Bytes::new());
    assert_eq!(judge.judge(&blank, &members), UNREAD);
    assert!(judge.is_signed(&blank, &members));
}
