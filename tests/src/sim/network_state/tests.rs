//! The simulated links keep order and break.

use super::*;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const MS: u64 = 1_000_000;

fn linked() -> (Net, u64) {
    let mut net = Net::default();
    let link = net.connect((ONE, 1), (TWO, 1), LinkClass::Bulk).unwrap();
    assert_eq!(net.accept(TWO), Some((link, ONE, LinkClass::Bulk)));
    assert_eq!(net.accept(TWO), None);
    (net, link)
}

fn frame(byte: u8, length: usize) -> Bytes {
    vec![byte; length].into()
}

fn got(net: &mut Net, place: (u64, Side), now_ns: u64) -> Option<u8> {
    match net.receive(place, now_ns) {
        Look::Ready(frame) => frame.first().copied(),
        _ => None,
    }
}

#[test]
fn frames_arrive_in_order_whatever_their_latencies() {
    let (mut net, link) = linked();
    assert_eq!(
        net.send((link, 0), &frame(1, 9), 0, 30 * MS),
        Look::Ready(30 * MS)
    );
    assert_eq!(
        net.send((link, 0), &frame(2, 9), 0, 2 * MS),
        Look::Ready(30 * MS)
    );
    assert_eq!(net.receive((link, 1), 29 * MS), Look::WaitUntil(30 * MS));
    assert_eq!(got(&mut net, (link, 1), 30 * MS), Some(1));
    assert_eq!(got(&mut net, (link, 1), 30 * MS), Some(2));
    assert_eq!(net.receive((link, 1), 30 * MS), Look::WaitUntil(NEVER));
}

#[test]
fn a_full_link_makes_its_sender_wait() {
    let (mut net, link) = linked();
    let big = frame(1, WINDOW_BYTES * 2);
    assert!(
        matches!(net.send((link, 0), &big, 0, 0), Look::Ready(_)),
        "one always fits"
    );
    assert_eq!(
        net.send((link, 0), &frame(2, 9), 0, 0),
        Look::WaitUntil(NEVER)
    );
    assert_eq!(got(&mut net, (link, 1), 0), Some(1));
    assert!(matches!(
        net.send((link, 0), &frame(2, 9), 0, 0),
        Look::Ready(_)
    ));
}

/// Promise B4: bytes are counted, and an uplink is shared by all links of its node.
#[test]
fn an_uplink_is_shared_and_its_bytes_are_counted() {
    let (mut net, link) = linked();
    let other = net
        .connect((ONE, 1), (NodeId(3), 1), LinkClass::Bulk)
        .unwrap();
    net.uplink_bytes_per_s.insert(ONE, 1000);
    let half_second = frame(1, 410);
    assert_eq!(
        net.send((link, 0), &half_second, 0, 0),
        Look::Ready(500 * MS)
    );
    assert_eq!(
        net.send((other, 0), &half_second, 0, 0),
        Look::Ready(1000 * MS)
    );
    let counted = net.traffic()[&(ONE, TWO)];
    assert_eq!((counted.frame_count, counted.bytes), (1, 500));
}

#[test]
fn a_cut_stalls_frames_and_a_healed_link_delivers_them() {
    let (mut net, link) = linked();
    net.cut(ONE, TWO, || 5000 * MS);
    assert!(matches!(
        net.send((link, 0), &frame(1, 9), 0, MS),
        Look::Ready(_)
    ));
    assert!(matches!(
        net.send((link, 1), &frame(2, 9), 0, MS),
        Look::Ready(_)
    ));
    assert_eq!(net.receive((link, 1), 10 * MS), Look::WaitUntil(5000 * MS));
    assert_eq!(
        got(&mut net, (link, 0), 10 * MS),
        Some(2),
        "the cut is one-way"
    );
    net.heal(ONE, TWO, 4000 * MS);
    assert_eq!(got(&mut net, (link, 1), 4000 * MS), Some(1));
    assert_eq!(net.receive((link, 1), 9000 * MS), Look::WaitUntil(NEVER));
}

#[test]
fn a_cut_that_lasts_breaks_the_link() {
    let (mut net, link) = linked();
    net.cut(ONE, TWO, || 5000 * MS);
    net.heal(ONE, TWO, 6000 * MS);
    assert_eq!(
        net.send((link, 0), &frame(1, 9), 6000 * MS, MS),
        Look::Closed
    );
    assert_eq!(net.receive((link, 1), 6000 * MS), Look::Closed);
}

#[test]
fn a_closed_link_is_read_to_its_end() {
    let (mut net, link) = linked();
    assert!(matches!(
        net.send((link, 0), &frame(1, 9), 0, 8 * MS),
        Look::Ready(_)
    ));
    net.close((link, 0), 3 * MS);
    assert_eq!(net.receive((link, 1), 3 * MS), Look::WaitUntil(8 * MS));
    assert_eq!(got(&mut net, (link, 1), 8 * MS), Some(1));
    assert_eq!(net.receive((link, 1), 8 * MS), Look::Closed);
    assert_eq!(net.send((link, 1), &frame(1, 9), 8 * MS, MS), Look::Closed);
    net.close((link, 1), 9 * MS);
    assert!(net.links.is_empty());
}

#[test]
fn a_dead_node_receives_nothing_and_the_other_end_learns_it_later() {
    let (mut net, link) = linked();
    assert!(matches!(
        net.send((link, 0), &frame(1, 9), 0, MS),
        Look::Ready(_)
    ));
    net.drop_boot(TWO);
    net.break_ends(|_, other| other.node == TWO, || 700 * MS);
    assert_eq!(net.receive((link, 1), MS), Look::Closed);
    assert!(matches!(
        net.send((link, 0), &frame(2, 9), MS, MS),
        Look::Ready(_)
    ));
    assert_eq!(
        net.send((link, 0), &frame(2, 9), 700 * MS, MS),
        Look::Closed
    );
}

#[test]
fn a_backlog_is_bounded_and_dies_with_its_node() {
    let mut net = Net::default();
    for _ in 0..BACKLOG {
        assert!(
            net.connect((ONE, 1), (TWO, 1), LinkClass::Control)
                .is_some()
        );
    }
    assert_eq!(net.connect((ONE, 1), (TWO, 1), LinkClass::Control), None);
    net.drop_boot(TWO);
    assert_eq!(net.accept(TWO), None);
    assert!(
        net.connect((ONE, 1), (TWO, 2), LinkClass::Control)
            .is_some()
    );
}
