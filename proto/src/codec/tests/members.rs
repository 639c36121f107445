//! Rules of events on members, tickets, tags and retention.

use super::{change_of, refused};
use crate::change::ChangeProblem;
use crate::codec::{decode_change, encode_change};
use crate::event::Operation;
use crate::hash::TicketId;
use crate::id::{NodeId, PartitionId, VolumeId};
use crate::keep::Retention;
use crate::key::PublicKey;

/// S2, S5: an admission is alone, nothing guards it, and names, addresses and neighbours keep to
/// their limits.
#[test]
fn rules_of_members_are_checked_on_the_way_in() {
    let control = |operations: Vec<Operation>| {
        let mut change = change_of(operations);
        change.partition = PartitionId::CONTROL;
        change
    };
    let admit = |name: &str, addresses: Vec<String>| Operation::Admit {
        ticket: TicketId([1; 32]),
        key: PublicKey([2; 32]),
        name: name.to_owned(),
        addresses,
    };
    let set = |neighbours: Vec<NodeId>| Operation::SetMember {
        node: NodeId(1),
        name: None,
        role: None,
        is_voter_eligible: None,
        addresses: None,
        uplink: None,
        usable_up: None,
        neighbours: Some(neighbours),
    };
    let good = admit("malo", vec!["h:1".to_owned(); 8]);
    let alone = control(vec![good.clone()]);
    assert_eq!(decode_change(&encode_change(&alone)), Ok(alone.clone()));
    let not_alone = control(vec![good.clone(), set(Vec::new())]);
    assert_eq!(refused(&not_alone), ChangeProblem::NotAlone);
    let mut guarded = alone;
    guarded.events[0].precondition.absent = true;
    assert_eq!(refused(&guarded), ChangeProblem::NotAlone);
    let elsewhere = refused(&change_of([good]));
    assert_eq!(elsewhere, ChangeProblem::WrongPartition(PartitionId(1)));
    let long = "x".repeat(40);
    assert_eq!(
        refused(&control(vec![admit(&long, Vec::new())])),
        ChangeProblem::MemberName("x".repeat(32))
    );
    let nodes = |range: std::ops::Range<u64>| range.map(NodeId).collect::<Vec<_>>();
    let many = [
        admit("m", vec!["h:1".to_owned(); 9]),
        admit("m", vec![String::new()]),
        admit("m", vec!["h".repeat(262)]),
        set(nodes(0..65)),
    ];
    for operation in many {
        let problem = refused(&control(vec![operation]));
        assert!(
            matches!(problem, ChangeProblem::TextTooLong(_)),
            "{problem}"
        );
    }
    let twice = refused(&control(vec![set(vec![NodeId(3), NodeId(3)])]));
    assert!(matches!(twice, ChangeProblem::Encoding(_)));
}

/// Names, comments and places of tags keep to their limits, and a retention keeps something.
#[test]
fn rules_of_tags_and_retention_are_checked_on_the_way_in() {
    let control = |operation| {
        let mut change = change_of([operation]);
        change.partition = PartitionId::CONTROL;
        change
    };
    let tag = |name: &str, place: (u32, u64), comment: usize| Operation::SetTag {
        name: name.to_owned(),
        moment: [(PartitionId(place.0), place.1)].into_iter().collect(),
        comment: "x".repeat(comment),
    };
    let good = control(tag("v1", (255, 1), 200));
    assert_eq!(decode_change(&encode_change(&good)), Ok(good.clone()));
    let mut guarded = good;
    guarded.events[0].precondition.absent = true;
    assert_eq!(refused(&guarded), ChangeProblem::NotAlone);
    let elsewhere = refused(&change_of([tag("v1", (1, 1), 0)]));
    assert_eq!(elsewhere, ChangeProblem::WrongPartition(PartitionId(1)));
    let named = refused(&control(tag("2h", (1, 1), 0)));
    assert_eq!(named, ChangeProblem::TagName("2h".to_owned()));
    let long = refused(&control(tag("v1", (1, 1), 201)));
    assert_eq!(long, ChangeProblem::TextTooLong("the comment of a tag"));
    for place in [(1, 0), (256, 1)] {
        let problem = refused(&control(tag("v1", place, 0)));
        assert!(matches!(problem, ChangeProblem::Encoding(_)), "{problem}");
    }
    for retention in [Retention::Age(0), Retention::Versions(0)] {
        let problem = refused(&control(Operation::SetRetention {
            volume: VolumeId(1024),
            retention,
        }));
        assert!(matches!(problem, ChangeProblem::Encoding(_)), "{problem}");
    }
}
