//! What comes late, and who only says so.

use super::*;

/// A node among five, and two parcels of 256 and 8 chunks that node 0 wrote, of which it was told
/// nothing yet.
fn told_of_two() -> (Core, [Announcement; 2]) {
    let mut swarm = Swarm::new(&[8000; 6], &Links::Any);
    for id in 1..6 {
        swarm.set_down(NodeId(id), true);
    }
    let announcements = [256, 8].map(|count| {
        let parcel = swarm.write(NodeId(0), count, 64 * KIB)[0];
        swarm.core(NodeId(0)).announcement_of(&parcel)
    });
    let mut core = Core::new(NodeId(1));
    core.set_layout(swarm.layout.clone(), Instant(0));
    core.set_up((2..6).map(NodeId).collect(), Instant(0));
    (core, announcements)
}

fn asked_for(actions: &[Action], parcel: ParcelId) -> Vec<(NodeId, usize)> {
    let mut asked = Vec::new();
    for action in actions {
        if let Action::Pull { from, chunks, .. } = action {
            let of_it = chunks.iter().filter(|(of, ..)| *of == parcel);
            asked.extend(of_it.map(|(_, number, _)| (*from, *number)));
        }
    }
    asked
}

/// T16: whoever says that it has all of a parcel, and gives nothing, stops nothing for long: the parcel is
/// sent down the trees again, and what it says is not believed twice.
#[test]
fn who_only_says_that_it_has_all_stops_nothing_for_long() {
    for answers in [false, true] {
        let (mut core, [announcement, _]) = told_of_two();
        let (parcel, at) = (announcement.id, |ms: u64| Instant(ms * 1_000_000));
        core.announced(announcement, Bits::default(), at(0))
            .expect("room");
        let report = Report {
            parcel,
            has: Bits::first(256),
            asks: false,
        };
        let mut until = None;
        for ms in (0..40_000).step_by(500) {
            let mut actions = core.have(NodeId(5), report, at(ms)).expect("known");
            actions.extend(core.tick(at(ms)));
            let asks = core.report_of(&parcel).expect("known").asks;
            assert!(ms > 0 || asks, "it comes late, as far as is known");
            until = until.or((!asks).then_some(ms));
            assert!(until.is_none() || !asks, "asked again at {ms}");
            for (from, number) in asked_for(&actions, parcel) {
                if answers {
                    core.pulled(from, parcel, number, Some(false), at(ms));
                }
            }
        }
        let until = until.expect("it gives up");
        assert!(until <= 15_500, "{answers}: {until}");
    }
}

/// T16: what is on its way and lost its parent is asked for though much that comes late is, too.
#[test]
fn what_comes_late_does_not_hold_up_what_is_on_its_way() {
    let (mut core, [late, current]) = told_of_two();
    let (old, new) = (late.id, current.id);
    core.announced(late, Bits::default(), Instant(0))
        .expect("room");
    let report = |parcel, has| Report {
        parcel,
        has,
        asks: false,
    };
    let mut actions = Vec::new();
    for id in 2..6 {
        let all = report(old, Bits::first(256));
        actions.extend(core.have(NodeId(id), all, Instant(0)).expect("known"));
    }
    let open = asked_for(&actions, old).len();
    assert_eq!(open, 8, "two of each that has it");
    core.announced(current, Bits::default(), Instant(0))
        .expect("room");
    // Its writer is away: of the stripes whose parent that is, the chunks are orphans.
    let some = report(new, [0, 1, 2, 3, 4, 5, 6].into_iter().collect());
    let actions = core.have(NodeId(2), some, Instant(1)).expect("known");
    assert!(!asked_for(&actions, new).is_empty());
    assert!(asked_for(&actions, old).is_empty());
}
