//! Random histories of members: what always holds, and that every way leads to the same rows.

use super::members::{
    HOUR_MS, admit, control, invite, members, newcomer, remove, revoke, set_name, set_role,
};
use crate::members::Members;
use crate::snapshot::{SnapshotInstall, SnapshotWriter};
use crate::testing::{MemKv, World, genesis, make_volume};
use crate::view::table::Table;
use crate::view::{Verdict, View};
use aber_log::env::kv::KvBatch;
use aber_proto::{Entry, Event, PartitionId, Role};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Invite(u8, Role),
    Revoke(u8),
    Admit(u8, u8, String),
    Role(u64, Role),
    Name(u64, String),
    Remove(u64),
    Wait,
    Volume,
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop_oneof![Just(Role::Reader), Just(Role::Writer), Just(Role::Admin)];
    let name = proptest::sample::select(vec!["anna", "bob", "malo", "yann"]);
    let name = name.prop_map(str::to_owned);
    // A founder, or whoever an entry near the start let in.
    let node = || 1..20_u64;
    prop_oneof![
        4 => (0..6_u8, role.clone()).prop_map(|(n, role)| Step::Invite(n, role)),
        1 => (0..6_u8).prop_map(Step::Revoke),
        5 => (0..6_u8, 0..8_u8, name.clone()).prop_map(|(n, key, name)| Step::Admit(n, key, name)),
        3 => (node(), role).prop_map(|(node, role)| Step::Role(node, role)),
        2 => (node(), name).prop_map(|(node, name)| Step::Name(node, name)),
        3 => node().prop_map(Step::Remove),
        1 => Just(Step::Wait),
        1 => Just(Step::Volume),
    ]
}

/// Mostly one event; an admission beside another is rejected.
fn change() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        3 => step().prop_map(|step| vec![step]),
        1 => proptest::collection::vec(step(), 2..4),
    ]
}

fn event_of(step: &Step) -> Event {
    match step {
        Step::Invite(n, role) => invite(*n, *role),
        Step::Revoke(n) => revoke(*n),
        Step::Admit(n, newcomer, name) => admit(*n, *newcomer, name),
        Step::Role(node, role) => set_role(*node, *role),
        Step::Name(node, name) => set_name(*node, name),
        Step::Remove(node) => remove(*node),
        Step::Wait | Step::Volume => make_volume("v", 1),
    }
}

fn check(members: &Members, before: &Members) -> Result<(), TestCaseError> {
    let admins = members
        .present()
        .filter(|row| row.role() == Some(Role::Admin));
    prop_assert!(admins.count() > 0);
    let names: BTreeSet<_> = members.present().map(|row| &row.name).collect();
    prop_assert_eq!(names.len(), members.present().count());
    let keys: BTreeSet<_> = members.all().map(|row| row.key).collect();
    prop_assert_eq!(keys.len(), members.ever_count());
    for old in before.all() {
        let new = members.member(old.node).expect("rows stay");
        prop_assert_eq!(new.key, old.key);
        prop_assert!(old.role().is_some() || new == old, "removed for good");
        prop_assert!(
            new.roles.starts_with(&old.roles),
            "the past does not change"
        );
    }
    Ok(())
}

pub(super) fn snapshot_of(kv: &MemKv) -> Vec<u8> {
    let mut writer = SnapshotWriter::begin(kv.clone(), PartitionId::CONTROL).expect("a view");
    let mut bytes = Vec::new();
    while let Some(piece) = writer.next_piece().expect("works") {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

pub(super) fn installed(bytes: &[u8], piece: usize) -> (MemKv, View<MemKv>) {
    let kv = MemKv::default();
    let genesis = Arc::new(genesis());
    let mut install = SnapshotInstall::new(kv.clone(), PartitionId::CONTROL, genesis);
    for piece in bytes.chunks(piece) {
        install.push(piece).expect("good");
    }
    (kv, install.finish().expect("good"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// S2, S5, C8, M4: whatever happens, somebody is an admin, names and keys are unique, the past
    /// stays; and batches, restarts and snapshots lead to the same rows and digests.
    #[test]
    fn any_history_of_members_keeps_its_rules(
        steps in proptest::collection::vec(change(), 1..60),
        cut in 0..60_usize,
        every in 1..5_usize,
        piece in 1..3000_usize,
    ) {
        let mut world = World::new(0);
        let (mut entries, mut snapshot) = (Vec::<(Entry, Verdict)>::new(), None);
        for (position, steps) in steps.iter().enumerate() {
            if steps.iter().any(|step| matches!(step, Step::Wait)) {
                world.log.ahead_ms += HOUR_MS / 3;
            }
            let before = members(&world).clone();
            let entry = world.log.write(steps.iter().map(event_of).collect());
            entries.push((entry.clone(), Verdict::Allowed));
            world.apply(entry, Verdict::Allowed);
            check(members(&world), &before)?;
            let loaded = Members::load(&world.kv, &genesis()).expect("works");
            prop_assert_eq!(&loaded, members(&world));
            if position == cut {
                snapshot = Some((position + 1, snapshot_of(&world.kv)));
            }
        }
        let other = MemKv::default();
        for batch in entries.chunks(every) {
            let mut view = View::open(other.clone(), PartitionId::CONTROL, &genesis()).expect("opens");
            view.apply_batch(batch, KvBatch::default()).expect("works");
        }
        prop_assert_eq!(other.rows(), world.kv.rows());
        if let Some((position, bytes)) = snapshot {
            let (kv, mut view) = installed(&bytes, piece);
            prop_assert_eq!(snapshot_of(&kv), bytes);
            view.apply_batch(&entries[position..], KvBatch::default()).expect("works");
            prop_assert_eq!(kv.present_rows(), world.kv.present_rows());
            prop_assert_eq!(view.digest(), world.view.digest());
            prop_assert_eq!(view.members(), world.view.members());
        }
    }
}

/// Rows of members and tickets travel, and no other partition may have them.
#[test]
fn a_snapshot_carries_members_of_the_control_partition_alone() {
    let mut world = control();
    newcomer(&mut world, 1, Role::Writer, "malo");
    let bytes = snapshot_of(&world.kv);
    let (kv, view) = installed(&bytes, 100);
    assert_eq!(kv.present_rows(), world.kv.present_rows());
    assert_eq!(view.members(), world.view.members());
    let table = Table::Ticket;
    assert!(table.fits(PartitionId::CONTROL) && !table.fits(PartitionId(1)));
    assert!(World::new(1).view.members().is_none());
}
